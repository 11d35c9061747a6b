"""What a training will need, before its devices are rented: `python -m kimnet_jax.plan --config FILE --topology v5e:16x16`.

The train step of the config is compiled for devices that need not be there (docs/pods.md).
"""

import json
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line, config_flag
from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    config_flag.define(values)
    topology = 'Devices to compile for: a TPU slice, such as v5e:16x16, v6e:2x4, v4:2x2x1, v5p:4x4x8, or H100s, such as h100x8.'
    flags.DEFINE_string('topology', None, topology, flag_values=values)
    batch = 'Clips per chip. Default: config.train.batch_size over all chips.'
    flags.DEFINE_integer('batch_per_chip', None, batch, lower_bound=1, upper_bound=65536, flag_values=values)
    largest = 'Also estimate the largest batch that fits, with and without remat; three more compilations.'
    flags.DEFINE_bool('largest_batch', False, largest, flag_values=values)
    verify = 'With --largest_batch: compile with these batches, too; two more compilations.'
    flags.DEFINE_bool('verify', False, verify, flag_values=values)
    flags.DEFINE_string('json', None, 'File for the numbers.', flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Compiles, prints the tables and writes the numbers. Raises `InputError`."""
    command_line.refuse_arguments(argv, '; settings are given as --config.section.field=value')
    if options.config is None or options.topology is None:
        raise InputError('--config and --topology are needed; see --help')
    if options.verify and not options.largest_batch:
        raise InputError('--verify belongs to --largest_batch')
    out = None if options.json is None else paths.folder(options.json, '--json')
    if out is not None and out.is_dir():
        raise InputError(f'--json={out}: is a folder; give a file')

    from kimnet_jax.core.files import write_text
    from kimnet_jax.reporting.plan import render
    from kimnet_jax.tasks.plan import plan
    from kimnet_jax.training.chips import parse_topology

    result = plan(
        options.config.to_dict(),
        parse_topology(options.topology),
        batch_per_chip=options.batch_per_chip,
        largest=options.largest_batch,
        verify=options.verify,
    )
    print(render(result), end='')
    if out is not None:
        write_text(out, json.dumps(result, indent=1) + '\n')
        print('written:', out)


def cli() -> None:
    """Entry point of the console script."""
    config_flag.find_shipped()
    command_line.start(run, define_flags, urls=('json', 'config.dataset.data_dir'))


if __name__ == '__main__':
    cli()
