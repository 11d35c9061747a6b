"""Networks under occlusion: `python -m kimnet_jax.occlusion --workdir RUN[,RUN] | --model NAME[,NAME] --study joints`.

Masks are drawn on the frames of the evaluation split, the same for all networks, and mPCK is measured of the joints under them,
of the others and of all (KIMNet Sec. IV-E, Fig. 7 to 9; docs/occlusion.md).
"""

import functools
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from absl import app, flags

from data_pipelines import schema
from data_pipelines.clips import Clips
from data_pipelines.loader import LoaderConfig, eval_batches, num_eval_batches, prefetch_to_device
from data_pipelines.occlusion import SIDE, Fill, LongEnough, Occlusion, Study
from data_pipelines.transforms import DataConfig
from kimnet_jax import trained
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.core.types import Batch, Example
from kimnet_jax.interop.weight_files import PLAIN_SUFFIXES
from kimnet_jax.models import VideoModel, network_name
from kimnet_jax.reporting import occlusion as reporting
from kimnet_jax.reporting import reference, tables
from kimnet_jax.training import evaluation, sharding
from kimnet_jax.training.compilation import keep_compiled
from kimnet_jax.training.state import split_model

COUNTS: dict[str, tuple[int, ...]] = {  # where --counts is not given
    'temporal': (2,),
    'spatial': (2,),
    'joints': (1, 3, 5, 7, 9),
    'length': (1, 2, 4, 8, 16, 32),
}


def predictor(
    model: VideoModel, config: Mapping[str, Any], clips: Clips, batch_size: int | None = None
) -> Callable[[Occlusion | None], list[np.ndarray]]:
    """A function from masks (None: none) to the poses of each clip, [T, J, 2] pixels; compiled once.

    Args:
        model: in eval mode.
        config: of its training, whose crop, decoding and chains are taken.
        clips: of a split.
        batch_size: if not None instead of the config's.
    """
    settings, mesh = config['eval'], sharding.make_mesh()
    passes = {'batch_size': settings['batch_size'] if batch_size is None else batch_size, 'segment': settings['segment']}
    passes['chain_length'] = settings['chain_length'] or None
    sharding.check_batch_size(passes['batch_size'], 'eval.batch_size', mesh)
    data, loader = make(DataConfig, config['data'], 'data'), make(LoaderConfig, config['loader'], 'loader')
    paint: Occlusion | None = None

    def stream() -> Generator[tuple[Batch, Batch], None, None]:
        batches = eval_batches(clips, data, paint=paint, loader=loader, **passes)
        return prefetch_to_device(batches, sharding.split(mesh), evaluation.DEVICE_KEYS)

    graph, weights = split_model(model, training=False)
    evaluator = evaluation.Evaluator(
        graph, stream, num_eval_batches(clips, **passes), clips, stride=model.stride, decoding=settings['decoding'], mesh=mesh
    )
    weights = sharding.put(weights, mesh)

    def poses(occlusion: Occlusion | None) -> list[np.ndarray]:
        nonlocal paint
        paint = occlusion
        found = {clip: joints for clip, joints, _ in evaluator.predict(weights)}
        return [found[clip] for clip in range(len(clips))]

    return poses


def compare(
    networks: Mapping[str, trained.Trained], occlusions: Mapping[int, Occlusion], out: pathlib.Path, options: flags.FlagValues
) -> None:
    """Measures networks, by their names in the tables, on the same masked clips, and writes the report to the folder `out`."""
    name, first = next(iter(networks.items()))
    models = {label: found.load() for label, found in networks.items()}
    dataset = first.config['dataset']
    data_dir, split = options.data_dir or dataset['data_dir'], options.split or dataset['eval_split']
    source = schema.open_clips(data_dir, dataset['name'], dataset['config'], split)
    if source.skeleton != first.skeleton:
        joints = f'{first.skeleton.name!r}, {source.folder} has those of {source.skeleton.name!r}'
        raise InputError(f'{first.name}: finds the joints of {joints}')
    clips, notes = _long_enough(source, max(part.least_frames for part in occlusions.values()), options.skip_short)
    examples = [_truth(clips[i]) for i in range(len(clips))]
    occluded = {count: [part.place(example).occluded for example in examples] for count, part in occlusions.items()}

    train_clips = schema.open_clips(data_dir, dataset['name'], dataset['config'], dataset['train_split'])
    fields = ('joints', 'visible', 'boxes')
    shown = (train_clips[i] for i in range(len(train_clips)))
    mean = reference.mean_pose(tuple(example[key] for key in fields) for example in shown)
    rows, held = {}, {}
    for label, model in models.items():
        predict = predictor(model, networks[label].config, clips, options.batch_size)
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
        *(f'{label}: {network_name(models[label])}, {_describe(found)}.' for label, found in networks.items()),
    ]
    result = reporting.report(
        f'Occlusion `{some.study}`: {dataset["name"]}/{dataset["config"]}, split {split}',
        rows,
        [(name, other) for other in (*list(networks)[1:], f'{name}, {reporting.LAST_SEEN}')],
        study=some.study,
        occluded=occluded,
        notes=[*schema.report_notes(train_clips, source), *notes],
        about={
            'side': some.side,
            'fill': some.fill,
            'seed': some.seed,
            'first_frame': some.first_frame,
            'networks': {label: found.about for label, found in networks.items()},
        },
    )
    print(reporting.render(result))
    file = f'occlusion_{some.study}_{split}_{name}_step{first.step}_seed{some.seed}'
    file = file.translate({ord(character): '_' for character in '[]:/ '})
    print('written:', *tables.write_report(out, file, result, reporting.render))


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


def _describe(found: trained.Trained) -> str:
    settings, size = found.config['eval'], found.config['data']['input_size']
    chain = f'chains of {settings["chain_length"]} frames' if settings['chain_length'] else 'each clip one chain'
    return f'step {found.step} of {found.name}; crops of {size} pixels, {chain}, decoding `{settings["decoding"]}`'


def _truth(example: Example) -> Example:
    return {key: example[key] for key in ('clip', 'joints', 'visible', 'boxes', 'image_size')}


def _names(references: Sequence[str]) -> list[str]:
    """What the tables call the networks: the last part of the path where that tells them apart."""
    paths = [pathlib.Path(reference).expanduser().resolve() for reference in references]
    if len({*paths}) < len(paths):
        raise InputError(f'{",".join(references)}: the same network twice')
    short = [path.name.removesuffix(path.suffix if path.suffix in PLAIN_SUFFIXES else '') for path in paths]
    return short if len({*short, tables.MEAN_POSE}) > len(short) else [*references]


def _check_comparable(networks: Sequence[trained.Trained], split: str | None) -> None:
    """Raises `InputError` where there are no clips that all networks can be compared on."""
    first = networks[0]
    for other in networks:
        if 'eval_split' not in other.config.get('dataset', {}):
            raise InputError(f'{other.name}: its config names no clips to compare it on')
        for what, here, there in (
            ('skeleton', other.skeleton.name, first.skeleton.name),
            ('data set', *(f'{one.config["dataset"]["name"]}/{one.config["dataset"]["config"]}' for one in (other, first))),
            ('split', *(split or one.config['dataset']['eval_split'] for one in (other, first))),
        ):
            if here != there:
                raise InputError(f'{other.name}: {what} {here}, but {there} of {first.name}; there are no clips for both')


def _counts(study: str, asked: Sequence[str] | None) -> list[int]:
    try:
        counts = [int(text) for text in asked] if asked is not None else [*COUNTS[study]]
    except ValueError:
        counts = [-1]
    if not counts or min(counts) < 0:
        raise InputError(f'--counts {",".join(asked or ())}: give whole numbers such as 1,3,5')
    if not any(counts):
        raise InputError('--counts 0: give another number; 0 is always included')
    return sorted({*counts} - {0})


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    trained.define_flags(values)
    study = "'temporal': masks on one frame; 'spatial': masks that stay; 'joints': masks that follow joints; 'length': one joint."
    flags.DEFINE_enum('study', 'joints', get_args(Study), study, flag_values=values)
    counts = 'Numbers of masks or joints (for `length`, of consecutive frames); 0 is always included. '
    counts += 'Default: ' + ', '.join(f'{key} {",".join(map(str, numbers))}' for key, numbers in COUNTS.items()) + '.'
    flags.DEFINE_list('counts', None, counts, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of the masks.', lower_bound=0, upper_bound=2**32 - 1, flag_values=values)
    flags.DEFINE_float('side', SIDE, "Side of the masks, as a share of the longer side of the person's box.", flag_values=values)
    flags.DEFINE_enum('fill', 'black', get_args(Fill), 'Fill of the masks.', flag_values=values)
    flags.DEFINE_bool('first_frame', False, 'Also mask the first frame.', flag_values=values)
    flags.DEFINE_bool('skip_short', False, 'Leave out clips that are too short for the largest count.', flag_values=values)
    flags.DEFINE_string('split', None, "Split to evaluate. Default: the network's own, usually `test`.", flag_values=values)
    data_dir = 'Folder of the built data set. Default: the one used in training.'
    flags.DEFINE_string('data_dir', None, data_dir, flag_values=values)
    flags.DEFINE_integer('batch_size', None, "Clips per batch. Default: the config's.", flag_values=values)
    out = 'Folder for the report. Default: <run>/evaluation of the first network, or ./evaluation if that is not a run.'
    flags.DEFINE_string('out', None, out, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Compares as the flags say."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}')
    references = trained.requested(options.model, options.workdir).split(',')
    if not all(references):
        raise InputError(f'{",".join(references)}: one of these names is empty; give them as A,B')
    counts, names = _counts(options.study, options.counts), _names(references)
    settings: dict[str, Any] = {key: options[key].value for key in ('seed', 'side', 'fill', 'first_frame')}
    occlusions = {count: Occlusion(options.study, count, **settings) for count in counts}
    networks = [trained.open_trained(reference, options.checkpoint) for reference in references]
    _check_comparable(networks, options.split)
    first, joints = networks[0], networks[0].skeleton.num_joints
    if options.study != 'length' and counts[-1] > joints:
        raise InputError(f'--counts {counts[-1]}: {first.skeleton.name} has {joints} joints')
    out = pathlib.Path(options.out).expanduser() if options.out else (first.folder or pathlib.Path()) / 'evaluation'
    compare(dict(zip(names, networks, strict=True)), occlusions, out, options)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
