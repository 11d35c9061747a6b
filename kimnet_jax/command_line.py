"""What the commands share: the flags that several have, how the line is read, and how they begin."""

import functools
import gc
import os
import pathlib
import re
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from absl import app, flags

from kimnet_jax import pretrained
from kimnet_jax.core.command import fail, hush_foreign_threads, run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.paths import folder

NETWORK_URLS = ('model', 'workdir')  # flags of `define_network` that take URLs
HELP = ('--help', '-help', '-h', '-?', '--helpshort', '-helpshort', '--helpfull', '-helpfull')
flags.disclaim_key_flags()  # those defined here are the calling command's, and in its --help


def start(
    run: Callable[..., int | None],
    define_flags: Callable[[flags.FlagValues], None],
    *,
    settings: bool = False,
    any_names: bool = False,
    urls: Collection[str] = (),
) -> None:
    """Runs a command: its flags are defined, the command line is read, and `run` gets what is left of it, and the flags.

    With `settings`, it gets the arguments `--config.FIELD=VALUE` between the two, as they stand. With `any_names`, arguments need
    not be valid Unicode. `urls`: the flags that take URLs ('': the arguments without a flag).
    """
    define_flags(flags.FLAGS)
    rest, given = split_settings(sys.argv) if settings else (sys.argv, [])

    def begin(argv: Sequence[str]) -> int | None:
        if 'distributed' in flags.FLAGS and flags.FLAGS.distributed:
            os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # of JAX's C++, which notes each SIGTERM
        from kimnet_jax.training.compilation import keep_compiled  # JAX, which `--help` does without

        keep_compiled()
        gc.set_threshold(10_000, 10, 10)  # tracing makes and drops objects by the million
        return run(argv, given, flags.FLAGS) if settings else run(argv, flags.FLAGS)

    hush_foreign_threads()
    switches = [name for name in flags.FLAGS if flags.FLAGS[name].boolean]
    app.run(
        lambda argv: run_command(begin, argv, any_names=any_names, urls=urls, switches=switches),
        argv=rest,
        flags_parser=functools.partial(parse_flags, flags.FLAGS),
    )


def split_settings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the rest, the arguments `--config.FIELD=VALUE`) of a command line."""
    given = [part for part in argv if part.startswith('--config.')]
    return [part for part in argv if part not in given], given


def parse_flags(values: Callable[[Sequence[str]], list[str]], argv: Sequence[str]) -> list[str]:
    """Calls absl's `values` on a command line; what it cannot read there, or in a config file, ends the command in one line.

    Prints the flags and ends with status 0 where one of `HELP` is among the arguments.
    """
    end = argv.index('--') if '--' in argv else len(argv)
    asked = [part for part in argv[:end] if part in HELP]
    try:
        rest = values([part for part in argv if part not in asked])  # a config file adds its fields
        if not asked:
            return rest
    except Exception as error:  # of absl, of ml_collections, of the config file; the long ones are tracebacks in themselves
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        message = lines[-1].removeprefix('ValueError: ')
        if isinstance(error, AttributeError):  # ml_collections names the last part of the field only
            field, *alike = re.findall(r'\w+(?=\\*[\'"])', str(error)) or ['?']
            given = [part.partition('=')[0] for part in argv if re.match(rf'--?config\.(.*\.)?{re.escape(field)}(=|$)', part)]
            message = f'{given[0] if given else field}: the config has no such field'
            message += f'; did you mean {alike[0]}?' if alike else ''
        fail(message)
    app.usage(shorthelp=not any('full' in part for part in asked), writeto_stdout=True, exitcode=0)
    raise AssertionError  # `usage` ends the command


def values_of(options: flags.FlagValues, *names: str) -> dict[str, Any]:
    """Some of the flags, by name."""
    return {name: options[name].value for name in names}


def refuse_arguments(argv: Sequence[str], hint: str = '') -> None:
    """Raises `InputError` where more than flags was given to a command that takes nothing else."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}{hint}')


def define_network(values: flags.FlagValues, default: str | None = None) -> None:
    """The flags of a command that takes a trained network."""
    known = ', '.join(pretrained.catalogue())
    model = f'The network: {known} (see `kimnet models`), the folder of a training run, or a file of weights.'
    model += f' Default: {default}.' if default else ''
    flags.DEFINE_string('model', None, model, flag_values=values)
    flags.DEFINE_string('workdir', None, 'Folder of a training run; the same as --model.', flag_values=values)
    checkpoint = "Which checkpoint of a run: 'best', 'last' or a step."
    flags.DEFINE_string('checkpoint', 'best', checkpoint, flag_values=values)


def requested_network(options: flags.FlagValues, default: str | None = None) -> str:
    """What `--model` and `--workdir` name; `default` where neither is given. Raises `InputError`."""
    model, workdir = options.model, options.workdir
    if model is not None and workdir is not None:
        raise InputError('--model and --workdir: give one of them; both name the trained network')
    found = model if model is not None else workdir if workdir is not None else default
    if not found:
        raise InputError('--model is needed: the name of a pretrained model, the folder of a run, or a file of weights')
    return found


def define_distributed(values: flags.FlagValues) -> None:
    """The flag of a command that runs on several machines."""
    distributed = 'This is one of several processes (pods, clusters), which find each other through JAX.'
    flags.DEFINE_bool('distributed', False, distributed, flag_values=values)


def define_out(values: flags.FlagValues, name: str, what: str = 'the report', of: str = '') -> None:
    """The flag of the folder that a command writes to."""
    out = f'Folder for {what}. Default: <run>/{name}{of}, or ./{name} if the network is not a run.'
    flags.DEFINE_string('out', None, out, flag_values=values)


def out_folder(options: flags.FlagValues, run: pathlib.Path | None, name: str) -> pathlib.Path:
    """Where a command writes to: `--out`, or the folder `name` in that of the run, if there is one, or here."""
    return folder(options.out, '--out') if options.out else (run or pathlib.Path()) / name


def define_split(values: flags.FlagValues) -> None:
    """The flags of a command that reads the clips of a split."""
    split = "Split of the data set. Default: the network's own, usually `test`."
    flags.DEFINE_string('split', None, split, flag_values=values)
    data_dir = 'Folder of the built data set. Default: the one used in training.'
    flags.DEFINE_string('data_dir', None, data_dir, flag_values=values)


def define_batch_size(values: flags.FlagValues) -> None:
    """The flag of a command that measures networks on a split."""
    flags.DEFINE_integer('batch_size', None, "Clips per batch. Default: the config's.", flag_values=values)
