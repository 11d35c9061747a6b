"""Between PyTorch and this package; the only place that imports torch."""

from typing import Any

from kimnet_jax.core.errors import InputError


def import_torch() -> Any:
    """The module, where it is needed: it is an extra. Raises `InputError` where it is not installed."""
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError(
            'PyTorch is needed for .pth, .pt and .pth.tar files and for its networks: pip install "kimnet-jax[torch]"'
        ) from None
    return torch


def has_torch() -> bool:
    """Whether it is installed."""
    try:
        import_torch()
    except InputError:
        return False
    return True
