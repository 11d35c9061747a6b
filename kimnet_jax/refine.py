"""Refines files of poses: `python -m kimnet_jax.refine [--model NAME|RUN|FILE | --smooth FILTER] IN OUT ...` (docs/refine.md)."""

import pathlib
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line, pretrained
from kimnet_jax.core.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    command_line.define_network(values, pretrained.DEFAULT_REFINER)
    smooth = 'Instead of a network, a filter: one_euro, savgol or gaussian, as in `savgol:window=0.4,order=2` (seconds), or none.'
    flags.DEFINE_string('smooth', None, smooth, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Refines the files in `argv[1:]`; returns the exit status."""
    from kimnet_jax.tasks import refinement
    from kimnet_jax.tasks.trained import open_trained

    names = [pathlib.Path(name) for name in argv[1:]]
    if options.smooth is not None and (options.model is not None or options.workdir is not None):
        raise InputError('--smooth and --model: give one of them; a filter needs no network')
    reference = command_line.requested_network(options, pretrained.DEFAULT_REFINER)
    if not names or len(names) % 2:
        raise InputError('give the files in pairs, IN OUT, after the flags')
    files = list(zip(names[::2], names[1::2], strict=True))
    targets = [target.resolve() for _, target in files]
    twice = [target for target in targets if targets.count(target) > 1]
    if twice:
        raise InputError(f'{twice[0]} would be written twice; give each file of poses a target of its own')
    if options.smooth is not None:
        return refinement.refine_files(refinement.smoother(options.smooth), files)
    return refinement.refine_files(refinement.load(open_trained(reference, options.checkpoint)), files)


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, urls=command_line.NETWORK_URLS)


if __name__ == '__main__':
    cli()
