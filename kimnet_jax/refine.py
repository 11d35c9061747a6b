"""Refines files of poses: `python -m kimnet_jax.refine --workdir W IN.json OUT.json [IN.json OUT.json ...]` (docs/refine.md)."""

import functools
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app, flags

from data_pipelines.pose_files import read_pose_json
from kimnet_jax import refinement
from kimnet_jax.core.errors import InputError, parse_flags, run_command


def refine_file(trained: refinement.TrainedRefiner, source: pathlib.Path, target: pathlib.Path) -> int:
    """Refines a file that `predict` wrote into another of the same form; returns its frames.

    All but the joints stays as it was; `about` says under `refined` by what. Raises `InputError` naming the file and the field.
    """
    data, estimates, skeleton = read_pose_json(source)
    if skeleton.name != trained.skeleton:
        raise InputError(
            f'{source}: poses of {skeleton.name!r}; {trained.about["workdir"]} refines those of {trained.skeleton!r}'
        )
    joints = trained.refiner(estimates.joints, estimates.boxes, estimates.image_size)
    data['about']['refined'] = dict(trained.about)
    rows = zip(data['frames'], np.round(joints.astype(np.float64), 2).tolist(), strict=True)
    frames = [frame | {'joints': points} for frame, points in rows]
    _write(target, data['about'], frames)
    return len(frames)


def _write(path: pathlib.Path, about: dict[str, Any], frames: list[dict[str, Any]]) -> None:
    """As `predict` does: one line a frame; complete or not at all."""
    lines = ',\n'.join(json.dumps(frame) for frame in frames)
    draft = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(f'{{"about": {json.dumps(about)},\n"frames": [\n{lines}\n]}}\n', encoding='utf-8')
        os.replace(draft, path)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InputError(f'{path}: a file or folder is in the way; choose another name') from error
    finally:
        if draft.parent.is_dir():
            draft.unlink(missing_ok=True)


def refine_files(trained: refinement.TrainedRefiner, files: Sequence[tuple[pathlib.Path, pathlib.Path]]) -> int:
    """Refines (source, target) after (source, target); one that fails is reported, the others go on. The exit status: 0 or 2."""
    failed = 0
    for source, target in files:
        try:
            print(f'{source}: {refine_file(trained, source, target)} frames -> {target}')
        except InputError as error:
            failed += 1
            print(f'error: {error}; nothing was written for it', file=sys.stderr)
    return 2 if failed else 0


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    flags.DEFINE_string('workdir', None, 'Folder of a training run of HANet.', flag_values=values)
    flags.DEFINE_string('checkpoint', 'best', "Which of its checkpoints: 'best', 'last' or a step.", flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Refines the files in `argv[1:]`; returns the exit status."""
    names = [pathlib.Path(name) for name in argv[1:]]
    if options.workdir is None:
        raise InputError('--workdir is needed: the folder that train was given')
    if not names or len(names) % 2:
        raise InputError('give the files in pairs, IN.json OUT.json, after the flags')
    files = list(zip(names[::2], names[1::2], strict=True))
    targets = [target.resolve() for _, target in files]
    twice = [target for target in targets if targets.count(target) > 1]
    if twice:
        raise InputError(f'{twice[0]} would be written twice; give each file of poses a target of its own')
    return refine_files(refinement.load(pathlib.Path(options.workdir).expanduser(), options.checkpoint), files)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
