"""Where arrays live: one mesh with the axis `data`; batches are split over it, everything else is on every device."""

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kimnet_jax.core import signals
from kimnet_jax.core.errors import InputError, one_line
from kimnet_jax.core.platform import Platform, platform_of

JOIN_SECONDS = 'KIMNET_JOIN_SECONDS'  # in the environment: how long processes wait for each other at the start
MOST_CLIPS = 1_000_000  # in a batch
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
