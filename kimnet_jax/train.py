"""Trains: `python -m kimnet_jax.train --config configs/sub_jhmdb.py:fold=1 --workdir runs/a [--config.train.epochs=20 ...]`.

Rerunning the same command resumes an interrupted run; the final weights are bit-identical to those of an uninterrupted one.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Generator, Sequence
from importlib import util
from typing import get_args

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from data_pipelines import schema
from data_pipelines.loader import LoaderConfig, eval_batches, num_eval_batches, prefetch_to_device, train_batches
from data_pipelines.transforms import DataConfig
from kimnet_jax.core.config import check_finite, make
from kimnet_jax.core.errors import InputError, explained, hush_foreign_threads, parse_flags, run_command
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Batch, Decoding
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.models import REFINERS, abstract_model, build_model, check_input_size, count_parameters
from kimnet_jax.models.weights import initialise
from kimnet_jax.training import evaluation, loop, session, sharding
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.compilation import keep_compiled
from kimnet_jax.training.initial import InitConfig, initialise_parts
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.state import Weights, split_model
from kimnet_jax.training.steps import TargetConfig, make_train_step


def train(config: ConfigDict, folder: pathlib.Path) -> int:
    """Runs the training that a config describes; returns the exit status."""
    check_finite(config.to_dict(), 'config')
    mesh = sharding.make_mesh()
    sharding.check_batch_size(config.train.batch_size, 'train.batch_size', mesh)
    sharding.check_batch_size(config.eval.batch_size, 'eval.batch_size', mesh)

    # data
    dataset, data, loader = config.dataset, make(DataConfig, config.data, 'data'), make(LoaderConfig, config.loader, 'loader')
    train_clips = schema.open_clips(dataset.data_dir, dataset.name, dataset.config, dataset.train_split)
    eval_clips = schema.open_clips(dataset.data_dir, dataset.name, dataset.config, dataset.eval_split)
    if not dataset.allow_overlap:
        schema.check_disjoint(
            train_clips, eval_clips, 'choose others or, if this is intended, set config.dataset.allow_overlap=True'
        )
    processes = {'process_index': jax.process_index(), 'process_count': jax.process_count()}

    def train_stream(step: int) -> Generator[tuple[Batch, Batch], None, None]:
        batches = train_batches(
            train_clips, data, batch_size=config.train.batch_size, seed=config.seed, start_step=step, loader=loader, **processes
        )
        return prefetch_to_device(batches, sharding.split(mesh), loop.DEVICE_KEYS)

    passes = {
        'batch_size': config.eval.batch_size,
        'segment': config.eval.segment,
        'chain_length': config.eval.chain_length or None,
    }

    def eval_stream() -> Generator[tuple[Batch, Batch], None, None]:
        batches = eval_batches(eval_clips, data, loader=loader, **passes, **processes)
        return prefetch_to_device(batches, sharding.split(mesh), evaluation.DEVICE_KEYS)

    # model
    skeleton = train_clips.skeleton
    _check_settings(config, skeleton)
    model = build_model(config.model, num_joints=skeleton.num_joints, dtype=config.dtype, seed=config.seed)
    check_input_size(model, config.data.input_size)
    init = make(InitConfig, config.init, 'init')
    begun = bool(Checkpoints(folder, read_only=True).steps())
    origin = None
    if not begun:
        larger = functools.partial(abstract_model, config.model, num_joints=skeleton.num_joints + 1, dtype=config.dtype)
        origin = initialise_parts(model, init, functools.partial(initialise, skeleton=skeleton), read_weights, larger)
    eval_graph, _ = split_model(model, training=False)
    train_graph, weights = split_model(model, training=True)

    # steps
    plan = loop.make_plan(
        len(train_clips),
        config.train.batch_size,
        epochs=config.train.epochs,
        steps=config.train.steps,
        eval_every=config.train.eval_every,
        save_every=config.train.save_every,
    )
    optimizer_config = make(OptimizerConfig, config.optimizer, 'optimizer')
    schedule = make_schedule(
        optimizer_config, steps=plan.steps or optimizer_config.accumulate, steps_per_epoch=plan.steps_per_epoch
    )
    optimizer = make_optimizer(optimizer_config, schedule)
    train_step = make_train_step(
        train_graph,
        optimizer,
        schedule,
        make(TargetConfig, config.target, 'target'),
        skeleton=skeleton,
        stride=model.stride,
        accumulate=optimizer_config.accumulate,
        average_decay=config.train.average_decay,
        mesh=mesh,
    )
    evaluator = evaluation.Evaluator(
        eval_graph,
        eval_stream,
        num_eval_batches(eval_clips, **passes),
        eval_clips,
        stride=model.stride,
        decoding=config.eval.decoding,
        mesh=mesh,
    )

    def evaluate(weights: Weights, check: Callable[[], None]) -> dict[str, float]:
        return evaluation.scalars(evaluator(weights, check).compute())

    return session.run(
        folder,
        config.to_dict(),
        skeleton=skeleton.name,
        origin=origin,
        weights=weights,
        optimizer=optimizer,
        mesh=mesh,
        plan=plan,
        told=[
            f'{count_parameters(model) / 1e6:.2f} M parameters, {model.dtype}; {len(train_clips)} clips',
            *schema.report_notes(train_clips, eval_clips),
        ],
        train_step=train_step,
        batches=train_stream,
        evaluate=evaluate,
        clip_name=lambda clip: train_clips[clip]['clip'],
    )


def _check_settings(config: ConfigDict, skeleton: Skeleton) -> None:
    """What would otherwise come to light hours later."""
    if not 0 <= config.train.average_decay < 1:
        raise InputError(f'config.train.average_decay={config.train.average_decay}: must be 0 (none) or more, and below 1')
    if config.train.log_every < 1:
        raise InputError(f'config.train.log_every={config.train.log_every}: must be a positive number of steps')
    if not 0 <= config.seed < 2**32:
        raise InputError(f'config.seed={config.seed}: must be 0 to 2**32 - 1')
    if config.eval.decoding not in get_args(Decoding):
        raise InputError(f'config.eval.decoding={config.eval.decoding!r}: choose one of {", ".join(get_args(Decoding))}')
    known = evaluation.metric_names(skeleton)
    if config.eval.select not in known:
        raise InputError(f'config.eval.select={config.eval.select!r}: no such metric; known: {", ".join(known)}')


def _shipped_config(argument: str) -> str:
    """A config path that is not in the working directory stands for the file of that name in the package."""
    path, colon, rest = argument.partition(':')
    spec = util.find_spec('configs')
    folder, *inside = pathlib.Path(path).parts or ('',)
    if folder == 'configs' and not pathlib.Path(path).exists() and spec and spec.submodule_search_locations:
        shipped = pathlib.Path(spec.submodule_search_locations[0], *inside)
        if shipped.exists():
            return f'{shipped}{colon}{rest}'
    if not pathlib.Path(path).is_file():
        raise InputError(f'--config {argument}: there is no file {path}')
    return argument


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    config = 'Config file, `configs/<name>.py[:key=value,...]`. Its fields are flags too: --config.train.epochs=20.'
    config_flags.DEFINE_config_file('config', None, config, lock_config=True, flag_values=values)
    flags.DEFINE_string('workdir', None, 'Folder for the run: checkpoints, metrics, config.', flag_values=values)
    distributed = 'This is one of several processes (pods, clusters), which find each other through JAX.'
    flags.DEFINE_bool('distributed', False, distributed, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Trains as the flags say; returns the exit status."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}; settings are given as --config.section.field=value')
    if options.config is None or options.workdir is None:
        raise InputError('--config and --workdir are needed; see --help')
    if options.distributed:
        sharding.join_processes()
    folder = pathlib.Path(options.workdir).expanduser()
    with sharding.without_peers():
        if options.config.model.name in REFINERS:
            from kimnet_jax import refinement  # slow to import

            return refinement.train(options.config.to_dict(), folder)
        return train(options.config, folder)


def cli() -> None:
    """Entry point of the console script."""
    with explained():
        for i, argument in enumerate(sys.argv):
            if argument.startswith(('--config=', '-config=')):
                flag, _, value = argument.partition('=')
                sys.argv[i] = f'{flag}={_shipped_config(value)}'
            elif argument in ('--config', '-config') and i + 1 < len(sys.argv):
                sys.argv[i + 1] = _shipped_config(sys.argv[i + 1])
    hush_foreign_threads()
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
