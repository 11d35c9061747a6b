"""The rows of the paper's tables, trained with several seeds, and our numbers beside the paper's (docs/reproduce.md)."""

import json
import pathlib
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import write_text
from kimnet_jax.core.json_files import read_json
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.metrics import MEAN
from kimnet_jax.reporting import reference, tables
from kimnet_jax.reporting.comparison import METRIC, comparison, render
from kimnet_jax.reporting.paper import ABLATIONS, SAME
from kimnet_jax.training import sweep
from kimnet_jax.training.evaluation import measure
from kimnet_jax.training.workdir import FREE, read_config

TRAIN = (sys.executable, '-m', 'kimnet_jax.train')


def reproduce(
    names: Sequence[str],
    settings: Sequence[str],
    *,
    config: str,
    preset: str,
    seeds: int,
    workdir: pathlib.Path,
    jobs: int | None = None,
) -> int:
    """Trains, evaluates and reports the rows of tables; returns the exit status.

    Args:
        names: of the tables, keys of `paper.ABLATIONS`.
        settings: `--config.FIELD=VALUE` for every run.
        config: config file with its argument, but for row, model and preset.
        preset: size of the networks.
        seeds: trainings of each row.
        workdir: folder of the runs and the tables.
        jobs: runs at a time; None: one on each GPU, one on a machine without.
    """
    path, _, argument = config.partition(':')
    label = '_'.join([pathlib.Path(path).stem, *re.findall(r'\w+', argument.replace('=', ''))])
    folder = workdir.expanduser().resolve() / label / preset
    same = SAME[preset]
    if preset == 'full' and 'swap=both' in argument.split(','):
        same = {}  # a ResNet-50 is the pose initializer too, KIMNet's is a ResNet-101
    rows = [same.get(row.name, row.name) for name in names for row in ABLATIONS[name].rows]
    commands = {}
    for seed in range(seeds):
        for row in rows:
            settled = f'{path}:{",".join(filter(None, (argument, f"preset={preset}", f"row={row}")))}'
            run = sweep.Run(row, seed, folder / row / f'seed{seed}')
            commands[run] = [*TRAIN, f'--config={settled}', f'--workdir={run.folder}', f'--config.seed={seed}', *settings]

    with sweep.alone(folder) as lock:
        _check_settings(folder, settings)
        finished = sum(run.result() is not None for run in commands)
        print(f'{len(commands)} runs, {finished} of them finished; log of each: {folder}/ROW/seedN/log.txt')
        slots: list[dict[str, str]] = []
        if finished < len(commands):
            slots, devices = sweep.find_slots(jobs)
            print(f'{len(slots)} at a time on {devices}', flush=True)
        failures, number = sweep.train_all(commands, slots, METRIC, lock)
        if number:
            print(f'stopped by {signal.Signals(number).name}; rerun the same command to resume')
            return 128 + number
        files: list[pathlib.Path] = []
        for name, report in make_reports(names, [*commands], failures, preset, same).items():
            print(f'\n{render(report)}')
            files += tables.write_report(folder, name, report, render)
        print('written:', *files)
    return 1 if failures else 0


def make_reports(
    names: Sequence[str],
    done: Sequence[sweep.Run],
    failures: Mapping[sweep.Run, str],
    preset: str,
    same: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Table -> its report, of the runs that have ended well; nothing where none has. `same`: as `SAME` of the preset."""
    results = {run: result for run in done if (result := run.result())}
    if not results:
        return {}
    some, last = next(iter(results.items()))
    dataset = read_config(some.folder)[0]['dataset']
    built = dataset['data_dir'], dataset['name'], dataset['config']
    training, source = (clip_source.open_clips(*built, dataset[f'{part}_split']) for part in ('train', 'eval'))
    subject = (
        f'{dataset["name"]}/{dataset["config"]}, split {dataset["eval_split"]}: {last["clips"]} clips, {last["frames"]} frames. '
        f'Preset `{preset}`, {last["step"]} steps. The mean pose of the training clips scores '
        f'{tables.percent(_mean_pose(training, source))} here.'
    )
    notes = clip_source.report_notes(training, source)
    notes.append(
        'Ours is the evaluation at the end of training, not the best checkpoint: choosing on the test split would flatter it.'
    )
    if dataset['name'] != 'penn_action' or preset != 'full':
        notes.append("The paper's numbers are for its full networks on Penn Action: compare the gaps, not the numbers.")
    scores: dict[str, dict[int, float]] = {}
    for run, result in results.items():
        for row in (run.row, *(row for row, other in same.items() if other == run.row)):
            scores.setdefault(row, {})[run.seed] = result[METRIC]
    reports = {}
    for name in names:
        rows = {same.get(row.name, row.name) for row in ABLATIONS[name].rows}
        missing = [f'Missing: `{run.row}` of seed {run.seed}, {why}' for run, why in failures.items() if run.row in rows]
        reports[name] = comparison(name, scores, subject=subject, notes=[*notes, *missing])
    return reports


def _mean_pose(training: clip_source.ClipSource, source: clip_source.ClipSource) -> float:
    """mPCK of the mean pose, a share of 1: what a network that does not look at the frames can reach."""
    mean = reference.mean_pose_of(training)
    placed = ((i, reference.place_pose(mean, source[i]['boxes']), None) for i in range(len(source)))
    return measure(source, placed).compute()['torso']['pck']['0.2'][MEAN]


def _check_settings(folder: pathlib.Path, settings: Sequence[str]) -> None:
    """Raises `InputError` where the folder holds runs with others; those of `workdir.FREE` change no number."""
    file, now = folder / 'settings.json', [part for part in settings if not part[len('--config.') :].startswith(FREE)]
    before = read_json(file) if file.exists() else now
    if before != now and any(folder.glob('*/*/config.json')):
        there, here = (' '.join(part) or 'none' for part in (before, now))
        raise InputError(f'{folder} contains runs with other settings (there {there}; now {here}): choose another --workdir')
    write_text(file, json.dumps(now, indent=2) + '\n')
