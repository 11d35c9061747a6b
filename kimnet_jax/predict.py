"""Poses of any video: `python -m kimnet_jax.predict [--model NAME|RUN|FILE] VIDEO...` (docs/predict.md)."""

import functools
from collections.abc import Callable, Sequence

from absl import flags

from kimnet_jax import command_line, pretrained
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.sources import STDIN, open_source
from kimnet_jax.inference.detected import AssociationConfig, DetectedPeople
from kimnet_jax.inference.detection import LAYOUTS, LEAST, open_detector
from kimnet_jax.inference.outputs import SUFFIXES
from kimnet_jax.inference.people import OnePerson, People, TrackedPeople
from kimnet_jax.inference.tracking import TrackerConfig, parse_box, read_boxes
from kimnet_jax.inference.tracks import read_tracks

_DETECTION = (None, AssociationConfig.every, LEAST)  # layout, every, score


def requested_people(options: flags.FlagValues, videos: int) -> list[Callable[[TrackerConfig], People]]:
    """What the flags say of who is in every video: for each, what makes its `People`. Raises `InputError`."""
    given = [flag for flag in ('box', 'boxes', 'tracks', 'detect') if getattr(options, flag) not in (None, [])]
    if len(given) > 1:
        raise InputError(f'--{given[0]} and --{given[1]}: give one of them')
    for flag, files in (('boxes', options.boxes), ('tracks', options.tracks)):
        if files and len(files) != videos:
            raise InputError(f'--{flag}: {len(files)} files for {videos} videos; give one for each, in the same order')
    if options.detect is not None:
        detector = open_detector(options.detect, options.detect_layout, options.detect_score)
        association = AssociationConfig(every=options.detect_every)
        return [functools.partial(DetectedPeople, detector, config=association)] * videos
    if (options.detect_layout, options.detect_every, options.detect_score) != _DETECTION:
        raise InputError('--detect_layout, --detect_every and --detect_score need --detect')
    if options.tracks:
        return [functools.partial(TrackedPeople, read_tracks(file), file) for file in options.tracks]
    if options.boxes:
        return [functools.partial(OnePerson, read_boxes(file), file) for file in options.boxes]
    if options.box is not None:
        return [functools.partial(OnePerson, parse_box(options.box), f'--box {options.box}')] * videos
    return [functools.partial(OnePerson, None, 'the whole frame')] * videos


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
    tracks = (
        'File of the tracks of several people, as MOTChallenge txt, COCO results with track_id, or JSON or CSV of predict. With '
        'several videos, repeat it in their order.'
    )
    flags.DEFINE_multi_string('tracks', [], tracks, flag_values=values)
    detect = 'Find the people: with hog, which is part of OpenCV, or with a detector in an ONNX file.'
    flags.DEFINE_string('detect', None, detect, flag_values=values)
    layout, seen, score = _DETECTION
    outputs = f"What the detector's outputs are: {', '.join(LAYOUTS)}. Default: by their shapes."
    flags.DEFINE_enum('detect_layout', layout, LAYOUTS, outputs, flag_values=values)
    often = 'Look for new people in every so many of the frames that the network sees.'
    flags.DEFINE_integer('detect_every', seen, often, lower_bound=1, flag_values=values)
    least = 'Least score of a person, of a detector in an ONNX file.'
    flags.DEFINE_float('detect_score', score, least, lower_bound=0.0, upper_bound=1.0, flag_values=values)
    every = 'Run the network on every so many frames only; poses in between lie on lines.'
    flags.DEFINE_integer('every', 1, every, lower_bound=1, flag_values=values)
    refine = 'A trained HANet that refines the poses, named like --model. The whole video is processed first.'
    flags.DEFINE_string('refine', None, refine, flag_values=values)
    ahead = 'With --refine: each refined pose waits for this many frames only, instead of the whole video.'
    flags.DEFINE_integer('look_ahead', None, ahead, lower_bound=0, flag_values=values)
    smooth = 'Smooth the poses with one_euro, savgol or gaussian, as in `savgol:window=0.4,order=2` (seconds).'
    flags.DEFINE_string('smooth', None, smooth, flag_values=values)
    outputs = (
        f'What to write, some of {", ".join(SUFFIXES)}; openpose, trc, mot, dlc, dlc_h5; jsonl (to standard output), window.'
    )
    flags.DEFINE_list('outputs', list(SUFFIXES), outputs, flag_values=values)
    size = 'Standard input (-) has raw RGB frames of this size, WIDTHxHEIGHT, instead of a video.'
    flags.DEFINE_string('stdin_size', None, size, flag_values=values)
    flags.DEFINE_float('stdin_rate', None, 'Frames a second of these. Default: 25.', flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Predicts the videos in `argv[1:]`; returns the exit status."""
    from kimnet_jax.tasks import videos
    from kimnet_jax.tasks.trained import open_trained

    texts = argv[1:]
    reference = command_line.requested_network(options, pretrained.DEFAULT)
    if not texts:
        raise InputError('no video given; name one or more video files or folders of images after the flags')
    if texts.count(STDIN) > 1:
        raise InputError('-: standard input can be read once only')
    raw = {'stdin_size': options.stdin_size, 'stdin_rate': options.stdin_rate} if STDIN in texts else {}
    if not raw and (options.stdin_size, options.stdin_rate) != (None, None):
        raise InputError('--stdin_size and --stdin_rate are of raw frames from standard input; give - as the video')
    sources = [open_source(text, **(raw if text == STDIN else {})) for text in texts]
    kinds = list(dict.fromkeys(options.outputs))
    if not kinds or not set(kinds) <= set(videos.OUTPUTS):
        raise InputError(f'--outputs={",".join(kinds)}: choose some of {", ".join(videos.OUTPUTS)}')
    people = requested_people(options, len(sources))
    if options.look_ahead is not None and options.refine is None:
        raise InputError('--look_ahead needs --refine')
    if options.smooth is not None and options.refine is not None:
        raise InputError('--smooth and --refine: give one of them')
    found = open_trained(reference, options.checkpoint)
    model = videos.load(found)
    if options.refine is not None:
        from kimnet_jax.tasks import refinement  # with what it needs it takes longer to import than all the rest

        model = videos.with_refiner(model, refinement.load(open_trained(options.refine)), options.look_ahead)
    if options.smooth is not None:
        model = videos.with_filter(model, options.smooth, live='jsonl' in kinds)
    out = command_line.out_folder(options, found.folder, 'predictions')
    return videos.predict_videos(model, sources, out, kinds, people, every=options.every)


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, any_names=True, urls=('', *command_line.NETWORK_URLS, 'refine', 'out'))


if __name__ == '__main__':
    cli()
