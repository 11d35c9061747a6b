"""What the trainings of all families share: from a network with random weights to `training.session.run`."""

import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Batch
from kimnet_jax.models import HANet, VideoModel, count_parameters
from kimnet_jax.training import loop, session
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.state import TrainState, Weights, split_model
from kimnet_jax.training.steps import Stepping

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def check_settings(config: Mapping[str, Any], metrics: Collection[str]) -> None:
    """Raises `InputError` naming the field where a setting would fail hours later; `metrics`: names that evaluations have."""
    settings, select = config['train'], config['eval']['select']
    if not 0 <= settings['average_decay'] < 1:
        raise InputError(f'config.train.average_decay={settings["average_decay"]}: must be 0 (none) or more, and below 1')
    if settings['log_every'] < 1:
        raise InputError(f'config.train.log_every={settings["log_every"]}: must be a positive number of steps')
    if not 0 <= config['seed'] < 2**32:
        raise InputError(f'config.seed={config["seed"]}: must be 0 to 2**32 - 1')
    if select not in metrics:
        raise InputError(f'config.eval.select={select!r}: no such metric; known: {", ".join(metrics)}')


def fit(
    config: Mapping[str, Any],
    folder: pathlib.Path,
    *,
    mesh: Mesh,
    model: VideoModel | HANet,
    skeleton: str,
    clips: Sequence[str],
    notes: Sequence[str],
    initialise: Callable[[], list[str]],
    make_step: Callable[[nnx.GraphDef, Stepping], TrainStep],
    make_evaluate: Callable[[nnx.GraphDef], Callable[[Weights, Callable[[], None]], dict[str, float]]],
    batches: Callable[[int], Iterator[tuple[Batch, Batch]]],
) -> int:
    """Trains a network as a config says, from where its folder stands; returns the exit status.

    Args:
        config: its sections `optimizer` and `train` are read here, and what `session.run` reads.
        folder: of the run.
        mesh: of the devices.
        model: with random weights.
        skeleton: name, for `config.json`.
        clips: names of those that are trained on.
        notes: for the user, before the first step.
        initialise: fills the model at the beginning of a run; returns what the user is to know of it.
        make_step: (structure in train mode, the rest) -> the train step.
        make_evaluate: structure in eval mode -> `evaluate` of `loop.fit`.
        batches: as of `loop.fit`.
    """
    begun = bool(Checkpoints(folder, read_only=True).steps())
    origin = None if begun else initialise()
    eval_graph, _ = split_model(model, training=False)
    train_graph, weights = split_model(model, training=True)
    settings = config['train']
    plan = loop.make_plan(
        len(clips), settings['batch_size'], **{key: settings[key] for key in ('epochs', 'steps', 'eval_every', 'save_every')}
    )
    optimizing = make(OptimizerConfig, config['optimizer'], 'optimizer')
    schedule = make_schedule(optimizing, steps=plan.steps or optimizing.accumulate, steps_per_epoch=plan.steps_per_epoch)
    optimizer = make_optimizer(optimizing, schedule)
    stepping = Stepping(optimizer, schedule, optimizing.accumulate, settings['average_decay'], mesh)
    return session.run(
        folder,
        config,
        skeleton=skeleton,
        origin=origin,
        weights=weights,
        optimizer=optimizer,
        mesh=mesh,
        plan=plan,
        told=[f'{count_parameters(model) / 1e6:.2f} M parameters, {model.dtype}; {len(clips)} clips', *notes],
        train_step=make_step(train_graph, stepping),
        batches=batches,
        evaluate=make_evaluate(eval_graph),
        clip_name=lambda clip: clips[clip],
    )
