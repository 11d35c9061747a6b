"""Evaluates a run: `python -m kimnet_jax.evaluate --workdir runs/a [--checkpoint best|last|STEP] [--data_dir data]`.

Protocol `full`: every frame of every clip of the split, distances in pixels of the original frames. Prints the paper's table and
writes it with a JSON beside it to `<workdir>/evaluation/`.
"""

import pathlib
from collections.abc import Generator

import jax
import tqdm
from absl import app, flags

from data_pipelines import schema
from data_pipelines.loader import LoaderConfig, eval_batches, num_eval_batches, prefetch_to_device
from data_pipelines.transforms import DataConfig
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError, run_command
from kimnet_jax.core.types import Batch
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.models import build_model
from kimnet_jax.models.kimnet import STRIDE
from kimnet_jax.reporting import reference, tables
from kimnet_jax.training import evaluation, sharding, workdir
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.state import split_model

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
CHECKPOINT = flags.DEFINE_string('checkpoint', 'best', '`best`, `last` or a step.')
SPLIT = flags.DEFINE_string('split', None, 'Split to evaluate; default: the run\'s own, usually `test`.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where the built data set is; default: where it was in training.')
CHAIN_LENGTH = flags.DEFINE_integer('chain_length', None, 'Frames after which the recursion begins anew; 0: the whole clip.')
DECODING = flags.DEFINE_enum('decoding', None, ['argmax', 'quarter', 'dark'], 'Heatmap to joint; default: the config\'s.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Clips side by side; default: the config\'s.')


def evaluate(folder: pathlib.Path) -> None:
    """Evaluates the run in `folder` and writes its report."""
    config, _ = workdir.read_config(folder)
    settings, dataset = dict(config['eval']), dict(config['dataset'])
    if CHAIN_LENGTH.value is not None:
        settings['chain_length'] = CHAIN_LENGTH.value
    settings['decoding'] = DECODING.value or settings['decoding']
    settings['batch_size'] = BATCH_SIZE.value or settings['batch_size']
    data_dir, split = DATA_DIR.value or dataset['data_dir'], SPLIT.value or dataset['eval_split']
    mesh = sharding.make_mesh()
    sharding.check_batch_size(settings['batch_size'], 'eval.batch_size', mesh)

    clips = schema.open_clips(data_dir, dataset['name'], dataset['config'], split)
    data, loader = make(DataConfig, config['data'], 'data'), make(LoaderConfig, config['loader'], 'loader')
    passes = {key: settings[key] for key in ('batch_size', 'segment')} | {'chain_length': settings['chain_length'] or None}

    def stream() -> Generator[tuple[Batch, Batch], None, None]:
        return prefetch_to_device(eval_batches(clips, data, loader=loader, **passes), sharding.split(mesh), evaluation.DEVICE_KEYS)

    # as in training, so that its numbers come out again
    dtype = ('float32' if jax.default_backend() == 'cpu' else 'bfloat16') if config['dtype'] == 'auto' else config['dtype']
    graph, template = split_model(build_model(config['model'], num_joints=clips.skeleton.num_joints, dtype=dtype), training=False)
    weights, meta = Checkpoints(folder, read_only=True).restore_weights(CHECKPOINT.value, template)
    evaluator = evaluation.Evaluator(
        graph, stream, num_eval_batches(clips, **passes), clips, stride=STRIDE, decoding=settings['decoding'], mesh=mesh
    )
    metrics = evaluator(sharding.put(weights, mesh))

    training_clips = schema.open_clips(data_dir, dataset['name'], dataset['config'], dataset['train_split'])
    rows = {'KIMNet (ours)': tables.Row.of(metrics)} | _reference_rows(clips, training_clips)
    chain = f'chains of {settings["chain_length"]} frames' if settings['chain_length'] else 'each clip one chain'
    result = tables.report(
        f'{dataset["name"]}/{dataset["config"]}, split {split}',
        rows,
        dataset=dataset['name'],
        notes=[f'Checkpoint of step {meta["step"]} of {folder}; protocol `full`, {chain}, decoding `{settings["decoding"]}`.'],
    )
    print(tables.render(result))
    name = f'{split}_step{meta["step"]}' + (f'_chain{settings["chain_length"]}' if settings['chain_length'] else '')
    written = tables.write_report(folder / 'evaluation', name.replace('[', '_').replace(']', '').replace(':', ''), result)
    print('written:', *written)


def _reference_rows(clips: schema.ClipSource, training_clips: schema.ClipSource) -> dict[str, tables.Row]:
    fields = ('joints', 'visible', 'boxes')
    examples = (training_clips[i] for i in tqdm.trange(len(training_clips), desc='mean pose', leave=False, disable=None))
    mean = reference.mean_pose(tuple(example[key] for key in fields) for example in examples)
    rows = {tables.MEAN_POSE: PoseMetrics(clips.skeleton, len(clips)), tables.RANDOM: PoseMetrics(clips.skeleton, len(clips))}
    for i in range(len(clips)):
        joints, visible, boxes = (clips[i][key] for key in fields)
        rows[tables.MEAN_POSE].update(i, reference.place_pose(mean, boxes), joints, visible, boxes)
        chance = reference.random_pose(boxes, clips.skeleton.num_joints, seed=0, clip=i)
        rows[tables.RANDOM].update(i, chance, joints, visible, boxes)
    return {name: tables.Row.of(metrics) for name, metrics in rows.items()}


def main(argv: list[str]) -> None:
    """The command."""

    def run() -> None:
        if len(argv) > 1:
            raise InputError(f'unexpected argument {argv[1]!r}')
        if WORKDIR.value is None:
            raise InputError('--workdir is needed: the folder that train was given')
        evaluate(pathlib.Path(WORKDIR.value).expanduser())

    run_command(run)


def cli() -> None:
    """Entry point of the console script."""
    app.run(main)


if __name__ == '__main__':
    cli()
