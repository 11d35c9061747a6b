"""Where arrays live: one mesh with the axis `data`. Batches are split over it, and so are the large arrays of which each device
needs a part alone (ZeRO stage 1: Rajbhandari et al., arXiv 1910.02054); everything else is on every device.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.platform import Platform, platform_of

MOST_CLIPS = 1_000_000  # in a batch
SHARED_FROM = 65_536  # numbers in an array that is split: exchanging the parts of smaller ones takes longer than they save


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices in one row; None: all of all processes."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def platform(mesh: Mesh) -> Platform:
    """Of the devices of a mesh."""
    return platform_of(mesh.devices.flat[0].platform)


def split(mesh: Mesh) -> NamedSharding:
    """The first axis of an array over the devices."""
    return NamedSharding(mesh, PartitionSpec('data'))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def shared_out(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every array of a tree of which each device needs a part alone: its largest axis that the devices divide is
    split over them. Small ones, and those without such an axis, are on every device.
    """

    def of(array: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(array.shape) if size % mesh.size == 0]
        if mesh.size == 1 or not axes or math.prod(array.shape) < SHARED_FROM:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: array.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, 'data'))

    return jax.tree.map(of, tree)


@functools.cache
def _copying(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=replicated(mesh))


def gathered(tree: Any) -> Any:
    """Arrays of one mesh, whole on every device."""
    if all(not isinstance(leaf, jax.Array) or leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return tree
    return _copying(jax.tree.leaves(tree)[0].sharding.mesh)(tree)


def snapshot(tree: Any) -> Any:
    """Copies of arrays, whole, that are still there when a step has consumed these. The host does not wait for the devices; where
    its memory is theirs, it copies.
    """
    leaves = jax.tree.leaves(tree)
    if all(not isinstance(leaf, jax.Array) or (leaf.is_fully_addressable and _is_on_host(leaf)) for leaf in leaves):
        return jax.tree.map(np.array, tree)
    return _copying(leaves[0].sharding.mesh)(tree)


def _is_on_host(array: jax.Array) -> bool:
    return all(device.platform == 'cpu' for device in array.devices())


def check_batch_size(batch_size: int, field: str, mesh: Mesh) -> None:
    """Raises `InputError` naming `field` where the batch cannot be split evenly."""
    if batch_size < 1 or batch_size % mesh.size:
        raise InputError(f'config.{field}={batch_size}: must be a positive multiple of the {mesh.size} device(s)')


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that is split over its first axis."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def put(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of host arrays to every device."""
    return jax.device_put(tree, replicated(mesh))
