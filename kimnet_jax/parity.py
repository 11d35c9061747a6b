"""The same numbers as PyTorch: `python -m kimnet_jax.parity --model kimnet --preset tiny` (docs/parity.md).

Compares a network with its PyTorch twin module by module, through one training step and over many, names the first module that
disagrees and why, and writes a report. Ends with status 1 where something is outside the tolerances.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line
from kimnet_jax.core.errors import InputError
from kimnet_jax.interop import import_torch


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    flags.DEFINE_string('model', None, 'Which network; `kimnet convert --list` prints them.', flag_values=values)
    flags.DEFINE_enum('preset', 'tiny', ['tiny', 'full'], 'Its size.', flag_values=values)
    weights = "File with its weights, PyTorch's or ours, which determines the sizes. Default: a fixed random draw."
    flags.DEFINE_string('weights', None, weights, flag_values=values)
    flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Precision of both sides.', flag_values=values)
    steps = 'Training steps; 0: the forward pass only. Default: 100, or 1 at full size.'
    flags.DEFINE_integer('steps', None, steps, lower_bound=0, upper_bound=1_000_000, flag_values=values)
    flags.DEFINE_float('learning_rate', 1e-3, 'Learning rate of Adam, on both sides.', flag_values=values)
    flags.DEFINE_bool(
        'all', False, 'Compare every network at a small size and write the table into parity.md.', flag_values=values
    )
    flags.DEFINE_string('out', 'parity', 'Folder for the report.', flag_values=values)
    precision = "Precision of matrix products and convolutions; 'default' is what an accelerator does unless told otherwise."
    flags.DEFINE_enum('matmul_precision', 'highest', ['highest', 'default'], precision, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Compares as the flags say; the exit status."""
    import jax

    from kimnet_jax.interop.networks import NETWORKS
    from kimnet_jax.tasks.parity import compare_all, compare_one

    command_line.refuse_arguments(argv)
    if (options.model is None) != options.all or options.model not in (None, *NETWORKS):
        raise InputError(f'give either --all or --model, one of {", ".join(NETWORKS)}')
    import_torch()
    out, file = pathlib.Path(options.out), pathlib.Path(options.weights).expanduser() if options.weights else None
    with jax.default_matmul_precision(options.matmul_precision):
        if options.all:
            passed = compare_all(out, options.learning_rate)
        else:
            rate, steps = options.learning_rate, options.steps
            passed = compare_one(options.model, options.preset, options.dtype, out, rate=rate, steps=steps, file=file)
    return 0 if passed else 1


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags)


if __name__ == '__main__':
    cli()
