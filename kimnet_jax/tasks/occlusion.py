"""Networks under occlusion, side by side on the same masked clips (KIMNet Sec. IV-E; docs/occlusion.md)."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Clips, Example
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.occlusion import Occlusion, long_enough
from kimnet_jax.interop.weight_files import PLAIN_SUFFIXES
from kimnet_jax.models import VideoModel, network_name
from kimnet_jax.reporting import occlusion as reporting
from kimnet_jax.reporting import reference, tables
from kimnet_jax.tasks.evaluators import make_evaluator
from kimnet_jax.tasks.reports import publish, publish_plot
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.training import sharding
from kimnet_jax.training.state import split_model


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
    if batch_size is not None:
        config = {**config, 'eval': {**config['eval'], 'batch_size': batch_size}}
    paint: Occlusion | None = None
    mesh = sharding.make_mesh()
    graph, weights = split_model(model, training=False)
    evaluator = make_evaluator(graph, model.stride, config, clips, mesh, occlusion=lambda: paint)
    weights = sharding.put(weights, mesh)

    def poses(occlusion: Occlusion | None) -> list[np.ndarray]:
        nonlocal paint
        paint = occlusion
        found = {clip: joints for clip, joints, _ in evaluator.predict(weights)}
        return [found[clip] for clip in range(len(clips))]

    return poses


def compare(
    networks: Mapping[str, Trained],
    occlusions: Mapping[int, Occlusion],
    out: pathlib.Path,
    *,
    split: str | None = None,
    data_dir: str | None = None,
    batch_size: int | None = None,
    skip_short: bool = False,
) -> None:
    """Measures networks on the same masked clips, and writes the report.

    Args:
        networks: by their names in the tables; the first one is compared with each of the others.
        occlusions: by their numbers of masks, joints or frames.
        out: folder for the report.
        split: None: the one that the first network was evaluated on.
        data_dir: None: where the built data set was in training.
        batch_size: None: the configs'.
        skip_short: leave out clips that are too short for one of the occlusions, of all of them.

    Raises:
        InputError: the networks have no clips that they can be compared on, or a clip is too short.
    """
    _check_comparable([*networks.values()], split)
    name, first = next(iter(networks.items()))
    models = {label: found.load() for label, found in networks.items()}
    dataset = first.section(clip_source.DatasetConfig, 'dataset')
    source = dataset.open('eval', data_dir, split)
    first.require_skeleton(source.skeleton, str(source.folder))
    clips, notes = _long_enough(source, max(part.least_frames for part in occlusions.values()), skip_short)
    examples = [_truth(clips[i]) for i in range(len(clips))]
    occluded = {count: [part.place(example).occluded for example in examples] for count, part in occlusions.items()}

    train_clips = dataset.open('train', data_dir)
    mean = reference.mean_pose_of(train_clips)
    rows, held = {}, {}
    for label, model in models.items():
        predict = predictor(model, networks[label].config, clips, batch_size)
        poses = {0: predict(None)} | {count: predict(part) for count, part in occlusions.items()}
        last = {count: [*map(reference.hold_last_seen, poses[count], occluded[count])] for count in occlusions}
        rows[label] = reporting.measure(poses, examples, occluded, source.skeleton)
        held[f'{label}, {reporting.LAST_SEEN}'] = reporting.measure({0: poses[0]} | last, examples, occluded, source.skeleton)
    placed = [reference.place_pose(mean, example['boxes']) for example in examples]
    poses = dict.fromkeys((0, *occlusions), placed)
    rows |= held | {tables.MEAN_POSE: reporting.measure(poses, examples, occluded, source.skeleton)}

    some = next(iter(occlusions.values()))
    notes += [
        f'Masks: {some}.',
        f'`{reporting.LAST_SEEN}`: an occluded joint stays where the network saw it in the last frame in which it was not.',
        *(f'{label}: {network_name(models[label])}, {_describe(found)}.' for label, found in networks.items()),
    ]
    result = reporting.report(
        f'Occlusion `{some.study}`: {dataset.name}/{dataset.config}, split {source.split}',
        rows,
        [(name, other) for other in (*list(networks)[1:], f'{name}, {reporting.LAST_SEEN}')],
        study=some.study,
        occluded=occluded,
        notes=[*clip_source.report_notes(train_clips, source), *notes],
        about={
            'side': some.side,
            'fill': some.fill,
            'seed': some.seed,
            'first_frame': some.first_frame,
            'networks': {label: found.about for label, found in networks.items()},
        },
    )
    file = f'occlusion_{some.study}_{source.split}_{name}_step{first.step}_seed{some.seed}'
    publish(out, file, result, reporting.render)
    publish_plot(out, file, lambda: reporting.plot(result))


def _long_enough(source: clip_source.ClipSource, frames: int, skip_short: bool) -> tuple[Clips, list[str]]:
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
    return long_enough(source, frames), [f'Left out: {told}.']


def _describe(found: Trained) -> str:
    settings, size = found.config['eval'], found.config['data']['input_size']
    chain = f'chains of {settings["chain_length"]} frames' if settings['chain_length'] else 'each clip one chain'
    return f'step {found.step} of {found.name}; crops of {size} pixels, {chain}, decoding `{settings["decoding"]}`'


def _truth(example: Example) -> Example:
    return {key: example[key] for key in ('clip', 'joints', 'visible', 'boxes', 'image_size')}


def names_of(references: Sequence[str]) -> list[str]:
    """What the tables call the networks: the last part of the path where that tells them apart."""
    found = [paths.folder(reference).resolve() for reference in references]
    if len({*found}) < len(found):
        raise InputError(f'{",".join(references)}: the same network twice')
    short = [path.name.removesuffix(path.suffix if path.suffix in PLAIN_SUFFIXES else '') for path in found]
    return short if len({*short, tables.MEAN_POSE}) > len(short) else [*references]


def _check_comparable(networks: Sequence[Trained], split: str | None) -> None:
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
