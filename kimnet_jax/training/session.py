"""A training in its folder: taken up where it stopped, told of, and ended so that it can go on."""

import contextlib
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import indent
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Batch
from kimnet_jax.training import loop, workdir
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.conditions import difference
from kimnet_jax.training.goodput import Goodput
from kimnet_jax.training.logging import RunLog
from kimnet_jax.training.profiling import Profiler
from kimnet_jax.training.remote import RemoteRun
from kimnet_jax.training.state import TrainState, Weights, create_state, placed
from kimnet_jax.training.writers import check_installed, open_writers, parse_writers

_CODE = ' ' * 4  # how Markdown marks it


def run(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    *,
    settings: loop.TrainConfig,
    select: str,
    skeleton: str | dict[str, Any],
    origin: Sequence[str] | None,
    weights: Weights,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    plan: loop.Plan,
    told: Sequence[str],
    table: Sequence[str],
    train_step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int], Iterator[tuple[Batch, Batch]]],
    evaluate: Callable[[Weights, Callable[[], None]], dict[str, float]],
    draw: Callable[[], Mapping[str, np.ndarray]],
    clip_name: Callable[[int], str],
) -> int:
    """Trains in `folder`, from its newest checkpoint where there is one.

    Args:
        folder: of the run.
        config: its fields, for `config.json`.
        settings: its section `train`.
        select: the metric by which the best checkpoint is chosen.
        skeleton: as `Skeleton.described` has it, for `config.json`.
        origin: what `weights` are, line by line; None where the run has begun.
        weights: to begin with.
        optimizer: whose state a checkpoint holds.
        mesh: of the devices.
        plan: when to do what.
        told: lines for the user, before the first step; the first one describes the model and the data.
        table: of the model's parameters, line by line.
        train_step, batches, evaluate, draw, clip_name: as of `loop.fit`.

    Returns:
        The exit status: 0, or 128 + the signal that stopped the run.

    Raises:
        InputError: another training is at work in the folder, or it holds another run; a writer is not installed.
    """
    names = parse_writers(settings.writers)
    check_installed(names)
    with workdir.alone_together(folder), Goodput() as goodput, contextlib.ExitStack() as opened:
        # state: 1. the newest whole checkpoint of this folder, 2. the weights that config.init names, 3. random weights
        workdir.write_config(folder, dict(config), skeleton, origin, begins=not Checkpoints(folder, read_only=True).steps())
        remote = RemoteRun(folder) if paths.is_remote(folder) else None
        place = remote.place if remote else folder  # of what libraries write
        checkpoints = Checkpoints(folder, before_publishing=remote.publish) if remote else Checkpoints(folder)
        average = settings.average_decay > 0
        fresh: tuple[TrainState, dict[str, Any]] = (create_state(weights, optimizer, average=average), {})
        with goodput.during('checkpoints'):
            state, meta = checkpoints.restore_newest(fresh[0]) or fresh
        step = int(state.step)
        there = {'step': step, 'evaluated': meta.get('evaluated', False)}
        writers = open_writers(names, place, config=config, **there) if jax.process_index() == 0 else []
        log = RunLog(writers, goodput, step=step, window=meta.get('window', {}), total=plan.steps, every=settings.log_every)
        profiler = opened.enter_context(Profiler(place, plan.profile, log.say))
        first, *others = told
        devices = f'{mesh.size} {jax.default_backend()} device(s)'
        log.say(f'{first}, {devices}, {plan.steps} steps' + (f'; resuming after step {step}' if step else ''))
        changed = difference(meta.get('conditions', {}))
        for line in (*others, *(origin or ()), *([f'note: {changed}'] if changed else []), *table):
            log.say(line)
        if not meta:
            log.text('config', indent(json.dumps(dict(config), indent=2), _CODE))
            log.text('parameters', indent('\n'.join(table), _CODE))
        try:
            loop.fit(
                placed(state, mesh),
                meta,
                train_step=train_step,
                batches=batches,
                evaluate=evaluate,
                draw=draw,
                score=select,
                clip_name=clip_name,
                checkpoints=checkpoints,
                log=log,
                profiler=profiler,
                plan=plan,
            )
            log.summary()
            log.say(f'done: {folder}')
        except loop.StoppedError as stopped:
            log.summary()
            log.say(str(stopped))
            return 128 + stopped.signal
        finally:
            log.close()
            with (
                contextlib.suppress(InputError) if sys.exc_info()[0] else contextlib.nullcontext()
            ):  # the first error is the cause
                checkpoints.close()
                if remote:
                    remote.close()
        return 0
