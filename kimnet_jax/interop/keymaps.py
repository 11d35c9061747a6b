"""Which entry of a PyTorch state_dict goes where: one table for each network (see `translation.Rule`)."""

from kimnet_jax.interop.translation import (
    ATTENTION,
    BATCH_NORM,
    CONV,
    CONV_1D,
    CONV_TRANSPOSE,
    DROPPED,
    LAYER_NORM,
    LINEAR,
    Rule,
    Table,
    prefixed,
)
from kimnet_jax.models.backbones import HOURGLASSES, HRNETS, RESNETS
from kimnet_jax.models.dkd_net import DKDNetConfig
from kimnet_jax.models.kimnet import KIMNetConfig
from kimnet_jax.models.rpstn import RPSTNConfig

_RESNET_STAGE: Table = (
    Rule(r'(\d+)\.(conv\d)', r'\1.\2', CONV),
    Rule(r'(\d+)\.(bn\d)', r'\1.\2', BATCH_NORM),
    Rule(r'(\d+)\.downsample\.0', r'\1.downsample.layers.0', CONV),
    Rule(r'(\d+)\.downsample\.1', r'\1.downsample.layers.1', BATCH_NORM),
)
_UPSAMPLING: Table = (
    *(Rule(rf'{3 * i}', f'{i}.conv', CONV_TRANSPOSE) for i in range(3)),
    *(Rule(rf'{3 * i + 1}', f'{i}.bn', BATCH_NORM) for i in range(3)),
)
POSE_RESNET: Table = (
    Rule(r'(conv1|final_layer)', r'\1', CONV),
    Rule(r'bn1', 'bn1', BATCH_NORM),
    *(rule for i in range(1, 5) for rule in prefixed(f'layer{i}', f'layer{i}', _RESNET_STAGE)),
    *prefixed('deconv_layers', 'deconv_layers', _UPSAMPLING),
)
RELATION_DECODER: Table = (
    Rule(r'(conv_g|conv_w)', r'\1', CONV),
    Rule(r'(bn_w|bn_u|first_bn_w|first_bn_u)', r'\1', BATCH_NORM),
)
RPSTN_JRE: Table = (  # theta and phi are in RPSTN's checkpoints and never used
    Rule(r'g', 'conv_g', CONV),
    Rule(r'W\.0', 'conv_w', CONV),
    Rule(r'W\.1', 'bn_w', BATCH_NORM),
    Rule(r'theta|phi', '', DROPPED),
)
# of ours, and of RPSTN's, whose last BatchNorm lies beside the rest
ANY_RELATION_DECODER: Table = (*RELATION_DECODER, *RPSTN_JRE, *prefixed('non_local_conv2d', '', RPSTN_JRE))
_PLACES = {0: 'up1', 1: 'low1', 2: 'low3', 3: 'low2'}  # of bearpaw's levels, which are numbered from the lowest resolution
_BEARPAW_BLOCKS = (  # where a residual block lies in bearpaw's network, and where in ours
    (r'(layer\d)\.0', r'\1'),
    *(
        (rf'hg\.(\d+)\.hg\.{level}\.{place}\.(\d+)', rf'stacks.\1.hourglass{".low2" * (3 - level)}.{name}.blocks.\2')
        for level in range(4)
        for place, name in _PLACES.items()
    ),
    (r'res\.(\d+)\.(\d+)', r'stacks.\1.residuals.blocks.\2'),
)
_PRINCETON_BLOCKS = (
    *((rf'pre\.{i}', f'layer{layer}') for layer, i in ((1, 1), (2, 3), (3, 4))),
    (r'hgs\.(\d+)\.0\.((?:low2\.)*)(up1|low1|low2|low3)', r'stacks.\1.hourglass.\2\3.blocks.0'),
    (r'features\.(\d+)\.0', r'stacks.\1.residuals.blocks.0'),
)
HOURGLASS: Table = (
    # bearpaw
    Rule(r'conv1', 'conv1', CONV),
    Rule(r'bn1', 'bn1', BATCH_NORM),
    *(Rule(rf'{block}\.(?P<part>conv\d)', rf'{path}.\g<part>', CONV) for block, path in _BEARPAW_BLOCKS),
    *(Rule(rf'{block}\.(?P<part>bn\d)', rf'{path}.\g<part>', BATCH_NORM) for block, path in _BEARPAW_BLOCKS),
    Rule(r'(layer\d)\.0\.downsample\.0', r'\1.shortcut', CONV),
    Rule(r'fc\.(\d+)\.0', r'stacks.\1.conv', CONV),
    Rule(r'fc\.(\d+)\.1', r'stacks.\1.bn', BATCH_NORM),
    Rule(r'score\.(\d+)', r'stacks.\1.score', CONV),
    Rule(r'fc_\.(\d+)', r'stacks.\1.merge_features', CONV),
    Rule(r'score_\.(\d+)', r'stacks.\1.merge_score', CONV),
    # princeton: every block has a skip layer, which it uses where its channels change
    Rule(r'pre\.0\.conv', 'conv1', CONV),
    Rule(r'pre\.0\.bn', 'bn1', BATCH_NORM),
    *(Rule(rf'{block}\.(?P<part>conv\d)\.conv', rf'{path}.\g<part>', CONV) for block, path in _PRINCETON_BLOCKS),
    *(Rule(rf'{block}\.(?P<part>bn\d)', rf'{path}.\g<part>', BATCH_NORM) for block, path in _PRINCETON_BLOCKS),
    Rule(r'pre\.1\.skip_layer\.conv', 'layer1.shortcut', CONV),
    Rule(r'pre\.4\.skip_layer\.conv', 'layer3.shortcut', CONV),
    Rule(r'(?:pre\.3|hgs\..+|features\..+)\.skip_layer\.conv', '', DROPPED),
    Rule(r'features\.(\d+)\.1\.conv', r'stacks.\1.conv', CONV),
    Rule(r'features\.(\d+)\.1\.bn', r'stacks.\1.bn', BATCH_NORM),
    Rule(r'outs\.(\d+)\.conv', r'stacks.\1.score', CONV),
    Rule(r'merge_features\.(\d+)\.conv\.conv', r'stacks.\1.merge_features', CONV),
    Rule(r'merge_preds\.(\d+)\.conv\.conv', r'stacks.\1.merge_score', CONV),
)
_HRNET_PAIRS = (  # a convolution and its BatchNorm: entries 0 and 1 of a sequence
    (r'(transition1\.0)', r'\1'),
    (r'(transition1\.1)\.0', r'\1'),
    (r'(transition2)\.2\.0', r'\1'),
    (r'(transition3)\.3\.0', r'\1'),
    (r'(stage\d\.\d+\.fuse_layers\.\d\.\d)', r'\1.0'),  # to a higher resolution
    (r'(stage\d\.\d+\.fuse_layers\.\d\.\d\.\d)', r'\1'),  # to a lower one
)
HRNET: Table = (
    Rule(r'(conv\d|final_layer)', r'\1', CONV),
    Rule(r'(bn\d)', r'\1', BATCH_NORM),
    Rule(r'(layer1\.\d+|stage\d\.\d+\.branches\.\d\.\d+)\.(conv\d)', r'\1.\2', CONV),
    Rule(r'(layer1\.\d+|stage\d\.\d+\.branches\.\d\.\d+)\.(bn\d)', r'\1.\2', BATCH_NORM),
    Rule(r'layer1\.0\.downsample\.0', 'layer1.0.downsample.layers.0', CONV),
    Rule(r'layer1\.0\.downsample\.1', 'layer1.0.downsample.layers.1', BATCH_NORM),
    *(Rule(rf'{source}\.0', f'{path}.conv', CONV) for source, path in _HRNET_PAIRS),
    *(Rule(rf'{source}\.1', f'{path}.bn', BATCH_NORM) for source, path in _HRNET_PAIRS),
)
DKD: Table = (
    Rule(r'conv1x1_reduce_dim', 'conv_reduce', CONV),
    Rule(r'pose_conv1x1_V', 'conv_v', CONV),
    Rule(r'pose_conv1x1_U', 'conv_u', CONV),
    Rule(r'bn', 'bn.0', BATCH_NORM),  # the releases have one for all
    Rule(r'bn\.(\d)', r'bn.\1', BATCH_NORM),
    *(Rule(rf'dkd_param_adapter\.{4 * i}', f'kernel_generator.convs.{i}', CONV) for i in range(4)),
    *(Rule(rf'dkd_param_adapter\.{4 * i + 1}', f'kernel_generator.bns.{i}', BATCH_NORM) for i in range(4)),
)
JRPSP: Table = (
    *(rule._replace(path=f'dkd.{rule.path}') for rule in DKD),
    Rule(r'(bn_u|first_bn_w|first_bn_u)', r'relation_decoder.\1', BATCH_NORM),
    *prefixed('non_local_conv2d', 'relation_decoder', RPSTN_JRE),
)
KMM: Table = (Rule(r'(conv_q|conv_k|conv_p)', r'\1', CONV),)
KMM_TRANSFER: Table = (
    *prefixed('kmm', 'kmm', KMM),
    Rule(r'(conv_reduce|conv_u)', r'\1', CONV),
    Rule(r'bn', 'bn', BATCH_NORM),
)
RELEASED_RPSTN: Table = (
    *prefixed('pose_net', 'pose_initializer', POSE_RESNET),
    Rule(r'fea_ext\.0', 'feature_encoder.conv1', CONV),  # a PoseResNet whose children are numbered
    Rule(r'fea_ext\.1', 'feature_encoder.bn1', BATCH_NORM),
    *(rule for i in range(1, 5) for rule in prefixed(f'fea_ext.{3 + i}', f'feature_encoder.layer{i}', _RESNET_STAGE)),
    *prefixed('fea_ext.8', 'feature_encoder.deconv_layers', _UPSAMPLING),
    *(rule._replace(path=f'transition.jrpsp.{rule.path}') for rule in JRPSP),
)
LSTM_PM: Table = (
    Rule(r'conv(\d)_convnet1', r'pose_initializer.conv\1', CONV),
    Rule(r'conv(\d)_convnet2', r'feature_encoder.conv\1', CONV),
    Rule(r'Mconv(\d)_convnet3', r'transition.generator.conv\1', CONV),
    Rule(r'conv_([gifo])([xh])_lstm', r'transition.lstm.conv_\2.\1', CONV),
    Rule(r'conv_([gio])x_lstm0', r'transition.first_gates.\1', CONV),
    *prefixed('kmm', 'transition.kmm', KMM),
)
_BACKBONES: dict[str | None, Table] = {
    **dict.fromkeys(RESNETS, POSE_RESNET),
    **dict.fromkeys(HOURGLASSES, HOURGLASS),
    **dict.fromkeys(HRNETS, HRNET),
    'none': (),
}
_TEMPORAL: Table = (
    *prefixed('kmm', 'transition.temporal', KMM),
    *prefixed('dkd', 'transition.temporal', DKD),
    *prefixed('jrpsp', 'transition.temporal', JRPSP),
    *prefixed('kmm_transfer', 'transition.temporal', KMM_TRANSFER),
    *prefixed('relation_decoder', 'transition.relation_decoder', RELATION_DECODER),
)


def _backbones(config: KIMNetConfig | RPSTNConfig | DKDNetConfig) -> Table:
    initializer, encoder = _BACKBONES[config.pose_initializer], _BACKBONES[config.feature_encoder]
    return (
        *prefixed('pose_initializer', 'pose_initializer', initializer),
        Rule(r'pose_initializer', 'pose_initializer', CONV),  # 'none': of the features
        *prefixed('feature_encoder', 'feature_encoder', encoder),
        *prefixed('feature_encoder.network', 'feature_encoder.network', encoder),  # with an adapter
        Rule(r'feature_encoder\.conv', 'feature_encoder.conv', CONV),
        Rule(r'feature_encoder\.bn', 'feature_encoder.bn', BATCH_NORM),
    )


def kimnet(config: KIMNetConfig) -> Table:
    """KIMNet's table."""
    return (
        *_backbones(config),
        *_TEMPORAL,
        Rule(r'fusion\.(conv_g|conv_d)', r'transition.fusion.\1', CONV),
        Rule(r'fusion\.bn_g', 'transition.fusion.bn_g', BATCH_NORM),
    )


def dkd_net(config: DKDNetConfig) -> Table:
    """The table of DKD's network."""
    return (*_backbones(config), *_TEMPORAL)


def rpstn(config: RPSTNConfig) -> Table:
    """RPSTN's table; with KMM in it the keys are not those of the release."""
    return RELEASED_RPSTN if config.temporal == 'jrpsp' else (*_backbones(config), *_TEMPORAL)


def hanet(levels: int) -> Table:
    """HANet's table. The last of the release's projections is never used, nor are, with `pre_norm`, its encoder norms."""
    return prefixed(
        'transformer',
        '',
        (
            Rule(r'((?:encoder|decoder)_joints_embed|encoder_embed|motion_embed)', r'\1', LINEAR),
            Rule(r'(decoder_embed|(?:prev_v|next_v|acc)_embed|offset_refine\.\d+)', r'\1', CONV_1D),
            Rule(rf'projection\.{levels - 1}', '', DROPPED),
            Rule(rf'(projection\.(?!{levels - 1}$)\d+)', r'\1', LINEAR),
            Rule(r'encoder_norm\.\d+', '', DROPPED),
            Rule(r'encoder\.(\d+)\.layers\.0\.(self_attn)', r'encoder.\1.\2', ATTENTION),
            Rule(r'encoder\.(\d+)\.layers\.0\.(self_attn\.out_proj|linear\d)', r'encoder.\1.\2', LINEAR),
            Rule(r'encoder\.(\d+)\.layers\.0\.(norm\d)', r'encoder.\1.\2', LAYER_NORM),
            Rule(r'decoder\.layers\.(\d+)\.(self_attn|multihead_attn)', r'decoder.\1.\2', ATTENTION),
            Rule(r'decoder\.layers\.(\d+)\.((?:self|multihead)_attn\.out_proj|linear\d)', r'decoder.\1.\2', LINEAR),
            Rule(r'decoder\.layers\.(\d+)\.(norm\d)', r'decoder.\1.\2', LAYER_NORM),
            Rule(r'decoder\.norm', 'decoder_norm', LAYER_NORM),
        ),
    )
