"""The devices that a program is compiled for, which need not be those of this machine."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias, get_args

Platform: TypeAlias = Literal['cpu', 'gpu', 'tpu']
EXPORTED = ('cpu', 'cuda', 'rocm', 'tpu')  # what `jax.export` calls those that it writes programs for
_TARGET: contextvars.ContextVar[Platform | None] = contextvars.ContextVar('platform', default=None)


def platform_of(name: str) -> Platform:
    """The platform of a JAX backend or device (`device.platform`); an accelerator that is not known is treated as a GPU."""
    return name if name in get_args(Platform) else 'gpu'  # type: ignore[return-value]


def target_platform() -> Platform | None:
    """What `compiled_for` says; None outside of it."""
    return _TARGET.get()


@contextlib.contextmanager
def compiled_for(target: Platform) -> Iterator[None]:
    """What is traced within is meant for `target`; outside, networks are traced for JAX's default backend."""
    token = _TARGET.set(target)
    try:
        yield
    finally:
        _TARGET.reset(token)


class Spread(NamedTuple):
    """How the rows of a batch lie on devices: in as many equal parts, one after the other.

    Attributes:
        devices: N, how many.
        sharing: how many of them, neighbours, share the statistics of a BatchNorm; it divides N.
        float32_sums: whether gradients are summed over them in float32, whatever the type of the convolutions.
    """

    devices: int
    sharing: int
    float32_sums: bool = True


_ONE_DEVICE = Spread(1, 1)
_SPREAD: contextvars.ContextVar[Spread] = contextvars.ContextVar('spread', default=_ONE_DEVICE)


def target_spread() -> Spread:
    """What `spread_over` says; one device outside of it."""
    return _SPREAD.get()


@contextlib.contextmanager
def spread_over(spread: Spread) -> Iterator[None]:
    """What is traced within is trained on so many devices; outside, on one."""
    token = _SPREAD.set(spread)
    try:
        yield
    finally:
        _SPREAD.reset(token)
