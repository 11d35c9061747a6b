"""A process for each contender, which gets ready and runs when it is asked to: none pays for the memory that another gives back.

On a GPU no process takes memory ahead, so that all fit beside each other; what is timed runs alone.
"""

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sides import Case

OUT_OF_TIME, MEMORY = 'the time was over', 'memory'  # in reasons of failing


class Stage(NamedTuple):
    """`start` begins a call; `wait` waits for what the last one gave, None where a call returns with its result in hand."""

    start: Callable[[], Any]
    wait: Callable[[Any], Any] | None = None


class Prepared(NamedTuple):
    """What a contender is ready to run.

    Attributes:
        stages: by name.
        outputs: what has to be the same for all contenders, by name.
        compile_s: of a stage, seconds before its first result.
        costs: of a stage, see `costs.count`; JAX only.
    """

    stages: dict[str, Stage]
    outputs: dict[str, np.ndarray]
    compile_s: dict[str, float]
    costs: dict[str, dict[str, Any]]


Prepare = Callable[[str, Case], Prepared]  # (contender, case): a function of the script's module


class FailedError(Exception):
    """A contender that cannot go on; the text is for the table."""


def _serve(connection: Any, contender: str, prepare: Prepare, cores: list[int]) -> None:
    """A contender's process: answers requests, errors as one line of text, as long as there is somebody to answer."""
    os.setpgrp()
    os.sched_setaffinity(0, cores)
    with contextlib.suppress(EOFError, BrokenPipeError):
        _answer(connection, contender, prepare)


def _answer(connection: Any, contender: str, prepare: Prepare) -> None:
    prepared: Prepared | None = None
    calls: dict[str, int] = {}
    while True:
        kind, *arguments = connection.recv()
        try:
            if kind == 'prepare':
                prepared, calls = None, {}
                gc.collect()
                prepared = prepare(contender, *arguments)
                answer: Any = (prepared.outputs, prepared.compile_s, prepared.costs, list(prepared.stages))
            elif kind == 'run':
                name, seconds = arguments
                assert prepared is not None
                calls.setdefault(name, _calls_of(prepared.stages[name], seconds))
                answer = _run(prepared.stages[name], calls[name])
            else:
                function, *rest = arguments
                answer = function(contender, prepared, *rest)
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or ['']
            answer = FailedError(f'{type(error).__name__}: {lines[0].strip()[:200]}')
        connection.send(answer)


def _calls_of(stage: Stage, seconds: float) -> int:
    """Calls that fill so many seconds."""
    return max(1, min(2000, round(1e3 * seconds / _run(stage, 2))))


def _run(stage: Stage, calls: int) -> float:
    """ms of a call: the median of calls that each give a result, or the mean of calls that queue up on the device."""
    times = []
    result = None
    began = last = time.perf_counter()
    for _ in range(calls):
        result = stage.start()
        if stage.wait is None:
            now = time.perf_counter()
            times.append(now - last)
            last = now
    if stage.wait is None:
        return 1e3 * statistics.median(times)
    stage.wait(result)
    return 1e3 * (time.perf_counter() - began) / calls


class Workers:
    """The contenders' processes, to be used as a context manager; each starts when it is first asked."""

    def __init__(self, prepare: Prepare, cores: int | None = None, seconds: float = math.inf):
        """`cores`: of each, None: all there are; `seconds`: of all that is asked of them, from now on."""
        os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
        self.cores = sorted(os.sched_getaffinity(0))[:cores]
        self._prepare = prepare
        self._context = multiprocessing.get_context('spawn')
        self._started: dict[str, tuple[Any, Any]] = {}
        self._slow: set[str] = set()
        self._end = time.monotonic() + seconds

    def __enter__(self) -> 'Workers':
        return self

    def __exit__(self, *_: object) -> None:
        for connection, _process in self._started.values():
            connection.close()  # who is not at work ends by that
        for name, (_connection, process) in list(self._started.items()):
            process.join(3)
            self.stop(name)

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.monotonic()

    def start(self, contender: str) -> None:
        """Starts its process, which loads the libraries meanwhile."""
        connection, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, contender, self._prepare, self.cores), daemon=True)
        process.start()
        theirs.close()
        self._started[contender] = (connection, process)

    def ask(self, contender: str, *request: Any, limit: float = math.inf) -> Any:
        """The answer to a request.

        It is ('prepare', case); ('run', stage, seconds), answered by ms; or ('call', function, ...), answered by what the
        function gives of (contender, what it has prepared, ...).

        Raises `FailedError` where it fails, dies, or does not answer in `limit` seconds; it is never asked again then.
        """
        answer = self.ask_all([contender], *request, limit=limit)[contender]
        if isinstance(answer, FailedError):
            raise answer
        return answer

    def ask_all(self, contenders: Sequence[str], *request: Any, limit: float = math.inf) -> dict[str, Any]:
        """The answers, `FailedError` among them, of contenders that are all at work at the same time."""
        end = time.monotonic() + min(limit, self.left)
        answers = {name: self._send(name, request) for name in contenders}
        for name in contenders:
            answers[name] = answers[name] or self._receive(name, end - time.monotonic())
        return answers

    def _send(self, contender: str, request: tuple[Any, ...]) -> FailedError | None:
        if self.left <= 0 or contender in self._slow:
            return FailedError(OUT_OF_TIME)
        if contender not in self._started:
            self.start(contender)
        with contextlib.suppress(OSError):  # it has died: so says the answer
            self._started[contender][0].send(request)
        return None

    def _receive(self, contender: str, limit: float) -> Any:
        connection, process = self._started[contender]
        try:
            if connection.poll(None if math.isinf(limit) else max(limit, 0.0)):
                return connection.recv()
            self._slow.add(contender)
            reason = OUT_OF_TIME
        except (EOFError, OSError):
            process.join(5)
            code = process.exitcode
            reason = (
                f'its process was killed, perhaps for want of {MEMORY}'
                if code == -signal.SIGKILL
                else f'its process died ({code})'
            )
        self.stop(contender)
        return FailedError(reason)

    def stop(self, contender: str) -> None:
        """Ends its process, and the compilers that it has started; the next request finds it fresh."""
        if contender not in self._started:
            return
        _, process = self._started.pop(contender)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # it is no leader of a group yet
            process.kill()
        process.join()
