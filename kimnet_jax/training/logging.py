"""What a run tells while it goes: records for the writers, a progress bar or, without a terminal, lines. Only process 0 tells."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
import tqdm

from kimnet_jax.training.goodput import PARTS, Goodput
from kimnet_jax.training.writers import Writer

SHOWN = {'loss': '.2e', 'pck': '.3f', 'final_error': '.2e'}  # of a step's metrics, beside the progress bar and in lines
INTERVAL = 30.0  # seconds between two lines of a run without a terminal


class RunLog:
    """The records of a run; a resumed run goes on as if it had never stopped.

    Train records hold means since the record before; `window` is what has been summed since then and travels in checkpoints.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        goodput: Goodput,
        *,
        step: int,
        window: Mapping[str, float],
        total: int,
        every: int,
        interval: float = INTERVAL,
    ):
        """
        Args:
            writers: of the records; [] in all processes but the first one.
            goodput: where the time of this run goes.
            step: after which it begins, in the middle of `window`.
            window: of the checkpoint that it begins from.
            total: its last step.
            every: steps between two train records.
            interval: seconds between two lines, where stderr is no terminal.
        """
        self.window, self.goodput = dict(window), goodput
        self._writers, self._every, self._total = writers, every, total
        self._main = jax.process_index() == 0
        self._pace = _Pace(goodput)
        self._bar = tqdm.tqdm(total=total, initial=step, unit='step', disable=None if self._main else True, dynamic_ncols=True)
        self._lines = _Lines(goodput, total, interval)
        self._at: tuple[int, float] | None = None  # step and epoch of the newest record, where there is one of this start

    def train(self, step: int, epoch: float, values: Mapping[str, float], frames: int) -> None:
        """Adds the metrics of one step; writes a record every `every` steps."""
        for key, value in values.items():
            self.window[key] = self.window.get(key, 0.0) + value
        self.window['steps'] = self.window.get('steps', 0) + 1
        self._pace.frames += frames
        self._at = step, epoch
        if not self._bar.disable:
            shown = {key: f'{values[key]:{form}}' for key, form in SHOWN.items() if key in values}
            rate = self._pace.measure()['frames_per_second']
            self._bar.update(1)
            self._bar.set_postfix({'frames_per_s': f'{rate:.0f}', **shown}, refresh=False)
        elif line := self._lines.add(step, values, frames):
            self.say(line)
        if step % self._every == 0:
            count = self.window.pop('steps')
            means = {key: value / count for key, value in self.window.items()}
            self.window.clear()
            self._write('train', step, epoch, means | self._pace.measure())
            self._pace = _Pace(self.goodput)

    def evaluation(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Writes the record of an evaluation."""
        self._at = step, epoch
        self._write('eval', step, epoch, values)

    def images(self, step: int, draw: Callable[[], Mapping[str, np.ndarray]]) -> None:
        """Writes images (name -> uint8 [H, W, 3]); only the process that writes draws them."""
        if self._writers:
            images = draw()
            for writer in self._writers:
                writer.images(step, images)

    def text(self, name: str, text: str) -> None:
        """Writes a text in Markdown, of the run as a whole."""
        for writer in self._writers:
            writer.text(name, text)

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Around what compiles: a line before, and one afterwards with how long that took."""
        before = self.goodput.seconds()['compilation']
        self.say(f'compiling the {what} ...')
        yield
        self.say(f'compiled the {what} in {self.goodput.seconds()["compilation"] - before:.1f} s')

    def summary(self) -> None:
        """Writes and tells where the time went, if anything was done."""
        if self._at is None:
            return
        shares = self.goodput.shares()
        self._write('goodput', *self._at, shares)
        told = [f'{100 * shares[part]:6.1f} % {part.replace("_", " ")}' for part in PARTS]
        self.say('\n'.join([f'time: {_duration(shares["seconds"])}', *told]))

    def say(self, text: str) -> None:
        """A line for the user, above the progress bar."""
        if self._main:
            tqdm.tqdm.write(text)
            sys.stdout.flush()  # into a file or a pipe it would wait for more

    def close(self) -> None:
        """Writes everything out."""
        for writer in self._writers:
            writer.close()
        self._bar.close()

    def _write(self, kind: str, step: int, epoch: float, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(kind, step, epoch, values)


class _Pace:
    """How fast training is since this was made, without the time for compilation, evaluations and checkpoints."""

    def __init__(self, goodput: Goodput):
        self._goodput, self._before = goodput, goodput.seconds()
        self.frames = 0

    def measure(self) -> dict[str, float]:
        """`frames_per_second`, and `data_wait`: the share of time in which the devices waited for data."""
        now = self._goodput.seconds()
        spent = {part: now[part] - self._before[part] for part in ('steps', 'data_wait', 'other')}
        seconds = max(sum(spent.values()), 1e-9)
        return {'frames_per_second': self.frames / seconds, 'data_wait': spent['data_wait'] / seconds}


class _Lines:
    """What stands for the progress bar in a file: at the second step, which the first compiles for, and then at intervals."""

    def __init__(self, goodput: Goodput, total: int, interval: float):
        self._goodput, self._total, self._interval = goodput, total, interval
        self._began: tuple[int, float] | None = None  # the first step of this start, and when it was done
        self._due = 0.0
        self._restart()

    def add(self, step: int, values: Mapping[str, float], frames: int) -> str:
        """Adds a step; the line that is due, or ''."""
        now = self._goodput.elapsed()
        if self._began is None:
            self._began = step, now
            self._restart()
            return ''
        self._pace.frames += frames
        self._steps += 1
        for key in SHOWN:
            if key in values:
                self._sums[key] = self._sums.get(key, 0.0) + values[key]
        if now < self._due:
            return ''
        first, began = self._began
        left = (now - began) / (step - first) * (self._total - step)
        pace = self._pace.measure()
        told = [f'{key} {total / self._steps:{SHOWN[key]}}' for key, total in self._sums.items()]
        told += [f'{pace["frames_per_second"]:.0f} frames/s', f'{100 * pace["data_wait"]:.0f} % waiting for data']
        self._due = now + self._interval
        self._restart()
        return f'step {step}/{self._total}: {", ".join(told)}, {_duration(left)} left'

    def _restart(self) -> None:
        self._pace, self._steps = _Pace(self._goodput), 0
        self._sums: dict[str, float] = {}


def _duration(seconds: float) -> str:
    """Such as `03:25` or `26:03:25`."""
    return tqdm.tqdm.format_interval(seconds)
