"""Where arrays live: one mesh with the axis `data`. Batches are split over it, and so are the large arrays of which each device
needs a part alone (ZeRO stage 1: Rajbhandari et al., arXiv 1910.02054); everything else is on every device.
"""

import contextlib
import faulthandler
import functools
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kimnet_jax.core import signals
from kimnet_jax.core.errors import InputError, one_line
from kimnet_jax.core.platform import Platform, platform_of

JOIN_SECONDS = 'KIMNET_JOIN_SECONDS'  # in the environment: how long processes wait for each other at the start
MOST_CLIPS = 1_000_000  # in a batch
SHARED_FROM = 4096  # numbers in an array that is split: of smaller ones the parts cost more than they save
_tell_jax: Callable[[], None] | None = None


def join_processes() -> None:
    """Meets the other processes of the run; before anything else of JAX.

    JAX finds them by itself on TPU pods, Slurm, Kubernetes and under Open MPI. Elsewhere JAX_COORDINATOR_ADDRESS (host:port of
    process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID name them. Raises `InputError` where neither does, or where the others are
    not there within 45 seconds (`JOIN_SECONDS` changes that).
    """
    try:
        numbers: dict[str, Any] = {key: int(os.environ[f'JAX_{key.upper()}']) for key in ('num_processes', 'process_id')}
    except KeyError:
        numbers = {}
    except ValueError as error:
        raise InputError(f'JAX_NUM_PROCESSES and JAX_PROCESS_ID must be numbers ({error})') from error
    try:
        seconds = int(os.environ.get(JOIN_SECONDS, '45'))
    except ValueError as error:
        raise InputError(f'{JOIN_SECONDS} must be a number of seconds ({error})') from error
    if numbers.get('process_id', 0) > 0:
        _wait_for_coordinator(os.environ.get('JAX_COORDINATOR_ADDRESS', ''), seconds)
    late = threading.Timer(seconds, _end_late, [seconds])  # JAX itself would end the process with a stack trace
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(**numbers, initialization_timeout=seconds + 60)
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f'--distributed: {str(error).splitlines()[0]} Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or '
            'leave out --distributed for a single process'
        ) from error
    finally:
        late.cancel()
    global _tell_jax
    _tell_jax = signals.take_back(signal.SIGTERM)  # JAX only notes it, so a process could not be ended while it compiles
    if jax.process_index() == 0:
        signals.leave_last()
    faulthandler.disable()  # absl's: the stacks of all threads, where JAX aborts since another process is gone


def tell_others() -> None:
    """Asks all processes to stop at the same step: `multihost_utils.reached_preemption_sync_point` says at which."""
    if _tell_jax is not None:
        _tell_jax()


def _end_late(seconds: int) -> None:
    print(
        f'error: --distributed: not all processes joined within {seconds} s; start them all, or increase {JOIN_SECONDS}',
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


class PeerError(InputError):
    """Another process of a distributed run is gone."""


@contextlib.contextmanager
def without_peers() -> Iterator[None]:
    """Ends one process of several with one line: at a regular end JAX would wait for the others, and then abort."""
    try:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if _tell_jax is None:
                raise
            raise PeerError(
                f'another process of this run has ended, or cannot be reached ({str(error).splitlines()[0][:200]}): look at its '
                'output; rerun the same command in all processes to resume from the last checkpoint'
            ) from error
    except PeerError as error:
        print(f'error: {one_line(error)}', file=sys.stderr, flush=True)
        os._exit(2)
    except signals.Interrupted as stopped:
        if _tell_jax is None:
            raise
        print(stopped, file=sys.stderr, flush=True)
        time.sleep(signals.LATER if jax.process_index() == 0 else 0)
        os._exit(128 + stopped.number)


def _wait_for_coordinator(address: str, seconds: int) -> None:
    """Returns once process 0 listens at `host:port`. JAX, left alone with a silent address, ends with a stack trace."""
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal():
        return  # JAX has words for that
    deadline = time.monotonic() + seconds
    reason = 'no answer'
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip('[]'), int(port)), timeout=max(deadline - time.monotonic(), 0.1)):
                return
        except (OSError, OverflowError) as error:
            reason = str(getattr(error, 'strerror', None) or error)
        time.sleep(0.5)
    raise InputError(
        f'--distributed: nothing was listening at JAX_COORDINATOR_ADDRESS={address} for {seconds} s ({reason}); start process '
        f'0 there, correct the address, or increase {JOIN_SECONDS}'
    )


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
    if all(isinstance(leaf, np.ndarray) or leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return tree
    return _copying(jax.tree.leaves(tree)[0].sharding.mesh)(tree)


def snapshot(tree: Any) -> Any:
    """Copies of arrays, whole, that are still there when a step has consumed these. The host does not wait for the devices; where
    its memory is theirs, it copies.
    """
    leaves = jax.tree.leaves(tree)
    if all(isinstance(leaf, np.ndarray) or (leaf.is_fully_addressable and _is_on_host(leaf)) for leaf in leaves):
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
