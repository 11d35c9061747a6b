"""Pictures of trained networks at work: `python -m kimnet_jax.visualize PICTURE [FLAGS] [--clip CLIP | VIDEO]`.

PICTURE is `correlation` (KMM's W_r), `heatmaps` (target, prediction, result), `compare` (poses of several networks and the truth)
or `trajectories` (positions, speeds and joint angles against time). See docs/visualize.md.
"""

import pathlib
import re
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line, pretrained
from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.inference.tracking import parse_box
from kimnet_jax.reporting import PICTURE_SUFFIXES, VIDEO_SUFFIX

PICTURES = {  # -> the flags that are its own
    'correlation': ('lines',),
    'heatmaps': ('joints',),
    'compare': (),
    'trajectories': ('joints', 'refine'),
}


def _bounds(text: str | None) -> tuple[int, int | None, int] | None:
    """(first, end, every) of `--frames`: N, A:B or A:B:STEP."""
    if text is None:
        return None
    match = re.fullmatch(r'(\d{1,9})|(\d{0,9}):(\d{0,9})(?::(\d{1,9}))?', text)
    if not match:
        raise InputError(f'--frames {text}: give a number N, A:B or A:B:STEP; the frames are A to B - 1, counted from 0')
    most, first, end, every = match.groups()
    bounds = (0, int(most), 1) if most else (int(first or 0), int(end) if end else None, int(every or 1))
    if bounds[2] == 0 or (bounds[1] is not None and bounds[1] <= bounds[0]):
        raise InputError(f'--frames {text}: there is no frame in it')
    return bounds


def _request(argv: Sequence[str], options: flags.FlagValues) -> tuple[str, pathlib.Path | None]:
    """The picture and the video, None where a clip is asked for. Raises `InputError` where flags contradict each other."""
    picture, *files = argv[1:] or ['']
    if picture not in PICTURES:
        raise InputError(f'{picture or "no picture given"}: choose one of {", ".join(PICTURES)}')
    if len(files) > 1:
        raise InputError(f'unexpected argument {files[1]!r}; give one video')
    if bool(files) == (options.clip is not None):
        raise InputError('give either --clip, of a built data set, or a video file or folder of images')
    given = [name for name in ('lines', 'joints', 'refine') if options[name].value]
    foreign = [name for name in given if name not in PICTURES[picture]]
    of_clips = [name for name in ('dataset', 'data_dir', 'split') if options[name].value is not None]
    if foreign:
        owners = ' and '.join(name for name, own in PICTURES.items() if foreign[0] in own)
        raise InputError(f'--{foreign[0]} belongs to {owners}, not to {picture}')
    if files and of_clips:
        raise InputError(f'--{of_clips[0]} belongs to --clip; a video needs none')
    if not files and options.box is not None:
        raise InputError('--box belongs to videos; a clip has its own boxes')
    return picture, pathlib.Path(files[0]).expanduser() if files else None


def _out(picture: str, name: str, folder: pathlib.Path | None, asked: str | None) -> pathlib.Path:
    """The file to write. Raises `InputError` where its suffix is none that the picture can have."""
    default = (folder or pathlib.Path()) / 'pictures' / f'{picture}_{name.replace("/", "_")}.png'
    out = paths.folder(asked, '--out') if asked else default
    known = (*PICTURE_SUFFIXES, VIDEO_SUFFIX) if picture == 'compare' else PICTURE_SUFFIXES
    if out.suffix not in known:
        raise InputError(f'--out {out}: {picture} is written as {", ".join(known)}; let the name end in one of these')
    return out


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    command_line.define_network(values, pretrained.DEFAULT)
    clip = 'A clip of a built data set: its index in the split, or its name.'
    flags.DEFINE_string('clip', None, clip, flag_values=values)
    dataset = 'With --clip: the data set as NAME/CONFIG. Default: the one used in training.'
    flags.DEFINE_string('dataset', None, dataset, flag_values=values)
    command_line.define_split(values)
    box = "With a video: the person's box in its first frame, x0,y0,x1,y1 in pixels. Default: the whole frame."
    flags.DEFINE_string('box', None, box, flag_values=values)
    frames = (
        'Frames to show: the first N, A:B (A to B - 1, counted from 0) or A:B:STEP. Default: the first few; trajectories and '
    )
    frames += 'videos show all.'
    flags.DEFINE_string('frames', None, frames, flag_values=values)
    lines = 'correlation: also draw the frames, with lines to these joints of each next frame; `all` for all joints.'
    flags.DEFINE_list('lines', [], lines, flag_values=values)
    joints = 'heatmaps, trajectories: joints to show by themselves, by name; `all` for all.'
    flags.DEFINE_list('joints', [], joints, flag_values=values)
    refine = 'trajectories: a trained HANet that refines the poses, named like --model.'
    flags.DEFINE_string('refine', None, refine, flag_values=values)
    out = f'File to write, ending in {", ".join(PICTURE_SUFFIXES)}, or {VIDEO_SUFFIX} for compare. '
    out += 'Default: <run>/pictures/PICTURE_CLIP.png, or ./pictures/... if the network is not a run.'
    flags.DEFINE_string('out', None, out, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Draws what the command line asks for."""
    picture, video = _request(argv, options)
    bounds = _bounds(options.frames)
    references = command_line.requested_network(options, pretrained.DEFAULT).split(',')
    if not all(references):
        raise InputError(f'{",".join(references)}: one of these names is empty; give them as A,B')
    if (picture == 'compare') != (len(references) > 1):
        takes = 'two or more networks, as --model A,B' if picture == 'compare' else 'one network'
        raise InputError(f'{",".join(references)}: {picture} takes {takes}')
    _out(picture, '', None, options.out)  # before anything is loaded
    box = parse_box(options.box) if options.box is not None else None

    from kimnet_jax.tasks import visualization
    from kimnet_jax.tasks.footage import Frames, open_clip, open_video
    from kimnet_jax.tasks.occlusion import names_of
    from kimnet_jax.tasks.trained import open_trained

    networks = dict(zip(names_of(references), [open_trained(one, options.checkpoint) for one in references], strict=True))
    first = next(iter(networks.values()))
    if video is not None:
        footage = open_video(video, box)
    else:
        place = command_line.values_of(options, 'dataset', 'data_dir', 'split')
        footage = open_clip(first, options.clip, **place)
    out = _out(picture, footage.name, first.folder, options.out)
    frames = Frames(*bounds) if bounds else None
    match picture:
        case 'correlation':
            visualization.correlation(first, footage, frames, out, lines=options.lines or None)
        case 'heatmaps':
            visualization.heatmaps(first, footage, frames, out, joints=options.joints)
        case 'compare':
            visualization.compare(networks, footage, frames, out)
        case 'trajectories':
            refine = open_trained(options.refine) if options.refine else None
            visualization.trajectories(first, footage, frames, out, joints=options.joints, refine=refine)


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, urls=(*command_line.NETWORK_URLS, 'data_dir', 'out', 'refine'))


if __name__ == '__main__':
    cli()
