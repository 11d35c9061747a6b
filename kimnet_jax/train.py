"""Trains: `python -m kimnet_jax.train --config configs/sub_jhmdb.py:fold=1 --workdir runs/a [--config.train.epochs=20 ...]`.

Rerunning the same command resumes an interrupted run; the final weights are bit-identical to those of an uninterrupted one.
"""

import pathlib
import signal
import sys
from collections.abc import Sequence
from importlib import util

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from kimnet_jax import command_line
from kimnet_jax.core import paths
from kimnet_jax.core.command import explained, fail
from kimnet_jax.core.errors import InputError

_URLS = (
    'workdir',
    'config.dataset.data_dir',
    *(f'config.init.{part}' for part in ('model', 'pose_initializer', 'feature_encoder')),
)


def _shipped_config(argument: str) -> str:
    """A config path that is not in the working directory stands for the file of that name in the package."""
    path, colon, rest = argument.partition(':')
    shipped = pathlib.Path(__file__).parent / path
    if pathlib.Path(path).parts[:1] == ('configs',) and not pathlib.Path(path).exists() and shipped.exists():
        return f'{shipped}{colon}{rest}'
    if not pathlib.Path(path).is_file():
        raise InputError(f'--config {argument}: there is no file {path}')
    return argument


def _read_config(argument: str) -> ConfigDict:
    """The config that a file gives, locked; what goes wrong in the file ends the command in one line that names it."""
    path, colon, given = argument.partition(':')
    try:
        spec = util.spec_from_file_location('config_config', path)
        if spec is None or spec.loader is None:
            raise InputError('its name must end in .py')
        module = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not callable(getattr(module, 'get_config', None)):
            raise InputError('it defines no function get_config')
        config = module.get_config(*([given] if colon else []))
        if not isinstance(config, ConfigDict):
            raise InputError(f'its get_config returns a {type(config).__name__}; it must be an ml_collections.ConfigDict')
    except (Exception, SystemExit) as error:
        told = ' '.join(str(error).split())
        if not isinstance(error, ValueError):  # which is the file's own word on its argument
            told = f'the file fails with {type(error).__name__}: {told}'
        fail(f'--config={argument}: {told}')
    return ConfigDict(config).lock() if isinstance(config, FrozenConfigDict) else config.lock()


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    config = 'Config file, `configs/<name>.py[:key=value,...]`. Its fields are flags too: --config.train.epochs=20.'
    config_flags.DEFINE_config_file('config', None, config, lock_config=True, flag_values=values)
    values['config'].parser.parse = _read_config  # type: ignore[method-assign]
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
    with explained():
        for i, argument in enumerate(sys.argv):
            if argument.startswith(('--config=', '-config=')):
                flag, _, value = argument.partition('=')
                sys.argv[i] = f'{flag}={_shipped_config(value)}'
            elif argument in ('--config', '-config') and i + 1 < len(sys.argv):
                sys.argv[i + 1] = _shipped_config(sys.argv[i + 1])
    command_line.start(run, define_flags, urls=_URLS)


if __name__ == '__main__':
    cli()
