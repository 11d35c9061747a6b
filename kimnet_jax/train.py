"""Trains: `python -m kimnet_jax.train --config configs/sub_jhmdb.py:fold=1 --workdir runs/a [--config.train.epochs=20 ...]`.

Rerunning the same command resumes an interrupted run; the final weights are bit-identical to those of an uninterrupted one.
"""

import signal
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line, config_flag
from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError

_URLS = (
    'workdir',
    'config.dataset.data_dir',
    *(f'config.init.{part}' for part in ('model', 'pose_initializer', 'feature_encoder')),
)


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    config_flag.define(values)
    workdir = 'Folder for the run: checkpoints, metrics, config; may be a URL, such as gs://bucket/run.'
    flags.DEFINE_string('workdir', None, workdir, flag_values=values)
    command_line.define_distributed(values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Trains as the flags say; returns the exit status."""
    command_line.refuse_arguments(argv, '; settings are given as --config.section.field=value')
    if options.config is None or options.workdir is None:
        raise InputError('--config and --workdir are needed; see --help')
    workdir = paths.folder(options.workdir, '--workdir')

    from kimnet_jax.tasks import name_of, task_of
    from kimnet_jax.training import processes

    config = options.config.to_dict()

    def train() -> int:
        return task_of(name_of(config)).train(config, workdir)

    if options.distributed:
        return processes.with_others(train, 'restart all processes with the same command to resume from the last checkpoint')
    return train()


def cli() -> None:
    """Entry point of the console script."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # which would end the process until there are steps to profile
    config_flag.find_shipped()
    command_line.start(run, define_flags, urls=_URLS)


if __name__ == '__main__':
    cli()
