"""What every module of a network was given and gave, on both sides, and which modules are each other's counterpart."""

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from torch import nn

from kimnet_jax.interop.parity.pair import Arrays, Pair, call_twin, floating, to_numpy
from kimnet_jax.interop.translation import flatten, translate
from kimnet_jax.models.chain import ChainNetwork
from kimnet_jax.models.outputs import VideoOutput
from kimnet_jax.models.temporal import TemporalModule


class Call(NamedTuple):
    """One call of a module, recorded when it returned; `number` counts the module's calls. `arguments`: ours only."""

    module: str
    number: int
    inputs: Arrays
    outputs: Arrays
    arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})


class TwinRecorder:
    """Calls of the modules of a PyTorch network; where `keep` is given, arrays are kept of these calls only (by index)."""

    def __init__(self, keep: Collection[int] | None = None):
        self.calls: list[Call] = []
        self.keep = keep

    @contextlib.contextmanager
    def on(self, twin: nn.Module) -> Iterator[None]:
        """Records while in the context."""
        counts: dict[str, int] = {}

        def hook(name: str) -> Callable[..., None]:
            def record(module: nn.Module, args: Any, kwargs: Any, outputs: Any) -> None:
                number = counts[name] = counts.get(name, -1) + 1
                kept = self.keep is None or len(self.calls) in self.keep
                arrays = (_arrays((args, kwargs)), _arrays(outputs)) if kept else ((), ())
                self.calls.append(Call(name, number, *arrays))

            return record

        handles = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in twin.named_modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def record_twin(twin: nn.Module, pair: Pair, dtype: str) -> list[Call]:
    """The calls of one forward pass, in the order in which they returned."""
    recorder = TwinRecorder()
    with recorder.on(twin):
        call_twin(twin, pair.inputs, dtype)
    return recorder.calls


def record_model(pair: Pair) -> list[Call]:
    """The same of ours, run operation by operation, and frame by frame as PyTorch's, so that every step of a recursion is seen.

    What runs under a transformation of its own (`jax.checkpoint`, `jax.vmap`) has no values to record.
    """
    for name, module in pair.modules.items():
        module.parity_name = name  # an attribute, since the recursion calls copies
    calls: list[Call] = []
    counts: dict[str, int] = {}
    inside: list[Any] = []

    def recorded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            if inside and inside[-1] is module:  # the method of the base class
                return method(module, *args, **kwargs)
            inside.append(module)
            outputs = method(module, *args, **kwargs)
            inside.pop()
            name = getattr(module, 'parity_name', None)
            if name is not None and not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, outputs))):
                number = counts[name] = counts.get(name, -1) + 1
                calls.append(Call(name, number, _arrays((args, kwargs)), _arrays(outputs), (args, kwargs)))
            return outputs

        return call

    kinds = {kind for module in pair.modules.values() for kind in type(module).__mro__}
    originals = {(kind, '__call__'): vars(kind)['__call__'] for kind in kinds if '__call__' in vars(kind)}
    originals |= {(kind, 'propagate'): vars(kind)['propagate'] for kind in kinds if issubclass(kind, TemporalModule)}
    try:
        for (kind, name), method in originals.items():
            setattr(kind, name, recorded(_frame_by_frame if kind is ChainNetwork else method))
        with jax.disable_jit():
            pair.model(*pair.inputs)
    finally:
        for (kind, name), method in originals.items():
            setattr(kind, name, method)
    return calls


def _frame_by_frame(model: ChainNetwork, frames: jax.Array) -> VideoOutput:
    """`model(frames)`, which would prepare the steps of all frames at once."""
    features = model.encode(frames)
    state, _ = model.begin(frames[:, 0], features[:, 0])
    heatmaps = [state.heatmaps]
    for t in range(1, frames.shape[1]):
        state, _ = model.transition(state, model.transition.prepare(features[:, t]))
        heatmaps.append(state.heatmaps)
    return VideoOutput(jnp.stack(heatmaps, 1), state, {})


def _arrays(tree: Any) -> Arrays:
    return tuple(to_numpy(leaf) for leaf in floating(tree))


def counterparts(pair: Pair, theirs: Collection[str], ours: Collection[str]) -> dict[str, str]:
    """PyTorch's module names -> ours, for modules with the same weights (by the network's table), out of those that were called.

    Where several modules that contain each other have the same weights, the inner ones go together.
    """
    state = {key: tensor.numpy() for key, tensor in pair.twin.state_dict().items()}
    paths = {key: tuple(translate({key: array}, pair.rules)) for key, array in state.items()}
    variables = list(flatten(nnx.state(pair.model, (nnx.Param, nnx.BatchStat))))
    mine = _by_weights(ours, {path: (path,) for path in variables})
    found = {'': ''}
    for weights, names in _by_weights(theirs, paths).items():
        inner = [name for name in mine.get(weights, ()) if name]
        found |= dict(zip((name for name in names if name), inner, strict=False))
    return found


def _by_weights(names: Collection[str], paths: Mapping[str, tuple[str, ...]]) -> dict[frozenset[str], list[str]]:
    """The modules that hold each set of weights, inner ones first."""
    grouped: dict[frozenset[str], list[str]] = {}
    for name in sorted(names, key=lambda name: -name.count('.')):
        held = frozenset(path for key, group in paths.items() if not name or key.startswith(f'{name}.') for path in group)
        if held:
            grouped.setdefault(held, []).append(name)
    return grouped


def laid_out(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """PyTorch's array in the order of axes that gives it our `shape`, channels last where that does; None: there is none.

    [B, T, ...] and [B T, ...] are taken for the same.
    """
    axes = axes_between(array.shape, shape)
    if axes is not None:
        return array.transpose(axes)
    last = np.moveaxis(array, -3, -1) if array.ndim >= 4 else array
    same = last.size == math.prod(shape) and last.shape[-3:] == tuple(shape[-3:])
    return last.reshape(shape) if same else None


def axes_between(theirs: tuple[int, ...], ours: tuple[int, ...]) -> tuple[int, ...] | None:
    """The permutation behind `laid_out`."""
    rank = len(theirs)
    if rank != len(ours):
        return None
    same = tuple(range(rank))
    usual = (*range(rank - 3), rank - 2, rank - 1, rank - 3) if rank >= 4 else same
    for axes in itertools.chain((usual, same), itertools.permutations(range(rank))):
        if tuple(theirs[axis] for axis in axes) == tuple(ours):
            return axes
    return None
