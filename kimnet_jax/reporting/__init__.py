"""What is made of results: the paper's tables, reference predictions, pictures."""

import importlib.util

from kimnet_jax.core.errors import InputError


def require_matplotlib() -> None:
    """Raises `InputError` where Matplotlib is not installed: it is an extra."""
    if importlib.util.find_spec('matplotlib') is None:
        raise InputError('Matplotlib is needed for pictures: pip install "kimnet-jax[report]"')
