"""The rows of the tables of KIMNet's paper."""

from typing import Any

# rows of Tables III to VI: what they change of KIMNet or of the network they name. The paper says neither how many stacks its
# hourglass has nor which HRNet it takes.
ROWS: dict[str, dict[str, Any]] = {
    'without_p': {'pose_initializer': 'none'},
    'encoder_resnet18': {'feature_encoder': 'resnet18'},
    'encoder_resnet34': {'feature_encoder': 'resnet34'},
    'encoder_resnet50': {'feature_encoder': 'resnet50'},
    'encoder_hourglass': {'feature_encoder': 'hourglass2'},
    'encoder_hrnet': {'feature_encoder': 'hrnet_w32'},
    'lstm_pm': {'name': 'lstm_pm'},
    'lstm_pm_kmm': {'name': 'lstm_pm', 'temporal': 'kmm'},
    'dkd': {'name': 'dkd'},
    'dkd_kmm': {'name': 'dkd', 'temporal': 'kmm'},
    'rpstn': {'name': 'rpstn'},
    'rpstn_kmm': {'name': 'rpstn', 'temporal': 'kmm'},
    'kmm_share_qk': {'kmm_variant': 'share_qk'},
    'kmm_no_scale': {'kmm_variant': 'no_scale'},
    'kmm_residual': {'kmm_variant': 'residual'},
    'kmm_heatmap': {'kmm_variant': 'heatmap'},
    'kimnet': {},
    'kimnet_dkd': {'temporal': 'dkd'},
    'kimnet_jrpsp': {'temporal': 'jrpsp'},
    'kimnet_none': {'temporal': 'none'},
}
TINY_BACKBONES = {'hourglass2': 'hourglass1', 'hrnet_w32': 'hrnet_tiny'}  # in a row at preset `tiny`
