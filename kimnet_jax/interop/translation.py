"""From the entries of a PyTorch state_dict to the variables of a module of ours, strict on both sides."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from kimnet_jax.core.errors import InputError

Leaves = dict[str, tuple[str | None, tuple[int, ...] | None]]  # PyTorch's leaf -> (ours, permutation of the axes); None: dropped

CONV: Leaves = {'weight': ('kernel', (2, 3, 1, 0)), 'bias': ('bias', None)}
CONV_TRANSPOSE: Leaves = {'weight': ('kernel', (2, 3, 0, 1))}
BATCH_NORM: Leaves = {
    'weight': ('scale', None),
    'bias': ('bias', None),
    'running_mean': ('mean', None),
    'running_var': ('var', None),
    'num_batches_tracked': (None, None),
}
DROPPED: Leaves = {'weight': (None, None), 'bias': (None, None)}


class Rule(NamedTuple):
    """Modules whose whole PyTorch name matches `pattern` become `path` (with the groups of the match)."""

    pattern: str
    path: str
    leaves: Leaves


Table = tuple[Rule, ...]


def prefixed(source: str, target: str, table: Table) -> Table:
    """The table of a network that is the part `source` of a larger one and the part `target` of ours."""
    return tuple(Rule(rf'{re.escape(source)}\.(?:{rule.pattern})', f'{target}.{rule.path}', rule.leaves) for rule in table)


def translate(arrays: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """PyTorch's entries under our paths (`layer1.0.conv1.kernel`), axes in our order.

    Raises `InputError` listing every entry that no rule, or more than one, takes.
    """
    translated, problems = {}, []
    for key, array in arrays.items():
        module, _, leaf = key.rpartition('.')
        found = [(rule, match) for rule in table if leaf in rule.leaves and (match := re.fullmatch(rule.pattern, module))]
        if len(found) != 1:
            problems.append(f'{key}: taken by {len(found)} rules')
            continue
        rule, match = found[0]
        name, axes = rule.leaves[leaf]
        if name is not None:
            translated[f'{match.expand(rule.path)}.{name}'] = np.transpose(array, axes) if axes else np.asarray(array)
    if problems:
        raise InputError('\n'.join(['these weights are not those of this network:', *problems]))
    return translated


def flatten(state: Any) -> dict[str, Any]:
    """Leaves of an NNX state by path, as `translate` names them."""
    return {'.'.join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def assign(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Fills every parameter and statistic of `model` (also one of `nnx.eval_shape`); nothing may be left over on either side.

    Raises `InputError` listing all that is missing, unknown or of another shape; the model is then unchanged.
    """
    ours = flatten(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    problems = [f'{path}: missing in the weights' for path in ours if path not in arrays]
    for path, array in arrays.items():
        if path not in ours:
            problems.append(f'{path}: not in the model')
        elif array.shape != ours[path].shape:
            problems.append(f'{path}: {array.shape} in the weights, {ours[path].shape} in the model')
    if problems:
        raise InputError('\n'.join(['these weights do not fit the model:', *problems]))
    for path, variable in ours.items():
        variable.set_value(jnp.asarray(arrays[path], variable.dtype))
