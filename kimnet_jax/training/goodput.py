"""Where the wall time of a run goes: steps, compilation, waiting for data, evaluation, checkpoints."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

PARTS = ('steps', 'compilation', 'data_wait', 'evaluation', 'checkpoints', 'other')
_COMPILING = '/jax/core/compile/'  # of JAX's own events: tracing, lowering, compiling


class Goodput:
    """Every moment since it was made counts for one of `PARTS`, so that their shares add up to 1.

    To be used by one thread. Inside of any part, the time that JAX takes to trace and to compile counts as `compilation`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._began = self._since = clock()
        self._part, self._spent = 'other', dict.fromkeys(PARTS, 0.0)
        self._thread = threading.get_ident()
        self._spans: list[tuple[float, float]] = []  # beginning and length of what counts as compilation, by its end
        self._devices = _Devices(clock)

    def __enter__(self) -> 'Goodput':
        jax.monitoring.register_event_duration_secs_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_event)
        self._devices.close()

    @contextlib.contextmanager
    def during(self, part: str) -> Iterator[None]:
        """What happens inside counts for `part`."""
        before = self._switch(part)
        try:
            yield
        finally:
            self._switch(before)

    @contextlib.contextmanager
    def fetching(self) -> Iterator[None]:
        """Around fetching a batch: the time in which a step was still at work counts for `steps`, the rest for `data_wait`."""
        began, before = self._clock(), self._spent['data_wait']
        with self.during('data_wait'):
            yield
        busy = min(self._devices.busy_until(), self._since) - began
        self._move(min(max(busy, 0.0), self._spent['data_wait'] - before), 'data_wait', 'steps')

    def dispatched(self, values: Any) -> None:
        """A step was given to the devices; they are at work until its `values` are there."""
        self._devices.watch(values)

    def elapsed(self) -> float:
        """Seconds since this was made."""
        return self._clock() - self._began

    def seconds(self) -> dict[str, float]:
        """Part -> seconds until now."""
        self._switch(self._part)
        return dict(self._spent)

    def shares(self) -> dict[str, float]:
        """Part -> share of the time until now, and `seconds`, that time."""
        spent = self.seconds()
        total = self._since - self._began
        return {'seconds': total} | {part: spent[part] / total if total > 0 else 0.0 for part in PARTS}

    def _switch(self, part: str) -> str:
        now, before = self._clock(), self._part
        self._spent[before] += now - self._since
        self._since, self._part = now, part
        return before

    def _move(self, seconds: float, source: str, target: str) -> None:
        self._spent[source] -= seconds
        self._spent[target] += seconds

    def _on_event(self, event: str, duration_secs: float, **_: Any) -> None:
        if not event.startswith(_COMPILING) or threading.get_ident() != self._thread:
            return
        self._switch(self._part)
        began = max(self._since - duration_secs, self._began)
        new = length = self._since - began
        while self._spans and self._spans[-1][0] >= began:  # functions that are traced inside of others tell of it, too
            new -= self._spans.pop()[1]
        self._spans.append((began, length))
        self._move(max(new, 0.0), self._part, 'compilation')


class _Devices:
    """Until when the newest step was at work. A thread waits for it: the main one is to wait for nothing but the data."""

    def __init__(self, clock: Callable[[], float]):
        self._clock, self._steps = clock, queue.SimpleQueue[Any]()
        self._given = self._done = 0
        self._until = 0.0
        self._thread: threading.Thread | None = None

    def watch(self, values: Any) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._wait, daemon=True)
            self._thread.start()
        self._given += 1
        self._steps.put(values)

    def busy_until(self) -> float:
        return self._until if self._done == self._given else float('inf')

    def close(self) -> None:
        if self._thread is not None:
            self._steps.put(None)
            self._thread.join(timeout=5)  # it would wait for ever where another process of the run is gone
            self._thread = None

    def _wait(self) -> None:
        while (values := self._steps.get()) is not None:
            with contextlib.suppress(Exception):  # the main thread meets it as well, and tells
                jax.block_until_ready(values)
            self._until = self._clock()
            self._done += 1
            del values
