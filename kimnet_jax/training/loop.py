"""The loop: step, evaluate, save, and stop so that the next start goes on as if nothing had happened."""

import collections
import collections.abc
import contextlib
import dataclasses
import functools
import math
import signal
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from kimnet_jax.core import signals
from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Batch
from kimnet_jax.training import sharding
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.logging import RunLog
from kimnet_jax.training.profiling import Profiler, parse_window
from kimnet_jax.training.state import TrainState, Weights
from kimnet_jax.training.writers import parse_writers

MOST_STEPS = 2**31 - 1  # the counter of steps has 32 bits
DEVICE_KEYS = ('frames', 'joints', 'visible', 'mask')  # what the step reads


@dataclasses.dataclass(frozen=True, eq=False)
class Steps(collections.abc.Set[int]):
    """The multiples of some intervals, rounded, up to the end of a run, and that end; computed when asked, however many.

    Attributes:
        intervals: steps, each at least 1.
        total: the last step.
    """

    intervals: tuple[float, ...]
    total: int

    def __contains__(self, step: object) -> bool:
        if not isinstance(step, int) or not 0 <= step <= self.total:
            return False
        return step == self.total or any(self._is_multiple(step, interval) for interval in self.intervals)

    def __iter__(self) -> Iterator[int]:
        return (step for step in range(self.total + 1) if step in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _is_multiple(self, step: int, interval: float) -> bool:
        near = round(step / interval)
        return any(
            i >= 1 and i <= math.floor(self.total / interval) and round(i * interval) == step for i in (near - 1, near, near + 1)
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Attributes (all in steps but the first):
    steps_per_epoch: batches in which every clip is seen once.
    steps: of the whole run.
    evaluate: set of steps after which to evaluate (and save).
    save: set of steps after which to save.
    profile: steps to trace, counted from 1.
    """

    steps_per_epoch: float
    steps: int
    evaluate: Steps
    save: Steps
    profile: range


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long to train, and what happens when. Raises `InputError` naming the field that is out of range.

    Attributes:
        epochs: length of the run, in passes over the clips.
        steps: its length in batches; if not 0 it counts instead of `epochs`.
        batch_size: windows in a batch, of all devices together.
        batch_norm: which devices share the statistics of a BatchNorm: all (`global`), none (`device`), or groups of N
            (`group:N`). On one device it makes no difference.
        gradient_dtype: of the convolutions' gradients, and so of their sum over several devices: `float32`, as PyTorch's, or
            `bfloat16`, half as many bytes, in a network of that type.
        average_decay: of the moving average of the weights, which is what is evaluated; 0: none.
        log_every: steps between two records.
        eval_every: epochs between two evaluations.
        save_every: epochs between two checkpoints.
        profile: `START:STEPS`, steps to write a trace of with JAX's profiler, the first step being 1; empty: none.
        writers: where metrics go besides `metrics.jsonl`: `tensorboard`, `wandb`, separated by commas.
    """

    epochs: float = 100.0
    steps: int = 0
    batch_size: int = 8
    batch_norm: str = 'global'
    gradient_dtype: Literal['float32', 'bfloat16'] = 'float32'
    average_decay: float = 0.999
    log_every: int = 10
    eval_every: float = 10.0
    save_every: float = 2.0
    profile: str = ''
    writers: str = 'tensorboard'

    def __post_init__(self) -> None:
        check_ranges('train', self, epochs=(0, 1e9), steps=(0, MOST_STEPS), batch_size=(1, sharding.MOST_CLIPS))
        check_ranges('train', self, average_decay=(0, 0.999999), log_every=(1, MOST_STEPS))
        check_ranges('train', self, eval_every=(1e-9, 1e9), save_every=(1e-9, 1e9))
        parse_window(self.profile)
        parse_writers(self.writers)
        sharing_devices(self.batch_norm)


def sharing_devices(batch_norm: str, devices: int | None = None) -> int:
    """How many devices share statistics by `TrainConfig.batch_norm`; 0: all.

    Raises `InputError` naming the field where it says nothing known, or where the number of `devices` is no multiple of a group.
    """
    if batch_norm in ('global', 'device'):
        return int(batch_norm == 'device')
    number = batch_norm.removeprefix('group:')
    if number == batch_norm or not number.isdecimal() or int(number) < 1:
        raise InputError(f'config.train.batch_norm={batch_norm!r}: global, device, or group:N with a number of devices')
    if devices is not None and devices % int(number):
        raise InputError(f'config.train.batch_norm={batch_norm!r}: {devices} device(s) cannot be split into groups of {number}')
    return int(number)


def make_plan(clips: int, config: TrainConfig) -> Plan:
    """Epochs to steps, for a number of clips. Evaluates and saves after the last step.

    No epochs and no steps: the weights that the run begins with are evaluated and saved.

    Raises `InputError` naming the config field that is out of range.
    """
    epochs, steps, batch_size = config.epochs, config.steps, config.batch_size
    if not max(steps, epochs * clips / batch_size) <= MOST_STEPS:  # NaN is refused, too
        raise InputError(f'config.train.epochs={epochs}, config.train.steps={steps}: must be at most {MOST_STEPS:,} steps')
    per_epoch = clips / batch_size
    total = steps or round(epochs * per_epoch)
    if total < 0 or (total == 0 and epochs != 0):
        raise InputError(f'config.train.epochs={epochs}, config.train.steps={steps}: the run would have no step')

    profile = parse_window(config.profile)
    if profile and profile[-1] > total:
        raise InputError(f'config.train.profile={config.profile!r}: the run has {total} steps')

    def after(every: float) -> float:
        return max(every * per_epoch, 1)

    evaluate = after(config.eval_every)
    return Plan(per_epoch, total, Steps((evaluate,), total), Steps((evaluate, after(config.save_every)), total), profile)


class StoppedError(Exception):
    """The run was asked to stop. Attribute `signal`: by which signal."""

    def __init__(self, number: int, step: int):
        super().__init__(f'stopped by {signal.Signals(number).name} after step {step}; rerun the same command to resume')
        self.signal = number


class StopRequest:
    """Notes SIGTERM and the first Ctrl-C, so that the loop can save before it ends; a second Ctrl-C interrupts at once.

    While the step is compiled there is nothing to save yet: then `signals.stoppable` ends the process after a few seconds.

    Several processes must end at the same step, which they agree on through JAX.
    """

    def __init__(self) -> None:
        self._alone = jax.process_count() == 1
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> 'StopRequest':
        for number in signals.NUMBERS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def check(self, step: int) -> None:
        """Raises `StoppedError` where a stop was asked for."""
        if not self._alone and multihost_utils.reached_preemption_sync_point(step):
            self._signal = signal.SIGTERM
        if self._signal is not None:
            raise StoppedError(self._signal, step)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if not self._alone:
            sharding.tell_others()
            return
        self._signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)


def fit(
    state: TrainState,
    meta: dict[str, Any],
    *,
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int], Iterator[tuple[Batch, Batch]]],
    evaluate: Callable[[Weights, Callable[[], None]], dict[str, float]],
    score: str,
    draw: Callable[[], Mapping[str, np.ndarray]],
    clip_name: Callable[[int], str],
    checkpoints: Checkpoints,
    log: RunLog,
    profiler: Profiler,
    plan: Plan,
) -> TrainState:
    """Trains until `plan.steps`.

    Args:
        state: where to begin, on the devices.
        meta: of the checkpoint that `state` came from; {} for a new run.
        train_step: of `steps.make_train_step`.
        batches: the stream from a step on: pairs of the batch on the host and its `DEVICE_KEYS` on the devices.
        evaluate: (weights, check) -> flat metrics; calls `check` between batches, so that an evaluation can be stopped.
        score: the metric that the best checkpoint has the highest value of.
        draw: images of the last evaluation by name, uint8 [H, W, 3].
        clip_name: index -> name, for errors.
        checkpoints, log, profiler, plan: where to save, where to tell, what traces steps, when to do what.

    Returns:
        The final state.

    Raises:
        InputError: a metric is NaN or infinite (names metric, step and the batch's clips; that state is not saved), or a
            checkpoint cannot be written.
        StoppedError: on SIGTERM or Ctrl-C, after saving.
    """
    step, evaluated, compiling = int(state.step), bool(meta.get('evaluated', False)), True
    during = log.goodput.during
    pending: collections.deque[tuple[int, dict[str, jax.Array], Batch]] = collections.deque()

    def settle(keep: int) -> None:
        """Reads the metrics of all but the newest `keep` steps: one step behind, the devices never wait for the host."""
        while len(pending) > keep:
            number, values, batch = pending.popleft()
            with during('steps'):
                host = {key: float(value) for key, value in jax.device_get(values).items()}
            _check_finite(host, number, batch, clip_name)
            log.train(number, number / plan.steps_per_epoch, host, batch['mask'].size * jax.process_count())

    def save(metrics: dict[str, float] | None = None) -> None:
        settle(0)
        value = None if metrics is None or math.isnan(metrics[score]) else metrics[score]
        with during('checkpoints'):
            checkpoints.save(step, state, {'evaluated': evaluated, 'window': log.window}, value)

    stream: Iterator[tuple[Batch, Batch]] | None = None
    saved = step if meta else -1
    evaluated_before = False
    with StopRequest() as stop, contextlib.ExitStack() as unhurried:
        try:
            while True:
                epoch = step / plan.steps_per_epoch
                if step in plan.evaluate and not evaluated:
                    settle(0)
                    # several processes must not leave the evaluation apart: they stop at the next step
                    check = functools.partial(stop.check, step) if jax.process_count() == 1 else lambda: None
                    told = contextlib.nullcontext() if evaluated_before else log.compiling('evaluation')
                    with told, during('evaluation'), signals.patience(evaluated_before):  # the first one compiles
                        metrics = evaluate(sharding.gathered(state.best_weights), check)
                        log.images(step, draw)
                    evaluated_before = True
                    log.evaluation(step, epoch, metrics)
                    log.say(f'step {step}, epoch {epoch:.1f}: {score} {metrics[score]:.4f}')
                    evaluated, saved = True, step
                    save(metrics)
                elif step in plan.save and step > saved:
                    saved = step
                    save()
                if step >= plan.steps:
                    with during('checkpoints'):
                        checkpoints.wait()
                    return state
                stop.check(step)
                if stream is None:
                    stream = batches(step)
                with log.goodput.fetching():
                    batch, on_device = next(stream)
                told = log.compiling('training step') if compiling else contextlib.nullcontext()
                with told, during('steps'), profiler.step(step + 1, compiled=not compiling), jax.transfer_guard('disallow'):
                    state, values = train_step(state, on_device)
                log.goodput.dispatched(values)
                step, evaluated = step + 1, False
                pending.append((step, values, batch))
                profiler.done(step, state)
                if compiling:
                    settle(0)
                    compiling = False
                    unhurried.enter_context(signals.patience())  # from now on there are steps to save
                settle(1)
        except StoppedError:
            unhurried.enter_context(signals.patience())
            settle(0)
            if step > saved:
                save()
            with during('checkpoints'):
                checkpoints.wait()  # here, where another signal does not end the process
            raise
        finally:
            if stream is not None and isinstance(stream, Generator):
                stream.close()


def _check_finite(values: dict[str, float], step: int, batch: Batch, clip_name: Callable[[int], str]) -> None:
    bad = [key for key, value in values.items() if not np.isfinite(value)]
    if bad:
        clips = ', '.join(clip_name(clip) for clip in batch['clip'].tolist())
        raise InputError(
            f'{bad[0]} is {values[bad[0]]} at step {step}, on the clips {clips}; the run has stopped and this state is not '
            'saved: lower config.optimizer.learning_rate, or look at these clips'
        )
