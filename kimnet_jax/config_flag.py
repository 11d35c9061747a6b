"""The flag `--config` of commands that read a config file."""

import pathlib
import sys
from importlib import util

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict, config_flags

from kimnet_jax.core.command import explained, fail
from kimnet_jax.core.errors import InputError

flags.disclaim_key_flags()  # the flag is the calling command's, and in its --help


def define(values: flags.FlagValues) -> None:
    """The flag; its fields become flags when the line is read."""
    config = 'Config file, `configs/<name>.py[:key=value,...]`. Its fields are flags too: --config.train.epochs=20.'
    config_flags.DEFINE_config_file('config', None, config, lock_config=True, flag_values=values)
    values['config'].parser.parse = _read_config  # type: ignore[method-assign]


def find_shipped() -> None:
    """Puts the path of the package's own file on the command line where that of a shipped config is given; before it is read."""
    with explained():
        for i, argument in enumerate(sys.argv):
            if argument.startswith(('--config=', '-config=')):
                flag, _, value = argument.partition('=')
                sys.argv[i] = f'{flag}={shipped_config(value)}'
            elif argument in ('--config', '-config') and i + 1 < len(sys.argv):
                sys.argv[i + 1] = shipped_config(sys.argv[i + 1])


def shipped_config(argument: str) -> str:
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
