"""Trains and evaluates the rows of the paper's Tables III to VI: `python -m kimnet_jax.reproduce all [--preset tiny]`.

Each run is a `kimnet_jax.train` in `<workdir>/<config>/<preset>/<row>/seed<k>`. Rerunning the same command skips finished runs
and resumes the others. Prints our numbers beside the paper's (docs/reproduce.md).
"""

import math
import pathlib
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line
from kimnet_jax.core.errors import InputError
from kimnet_jax.reporting.paper import ABLATIONS, SAME

STEPS = {'tiny': 500}  # where neither --steps nor --epochs is given; at the other presets as the config says


def _length(options: flags.FlagValues) -> list[str]:
    if options.epochs is not None:
        return [f'--config.train.epochs={options.epochs}', '--config.train.steps=0']
    steps = options.steps or STEPS.get(options.preset)
    return [f'--config.train.steps={steps}'] if steps else []


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    config = 'As for kimnet_jax.train, without the arguments row, model and preset. Fields are passed on: --config.FIELD=VALUE.'
    flags.DEFINE_string('config', 'configs/kinetic_puppets.py', config, flag_values=values)
    flags.DEFINE_enum('preset', 'tiny', list(SAME), 'Size of the networks.', flag_values=values)
    steps = f'Length of each training. Default: {STEPS["tiny"]} at preset tiny, otherwise what the config says.'
    flags.DEFINE_integer('steps', None, steps, lower_bound=1, flag_values=values)
    flags.DEFINE_float('epochs', None, 'The same in epochs.', lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer('seeds', 3, 'Trainings per row, with seeds 0, 1, ...', lower_bound=1, flag_values=values)
    flags.DEFINE_string('workdir', 'runs/reproduce', 'Folder for the runs and the tables.', flag_values=values)
    jobs = 'Runs at a time. Default: one per GPU, or one without GPUs.'
    flags.DEFINE_integer('jobs', None, jobs, lower_bound=1, flag_values=values)


def run(argv: Sequence[str], settings: Sequence[str], options: flags.FlagValues) -> int:
    """Checks what is asked for, and does it; returns the exit status."""
    from kimnet_jax.tasks.reproduction import reproduce

    asked = argv[1:]
    unknown = [name for name in asked if name not in (*ABLATIONS, 'all')]
    if unknown or not asked:
        problem = f'{unknown[0]!r} is no table' if unknown else 'no table is named'
        raise InputError(f'{problem}: say one or more of {", ".join(ABLATIONS)}, or all')
    if options.epochs is not None and not math.isfinite(options.epochs):
        raise InputError(f'--epochs={options.epochs}: give a number, such as 20')
    if options.steps and options.epochs is not None:
        raise InputError('--steps and --epochs: give one of them')
    for part in settings:
        field, equals, _ = part.removeprefix('--config.').partition('=')
        if not equals:
            raise InputError(f'{part}: give it as {part}=VALUE')
        if field in ('seed', 'train.steps', 'train.epochs'):
            raise InputError(f'{part}: use --seeds, --steps or --epochs')
    for part in options.config.partition(':')[2].split(','):
        if part.partition('=')[0] in ('row', 'model', 'preset'):
            raise InputError(f'--config {options.config}: leave {part} out; the tables have the rows, --preset the size')
    names = [*ABLATIONS] if 'all' in asked else list(dict.fromkeys(asked))
    given = command_line.values_of(options, 'config', 'preset', 'seeds', 'jobs')
    return reproduce(names, [*_length(options), *settings], workdir=pathlib.Path(options.workdir), **given)


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, settings=True, urls=('config.dataset.data_dir',))


if __name__ == '__main__':
    cli()
