"""What a report on runs shows: gathered from their folders and, where they are there, from the clips (docs/report.md)."""

import math
import pathlib
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from kimnet_jax import __version__
from kimnet_jax.core import overlays
from kimnet_jax.core.array_files import read_npz
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_text, write_text
from kimnet_jax.core.image import decode_image, encode_jpeg
from kimnet_jax.core.json_files import parse_json, read_json
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.pose_files import open_pose_file
from kimnet_jax.metrics import ALPHA, MEAN, PoseMetrics, Ratio, measurable, torso_length
from kimnet_jax.models import count_parameters
from kimnet_jax.reporting import require_jinja2, require_matplotlib
from kimnet_jax.tasks import task_of, videos
from kimnet_jax.tasks.occlusion import names_of
from kimnet_jax.tasks.reports import EvaluationRequest
from kimnet_jax.tasks.trained import Trained, open_run
from kimnet_jax.training.loop import TrainConfig
from kimnet_jax.training.writers import KINDS

if TYPE_CHECKING:
    from kimnet_jax.reporting import page

_SHOWN_CLIPS, _SHOWN_FRAMES, _PANEL, _QUALITY = 3, 4, 220, 82  # worst and best ones; frames of each; pixels; of JPEG
_SAME = 1e-4  # a difference of shares that is one of rounding
_CORRELATED_CLIPS = 2  # of each action, on which W_r is averaged
_EVALUATION = 'evaluation'  # folder in that of a run
_REPORT = re.compile(r'_step(\d+)(_chain\d+)?\.json$')  # end of the name of what `evaluate` writes with protocol `full`


def write(
    folders: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    checkpoint: str = 'best',
    data_dir: str | None = None,
    evaluate: bool = False,
) -> None:
    """Writes the page on some runs. What it lacks is told on it and on stderr.

    Args:
        folders: of the runs.
        out: `.html` file.
        checkpoint: of each run: `best`, `last` or a step.
        data_dir: where the built data sets are; None: where they were in training.
        evaluate: evaluate the runs first of whose checkpoint there is no evaluation with predictions.

    Raises:
        InputError: a folder is no run or has no checkpoint, what lies in it is damaged, or the data set is not in `data_dir`.
    """
    require_matplotlib()
    require_jinja2()
    from kimnet_jax.reporting import page

    for folder in folders:
        if not folder.is_dir():
            raise InputError(f'{folder}: not a run (no such folder); give the folder that train got as --workdir')
    names = names_of([str(folder) for folder in folders])
    runs = []
    for name, folder in zip(names, folders, strict=True):
        runs.append(_gather(name, open_run(folder, checkpoint), folder, data_dir, evaluate))
        for note in runs[-1].notes:
            print(f'note: {name}: {note}', file=sys.stderr)
    write_text(out, page.render(runs, __version__))
    print(f'written: {out}')


def _gather(name: str, found: Trained, folder: pathlib.Path, data_dir: str | None, evaluate: bool) -> 'page.Run':
    from kimnet_jax.reporting import page

    notes: list[str] = []
    records = read_records(folder / 'metrics.jsonl')
    if not records:
        notes.append('no curves, since metrics.jsonl is missing or empty in its folder.')
    again = f'`kimnet report {folder} --evaluate`'
    report, predictions = find_evaluation(folder, found.step), find_predictions(folder, found.step)
    if evaluate and None in (report, predictions):
        target = folder / _EVALUATION / f'predictions_step{found.step}.npz'
        task_of(found.kind).evaluate(found, EvaluationRequest(out=target.parent, data_dir=data_dir, predictions=target))
        report, predictions = find_evaluation(folder, found.step), find_predictions(folder, found.step)
    evaluation = measured = None
    if report is None:
        notes.append(f'no tables, since checkpoint {found.step} is not evaluated; {again} does it.')
    else:
        evaluation = read_json(report)
        page.check_evaluation(evaluation, str(report))
        if predictions is None:
            notes.append(
                f'no actions, errors and clips, since there are no predictions beside its evaluation; {again} writes them.'
            )
        else:
            try:
                measured = _measured(found, evaluation, predictions, data_dir)
            except _LackingError as error:
                notes.append(f'no actions, errors and clips: {error}.')
    data = f'{_data(found)}, joints of {found.skeleton.name}' + (', refinement of poses' if found.reads_poses else '')
    return page.Run(name, _facts(found, folder, records, data_dir), data, found.config, records, evaluation, measured, notes)


def read_records(file: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, without a last line that was not written to its end; [] where there is no file.

    Raises `InputError` naming the line that is none.
    """
    if not file.exists():
        return []
    *lines, _ = read_text(file).split('\n')
    records = []
    for i, line in enumerate(lines, 1):  # what comes after the last line break is what a killed run was writing
        source = f'{file}: line {i}'
        record = parse_json(line, source)
        if not isinstance(record, dict) or record.get('kind') not in KINDS or type(record.get('step')) is not int:
            raise InputError(f'{source}: not a record that train writes (kind and step)')
        wrong = [key for key, value in record.items() if key != 'kind' and not isinstance(value, int | float | None)]
        if wrong:
            raise InputError(f'{source}: {wrong[0]} is {record[wrong[0]]!r}, expected a number')
        records.append(record)
    return records


def find_evaluation(folder: pathlib.Path, step: int) -> pathlib.Path | None:
    """The newest report on every frame that `evaluate` wrote of a step; None where there is none."""
    files = (folder / _EVALUATION).glob('*.json')
    return _newest(file for file in files if (match := _REPORT.search(file.name)) and int(match.group(1)) == step)


def find_predictions(folder: pathlib.Path, step: int) -> pathlib.Path | None:
    """The newest predictions of a step that lie beside its evaluation; None where there are none. Raises `InputError`."""
    return _newest(file for file in (folder / _EVALUATION).glob('*.npz') if _about(file).get('step') == step)


def _newest(files: Iterable[pathlib.Path]) -> pathlib.Path | None:
    return max(files, key=lambda file: (file.stat().st_mtime_ns, file.name), default=None)


def _about(file: pathlib.Path) -> Mapping[str, Any]:
    """What a file of predictions says of itself; {} of another file of arrays."""
    about = read_npz(file).get('about')
    found = parse_json(str(about), f'{file}: about') if about is not None else {}
    return found if isinstance(found, dict) else {}


def _data(found: Trained) -> str:
    """What it was trained on: a built data set, or files of poses."""
    dataset = found.section(clip_source.DatasetConfig, 'dataset')
    return f'{dataset.name}/{dataset.config}' if dataset.name else str(found.config.get('poses', {}).get('train'))


class _LackingError(Exception):
    """What is to be measured is not there; says why."""


def _facts(found: Trained, folder: pathlib.Path, records: Sequence[Mapping[str, Any]], data_dir: str | None) -> dict[str, str]:
    """The rows of the first table."""
    config, dataset = found.config, found.section(clip_source.DatasetConfig, 'dataset')
    temporal = config['model'].get('temporal')
    record, plan, conditions = read_json(folder / 'config.json'), found.section(TrainConfig, 'train'), found.conditions
    origin = record.get('initial_weights')
    rates = [record['frames_per_second'] for record in records if record.get('frames_per_second')]
    devices, processes = conditions.get('devices'), conditions.get('processes', 1)
    versions = {key.removeprefix('version of '): text for key, text in conditions.items() if key.startswith('version of ')}
    versions = {'kimnet_jax': record.get('code_version')} | versions
    facts = {
        'Network': found.kind + (f', temporal module {temporal}' if temporal else ''),
        'Parameters': f'{count_parameters(found.network()):,}',
        'Data set': _data(found),
        'Training clips': _size(dataset, 'train', data_dir),
        'Evaluation clips': _size(dataset, 'eval', data_dir),
        'Joints': f'{found.skeleton.num_joints} of {found.skeleton.name}',
        'Initial weights': '; '.join(map(str, origin)) if isinstance(origin, list) else '',
        'Seed': str(config['seed']),
        'Length': f'{plan.steps:,} steps' if plan.steps else f'{plan.epochs:g} epochs',
        'Batch size': str(plan.batch_size),
        'Checkpoint': f'step {found.step:,}' + (f' of {records[-1]["step"]:,} trained' if records else ''),
        'Training speed': f'{statistics.median(rates):,.0f} frames per second (median)' if rates else '',
        'Devices': f'{devices}' + (f', {processes} processes' if processes > 1 else '') if devices else '',
        'Versions': ', '.join(f'{key} {text}' for key, text in versions.items() if text),
        'Folder': str(folder),
    }
    return {heading: text for heading, text in facts.items() if text}


def _size(dataset: clip_source.DatasetConfig, part: Literal['train', 'eval'], data_dir: str | None) -> str:
    """A split and, where the data set is there, how much is in it; '' where the training had files of poses."""
    if not dataset.name:
        return ''
    split = dataset.train_split if part == 'train' else dataset.eval_split
    try:
        clips = dataset.open(part, data_dir)
    except InputError:
        if data_dir is not None:
            raise
        return split
    return f'{split}: {len(clips):,} clips, {sum(clips.lengths):,} frames'


def _measured(found: Trained, evaluation: Mapping[str, Any], file: pathlib.Path, data_dir: str | None) -> 'page.Measured':
    """What `page.Run.measured` is, from predictions of all clips of a split.

    Raises:
        InputError: the predictions are of other clips, or `data_dir` does not have the data set.
        _LackingError: the data set is not where it was in training, or the evaluation is of other predictions.
    """
    from kimnet_jax.reporting import page

    dataset = found.section(clip_source.DatasetConfig, 'dataset')
    try:
        clips = dataset.open('eval', data_dir, _about(file).get('split'))
    except InputError as error:
        if data_dir is not None:
            raise
        raise _LackingError(f'{error}; or give --data_dir') from error
    found.require_skeleton(clips.skeleton, str(clips.folder))
    estimates = {one.clip: one for one in open_pose_file(file, '2d').clips}
    if estimates.keys() != set(clips.names):
        raise InputError(f'{file}: poses of other clips than those of {clips.split!r} in {clips.folder}; evaluate again')

    metrics, courses, errors = PoseMetrics(clips.skeleton, len(clips)), [], []
    actions: dict[str, list[int]] = {}
    for i, clip in enumerate(tqdm(clips.names, desc='measuring', unit='clip', disable=None, leave=False)):
        example, joints = clips[i], estimates[clip].joints
        if joints.shape != example['joints'].shape:
            raise InputError(f'{file}: clip {clip!r} has poses of shape {list(joints.shape)}; evaluate again')
        metrics.update(i, joints, example['joints'], example['visible'], example['boxes'])
        actions.setdefault(example['action'], []).append(i)
        courses.append(joints)
        errors.append(torso_errors(joints, example['joints'], example['visible'], clips.skeleton))
    _check_same(metrics, evaluation, file)

    shares: list[float] = []
    for one in _each(metrics, [[i] for i in range(len(clips))]):
        shares.append(one.compute()['torso']['pck'][ALPHA][MEAN])
    means = [float(np.mean(part[np.isfinite(part)])) if np.isfinite(part).any() else math.inf for part in errors]
    ranked = sorted((i for i, share in enumerate(shares) if math.isfinite(share)), key=lambda i: (shares[i], -means[i], i))
    count = min(_SHOWN_CLIPS, len(ranked) // 2) or len(ranked)

    def drawn(i: int) -> page.Clip:
        example = clips[i]
        frames = overlays.spread(len(courses[i]), _SHOWN_FRAMES)
        image = overlays.strip(example, courses[i], clips.skeleton, frames, _PANEL)
        return page.Clip(example['clip'], example['action'], shares[i], means[i], encode_jpeg(image, _QUALITY))

    by_action = {}
    for (action, members), one in zip(actions.items(), _each(metrics, [*actions.values()]), strict=True):
        row = _plain(one.compute(), one.bootstrap())
        by_action[action] = (len(members), *row)
    return page.Measured(
        by_action,
        np.concatenate(errors),
        [drawn(i) for i in ranked[:count]],
        [drawn(i) for i in ranked[len(ranked) - count :][::-1] if i not in ranked[:count]],
        _correlation(found, clips, actions),
        clips.skeleton.joints,
    )


def torso_errors(predicted: Array, joints: Array, visible: Array, skeleton: Skeleton) -> np.ndarray:
    """Distances [N] of the visible joints from the truth, in torso lengths, of the frames where that is measurable.

    Infinite where a prediction is not finite: a miss.

    Args:
        predicted, joints: [T, J, 2] pixels.
        visible: bool [T, J].
        skeleton: of the joints.
    """
    lengths = torso_length(joints, visible, skeleton)
    usable = measurable(lengths)
    step = np.asarray(predicted, float) - joints
    distance = np.hypot(step[..., 0], step[..., 1]) / np.where(usable, lengths, 1.0)[:, None]
    return np.where(np.isfinite(distance), distance, np.inf)[visible & usable[:, None]]


def _check_same(metrics: PoseMetrics, evaluation: Mapping[str, Any], file: pathlib.Path) -> None:
    """Raises `_LackingError` where the tables are of other predictions, as with another split or other chains."""
    values = next(iter(evaluation['rows'].values())).get('values', {})
    here, there = (one.get('torso', {}).get('pck', {}).get(ALPHA, {}).get(MEAN) for one in (metrics.compute(), values))
    if there is None or abs(here - there) > _SAME:
        raise _LackingError(f'{file} has other poses than those that the tables are of; evaluate again with --predictions={file}')


def _each(metrics: PoseMetrics, parts: Sequence[Sequence[int]]) -> Iterator[PoseMetrics]:
    """The metrics of some of the clips, again and again."""
    for members in parts:
        chosen = PoseMetrics(metrics.skeleton, len(members))
        chosen.ratios = {key: Ratio(ratio.sums[members], ratio.counts[members]) for key, ratio in metrics.ratios.items()}
        chosen.counts = {key: count[members] for key, count in metrics.counts.items()}
        yield chosen


def _plain(values: Mapping[str, Any], intervals: Mapping[str, Any]) -> tuple[float | None, list[float | None]]:
    share, ends = (part['torso']['pck'][ALPHA][MEAN] for part in (values, intervals))
    return (None if math.isnan(share) else share), [None if math.isnan(end) else float(end) for end in ends]


def _correlation(
    found: Trained, clips: clip_source.ClipSource, actions: Mapping[str, Sequence[int]]
) -> dict[str, 'page.Correlation']:
    """Mean W_r of each action, on a few clips of it with the true boxes; {} where the network has no KMM."""
    from kimnet_jax.reporting import page

    if found.reads_poses:
        return {}
    predictor, chain_length = videos.load(found, watch=True).predictor, found.config['eval'].get('chain_length', 0)
    chosen = [(action, i) for action, members in actions.items() for i in members[:_CORRELATED_CLIPS]]
    steps: dict[str, list[np.ndarray]] = {action: [] for action in actions}
    for action, i in tqdm(chosen, desc='correlation', unit='clip', disable=None, leave=False):
        example = clips[i]
        for t, frame in enumerate(example['frames']):
            begins = t == 0 or bool(chain_length and t % chain_length == 0)
            predictor(decode_image(frame, f'clip {example["clip"]!r}, frame {t}'), example['boxes'][t], restart=begins)
            evidence = predictor.state.evidence
            if 'correlation' not in evidence:
                return {}
            if not begins:
                steps[action].append(np.asarray(jax.device_get(evidence['correlation'][0]), np.float64))
    counts = {action: len(members[:_CORRELATED_CLIPS]) for action, members in actions.items()}
    return {action: page.Correlation(np.mean(part, 0), len(part), counts[action]) for action, part in steps.items() if part}
