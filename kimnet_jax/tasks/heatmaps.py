"""Networks that find joints in the frames of videos, by heatmaps: KIMNet and its family."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from kimnet_jax.core import overlays
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Array, Batch, Clips, Prediction
from kimnet_jax.data_pipelines import schema
from kimnet_jax.data_pipelines.loader import LoaderConfig, eval_batches, num_eval_batches, prefetch_to_device, train_batches
from kimnet_jax.data_pipelines.occlusion import Occlusion
from kimnet_jax.data_pipelines.pose_files import write_predictions
from kimnet_jax.data_pipelines.poses import Estimates
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.models import Dtype, abstract_model, build_model, check_input_size, model_fields, network_name
from kimnet_jax.models.weights import initialise, part_of
from kimnet_jax.released import rpstn
from kimnet_jax.reporting import reference, tables
from kimnet_jax.tasks import fit
from kimnet_jax.tasks.reports import EvaluationRequest, publish
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.tasks.videos import load
from kimnet_jax.training import evaluation, loop, sharding
from kimnet_jax.training.initial import initialise_parts
from kimnet_jax.training.state import Weights, split_model
from kimnet_jax.training.steps import Stepping, TargetConfig, TrainStep, make_train_step

__all__ = ['evaluate', 'load', 'make_evaluator', 'train']
_DRAWN_CLIPS, _DRAWN_FRAMES, _DRAWN_SIZE = 4, 3, 256  # pixels; of TensorBoard's images
WHOLE = {'sub_jhmdb': 316}  # clips of the data set that the paper's numbers are of


@dataclasses.dataclass(frozen=True)
class Settings(fit.Shared):
    """What a config holds, section by section; the defaults are the paper's setting (KIMNet Sec. IV-A) with our recipe.

    Attributes:
        dtype: of the convolutions: `float32`, `bfloat16`, or `auto`: bfloat16 on accelerators, float32 on a CPU.
        model: fields of the network, of which `name` says which it is (`kimnet_jax.models.MODELS`).
        data: windows of clips.
        target: what the network is to predict.
        loader: how batches are made ready.
        eval: how a split is evaluated.
    """

    dtype: Dtype = 'auto'
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: model_fields('kimnet'))
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    target: TargetConfig = dataclasses.field(default_factory=TargetConfig)
    loader: LoaderConfig = dataclasses.field(default_factory=LoaderConfig)
    eval: evaluation.EvalConfig = dataclasses.field(default_factory=evaluation.EvalConfig)


def train(config: Mapping[str, Any], folder: pathlib.Path) -> int:
    """Runs the training that a config (`Settings`) describes; returns the exit status."""
    settings, mesh = make(Settings, config), sharding.make_mesh()
    sharding.check_batch_size(settings.train.batch_size, 'train.batch_size', mesh)
    sharding.check_batch_size(settings.eval.batch_size, 'eval.batch_size', mesh)

    # data
    train_clips, eval_clips = settings.dataset.open('train'), settings.dataset.open('eval')
    if not settings.dataset.allow_overlap:
        schema.check_disjoint(
            train_clips, eval_clips, 'choose others or, if this is intended, set config.dataset.allow_overlap=True'
        )

    def batches(step: int) -> Generator[tuple[Batch, Batch], None, None]:
        stream = train_batches(
            train_clips,
            settings.data,
            batch_size=settings.train.batch_size,
            seed=settings.seed,
            start_step=step,
            loader=settings.loader,
            **fit.this_process(),
        )
        return prefetch_to_device(stream, sharding.split(mesh), loop.DEVICE_KEYS)

    # model
    skeleton = train_clips.skeleton
    fit.check_select(settings.eval.select, evaluation.metric_names(skeleton))
    model = build_model(settings.model, num_joints=skeleton.num_joints, dtype=settings.dtype, seed=settings.seed)
    check_input_size(model, settings.data.input_size)
    larger = functools.partial(abstract_model, settings.model, num_joints=skeleton.num_joints + 1, dtype=settings.dtype)

    def make_step(graph: nnx.GraphDef, stepping: Stepping) -> TrainStep:
        return make_train_step(graph, stepping, settings.target, skeleton=skeleton, stride=model.stride)

    def make_evaluate(graph: nnx.GraphDef) -> Callable[[Weights, Callable[[], None]], dict[str, float]]:
        evaluator = make_evaluator(graph, model.stride, config, eval_clips, mesh)
        return lambda weights, check: evaluation.scalars(evaluator(weights, check, poses.__setitem__).compute())

    poses: dict[int, np.ndarray] = {}  # of the last evaluation, by clip

    def draw() -> dict[str, np.ndarray]:
        return {f'eval/{name}': image for name, image in _drawn(eval_clips, poses)}

    return fit.fit(
        settings,
        folder,
        config=config,
        select=settings.eval.select,
        mesh=mesh,
        model=model,
        skeleton=skeleton.name,
        clips=train_clips.names,
        notes=schema.report_notes(train_clips, eval_clips),
        initialise=lambda: initialise_parts(
            model, settings.init, functools.partial(initialise, skeleton=skeleton), read_weights, part_of, larger
        ),
        make_step=make_step,
        make_evaluate=make_evaluate,
        batches=batches,
        draw=draw,
    )


def _drawn(clips: Clips, poses: Mapping[int, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """The same few frames of the same few clips after every evaluation: (name of the clip, predicted and true joints)."""
    predicted = sorted(poses)
    for place in overlays.spread(len(predicted), _DRAWN_CLIPS) if predicted else []:
        example, joints = clips[predicted[place]], poses[predicted[place]]
        frames = overlays.spread(len(joints), _DRAWN_FRAMES)
        yield example['clip'], overlays.strip(example, joints, clips.skeleton, frames, _DRAWN_SIZE)


def make_evaluator(
    graph: nnx.GraphDef,
    stride: int,
    config: Mapping[str, Any],
    clips: Clips,
    mesh: Mesh,
    *,
    occlusion: Callable[[], Occlusion | None] = lambda: None,
) -> evaluation.Evaluator:
    """The evaluation of a network on clips.

    Args:
        graph: its structure in eval mode.
        stride: pixels of the crop in a cell of its heatmaps.
        config: of its training; crop, loader, decoding, chains and batch size are taken from it.
        clips: of a split.
        mesh: of the devices.
        occlusion: asked at the beginning of each pass: what is painted over the frames.

    Raises:
        InputError: the batch size does not go with the devices.
    """
    settings, target = make(evaluation.EvalConfig, config['eval'], 'eval'), make(TargetConfig, config['target'], 'target')
    data, loader = make(DataConfig, config['data'], 'data'), make(LoaderConfig, config['loader'], 'loader')
    sharding.check_batch_size(settings.batch_size, 'eval.batch_size', mesh)

    def stream() -> Generator[tuple[Batch, Batch], None, None]:
        batches = eval_batches(clips, data, paint=occlusion(), loader=loader, **settings.passes, **fit.this_process())
        return prefetch_to_device(batches, sharding.split(mesh), evaluation.DEVICE_KEYS)

    return evaluation.Evaluator(
        graph,
        stream,
        num_eval_batches(clips, **settings.passes),
        clips,
        stride=stride,
        decoding=settings.decoding,
        mesh=mesh,
        sigma=target.sigma,
    )


def evaluate(found: Trained, request: EvaluationRequest) -> None:
    """Evaluates a trained network beside the mean pose and random ones, and writes the report.

    Raises `InputError` where the clips have other joints, or the request does not go with the protocol.
    """
    released = request.protocol == 'released'
    changed = {key: value for key in ('chain_length', 'decoding', 'batch_size') if (value := getattr(request, key)) is not None}
    if released:
        _check_released(request)
        changed |= {'chain_length': 0, 'decoding': 'argmax'}
    config = {**found.config, 'eval': {**found.config['eval'], **changed}}
    settings, dataset = config['eval'], found.section(schema.DatasetConfig, 'dataset')
    found.section(LoaderConfig, 'loader')
    source = dataset.open('eval', request.data_dir, request.split)
    training_clips = dataset.open('train', request.data_dir)
    found.require_skeleton(source.skeleton, str(source.folder))
    clips: Clips = rpstn.OneWindow(source) if released else source
    mesh, model = sharding.make_mesh(), found.load()
    graph, weights = split_model(model, training=False)
    evaluator, weights = make_evaluator(graph, model.stride, config, clips, mesh), sharding.put(weights, mesh)

    notes = schema.report_notes(training_clips, source)
    whole, there = WHOLE.get(dataset.name, 0), len(set(training_clips.names) | set(source.names))
    if there < whole:
        notes.append(f"On a {there}-clip subset: {dataset.name} has {whole} clips, so the paper's rows are for other data.")
    title, ours = f'{dataset.name}/{dataset.config}, split {source.split}', f'{network_name(model)} (ours)'
    references, checkpoint = _reference_predictions(clips, training_clips), f'Checkpoint of step {found.step} of {found.name}'
    name = f'{source.split}_step{found.step}'
    if isinstance(clips, rpstn.OneWindow):
        crop = rpstn.Crop(config['data']['input_size'], config['data']['box_scale'], model.stride)
        references[rpstn.TRUTH] = ((i, clips[i]['joints'], None) for i in range(len(clips)))
        measured = {key: rpstn.measure(clips, reference_poses, crop) for key, reference_poses in references.items()}
        poses = list(evaluator.predict(weights))
        if missing := sum(int((~np.isfinite(joints).all(-1)).sum()) for _, joints, _ in poses):
            notes.append(f'{missing} predictions are not finite: they count at cell (0, 0).')
        measured = {ours: rpstn.measure(clips, poses, crop)} | measured
        result = rpstn.released_report(title, measured, clips=clips, notes=[*notes, f'{checkpoint}.'])
        publish(request.out, f'{name}_released', result, rpstn.render)
        return
    length = settings['chain_length']
    chain = f'chains of {length} frames' if length else 'each clip one chain'
    notes.append(f'{checkpoint}; protocol `full`, {chain}, decoding `{settings["decoding"]}`.')
    predictions = list(evaluator.predict(weights))
    if request.predictions:
        _write_predictions(request.predictions, source, predictions, found)
    rows = {ours: evaluation.measure(clips, predictions)} | {
        key: evaluation.measure(clips, poses) for key, poses in references.items()
    }
    measured_rows = {key: tables.Row.of(metrics) for key, metrics in rows.items()}
    result = tables.report(title, measured_rows, dataset=dataset.name, notes=notes)
    publish(request.out, name + (f'_chain{length}' if length else ''), result, tables.render)


def _check_released(request: EvaluationRequest) -> None:
    given = [key for key in ('chain_length', 'decoding') if getattr(request, key) is not None]
    if given:
        raise InputError(f'--{given[0]} belongs to --protocol full; released is fixed: chains of 5 frames, decoding argmax')
    if request.predictions:
        raise InputError('--predictions belongs to --protocol full, in which every frame is predicted')


def _reference_predictions(clips: Clips, training_clips: schema.ClipSource) -> dict[str, Iterable[Prediction]]:
    mean = reference.mean_pose_of(training_clips)
    joints = clips.skeleton.num_joints
    return {
        tables.MEAN_POSE: _of_boxes(clips, lambda i, boxes: reference.place_pose(mean, boxes)),
        tables.RANDOM: _of_boxes(clips, lambda i, boxes: reference.random_pose(boxes, joints, seed=0, clip=i)),
    }


def _of_boxes(clips: Clips, pose: Callable[[int, Array], Array]) -> Iterator[Prediction]:
    for i in range(len(clips)):
        yield i, pose(i, clips[i]['boxes']), None


def _write_predictions(
    path: pathlib.Path,
    source: schema.ClipSource,
    predictions: Iterable[Prediction],
    found: Trained,
) -> None:
    estimates = []
    for clip, joints, scores in sorted(predictions, key=lambda prediction: prediction[0]):
        example = source[clip]
        estimates.append(Estimates(example['clip'], joints, np.asarray(scores), example['boxes'], example['image_size']))
    write_predictions(path, estimates, source.skeleton, {**found.about, 'split': source.split})
    print('written:', path)
