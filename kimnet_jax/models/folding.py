"""BatchNorm at inference: its factor goes into the convolution before it, and a sum remains."""

import collections
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.layers import BatchNorm, Conv, ConvTranspose, watching

Array = jax.Array
Network = TypeVar('Network', bound=nnx.Module)


class Shift(nnx.Module):
    """What is left of a folded BatchNorm: [..., C] plus a bias [C], in float32; output in `dtype`."""

    def __init__(self, bias: Array | np.ndarray, dtype: Dtype):
        self.bias = nnx.Param(bias)
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        return (x + self.bias[...]).astype(self.dtype)


def fold(model: Network, size: int) -> Network:
    """A copy of a video model, for inference alone: the same heatmaps from fewer operations.

    A BatchNorm is folded where all that it reads is what one convolution gives; here nothing else ever reads that. The others
    stay as they are. Which follows which is found by a stream of two frames, which is traced and not run.

    The products are NumPy's: one by one, JAX would compile some sixty programs for them.

    Args:
        model: with its arrays, and with the interface of `KIMNet`.
        size: H = W of the frames, pixels.
    """
    model = nnx.clone(model)
    model.eval()
    modules: list[Any] = [module for _, module in nnx.iter_graph(model) if isinstance(module, nnx.Module)]
    for module in modules:
        if getattr(module, 'remat', False):
            module.remat = False  # is for gradients alone, and would hide the modules within
    shifts = {}
    for conv, norm in _pairs(model, size):
        scale, bias, mean, var = (np.asarray(part[...]) for part in (norm.scale, norm.bias, norm.mean, norm.var))
        factor = scale / np.sqrt(var + np.float32(norm.epsilon))
        for part in (conv.kernel, getattr(conv, 'bias', None)):
            if part is not None:
                part.set_value(np.asarray(part[...]) * factor)
        shifts[norm] = Shift(bias - mean * factor, norm.output_dtype)
    for module in modules:
        for name, child in list(vars(module).items()):
            if isinstance(child, BatchNorm) and child in shifts:
                setattr(module, name, shifts[child])
    return model


def _pairs(model: Any, size: int) -> list[tuple[Any, Any]]:
    """(convolution, BatchNorm) that always follow each other."""
    links: list[list[Any]] = []  # of every call: convolution, its output, the BatchNorm that reads it; None where there is none

    def watch(module: nnx.Module, x: Array, y: Array) -> None:
        if isinstance(module, Conv | ConvTranspose):
            links.append([module, y, None])
        elif (link := next((link for link in links if link[1] is x), None)) is None:
            links.append([None, None, module])
        else:
            link[2] = module

    def stream(frames: Array) -> Array:
        return model.step(model.init_state(frames)[1], frames)[0]

    with watching(watch):  # statistics that share a convolution are among the norms, so that it is not folded
        jax.eval_shape(stream, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    pairs = {(conv, norm) for conv, _, norm in links}
    partners = collections.Counter(module for pair in pairs for module in pair)
    return [pair for pair in pairs if None not in pair and all(partners[module] == 1 for module in pair)]
