"""One process of several: meeting the others, and ending when one of them is gone."""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from kimnet_jax.core import signals
from kimnet_jax.core.command import explained
from kimnet_jax.core.errors import InputError, one_line
from kimnet_jax.training.members import JOIN_SECONDS, RESTART, AbsentError, Members, seconds_of
from kimnet_jax.training.sentinel import CLIENT, SERVICE, split_address

FOREVER = 24 * 3600  # seconds; JAX's own watch, which ends processes with a stack trace, stays behind that of `Members`
_SETTLE = 5.0  # seconds in which the news arrives that explains an error of this process
_tell_jax: Callable[[], None] | None = None


def with_others(main: Callable[[], int], advice: str) -> int:
    """Runs `main` as one of several processes; before anything else of JAX. Returns its exit status.

    JAX finds the others by itself on TPU pods, Slurm, Kubernetes and under Open MPI. Elsewhere JAX_COORDINATOR_ADDRESS (host:port
    of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID name them.

    Where another process is gone, or is not there within 45 seconds (`members.JOIN_SECONDS` changes that), this one ends with a
    line that names it, `advice`, and the status `members.RESTART`; where another one has ended with an error, with its status.

    Raises `InputError` where nothing names the others, or they cannot meet.
    """
    try:
        others = _join(advice)
    except AbsentError as error:
        print(f'error: {one_line(error)}', file=sys.stderr, flush=True)
        return RESTART
    signals.before_sudden_end(others.leave)

    def end(status: int, told: object) -> NoReturn:  # without JAX's own end, which would wait for the others
        others.leave(status, str(told))
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(status)

    try:
        with explained():
            try:
                status = main()
                jax.distributed.shutdown()  # waits for the others
            except Exception as error:
                broken = _is_broken_exchange(error)
                lost = broken or isinstance(error, PeerError)
                others.wait_for_news(_SETTLE if lost else 1)
                if not lost:
                    raise
                words = f'an exchange with the other processes failed ({str(error).splitlines()[0][:200]}): look at their output'
                told = f'{words}; {advice}' if broken else one_line(error)
                print(f'error: {told}', file=sys.stderr, flush=True)
                end(RESTART, told)
    except signals.Interrupted as stopped:
        print(stopped, file=sys.stderr, flush=True)
        end(128 + stopped.number, stopped)
    except SystemExit as ended:
        end(ended.code if isinstance(ended.code, int) else 1, ended.__context__ or 'see its output')
    except Exception as error:
        traceback.print_exc()
        end(1, f'{type(error).__name__}: {error}')
    others.leave(status, 'see its output' if status else '')
    return status


def tell_others() -> None:
    """Asks all processes to stop at the same step: `multihost_utils.reached_preemption_sync_point` says at which."""
    if _tell_jax is not None:
        _tell_jax()


def _is_broken_exchange(error: Exception) -> bool:
    """In the words of the libraries that the processes exchange arrays by; JAX gives them as errors of several classes."""
    return isinstance(error, RuntimeError | ValueError) and re.match(r'[A-Z_]+: .*\b(Gloo|NCCL|RPC)\b', str(error)) is not None


class PeerError(InputError):
    """Another process of a distributed run is gone."""


def _join(advice: str) -> Members:
    """Meets the other processes, ours and JAX's. Raises `InputError`."""
    global _tell_jax
    try:
        numbers: dict[str, Any] = {key: int(os.environ[f'JAX_{key.upper()}']) for key in ('num_processes', 'process_id')}
    except KeyError:
        numbers = {}
    except ValueError as error:
        raise InputError(f'JAX_NUM_PROCESSES and JAX_PROCESS_ID must be numbers ({error})') from error
    seconds = seconds_of(JOIN_SECONDS, 45)
    try:
        address, count, number = _place(os.environ.get('JAX_COORDINATOR_ADDRESS'), seconds, **numbers)
        bind = os.environ.get('JAX_COORDINATOR_BIND_ADDRESS') or f'[::]:{split_address(address)[1]}'
        split_address(bind)
        if not 0 <= number < count:
            raise ValueError(f'There is no process {number} of {count}.')
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f'--distributed: {str(error).splitlines()[0]} Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or '
            'leave out --distributed for a single process'
        ) from error
    others = Members(number, count, address, bind, advice)
    try:
        jax.distributed.initialize(
            others.socket(CLIENT if number else SERVICE),
            count,
            number,
            coordinator_bind_address=others.socket(SERVICE),
            heartbeat_timeout_seconds=FOREVER,
            shutdown_timeout_seconds=FOREVER,
        )
    except RuntimeError as error:
        told = f'--distributed: JAX cannot connect the processes ({str(error).splitlines()[0]})'
        others.leave(2, told)
        raise InputError(told) from error
    _tell_jax = signals.take_back(signal.SIGTERM)  # JAX only notes it, so a process could not be ended while it compiles
    return others


def _place(
    address: str | None, seconds: float, num_processes: int | None = None, process_id: int | None = None
) -> tuple[str, int, int]:
    """(address of process 0, how many there are, which this is), from the scheduler what is not given. Raises `ValueError`."""
    if address is None or num_processes is None or process_id is None:
        from jax._src.clusters import ClusterEnv  # JAX's own, which only `jax.distributed.initialize` reaches otherwise

        address, num_processes, process_id, _ = ClusterEnv.auto_detect_unset_distributed_params(
            address, num_processes, process_id, None, None, int(seconds)
        )
    if address is None or num_processes is None or process_id is None:
        raise ValueError('nothing says which processes there are.')
    return address, num_processes, process_id
