"""Trains and evaluates the rows of the paper's Tables III to VI: `python -m kimnet_jax.reproduce all [--preset tiny]`.

Each run is a `kimnet_jax.train` in `<workdir>/<config>/<preset>/<row>/seed<k>`. Rerunning the same command skips finished runs
and resumes the others. Prints our numbers beside the paper's (docs/reproduce.md).
"""

import functools
import json
import pathlib
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from data_pipelines import schema
from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.core.files import write_text
from kimnet_jax.metrics import MEAN, PoseMetrics
from kimnet_jax.reporting import reference, tables
from kimnet_jax.reporting.comparison import METRIC, comparison, render
from kimnet_jax.reporting.paper import ABLATIONS
from kimnet_jax.training import runs, workdir

TRAIN = (sys.executable, '-m', 'kimnet_jax.train')
STEPS = {'tiny': 500}  # where neither --steps nor --epochs is given; at the other presets as the config says
SAME = {  # preset -> row -> the row that is the same network
    'tiny': {'encoder_resnet18': 'kimnet'},
    'small': {'encoder_resnet18': 'kimnet'},
    'full': {'encoder_resnet50': 'kimnet'},
}


def reproduce(names: Sequence[str], settings: Sequence[str], options: flags.FlagValues) -> int:
    """Trains, evaluates and reports as the flags say; returns the exit status.

    Args:
        names: of the tables, keys of `paper.ABLATIONS`.
        settings: `--config.FIELD=VALUE` for every run.
        options: the other flags.
    """
    preset, (path, _, argument) = options.preset, options.config.partition(':')
    settings = [*_length(options), *settings]
    label = '_'.join([pathlib.Path(path).stem, *re.findall(r'\w+', argument.replace('=', ''))])
    folder = pathlib.Path(options.workdir).expanduser().resolve() / label / preset
    rows = [SAME[preset].get(row.name, row.name) for name in names for row in ABLATIONS[name].rows]
    commands = {}
    for seed in range(options.seeds):
        for row in rows:
            config = f'{path}:{",".join(filter(None, (argument, f"preset={preset}", f"row={row}")))}'
            run = runs.Run(row, seed, folder / row / f'seed{seed}')
            commands[run] = [*TRAIN, f'--config={config}', f'--workdir={run.folder}', f'--config.seed={seed}', *settings]

    with runs.alone(folder) as lock:
        _check_settings(folder, settings)
        finished = sum(run.result() is not None for run in commands)
        print(f'{len(commands)} runs, {finished} of them finished; log of each: {folder}/ROW/seedN/log.txt')
        slots: list[dict[str, str]] = []
        if finished < len(commands):
            slots, devices = runs.find_slots(options.jobs)
            print(f'{len(slots)} at a time on {devices}', flush=True)
        failures, number = runs.train_all(commands, slots, METRIC, lock)
        if number:
            print(f'stopped by {signal.Signals(number).name}; rerun the same command to resume')
            return 128 + number
        files: list[pathlib.Path] = []
        for name, report in make_reports(names, [*commands], failures, preset).items():
            print(f'\n{render(report)}')
            files += tables.write_report(folder, name, report, render)
        print('written:', *files)
    return 1 if failures else 0


def make_reports(
    names: Sequence[str], done: Sequence[runs.Run], failures: Mapping[runs.Run, str], preset: str
) -> dict[str, dict[str, Any]]:
    """Table -> its report, of the runs that have ended well; nothing where none has."""
    results = {run: result for run in done if (result := run.result())}
    if not results:
        return {}
    some, last = next(iter(results.items()))
    dataset = workdir.read_config(some.folder)[0]['dataset']
    built = dataset['data_dir'], dataset['name'], dataset['config']
    training, source = (schema.open_clips(*built, dataset[f'{part}_split']) for part in ('train', 'eval'))
    subject = (
        f'{dataset["name"]}/{dataset["config"]}, split {dataset["eval_split"]}: {last["clips"]} clips, {last["frames"]} frames. '
        f'Preset `{preset}`, {last["step"]} steps. The mean pose of the training clips scores '
        f'{tables.percent(_mean_pose(training, source))} here.'
    )
    notes = schema.report_notes(training, source)
    notes.append(
        'Ours is the evaluation at the end of training, not the best checkpoint: choosing on the test split would flatter it.'
    )
    if dataset['name'] != 'penn_action' or preset != 'full':
        notes.append("The paper's numbers are for its full networks on Penn Action: compare the gaps, not the numbers.")
    scores: dict[str, dict[int, float]] = {}
    for run, result in results.items():
        for row in (run.row, *(row for row, same in SAME[preset].items() if same == run.row)):
            scores.setdefault(row, {})[run.seed] = result[METRIC]
    reports = {}
    for name in names:
        rows = {SAME[preset].get(row.name, row.name) for row in ABLATIONS[name].rows}
        missing = [f'Missing: `{run.row}` of seed {run.seed}, {why}' for run, why in failures.items() if run.row in rows]
        reports[name] = comparison(name, scores, subject=subject, notes=[*notes, *missing])
    return reports


def _mean_pose(training: schema.ClipSource, source: schema.ClipSource) -> float:
    """mPCK of the mean pose, a share of 1: what a network that does not look at the frames can reach."""
    examples = (training[i] for i in range(len(training)))
    mean = reference.mean_pose((example['joints'], example['visible'], example['boxes']) for example in examples)
    metrics = PoseMetrics(source.skeleton, len(source))
    for i in range(len(source)):
        example = source[i]
        pose = reference.place_pose(mean, example['boxes'])
        metrics.update(i, pose, example['joints'], example['visible'], example['boxes'])
    return metrics.compute()['torso']['pck']['0.2'][MEAN]


def _length(options: flags.FlagValues) -> list[str]:
    if options.epochs is not None:
        return [f'--config.train.epochs={options.epochs}', '--config.train.steps=0']
    steps = options.steps or STEPS.get(options.preset)
    return [f'--config.train.steps={steps}'] if steps else []


def _check_settings(folder: pathlib.Path, settings: Sequence[str]) -> None:
    """Raises `InputError` where the folder holds runs with others; those of `workdir.FREE` change no number."""
    file, now = folder / 'settings.json', [part for part in settings if not part[len('--config.') :].startswith(workdir.FREE)]
    before = json.loads(file.read_text()) if file.exists() else now
    if before != now and any(folder.glob('*/*/config.json')):
        there, here = (' '.join(part) or 'none' for part in (before, now))
        raise InputError(f'{folder} contains runs with other settings (there {there}; now {here}): choose another --workdir')
    write_text(file, json.dumps(now, indent=2) + '\n')


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    config = 'As for kimnet_jax.train, without the arguments row, model and preset. Fields are passed on: --config.FIELD=VALUE.'
    flags.DEFINE_string('config', 'configs/kinetic_puppets.py', config, flag_values=values)
    flags.DEFINE_enum('preset', 'tiny', list(SAME), 'Size of the networks.', flag_values=values)
    steps = f'Length of each training. Default: {STEPS["tiny"]} at preset tiny, otherwise what the config says.'
    flags.DEFINE_integer('steps', None, steps, lower_bound=1, flag_values=values)
    flags.DEFINE_float('epochs', None, 'The same in epochs.', lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer('seeds', 3, 'Trainings per row, with seeds 0, 1, ...', lower_bound=1, flag_values=values)
    flags.DEFINE_string('workdir', 'runs/reproduce', 'Folder for the runs and the tables.', flag_values=values)
    jobs = 'Runs at a time. Default: one per GPU, or one without GPUs.'
    flags.DEFINE_integer('jobs', None, jobs, lower_bound=1, flag_values=values)


def run(argv: Sequence[str], settings: Sequence[str], options: flags.FlagValues) -> int:
    """Checks what is asked for, and does it; returns the exit status."""
    asked = argv[1:]
    unknown = [name for name in asked if name not in (*ABLATIONS, 'all')]
    if unknown or not asked:
        problem = f'{unknown[0]!r} is no table' if unknown else 'no table is named'
        raise InputError(f'{problem}: say one or more of {", ".join(ABLATIONS)}, or all')
    if options.steps and options.epochs is not None:
        raise InputError('--steps and --epochs: give one of them')
    for part in settings:
        field, equals, _ = part.removeprefix('--config.').partition('=')
        if not equals:
            raise InputError(f'{part}: give it as {part}=VALUE')
        if field in ('seed', 'train.steps', 'train.epochs'):
            raise InputError(f'{part}: use --seeds, --steps or --epochs')
    for part in options.config.partition(':')[2].split(','):
        if part.partition('=')[0] in ('row', 'model', 'preset'):
            raise InputError(f'--config {options.config}: leave {part} out; the tables have the rows, --preset the size')
    return reproduce([*ABLATIONS] if 'all' in asked else list(dict.fromkeys(asked)), settings, options)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    settings = [part for part in sys.argv if part.startswith('--config.')]
    argv = [part for part in sys.argv if not part.startswith('--config.')]
    parse = functools.partial(parse_flags, flags.FLAGS)
    app.run(lambda rest: run_command(run, rest, settings, flags.FLAGS), argv=argv, flags_parser=parse)


if __name__ == '__main__':
    cli()
