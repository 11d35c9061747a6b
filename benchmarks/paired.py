"""The difference between networks on the same clips, with its interval: paired bootstrap over clips of stored predictions.

    python benchmarks/paired.py --data_dir data --dataset sub_jhmdb/fold1 kmm=a0.npz,a1.npz none=b0.npz,b1.npz --out paired.json

FILES: of `kimnet_jax.evaluate --predictions`, of one split; several of a name are seeds, whose metrics are averaged. The first
name is compared with each other one: value, difference, and the 95 % interval of the difference over clips, in every draw the
same clips for all. What the seeds add to the uncertainty is not in it; the values of single seeds are printed beside it.
"""

import argparse
import json
import pathlib

from kimnet_jax.data_pipelines import clip_source, pose_files
from kimnet_jax.metrics import PoseMetrics, contrast
from kimnet_jax.training import evaluation

COLUMNS = [('torso', '0.2'), ('torso', '0.1'), ('torso', '0.05'), ('person', '0.2')]


def measure(clips: clip_source.ClipSource, file: str) -> PoseMetrics:
    """The metrics of a file of predictions of all the clips."""
    found = {one.clip: one for one in pose_files.read_predictions(file, clips.skeleton.name)}
    return evaluation.measure(clips, ((i, found[name].joints, None) for i, name in enumerate(clips.names)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--dataset', required=True, metavar='NAME/CONFIG')
    parser.add_argument('--split', default='test')
    parser.add_argument('--out', type=pathlib.Path)
    parser.add_argument('files', nargs='+', metavar='NAME=FILE[,FILE...]')
    args = parser.parse_args()
    name, _, config = args.dataset.partition('/')
    clips = clip_source.open_clips(args.data_dir, name, config, args.split)
    networks = {}
    for argument in args.files:
        label, _, files = argument.partition('=')
        networks[label] = [measure(clips, file) for file in files.split(',')]
    first, *others = networks
    rows = {}
    for label, seeds in networks.items():
        shares = [(1 / len(seeds), one) for one in seeds]
        value, _ = contrast(shares)
        rows[label] = {
            f'{key}@{alpha}': {
                'value': value[key]['pck'][alpha]['mPCK'],
                'seeds': [one.compute()[key]['pck'][alpha]['mPCK'] for one in seeds],
            }
            for key, alpha in COLUMNS
        }
        if label in others:
            reference = [(-1 / len(networks[first]), one) for one in networks[first]]
            value, interval = contrast([*shares, *reference])
            for key, alpha in COLUMNS:
                rows[label][f'{key}@{alpha}'] |= {
                    f'minus {first}': value[key]['pck'][alpha]['mPCK'],
                    'interval': interval[key]['pck'][alpha]['mPCK'],
                }
    for label, row in rows.items():
        print(f'{label}:')
        for column, cell in row.items():
            text = f'  {column:12} {100 * cell["value"]:5.1f}  seeds {" ".join(f"{100 * seed:.1f}" for seed in cell["seeds"])}'
            if 'interval' in cell:
                low, high = cell['interval']
                text += f'  difference {100 * cell[f"minus {first}"]:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]'
            print(text)
    if args.out:
        args.out.write_text(json.dumps({'dataset': args.dataset, 'split': args.split, 'rows': rows}, indent=1) + '\n')


if __name__ == '__main__':
    main()
