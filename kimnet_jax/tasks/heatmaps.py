"""Networks that find joints in the frames of videos, by heatmaps: KIMNet and its family."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from kimnet_jax import pretrained
from kimnet_jax.core import overlays
from kimnet_jax.core.calibration import Calibration
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Array, Batch, Clips, Prediction
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.loader import LoaderConfig, prefetch_to_device, train_batches
from kimnet_jax.data_pipelines.occlusion import Occlusion
from kimnet_jax.data_pipelines.pose_files import write_predictions
from kimnet_jax.data_pipelines.poses import Estimates
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.models import Dtype, VideoModel, abstract_model, build_model, check_input_size, model_fields, network_name
from kimnet_jax.models.weights import initialise, part_of
from kimnet_jax.released import rpstn
from kimnet_jax.reporting import calibration as reliability
from kimnet_jax.reporting import oks, reference, tables
from kimnet_jax.tasks import calibration, fit, temporal_control
from kimnet_jax.tasks.evaluators import make_evaluator, on_clips
from kimnet_jax.tasks.reports import EvaluationRequest, publish, publish_plot, speaks
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.tasks.videos import load
from kimnet_jax.training import evaluation, loop, sharding
from kimnet_jax.training.initial import initialise_parts
from kimnet_jax.training.state import Weights, split_model
from kimnet_jax.training.steps import Stepping, TargetConfig, TrainStep, make_train_step

__all__ = ['evaluate', 'load', 'train']
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
        clip_source.check_disjoint(
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
    fit.check_select(settings.eval.select, evaluation.metric_names(skeleton), skeleton)
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
        skeleton=skeleton,
        clips=train_clips.names,
        notes=clip_source.report_notes(train_clips, eval_clips),
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


def evaluate(found: Trained, request: EvaluationRequest) -> None:
    """Evaluates a trained network beside the mean pose and random ones, and writes the report.

    Raises `InputError` where the clips have other joints, or the request does not go with the protocol.
    """
    released = request.protocol == 'released'
    _check_combination(request)
    changed = {key: value for key in ('chain_length', 'decoding', 'batch_size') if (value := getattr(request, key)) is not None}
    if released:
        changed |= {'chain_length': 0, 'decoding': 'argmax'}
    config = {**found.config, 'eval': {**found.config['eval'], **changed}}
    settings, dataset = config['eval'], found.section(clip_source.DatasetConfig, 'dataset')
    found.section(LoaderConfig, 'loader')
    mesh, model = sharding.make_mesh(), found.load()
    if request.temporal_control:
        temporal_control.check(model, found.name, settings['chain_length'])
    source = dataset.open('eval', request.data_dir, request.split)
    training_clips = dataset.open('train', request.data_dir)
    found.require_skeleton(source.skeleton, str(source.folder))
    occlusion = None if request.occlusion is None else Occlusion('joints', request.occlusion, seed=request.seed)
    if occlusion is not None:
        occlusion.require(source)
    clips: Clips = rpstn.OneWindow(source) if released else source
    graph, weights = split_model(model, training=False)
    evaluator, weights = make_evaluator(graph, model.stride, config, clips, mesh), sharding.put(weights, mesh)

    notes = clip_source.report_notes(training_clips, source)
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
        poses = evaluation.of_all_processes(evaluator.predict(weights))
        if missing := sum(int((~np.isfinite(joints).all(-1)).sum()) for _, joints, _ in poses):
            notes.append(f'{missing} predictions are not finite: they count at cell (0, 0).')
        measured = {ours: rpstn.measure(clips, poses, crop)} | measured
        result = rpstn.released_report(title, measured, clips=clips, notes=[*notes, f'{checkpoint}.'])
        publish(request.out, f'{name}_released', result, rpstn.render)
        return
    length = settings['chain_length']
    chain = f'chains of {length} frames' if length else 'each clip one chain'
    notes.append(f'{checkpoint}; protocol `full`, {chain}, decoding `{settings["decoding"]}`.')
    name += f'_chain{length}' if length else ''
    if request.temporal_control:
        result = _control_report(f'Does time help? {ours}, {title}', model, config, clips, request.seed, references, notes)
        publish(request.out, f'{name}_temporal_control_seed{request.seed}', result, tables.render)
        return
    predictions = evaluation.of_all_processes(evaluator.predict(weights))
    if request.predictions and speaks():
        _write_predictions(request.predictions, source, predictions, found)
    curve, told = _calibration(found, request, config, training_clips, source, evaluator, weights)
    rows, differences = {ours: evaluation.measure(clips, predictions)}, {}
    if occlusion is not None:
        hidden = f'{ours}, {occlusion.count} joints occluded'
        occluded = on_clips(evaluator, config, clips, occlusion).predict(weights)
        rows[hidden] = evaluation.measure(clips, evaluation.of_all_processes(occluded))
        differences[f'{hidden} - {ours}'] = tables.Row.difference(rows[hidden], rows[ours])
        told.append(f'Occluded: {occlusion}.')
    compared = {key: list(poses) for key, poses in references.items()}
    rows |= {key: evaluation.measure(clips, poses) for key, poses in compared.items()}
    measured_rows = {key: tables.Row.of(metrics) for key, metrics in rows.items()}
    result = tables.report(title, measured_rows, dataset=dataset.name, notes=notes + told, differences=differences)
    if clips.skeleton.sigmas:
        found_poses: dict[str, Iterable[Prediction]] = {ours: predictions, **compared}
        result['oks'] = {key: oks.summarise(oks.measure(clips, poses)) for key, poses in found_poses.items()}
    if curve is not None:
        result['calibration'] = reliability.reliability(calibration.outcomes(clips, predictions), curve)
    publish(request.out, name, result, _render)
    if curve is not None:
        publish_plot(request.out, f'{name}_calibration', lambda: reliability.plot(result['calibration'], f'{ours}, {title}'))


def _control_report(
    title: str,
    model: VideoModel,
    config: Mapping[str, Any],
    clips: Clips,
    seed: int,
    references: Mapping[str, Iterable[Prediction]],
    notes: Sequence[str],
) -> dict[str, Any]:
    by_past, told = temporal_control.rows(model, config, clips, seed)
    true = by_past[temporal_control.TRUE]
    rows = by_past | {key: evaluation.measure(clips, poses) for key, poses in references.items()}
    differences = {
        f'{key} - {temporal_control.TRUE}': tables.Row.difference(metrics, true)
        for key, metrics in by_past.items()
        if metrics is not true
    }
    measured_rows = {key: tables.Row.of(metrics) for key, metrics in rows.items()}
    return tables.report(title, measured_rows, notes=[*notes, *told], differences=differences)


def _calibration(
    found: Trained,
    request: EvaluationRequest,
    config: Mapping[str, Any],
    training_clips: clip_source.ClipSource,
    source: clip_source.ClipSource,
    evaluator: evaluation.Evaluator,
    weights: Weights,
) -> tuple[Calibration | None, list[str]]:
    """The calibration to judge, newly fitted unless the network came with one or none is wanted, and why there is none."""
    changed = [key for key in ('chain_length', 'decoding') if config['eval'][key] != found.config['eval'][key]]
    if changed:
        return None, [f'Scores are not calibrated: --{changed[0]} is not that of the run.']
    packaged = found.file is not None and found.name in pretrained.catalogue()
    if packaged or not request.calibration_clips:
        return found.calibration(), []
    fitting = calibration.fitting_clips(training_clips, source, request.calibration_clips)
    if fitting is None:
        return None, ['Scores are not calibrated: all training clips are among those that are evaluated.']
    curve = calibration.fit(found, evaluator, weights, config, fitting)
    return curve, [] if curve else ['Scores are not calibrated: no joint of the training clips counts.']


def _render(report: Mapping[str, Any]) -> str:
    text = tables.render(report)
    if 'oks' in report:
        text = f'{text}\n{oks.render(report["oks"])}\n'
    return f'{text}\n{reliability.render(report["calibration"])}' if 'calibration' in report else text


def _check_combination(request: EvaluationRequest) -> None:
    """Raises `InputError` where two of the things asked for do not go together."""
    if request.protocol == 'released':
        given = [key for key in ('chain_length', 'decoding') if getattr(request, key) is not None]
        if given:
            raise InputError(f'--{given[0]} belongs to --protocol full; released is fixed: chains of 5 frames, decoding argmax')
        if request.predictions:
            raise InputError('--predictions belongs to --protocol full, in which every frame is predicted')
        if request.temporal_control:
            raise InputError('--temporal_control belongs to --protocol full; released is fixed: chains of 5 frames')
        if request.occlusion is not None:
            raise InputError('--occlusion belongs to --protocol full')
    if request.temporal_control and request.occlusion is not None:
        raise InputError('--occlusion and --temporal_control: give one of them')
    if request.temporal_control and request.predictions:
        raise InputError('--predictions and --temporal_control: give one of them; the poses are those of the plain evaluation')


def _reference_predictions(clips: Clips, training_clips: clip_source.ClipSource) -> dict[str, Iterable[Prediction]]:
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
    source: clip_source.ClipSource,
    predictions: Iterable[Prediction],
    found: Trained,
) -> None:
    estimates = []
    for clip, joints, scores in sorted(predictions, key=lambda prediction: prediction[0]):
        example = source[clip]
        estimates.append(Estimates(example['clip'], joints, np.asarray(scores), example['boxes'], example['image_size']))
    write_predictions(path, estimates, source.skeleton, {**found.about, 'split': source.split})
    print('written:', path)
