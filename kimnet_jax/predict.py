"""Poses of any video: `python -m kimnet_jax.predict [--model NAME|RUN|FILE] VIDEO...` (docs/predict.md)."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from flax import nnx
from tqdm import tqdm

from kimnet_jax import pretrained, trained
from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.video import read_frames
from kimnet_jax.inference.outputs import SUFFIXES, PoseOutputs, output_stems
from kimnet_jax.inference.predictor import PosePredictor, predict_poses
from kimnet_jax.inference.refiner import PoseRefiner, refine_video
from kimnet_jax.inference.tracking import TrackerConfig, parse_box, read_boxes
from kimnet_jax.inference.video import stated_frame_count
from kimnet_jax.models.folding import fold
from kimnet_jax.training.compilation import keep_compiled
from kimnet_jax.training.state import split_model


@dataclasses.dataclass(frozen=True)
class VideoPoses:
    """A model ready for videos, and what the JSON files say of it.

    Attributes:
        predictor: the model.
        skeleton: of its poses.
        about: goes into the JSON files.
        refiner: of its poses, None to leave them as they are.
        look_ahead: frames that a refined pose may wait for; None: the whole video.
    """

    predictor: PosePredictor
    skeleton: Skeleton
    about: Mapping[str, Any]
    refiner: PoseRefiner | None = None
    look_ahead: int | None = None


def ready(found: trained.Trained) -> VideoPoses:
    """A trained network made ready for videos. Raises `InputError` where it is none of videos."""
    config, model = found.config, found.load()
    size = config['data']['input_size']
    graph, weights = split_model(fold(model, size), training=False)
    predictor = PosePredictor(
        weights,
        lambda weights, frames: nnx.merge(graph, *weights).init_state(frames),
        lambda weights, state, frames: nnx.merge(graph, *weights).step(state, frames),
        size=size,
        stride=model.stride,
        box_scale=config['data']['box_scale'],
        decoding=config['eval']['decoding'],
    )
    return VideoPoses(predictor, found.skeleton, found.about)


def with_refiner(model: VideoPoses, reference: str, look_ahead: int | None) -> VideoPoses:
    """The model with a trained HANet behind it. Raises `InputError` where that is of another skeleton."""
    from kimnet_jax import refinement  # with what it needs it takes longer to import than all the rest

    behind = refinement.load(reference, 'best')
    if behind.skeleton != model.skeleton.name:
        raise InputError(f'--refine {reference}: refines poses of {behind.skeleton!r}, the model has {model.skeleton.name!r}')
    about = {**model.about, 'refined': {**behind.about, 'look_ahead': look_ahead}}
    return dataclasses.replace(model, about=about, refiner=behind.refiner, look_ahead=look_ahead)


def predict_videos(
    model: VideoPoses,
    videos: Sequence[pathlib.Path],
    out: pathlib.Path,
    kinds: Sequence[str],
    boxes: Sequence[tuple[str, np.ndarray | None]],
) -> int:
    """Writes every video's results; one that fails is reported, and the others go on.

    Args:
        model: the network.
        videos: video files or folders of images.
        out: folder for the results.
        kinds: keys of `SUFFIXES`.
        boxes: for every video what to call its boxes, and these [N, 4] (see `predict_poses`).

    Returns:
        The exit status: 0, or 2 where a video failed.
    """
    config = TrackerConfig()
    stems = output_stems(videos, out, kinds)
    failed = 0
    for video, stem, (source, given) in zip(videos, stems, boxes, strict=True):
        try:
            outputs = PoseOutputs(
                out, stem, kinds, video=video, skeleton=model.skeleton, model=model.about, joint_score=config.joint_score
            )
            damaged: set[int] = set()
            frames = read_frames(video, damaged.add)
            stated = stated_frame_count(video)
            with outputs, tqdm(desc=stem, total=stated, unit='frame', disable=None) as progress:
                poses = predict_poses(model.predictor, frames, given, boxes_source=source, config=config)
                if model.refiner is not None:
                    read_again = functools.partial(read_frames, video, damaged.add)
                    poses = refine_video(model.refiner, poses, read_again, model.look_ahead)
                for frame, pose in poses:
                    outputs.write(frame, dataclasses.replace(pose, damaged=pose.frame in damaged))
                    progress.update()
            _warn(video, damaged, pose.frame + 1, stated)
            print(f'{video}: {pose.frame + 1} frames -> {out / stem}{{{",".join(SUFFIXES[kind] for kind in kinds)}}}')
        except (InputError, MemoryError) as error:
            failed += 1
            text = str(error) if isinstance(error, InputError) else f'not enough memory ({error})'
            message = text if str(video) in text else f'{video}: {text}'
            print(f'error: {message}; nothing was written for it', file=sys.stderr)
    if failed:
        print(f'error: {failed} of {len(videos)} videos failed, see above', file=sys.stderr)
    return 2 if failed else 0


def _warn(video: pathlib.Path, damaged: set[int], frames: int, stated: int | None) -> None:
    """Tells of a damaged file on stderr."""
    if damaged:
        print(
            f'warning: {video}: {len(damaged)} of {frames} frames are damaged, the first is frame {min(damaged)}; '
            'they are marked `damaged` in JSON and CSV, and their poses are unreliable',
            file=sys.stderr,
        )
    if stated not in (None, frames):
        print(f'warning: {video}: {frames} frames could be read, but the file states {stated}', file=sys.stderr)


def requested_boxes(box: str | None, files: Sequence[str], videos: int) -> list[tuple[str, np.ndarray | None]]:
    """What `--box` and `--boxes` give for every video: what to call the boxes, and these [N, 4] or None. Raises `InputError`."""
    if box is not None and files:
        raise InputError('--box and --boxes: give one of them')
    if files and len(files) != videos:
        raise InputError(f'--boxes: {len(files)} files for {videos} videos; give one for each, in the same order')
    if files:
        return [(file, read_boxes(file)) for file in files]
    return [(f'--box {box}', parse_box(box)) if box is not None else ('the whole frame', None)] * videos


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    trained.define_flags(values, pretrained.DEFAULT)
    out = 'Output folder. Default: <run>/predictions, or ./predictions if the model is not a run.'
    flags.DEFINE_string('out', None, out, flag_values=values)
    box = "The person's box in the first frame of every video: x0,y0,x1,y1 in pixels."
    flags.DEFINE_string('box', None, box, flag_values=values)
    boxes = (
        'File of boxes, JSON or CSV: one (for the first frame) or one per frame. With several videos, repeat it in their order.'
    )
    flags.DEFINE_multi_string('boxes', [], boxes, flag_values=values)
    refine = 'A trained HANet that refines the poses, named like --model. The whole video is processed first.'
    flags.DEFINE_string('refine', None, refine, flag_values=values)
    ahead = 'With --refine: each refined pose waits for this many frames only, instead of the whole video.'
    flags.DEFINE_integer('look_ahead', None, ahead, lower_bound=0, flag_values=values)
    flags.DEFINE_list('outputs', list(SUFFIXES), f'What to write: {", ".join(SUFFIXES)}, or some of them.', flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Predicts the videos in `argv[1:]`; returns the exit status."""
    videos = [pathlib.Path(video) for video in argv[1:]]
    reference = trained.requested(options.model, options.workdir, pretrained.DEFAULT)
    if not videos:
        raise InputError('no video given; name one or more video files or folders of images after the flags')
    kinds = list(dict.fromkeys(options.outputs))
    if not kinds or not set(kinds) <= set(SUFFIXES):
        raise InputError(f'--outputs={",".join(kinds)}: choose some of {", ".join(SUFFIXES)}')
    boxes = requested_boxes(options.box, options.boxes, len(videos))
    if options.look_ahead is not None and options.refine is None:
        raise InputError('--look_ahead needs --refine')
    found = trained.open_trained(reference, options.checkpoint)
    out = pathlib.Path(options.out).expanduser() if options.out else (found.folder or pathlib.Path()) / 'predictions'
    model = ready(found)
    if options.refine is not None:
        model = with_refiner(model, options.refine, options.look_ahead)
    return predict_videos(model, videos, out, kinds, boxes)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
