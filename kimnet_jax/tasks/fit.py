"""What the trainings of all families share: from a network with random weights to `training.session.run`."""

import dataclasses
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Batch
from kimnet_jax.data_pipelines.clip_source import DatasetConfig
from kimnet_jax.models import HANet, VideoModel, count_parameters
from kimnet_jax.models.summary import parameter_table
from kimnet_jax.training import loop, session
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.initial import InitConfig
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.state import Weights, split_model
from kimnet_jax.training.steps import Stepping, TrainStep


@dataclasses.dataclass(frozen=True)
class Shared:
    """The sections of a config that every training has. Raises `InputError` naming the field that is out of range.

    Attributes:
        seed: of the weights and of every random draw.
        init: weights to begin with.
        dataset: a built data set.
        optimizer: how the weights are updated.
        train: how long to train, and what happens when.
    """

    seed: int = 0
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    dataset: DatasetConfig = dataclasses.field(default_factory=DatasetConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: loop.TrainConfig = dataclasses.field(default_factory=loop.TrainConfig)

    def __post_init__(self) -> None:
        check_ranges('', self, seed=(0, 2**32 - 1))


def this_process() -> dict[str, int]:
    """Which of the processes of a distributed run this one is, as the loaders take it."""
    return {'process_index': jax.process_index(), 'process_count': jax.process_count()}


def check_select(select: str, metrics: Collection[str], skeleton: Skeleton) -> None:
    """Raises `InputError` where `eval.select` is none of the metrics, or of a torso that the skeleton lacks, which would come to
    light at the first evaluation.
    """
    if select not in metrics:
        raise InputError(f'config.eval.select={select!r}: no such metric; known: {", ".join(metrics)}')
    if select.startswith('torso/') and not skeleton.has_torso:
        raise InputError(
            f'config.eval.select={select!r}: {skeleton.name!r} has no torso; choose one by person size, such as '
            "'person/pck/0.05/mPCK'"
        )


def make_stepping(settings: Shared, plan: loop.Plan, mesh: Mesh) -> Stepping:
    """How the gradients of a training become steps. Raises `InputError` naming the field that is wrong."""
    accumulate = settings.optimizer.accumulate
    schedule = make_schedule(settings.optimizer, steps=plan.steps or accumulate, steps_per_epoch=plan.steps_per_epoch)
    optimizer = make_optimizer(settings.optimizer, schedule)
    sharing = loop.sharing_devices(settings.train.batch_norm, mesh.size)
    float32_sums = settings.train.gradient_dtype == 'float32'
    return Stepping(optimizer, schedule, accumulate, settings.train.average_decay, mesh, sharing, float32_sums)


def fit(
    settings: Shared,
    folder: pathlib.Path,
    *,
    config: Mapping[str, Any],
    select: str,
    mesh: Mesh,
    model: VideoModel | HANet,
    skeleton: Skeleton,
    clips: Sequence[str],
    notes: Sequence[str],
    initialise: Callable[[], list[str]],
    make_step: Callable[[nnx.GraphDef, Stepping], TrainStep],
    make_evaluate: Callable[[nnx.GraphDef], Callable[[Weights, Callable[[], None]], dict[str, float]]],
    batches: Callable[[int], Iterator[tuple[Batch, Batch]]],
    draw: Callable[[], Mapping[str, np.ndarray]] = dict,
) -> int:
    """Trains a network as a config says, from where its folder stands; returns the exit status.

    Args:
        settings: what the config says.
        folder: of the run.
        config: as it was given, for `config.json`.
        select: the metric by which the best checkpoint is chosen.
        mesh: of the devices.
        model: with random weights.
        skeleton: of its poses, for `config.json`.
        clips: names of those that are trained on.
        notes: for the user, before the first step.
        initialise: fills the model at the beginning of a run; returns what the user is to know of it.
        make_step: (structure in train mode, the rest) -> the train step.
        make_evaluate: structure in eval mode -> `evaluate` of `loop.fit`.
        batches, draw: as of `loop.fit`.
    """
    begun = bool(Checkpoints(folder, read_only=True).steps())
    origin = None if begun else initialise()
    eval_graph, _ = split_model(model, training=False)
    train_graph, weights = split_model(model, training=True)
    plan = loop.make_plan(len(clips), settings.train)
    stepping = make_stepping(settings, plan, mesh)
    return session.run(
        folder,
        config,
        settings=settings.train,
        select=select,
        skeleton=skeleton.described(),
        origin=origin,
        weights=weights,
        optimizer=stepping.optimizer,
        mesh=mesh,
        plan=plan,
        told=[f'{count_parameters(model) / 1e6:.2f} M parameters, {model.dtype}; {len(clips)} clips', *notes],
        table=parameter_table(model),
        train_step=make_step(train_graph, stepping),
        batches=batches,
        evaluate=make_evaluate(eval_graph),
        draw=draw,
        clip_name=lambda clip: clips[clip],
    )
