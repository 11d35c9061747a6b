"""Every network that exists in both frameworks: what conversion and parity have to know of it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax.numpy as jnp
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop import import_torch, keymaps
from kimnet_jax.interop.translation import Table
from kimnet_jax.models.backbones import BACKBONES, BackboneConfig, ResNetName, backbone_config
from kimnet_jax.models.dkd import DKD, DKDVariant
from kimnet_jax.models.dkd_net import DKDNet, DKDNetConfig
from kimnet_jax.models.hanet import PRESETS as HANET_PRESETS
from kimnet_jax.models.hanet import HANet, HANetConfig
from kimnet_jax.models.hourglass import TINY as TINY_HOURGLASS
from kimnet_jax.models.hourglass import Hourglass, HourglassConfig
from kimnet_jax.models.hrnet import TINY as TINY_HRNET
from kimnet_jax.models.hrnet import HRNet, HRNetConfig
from kimnet_jax.models.jrpsp import JRPSP
from kimnet_jax.models.kimnet import KIMNet, KIMNetConfig, Temporal
from kimnet_jax.models.kmm import KMM, KMMActivation, KMMVariant, KMMWeights
from kimnet_jax.models.kmm_transfer import KMMTransfer
from kimnet_jax.models.lstm_pm import LSTMPM, LSTMPMConfig
from kimnet_jax.models.pose_resnet import BLOCKS, PoseResNet, PoseResNetConfig
from kimnet_jax.models.relation_decoder import DecoderVariant, FirstStatistics, RelationDecoder
from kimnet_jax.models.rpstn import RPSTN, RPSTNConfig

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, tuple[int, ...]]  # of a PyTorch state_dict


class Network(NamedTuple):
    """A network in both frameworks.

    Layouts: an array of rank 4 or more has its channels last with us and at axis -3 in PyTorch; lower ranks are equal. Both are
    called with the example inputs in order; ours returns an array, a `VideoOutput` or a tuple of arrays, and the
    twin the corresponding tensors in the same order.

    Attributes:
        module: `module(config, rngs=...)` is ours.
        twin: class of `interop.torch_models`, looked up only where torch is needed.
        table: which entry of a PyTorch state_dict goes where, or config -> that; see `rules`.
        read_config: the config that fits the entries and shapes of a PyTorch state_dict; what they do not tell has its default.
            Raises KeyError of an entry that is not there, or `InputError`.
        presets: 'tiny' and 'full' -> config.
        inputs: config -> shapes of a small batch of example inputs in our layout.
        asked: fields that the entries may not tell, and that change what the network computes.
        untold: config -> those of `asked` that the entries of such a network do not tell.
        origin: where public weights come from.
    """

    module: Callable[..., nnx.Module]
    twin: str
    table: Table | Callable[[Any], Table]
    read_config: Callable[[Shapes], Any]
    presets: Mapping[str, Any]
    inputs: Callable[[Any], tuple[tuple[int, ...], ...]]
    asked: tuple[str, ...] = ()
    untold: Callable[[Any], tuple[str, ...]] = lambda config: ()
    origin: str = 'none were released'

    def rules(self, config: Any) -> Table:
        """Which entry of the state_dict of a network of that config goes where."""
        return self.table(config) if callable(self.table) else self.table

    def make_twin(self, config: Any) -> 'torch.nn.Module':
        """The PyTorch twin with PyTorch's initial values. Raises `InputError` where torch is not installed."""
        import_torch()
        from kimnet_jax.interop import torch_models

        arguments = dataclasses.astuple(config) if isinstance(config, Sizes) else (config,)
        return getattr(torch_models, self.twin)(*arguments)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a part of a network: the arguments of its twin, in order."""

    num_joints: int


@dataclasses.dataclass(frozen=True)
class KMMSizes(Sizes):
    features: int
    variant: KMMVariant = 'full'
    activation: KMMActivation = 'relu'
    weights: KMMWeights = 'softmax'
    use_bias: bool = True


@dataclasses.dataclass(frozen=True)
class RelationDecoderSizes(Sizes):
    variant: DecoderVariant = 'intended'
    first_statistics: FirstStatistics = 'shared'


@dataclasses.dataclass(frozen=True)
class DKDSizes(Sizes):
    features: int
    variant: DKDVariant = 'intended'


@dataclasses.dataclass(frozen=True)
class JRPSPSizes(DKDSizes):
    decoder_variant: DecoderVariant = 'intended'
    first_statistics: FirstStatistics = 'shared'


@dataclasses.dataclass(frozen=True)
class KMMTransferSizes(Sizes):
    features: int


def part(shapes: Shapes, prefix: str) -> Shapes:
    """The entries under `prefix`, which is taken off."""
    return {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}


def pose_resnet_config(shapes: Shapes) -> PoseResNetConfig:
    """Depth, joints and widths of a PoseResNet, or of a torchvision ResNet, which has no head."""
    counts = tuple(len({key.split('.')[1] for key in shapes if key.startswith(f'layer{i}.')}) for i in range(1, 5))
    bottlenecks = 'layer1.0.conv3.weight' in shapes
    depth = next((depth for depth, blocks in BLOCKS.items() if blocks == counts and (depth >= 50) == bottlenecks), None)
    if depth is None:
        kind = 'bottlenecks' if bottlenecks else 'basic blocks'
        raise InputError(f'{", ".join(map(str, counts))} {kind} in layer1 to layer4: of none of the depths {tuple(BLOCKS)}')
    head = shapes.get('deconv_layers.0.weight')
    return PoseResNetConfig(
        depth=depth,
        num_joints=shapes['final_layer.weight'][0] if 'final_layer.weight' in shapes else None,
        width=shapes['conv1.weight'][0],
        features=PoseResNetConfig.features if head is None else head[1],
    )


def kmm_sizes(shapes: Shapes) -> KMMSizes:
    """Sizes, variant and biases of a KMM; `no_scale` and `residual` cannot be told from `full`."""
    variant: KMMVariant = 'full'
    if 'conv_p.weight' in shapes:
        variant = 'heatmap'
    elif 'conv_k.weight' not in shapes:
        variant = 'share_qk'
    num_joints, features = shapes['conv_p.weight' if variant == 'heatmap' else 'conv_q.weight'][:2]
    return KMMSizes(num_joints, features, variant, use_bias='conv_q.bias' in shapes)


def _kmm_untold(config: KMMSizes, prefix: str = '') -> tuple[str, ...]:
    told = ('variant',) if config.variant in ('share_qk', 'heatmap') else ()
    return tuple(f'{prefix}{name}' for name in ('variant', 'activation', 'weights') if name not in told)


def relation_decoder_sizes(shapes: Shapes) -> RelationDecoderSizes:
    """Sizes of a relation decoder: by our keys, or by those of RPSTN's `non_local_conv2d`, alone or in the whole file."""
    entry = next((key for key in ('non_local_conv2d.g.weight', 'g.weight') if key in shapes), 'conv_g.weight')
    released = any(key.endswith('theta.weight') for key in shapes)
    return RelationDecoderSizes(shapes[entry][0], 'released' if released else 'intended', _first_statistics(shapes))


def dkd_sizes(shapes: Shapes) -> DKDSizes:
    """Sizes and variant of dynamic kernels; the releases for Penn Action, 13 joints, and Sub-JHMDB, 15, have the same entries."""
    joints, features = shapes['pose_conv1x1_U.weight'][:2]
    released: DKDVariant = 'released_jhmdb' if joints == 15 else 'released_penn'
    return DKDSizes(joints, features, 'intended' if 'bn.0.weight' in shapes else released)


def jrpsp_sizes(shapes: Shapes) -> JRPSPSizes:
    """The same of RPSTN's propagator; its two revisions have the same entries."""
    dkd = dkd_sizes(shapes)
    decoder: DecoderVariant = 'released' if 'non_local_conv2d.theta.weight' in shapes else 'intended'
    return JRPSPSizes(dkd.num_joints, dkd.features, dkd.variant, decoder, _first_statistics(shapes))


def hourglass_config(shapes: Shapes) -> HourglassConfig:
    """Stacks, blocks, joints and features of a stacked hourglass of either release."""
    princeton = 'pre.0.conv.weight' in shapes
    features = shapes['features.0.1.conv.weight' if princeton else 'fc.0.0.weight'][0]
    score = shapes.get('outs.0.conv.weight' if princeton else 'score.0.weight')
    return HourglassConfig(
        num_stacks=_count(shapes, 'hgs.' if princeton else 'hg.'),
        num_joints=None if score is None else score[0],
        num_blocks=1 if princeton else _count(shapes, 'res.0.'),
        features=features,
        variant='princeton' if princeton else 'bearpaw',
    )


def hrnet_config(shapes: Shapes) -> HRNetConfig:
    """Widths, counts and joints of an HRNet."""
    modules = tuple(_count(shapes, f'stage{i}.') for i in (2, 3, 4))
    return HRNetConfig(
        width=shapes['transition1.0.0.weight'][0],
        num_joints=shapes['final_layer.weight'][0] if 'final_layer.weight' in shapes else None,
        stem=shapes['conv1.weight'][0],
        blocks=_count(shapes, 'layer1.'),
        modules=(modules[0], modules[1], modules[2]),
    )


def _count(shapes: Shapes, prefix: str) -> int:
    """Of the numbers that follow `prefix` in the entries' names."""
    return len({key.split('.')[0] for key in part(shapes, prefix)})


def _backbone(shapes: Shapes) -> tuple[str, int, int]:
    """(name, channels of the stem at the width of ResNets, channels of the features) of a pose initializer or feature encoder."""
    config: BackboneConfig
    if 'fc.0.0.weight' in shapes:
        config = hourglass_config(shapes)
        width = config.features // 4
    elif 'stage2.0.branches.0.0.conv1.weight' in shapes:
        config = hrnet_config(shapes)
        width = config.stem
    else:
        config = pose_resnet_config(shapes)
        width = config.width
    sizes: dict[str, Any] = {'num_joints': config.num_joints, 'width': width, 'features': config.features}
    name = next((name for name in BACKBONES if backbone_config(name, **sizes) == config), None)
    if name is None:
        raise InputError(f'{config} is none of the backbones {", ".join(BACKBONES)}')
    return name, width, config.features


def _backbones(shapes: Shapes) -> dict[str, Any]:
    """The fields of a network of videos that are about its networks of single images."""
    adapted = 'feature_encoder.conv.weight' in shapes
    encoder, width, features = _backbone(part(shapes, 'feature_encoder.network.' if adapted else 'feature_encoder.'))
    from_features = 'pose_initializer.weight' in shapes
    return {
        'pose_initializer': 'none' if from_features else _backbone(part(shapes, 'pose_initializer.'))[0],
        'feature_encoder': encoder,
        'width': width,
        'features': shapes['feature_encoder.conv.weight'][0] if adapted else features,
    }


def _first_statistics(shapes: Shapes) -> FirstStatistics:
    """Of a relation decoder and what lies beside it."""
    return 'own' if 'first_bn_u.running_mean' in shapes else 'shared'


def _kimnet_config(shapes: Shapes) -> KIMNetConfig:
    temporal: Temporal = 'none'
    if kmm := part(shapes, 'kmm.'):
        temporal = 'kmm'
    elif part(shapes, 'dkd.'):
        temporal = 'dkd'
    elif part(shapes, 'jrpsp.'):
        temporal = 'jrpsp'
    return KIMNetConfig(
        num_joints=shapes['fusion.conv_d.weight'][0],
        temporal=temporal,
        kmm_variant=kmm_sizes(kmm).variant if kmm else KIMNetConfig.kmm_variant,
        biases='fusion.conv_g.bias' in shapes,
        fusion_norm='fusion.bn_g.weight' in shapes,
        first_statistics=_first_statistics(part(shapes, 'relation_decoder.')),
        **_backbones(shapes),
    )


def _dkd_net_config(shapes: Shapes) -> DKDNetConfig:
    if 'kmm_transfer.conv_u.weight' in shapes:
        return DKDNetConfig(shapes['kmm_transfer.conv_u.weight'][0], temporal='kmm', **_backbones(shapes))
    return DKDNetConfig(shapes['dkd.pose_conv1x1_U.weight'][0], **_backbones(shapes))


def _rpstn_config(shapes: Shapes) -> RPSTNConfig:
    if 'kmm_transfer.conv_u.weight' in shapes:
        first_statistics = _first_statistics(part(shapes, 'relation_decoder.'))
        joints = shapes['kmm_transfer.conv_u.weight'][0]
        return RPSTNConfig(joints, temporal='kmm', first_statistics=first_statistics, **_backbones(shapes))
    initializer = pose_resnet_config(part(shapes, 'pose_net.'))
    children = {0: 'conv1', **{3 + i: f'layer{i}' for i in range(1, 5)}, 8: 'deconv_layers'}
    numbered = ((name, part(shapes, f'fea_ext.{i}.')) for i, name in children.items())
    encoder = pose_resnet_config({f'{name}.{key}': shape for name, entries in numbered for key, shape in entries.items()})
    jrpsp = jrpsp_sizes(shapes)
    return RPSTNConfig(
        num_joints=jrpsp.num_joints,
        pose_initializer=cast(ResNetName, f'resnet{initializer.depth}'),
        feature_encoder=cast(ResNetName, f'resnet{encoder.depth}'),
        width=encoder.width,
        features=jrpsp.features,
        variant=jrpsp.variant,
        decoder_variant=jrpsp.decoder_variant,
        first_statistics=jrpsp.first_statistics,
    )


def _lstm_pm_config(shapes: Shapes) -> LSTMPMConfig:
    joints, width = shapes['Mconv5_convnet3.weight'][:2]
    features = shapes['conv4_convnet2.weight'][0]
    if 'kmm.conv_q.weight' in shapes:
        return LSTMPMConfig(joints, width, features, temporal='kmm')
    return LSTMPMConfig(
        num_joints=joints,
        width=width,
        features=features,
        memory=shapes['conv_gx_lstm.weight'][0],
        variant='released' if 'conv_gx_lstm0.weight' in shapes else 'intended',
    )


def _hanet_config(shapes: Shapes) -> HANetConfig:
    width, channels, _ = shapes['transformer.decoder_embed.weight']
    levels = len({key.split('.')[2] for key in shapes if key.startswith('transformer.encoder.')})
    return HANetConfig(channels, width=width, levels=levels, pre_norm='transformer.encoder_norm.0.weight' in shapes)


def _clip(config: KIMNetConfig | DKDNetConfig | RPSTNConfig) -> tuple[tuple[int, ...], ...]:
    hourglass = 'hourglass' in f'{config.pose_initializer} {config.feature_encoder}'
    return ((2, 3, 64, 128 if hourglass else 96, 3),)


def _temporal_inputs(h: int, w: int) -> Callable[[Any], tuple[tuple[int, ...], ...]]:
    return lambda config: ((2, h, w, config.features), (2, h, w, config.features), (2, h, w, config.num_joints))


def _kimnet_untold(config: KIMNetConfig) -> tuple[str, ...]:
    kmm = _kmm_untold(KMMSizes(1, 1, config.kmm_variant), 'kmm_') if config.temporal == 'kmm' else ()
    return (*kmm, 'decoder_variant')


def _released_dkd_untold(config: DKDSizes | RPSTNConfig) -> tuple[str, ...]:
    return () if config.variant == 'intended' else ('variant',)


def _rpstn_untold(config: JRPSPSizes | RPSTNConfig) -> tuple[str, ...]:
    if isinstance(config, RPSTNConfig) and config.temporal == 'kmm':
        return ('decoder_variant',)
    return (*_released_dkd_untold(config), *(() if config.decoder_variant == 'intended' else ('decoder_variant',)))


_HANET_ASKED = ('interval', 'window', 'heads', 'activation', 'memory_mask')
NETWORKS: dict[str, Network] = {
    'pose_resnet': Network(
        module=PoseResNet,
        twin='PoseResNet',
        table=keymaps.POSE_RESNET,
        read_config=pose_resnet_config,
        presets={'tiny': PoseResNetConfig(18, 5, width=4, features=7), 'full': PoseResNetConfig(50, 16)},
        inputs=lambda config: ((2, 64, 96, 3),),
        origin='SimpleBaseline, pose_resnet_*.pth.tar (--pixels=simplebaseline); torchvision, resnet*.pth (--partial)',
    ),
    'kimnet': Network(
        module=KIMNet,
        twin='KIMNet',
        table=keymaps.kimnet,
        read_config=_kimnet_config,
        presets={'tiny': KIMNetConfig(5, 'resnet18', 'resnet18', width=4, features=7), 'full': KIMNetConfig(13)},
        inputs=_clip,
        asked=('kmm_variant', 'kmm_activation', 'kmm_weights', 'decoder_variant'),
        untold=_kimnet_untold,
    ),
    'hourglass': Network(
        module=Hourglass,
        twin='Hourglass',
        table=keymaps.HOURGLASS,
        read_config=hourglass_config,
        presets={
            'tiny': dataclasses.replace(TINY_HOURGLASS, num_joints=5),
            'full': HourglassConfig(num_joints=16),
        },
        inputs=lambda config: ((2, 64, 128, 3),),
        origin='bearpaw/pytorch-pose (--pixels=bearpaw); princeton-vl/pytorch_stacked_hourglass (--pixels=unit)',
    ),
    'hrnet': Network(
        module=HRNet,
        twin='HRNet',
        table=keymaps.HRNET,
        read_config=hrnet_config,
        presets={
            'tiny': dataclasses.replace(TINY_HRNET, num_joints=5),
            'full': HRNetConfig(num_joints=16),
        },
        inputs=lambda config: ((2, 64, 96, 3),),
        origin='leoxiaobin/deep-high-resolution-net.pytorch, pose_hrnet_w*.pth',
    ),
    'kmm': Network(
        module=lambda config, *, dtype=jnp.float32, rngs: KMM(
            config.num_joints,
            config.features,
            variant=config.variant,
            activation=config.activation,
            weights=config.weights,
            use_bias=config.use_bias,
            dtype=dtype,
            rngs=rngs,
        ),
        twin='KMM',
        table=keymaps.KMM,
        read_config=kmm_sizes,
        presets={'tiny': KMMSizes(5, 7), 'full': KMMSizes(13, 256)},
        inputs=_temporal_inputs(8, 6),
        asked=('variant', 'activation', 'weights'),
        untold=_kmm_untold,
    ),
    'kmm_transfer': Network(
        module=lambda config, *, dtype=jnp.float32, rngs: KMMTransfer(config.num_joints, config.features, dtype=dtype, rngs=rngs),
        twin='KMMTransfer',
        table=keymaps.KMM_TRANSFER,
        read_config=lambda shapes: KMMTransferSizes(*shapes['kmm.conv_q.weight'][:2]),
        presets={'tiny': KMMTransferSizes(5, 7), 'full': KMMTransferSizes(13, 256)},
        inputs=_temporal_inputs(8, 6),
    ),
    'dkd_module': Network(
        module=lambda config, *, dtype=jnp.float32, rngs: DKD(
            config.num_joints, config.features, variant=config.variant, dtype=dtype, rngs=rngs
        ),
        twin='DKD',
        table=keymaps.DKD,
        read_config=dkd_sizes,
        presets={'tiny': DKDSizes(5, 7), 'full': DKDSizes(13, 256)},
        inputs=_temporal_inputs(18, 18),
        asked=('variant',),
        untold=_released_dkd_untold,
    ),
    'jrpsp': Network(
        module=lambda config, *, dtype=jnp.float32, rngs: JRPSP(
            config.num_joints,
            config.features,
            variant=config.variant,
            decoder_variant=config.decoder_variant,
            first_statistics=config.first_statistics,
            dtype=dtype,
            rngs=rngs,
        ),
        twin='JRPSP',
        table=keymaps.JRPSP,
        read_config=jrpsp_sizes,
        presets={'tiny': JRPSPSizes(5, 7), 'full': JRPSPSizes(13, 256)},
        inputs=_temporal_inputs(18, 18),
        asked=('variant', 'decoder_variant'),
        untold=_rpstn_untold,
        origin='YHDang/RPSTN (--partial)',
    ),
    'relation_decoder': Network(
        module=lambda config, *, rngs: RelationDecoder(
            config.num_joints, variant=config.variant, first_statistics=config.first_statistics, rngs=rngs
        ),
        twin='RelationDecoder',
        table=keymaps.ANY_RELATION_DECODER,
        read_config=relation_decoder_sizes,
        presets={'tiny': RelationDecoderSizes(5), 'full': RelationDecoderSizes(13)},
        inputs=lambda config: ((2, 8, 6, config.num_joints),),
        asked=('variant',),
        untold=lambda config: ('variant',),
        origin='YHDang/RPSTN, its non_local_conv2d (--partial)',
    ),
    'hanet': Network(
        module=HANet,
        twin='HANet',
        table=lambda config: keymaps.hanet(config.levels),
        read_config=_hanet_config,
        presets={'tiny': HANetConfig(10, width=8, levels=2), 'full': HANET_PRESETS['jhmdb_2d']},
        inputs=lambda config: ((2, config.length, config.channels),),
        asked=_HANET_ASKED,
        untold=lambda config: _HANET_ASKED,
        origin='KyungMinJin/HANet, *.pth.tar',
    ),
    'rpstn': Network(
        module=RPSTN,
        twin='RPSTN',
        table=keymaps.rpstn,
        read_config=_rpstn_config,
        presets={
            'tiny': RPSTNConfig(5, 'resnet18', 'resnet18', width=4, features=7),
            'full': RPSTNConfig(13, variant='released_penn', decoder_variant='released', first_statistics='shared'),
        },
        inputs=_clip,
        asked=('variant', 'decoder_variant'),
        untold=_rpstn_untold,
        origin='YHDang/RPSTN (--pixels=rpstn)',
    ),
    'dkd': Network(
        module=DKDNet,
        twin='DKDNet',
        table=keymaps.dkd_net,
        read_config=_dkd_net_config,
        presets={'tiny': DKDNetConfig(5, 'resnet18', 'resnet18', width=4, features=7), 'full': DKDNetConfig(13)},
        inputs=_clip,
    ),
    'lstm_pm': Network(
        module=LSTMPM,
        twin='LSTMPM',
        table=keymaps.LSTM_PM,
        read_config=_lstm_pm_config,
        presets={'tiny': LSTMPMConfig(5, width=4, features=3, memory=6), 'full': LSTMPMConfig(14, variant='released')},
        inputs=lambda config: ((2, 3, 64, 96, 3),),
        origin='HowieMa/lstm_pm_pytorch (--pixels=unit)',
    ),
}
