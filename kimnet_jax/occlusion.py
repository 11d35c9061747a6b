"""Networks under occlusion: `python -m kimnet_jax.occlusion --workdir runs/a[,runs/b] --study joints --counts 1,3,5,9`.

Masks are drawn on the frames of the runs' evaluation split, the same for all runs, and mPCK is measured of the joints under
them, of the others and of all (KIMNet Sec. IV-E, Fig. 7 to 9; docs/occlusion.md).
"""

import functools
import json
import pathlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from absl import app, flags
from flax import nnx

from data_pipelines import schema
from data_pipelines.clips import Clips
from data_pipelines.loader import LoaderConfig, eval_batches, num_eval_batches, prefetch_to_device
from data_pipelines.occlusion import SIDE, Fill, LongEnough, Occlusion, Study
from data_pipelines.transforms import DataConfig
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.core.skeleton import Skeleton, get_skeleton
from kimnet_jax.core.types import Batch, Example
from kimnet_jax.interop.weight_files import PLAIN_SUFFIXES, read_weights
from kimnet_jax.models import REFINERS, abstract_model, network_name
from kimnet_jax.models.weights import assign
from kimnet_jax.reporting import occlusion as reporting
from kimnet_jax.reporting import reference, tables
from kimnet_jax.training import evaluation, sharding, workdir
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.compilation import keep_compiled
from kimnet_jax.training.state import Weights, split_model

COUNTS: dict[str, tuple[int, ...]] = {  # where --counts is not given
    'temporal': (2,),
    'spatial': (2,),
    'joints': (1, 3, 5, 7, 9),
    'length': (1, 2, 4, 8, 16, 32),
}


class Run(NamedTuple):
    """A trained network.

    Attributes:
        path: folder of the run, or a file of weights.
        config: plain fields of the training.
        skeleton: of its poses.
        network: what a table calls it.
        stride: crop pixels per heatmap cell.
        graph, weights: in eval mode.
        step: of the weights.
    """

    path: pathlib.Path
    config: dict[str, Any]
    skeleton: Skeleton
    network: str
    stride: int
    graph: nnx.GraphDef
    weights: Weights
    step: int


def load(path: pathlib.Path, checkpoint: str | None) -> Run:
    """A run from its folder, or from a file of weights whose metadata have its `config.json` as `run`, and its `step`.

    Raises `InputError` where there is none, or it is one of a network that refines poses.
    """
    file = read_weights(path) if path.suffix in PLAIN_SUFFIXES else None
    if file is None:
        config, name = workdir.read_config(path)
    else:
        if checkpoint is not None:
            raise InputError(f'--checkpoint {checkpoint}: {path} is a file with weights of one step; leave the flag out')
        try:
            record = json.loads(file.metadata['run'])
            config, name, step = record['config'], record['skeleton'], int(file.metadata['step'])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f'{path}: its metadata do not tell the run and the step ({error}); give the folder of a run'
            ) from None
    if config['model'].get('name') in REFINERS:
        raise InputError(f'{path}: a run of {config["model"]["name"]}, which refines poses and sees no frames')
    skeleton = get_skeleton(name)
    model = abstract_model(config['model'], num_joints=skeleton.num_joints, dtype=config['dtype'])
    if file is None:
        graph, template = split_model(model, training=False)
        weights, meta = Checkpoints(path, read_only=True).restore_weights(checkpoint or 'best', template)
        step = meta['step']
    else:
        try:
            assign(model, file.arrays)
        except InputError as error:
            raise InputError(f'{path}: {"; ".join(str(error).splitlines()[:4])}') from None
        graph, weights = split_model(model, training=False)
    return Run(path, config, skeleton, network_name(model), model.stride, graph, weights, step)


def predictor(run: Run, clips: Clips, batch_size: int | None) -> Callable[[Occlusion | None], list[np.ndarray]]:
    """A function from masks (None: none) to the poses of each clip, [T, J, 2] pixels; compiled once."""
    settings, mesh = run.config['eval'], sharding.make_mesh()
    passes = {'batch_size': settings['batch_size'] if batch_size is None else batch_size, 'segment': settings['segment']}
    passes['chain_length'] = settings['chain_length'] or None
    sharding.check_batch_size(passes['batch_size'], 'eval.batch_size', mesh)
    data, loader = make(DataConfig, run.config['data'], 'data'), make(LoaderConfig, run.config['loader'], 'loader')
    paint: Occlusion | None = None

    def stream() -> Generator[tuple[Batch, Batch], None, None]:
        batches = eval_batches(clips, data, paint=paint, loader=loader, **passes)
        return prefetch_to_device(batches, sharding.split(mesh), evaluation.DEVICE_KEYS)

    evaluator = evaluation.Evaluator(
        run.graph,
        stream,
        num_eval_batches(clips, **passes),
        clips,
        stride=run.stride,
        decoding=settings['decoding'],
        mesh=mesh,
    )
    weights = sharding.put(run.weights, mesh)

    def poses(occlusion: Occlusion | None) -> list[np.ndarray]:
        nonlocal paint
        paint = occlusion
        found = {clip: joints for clip, joints, _ in evaluator.predict(weights)}
        return [found[clip] for clip in range(len(clips))]

    return poses


def compare(runs: dict[str, Run], occlusions: dict[int, Occlusion], options: flags.FlagValues) -> None:
    """Measures the runs, by their names in the tables, on the clips of the first one's split, and writes the report."""
    name, first = next(iter(runs.items()))
    dataset = first.config['dataset']
    data_dir, split = options.data_dir or dataset['data_dir'], options.split or dataset['eval_split']
    source = schema.open_clips(data_dir, dataset['name'], dataset['config'], split)
    if source.skeleton != first.skeleton:
        raise InputError(f'{source.folder}: clips of {source.skeleton.name!r}; {first.path} predicts {first.skeleton.name!r}')
    clips, notes = _long_enough(source, max(part.least_frames for part in occlusions.values()), options.skip_short)
    examples = [_truth(clips[i]) for i in range(len(clips))]
    occluded = {count: [part.place(example).occluded for example in examples] for count, part in occlusions.items()}

    training = schema.open_clips(data_dir, dataset['name'], dataset['config'], dataset['train_split'])
    mean = reference.mean_pose(
        (example['joints'], example['visible'], example['boxes']) for example in (training[i] for i in range(len(training)))
    )
    rows, held = {}, {}
    for label, run in runs.items():
        predict = predictor(run, clips, options.batch_size)
        poses = {0: predict(None)} | {count: predict(part) for count, part in occlusions.items()}
        last = {count: [*map(reference.hold_last_seen, poses[count], occluded[count])] for count in occlusions}
        rows[label] = reporting.measure(poses, examples, occluded, source.skeleton)
        held[f'{label}, {reporting.LAST_SEEN}'] = reporting.measure({0: poses[0]} | last, examples, occluded, source.skeleton)
    placed = [reference.place_pose(mean, example['boxes']) for example in examples]
    poses = dict.fromkeys((0, *occlusions), placed)
    rows |= held | {tables.MEAN_POSE: reporting.measure(poses, examples, occluded, source.skeleton)}

    some = next(iter(occlusions.values()))
    notes += [
        f'Masks: squares of {some.side:g} of the longer side of the box about the true positions, fill `{some.fill}`, seed '
        f'{some.seed}, {"the first frame included" if some.first_frame else "none in the first frame"}.',
        f'`{reporting.LAST_SEEN}`: an occluded joint stays where the network saw it in the last frame in which it was not.',
        *(f'{label}: {_describe(run)}.' for label, run in runs.items()),
    ]
    about: dict[str, Any] = {'side': some.side, 'fill': some.fill, 'seed': some.seed, 'first_frame': some.first_frame}
    about['runs'] = {label: {'path': str(run.path), 'step': run.step} for label, run in runs.items()}
    result = reporting.report(
        f'Occlusion `{some.study}`: {dataset["name"]}/{dataset["config"]}, split {split}',
        rows,
        [(name, other) for other in (*list(runs)[1:], f'{name}, {reporting.LAST_SEEN}')],
        study=some.study,
        occluded=occluded,
        notes=[*schema.report_notes(training, source), *notes],
        about=about,
    )
    print(reporting.render(result))
    folder = first.path if first.path.is_dir() else first.path.parent
    file = f'occlusion_{some.study}_{split}_step{first.step}_seed{some.seed}'.translate({ord(c): '_' for c in '[]:/'})
    written = tables.write_report(
        pathlib.Path(options.out).expanduser() if options.out else folder / 'evaluation', file, result, reporting.render
    )
    print('written:', *written)


def _long_enough(source: schema.ClipSource, frames: int, skip_short: bool) -> tuple[Clips, list[str]]:
    """The clips with enough frames, and what a report says of the others."""
    short = [clip for clip in source.clips if clip.length < frames]
    if not short:
        return source, []
    told = f'{len(short)} of the {len(source)} clips of {source.split!r} have fewer than the {frames} frames that it takes'
    if not skip_short:
        shortest = min(short, key=lambda clip: clip.length)
        raise InputError(
            f'{source.folder}: {told} (the shortest, {shortest.name!r}, has {shortest.length}): ask for smaller --counts, or '
            'leave these clips out of all counts with --skip_short'
        )
    return LongEnough(source, frames), [f'Left out: {told}.']


def _describe(run: Run) -> str:
    settings, size = run.config['eval'], run.config['data']['input_size']
    chain = f'chains of {settings["chain_length"]} frames' if settings['chain_length'] else 'each clip one chain'
    return f'{run.network}, step {run.step} of {run.path}; crops of {size} pixels, {chain}, decoding `{settings["decoding"]}`'


def _truth(example: Example) -> Example:
    return {key: example[key] for key in ('clip', 'joints', 'visible', 'boxes', 'image_size')}


def _names(paths: Sequence[pathlib.Path]) -> list[str]:
    """What the tables call the runs: the last part of the path where that tells them apart."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f'--workdir {",".join(map(str, paths))}: the same run twice')
    short = [path.resolve().name.removesuffix(path.suffix if path.is_file() else '') for path in paths]
    return short if len({*short, tables.MEAN_POSE}) > len(short) else [str(path) for path in paths]


def _check_comparable(runs: Sequence[Run], split: str | None) -> None:
    first = runs[0]
    for run in runs[1:]:
        for what, here, there in (
            ('skeleton', run.skeleton.name, first.skeleton.name),
            ('data set', *(f'{r.config["dataset"]["name"]}/{r.config["dataset"]["config"]}' for r in (run, first))),
            ('split', *(split or r.config['dataset']['eval_split'] for r in (run, first))),
        ):
            if here != there:
                raise InputError(
                    f'{run.path}: {what} {here}, but {there} of {first.path}; they are not compared on the same clips'
                )


def _counts(study: str, asked: Sequence[str] | None) -> list[int]:
    try:
        counts = [int(text) for text in asked] if asked is not None else [*COUNTS[study]]
    except ValueError:
        counts = [-1]
    if not counts or min(counts) < 0:
        raise InputError(f'--counts {",".join(asked or ())}: give whole numbers such as 1,3,5')
    return sorted({*counts} - {0})


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    paths = (
        'Folders of training runs, or files of weights (.safetensors) that know their run; the first is compared with the others.'
    )
    flags.DEFINE_list('workdir', None, paths, flag_values=values)
    study = "'temporal': masks on one frame; 'spatial': masks that stay; 'joints': masks that follow joints; 'length': one joint."
    flags.DEFINE_enum('study', 'joints', get_args(Study), study, flag_values=values)
    counts = 'Numbers of masks or joints, of `length` of frames in a row; 0 is always in the table. '
    counts += 'If not given ' + ', '.join(f'{key} {",".join(map(str, numbers))}' for key, numbers in COUNTS.items()) + '.'
    flags.DEFINE_list('counts', None, counts, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Of the masks.', lower_bound=0, upper_bound=2**32 - 1, flag_values=values)
    flags.DEFINE_float('side', SIDE, "Of the masks, over the longer side of the person's box.", flag_values=values)
    flags.DEFINE_enum('fill', 'black', get_args(Fill), 'Of the masks.', flag_values=values)
    flags.DEFINE_bool('first_frame', False, 'The first frame may be masked, too.', flag_values=values)
    flags.DEFINE_bool('skip_short', False, 'Leave out clips that are too short for the largest count.', flag_values=values)
    flags.DEFINE_string('checkpoint', None, "Which of each run: 'best' (if not given), 'last' or a step.", flag_values=values)
    flags.DEFINE_string('split', None, "Split to evaluate; if not given the runs' own, usually `test`.", flag_values=values)
    data_dir = 'Where the built data set is; if not given where it was in training.'
    flags.DEFINE_string('data_dir', None, data_dir, flag_values=values)
    flags.DEFINE_integer('batch_size', None, "Clips side by side; if not given the config's.", flag_values=values)
    flags.DEFINE_string('out', None, 'Folder of the report; if not given `evaluation` of the first run.', flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Compares as the flags say."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}')
    if not options.workdir:
        raise InputError('--workdir is needed: folders that train was given, or files of weights')
    counts = _counts(options.study, options.counts)
    if not counts:
        raise InputError('--counts 0: give another number; 0 is in the table anyway')
    paths = [pathlib.Path(path).expanduser() for path in options.workdir]
    names = _names(paths)
    settings: dict[str, Any] = {key: options[key].value for key in ('seed', 'side', 'fill', 'first_frame')}
    occlusions = {count: Occlusion(options.study, count, **settings) for count in counts}
    loaded = [load(path, options.checkpoint) for path in paths]
    _check_comparable(loaded, options.split)
    joints = loaded[0].skeleton.num_joints
    if options.study != 'length' and counts[-1] > joints:
        raise InputError(f'--counts {counts[-1]}: {loaded[0].skeleton.name} has {joints} joints')
    compare(dict(zip(names, loaded, strict=True)), occlusions, options)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
