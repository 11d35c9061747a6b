"""Networks that refine sequences of poses: HANet (docs/refine.md)."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import nnx

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError, one_line, some_of
from kimnet_jax.core.filters import Filter, parse_filter
from kimnet_jax.core.pose_windows import WindowConfig, extent, root_position, spans_without_long_gaps
from kimnet_jax.core.skeleton import SMPL, get_skeleton, named_apart
from kimnet_jax.core.smpl import Body
from kimnet_jax.core.types import Batch, Pairs
from kimnet_jax.core.video import DEFAULT_RATE
from kimnet_jax.data_pipelines import clip_source, pose_files, pose_formats, poses, sequence_files, smpl_files
from kimnet_jax.data_pipelines.loader import prefetch_to_device
from kimnet_jax.data_pipelines.poses import NoiseConfig, PoseConfig
from kimnet_jax.inference.refiner import PoseRefiner
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.models import Dtype, HANetConfig, build_refiner, model_fields
from kimnet_jax.models.weights import initialise, part_of
from kimnet_jax.released import hanet
from kimnet_jax.reporting import reference, smoothing, tables
from kimnet_jax.tasks import fit
from kimnet_jax.tasks.reports import EvaluationRequest, publish, speaks
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.training import evaluation, sharding
from kimnet_jax.training.initial import initialise_parts
from kimnet_jax.training.refinement_steps import (
    DEVICE_KEYS,
    EvalConfig,
    LossConfig,
    RefinementEvaluator,
    make_train_step,
    measure,
    metrics_of,
)
from kimnet_jax.training.state import Weights, split_model
from kimnet_jax.training.steps import Stepping, TrainStep

OURS = 'HANet (ours)'
LONGEST_GAP = 25  # frames without the person that are bridged


class Split(NamedTuple):
    """Attributes:
    pairs: of a split.
    dims: numbers of a joint: 2, 3, or 6 of rotations.
    clips: where the truth is from; None where it came with the estimates.
    """

    pairs: Pairs
    dims: int
    clips: clip_source.ClipSource | None

    @property
    def plane(self) -> bool:
        """Whether poses are measured in 2D, by PCK."""
        return self.dims == 2


def open_split(
    config: Mapping[str, Any], part: Literal['train', 'eval'], *, data_dir: str | None = None, split: str | None = None
) -> Split:
    """The pairs of `train` or `eval` that a config names. Raises `InputError` naming the field or file that is wrong."""
    settings, dataset = make(PoseConfig, config['poses'], 'poses'), make(clip_source.DatasetConfig, config['dataset'], 'dataset')
    files, truth = getattr(settings, part), getattr(settings, f'{part}_truth')
    if settings.source == 'sequences':
        if split or data_dir:
            raise InputError('--split and --data_dir: the poses of this run come from files of their own (config.poses)')
        body = _read_body(settings.smpl_file) if settings.kind == 'smpl' else None
        source = f'config.poses.{part}={files}'
        pairs = sequence_files.read_sequences(files, truth, source, settings.kind, root=settings.root, body=body)
        return Split(pairs, poses.DIMS[settings.kind], None)
    clips = dataset.open(part, data_dir, split)
    if settings.source == 'predictions':
        found = pose_files.read_predictions(files, clips.skeleton.text)
        allow_missing = settings.allow_missing and part == 'train'
        pairs_2d = poses.pair_with_truth(found, clips, f'config.poses.{part}={files}', allow_missing=allow_missing)
        return Split(pairs_2d, 2, clips)
    noise = make(NoiseConfig, config['noise'], 'noise')
    return Split(poses.NoisyPairs(clips, noise, config['seed']), 2, clips)


def _read_body(name: str) -> Body:
    try:
        return smpl_files.read_body(pathlib.Path(name).expanduser())
    except InputError as error:
        raise InputError(f'config.poses.smpl_file: {error}') from error


def windows_of(config: Mapping[str, Any]) -> WindowConfig:
    """How the poses of a run are cut and normalised."""
    model = {key: value for key, value in config['model'].items() if key in ('interval', 'window')}
    return WindowConfig(HANetConfig(**model).length, config['eval']['step'], config['poses']['normalise'])


@dataclasses.dataclass(frozen=True)
class Settings(fit.Shared):
    """What a config holds, section by section.

    Attributes:
        dtype: of the matrix products: `float32`, `bfloat16`, or `auto`: bfloat16 on accelerators, float32 on a CPU.
        model: fields of HANet (`models.hanet.HANetConfig`), and its `name`.
        poses: where estimated and true poses come from.
        noise: of `poses.source=noise`, errors like an estimator's.
        loss: HANet's.
        eval: how a split is evaluated.
    """

    dtype: Dtype = 'float32'
    model: Mapping[str, Any] = dataclasses.field(default_factory=lambda: model_fields('hanet'))
    poses: PoseConfig = dataclasses.field(default_factory=PoseConfig)
    noise: NoiseConfig = dataclasses.field(default_factory=NoiseConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)


def train(config: Mapping[str, Any], folder: pathlib.Path) -> int:
    """Runs the training that a config (`Settings`) describes; returns the exit status."""
    settings, mesh = make(Settings, config), sharding.make_mesh()
    sharding.check_batch_size(settings.train.batch_size, 'train.batch_size', mesh)

    # data
    windows, loss = windows_of(config), settings.loss
    ours, theirs = open_split(config, 'train'), open_split(config, 'eval')
    notes = _overlap_notes(ours, theirs)
    if poses.overlapping(ours.pairs, theirs.pairs) and not settings.dataset.allow_overlap:
        raise InputError(f'{notes[-1]} Choose others or, if this is intended, set config.dataset.allow_overlap=True')

    def batches(step: int) -> Generator[tuple[Batch, Batch], None, None]:
        stream = poses.train_batches(
            ours.pairs,
            settings.poses,
            windows,
            batch_size=settings.train.batch_size,
            seed=settings.seed,
            start_step=step,
            **fit.this_process(),
        )
        return prefetch_to_device(stream, sharding.split(mesh), DEVICE_KEYS)

    # model
    skeleton = ours.pairs.skeleton
    fit.check_select(settings.eval.select, list(_scores(metrics_of(skeleton, 0, plane=theirs.plane).compute())), skeleton)
    body = ours.pairs.body if loss.space == 'smpl_joints' else None
    if loss.space == 'smpl_joints' and body is None:
        raise InputError("config.loss.space='smpl_joints': only poses of config.poses.kind='smpl' have such joints")
    model = build_refiner(settings.model, channels=skeleton.num_joints * ours.dims, dtype=settings.dtype, seed=settings.seed)

    def make_step(graph: nnx.GraphDef, stepping: Stepping) -> TrainStep:
        return make_train_step(graph, stepping, loss, body=body, interval=model.config.interval, seed=settings.seed)

    def make_evaluate(graph: nnx.GraphDef) -> Callable[[Weights, Callable[[], None]], dict[str, float]]:
        evaluator = RefinementEvaluator(graph, theirs.pairs, windows, batch_size=settings.eval.batch_size)
        return lambda weights, check: _scores(evaluator(weights, check).compute())

    return fit.fit(
        settings,
        folder,
        config=config,
        select=settings.eval.select,
        mesh=mesh,
        model=model,
        skeleton=skeleton,
        clips=ours.pairs.names,
        notes=notes,
        initialise=lambda: initialise_parts(model, settings.init, initialise, read_weights, part_of),
        make_step=make_step,
        make_evaluate=make_evaluate,
        batches=batches,
    )


def evaluate(found: Trained, request: EvaluationRequest) -> None:
    """Evaluates HANet with every baseline beside it, and writes the report.

    Raises `InputError` where the request is none of a network that reads poses.
    """
    given = [key for key in ('chain_length', 'decoding', 'occlusion') if getattr(request, key) is not None]
    given += ['temporal_control'] if request.temporal_control else []
    if given:
        raise InputError(f'--{given[0]}: {found.name} is HANet, which reads poses and no video')
    config = found.config
    found.section(clip_source.DatasetConfig, 'dataset')
    split, windows = open_split(config, 'eval', data_dir=request.data_dir, split=request.split), windows_of(config)
    training = open_split(config, 'train', data_dir=request.data_dir)
    pairs, interval = split.pairs, config['model']['interval']
    graph, weights = split_model(found.network(), training=False)
    weights = sharding.put(weights, sharding.make_mesh())
    changed = {} if request.batch_size is None else {'batch_size': request.batch_size}
    batch_size = make(EvalConfig, {**config['eval'], **changed}, 'eval').batch_size
    evaluator = RefinementEvaluator(graph, pairs, windows, batch_size=batch_size)

    source, part = config['poses'], request.split or config['dataset']['eval_split']
    data = source['eval'] if source['source'] == 'sequences' else f'{config["dataset"]["name"]}/{config["dataset"]["config"]}'
    title = f'HANet on {data}' + ('' if split.clips is None else f', split {part}, poses of {_origin(config)}')
    name = f'{"eval" if split.clips is None else part}_step{found.step}'
    notes = [*_overlap_notes(training, split), f'Checkpoint of step {found.step} of {found.name}.']
    if request.protocol == 'released':
        if not split.plane:
            raise InputError('--protocol released: this run refines poses in 3D, and the protocol is of 2D')
        functions = evaluator.function(weights), evaluator.function(weights, 'refined')
        result = hanet.released_report(title, pairs, functions, windows, interval=interval, notes=notes)
        publish(request.out, f'{name}_released', result, hanet.render)
        return
    refined = list(evaluator.predict(weights))
    rows: dict[str, Iterable[tuple[int, np.ndarray]]] = {OURS: refined}
    rows |= {key: _filtered(pairs, one) for key, one in smoothing.baselines(interval).items()}
    if split.plane:
        rows |= _reference_poses(pairs, training.pairs)
    measured = {key: measure(pairs, predictions) for key, predictions in rows.items()}
    notes.append(f'Windows of {windows.length} frames, one every {windows.step}; each frame their interquartile mean.')
    notes += _measure_notes(config)
    if request.predictions and speaks():
        _write(request.predictions, pairs, refined, found.about)
    if split.plane:
        rows_2d = {key: tables.Row.of(metrics) for key, metrics in measured.items() if isinstance(metrics, PoseMetrics)}
        publish(request.out, name, tables.report(title, rows_2d, notes=notes), smoothing.render_refinement)
    else:
        result = smoothing.spatial_report(title, {key: metrics.compute() for key, metrics in measured.items()}, notes)
        publish(request.out, name, result, smoothing.render_spatial)


class TrainedRefiner(NamedTuple):
    """A network ready for poses.

    Attributes:
        refiner: the network.
        skeleton: of its poses, as `Skeleton.text` has it.
        about: what files say of it.
        kind: of its poses.
        root: joints whose mean is the origin of the poses that it learnt from.
    """

    refiner: PoseRefiner
    skeleton: str
    about: Mapping[str, Any]
    kind: poses.Kind = '2d'
    root: tuple[int, ...] = ()

    def refine(self, one: poses.Estimates, source: str) -> np.ndarray:
        """Refined joints float32 [T, J, D] of a clip; a joint that is in none of its frames stays missing (NaN).

        Raises `InputError` naming `source` where they are of another kind.
        """
        joints, dims = one.joints.shape[1:]
        wanted = get_skeleton(self.skeleton).num_joints, poses.DIMS[self.kind]
        if (joints, dims) != wanted:
            raise InputError(
                f'{source}: {joints} joints of {dims} numbers each; {self.about["weights"]} refines {wanted[0]} of {wanted[1]}'
            )
        if self.refiner.windows.normalise == 'image' and not one.image_size.all():
            raise InputError(f'{source}: no size of the image in it, by which {self.about["weights"]} normalises poses')
        nowhere = ~np.isfinite(one.joints).all(-1).any(0)
        if nowhere.all():
            return np.full_like(one.joints, np.nan)
        if self.root:
            origin = root_position(one.joints, self.root)
            refined = self.refiner(one.joints - origin, extent(one.joints - origin), one.image_size) + origin
        else:
            refined = self.refiner(one.joints, one.boxes, one.image_size)
        refined[:, nowhere] = np.nan
        return refined


def load(found: Trained) -> TrainedRefiner:
    """A trained HANet, ready for poses. Raises `InputError` where it is another network."""
    if found.kind != 'hanet':
        raise InputError(f'{found.name}: {found.kind!r}, which refines no poses; give one of HANet')
    config = found.config
    settings = make(PoseConfig, config['poses'], 'poses')
    graph, weights = split_model(found.network(), training=False)
    refiner = PoseRefiner(weights, lambda weights, poses, mask: nnx.merge(graph, *weights)(poses, mask).final, windows_of(config))
    return TrainedRefiner(refiner, found.skeleton.text, found.about, settings.kind, settings.root)


class Smoother(NamedTuple):
    """A filter in the place of a network, for poses of any skeleton and kind.

    Attributes:
        smooth: the filter; None: poses stay as they are, and the file is only converted.
        about: what files say of it.
        skeleton, kind: any.
    """

    smooth: Filter | None
    about: Mapping[str, Any]
    skeleton: str | None = None
    kind: poses.Kind | None = None

    def refine(self, one: poses.Estimates, source: str) -> np.ndarray:
        """Smoothed joints float32 [T, J, D] of a clip; a joint that is in none of its frames stays missing (NaN).

        Raises `InputError` naming `source` where its times are not in order.
        """
        if self.smooth is None:
            return one.joints
        try:
            return self.smooth(one.joints, one.boxes, one.times_at(DEFAULT_RATE)).astype(np.float32)
        except InputError as error:
            raise InputError(f'{source}: {error}') from error


def smoother(text: str) -> Smoother:
    """The filter that `--smooth` names, or `none`. Raises `InputError` naming what is wrong, and the known ones."""
    if text == 'none':
        return Smoother(None, {})
    try:
        smooth = parse_filter(text)
    except InputError as error:
        raise InputError(f'--smooth: {error}') from error
    return Smoother(smooth, {'filter': str(smooth)})


def refine_file(refiner: TrainedRefiner | Smoother, source: pathlib.Path, target: pathlib.Path) -> int:
    """Refines a file of poses (`pose_files.open_pose_file`) into another one; returns its frames.

    In the format of the source, all but the poses stays as it was, and `refined` says by what they were changed. In another
    format the target has what the source tells that it has a place for. A frame without a person stays one.

    Raises:
        InputError: naming the file and the field that is wrong.
    """
    form = pose_files.format_of(source)
    wanted = pose_files.format_of(target, like=form)
    if form != wanted and 'npz' in (form, wanted):
        raise InputError(f'{target}: an .npz becomes an .npz, and nothing else does; let its name end in {source.suffix!r}, too')
    if form == wanted == 'openpose' and target.resolve() == source.resolve():
        raise InputError(f'{target}: that is the folder that is read; give another one')
    found = pose_files.open_pose_file(source, refiner.kind, refiner.skeleton)
    if refiner.skeleton is not None and get_skeleton(found.skeleton) != get_skeleton(refiner.skeleton):
        theirs, ours = named_apart(get_skeleton(found.skeleton), get_skeleton(refiner.skeleton))
        raise InputError(f'{source}: poses of {theirs}; {refiner.about["weights"]} refines those of {ours}')
    if not any(np.isfinite(one.joints).all(-1).any() for one in found.clips):
        raise InputError(f'{source}: no joint in any of its frames; there is nothing to refine')
    if isinstance(refiner, Smoother) and refiner.smooth is not None and any(one.times is None for one in found.clips):
        print(f'warning: {source}: tells no times; taken as {DEFAULT_RATE:g} frames a second', file=sys.stderr)
    joints = [_refine_clip(refiner, one, str(source)) for one in found.clips]
    if form == wanted:
        found.write(target, joints, refiner.about)
    else:
        _write_other(found, target, wanted, joints, refiner.about)
    return sum(len(one.joints) if one.present is None else int(one.present.sum()) for one in found.clips)


def _refine_clip(refiner: TrainedRefiner | Smoother, one: poses.Estimates, source: str) -> np.ndarray:
    """float32 [T, J, D]; where the person is away for longer than `LONGEST_GAP`, before and after are refined apart."""
    if one.present is None or one.present.all():
        return refiner.refine(one, source)
    joints = np.full_like(one.joints, np.nan)
    for first, end in spans_without_long_gaps(one.present, LONGEST_GAP):
        fields = ('joints', 'scores', 'boxes', 'frames', 'times', 'present')
        parts = {name: getattr(one, name)[first:end] for name in fields if getattr(one, name) is not None}
        joints[first:end] = refiner.refine(dataclasses.replace(one, **parts), source)
    joints[~one.present] = np.nan
    return joints


def _write_other(
    found: pose_files.PoseFile, target: pathlib.Path, form: str, joints: Sequence[np.ndarray], changed: Mapping[str, Any]
) -> None:
    clips = [dataclasses.replace(one, joints=pose) for one, pose in zip(found.clips, joints, strict=True)]
    about = {**found.about, **({'refined': dict(changed)} if changed else {})}
    pose_formats.write_poses(target, form, clips, get_skeleton(found.skeleton), about)  # type: ignore[arg-type]


def refine_files(refiner: TrainedRefiner | Smoother, files: Sequence[tuple[pathlib.Path, pathlib.Path]]) -> int:
    """Refines (source, target) after (source, target); one that fails is reported, the others go on. The exit status: 0 or 2."""
    failed = 0
    for source, target in files:
        try:
            print(f'{source}: {refine_file(refiner, source, target)} frames -> {target}')
        except InputError as error:
            failed += 1
            print(f'error: {one_line(error)}; nothing was written for it', file=sys.stderr)
    return 2 if failed else 0


def _scores(result: dict[str, Any]) -> dict[str, float]:
    """The metrics as flat numbers; the best checkpoint has the highest value, so MPJPE is there as a negative number, too."""
    flat = evaluation.scalars(result)
    return flat | ({'negative_mpjpe': -flat['mpjpe']} if 'mpjpe' in flat else {})


def _overlap_notes(training: Split, split: Split) -> list[str]:
    leak = split.clips.leak if split.clips is not None else ''
    notes = [f'No result on unseen clips: {leak}.'] if leak else []
    shared = poses.overlapping(training.pairs, split.pairs)
    if shared:
        notes.append(
            f'No result on unseen clips: {len(shared)} of {len(set(split.pairs.names))} clips are trained on: {some_of(shared)}.'
        )
    return notes


def _measure_notes(config: Mapping[str, Any]) -> list[str]:
    settings = make(PoseConfig, config['poses'], 'poses')
    if settings.kind == 'smpl':
        body = f'{SMPL.num_joints} joints of {settings.smpl_file}'
        return [f'Measured at the {body}, in metres from the pelvis; truth and estimates each with their own shape.']
    if settings.root:
        return [f'Poses relative to the mean of the joints {", ".join(map(str, settings.root))}.']
    return []


def _origin(config: Mapping[str, Any]) -> str:
    source = config['poses']
    if source['source'] != 'noise':
        return source['eval']
    return 'the truth with noise (' + ', '.join(f'{key} {value}' for key, value in config['noise'].items()) + ')'


def _filtered(pairs: Pairs, function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    for i in range(len(pairs)):
        estimates = pairs(i).estimates
        yield i, function(estimates.joints, estimates.boxes)


def _reference_poses(pairs: Pairs, training: Pairs) -> dict[str, Iterator[tuple[int, np.ndarray]]]:
    truth = (training(i) for i in range(len(training)))
    mean = reference.mean_pose((pair.joints, pair.visible, pair.boxes) for pair in truth)
    joints = pairs.skeleton.num_joints
    return {
        tables.MEAN_POSE: ((i, reference.place_pose(mean, pairs(i).boxes)) for i in range(len(pairs))),
        tables.RANDOM: ((i, reference.random_pose(pairs(i).boxes, joints, seed=0, clip=i)) for i in range(len(pairs))),
    }


def _write(path: pathlib.Path, pairs: Pairs, refined: list[tuple[int, np.ndarray]], about: Mapping[str, Any]) -> None:
    estimates = [
        poses.Estimates(one.clip, joints, one.scores, one.boxes, one.image_size)
        for joints, one in ((joints, pairs(clip).estimates) for clip, joints in refined)
    ]
    pose_files.write_predictions(path, estimates, pairs.skeleton, {'model': 'hanet', **about})
    print('written:', path)
