"""Poses of videos, from a network ready for them to the files that are written."""

import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from kimnet_jax.core import signals
from kimnet_jax.core.background import Behind, ahead
from kimnet_jax.core.calibration import Calibration
from kimnet_jax.core.errors import InputError, one_line
from kimnet_jax.core.filters import parse_filter
from kimnet_jax.core.skeleton import Skeleton, get_skeleton, named_apart
from kimnet_jax.core.sources import Source
from kimnet_jax.core.video import Frame
from kimnet_jax.data_pipelines import pose_formats, pose_records
from kimnet_jax.inference.outputs import LINES, SUFFIXES, WINDOW, PoseOutputs, output_stems
from kimnet_jax.inference.people import FramePose, People
from kimnet_jax.inference.predictor import PosePredictor, predict_poses
from kimnet_jax.inference.refiner import PoseFilter, Refiner, refine_video
from kimnet_jax.inference.tracking import TrackerConfig
from kimnet_jax.models.folding import fold
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.training.state import Weights, split_model

if TYPE_CHECKING:
    from kimnet_jax.tasks.refinement import TrainedRefiner


OTHERS: dict[str, str] = {kind: ending for kind, ending in pose_formats.ENDINGS.items() if kind not in SUFFIXES}
OUTPUTS: Mapping[str, str] = {**SUFFIXES, **OTHERS, LINES: '', WINDOW: ''}  # what can be written, and how its name ends
TRACKING = TrackerConfig()


@dataclasses.dataclass(frozen=True)
class VideoPoses:
    """A model ready for videos, and what the JSON files say of it.

    Attributes:
        predictor: the model.
        skeleton: of its poses.
        about: goes into the JSON files.
        refiner: of its poses, None to leave them as they are.
        look_ahead: frames that a refined pose may wait for; None: the whole video.
        calibration: of the scores, None where there is none; refined poses lie elsewhere, so they get no probabilities.
    """

    predictor: PosePredictor
    skeleton: Skeleton
    about: Mapping[str, Any]
    refiner: Refiner | None = None
    look_ahead: int | None = None
    calibration: Calibration | None = None

    def calibrated(self, pose: FramePose) -> FramePose:
        """The pose with the probabilities of its scores, where they are calibrated, and the network saw the frame."""
        return (
            pose
            if self.calibration is None or pose.interpolated
            else dataclasses.replace(pose, probabilities=self.calibration(pose.scores))
        )


class Watched(NamedTuple):
    """State of a predictor that is watched.

    Attributes:
        state: the network's own.
        heatmaps: [1, h, w, J] of the last frame.
        evidence: of the temporal module there, [1, ...] by name; zeros where the chain began with it.
    """

    state: Any
    heatmaps: jax.Array
    evidence: dict[str, jax.Array]


def load(found: Trained, *, watch: bool = False) -> VideoPoses:
    """A trained network, ready for videos; with `watch` its predictor's state is a `Watched`.

    Raises `InputError` where it is none of videos.
    """
    config, model = found.config, found.load()
    size = config['data']['input_size']
    graph, weights = split_model(fold(model, size), training=False)

    def begin(weights: Weights, frames: jax.Array) -> tuple[jax.Array, Any]:
        network = nnx.merge(graph, *weights)
        heatmaps, state = network.init_state(frames)
        if not watch:
            return heatmaps, state
        *_, evidence = jax.eval_shape(lambda: network.step_with_evidence(state, frames))
        return heatmaps, Watched(state, heatmaps, jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), evidence))

    def step(weights: Weights, state: Any, frames: jax.Array) -> tuple[jax.Array, Any]:
        network = nnx.merge(graph, *weights)
        if not watch:
            return network.step(state, frames)
        heatmaps, state, evidence = network.step_with_evidence(state.state, frames)
        return heatmaps, Watched(state, heatmaps, evidence)

    predictor = PosePredictor(
        weights,
        begin,
        step,
        size=size,
        stride=model.stride,
        box_scale=config['data']['box_scale'],
        decoding=config['eval']['decoding'],
        sigma=config['target']['sigma'],
    )
    return VideoPoses(predictor, found.skeleton, found.about, calibration=found.calibration())


def with_refiner(model: VideoPoses, behind: 'TrainedRefiner', look_ahead: int | None) -> VideoPoses:
    """The model with a trained HANet behind it. Raises `InputError` where that is of another skeleton."""
    if get_skeleton(behind.skeleton) != model.skeleton:
        theirs, ours = named_apart(get_skeleton(behind.skeleton), model.skeleton)
        raise InputError(f'--refine {behind.about["weights"]}: refines poses of {theirs}, the model has {ours}')
    about = {**model.about, 'refined': {**behind.about, 'look_ahead': look_ahead}}
    return dataclasses.replace(model, about=about, refiner=behind.refiner, look_ahead=look_ahead, calibration=None)


def with_filter(model: VideoPoses, text: str, live: bool) -> VideoPoses:
    """The model with the filter behind it that `--smooth` names. Raises `InputError` where there is none of that name.

    `live`: the poses come out at once, so that the filter sees the past alone; else the whole video, where it can be read again.
    """
    try:
        smooth = parse_filter(text)
    except InputError as error:
        raise InputError(f'--smooth: {error}') from error
    about = {**model.about, 'refined': {'filter': str(smooth), 'look_ahead': 0 if live else None}}
    look_ahead = 0 if live else None
    return dataclasses.replace(model, about=about, refiner=PoseFilter(smooth), look_ahead=look_ahead, calibration=None)


def _on_source(model: VideoPoses, video: Source) -> VideoPoses:
    """The model as it can refine this video: of one that cannot be read again a filter sees the past alone."""
    if model.refiner is None or model.look_ahead is not None or video.readable_again:
        return model
    if not isinstance(model.refiner, PoseFilter):
        raise InputError(f'{video.name}: cannot be read twice, as refining a whole video does; give --look_ahead')
    about = {**model.about, 'refined': {**model.about['refined'], 'look_ahead': 0}}
    return dataclasses.replace(model, about=about, look_ahead=0)


def predict_videos(
    model: VideoPoses,
    videos: Sequence[Source],
    out: pathlib.Path,
    kinds: Sequence[str],
    people: Sequence[Callable[[TrackerConfig], People]],
    *,
    every: int = 1,
) -> int:
    """Writes every video's results; one that fails is reported, and the others go on.

    Args:
        model: the network.
        videos: files, folders of images, or what else frames come from.
        out: folder for the results.
        kinds: some of `OUTPUTS`.
        people: makes for every video what knows who is in it.
        every: run the network on every so many frames (see `predict_poses`).

    Returns:
        The exit status: 0, or 2 where a video failed.
    """
    written = [OUTPUTS[kind] for kind in kinds if OUTPUTS[kind]]
    told = sys.stderr if LINES in kinds else sys.stdout
    stems = output_stems(videos, out, written)
    if every > 1:
        model = dataclasses.replace(model, calibration=None)  # poses in between have no scores of the network's
    failed = 0
    for video, stem, make_people in zip(videos, stems, people, strict=True):
        try:
            frames = _predict_video(_on_source(model, video), video, out, stem, kinds, make_people(TRACKING), every)
            endings = f'{{{",".join(written)}}}' if len(written) > 1 else ''.join(written)
            where = f' -> {out / stem}{endings}' if written else ''
            print(f'{video.name}: {frames} frames{where}', file=told)
        except (InputError, MemoryError) as error:
            failed += 1
            text = one_line(error) if isinstance(error, InputError) else f'not enough memory ({error})'
            message = text if video.name in text else f'{video.name}: {text}'
            print(f'error: {message}; nothing was written for it', file=sys.stderr)
    if failed:
        print(f'error: {failed} of {len(videos)} videos failed, see above', file=sys.stderr)
    return 2 if failed else 0


def _predict_video(
    model: VideoPoses, video: Source, out: pathlib.Path, stem: str, kinds: Sequence[str], people: People, every: int
) -> int:
    """Writes a video's results; how many frames it has. Reading and writing go on in threads of their own.

    Ctrl-C ends a source that cannot be read again as its end would: what came until then is written.
    """
    outputs = PoseOutputs(
        out,
        stem,
        [OTHERS.get(kind, kind) for kind in kinds],
        video=video,
        skeleton=model.skeleton,
        model=model.about,
        joint_score=TRACKING.joint_score,
        calibrated=model.calibration is not None,
        others={ending: functools.partial(_Gathered, kind, model.skeleton) for kind, ending in OTHERS.items()},
    )

    def write_frame(item: tuple[Frame, list[FramePose]]) -> None:
        outputs.write(*item)

    count, persons, damaged, stated = 0, 0, [], video.stated_count()
    with (
        outputs,
        tqdm(desc=stem, total=stated, unit='frame', disable=None) as progress,
        contextlib.ExitStack() as reading,
        Behind(write_frame) as write,
    ):

        def read() -> Iterator[Frame]:
            stopped = _never if video.readable_again else reading.enter_context(signals.deferred())
            return reading.enter_context(contextlib.closing(ahead(video.frames(True), stopped=stopped)))

        poses = predict_poses(model.predictor, read(), people, every=every)
        if model.refiner is not None:
            poses = refine_video(model.refiner, poses, read, model.look_ahead)
        for frame, of_frame in poses:
            write((frame, [model.calibrated(pose) for pose in of_frame]))
            if frame.damaged:
                damaged.append(count)
            persons += len(of_frame)
            count += 1
            progress.update()
            if outputs.closed:
                break
    _warn(video.name, damaged, count, None if outputs.closed else stated)
    if not persons:
        print(f'warning: {video.name}: nobody was found in it', file=sys.stderr)
    return count


def _never() -> bool:
    return False


class _Gathered:
    """Poses of a whole video, for formats that are written at its end."""

    def __init__(self, kind: str, skeleton: Skeleton, path: pathlib.Path, about: Mapping[str, Any]):
        self._kind, self._skeleton, self._path, self._about = kind, skeleton, path, about
        self._poses: list[FramePose] = []
        self._times: list[float] = []

    def write(self, frame: Frame, poses: Sequence[FramePose]) -> None:
        self._poses += poses
        self._times.append(frame.time)

    def finish(self) -> None:
        if not self._poses:
            return  # a file of nobody's poses is no file in any of these formats
        records = pose_records.Records(
            [pose.id for pose in self._poses],
            [pose.frame for pose in self._poses],
            np.stack([pose.joints for pose in self._poses]),
            np.stack([pose.scores for pose in self._poses]),
            np.stack([pose.box for pose in self._poses]),
            [pose.time for pose in self._poses],
        )
        name, size = self._about['video'], (self._about['height'], self._about['width'])
        clips = pose_records.clips_of(records, name, pathlib.PurePath(name).stem, size, count=len(self._times)).clips
        pose_formats.write_poses(
            self._path, cast(pose_formats.Format, self._kind), clips, self._skeleton, self._about, self._times
        )


def _warn(video: str, damaged: Sequence[int], frames: int, stated: int | None) -> None:
    """Tells of a damaged file on stderr."""
    if damaged:
        print(
            f'warning: {video}: {len(damaged)} of {frames} frames are damaged, the first is frame {min(damaged)}; '
            'they are marked `damaged` in JSON and CSV, and their poses are unreliable',
            file=sys.stderr,
        )
    if stated not in (None, frames):
        print(f'warning: {video}: {frames} frames could be read, but the file states {stated}', file=sys.stderr)
