"""Which entry of a PyTorch state_dict goes where: one table for each network (see `translation.Rule`)."""

from kimnet_jax.interop.translation import BATCH_NORM, CONV, CONV_TRANSPOSE, DROPPED, Rule, Table, prefixed

POSE_RESNET: Table = (
    Rule(r'(conv1|final_layer)', r'\1', CONV),
    Rule(r'bn1', 'bn1', BATCH_NORM),
    Rule(r'(layer\d)\.(\d+)\.(conv\d)', r'\1.\2.\3', CONV),
    Rule(r'(layer\d)\.(\d+)\.(bn\d)', r'\1.\2.\3', BATCH_NORM),
    Rule(r'(layer\d)\.(\d+)\.downsample\.0', r'\1.\2.downsample.layers.0', CONV),
    Rule(r'(layer\d)\.(\d+)\.downsample\.1', r'\1.\2.downsample.layers.1', BATCH_NORM),
    *(Rule(rf'deconv_layers\.{3 * i}', f'deconv_layers.{i}.conv', CONV_TRANSPOSE) for i in range(3)),
    *(Rule(rf'deconv_layers\.{3 * i + 1}', f'deconv_layers.{i}.bn', BATCH_NORM) for i in range(3)),
)
RELATION_DECODER: Table = (
    Rule(r'(conv_g|conv_w)', r'\1', CONV),
    Rule(r'(bn_w|bn_u)', r'\1', BATCH_NORM),
)
RPSTN_JRE: Table = (  # theta and phi are in RPSTN's checkpoints and never used
    Rule(r'g', 'conv_g', CONV),
    Rule(r'W\.0', 'conv_w', CONV),
    Rule(r'W\.1', 'bn_w', BATCH_NORM),
    Rule(r'theta|phi', '', DROPPED),
)
KIMNET: Table = (
    *prefixed('pose_initializer', 'pose_initializer', POSE_RESNET),
    Rule(r'pose_initializer', 'pose_initializer', CONV),  # `initializer_depth` 0
    *prefixed('feature_encoder', 'feature_encoder', POSE_RESNET),
    Rule(r'kmm\.(conv_q|conv_k|conv_p)', r'transition.kmm.\1', CONV),
    Rule(r'fusion\.(conv_g|conv_d)', r'transition.fusion.\1', CONV),
    Rule(r'fusion\.bn_g', 'transition.fusion.bn_g', BATCH_NORM),
    *prefixed('relation_decoder', 'transition.relation_decoder', RELATION_DECODER),
)
