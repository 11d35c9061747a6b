"""Evaluates a trained network: `python -m kimnet_jax.evaluate --workdir RUN | --model NAME [--data_dir data]`.

Protocol `full`: every frame of every clip of the split, distances in pixels of the original frames. Prints the paper's table and
writes it with a JSON beside it to `<run>/evaluation/`, or `--out`. `--protocol released`: RPSTN's released evaluation instead.
"""

import functools
import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import get_args

import numpy as np
import tqdm
from absl import app, flags

from data_pipelines import schema
from data_pipelines.clips import Clips
from data_pipelines.loader import LoaderConfig, eval_batches, num_eval_batches, prefetch_to_device
from data_pipelines.pose_files import write_predictions
from data_pipelines.poses import Estimates
from data_pipelines.transforms import DataConfig
from kimnet_jax import trained
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.core.types import Array, Batch, Decoding
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.models import REFINERS, network_name
from kimnet_jax.reporting import reference, released_protocol, tables
from kimnet_jax.training import evaluation, sharding
from kimnet_jax.training.compilation import keep_compiled
from kimnet_jax.training.state import split_model

WHOLE = {'sub_jhmdb': 316}  # clips of the data set that the paper's numbers are of


def evaluate(found: trained.Trained, out: pathlib.Path, options: flags.FlagValues) -> None:
    """Evaluates a trained network and writes its report to the folder `out`."""
    if found.kind in REFINERS:
        from kimnet_jax import refinement  # slow to import

        refinement.evaluate(found, out, options)
        return
    config = found.config
    settings, dataset = dict(config['eval']), dict(config['dataset'])
    settings |= {key: options[key].value for key in ('chain_length', 'decoding', 'batch_size') if options[key].value is not None}
    data_dir, split = options.data_dir or dataset['data_dir'], options.split or dataset['eval_split']
    mesh = sharding.make_mesh()
    sharding.check_batch_size(settings['batch_size'], 'eval.batch_size', mesh)

    source = schema.open_clips(data_dir, dataset['name'], dataset['config'], split)
    clips: Clips = source
    if options.protocol == 'released':
        clips = released_protocol.OneWindow(source)
        settings |= {'chain_length': 0, 'decoding': 'argmax'}
    data, loader = make(DataConfig, config['data'], 'data'), make(LoaderConfig, config['loader'], 'loader')
    passes = {key: settings[key] for key in ('batch_size', 'segment')} | {'chain_length': settings['chain_length'] or None}

    def stream() -> Generator[tuple[Batch, Batch], None, None]:
        return prefetch_to_device(
            eval_batches(clips, data, loader=loader, **passes), sharding.split(mesh), evaluation.DEVICE_KEYS
        )

    if clips.skeleton != found.skeleton:
        joints = f'{found.skeleton.name!r}, {source.folder} has those of {clips.skeleton.name!r}'
        raise InputError(f'{found.name}: finds the joints of {joints}')
    model = found.load()
    graph, weights = split_model(model, training=False)
    evaluator = evaluation.Evaluator(
        graph, stream, num_eval_batches(clips, **passes), clips, stride=model.stride, decoding=settings['decoding'], mesh=mesh
    )
    weights = sharding.put(weights, mesh)

    training_clips = schema.open_clips(data_dir, dataset['name'], dataset['config'], dataset['train_split'])
    notes = schema.report_notes(training_clips, source)
    whole, there = WHOLE.get(dataset['name'], 0), len(set(training_clips.names) | set(source.names))
    if there < whole:
        notes.append(f"On a {there}-clip subset: {dataset['name']} has {whole} clips, so the paper's rows are for other data.")
    title, ours = f'{dataset["name"]}/{dataset["config"]}, split {split}', f'{network_name(model)} (ours)'
    references, checkpoint = _reference_predictions(clips, training_clips), f'Checkpoint of step {found.step} of {found.name}'
    name = f'{split}_step{found.step}'
    if isinstance(clips, released_protocol.OneWindow):
        crop = released_protocol.Crop(data.input_size, data.box_scale, model.stride)
        references[released_protocol.TRUTH] = ((i, clips[i]['joints'], None) for i in range(len(clips)))
        measured = {key: released_protocol.measure(clips, poses, crop) for key, poses in references.items()}
        measured = {ours: released_protocol.measure(clips, evaluator.predict(weights), crop)} | measured
        result = released_protocol.released_report(title, measured, clips=clips, notes=[*notes, f'{checkpoint}.'])
        name, text = f'{name}_released', released_protocol.render
    else:
        chain = f'chains of {settings["chain_length"]} frames' if settings['chain_length'] else 'each clip one chain'
        notes.append(f'{checkpoint}; protocol `full`, {chain}, decoding `{settings["decoding"]}`.')
        predictions = list(evaluator.predict(weights))
        if options.predictions:
            _write_predictions(pathlib.Path(options.predictions).expanduser(), source, predictions, found)
        rows = {ours: _metrics(clips, predictions)} | {key: _metrics(clips, poses) for key, poses in references.items()}
        result = tables.report(
            title, {key: tables.Row.of(metrics) for key, metrics in rows.items()}, dataset=dataset['name'], notes=notes
        )
        name, text = name + (f'_chain{settings["chain_length"]}' if settings['chain_length'] else ''), tables.render
    print(text(result))
    name = name.replace('[', '_').replace(']', '').replace(':', '')
    print('written:', *tables.write_report(out, name, result, text))


def _reference_predictions(clips: Clips, training_clips: schema.ClipSource) -> dict[str, Iterable[released_protocol.Prediction]]:
    fields = ('joints', 'visible', 'boxes')
    examples = (training_clips[i] for i in tqdm.trange(len(training_clips), desc='mean pose', leave=False, disable=None))
    mean = reference.mean_pose(tuple(example[key] for key in fields) for example in examples)
    joints = clips.skeleton.num_joints
    return {
        tables.MEAN_POSE: _of_boxes(clips, lambda i, boxes: reference.place_pose(mean, boxes)),
        tables.RANDOM: _of_boxes(clips, lambda i, boxes: reference.random_pose(boxes, joints, seed=0, clip=i)),
    }


def _of_boxes(clips: Clips, pose: Callable[[int, Array], Array]) -> Iterator[released_protocol.Prediction]:
    for i in range(len(clips)):
        yield i, pose(i, clips[i]['boxes']), None


def _write_predictions(
    path: pathlib.Path,
    source: schema.ClipSource,
    predictions: Iterable[released_protocol.Prediction],
    found: trained.Trained,
) -> None:
    estimates = []
    for clip, joints, scores in sorted(predictions, key=lambda prediction: prediction[0]):
        example = source[clip]
        estimates.append(Estimates(example['clip'], joints, np.asarray(scores), example['boxes'], example['image_size']))
    write_predictions(path, estimates, source.skeleton, {**found.about, 'split': source.split})
    print('written:', path)


def _metrics(clips: Clips, predictions: Iterable[released_protocol.Prediction]) -> PoseMetrics:
    metrics = PoseMetrics(clips.skeleton, len(clips))
    for clip, joints, _ in predictions:
        example = clips[clip]
        metrics.update(clip, joints, example['joints'], example['visible'], example['boxes'])
    return metrics


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    trained.define_flags(values)
    out = 'Folder for the report. Default: <run>/evaluation, or ./evaluation if the model is not a run.'
    flags.DEFINE_string('out', None, out, flag_values=values)
    protocol = "'full': every frame. 'released': what RPSTN's released code computes, for judging such numbers."
    flags.DEFINE_enum('protocol', 'full', ('full', 'released'), protocol, flag_values=values)
    flags.DEFINE_string('split', None, "Split to evaluate. Default: the run's own, usually `test`.", flag_values=values)
    flags.DEFINE_string('data_dir', None, 'Folder of the built data set. Default: the one used in training.', flag_values=values)
    chain = "Restart the chain after this many frames; 0: never within a clip. Default: the config's."
    flags.DEFINE_integer('chain_length', None, chain, lower_bound=0, flag_values=values)
    decoding = "How joints are read off the heatmaps. Default: the config's."
    flags.DEFINE_enum('decoding', None, get_args(Decoding), decoding, flag_values=values)
    predictions = 'Also write the poses of the split to this .npz file, for kimnet_jax.train --config configs/hanet.py.'
    flags.DEFINE_string('predictions', None, predictions, flag_values=values)
    flags.DEFINE_integer('batch_size', None, "Clips per batch. Default: the config's.", flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Evaluates as the flags say."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}')
    reference = trained.requested(options.model, options.workdir)
    given = [key for key in ('chain_length', 'decoding') if options[key].value is not None]
    if options.protocol == 'released' and given:
        raise InputError(f'--{given[0]} belongs to --protocol full; released is fixed: chains of 5 frames, decoding argmax')
    if options.protocol == 'released' and options.predictions:
        raise InputError('--predictions belongs to --protocol full, in which every frame is predicted')
    found = trained.open_trained(reference, options.checkpoint)
    out = pathlib.Path(options.out).expanduser() if options.out else (found.folder or pathlib.Path()) / 'evaluation'
    evaluate(found, out, options)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
