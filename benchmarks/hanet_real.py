"""Does HANet refine the poses of a real estimator on real clips? Sub-JHMDB, the three folds.

    python benchmarks/hanet_real.py --estimators FOLD1,FOLD2,FOLD3 --data_dir data --workdir runs/hanet_real

ESTIMATORS: three trained networks, as `kimnet_jax.evaluate --model` takes them, each trained on the training clips of its fold.

Each network estimates the test clips of its fold, which it has not seen. HANet of a fold is trained on the estimates that the
networks of the two other folds made of *their* test clips, as far as these are training clips here: an estimator does better on
clips that it was trained on, and HANet would learn from errors that it never meets. It is evaluated on the estimates of the test
clips. No test clip of a fold, nor a pose of one, is trained on by its HANet; the checkpoint is the last, not the best.

Every step is one of the commands of docs/refine.md. The script goes on where it was stopped.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

from kimnet_jax.data_pipelines import clip_source, pose_files
from kimnet_jax.data_pipelines.poses import Estimates

FOLDS = (1, 2, 3)


def run(module: str, *flags: str) -> None:
    """One command, on display; its failure ends the script."""
    command = [sys.executable, '-m', module, *flags]
    print('$', ' '.join(command), flush=True)
    if status := subprocess.run(command).returncode:
        sys.exit(status)


def estimate(args: argparse.Namespace, fold: int, model: str) -> pathlib.Path:
    """The file of the poses that the network of a fold estimates of its test clips."""
    file = args.workdir / f'estimates_fold{fold}.npz'
    if not file.exists():
        run(
            'kimnet_jax.evaluate',
            f'--model={model}',
            f'--data_dir={args.data_dir}',
            f'--out={args.workdir / f"estimator_fold{fold}"}',
            f'--predictions={file}',
        )
    return file


def held_out(args: argparse.Namespace, fold: int, files: dict[int, pathlib.Path]) -> tuple[pathlib.Path, dict[str, int]]:
    """The file that HANet of a fold is trained on, and how many of its training clips have estimates."""
    clips = clip_source.open_clips(args.data_dir, 'sub_jhmdb', f'fold{fold}', 'train')
    found: dict[str, Estimates] = {}
    for other in FOLDS:
        if other != fold:
            found |= {one.clip: one for one in pose_files.read_predictions(str(files[other]), clips.skeleton.name)}
    chosen = [found[name] for name in clips.names if name in found]
    target = args.workdir / f'training_fold{fold}.npz'
    about = {'from': [str(files[other]) for other in FOLDS if other != fold]}
    pose_files.write_predictions(target, chosen, clips.skeleton, about)
    return target, {'training_clips': len(clips), 'with_held_out_estimates': len(chosen)}


def hanet(args: argparse.Namespace, fold: int, train: pathlib.Path, test: pathlib.Path) -> dict:
    """HANet trained and evaluated: method -> its values."""
    folder = args.workdir / f'fold{fold}'
    run(
        'kimnet_jax.train',
        '--config=configs/hanet.py:source=predictions',
        f'--workdir={folder}',
        '--config.dataset.name=sub_jhmdb',
        f'--config.dataset.config=fold{fold}',
        f'--config.dataset.data_dir={args.data_dir}',
        f'--config.poses.train={train}',
        f'--config.poses.eval={test}',
        '--config.poses.allow_missing=True',
        '--config.model.interval=5',  # better than 3 and 4 on clips held out of the training clips, docs/results.md
        '--config.model.window=2',
        f'--config.train.steps={args.steps}',
        '--config.train.eval_every=1e6',
        *args.rest,
    )
    run('kimnet_jax.evaluate', f'--workdir={folder}', '--checkpoint=last')
    report = json.loads((folder / 'evaluation' / f'test_step{args.steps}.json').read_text())
    return {name: summary(row) for name, row in report['rows'].items()}


def summary(row: dict) -> dict:
    """mPCK by threshold, acceleration error and jitter (px) of a row, with their intervals."""
    values, intervals = row['values'], row.get('intervals', {})
    accuracy = {key: {alpha: pck['mPCK'] for alpha, pck in values[key]['pck'].items()} for key in ('torso', 'person')}
    return accuracy | {key: values[key]['mean'] for key in ('acceleration', 'jitter')} | {'intervals': intervals}


def main() -> None:
    """Runs what is missing and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--estimators', required=True, help='networks of fold 1, 2 and 3, with commas between')
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--workdir', type=pathlib.Path, required=True)
    parser.add_argument('--steps', type=int, default=1500, help='of the training of HANet')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('benchmarks/results'))
    args, args.rest = parser.parse_known_args()
    models = args.estimators.split(',')
    if len(models) != len(FOLDS):
        parser.error('--estimators: name three networks, of fold 1, 2 and 3')
    args.workdir.mkdir(parents=True, exist_ok=True)
    files = {fold: estimate(args, fold, model) for fold, model in zip(FOLDS, models, strict=True)}
    reports = {}
    for fold in FOLDS:
        training, counts = held_out(args, fold, files)
        reports[f'fold{fold}'] = counts | {'rows': hanet(args, fold, training, files[fold])}
    today = datetime.date.today().isoformat()
    record = {
        'date': today,
        'machine': f'{platform.machine()}, {os.cpu_count()} CPU cores',
        'steps': args.steps,
        'flags': args.rest,
        'folds': reports,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'hanet_folds_{today}.json'
    path.write_text(json.dumps(record, indent=1) + '\n')
    print('written:', path)


if __name__ == '__main__':
    main()
