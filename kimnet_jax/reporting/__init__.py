"""What is made of results: the paper's tables, reference predictions, pictures."""

from kimnet_jax.core.errors import InputError

PICTURE_SUFFIXES, VIDEO_SUFFIX = ('.png', '.svg', '.pdf', '.webp'), '.mp4'


def require_matplotlib() -> None:
    """Raises `InputError` where Matplotlib is not installed: it is an extra."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise InputError('Matplotlib is needed for pictures: pip install "kimnet-jax[report]"') from None


def require_jinja2() -> None:
    """Raises `InputError` where Jinja2 is not installed: it is an extra."""
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError:
        raise InputError('Jinja2 is needed for reports: pip install "kimnet-jax[report]"') from None
