"""One network in both frameworks: the same weights, the same batch."""

import copy
import inspect
import math
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop.convert import Weights, to_torch
from kimnet_jax.interop.networks import Network
from kimnet_jax.interop.translation import Table, assign, translate
from kimnet_jax.models.outputs import VideoOutput

Arrays = tuple[np.ndarray, ...]
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class Pair(NamedTuple):
    """Attributes:
    rules: from PyTorch's names to ours.
    model: ours, in `dtype`, eval mode.
    modules: of `model`, by path.
    twin: PyTorch's in float32, eval mode; it computes in `dtype` by autocasting.
    exact: PyTorch's in float64, eval mode.
    inputs: float32, our layout.
    """

    rules: Table
    model: nnx.Module
    modules: dict[str, Any]
    twin: nn.Module
    exact: nn.Module
    inputs: Arrays
    dtype: str


def precisions(network: Network) -> tuple[str, ...]:
    """What a network computes in."""
    module: Any = network.module
    build = module.__init__ if isinstance(module, type) else module  # type: ignore[misc]
    return tuple(DTYPES) if 'dtype' in inspect.signature(build).parameters else ('float32',)


def make_pair(
    network: Network, config: Any, weights: Weights | None, entries: Mapping[str, np.ndarray] | None, dtype: str
) -> Pair:
    """Both networks of a config.

    Args:
        weights: ours; None: `random_weights`.
        entries: PyTorch's state_dict of the same weights, where there is one.

    Raises:
        InputError: the weights do not fit, or the network has no other precision than float32.
    """
    twin = network.make_twin(config)
    rules = network.rules(config)
    if weights is None:
        entries = random_weights(twin)
        arrays = translate(entries, rules)
    else:
        arrays = weights.arrays
        entries, _ = to_torch(weights, entries)
    if dtype not in precisions(network):
        raise InputError(f'{network.twin} computes in {" or ".join(precisions(network))}, not in {dtype}')
    arguments = {} if dtype == 'float32' else {'dtype': DTYPES[dtype]}
    model = nnx.eval_shape(lambda: network.module(config, rngs=nnx.Rngs(0), **arguments))
    assign(model, arrays)
    try:
        twin.load_state_dict({key: torch.tensor(value) for key, value in entries.items()})
    except RuntimeError as error:
        raise InputError(f'the PyTorch network does not take the weights: {error}') from None
    for module in twin.modules():
        if hasattr(module, 'inplace'):
            module.inplace = False  # type: ignore[assignment]  # what was captured before must stay
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    twin.eval()
    model.eval()
    inputs = draw_inputs(network.inputs(config), 0)
    modules = {'.'.join(map(str, path)): module for path, module in nnx.iter_modules(model)}
    return Pair(rules, model, modules, twin, copy.deepcopy(twin).double(), inputs, dtype)


def draw_inputs(shapes: Iterable[tuple[int, ...]], number: int) -> Arrays:
    """The batch of that number: small enough that no softmax over products of it saturates."""
    return tuple(0.3 * _normal(f'input {i}, batch {number}', shape) for i, shape in enumerate(shapes))


def random_weights(twin: nn.Module) -> dict[str, np.ndarray]:
    """Weights under which no layer is trivial and deep networks keep their scale; a function of names and shapes alone."""
    weights = {}
    for key, tensor in twin.state_dict().items():
        owner, _, leaf = key.rpartition('.')
        shape = tuple(tensor.shape)
        if leaf == 'num_batches_tracked':
            weights[key] = np.zeros(shape, np.int64)
        elif leaf == 'running_var':
            weights[key] = _generator(key).uniform(0.5, 1.5, shape).astype(np.float32)
        elif leaf.endswith('weight') and len(shape) == 1:
            weights[key] = _generator(key).uniform(0.35, 0.75, shape).astype(np.float32)
        elif leaf.endswith('weight'):
            fan_in = float(math.prod(shape[1:]))
            module = twin.get_submodule(owner)
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                fan_in = shape[0] * math.prod(shape[2:]) / math.prod(module.stride)
            weights[key] = _normal(key, shape) * np.float32(math.sqrt(2 / fan_in))
        else:  # biases, running means
            weights[key] = 0.1 * _normal(key, shape)
    return weights


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), 0])


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return _generator(name).standard_normal(shape, np.float32)


def channels_first(array: np.ndarray) -> np.ndarray:
    """Our layout to PyTorch's, of the inputs and outputs of a network."""
    return np.moveaxis(array, -1, -3) if array.ndim >= 4 else array


def channels_last(array: np.ndarray) -> np.ndarray:
    """The inverse of `channels_first`."""
    return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array


def call_twin(twin: nn.Module, inputs: Iterable[np.ndarray], dtype: str) -> tuple[torch.Tensor, ...]:
    """The outputs of the network in float64, float32 or, autocasting, bfloat16; inputs in our layout."""
    precision = torch.float64 if dtype == 'float64' else torch.float32
    tensors = [torch.from_numpy(np.ascontiguousarray(channels_first(array))).to(precision) for array in inputs]
    with torch.autocast('cpu', torch.bfloat16, enabled=dtype == 'bfloat16'):
        outputs = twin(*tensors)
    return network_outputs(outputs)


def network_outputs(outputs: Any) -> tuple[Any, ...]:
    """The arrays a network is for: of a `VideoOutput`, and of a twin's (tensor, dict of intermediates), the heatmaps."""
    if isinstance(outputs, VideoOutput):
        return (outputs.heatmaps,)
    if not isinstance(outputs, tuple | list):
        return (outputs,)
    return tuple(outputs[:1]) if isinstance(outputs[-1], dict) else tuple(outputs)


def to_numpy(value: Any) -> np.ndarray:
    """A float32 copy of a tensor or array of any floating precision."""
    if isinstance(value, torch.Tensor):
        return value.detach().to(torch.float32, copy=True).numpy()
    return np.asarray(value, np.float32)


def floating(tree: Any) -> list[Any]:
    """The floating arrays or tensors of nested arguments or results, in order."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_floating(leaf)]


def _is_floating(leaf: Any) -> bool:
    if isinstance(leaf, torch.Tensor):
        return leaf.is_floating_point()
    return isinstance(leaf, jax.Array | np.ndarray) and bool(jnp.issubdtype(leaf.dtype, jnp.floating))


def relative_error(values: Iterable[np.ndarray], references: Iterable[np.ndarray]) -> float:
    """The largest of |value - reference| / |reference| (Euclidean norms); infinite for other shapes and values not finite."""
    worst = 0.0
    for value, reference in zip(values, references, strict=False):
        if value.shape != reference.shape:
            return math.inf
        size = float(np.linalg.norm(reference.astype(np.float64)))
        difference = float(np.linalg.norm(value.astype(np.float64) - reference))
        if not math.isfinite(difference):
            return math.inf
        worst = max(worst, difference / size if size else difference)
    return worst
