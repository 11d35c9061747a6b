"""The known ways in which a port to JAX goes wrong, each as a change to a PyTorch operation.

A network that disagrees is diagnosed by trial: PyTorch's side is computed again with one of these changes, and the change under
which it gives our numbers is what we do differently.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class Trap(NamedTuple):
    """Attributes:
    name: short, for tables.
    finding: what is done differently, a clause.
    advice: what to do.
    operations: names of the PyTorch functions that are changed.
    changed: the function to call instead; it gets the original and its arguments.
    resemblance: largest share of the disagreement that may remain where this is the cause.
    """

    name: str
    finding: str
    advice: str
    operations: tuple[str, ...]
    changed: Callable[..., Any]
    resemblance: float = 0.1


class Changed(TorchFunctionMode):
    """PyTorch with a trap in its operations, from when `active` holds; `used` tells whether one of them ran."""

    def __init__(self, trap: Trap, active: Callable[[], bool] = lambda: True):
        super().__init__()
        self.trap, self.active, self.used = trap, active, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, '__name__', '') in self.trap.operations and self.active():
            self.used = True
            return self.trap.changed(func, *args, **kwargs)
        return func(*args, **kwargs)


def _conv_transpose(
    func: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    flipped: bool = False,
    shift: int = 0,
) -> Tensor:
    shape = func(x, weight, bias, stride, padding, output_padding, groups, dilation).shape
    weight = weight.flip(*range(2, weight.ndim)) if flipped else weight
    whole = func(x, weight, bias, stride, 0, 0, groups, dilation)
    starts = [p + shift for p in _pair(padding, weight.ndim - 2)]
    if min(starts) < 0:
        raise ValueError('no such crop')
    whole = functional.pad(whole, [0, 2 * max(starts) + 2] * (weight.ndim - 2))
    for axis, (start, size) in enumerate(zip(starts, shape[2:], strict=True), 2):
        whole = whole.narrow(axis, start, size)
    return whole


def _batch_norm(
    func: Any,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    other_eps: float | None = None,
    other_momentum: float | None = None,
    biased: bool = False,
    other_mode: bool = False,
) -> Tensor:
    momentum = other_momentum or momentum
    before = None if running_var is None else running_var.clone()
    y = func(x, running_mean, running_var, weight, bias, training != other_mode, momentum, other_eps or eps)
    if biased and training and before is not None and running_var is not None:
        n = x.numel() // x.shape[1]
        kept = (1 - momentum) * before
        running_var.copy_(kept + (running_var - kept) * (n - 1) / n)
    return y


def _layer_norm(
    func: Any,
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    other_eps: float,
) -> Tensor:
    return func(x, normalized_shape, weight, bias, other_eps)


def _max_pool(
    func: Any,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    same: bool = False,
) -> Tensor:
    kernel_size = _pair(kernel_size, 2)
    stride = _pair(kernel_size if stride is None else stride, 2)
    if same:
        x = functional.pad(x, _same(x, kernel_size, stride), value=-torch.inf)
    else:
        rows, columns = _pair(padding, 2)
        x = functional.pad(x, (columns, columns, rows, rows))
    return func(x, kernel_size, stride, 0, dilation, ceil_mode, return_indices)


def _conv_same(
    func: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    spatial = weight.ndim - 2
    if max(_pair(stride, spatial)) == 1:
        return func(x, weight, bias, stride, padding, dilation, groups)
    return func(functional.pad(x, _same(x, weight.shape[2:], _pair(stride, spatial))), weight, bias, stride, 0, dilation, groups)


def _gelu(func: Any, x: Tensor, approximate: str = 'none') -> Tensor:
    return func(x, approximate='tanh' if approximate == 'none' else 'none')


def _resize(
    func: Any,
    x: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = 'nearest',
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
    *,
    other_corners: bool = False,
    other_antialias: bool = False,
) -> Tensor:
    if mode not in ('bilinear', 'bicubic') and (other_antialias or mode not in ('linear', 'trilinear')):
        raise ValueError('no such resize')
    corners = bool(align_corners) != other_corners
    return func(x, size, scale_factor, mode, corners, recompute_scale_factor, antialias != other_antialias)


def _rounded(func: Any, *args: Any, rounding: Callable[[Tensor], Tensor], **kwargs: Any) -> Any:
    """The first two tensors, which are those that are multiplied."""
    operands = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)][:2]
    args = tuple(rounding(arg).to(arg.dtype) if i in operands else arg for i, arg in enumerate(args))
    return func(*args, **kwargs)


def _tf32(x: Tensor, nearest: bool) -> Tensor:
    bits = x.float().view(torch.int32)  # 13 bits of the mantissa go
    bits = bits + (0xFFF + ((bits >> 13) & 1)) if nearest else bits
    return (bits & ~0x1FFF).view(torch.float32)


def _same(x: Tensor, kernel: Any, stride: Any) -> list[int]:
    """The padding that 'SAME' means, as `functional.pad` takes it: the odd one at the end."""
    pads: list[int] = []
    for n, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        pads += [total // 2, total - total // 2]
    return pads


def _pair(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


_EPS = (1e-3, 1e-6, 1e-12, 1e-8)
_CONVOLUTIONS = ('conv1d', 'conv2d', 'conv_transpose1d', 'conv_transpose2d')
_PRODUCTS = ('linear', 'matmul', '__matmul__', 'bmm', 'einsum')
_EXPLICIT = 'give the padding explicitly, ((p, p), (p, p)), instead of SAME'


def traps() -> Iterator[Trap]:
    """Every known trap; those that a network fell into together (in its BatchNorm) come after the single ones."""
    for flipped, shift in ((True, 0), (False, -1), (False, 1), (True, -1), (True, 1)):
        parts = ['kernel not flipped'] * flipped + [f'output shifted by {shift:+d}'] * bool(shift)
        yield Trap(
            'transposed convolution: ' + ', '.join(parts),
            'the transposed convolution has another padding or its kernel the other way round: ' + ', '.join(parts),
            'use layers.ConvTranspose, or nnx.ConvTranspose with transpose_kernel=True and padding k - 1 - p on every side',
            ('conv_transpose1d', 'conv_transpose2d'),
            functools.partial(_conv_transpose, flipped=flipped, shift=shift),
        )
    yield Trap(
        'convolution: SAME padding',
        "a strided convolution is padded as 'SAME', which puts the odd row at the end",
        _EXPLICIT,
        ('conv1d', 'conv2d'),
        _conv_same,
    )
    yield Trap(
        'max-pool: padded with 0',
        'max-pooling pads with 0, which wins over negative values',
        'pad with -inf (layers.max_pool; nnx.max_pool does it)',
        ('max_pool2d',),
        _max_pool,
    )
    yield Trap(
        'max-pool: SAME padding',
        "max-pooling is padded as 'SAME', which puts the odd row at the end",
        _EXPLICIT,
        ('max_pool2d',),
        functools.partial(_max_pool, same=True),
    )
    yield Trap(
        'gelu: approximate against exact',
        'one side has the exact gelu, the other the approximation by tanh',
        'nnx.gelu(x, approximate=False) is the default of PyTorch',
        ('gelu',),
        _gelu,
    )
    for eps in _EPS:
        yield Trap(
            f'LayerNorm: eps {eps:g}',
            f'LayerNorm adds {eps:g} to the variance',
            'nnx.LayerNorm(..., epsilon=1e-5), the default of PyTorch',
            ('layer_norm',),
            functools.partial(_layer_norm, other_eps=eps),
        )
    for corners, antialias in ((True, False), (False, True), (True, True)):
        parts = ['align_corners'] * corners + ['antialias'] * antialias
        yield Trap(
            'resize: ' + ', '.join(parts),
            f'resizing differs in {" and ".join(parts)}',
            'jax.image.resize(..., antialias=False); align_corners=True needs jax.image.scale_and_translate',
            ('interpolate',),
            functools.partial(_resize, other_corners=corners, other_antialias=antialias),
        )
    yield from sorted(_batch_norms(), key=lambda trap: trap.name.count(','))
    yield from _roundings()


def _batch_norms() -> Iterator[Trap]:
    advice = 'use layers.BatchNorm: momentum 0.9 (PyTorch calls it 0.1), epsilon 1e-5, unbiased running variance'
    for biased, momentum, eps in itertools.product((False, True), (None, 0.9, 0.01, 0.001), (None, *_EPS)):
        parts = ['biased running variance'] * biased
        parts += [f'momentum {momentum:g} (in the sense of PyTorch)'] if momentum else []
        parts += [f'eps {eps:g}'] if eps else []
        if parts:
            changed = functools.partial(_batch_norm, other_eps=eps, other_momentum=momentum, biased=biased)
            yield Trap(f'BatchNorm: {", ".join(parts)}', f'BatchNorm has {" and ".join(parts)}', advice, ('batch_norm',), changed)
    yield Trap(
        'BatchNorm: statistics of the batch',
        'one side normalises with the statistics of the batch, the other with the running ones',
        'call model.eval() or model.train() on both sides; in NNX the flag is use_running_average',
        ('batch_norm',),
        functools.partial(_batch_norm, other_mode=True),
    )


def _roundings() -> Iterator[Trap]:
    roundings: dict[str, Callable[[Tensor], Tensor]] = {
        'TF32': functools.partial(_tf32, nearest=True),
        'TF32 (truncated)': functools.partial(_tf32, nearest=False),
        'bfloat16': lambda x: x.to(torch.bfloat16),
    }
    for name, rounding in roundings.items():
        for operations in (_CONVOLUTIONS, _PRODUCTS, _CONVOLUTIONS + _PRODUCTS):
            kinds = ['convolutions'] * ('conv2d' in operations) + ['matrix products'] * ('matmul' in operations)
            yield Trap(
                f'precision: {name}',
                f'{" and ".join(kinds)} round what they multiply to {name}',
                "jax.config.update('jax_default_matmul_precision', 'highest'), or precision='highest' in the layer",
                operations,
                functools.partial(_rounded, rounding=rounding),
                resemblance=0.3,
            )
