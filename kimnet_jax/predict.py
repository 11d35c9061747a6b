"""Poses of any video: `python -m kimnet_jax.predict [--model NAME|RUN|FILE] VIDEO...` (docs/predict.md)."""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from kimnet_jax import command_line, pretrained
from kimnet_jax.core.errors import InputError
from kimnet_jax.inference.outputs import SUFFIXES
from kimnet_jax.inference.tracking import parse_box, read_boxes


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
    command_line.define_network(values, pretrained.DEFAULT)
    command_line.define_out(values, 'predictions', 'the results')
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
    from kimnet_jax.tasks import videos
    from kimnet_jax.tasks.trained import open_trained

    files = [pathlib.Path(video) for video in argv[1:]]
    reference = command_line.requested_network(options, pretrained.DEFAULT)
    if not files:
        raise InputError('no video given; name one or more video files or folders of images after the flags')
    kinds = list(dict.fromkeys(options.outputs))
    if not kinds or not set(kinds) <= set(SUFFIXES):
        raise InputError(f'--outputs={",".join(kinds)}: choose some of {", ".join(SUFFIXES)}')
    boxes = requested_boxes(options.box, options.boxes, len(files))
    if options.look_ahead is not None and options.refine is None:
        raise InputError('--look_ahead needs --refine')
    found = open_trained(reference, options.checkpoint)
    model = videos.load(found)
    if options.refine is not None:
        from kimnet_jax.tasks import refinement  # with what it needs it takes longer to import than all the rest

        model = videos.with_refiner(model, refinement.load(open_trained(options.refine)), options.look_ahead)
    out = command_line.out_folder(options, found.folder, 'predictions')
    return videos.predict_videos(model, files, out, kinds, boxes)


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags)


if __name__ == '__main__':
    cli()
