"""Networks by name: the fields of `config.model` in each size, and the rows of the tables of KIMNet's paper."""

from collections.abc import Callable
from typing import Any


def kimnet_model() -> dict[str, Any]:
    """KIMNet at its full size."""
    return {
        'name': 'kimnet',
        'pose_initializer': 'resnet101',
        'feature_encoder': 'resnet50',
        'width': 64,
        'features': 256,
        'temporal': 'kmm',
        'kmm_variant': 'full',
        'fusion_norm': True,
        'decoder_variant': 'intended',
        'first_statistics': 'own',
        'output_scale': 0.05,
        'remat': False,
    }


def rpstn_model() -> dict[str, Any]:
    """RPSTN at its full size."""
    return {
        'name': 'rpstn',
        'pose_initializer': 'resnet101',
        'feature_encoder': 'resnet50',
        'width': 64,
        'features': 256,
        'temporal': 'jrpsp',
        'variant': 'intended',
        'decoder_variant': 'intended',
        'first_statistics': 'own',
        'output_scale': 0.05,
        'remat': False,
    }


def dkd_model() -> dict[str, Any]:
    """DKD's network at the size of RPSTN."""
    return {
        'name': 'dkd',
        'pose_initializer': 'resnet101',
        'feature_encoder': 'resnet50',
        'width': 64,
        'features': 256,
        'temporal': 'dkd',
        'remat': False,
    }


def lstm_pm_model() -> dict[str, Any]:
    """LSTM-PM at its full size."""
    return {'name': 'lstm_pm', 'width': 128, 'features': 32, 'memory': 48, 'temporal': 'lstm', 'variant': 'intended'}


def pose_resnet_model() -> dict[str, Any]:
    """SimpleBaseline's network, every frame by itself."""
    return {'name': 'pose_resnet', 'depth': 50, 'width': 64, 'features': 256, 'remat': False}


def hourglass_model() -> dict[str, Any]:
    """A stacked hourglass, every frame by itself; all its stacks are trained."""
    return {'name': 'hourglass', 'num_stacks': 8, 'num_blocks': 1, 'features': 256, 'variant': 'bearpaw', 'remat': False}


def hrnet_model() -> dict[str, Any]:
    """HRNet-W32, every frame by itself; `width` 48 is W48."""
    return {'name': 'hrnet', 'width': 32, 'stem': 64, 'blocks': 4, 'modules': (1, 4, 3), 'remat': False}


# `model.name` -> its fields, and what a smaller preset changes
MODELS: dict[str, Callable[[], dict[str, Any]]] = {
    'kimnet': kimnet_model,
    'rpstn': rpstn_model,
    'dkd': dkd_model,
    'lstm_pm': lstm_pm_model,
    'pose_resnet': pose_resnet_model,
    'hourglass': hourglass_model,
    'hrnet': hrnet_model,
}
_SMALLER_CHAIN: dict[str, dict[str, Any]] = {
    'medium': {'pose_initializer': 'resnet18', 'feature_encoder': 'resnet18', 'width': 32, 'features': 96},
    'small': {'pose_initializer': 'resnet18', 'feature_encoder': 'resnet18', 'width': 16, 'features': 64},
    'tiny': {'pose_initializer': 'resnet18', 'feature_encoder': 'resnet18', 'width': 4, 'features': 8},
}
SMALLER: dict[str, dict[str, dict[str, Any]]] = {
    'kimnet': _SMALLER_CHAIN,
    'rpstn': _SMALLER_CHAIN,
    'dkd': _SMALLER_CHAIN,
    'lstm_pm': {
        'medium': {'width': 64, 'features': 24, 'memory': 36},
        'small': {'width': 32, 'features': 16, 'memory': 24},
        'tiny': {'width': 8, 'features': 8, 'memory': 8},
    },
    'pose_resnet': {
        'medium': {'depth': 18, 'width': 32, 'features': 96},
        'small': {'depth': 18, 'width': 16, 'features': 64},
        'tiny': {'depth': 18, 'width': 4, 'features': 8},
    },
    'hourglass': {
        'medium': {'num_stacks': 2, 'features': 128},
        'small': {'num_stacks': 1, 'features': 64},
        'tiny': {'num_stacks': 1, 'features': 16},
    },
    'hrnet': {
        'medium': {'width': 16, 'stem': 32, 'blocks': 2, 'modules': (1, 2, 2)},
        'small': {'width': 8, 'stem': 16, 'blocks': 1, 'modules': (1, 1, 1)},
        'tiny': {'width': 4, 'stem': 8, 'blocks': 1, 'modules': (1, 1, 1)},
    },
}

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
