"""Many trainings, each a process of its own: side by side on the devices there are, and stopped so that they can go on."""

import collections
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import write_text
from kimnet_jax.core.json_files import read_json
from kimnet_jax.training import workdir

# becomes the program that follows, and that gets SIGTERM, on which a training saves and ends, when its parent has been killed
_BECOME = """
import ctypes, os, signal, sys
if sys.platform == 'linux':
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.execvp(sys.argv[1], sys.argv[1:])
"""
STOPPED_WITH_PARENT = (sys.executable, '-S', '-E', '-c', _BECOME)
DEVICES = (sys.executable, '-c', 'import jax; print(jax.default_backend(), jax.local_device_count())')


@dataclasses.dataclass(frozen=True)
class Run:
    """A training of the row `row` of a table with a seed; `folder` is its working directory."""

    row: str
    seed: int
    folder: pathlib.Path

    @property
    def log(self) -> pathlib.Path:
        return self.folder / 'log.txt'

    def result(self) -> dict[str, Any] | None:
        """The record of the evaluation at its end; None where it has not ended well."""
        file = self.folder / 'result.json'
        return read_json(file) if file.exists() else None


@dataclasses.dataclass
class _Started:
    run: Run
    slot: Mapping[str, str]
    process: subprocess.Popen
    began: float


def train_all(
    commands: Mapping[Run, Sequence[str]], slots: Sequence[Mapping[str, str]], metric: str, lock: TextIO
) -> tuple[dict[Run, str], int]:
    """Trains the runs that have no result yet, one in each slot at a time; says a line as each ends.

    The first SIGTERM or Ctrl-C makes those at work save and end, the second one kills them: signals come to the main thread
    alone, so that a pool of threads would be no shorter.

    Args:
        commands: run -> its command line, in the order in which they are to begin.
        slots: what the environment of a run has of its own, for each of the runs at a time (`make_slots`).
        metric: of the evaluation at the end, a share of 1, for the line.
        lock: of `alone`; open in every run, too.

    Returns:
        Why runs failed, and the signal that asked to stop (0: none).

    Raises:
        InputError: the first run ended with an error of the user's before it began, as every other would.
    """
    waiting = collections.deque(run for run in commands if run.result() is None)
    total, done, free = len(commands), len(commands) - len(waiting), [*slots]
    running: list[_Started] = []
    failures: dict[Run, str] = {}
    begun = False  # whether there was a run of which that is not so
    with _signals() as signals:
        told = 0  # signals that the runs know of
        try:
            while running or (waiting and not signals):
                while waiting and free and not signals:
                    run, slot = waiting.popleft(), free.pop(0)
                    running.append(_Started(run, slot, _start(run, commands[run], slot, lock), time.monotonic()))
                if len(signals) > told:
                    told = len(signals)
                    print(
                        'stopping: the runs are saving; press Ctrl-C again to kill them' if told == 1 else 'killing', flush=True
                    )
                    for started in running:
                        started.process.send_signal(signal.SIGTERM if told == 1 else signal.SIGKILL)
                for started in [started for started in running if started.process.poll() is not None]:
                    running.remove(started)
                    free.append(started.slot)
                    run, failure = started.run, _finish(started, metric)
                    if failure and signals:
                        continue
                    if failure:
                        if started.process.returncode == 2 and not begun and not (run.folder / 'config.json').exists():
                            raise InputError(failure.partition('error: ')[2] or failure)
                        failures[run] = failure
                    begun, done = True, done + 1
                    took = datetime.timedelta(seconds=round(time.monotonic() - started.began))
                    told_of = failure or f'{metric} {(run.result() or {})[metric]:.4f}'
                    print(f'{done:>{len(str(total))}}/{total} {run.row:<17} seed {run.seed}  {took}  {told_of}', flush=True)
                time.sleep(0.1)
        finally:
            for started in running:
                started.process.terminate()
            for started in running:
                started.process.wait()
    return failures, signals[0] if signals else 0


def _start(run: Run, command: Sequence[str], slot: Mapping[str, str], lock: TextIO) -> subprocess.Popen:
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.log.open('a') as log:
        return subprocess.Popen(
            [*STOPPED_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **slot},
            pass_fds=(lock.fileno(),),
            start_new_session=True,  # Ctrl-C of the terminal comes to this process alone, which passes it on
        )


def _finish(started: _Started, metric: str) -> str:
    """Keeps the result of a run that has ended; why it failed, '' where it did not."""
    run, status = started.run, started.process.returncode
    if status:
        lines = [line.strip() for line in run.log.read_text(errors='replace').splitlines() if line.strip()]
        how = f'signal {-status}' if status < 0 else f'status {status}'
        return f'failed ({how}, {run.log}): {lines[-1] if lines else "nothing in its log"}'
    records = [json.loads(line) for line in (run.folder / 'metrics.jsonl').read_text().splitlines()]
    last = next((record for record in reversed(records) if record['kind'] != 'goodput'), {'kind': ''})
    if last['kind'] != 'eval' or last[metric] is None:  # training ends with an evaluation
        return f'failed ({run.folder / "metrics.jsonl"}): its last metrics are of no evaluation with a value of {metric}'
    write_text(run.folder / 'result.json', json.dumps(last, indent=2) + '\n')
    return ''


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals that have asked to stop."""
    seen: list[int] = []
    before = {number: signal.signal(number, lambda number, _: seen.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def alone(folder: pathlib.Path) -> contextlib.AbstractContextManager[TextIO]:
    """The lock of a folder of runs. They hold it as well, should this process be killed before them; see `workdir.alone`."""
    return workdir.alone(folder, 'other runs are')


def find_slots(jobs: int | None) -> tuple[list[dict[str, str]], str]:
    """The slots of this machine, and its devices in words.

    A process of its own asks JAX: one that has asked holds the devices.
    """
    asked = subprocess.run(DEVICES, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise InputError(f'JAX finds no device: {(asked.stderr.strip().splitlines() or ["no reason given"])[-1]}')
    backend, count = asked.stdout.split()[-2:]
    return make_slots(backend, int(count), jobs, os.environ), f'{count} {backend} device(s)'


def make_slots(backend: str, devices: int, jobs: int | None, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """What the environment of each of the runs at a time has of its own: the GPU that it sees.

    Args:
        backend, devices: as JAX names and counts them.
        jobs: runs at a time; None: one on each GPU, one on any other machine.
        environment: of this process.

    Raises:
        InputError: for more than one on a TPU.
    """
    if backend == 'tpu' and (jobs or 1) > 1:
        raise InputError(f'--jobs {jobs}: the TPU of a machine belongs to one process at a time; leave --jobs out')
    if backend != 'gpu':
        return [{} for _ in range(jobs or 1)]
    visible = environment.get('CUDA_VISIBLE_DEVICES', '')
    gpus = visible.split(',') if visible else [str(i) for i in range(devices)]
    shared = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'} if (jobs or 0) > devices else {}
    return [{'CUDA_VISIBLE_DEVICES': gpus[i % devices], **shared} for i in range(jobs or devices)]
