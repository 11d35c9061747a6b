"""From the entries of a PyTorch state_dict to the variables of a module of ours and back, strict on both sides."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.models.weights import assign as assign
from kimnet_jax.models.weights import flatten as flatten

Leaves = dict[str, tuple[str | None, tuple[int, ...] | None]]  # PyTorch's leaf -> (ours, permutation of the axes); None: dropped

CONV: Leaves = {'weight': ('kernel', (2, 3, 1, 0)), 'bias': ('bias', None)}
CONV_1D: Leaves = {'weight': ('kernel', (2, 1, 0)), 'bias': ('bias', None)}
CONV_TRANSPOSE: Leaves = {'weight': ('kernel', (2, 3, 0, 1))}
BATCH_NORM: Leaves = {
    'weight': ('scale', None),
    'bias': ('bias', None),
    'running_mean': ('mean', None),
    'running_var': ('var', None),
    'num_batches_tracked': (None, None),
}
LINEAR: Leaves = {'weight': ('kernel', (1, 0)), 'bias': ('bias', None)}
LAYER_NORM: Leaves = {'weight': ('scale', None), 'bias': ('bias', None)}
ATTENTION: Leaves = {'in_proj_weight': ('in_proj_kernel', (1, 0)), 'in_proj_bias': ('in_proj_bias', None)}
DROPPED: Leaves = {'weight': (None, None), 'bias': (None, None)}


class Rule(NamedTuple):
    """Modules whose whole PyTorch name matches `pattern` become `path` (with the groups of the match)."""

    pattern: str
    path: str
    leaves: Leaves


Table = tuple[Rule, ...]


def prefixed(source: str, target: str, table: Table) -> Table:
    """The table of a network that is the part `source` of a larger one and the part `target` (or, if '', the whole) of ours."""
    start = f'{target}.' if target else ''
    return tuple(Rule(rf'{re.escape(source)}\.(?:{rule.pattern})', start + rule.path, rule.leaves) for rule in table)


class Place(NamedTuple):
    """Where an entry of PyTorch's goes: our path (None: nowhere, it is dropped) and the permutation of its axes."""

    path: str | None
    axes: tuple[int, ...] | None


def places(keys: Mapping[str, Any], table: Table) -> tuple[dict[str, Place], list[str]]:
    """(place of every key that one rule takes, problems: a line for every other key and for every path that two keys go to)."""
    found: dict[str, Place] = {}
    taken: dict[str, str] = {}
    problems = []
    for key in keys:
        module, _, leaf = key.rpartition('.')
        matches = [(rule, match) for rule in table if leaf in rule.leaves and (match := re.fullmatch(rule.pattern, module))]
        if len(matches) != 1:
            problems.append(f'{key}: taken by {len(matches)} rules')
            continue
        rule, match = matches[0]
        name, axes = rule.leaves[leaf]
        path = None if name is None else f'{match.expand(rule.path)}.{name}'
        if path in taken:
            problems.append(f'{key}: goes to {path}, as {taken[path]} does')
            continue
        if path is not None:
            taken[path] = key
        found[key] = Place(path, axes)
    return found, problems


def translate(arrays: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """PyTorch's entries under our paths (`layer1.0.conv1.kernel`), axes in our order.

    Raises `InputError` listing every entry that no rule, or more than one, takes.
    """
    found, problems = places(arrays, table)
    if problems:
        raise InputError('\n'.join(['these weights are not those of this network:', *problems]))
    return placed(arrays, found)


def placed(arrays: Mapping[str, np.ndarray], found: Mapping[str, Place]) -> dict[str, np.ndarray]:
    """The arrays at their places."""
    return {path: _permuted(arrays[key], axes) for key, (path, axes) in found.items() if path is not None}


def translate_back(arrays: Mapping[str, np.ndarray], table: Table, template: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `translate`: our arrays under the keys of `template`, a PyTorch state_dict of the same network.

    What the table drops keeps the template's values; all else of the template serves for its shape only. Raises `InputError`
    listing all that does not fit.
    """
    found, problems = places(template, table)
    translated = {}
    for key, (path, axes) in found.items():
        if path is None:
            translated[key] = np.asarray(template[key])
        elif path not in arrays:
            problems.append(f'{key}: {path} is missing in the weights')
        else:
            translated[key] = _permuted(arrays[path], axes and tuple(axes.index(i) for i in range(len(axes))))
            if translated[key].shape != template[key].shape:
                problems.append(f'{key}: {translated[key].shape} in the weights, {template[key].shape} in PyTorch')
    used = {place.path for place in found.values()}
    problems += [f'{path}: has no place in PyTorch' for path in arrays if path not in used]
    if problems:
        raise InputError('\n'.join(['these weights do not fit the PyTorch network:', *problems]))
    return translated


def _permuted(array: np.ndarray, axes: tuple[int, ...] | None) -> np.ndarray:
    """Of another rank it stays as it is; its shape fits nowhere then."""
    return np.transpose(array, axes) if axes and np.ndim(array) == len(axes) else np.asarray(array)
