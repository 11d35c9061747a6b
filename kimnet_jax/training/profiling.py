"""Traces of a few steps of a run, for TensorBoard and Perfetto: planned by `train.profile`, or asked for by SIGUSR1."""

import contextlib
import pathlib
import re
import signal
from collections.abc import Callable
from typing import Any

import jax

from kimnet_jax.core.errors import InputError

ON_SIGNAL = 5  # steps of a trace that SIGUSR1 asks for
_FORM = re.compile(r'([1-9]\d{0,9}):([1-9]\d{0,9})')


def parse_window(text: str) -> range:
    """The steps, counted from 1, of a text `START:STEPS`; none of ''. Raises `InputError` naming `config.train.profile`."""
    if not text:
        return range(0)
    found = _FORM.fullmatch(text)
    if found is None:
        raise InputError(
            f"config.train.profile={text!r}: must be START:STEPS, two numbers from 1 on, such as '100:5' for steps 100 to 104"
        )
    start, steps = map(int, found.groups())
    return range(start, start + steps)


class Profiler:
    """Writes traces with `jax.profiler` into `<workdir>/profile/step<N>`; a trace that cannot be written does not end the run.

    Of several processes the first one writes what is planned. Each writes its own where it gets the signal.
    """

    def __init__(self, workdir: pathlib.Path, window: range, say: Callable[[str], None]):
        """`window`: the steps to trace; `say`: tells the user a line."""
        index = jax.process_index()
        self._parent = workdir / 'profile' / (f'process{index}' if index else '')
        self._window, self._say = window if index == 0 else range(0), say
        self._asked = False
        self._traced = range(0)  # of the trace that is being made
        self._before: Any = None

    def __enter__(self) -> 'Profiler':
        self._before = signal.signal(signal.SIGUSR1, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGUSR1, self._before)
        self._stop()

    def step(self, step: int, *, compiled: bool) -> contextlib.AbstractContextManager[object]:
        """Around the call of step `step`, counted from 1: begins the trace if it is time, and marks the step in it.

        One that the signal asked for begins only once the step is `compiled`.
        """
        if not self._traced:
            if self._window and step == self._window.start:
                self._start(self._window)
            elif self._asked and compiled:
                self._start(range(step, step + ON_SIGNAL))
        return jax.profiler.StepTraceAnnotation('train', step_num=step) if self._traced else contextlib.nullcontext()

    def done(self, step: int, state: Any) -> None:
        """After step `step`, of which `state` came: ends the trace after its last step."""
        if self._traced and step == self._traced[-1]:
            jax.block_until_ready(state)
            self._stop()

    def _ask(self, *_: object) -> None:
        self._asked = True

    def _start(self, steps: range) -> None:
        self._asked = False
        try:
            folder = self._folder(steps)
            folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(folder)
        except (OSError, RuntimeError, ValueError) as error:
            self._fail(error, steps)
        else:
            self._traced = steps

    def _stop(self) -> None:
        if not self._traced:
            return
        steps, self._traced = self._traced, range(0)
        try:
            jax.profiler.stop_trace()
        except (OSError, RuntimeError, ValueError) as error:
            self._fail(error, steps)
        else:
            self._say(f'profile of steps {steps[0]} to {steps[-1]}: {self._folder(steps)}')

    def _folder(self, steps: range) -> pathlib.Path:
        return self._parent / f'step{steps[0]}'  # the profiler's own name within is but the second

    def _fail(self, error: Exception, steps: range) -> None:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        self._say(f'warning: no profile in {self._folder(steps)}: {told}')
