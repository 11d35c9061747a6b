"""DKD, dynamic kernel distillation: the pose of one frame becomes the filters of the next (Nie et al., ICCV 2019).

In the form of RPSTN's release, whose propagator it is (Dang et al., "Relation-Based Associative Joint Location", TIP 2022).
"""

from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.layers import BatchNorm, Conv, max_pool_2x2, torch_conv
from kimnet_jax.models.temporal import TemporalModule

Array = jax.Array
DKDVariant = Literal['intended', 'released_penn', 'released_jhmdb']


class DKD(TemporalModule):
    """Filters the features of frame t+1 with kernels made of the features and heatmaps of frame t.

    In the place of `KMM`, it gives its kernels [B, k, l, D], a filter for every channel; the prediction sees frame t+1 itself,
    where KMM's is a mixture of the heatmaps of frame t. Height and width are at least 10.

    `intended`: a BatchNorm for each of the next frame's features, the joined pose and features, and the filtered features.
    `released_penn` and `released_jhmdb`, for RPSTN's weights: one for all, and for Penn Action none on the filtered features.
    """

    gives: ClassVar[str] = 'kernels'

    def __init__(
        self,
        num_joints: int,
        features: int,
        *,
        variant: DKDVariant = 'intended',
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`dtype`: of the convolutions. Raises ValueError on an unknown variant."""
        if variant not in get_args(DKDVariant):
            raise ValueError(f'DKD variant {variant!r}: choose one of {", ".join(get_args(DKDVariant))}')
        self.variant = variant
        self.conv_reduce = Conv(num_joints + features, features, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv_v = torch_conv(features, features, 1, dtype=dtype, rngs=rngs)
        self.conv_u = torch_conv(features, num_joints, 1, dtype=dtype, rngs=rngs)
        self.bn = nnx.List([BatchNorm(features, dtype=dtype, rngs=rngs) for _ in range(3 if variant == 'intended' else 1)])
        self.kernel_generator = KernelGenerator(features, dtype=dtype, rngs=rngs)

    def propagate(self, queries: Array, keys: Array, heatmaps: Array) -> tuple[Array, Array]:
        """(Heatmaps [B, h, w, J] float32 of frame t+1, kernels) of the features of both frames and the heatmaps of frame t."""
        predicted, kernels, _ = self.projecting(queries, keys, heatmaps)
        return predicted, kernels

    def projecting(self, features: Array, next_features: Array, heatmaps: Array) -> tuple[Array, Array, Array]:
        """As a call, with the projection [B, h, w, D] of the next frame's features that the kernels are applied to."""
        first, *others = self.bn
        bn_joined, bn_filtered = others or (first, first)
        projected = first(self.conv_v(next_features))
        joined = jnp.concatenate([heatmaps.astype(features.dtype), features], -1)
        kernels = self.kernel_generator(bn_joined(self.conv_reduce(joined)))
        filtered = dynamic_conv(projected, kernels)
        if self.variant != 'released_penn':
            filtered = bn_filtered(filtered)
        return self.conv_u(filtered).astype(jnp.float32), kernels, projected


class KernelGenerator(nnx.Module):
    """Four 3x3 convolutions, the first three halved in size: [B, h, w, D] -> one kernel a channel, 7x7 for maps of 64x64."""

    def __init__(self, features: int, *, dtype: Dtype, rngs: nnx.Rngs):
        self.convs = nnx.List([Conv(features, features, 3, use_bias=True, dtype=dtype, rngs=rngs) for _ in range(4)])
        self.bns = nnx.List([BatchNorm(features, dtype=dtype, rngs=rngs) for _ in range(4)])

    def __call__(self, x: Array) -> Array:
        """[B, h, w, D] -> [B, k, l, D], k = (h - 2) // 8 and l = (w - 2) // 8. Raises ValueError where one of them is 0."""
        if min(x.shape[1:3]) < 10:
            raise ValueError(f'DKD makes its kernels of features of at least 10 x 10 cells, not {x.shape[1]} x {x.shape[2]}')
        for index, (convolution, bn) in enumerate(zip(self.convs, self.bns, strict=True)):
            x = convolution(x)
            if index == 0:
                x = x[:, 1:-1, 1:-1]  # only the first is without padding
            x = bn(x)
            if index < 3:
                x = max_pool_2x2(nnx.relu(x))
        return x


@jax.custom_vjp
def dynamic_conv(x: Array, kernels: Array) -> Array:
    """Correlates every channel of every sample with a kernel of its own, zeros around.

    A sum of shifted products: as a grouped convolution, XLA:CPU takes 20 times as long and 15 times for the gradients.

    Args:
        x: [B, h, w, C].
        kernels: [B, k, l, C]; of an even size the cell after the middle is the centre.

    Returns:
        [B, h, w, C], of the type of `x`; summed in float32.
    """
    return _correlate(x, kernels, _centre(kernels)).astype(x.dtype)


def _forward(x: Array, kernels: Array) -> tuple[Array, tuple[Array, Array]]:
    return dynamic_conv(x, kernels), (x, kernels)


def _backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    """The same with the kernel turned around, and for the kernel one sum over the image for every tap."""
    x, kernels = residuals
    b, k, l, c = kernels.shape  # noqa: E741
    row, column = _centre(kernels)
    dx = _correlate(dy, kernels[:, ::-1, ::-1], (k - 1 - row, l - 1 - column)).astype(x.dtype)
    padded, dy = _padded(x, kernels, (row, column)), dy.astype(jnp.float32)

    def tap(index: Array) -> Array:
        part = jax.lax.dynamic_slice(padded, (0, index // l, index % l, 0), x.shape)
        return (part.astype(jnp.float32) * dy).sum((1, 2))

    d_kernels = jax.lax.map(tap, jnp.arange(k * l))  # a loop: unrolled, it is 3 times slower on CPU
    return dx, d_kernels.transpose(1, 0, 2).reshape(b, k, l, c).astype(kernels.dtype)


dynamic_conv.defvjp(_forward, _backward)


def _correlate(x: Array, kernels: Array, centre: tuple[int, int]) -> Array:
    """Float32 correlation in which output cell (0, 0) lies under cell `centre` of the kernel."""
    h, w = x.shape[1:3]
    padded, kernels = _padded(x, kernels, centre), kernels.astype(jnp.float32)
    out = jnp.zeros(x.shape, jnp.float32)
    for i in range(kernels.shape[1]):
        for j in range(kernels.shape[2]):
            out = out + padded[:, i : i + h, j : j + w].astype(jnp.float32) * kernels[:, i, j, None, None]
    return out


def _padded(x: Array, kernels: Array, centre: tuple[int, int]) -> Array:
    rows, columns = ((low, size - 1 - low) for low, size in zip(centre, kernels.shape[1:3], strict=True))
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _centre(kernels: Array) -> tuple[int, int]:
    return kernels.shape[1] // 2, kernels.shape[2] // 2
