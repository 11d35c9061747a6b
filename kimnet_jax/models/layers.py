"""Layers with PyTorch's arithmetic, in the formulations that XLA compiles to fast programs on each `platform`."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.platform import Platform, platform_of, target_platform, target_spread

Array = jax.Array
_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
CHANNELS, JOINTS = (1, 4096), (1, 10_000)  # the range of such fields in the configs of networks


def platform() -> Platform:
    """The platform that what is traced now will run on."""
    return target_platform() or platform_of(jax.default_backend())


def _briefly_compiled(init: nnx.Initializer) -> nnx.Initializer:
    """An initializer of the same values, but for rounding: XLA:CPU optimises the program for each new shape for up to a second,
    and here it does not.
    """
    return _brief(init)  # type: ignore[arg-type]


@functools.cache
def _brief(init: Any) -> nnx.Initializer:
    @functools.partial(jax.jit, static_argnums=(1, 2), compiler_options={'xla_backend_optimization_level': 0})
    def draw(key: Array, shape: tuple[int, ...], dtype: Dtype) -> Array:
        return init(key, shape, dtype)

    def drawn(key: Array, shape: Any, dtype: Any = jnp.float32, out_sharding: Any = None) -> Array:
        if isinstance(key, jax.core.Tracer) or jax.default_backend() != 'cpu':  # within a program, its options count
            return init(key, shape, dtype)
        return draw(key, tuple(shape), dtype)

    return drawn


@functools.cache
def _uniform(bound: float) -> nnx.Initializer:
    return lambda key, shape, dtype=jnp.float32, out_sharding=None: jax.random.uniform(key, shape, dtype, -bound, bound)


kaiming_normal = nnx.initializers.variance_scaling(2.0, 'fan_out', 'normal')  # torchvision's for ResNets
near_zero = nnx.initializers.normal(0.001)  # SimpleBaseline's, HRNet's


Watcher = Callable[[nnx.Module, Array, Array], None]
_WATCHER: contextvars.ContextVar[Watcher | None] = contextvars.ContextVar('watcher', default=None)


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Inside, `watcher` is told of every call of a convolution or a BatchNorm: (module, input, output)."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


def _watched(call: Callable[..., Array]) -> Callable[..., Array]:
    @functools.wraps(call)
    def told(module: Any, x: Array, *more: Array) -> Array:
        y = call(module, x, *more)
        if (watcher := _WATCHER.get()) is not None:
            watcher(module, x, y)
        return y

    return told


class _Keys:
    """The keys that `rngs.params()` gives, without its `count[...] += 1`: an indexed update asks a traced value for its sharding,
    and to say that there is none jax searches the whole trace. Building HRNet by shape takes a tenth of the time.
    """

    def __init__(self, rngs: nnx.Rngs):
        self.stream = rngs.params

    def params(self) -> Array:
        count = self.stream.count.get_value()
        self.skip(1)
        return jax.random.fold_in(self.stream.key.get_value(), count)

    def skip(self, number: int) -> None:
        """Leaves out so many keys."""
        self.stream.count.set_value(self.stream.count.get_value() + number)


def keys(rngs: nnx.Rngs) -> nnx.Rngs:
    """The same keys, quicker; see `_Keys`."""
    return rngs if isinstance(rngs, _Keys) else cast(nnx.Rngs, _Keys(rngs))


def torch_conv(
    features_in: int,
    features_out: int,
    kernel: int,
    *,
    stride: int = 1,
    use_bias: bool = True,
    dtype: Dtype = jnp.float32,
    rngs: nnx.Rngs,
) -> 'Conv':
    """`Conv` with PyTorch's own initial values: weights and bias uniform within 1 / sqrt(fan in)."""
    uniform = _uniform((features_in * kernel * kernel) ** -0.5)
    return Conv(
        features_in,
        features_out,
        kernel,
        stride=stride,
        use_bias=use_bias,
        kernel_init=uniform,
        bias_init=uniform,
        dtype=dtype,
        rngs=rngs,
    )


class Conv(nnx.Module):
    """A square convolution of [B, H, W, C], padded as in PyTorch: `kernel // 2` zeros on every side, whatever the stride.

    It has the parameters and initial values of `nnx.Conv`, without whose other fields networks are built and traced faster.

    A 1x1 is a matrix product, whose weight gradient is 3 to 8 times faster on CPU; with a stride only on CPU and TPU, as XLA's
    compiler for GPUs aborts on two residual blocks whose second begins with such a slice. The bias is added in float32: XLA:CPU
    sums its gradient over all pixels in the type of that sum, and bfloat16 stalls at 256 terms.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel: int,
        *,
        stride: int = 1,
        use_bias: bool = False,
        kernel_init: nnx.Initializer = kaiming_normal,
        bias_init: nnx.Initializer = nnx.initializers.zeros,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        draw = keys(rngs).params
        shape = (kernel, kernel, features_in, features_out)
        self.kernel = nnx.Param(_briefly_compiled(kernel_init)(draw(), shape, jnp.float32))
        self.bias = nnx.Param(_briefly_compiled(bias_init)(draw(), (features_out,), jnp.float32)) if use_bias else None
        self.stride = stride
        self.dtype = dtype

    @_watched
    def __call__(self, x: Array, rest: Array | None = None) -> Array:
        """`rest`: what the last input channels add, by `part`; then x has the first ones alone."""
        y = self._product(x, self.kernel[...] if rest is None else self.kernel[:, :, : x.shape[-1]])
        if rest is not None:
            y = y + rest
        return y if self.bias is None else (y + self.bias[...]).astype(self.dtype)

    def part(self, x: Array) -> Array:
        """What the last input channels, those of x, add to the output; without the bias."""
        return self._product(x, self.kernel[:, :, -x.shape[-1] :])

    def _product(self, x: Array, kernel: Array) -> Array:
        stride, padding = self.stride, kernel.shape[0] // 2

        def forward(x: Array, kernel: Array) -> Array:
            if len(kernel) == 1 and (stride == 1 or platform() != 'gpu'):
                return x[:, ::stride, ::stride] @ kernel[0, 0]
            return _convolve(x, kernel, stride=stride, padding=padding)

        def gradient(x: Array, dy: Array) -> Array:
            return _kernel_gradient(x, dy, len(kernel), stride, padding)

        return _with_kernel(forward, gradient, x.astype(self.dtype), kernel)


def _with_kernel(
    forward: Callable[[Array, Array], Array], gradient: Callable[[Array, Array], Array], x: Array, kernel: Array
) -> Array:
    """`forward(x, kernel)` in the type of x. Where TPUs sum gradients in float32, the kernel's is `gradient(x, dy)`.

    Not on GPUs: cuDNN's kernels give the type that they take, and XLA's compiler aborts on the products.
    """
    spread = target_spread()
    if platform() != 'tpu' or spread.devices == 1 or not spread.float32_sums or jnp.finfo(x.dtype).bits >= 32:
        return forward(x, kernel.astype(x.dtype))
    return _with_float32_gradient(forward, gradient, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _with_float32_gradient(forward: Any, gradient: Any, x: Array, kernel: Array) -> Array:
    return forward(x, kernel.astype(x.dtype))


def _with_float32_gradient_forward(forward: Any, gradient: Any, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return forward(x, kernel.astype(x.dtype)), (x, kernel)


def _with_float32_gradient_backward(
    forward: Any, gradient: Any, residuals: tuple[Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    (dx,) = jax.vjp(lambda x: forward(x, kernel.astype(x.dtype)), x)[1](dy)
    return dx, gradient(x, dy)


_with_float32_gradient.defvjp(_with_float32_gradient_forward, _with_float32_gradient_backward)


def _kernel_gradient(x: Array, dy: Array, size: int, stride: int, padding: int) -> Array:
    """Of a convolution of x [B, H, W, C] to [B, h, w, D]: float32 [size, size, C, D], from factors of any type."""
    if size == 1:
        return jnp.einsum('bhwc,bhwd->cd', x[:, ::stride, ::stride], dy, preferred_element_type=jnp.float32)[None, None]
    high = [size + (b - 1) * stride - a - padding for a, b in zip(x.shape[1:3], dy.shape[1:3], strict=True)]
    return jax.lax.conv_general_dilated(
        x,
        dy,
        (1, 1),
        tuple((padding, end) for end in high),
        rhs_dilation=(stride, stride),
        dimension_numbers=('CHWN', 'IHWO', 'HWNC'),
        preferred_element_type=jnp.float32,
    )


class Statistics(nnx.Module):
    """A BatchNorm without weights: [..., C] -> [..., C] in float32 at least, with running mean and variance of its own.

    PyTorch's: a two-pass variance, in the running buffer an unbiased one. Across devices the statistics are those of the ones
    that `spread_over` says, in one pass. Variables change by `set_value`: see `_Keys`.
    """

    def __init__(self, features: int):
        self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
        self.momentum = 0.9
        self.epsilon = 1e-5
        self.use_running_average = False  # set by `train` and `eval`

    @_watched
    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = _moments(self, x)
        return (x - mean) * jax.lax.rsqrt(var + self.epsilon)


class BatchNorm(Statistics):
    """PyTorch's BatchNorm: `Statistics`, then scale and bias; output in `dtype`."""

    def __init__(self, features: int, *, scale_init: float = 1.0, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        super().__init__(features)
        keys(rngs).skip(2)  # as `nnx.BatchNorm`
        self.scale = nnx.Param(jnp.full(features, scale_init, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32))
        self.output_dtype = dtype

    @_watched
    def __call__(self, x: Array) -> Array:
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, var = _moments(self, x)
        y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * self.scale[...]) + self.bias[...]
        return y.astype(self.output_dtype)


def _moments(norm: Statistics, x: Array) -> tuple[Array, Array]:
    """Mean and variance to normalise with, [C] or of each row [B, ..., C]: the running ones, or in train mode those of the batch,
    which move these.
    """
    mean, var = norm.mean[...], norm.var[...]
    if norm.use_running_average:
        return mean, var
    old_mean, old_var = mean, var
    if target_spread().devices == 1:
        axes, n = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
        new_mean = mean = x.mean(axes)
        new_var = var = jnp.square(x - mean).mean(axes)
    else:
        mean, var, n = _spread_moments(x, jax.lax.stop_gradient(old_mean))
        new_mean, new_var = mean.mean(0), var.mean(0)
        mean, var = (_of_rows(value, x) for value in (mean, var))
    kept, fresh = norm.momentum, 1 - norm.momentum
    norm.mean.set_value(kept * old_mean + fresh * new_mean)
    norm.var.set_value(kept * old_var + fresh * n / max(n - 1, 1) * new_var)
    return mean, var


def _spread_moments(x: Array, near: Array) -> tuple[Array, Array, int]:
    """Mean and variance [G, C] of the groups of devices that share them, and of how many numbers each is.

    One pass over the rows, and one meeting of the devices of a group: the moments about `near` [C], the running mean, do not wait
    for each other. Where that is far from the batch's mean, as in the first steps, some digits of the variance are lost.
    """
    devices, sharing, _ = target_spread()
    parts = x.reshape(devices, -1, *x.shape[1:]) - near
    axes = tuple(range(1, parts.ndim - 1))
    moments = jnp.concatenate([parts.mean(axes), jnp.square(parts).mean(axes)], -1)
    offset, second = jnp.split(moments.reshape(devices // sharing, sharing, -1).mean(1), 2, -1)
    n = x.size // x.shape[-1] // devices * sharing
    return near + offset, jnp.maximum(second - jnp.square(offset), 0), n


def _of_rows(values: Array, x: Array) -> Array:
    """[G, C] of groups of rows as [B, 1, ..., C] of each row of x; [C] where there is one group."""
    if len(values) == 1:
        return values[0]
    rows = jnp.repeat(values, len(x) // len(values), 0)
    return rows.reshape(len(x), *(1,) * (x.ndim - 2), -1)


class ConvTranspose(nnx.Module):
    """Transposed convolution, 4x4, stride 2, padding 1, no bias: [B, h, w, C] -> [B, 2h, 2w, D]."""

    def __init__(self, features_in: int, features_out: int, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        init = _briefly_compiled(near_zero)
        self.kernel = nnx.Param(init(keys(rngs).params(), (4, 4, features_in, features_out), jnp.float32))
        self.dtype = dtype

    @_watched
    def __call__(self, x: Array) -> Array:
        forward = _conv_transpose if platform() == 'cpu' else _dilated_conv_transpose

        def gradient(x: Array, dy: Array) -> Array:
            return _kernel_gradient(dy, x, 4, 2, 1).swapaxes(2, 3)  # x is what the strided convolution makes of dy

        return _with_kernel(forward, gradient, x.astype(self.dtype), self.kernel[...])


def _dilated_conv_transpose(x: Array, kernel: Array) -> Array:
    """The convolution with inserted zeros that compilers for accelerators have kernels for."""
    return jax.lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=_DIMENSIONS
    )


@jax.custom_vjp
def _conv_transpose(x: Array, kernel: Array) -> Array:
    """Output row 2i - 1 + k takes input row i through kernel row k, so the even and the odd output rows see two kernel rows each:
    one 2x2 convolution to the four phases, then interleaved. No product with an inserted zero is ever formed.
    """
    b, h, w, c = x.shape
    d = kernel.shape[-1]
    # [tap row, phase row, tap column, phase column, C, D] -> taps first, phases among the output channels
    phases = kernel[::-1, ::-1].reshape(2, 2, 2, 2, c, d).transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, c, 4 * d)
    y = _convolve(x, phases, stride=1).reshape(b, h + 1, w + 1, 2, 2, d)
    even = jnp.stack([y[:, :h, :w, 0, 0], y[:, :h, 1:, 0, 1]], 3)  # [B, h, w, phase column, D]
    odd = jnp.stack([y[:, 1:, :w, 1, 0], y[:, 1:, 1:, 1, 1]], 3)
    return jnp.stack([even, odd], 2).reshape(b, 2 * h, 2 * w, d)


def _conv_transpose_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv_transpose(x, kernel), (x, kernel)


def _conv_transpose_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """A strided convolution, and four matrix products: XLA:CPU takes ten times as long for the weight gradient it derives."""
    x, kernel = residuals
    b, h, w, _ = x.shape
    dx = _convolve(dy, kernel.swapaxes(2, 3), stride=2)
    # bordered, row 2i + k belongs to input row i and kernel row k: that is row k % 2 of the 2x2 block i + k // 2
    blocks = jnp.pad(dy, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, h + 1, 2, w + 1, 2, -1).swapaxes(2, 3)
    taps = [jnp.einsum('bhwc,bhwijd->cijd', x, blocks[:, i : i + h, j : j + w]) for i in range(2) for j in range(2)]
    d_kernel = jnp.stack(taps).reshape(2, 2, -1, 2, 2, dy.shape[-1])  # [block row, block column, C, row in it, column in it, D]
    return dx, d_kernel.transpose(0, 3, 1, 4, 2, 5).reshape(kernel.shape)


_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def _convolve(x: Array, kernel: Array, *, stride: int, padding: int = 1) -> Array:
    """With so many rows and columns of zeros on every side."""
    around = ((padding, padding), (padding, padding))
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), around, dimension_numbers=_DIMENSIONS)


def max_pool(x: Array, *, padding: int = 1) -> Array:
    """Max-pooling 3x3, stride 2 of [B, H, W, C].

    Where the largest values of a window tie they share its gradient on CPU; on accelerators one of them has it, as in PyTorch.
    """
    if platform() == 'cpu':
        return _max_pool(x, padding)
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((padding, padding), (padding, padding)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _max_pool(x: Array, padding: int) -> Array:
    """The maximum of nine shifted slices."""
    rows, columns = ((size + 2 * padding - 1) // 2 for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=jnp.finfo(x.dtype).min)
    slices = [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(3) for j in range(3)]
    return functools.reduce(jnp.maximum, slices)


def _max_pool_forward(x: Array, padding: int) -> tuple[Array, tuple[Array, Array]]:
    y = _max_pool(x, padding)
    return y, (x, y)


def _max_pool_backward(padding: int, residuals: tuple[Array, Array], dy: Array) -> tuple[Array]:
    """Ten times as fast on CPU as what XLA makes of the gradient of nine slices: each pixel, which lies in one, two or four
    windows, is compared with their maxima, the even and the odd rows and columns apart.
    """
    x, y = residuals
    (_, h, w, _), (b, rows, columns, c) = x.shape, y.shape
    margins = [(padding, 2 * (n + 1) - size - padding) for n, size in ((rows, h), (columns, w))]
    bordered = jnp.pad(x, ((0, 0), *margins, (0, 0)), constant_values=jnp.finfo(x.dtype).min)
    phases = [[bordered[:, i::2, j::2] for j in range(2)] for i in range(2)]  # each [B, rows + 1, columns + 1, C]
    taps = [phases[i % 2][j % 2][:, i // 2 : i // 2 + rows, j // 2 : j // 2 + columns] for i in range(3) for j in range(3)]
    ties = sum((tap == y).astype(jnp.float32) for tap in taps)
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    share = jnp.pad((dy / ties).astype(dy.dtype), around)
    largest = jnp.pad(y, around, constant_values=jnp.inf)

    def of_phase(i: int, j: int) -> Array:
        """Row 2k + i is row i of window k and, if i is 0, row 2 of window k - 1; columns alike."""
        windows = [
            (slice(1 - up, 2 - up + rows), slice(1 - left, 2 - left + columns)) for up in range(2 - i) for left in range(2 - j)
        ]
        return sum(
            (jnp.where(phases[i][j] == largest[:, r, s], share[:, r, s], 0) for r, s in windows),
            start=jnp.zeros_like(phases[i][j]),
        )

    dx = jnp.stack([jnp.stack([of_phase(i, 0), of_phase(i, 1)], 3) for i in range(2)], 2)
    dx = dx.reshape(b, 2 * (rows + 1), 2 * (columns + 1), c)
    return (dx[:, padding : padding + h, padding : padding + w],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool_2x2(x: Array) -> Array:
    """Max-pooling 2x2, stride 2 of [B, H, W, C]: the maximum of four shifted slices; an odd last row or column is left out."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    top = jnp.maximum(x[:, 0:h:2, 0:w:2], x[:, 0:h:2, 1:w:2])
    bottom = jnp.maximum(x[:, 1:h:2, 0:w:2], x[:, 1:h:2, 1:w:2])
    return jnp.maximum(top, bottom)


def upsample_nearest(x: Array, factor: int) -> Array:
    """[B, H, W, C] -> [B, factor H, factor W, C], every value repeated."""
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
    return x.reshape(b, factor * h, factor * w, c)


@nnx.remat
def recomputed(module: nnx.Module, x: Array) -> Array:
    """`module(x)`, whose activations the backward pass computes again instead of keeping them."""
    return module(x)
