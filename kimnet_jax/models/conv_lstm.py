"""Convolutional LSTM (Shi et al., NeurIPS 2015), without peepholes, as LSTM Pose Machines have it (Luo et al., CVPR 2018)."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.layers import Conv, torch_conv

Array = jax.Array


class Memory(NamedTuple):
    """Cell and hidden state, float32 [B, h, w, M] each."""

    cell: Array
    hidden: Array


class ConvLSTM(nnx.Module):
    """Updates a memory by what is seen in the next frame.

    Unlike `KMM` and `DKD`, which know of the past what the last heatmaps and features tell, it has a memory of its own, which the
    state of the chain has to carry.
    """

    def __init__(self, features_in: int, memory: int, *, forget_bias: float = 1.0, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`memory`: M, channels; `forget_bias`: added to the forget gate's initial bias. `dtype`: of the convolutions."""
        self.conv_x = nnx.Dict({gate: torch_conv(features_in, memory, 3, dtype=dtype, rngs=rngs) for gate in 'gifo'})
        self.conv_h = nnx.Dict({gate: torch_conv(memory, memory, 3, use_bias=False, dtype=dtype, rngs=rngs) for gate in 'gifo'})
        bias = self.conv_x['f'].bias
        assert bias is not None
        bias[...] += forget_bias

    def __call__(self, memory: Memory, inputs: Array) -> Memory:
        """Memory of frame t and inputs [B, h, w, C] of frame t+1 -> memory of frame t+1."""
        seen = together([self.conv_x[gate] for gate in 'gifo'], inputs)
        remembered = together([self.conv_h[gate] for gate in 'gifo'], memory.hidden)
        g, i, f, o = (a + b for a, b in zip(seen, remembered, strict=True))
        cell = jax.nn.sigmoid(f) * memory.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
        return Memory(cell, jax.nn.sigmoid(o) * jnp.tanh(cell))


def together(convs: Sequence[Conv], x: Array) -> list[Array]:
    """`[conv(x) for conv in convs]` in float32, for 3x3 convolutions of the same size, as one."""
    dtype = convs[0].dtype
    kernel = jnp.concatenate([conv.kernel[...] for conv in convs], -1).astype(dtype)
    dimensions = ('NHWC', 'HWIO', 'NHWC')
    y = jax.lax.conv_general_dilated(x.astype(dtype), kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=dimensions)
    parts = jnp.split(y.astype(jnp.float32), len(convs), -1)
    return [part if conv.bias is None else part + conv.bias[...] for part, conv in zip(parts, convs, strict=True)]
