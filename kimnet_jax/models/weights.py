"""Weights by name: the variables of a module as a flat dict, and filling a module from one, strict on both sides."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from kimnet_jax.core.errors import InputError

# of networks of images: heatmaps from features, one channel a joint, and an hourglass's way from them into the next stack
_HEADS = re.compile(r'(final_layer)\.|stacks\.\d+\.(score|merge_score)\.')


def flatten(state: Any) -> dict[str, Any]:
    """Leaves of an NNX state by path, such as `layer1.0.conv1.kernel`."""
    return {'.'.join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def assign(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Fills every parameter and statistic of `model` (also one of `nnx.eval_shape`); nothing may be left over on either side.

    Raises `InputError` listing all that is missing, unknown or of another shape; the model is then unchanged.
    """
    _fill(model, arrays, ())


def initialise(model: nnx.Module, arrays: Mapping[str, np.ndarray], *, partial: bool = False) -> list[str]:
    """Fills `model` as `assign` does, but for what another data set or another use of the network brings with it.

    Args:
        model: the network, or a part of one, with its random weights.
        arrays: its weights by path.
        partial: whole children of `model` that `arrays` have nothing of (the upsampling of a plain backbone) may keep theirs.

    Returns:
        What was left out or stayed random, for the user. The layers that give heatmaps are left out where their joints differ in
        number or where `model` has none.

    Raises:
        InputError: as `assign`.
    """
    ours = _variables(model)
    given, lines = dict(arrays), []
    kept: set[str] = set()
    heads, expected = _heads(given), _heads(ours)
    names = ', '.join(sorted(set(heads.values())))
    if heads and not expected:
        lines.append(f'{names} left out: there is none here')
    elif heads and heads == expected and (there := _joints(given)) != (here := _joints(ours)):
        lines.append(f'{names} left out, it stays random: {there} joints there, {here} here')
        kept |= expected.keys()
    else:
        heads = {}
    for path in heads:
        del given[path]
    if partial:
        absent = {_child(path) for path in ours} - {_child(path) for path in arrays}
        if absent:
            lines.append(f'not in the weights, so still random: {", ".join(sorted(absent))}')
            kept |= {path for path in ours if _child(path) in absent}
    _fill(model, given, kept)
    return lines


def _fill(model: nnx.Module, arrays: Mapping[str, np.ndarray], kept: Collection[str]) -> None:
    """`assign`, but the paths in `kept` keep what they have."""
    ours = {path: variable for path, variable in _variables(model).items() if path not in kept}
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


def _variables(model: nnx.Module) -> dict[str, Any]:
    return flatten(nnx.state(model, (nnx.Param, nnx.BatchStat)))


def _child(path: str) -> str:
    return path.partition('.')[0]


def _heads(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Path -> name of the layer, of the layers that give heatmaps."""
    return {path: found[1] or found[2] for path in arrays if (found := _HEADS.match(path))}


def _joints(arrays: Mapping[str, Any]) -> int:
    """J: the last axis of any array of a layer that gives heatmaps."""
    return int(next(arrays[path] for path, name in _heads(arrays).items() if name != 'merge_score').shape[-1])
