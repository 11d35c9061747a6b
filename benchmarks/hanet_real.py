"""Does HANet refine the poses of a real estimator on real clips? Sub-JHMDB by folds, and the release's concatenated protocol.

    python benchmarks/hanet_real.py --manual_dir DOWNLOADS --workdir runs/hanet_real --folds 1,2,3 --concatenated

In each fold a per-frame PoseResNet is trained on the training clips, and decoded as in SimpleBaseline's release; HANet is trained
on what it estimates for these clips and evaluated on what it estimates for the test clips. No test clip is trained on, and the
checkpoint is the last, not the best.

The concatenated protocol trains HANet on the training clips of all folds, among which are nearly all test clips. The estimates
are those of fold 1, by a network that was trained on most of these clips: both leaks are shown by how much the numbers rise.

Every step is one of the commands of docs/refine.md. The script goes on where it was stopped.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

from data_pipelines import pose_files, schema

_ESTIMATOR = (  # a network that a CPU trains in minutes; single frames, since it has no memory
    '--config.data.frames=1',
    '--config.train.batch_size=16',
    '--config.optimizer.learning_rate=2e-3',
    '--config.optimizer.warmup_epochs=20.0',
    '--config.train.eval_every=1e6',
    '--config.train.save_every=100.0',
    '--config.train.log_every=100',
    '--config.eval.decoding=quarter',
)


def main() -> None:
    """Runs what is missing, prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--manual_dir', help='the downloads of Sub-JHMDB; where --data_dir has it already, none is needed')
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--workdir', type=pathlib.Path, required=True)
    parser.add_argument('--folds', default='1', help='with commas between')
    parser.add_argument('--concatenated', action='store_true', help='the concatenated protocol, too; needs fold 1')
    parser.add_argument('--estimator_steps', type=int, default=2500)
    parser.add_argument('--hanet_steps', type=int, default=1500)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('benchmarks/results'))
    parser.add_argument('rest', nargs='*', help='further flags for the training of HANet')
    args = parser.parse_args()
    reports = {}
    for fold in args.folds.split(','):
        reports[f'fold{fold}'] = hanet(args, f'fold{fold}', estimates(args, fold))
    if args.concatenated:
        reports['folds_concatenated'] = hanet(args, 'folds_concatenated', concatenate(args))
    write(args, reports)


def run(module: str, *flags: str) -> None:
    """One command, on display; its failure ends the script."""
    command = [sys.executable, '-m', module, *flags]
    print('$', ' '.join(command), flush=True)
    if status := subprocess.run(command).returncode:
        sys.exit(status)


def open_split(args: argparse.Namespace, config: str, split: str) -> schema.ClipSource:
    """A split of Sub-JHMDB, which is built where it is not."""
    if not (pathlib.Path(args.data_dir) / 'sub_jhmdb' / config).exists():
        run('data_pipelines.build', f'sub_jhmdb/{config}', f'--manual_dir={args.manual_dir}', f'--data_dir={args.data_dir}')
    return schema.open_clips(args.data_dir, 'sub_jhmdb', config, split)


def estimates(args: argparse.Namespace, fold: str) -> dict[str, pathlib.Path]:
    """The files of the estimated poses of each split."""
    open_split(args, f'fold{fold}', 'train')
    folder = args.workdir / f'fold{fold}' / 'estimator'
    files = {split: folder / 'poses' / f'{split}.npz' for split in ('train', 'test')}
    run(
        'kimnet_jax.train',
        f'--config=configs/sub_jhmdb.py:fold={fold},preset=small,model=pose_resnet',
        f'--workdir={folder}',
        f'--config.dataset.data_dir={args.data_dir}',
        f'--config.train.steps={args.estimator_steps}',
        *_ESTIMATOR,
    )
    for split, file in files.items():
        if not file.exists():
            run('kimnet_jax.evaluate', f'--workdir={folder}', '--checkpoint=last', f'--split={split}', f'--predictions={file}')
    return files


def concatenate(args: argparse.Namespace) -> dict[str, pathlib.Path]:
    """The poses of fold 1 under the names that the clips have in the concatenated folds, `fold2/catch/...`."""
    folder = args.workdir / 'fold1' / 'estimator' / 'poses'
    found = {one.clip: one for one in pose_files.read_predictions(str(folder), 'jhmdb')}
    files = {}
    for split in ('train', 'test'):
        clips = open_split(args, 'folds_concatenated', split)
        named = [dataclasses.replace(found[name.split('/', 1)[1]], clip=name) for name in clips.names]
        files[split] = args.workdir / 'folds_concatenated' / f'{split}.npz'
        pose_files.write_predictions(files[split], named, clips.skeleton, {'from': str(folder)})
    return files


def hanet(args: argparse.Namespace, config: str, poses: dict[str, pathlib.Path]) -> dict:
    """HANet trained and evaluated; its results by the protocol `full` and by `released`."""
    folder = args.workdir / config / 'hanet'
    run(
        'kimnet_jax.train',
        '--config=configs/hanet.py:source=predictions',
        f'--workdir={folder}',
        '--config.dataset.name=sub_jhmdb',
        f'--config.dataset.config={config}',
        f'--config.dataset.data_dir={args.data_dir}',
        f'--config.dataset.allow_overlap={config == "folds_concatenated"}',
        f'--config.poses.train={poses["train"]}',
        f'--config.poses.eval={poses["test"]}',
        '--config.model.interval=5',  # better than 3 and 4 on clips held out of the training clips, docs/results.md
        '--config.model.window=2',
        f'--config.train.steps={args.hanet_steps}',
        '--config.train.eval_every=1e6',
        *args.rest,
    )
    reports = {}
    for protocol in ('full', 'released'):
        run('kimnet_jax.evaluate', f'--workdir={folder}', '--checkpoint=last', f'--protocol={protocol}')
        suffix = '_released' if protocol == 'released' else ''
        rows = json.loads((folder / 'evaluation' / f'test_step{args.hanet_steps}{suffix}.json').read_text())['rows']
        reports[protocol] = {name: summary(row['values']) for name, row in rows.items()} if protocol == 'full' else rows
    return reports


def summary(values: dict) -> dict:
    """mPCK by threshold, acceleration error and jitter (px) of a row."""
    accuracy = {key: {alpha: pck['mPCK'] for alpha, pck in values[key]['pck'].items()} for key in ('torso', 'person')}
    return accuracy | {key: values[key]['mean'] for key in ('acceleration', 'jitter')}


def write(args: argparse.Namespace, reports: dict) -> None:
    """Writes the results as JSON."""
    today = datetime.date.today().isoformat()
    record = {
        'date': today,
        'machine': f'{platform.machine()}, {os.cpu_count()} CPU cores',
        'steps': {name: getattr(args, f'{name}_steps') for name in ('estimator', 'hanet')},
        'flags': args.rest,
        'reports': reports,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f'hanet_real_{today}.json'
    path.write_text(json.dumps(record, indent=1) + '\n')
    print('written:', path)


if __name__ == '__main__':
    main()
