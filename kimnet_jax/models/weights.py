"""Weights by name: the variables of a module as a flat dict, and filling a module from one, strict on both sides."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.joint_names import matched
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.models.backbones import Adapted
from kimnet_jax.models.per_frame import PerFrame

# of networks of images: heatmaps from features, one channel a joint, and an hourglass's way from them into the next stack
_HEADS = re.compile(r'(final_layer)\.|stacks\.\d+\.(score|merge_score)\.')


def joint_axes(model: nnx.Module, larger: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Path -> axes that run over the joints, of the variables that have such: those that grow with the number of joints.

    Where an axis has other channels too, as that of features joined to heatmaps has, the joints are the first ones: every network
    here joins in that order.

    Args:
        model: a network, or a part of one; may be abstract.
        larger: the same for one joint more.
    """
    shapes, grown = ({path: leaf.shape for path, leaf in _variables(m).items()} for m in (model, larger))
    found = {path: tuple(i for i, n in enumerate(shape) if grown[path][i] != n) for path, shape in shapes.items()}
    return {path: axes for path, axes in found.items() if axes}


def flatten(state: Any) -> dict[str, Any]:
    """Leaves of an NNX state by path, such as `layer1.0.conv1.kernel`."""
    return {'.'.join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(state)}


def assign(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> None:
    """Fills every parameter and statistic of `model` (also one of `nnx.eval_shape`); nothing may be left over on either side.

    Raises `InputError` listing all that is missing, unknown or of another shape; the model is then unchanged.
    """
    _fill(model, arrays, ())


def part_of(model: nnx.Module, name: str) -> nnx.Module | None:
    """`model`, the whole network, or a part of it by its attribute, without what wraps it; None where there is none."""
    part: Any = model if name == 'model' else getattr(model, name, None)
    wrapped: Any = part.network if isinstance(part, PerFrame | Adapted) else part
    return wrapped


def initialise(
    model: nnx.Module,
    arrays: Mapping[str, np.ndarray],
    *,
    partial: bool = False,
    skeleton: Skeleton | None = None,
    source_skeleton: Skeleton | None = None,
    larger: nnx.Module | None = None,
) -> list[str]:
    """Fills `model` as `assign` does, but for what another data set or another use of the network brings with it.

    Args:
        model: the network, or a part of one, with its random weights.
        arrays: its weights by path.
        partial: whole children of `model` that `arrays` have nothing of (the upsampling of a plain backbone) may keep theirs.
        skeleton: of `model`; None: joints are not told apart.
        source_skeleton: of `arrays`; None: not known.
        larger: `model` for one joint more, abstract, which tells the axes of joints; needed with `skeleton`.

    Returns:
        What was left out, carried over by name or stayed random, for the user. Where the skeletons differ, each joint of `model`
        takes what the joint of the same name (`core.joint_names`) has, in every variable with an axis of joints, and the others
        stay random. Layers that give heatmaps are left out where `model` has none, and where the joints are not known and differ
        in number.

    Raises:
        InputError: as `assign`.
    """
    ours = _variables(model)
    given, lines = dict(arrays), list[str]()
    if skeleton is not None and larger is not None:
        given, lines = _by_name(ours, given, joint_axes(model, larger), skeleton, source_skeleton)
    kept: set[str] = set()
    heads, expected = _heads(given), _heads(ours)
    names = ', '.join(sorted(set(heads.values())))
    if heads and not expected:
        lines.append(f'{names} left out: not in this network')
    elif heads and heads == expected and (there := _joints(given)) != (here := _joints(ours)):
        lines.append(f'{names} left out, so random: {there} joints in the source, {here} here')
        kept |= expected.keys()
    else:
        heads = {}
    for path in heads:
        del given[path]
    if partial:
        absent = {_child(path) for path in ours} - {_child(path) for path in arrays}
        if absent:
            lines.append(f'not in the weights, so random: {", ".join(sorted(absent))}')
            kept |= {path for path in ours if _child(path) in absent}
    _fill(model, given, kept)
    return lines


def _by_name(
    ours: Mapping[str, Any],
    arrays: dict[str, np.ndarray],
    joint_axes: Mapping[str, Sequence[int]],
    here: Skeleton,
    there: Skeleton | None,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays for the joints of the model, and lines for the user. Raises `InputError` where they are not of those joints."""
    shared = [path for path in joint_axes if path in arrays]
    if not shared or (there is not None and there.joints == here.joints):
        return arrays, []
    if there is None:
        same = all(arrays[path].shape == ours[path].shape for path in shared)
        way = f'taken as those of {here.name}' if same else 'not matched by name'
        return arrays, [f'the joints of these weights are unknown and {way}']
    pairs = matched(here.joints, there.joints)
    targets, sources = ([pair[side] for pair in pairs] for side in (0, 1))
    given = dict(arrays)
    fewer = here.num_joints - there.num_joints
    for path in shared:
        array, value, axes = arrays[path], np.array(ours[path][...]), joint_axes[path]
        expected = tuple(size - fewer if axis in axes else size for axis, size in enumerate(value.shape))
        if array.shape != expected:
            raise InputError(f'{path}: {array.shape} in the weights, {expected} by the joints of {there.name!r} and the model')
        taken = np.ix_(*(_along(size, axis in axes, sources, there) for axis, size in enumerate(array.shape)))
        filled = np.ix_(*(_along(size, axis in axes, targets, here) for axis, size in enumerate(value.shape)))
        value[filled] = array[taken]
        given[path] = value
    return given, [_describe_joints(there, here, pairs)]


def _along(size: int, over_joints: bool, chosen: Sequence[int], skeleton: Skeleton) -> Sequence[int]:
    """Indices along an axis: those of the chosen joints, and all channels that come after the joints."""
    return [*chosen, *range(skeleton.num_joints, size)] if over_joints else range(size)


def _describe_joints(there: Skeleton, here: Skeleton, pairs: list[tuple[int, int]]) -> str:
    names = [here.joints[i] for i, _ in pairs]
    parts = [f'joints of {there.name} matched by name: {", ".join(names) or "none"}']
    for what, one, side in (('new, so random', here, 0), ('left out', there, 1)):
        taken = {pair[side] for pair in pairs}
        rest = [name for i, name in enumerate(one.joints) if i not in taken]
        parts += [f'{what}: {", ".join(rest)}'] if rest else []
    return '; '.join(parts)


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
