"""Builds a data set: `kimnet build NAME[/CONFIG] --manual_dir DOWNLOAD --data_dir BUILT`.

The flags are those of `tfds build`; the files are always array_record. Without CONFIG every config is built, except those whose
splits share clips and those for choosing settings. A clip with a damaged frame stops the build; with --leave_out_damaged such
clips are left out and counted. Builds are atomic: a data set shows up in --data_dir, which can be a URL such as gs://bucket/data,
once it is complete. An existing one is kept unless --overwrite is given. With --beam_pipeline_options=runner=... the clips are
read and written by Apache Beam.
"""

import argparse
import contextlib
import dataclasses
import errno
import io
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence

import tensorflow_datasets as tfds
from tensorflow_datasets.scripts.cli import build as tfds_build
from tensorflow_datasets.scripts.cli import cli_utils

from kimnet_jax.core import paths
from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import cache_folder, locked
from kimnet_jax.data_pipelines import checksums, clip_source, remote_data
from kimnet_jax.data_pipelines.builders import BUILDERS, config_of, configs_of, import_builder, stored_config, summaries
from kimnet_jax.data_pipelines.clip_builder import leak_of

FILE_FORMAT = 'array_record'


def make_parser() -> argparse.ArgumentParser:
    """The arguments of `tfds build` and our own."""
    data_sets = '\n'.join(f'  {name:16} {summary}' for name, summary in summaries().items())
    parser = cli_utils.ArgumentParser(prog='kimnet build', description=f'{__doc__}\ndata sets:\n{data_sets}', allow_abbrev=False)
    parser.add_argument('--leave_out_damaged', action='store_true', help='leave out clips with a damaged frame, and count them')
    parser.add_arguments(tfds_build.Args, dest='args')
    return parser


def _data_dir_parser() -> argparse.ArgumentParser:
    """Reads --data_dir as it stands: TFDS makes a path of it, in which the slashes of a URL are lost."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument('--data_dir', '--data-dir')
    return parser


def main(argv: Sequence[str]) -> None:
    """Builds what the command line (`argv[0]` is the program) asks for. Raises `InputError`."""
    given = make_parser().parse_args(argv[1:])
    args = given.args
    as_given, _ = _data_dir_parser().parse_known_args(argv[1:])
    data_dir = paths.folder(as_given.data_dir or args.paths.data_dir, '--data_dir').absolute()
    names = args.positional_datasets + args.datasets
    if not names:
        raise InputError(f'which data set? kimnet build NAME[/CONFIG]; known: {", ".join(BUILDERS)}')
    if args.generation.file_format not in (None, FILE_FORMAT):
        raise InputError(
            f'--file_format {args.generation.file_format}: only {FILE_FORMAT} is read and written without TensorFlow'
        )
    if args.generation.beam_pipeline_options:
        try:
            import apache_beam  # noqa: F401
        except ImportError as error:  # of which TFDS would say nothing, and build without it
            raise InputError("--beam_pipeline_options: needs Apache Beam; pip install 'kimnet-jax[beam]'") from error
    for flag, value in (
        ('max_examples_per_split', args.debug.max_examples_per_split),
        ('num_shards', args.generation.num_shards),
        ('max_shard_size_mb', args.generation.max_shard_size_mb),
        ('num-processes', args.generation.num_processes),
    ):
        if value is not None and not value > 0:
            raise InputError(f'--{flag} {value}: must be 1 or more')
    tfds.disable_progress_bar()  # the builders show one of clips
    wanted: dict[tuple[str, str], list[str]] = {}  # what is to be built -> the configs that are asked for
    for name, config in [target for dataset in names for target in _targets(dataset, args)]:
        wanted.setdefault((name, stored_config(import_builder(name), config)), []).append(config)
    for (name, stored), configs in wanted.items():
        builder = import_builder(name)
        builder.leave_out_damaged, builder.asked_for = given.leave_out_damaged, configs
        _build(name, stored, data_dir, args, list(dict.fromkeys(configs)))


def _targets(dataset: str, args: tfds_build.Args) -> list[tuple[str, str]]:
    """(name, config) of everything that a NAME[/CONFIG] stands for, with --config and --config_idx."""
    name, _, config = dataset.partition('/')
    builder = import_builder(name)
    by_name = configs_of(builder)
    asked_for = {known.name for known in by_name.values() if leak_of(known) or getattr(known, 'on_request', False)}
    configs = [known.name for known in builder.VIEWS or builder.BUILDER_CONFIGS if known.name not in asked_for]
    index = args.generation.config_idx
    if index is not None:
        if index not in range(len(configs)):
            raise InputError(f'--config_idx {index}: {name} has configs 0 to {len(configs) - 1}: {", ".join(configs)}')
        configs = [configs[index]]
    for asked in (config, args.generation.config):
        configs = [config_of(builder, asked).name] if asked else configs
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        folder = _check_manual_dir(name, builder.MANUAL_DOWNLOAD_INSTRUCTIONS, args)
        if builder.ANY_CONFIG and not config and not args.generation.config:
            own = re.sub(r'\W+', '_', folder.absolute().name.lower(), flags=re.ASCII).strip('_')
            configs = [config_of(builder, own).name]
    return [(name, known) for known in configs]


def _check_manual_dir(name: str, instructions: str, args: tfds_build.Args) -> pathlib.Path:
    folder = args.paths.manual_dir
    if folder is None:
        raise InputError(f'{name} has to be downloaded by hand: give --manual_dir, a folder with {instructions}')
    folder = pathlib.Path(folder, name if args.paths.add_name_to_manual_dir else '')
    if not folder.is_dir() or not any(folder.iterdir()):
        raise InputError(f'--manual_dir {folder}: {"empty" if folder.is_dir() else "no such folder"}; expected {instructions}')
    return folder


def _build(name: str, config: str, data_dir: pathlib.Path, args: tfds_build.Args, asked: Sequence[str]) -> None:
    """Builds a config that TFDS knows, unless it is there; tells of the configs `asked` for, which are splits of its clips."""
    relative = pathlib.Path(name, config, str(import_builder(name).VERSION))
    final = data_dir / relative
    if paths.is_remote(data_dir):
        _build_remote(name, config, args, asked, final)
        return
    if args.generation.update_metadata_only:
        if not final.is_dir():
            raise InputError(f'{final}: not built yet, so --update_metadata_only has nothing to update')
        checksums.check(final, in_full=lambda name: True)  # new ones are written: what is damaged must not get any
        _execute(name, config, args, data_dir)
    elif not _is_built(final, args):
        with staging(data_dir, f'{name}/{config}') as place:
            if not _is_built(final, args):  # by a build that this one waited for
                _execute(name, config, args, place)
                shutil.copytree(place / name / '.config', data_dir / name / '.config', dirs_exist_ok=True)
                final.parent.mkdir(exist_ok=True)
                if final.exists():
                    final.rename(place / 'replaced')
                (place / relative).rename(final)
    for one in asked:
        _report(name, one, final)


def _build_remote(name: str, config: str, args: tfds_build.Args, asked: Sequence[str], final: pathlib.Path) -> None:
    """`_build` into a remote folder: built here and copied there, the file that says that it is whole last."""
    data_dir = final.parents[2]
    if args.generation.update_metadata_only:
        raise InputError(f'--update_metadata_only: {data_dir} is remote; build again with --overwrite')
    if not _is_built(final, args):
        print(f'note: {data_dir} has no lock: start no other build of {name}/{config} into it meanwhile', file=sys.stderr)
        with staging(cache_folder() / 'build', f'{name}/{config}') as place:
            _execute(name, config, args, place)
            built = place / final.relative_to(data_dir).as_posix()
            remote_data.publish(built, final)
            for file in (place / name / '.config').rglob('*'):
                if file.is_file():
                    paths.upload(file, data_dir / file.relative_to(place).as_posix())
            for one in asked:
                _report(name, one, built, final)


def _report(name: str, config: str, folder: pathlib.Path, shown: pathlib.Path | None = None) -> None:
    built = clip_source.read_built(folder, config)
    counts = ', '.join(f'{split} {info.num_examples} clips' for split, info in built.splits.items())
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f'{name}/{config}: {counts}, {size:.1f} MB in {shown or folder}', flush=True)
    if built.leak:
        print(f'note: {name}/{config}: {built.leak}', file=sys.stderr)


def _is_built(final: pathlib.Path, args: tfds_build.Args) -> bool:
    """Whether the data set is there and may stay as it is. Raises `InputError` where it may not, and is not to be replaced."""
    there = final / remote_data.MARK if paths.is_remote(final) else final  # there, what a killed build left does not count
    if args.debug.overwrite or not there.exists():
        return False
    if args.debug.fail_if_exists or not (final / 'dataset_info.json').is_file():
        raise InputError(f'{final}: already exists; --overwrite replaces it')
    print(f'{"/".join(final.parts[-3:-1])} is already built; --overwrite rebuilds it')
    return True


@contextlib.contextmanager
def staging(data_dir: pathlib.Path, label: str) -> Iterator[pathlib.Path]:
    """A folder in `data_dir` that is gone afterwards, whatever happens; those of builds that were killed are removed first.

    Waits for the end of another build of the same `label` into `data_dir`.
    """
    with contextlib.ExitStack() as held:
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            folder = _claim(data_dir, label, held)
        except OSError as error:
            raise InputError(f'--data_dir {data_dir}: cannot be written to ({error.strerror}); choose another folder') from error
        try:
            yield folder
        except Exception as error:
            # TFDS and array_record raise errors of their own, without a number, that quote the system's words.
            if any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT)):
                raise InputError(
                    f'{data_dir}: the disk is full; no partial files were left there: '
                    'free some space, or choose another --data_dir, and rerun the command'
                ) from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _claim(data_dir: pathlib.Path, label: str, held: contextlib.ExitStack) -> pathlib.Path:
    """A new folder, locked while `held` lasts, once no other process has one of the same label; the dead ones are removed."""
    prefix = f'.building-{label.replace("/", "-")}-'
    while True:
        others = []
        with locked(data_dir, wait=True):  # so that no new folder is taken for a dead one before it is locked
            for found in data_dir.glob('.building-*'):
                with contextlib.suppress(FileNotFoundError), locked(found) as free:  # its owner may be removing it
                    if free:
                        shutil.rmtree(found)
                    elif found.name.startswith(prefix):
                        others.append(found)
            if not others:
                folder = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=data_dir))
                held.enter_context(locked(folder))
                return folder
        print(f'{label}: another process is building it into {data_dir}; waiting for it to finish', file=sys.stderr, flush=True)
        with contextlib.suppress(FileNotFoundError), locked(others[0], wait=True):
            pass


def _execute(name: str, config: str, args: tfds_build.Args, data_dir: pathlib.Path) -> None:
    """TFDS's build of one config into `data_dir`."""
    generation = dataclasses.replace(
        args.generation,
        config=None,
        config_idx=None,
        file_format=FILE_FORMAT,
        imports=import_builder(name).__module__,  # so that TFDS looks for no script of that name in the working directory
    )
    paths = dataclasses.replace(args.paths, data_dir=tfds.core.Path(data_dir))
    args = dataclasses.replace(args, positional_datasets=[f'{name}/{config}'], datasets=[], generation=generation, paths=paths)
    with contextlib.redirect_stdout(io.StringIO()):  # a page of dataset_info
        args.execute()


if __name__ == '__main__':
    run_command(main, sys.argv, urls=('data_dir', 'data-dir'))
