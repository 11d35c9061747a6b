"""A trained model for deployment: `python -m kimnet_jax.export --model NAME|RUN|FILE --out FOLDER` (docs/deployment.md)."""

import pathlib
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.platform import EXPORTED


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    command_line.define_network(values)
    flags.DEFINE_string('out', None, 'Folder for the exported model; must not exist yet.', flag_values=values)
    flags.DEFINE_integer(
        'frames', 5, 'T, the number of frames of the function `clip`.', lower_bound=1, upper_bound=10_000, flag_values=values
    )
    platforms = f'Where it is to run: {", ".join(EXPORTED)}, or some of them.'
    flags.DEFINE_list('platforms', ['cpu', 'cuda', 'tpu'], platforms, flag_values=values)
    dtype = 'Precision of the convolutions, float32 or bfloat16. Default: what the run uses on this machine.'
    flags.DEFINE_enum('dtype', None, ['float32', 'bfloat16'], dtype, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Exports, reads the result back and compares it with the model. Raises `InputError`."""
    from kimnet_jax.tasks.export import export
    from kimnet_jax.tasks.trained import open_trained

    command_line.refuse_arguments(argv)
    reference = command_line.requested_network(options)
    if options.out is None:
        raise InputError('--out is needed: the folder of the exported model')
    if not options.platforms or not set(options.platforms) <= set(EXPORTED):
        raise InputError(f'--platforms={",".join(options.platforms)}: choose some of {", ".join(EXPORTED)}')
    found, out = open_trained(reference, options.checkpoint), pathlib.Path(options.out).expanduser()
    export(found, out, frames=options.frames, platforms=options.platforms, dtype=options.dtype)


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, urls=command_line.NETWORK_URLS)


if __name__ == '__main__':
    cli()
