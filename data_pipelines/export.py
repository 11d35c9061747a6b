"""`kimnet clip NAME/CONFIG --data_dir BUILT --split SPLIT --clip CLIP --out FOLDER`: a clip as images.

Beside the images, byte for byte as the data set holds them, lie `boxes.json` ({"boxes": [[x0, y0, x1, y1], ...]}, one a frame)
and `joints.json` (names of the joints, their pixels and visibility). CLIP is an index in the split or a clip's name.
"""

import argparse
import json
import pathlib
import re
import sys
from collections.abc import Sequence

import numpy as np

from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import make_folder, work_folder
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines.clip_source import ClipSource, open_clips

SUFFIXES = {b'\x89PNG': '.png', b'RIFF': '.webp'}  # by the first bytes; JPEG otherwise
_OURS = re.compile(r'[0-9]{6,}\.(png|webp|jpg)|boxes\.json|joints\.json')


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog='kimnet clip', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', metavar='NAME/CONFIG', help='a built data set, such as sub_jhmdb/fold1')
    parser.add_argument('--data_dir', required=True, help='the folder it was built in')
    parser.add_argument('--split', default='test', help='its split (default: test)')
    parser.add_argument('--clip', required=True, help='index of the clip in the split, or its name')
    parser.add_argument('--out', required=True, type=pathlib.Path, help='the folder to write')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing folder')
    return parser


def main(argv: Sequence[str]) -> None:
    """Exports what the command line (`argv[0]` is the program) asks for. Raises `InputError`."""
    args = make_parser().parse_args(argv[1:])
    name, _, config = args.dataset.partition('/')
    if not config:
        raise InputError(f'{args.dataset}: give NAME/CONFIG, such as {name}/fold1')
    clips = open_clips(args.data_dir, name, config, args.split)
    example = find_clip(clips, args.clip)
    export_clip(example, clips.skeleton, args.out, overwrite=args.overwrite)
    print(f'{example["clip"]}: {len(example["frames"])} frames in {args.out}')


def find_clip(clips: ClipSource, clip: str) -> Example:
    """The example of that index or name. Raises `InputError` where the split has none."""
    if clip.isdecimal():
        if int(clip) >= len(clips):
            raise InputError(f'--clip {clip}: split {clips.split!r} has clips 0 to {len(clips) - 1}')
        return clips[int(clip)]
    if clip not in clips.names:
        raise InputError(f'--clip {clip}: no such clip in split {clips.split!r}; the first are {", ".join(clips.names[:5])}')
    return clips[clips.names.index(clip)]


def export_clip(example: Example, skeleton: Skeleton, out: pathlib.Path, *, overwrite: bool = False) -> None:
    """Writes an example as a folder of images with `boxes.json` and `joints.json`; the folder appears when it is whole.

    Raises:
        InputError: `out` is a file, or has something in it and `overwrite` is False, or something that is none of an export.
    """
    out = out.expanduser().absolute()
    if out.exists() and not (out.is_dir() and (overwrite or not any(out.iterdir()))):
        raise InputError(f'--out {out}: already exists; choose another folder{" or give --overwrite" if out.is_dir() else ""}')
    make_folder(out.parent)
    foreign = (
        sorted(path.name for path in out.iterdir() if not _OURS.fullmatch(path.name) or not path.is_file())
        if out.is_dir()
        else []
    )
    if foreign:
        raise InputError(f'--out {out}: contains {foreign[0]!r}, which this command did not write; choose another folder')
    with work_folder(out.parent, out.name) as scratch:
        folder = scratch / 'clip'
        folder.mkdir()
        for number, frame in enumerate(example['frames'], 1):
            suffix = next((suffix for start, suffix in SUFFIXES.items() if frame.startswith(start)), '.jpg')
            (folder / f'{number:06d}{suffix}').write_bytes(frame)
        joints = {
            'names': skeleton.joints,
            'joints': np.asarray(example['joints']).tolist(),
            'visible': np.asarray(example['visible']).tolist(),
        }
        (folder / 'boxes.json').write_text(json.dumps({'boxes': np.asarray(example['boxes']).tolist()}))
        (folder / 'joints.json').write_text(json.dumps(joints))
        if out.exists():
            out.rename(scratch / 'replaced')
        folder.rename(out)


if __name__ == '__main__':
    run_command(main, sys.argv, urls=('data_dir',))
