"""Refines files of poses: `python -m kimnet_jax.refine [--model NAME|RUN|FILE] IN.json OUT.json ...` (docs/refine.md)."""

import functools
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from data_pipelines.pose_files import open_pose_file
from kimnet_jax import pretrained, refinement, trained
from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.training.compilation import keep_compiled


def refine_file(refiner: refinement.TrainedRefiner, source: pathlib.Path, target: pathlib.Path) -> int:
    """Refines a file of poses, `.json` or `.npz`, into another of the same form; returns its frames.

    All but the poses stays as it was; `refined` says by what. Raises `InputError` naming the file and the field.
    """
    if target.suffix != source.suffix:
        raise InputError(f'{target}: the file becomes one of the form of {source}; let its name end in {source.suffix!r}, too')
    found = open_pose_file(source, refiner.kind)
    if found.skeleton != refiner.skeleton:
        raise InputError(
            f'{source}: poses of {found.skeleton!r}; {refiner.about["weights"]} refines those of {refiner.skeleton!r}'
        )
    if not any(np.isfinite(one.joints).all(-1).any() for one in found.clips):
        raise InputError(f'{source}: no joint in any of its frames; there is nothing to refine')
    joints = [refiner.refine(one, str(source)) for one in found.clips]
    found.write(target, joints, refiner.about)
    return sum(map(len, joints))


def refine_files(refiner: refinement.TrainedRefiner, files: Sequence[tuple[pathlib.Path, pathlib.Path]]) -> int:
    """Refines (source, target) after (source, target); one that fails is reported, the others go on. The exit status: 0 or 2."""
    failed = 0
    for source, target in files:
        try:
            print(f'{source}: {refine_file(refiner, source, target)} frames -> {target}')
        except InputError as error:
            failed += 1
            print(f'error: {error}; nothing was written for it', file=sys.stderr)
    return 2 if failed else 0


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    trained.define_flags(values, pretrained.DEFAULT_REFINER)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Refines the files in `argv[1:]`; returns the exit status."""
    names = [pathlib.Path(name) for name in argv[1:]]
    reference = trained.requested(options.model, options.workdir, pretrained.DEFAULT_REFINER)
    if not names or len(names) % 2:
        raise InputError('give the files in pairs, IN.json OUT.json, after the flags')
    files = list(zip(names[::2], names[1::2], strict=True))
    targets = [target.resolve() for _, target in files]
    twice = [target for target in targets if targets.count(target) > 1]
    if twice:
        raise InputError(f'{twice[0]} would be written twice; give each file of poses a target of its own')
    return refine_files(refinement.load(reference, options.checkpoint), files)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
