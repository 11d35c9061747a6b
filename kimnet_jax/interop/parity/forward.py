"""Forward error of every module in execution order, and why the first that disagrees does."""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from kimnet_jax.interop.parity.capture import (
    Call,
    TwinRecorder,
    axes_between,
    counterparts,
    laid_out,
    record_model,
    record_twin,
)
from kimnet_jax.interop.parity.pair import Arrays, Pair, call_twin, floating, relative_error, to_numpy
from kimnet_jax.interop.parity.traps import Changed, Trap, traps
from kimnet_jax.interop.translation import flatten, translate

OWN = {'float32': 1e-5, 'bfloat16': 1e-2}  # error of one module, given the same input
NETWORK = {'float32': 1e-4, 'bfloat16': 2e-2}  # through the whole network
ABSENT = '?'  # no module's path
MARGIN = {'float32': 10.0, 'bfloat16': 4.0}  # times PyTorch's own error: what two roundings of one computation may differ by
NESTING = 2  # blocks of blocks of layers are fed on their own; larger parts are judged by their parts
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


class ModuleError(NamedTuple):
    """Relative errors of one call of a module against PyTorch in float64.

    Attributes:
        module, path: PyTorch's name and ours; both are empty for the network itself.
        call: which of the module's calls, from 0.
        error: of the output in the network; infinite where shapes differ.
        input_error: of the input in the network; None where the calls are not alike.
        own_error: of the output, given PyTorch's input; None where the calls are not alike or the module is too large.
        norm_error: of outputs and statistics of a normalisation in train mode; see `_norm_probe`.
        torch_error: PyTorch's own error in the same precision.
        firm: a layer, or the network: the same thing on both sides. A block may be cut elsewhere, such as before its ReLU.
        position: among all calls of PyTorch's modules.
    """

    module: str
    path: str
    call: int
    error: float
    input_error: float | None
    own_error: float | None
    norm_error: float | None
    torch_error: float
    firm: bool
    position: int


class Finding(NamedTuple):
    """The first module that leaves the tolerance: where it does, and the trap that explains it, if one does."""

    module: str
    path: str
    call: int
    where: str  # 'module', 'normalisation', 'before', 'inside'
    error: float
    tolerance: float
    trap: Trap | None
    position: int


def forward_errors(pair: Pair) -> tuple[list[ModuleError], Finding | None]:
    """Compares one forward pass in eval mode, module by module in the order in which PyTorch's return."""
    with torch.no_grad():
        exact, theirs = record_twin(pair.exact, pair, 'float64'), record_twin(pair.twin, pair, pair.dtype)
        ours = record_model(pair)
        names = counterparts(pair, {call.module for call in exact}, {call.module for call in ours})
        found = {(call.module, call.number): call for call in ours}
        own = {(call.module, call.number): call for call in theirs}
        rows = []
        for position, reference in enumerate(exact):
            call = found.get((names.get(reference.module, ABSENT), reference.number))
            if call is None or not call.outputs or not reference.outputs:
                continue
            depth = _depth(reference.module, names)
            outputs, inputs = _alike(reference.outputs, call.outputs), _alike(reference.inputs, call.inputs)
            same_calls = len(call.inputs) == len(reference.inputs) and _same_shapes(call.inputs, inputs)
            own_outputs = _own_outputs(pair, call, inputs) if same_calls and depth <= NESTING and reference.module else None
            rows.append(
                ModuleError(
                    reference.module,
                    call.module,
                    reference.number,
                    relative_error(call.outputs, outputs),
                    relative_error(call.inputs, inputs) if same_calls else None,
                    relative_error(own_outputs, outputs) if own_outputs and _same_shapes(own_outputs, outputs) else None,
                    _norm_error(pair, reference, call) if reference.number == 0 else None,
                    relative_error(own[reference.module, reference.number].outputs, reference.outputs),
                    not reference.module or (depth == 0 and _same_shapes(call.outputs, outputs)),
                    position,
                )
            )
        return rows, _first(pair, rows, exact, found)


def _depth(name: str, names: dict[str, str]) -> int:
    """How many levels of modules that were compared lie inside."""
    return max((len(other.split('.')) - len(name.split('.')) for other in names if other.startswith(f'{name}.')), default=0)


def _alike(theirs: Arrays, ours: Arrays) -> Arrays:
    """PyTorch's arrays in our layout, as far as they have a counterpart; where shapes differ the array as it is."""
    arrays = [(laid_out(array, mine.shape), array) for array, mine in zip(theirs, ours, strict=False)]
    return tuple(array if layout is None else layout for layout, array in arrays)


def _same_shapes(ours: Arrays, theirs: Arrays) -> bool:
    return all(a.shape == b.shape for a, b in zip(ours, theirs, strict=False))


def _own_outputs(pair: Pair, call: Call, inputs: Arrays) -> Arrays | None:
    """What our module gives for PyTorch's inputs; None where its call has other arrays than it was recorded with."""
    leaves, structure = jax.tree.flatten(call.arguments)
    arrays = floating(call.arguments)
    places = [i for i, leaf in enumerate(leaves) if any(leaf is array for array in arrays)]
    if len(places) != len(inputs):
        return None
    for place, array in zip(places, inputs, strict=True):
        leaves[place] = jnp.asarray(array, leaves[place].dtype)
    arguments, keywords = jax.tree.unflatten(structure, leaves)
    with jax.disable_jit():  # as recorded: nothing is compiled again
        outputs = pair.modules[call.module](*arguments, **keywords)
    return tuple(to_numpy(leaf) for leaf in floating(outputs))


def _norm_error(pair: Pair, reference: Call, call: Call) -> float | None:
    probe = _norm_probe(pair, reference, call)
    return None if probe is None else relative_error(probe[0], probe[1]())


def _norm_probe(pair: Pair, reference: Call, call: Call) -> tuple[Arrays, Callable[[], Arrays]] | None:
    """Our normalisation's outputs and statistics in train mode, and what computes PyTorch's.

    In evaluation the variance is near 1 and a wrong eps hides, and the running statistics do not move. So it gets the few values
    of a corner, of which the biased variance is far from the unbiased one, and the same with a variance near eps.
    """
    module = pair.exact.get_submodule(reference.module)
    if not isinstance(module, _NORMS) or len(call.inputs) != 1:
        return None
    axes = axes_between(reference.inputs[0].shape, call.inputs[0].shape)
    array = reference.inputs[0]
    kept = (1,) if isinstance(module, _NORMS[0]) else range(array.ndim - len(module.normalized_shape), array.ndim)
    array = array[tuple(slice(None) if axis in kept else slice(2 + (axis > 0)) for axis in range(array.ndim))]
    deviation = float(array.std())
    if axes is None or not deviation or (isinstance(module, _NORMS[0]) and array.size == array.shape[1]):
        return None
    arrays = (array, array * np.float32(3e-3 / deviation))
    model = nnx.clone(pair.modules[call.module])
    model.train()
    with jax.disable_jit():
        outputs = tuple(to_numpy(model(jnp.asarray(array.transpose(axes)))) for array in arrays)
    statistics = flatten(nnx.state(model, nnx.BatchStat))
    prefix = f'{call.module}.'

    def theirs() -> Arrays:
        copied = copy.deepcopy(module).train()
        results = [to_numpy(copied(torch.from_numpy(array).double())).transpose(axes) for array in arrays]
        buffers = {f'{reference.module}.{key}': to_numpy(value) for key, value in copied.named_buffers()}
        moved = translate(buffers, pair.rules)
        return (*results, *(moved[prefix + key] for key in statistics))

    return (*outputs, *map(to_numpy, statistics.values())), theirs


def tolerance(row: ModuleError, dtype: str) -> float:
    """What a module's output in the network may be off: that of one module, or more where PyTorch itself is."""
    return max(OWN[dtype], MARGIN[dtype] * row.torch_error)


def fault(row: ModuleError, dtype: str) -> tuple[str, float, float] | None:
    """(where, error, tolerance) of what is wrong with a module, None where nothing is."""
    for where, error in (('module', row.own_error), ('normalisation', row.norm_error)):
        if error is not None and not error <= OWN[dtype]:
            return where, error, OWN[dtype]
    limit = tolerance(row, dtype)
    if row.error <= limit:
        return None
    if row.input_error is not None and not row.input_error <= limit:
        return 'before', row.input_error, limit
    return 'inside', row.error, limit


def _first(pair: Pair, rows: Sequence[ModuleError], exact: Sequence[Call], found: dict[tuple[str, int], Call]) -> Finding | None:
    """A block that differs counts only where no layer after it agrees."""
    good = -1
    for i, row in enumerate(rows):
        if row.firm and fault(row, pair.dtype):
            break
        good = i if row.firm else good
    else:
        return None
    row = next(row for row in rows[good + 1 :] if fault(row, pair.dtype))
    wrong = fault(row, pair.dtype)
    assert wrong is not None
    after = rows[good].position if good >= 0 else -1
    trap = _diagnose(pair, exact[row.position], found[row.path, row.call], row.position, *wrong[:2], after)
    return Finding(row.module, row.path, row.call, *wrong, trap, row.position)


def _diagnose(pair: Pair, reference: Call, call: Call, position: int, where: str, error: float, after: int) -> Trap | None:
    """The trap that, put into PyTorch's side, gives our numbers; `after` is the position of the last layer that agreed."""
    starts: tuple[int, ...] = (-1,)
    if where == 'module':
        ours = _own_outputs(pair, call, _alike(reference.inputs, call.inputs)) or ()

        def again(trap: Trap, start: int) -> Arrays | None:
            module = copy.deepcopy(pair.exact.get_submodule(reference.module))
            with Changed(trap) as mode:
                outputs = module(*(torch.from_numpy(array).double() for array in reference.inputs))
            return tuple(map(to_numpy, floating(outputs))) if mode.used else None
    elif where == 'normalisation':
        probe = _norm_probe(pair, reference, call)
        assert probe is not None
        ours = probe[0]

        def again(trap: Trap, start: int) -> Arrays | None:
            with Changed(trap) as mode:
                outputs = probe[1]()
            return outputs if mode.used else None
    else:
        ours = call.inputs if where == 'before' else call.outputs
        starts = (after, -1)  # first only what came after it

        def again(trap: Trap, start: int) -> Arrays | None:
            recorder = TwinRecorder(keep=(position,))
            with recorder.on(pair.exact), Changed(trap, lambda: len(recorder.calls) > start) as mode:
                call_twin(pair.exact, pair.inputs, 'float64')
            same = recorder.calls[position]
            return (same.inputs if where == 'before' else same.outputs) if mode.used else None

    best: tuple[float, Trap | None] = (math.inf, None)
    for start, trap in itertools.product(starts, traps()):
        try:
            values = again(trap, start)
        except (ValueError, RuntimeError, TypeError):  # no such operation, another shape, or arguments that are no arrays
            continue
        if values is not None:
            rest = relative_error(ours, _alike(values, ours)) / min(error, 1.0)
            if rest < min(best[0], trap.resemblance):
                best = (rest, trap)
    return best[1]
