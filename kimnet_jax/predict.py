"""Poses of any video with a trained model: `python -m kimnet_jax.predict --workdir W VIDEO...` (docs/predict.md)."""

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

from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.core.skeleton import Skeleton, get_skeleton
from kimnet_jax.core.video import read_frames
from kimnet_jax.inference.outputs import SUFFIXES, PoseOutputs, output_stems
from kimnet_jax.inference.predictor import PosePredictor, predict_poses
from kimnet_jax.inference.refiner import PoseRefiner, refine_video
from kimnet_jax.inference.tracking import TrackerConfig, parse_box, read_boxes
from kimnet_jax.inference.video import stated_frame_count
from kimnet_jax.models import abstract_model
from kimnet_jax.models.folding import fold
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.compilation import keep_compiled
from kimnet_jax.training.state import split_model
from kimnet_jax.training.workdir import read_config


@dataclasses.dataclass(frozen=True)
class Trained:
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


def load(workdir: pathlib.Path, checkpoint: str) -> Trained:
    """The model of a training run at a checkpoint: `best`, `last` or a step. Raises `InputError` where there is none."""
    config, name = read_config(workdir)
    skeleton = get_skeleton(name)
    model = abstract_model(config['model'], num_joints=skeleton.num_joints, dtype=config['dtype'])
    graph, template = split_model(model, training=False)
    weights, meta = Checkpoints(workdir, read_only=True).restore_weights(checkpoint, template)
    size = config['data']['input_size']
    graph, weights = split_model(fold(nnx.merge(graph, *weights), size), training=False)
    predictor = PosePredictor(
        weights,
        lambda weights, frames: nnx.merge(graph, *weights).init_state(frames),
        lambda weights, state, frames: nnx.merge(graph, *weights).step(state, frames),
        size=size,
        stride=model.stride,
        box_scale=config['data']['box_scale'],
        decoding=config['eval']['decoding'],
    )
    about = {'model': config['model'].get('name', 'kimnet'), 'workdir': str(workdir), 'step': meta['step']}
    return Trained(predictor, skeleton, about)


def with_refiner(trained: Trained, folder: pathlib.Path, look_ahead: int | None) -> Trained:
    """The model with HANet of the run in `folder` behind it. Raises `InputError` where that is of another skeleton."""
    from kimnet_jax import refinement  # with what it needs it takes longer to import than all the rest

    behind = refinement.load(folder, 'best')
    if behind.skeleton != trained.skeleton.name:
        raise InputError(f'--refine {folder}: refines poses of {behind.skeleton!r}, the model has {trained.skeleton.name!r}')
    about = {**trained.about, 'refined': {**behind.about, 'look_ahead': look_ahead}}
    return dataclasses.replace(trained, about=about, refiner=behind.refiner, look_ahead=look_ahead)


def predict_videos(
    trained: Trained,
    videos: Sequence[pathlib.Path],
    out: pathlib.Path,
    kinds: Sequence[str],
    boxes: Sequence[tuple[str, np.ndarray | None]],
) -> int:
    """Writes every video's results; one that fails is reported, and the others go on.

    Args:
        trained: the model.
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
                out, stem, kinds, video=video, skeleton=trained.skeleton, model=trained.about, joint_score=config.joint_score
            )
            damaged: set[int] = set()
            frames = read_frames(video, damaged.add)
            stated = stated_frame_count(video)
            with outputs, tqdm(desc=stem, total=stated, unit='frame', disable=None) as progress:
                poses = predict_poses(trained.predictor, frames, given, boxes_source=source, config=config)
                if trained.refiner is not None:
                    read_again = functools.partial(read_frames, video, damaged.add)
                    poses = refine_video(trained.refiner, poses, read_again, trained.look_ahead)
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
            'they are marked `damaged` in JSON and CSV, and their poses are of no worth',
            file=sys.stderr,
        )
    if stated not in (None, frames):
        print(f'warning: {video}: {frames} frames could be read, the file states {stated}', file=sys.stderr)


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
    flags.DEFINE_string('workdir', None, 'Folder of the training run.', flag_values=values)
    flags.DEFINE_string('checkpoint', 'best', "Which of its checkpoints: 'best', 'last' or a step.", flag_values=values)
    flags.DEFINE_string('out', None, 'Folder for the results; <workdir>/predictions if not given.', flag_values=values)
    box = "The person's box in the first frame of every video: x0,y0,x1,y1 in pixels."
    flags.DEFINE_string('box', None, box, flag_values=values)
    boxes = 'File of boxes, JSON or CSV: one (the first frame) or one a frame. With several videos repeat it, one each, in order.'
    flags.DEFINE_multi_string('boxes', [], boxes, flag_values=values)
    refine = 'Folder of a run of HANet that refines the poses; the whole video is seen first.'
    flags.DEFINE_string('refine', None, refine, flag_values=values)
    ahead = 'With --refine: each refined pose waits for this many frames, and no more of the video is held.'
    flags.DEFINE_integer('look_ahead', None, ahead, lower_bound=0, flag_values=values)
    flags.DEFINE_list('outputs', list(SUFFIXES), f'What to write: {", ".join(SUFFIXES)}, or some of them.', flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Predicts the videos in `argv[1:]`; returns the exit status."""
    videos = [pathlib.Path(video) for video in argv[1:]]
    if options.workdir is None:
        raise InputError('--workdir is needed: the folder that train was given')
    if not videos:
        raise InputError('no video given; name one or more video files or folders of images after the flags')
    kinds = list(dict.fromkeys(options.outputs))
    if not kinds or not set(kinds) <= set(SUFFIXES):
        raise InputError(f'--outputs={",".join(kinds)}: choose some of {", ".join(SUFFIXES)}')
    boxes = requested_boxes(options.box, options.boxes, len(videos))
    workdir = pathlib.Path(options.workdir).expanduser()
    out = pathlib.Path(options.out).expanduser() if options.out else workdir / 'predictions'
    if options.look_ahead is not None and options.refine is None:
        raise InputError('--look_ahead belongs to --refine, which is not given')
    trained = load(workdir, options.checkpoint)
    if options.refine is not None:
        trained = with_refiner(trained, pathlib.Path(options.refine).expanduser(), options.look_ahead)
    return predict_videos(trained, videos, out, kinds, boxes)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
