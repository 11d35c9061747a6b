"""Is a chain as good in its first frame as in the later ones? PCK by position in the clip, of stored predictions.

    python benchmarks/first_frames.py --data_dir data sub_jhmdb/fold1=estimates.npz ...

ESTIMATES: files of `kimnet_jax.evaluate --predictions` on the test split. Prints torso PCK@0.2 of first frames, of frames 2 to 5,
and of all later ones, with 95 % intervals by bootstrap over clips.
"""

import argparse

import numpy as np

from data_pipelines import pose_files, schema
from kimnet_jax.metrics import PoseMetrics

SPANS = {'frame 1': (0, 1), 'frames 2 to 5': (1, 5), 'frames 6 and later': (5, None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('files', nargs='+', metavar='NAME/CONFIG=FILE')
    args = parser.parse_args()
    for argument in args.files:
        dataset, _, file = argument.partition('=')
        name, _, config = dataset.partition('/')
        clips = schema.open_clips(args.data_dir, name, config, 'test')
        found = {one.clip: one for one in pose_files.read_predictions(file, clips.skeleton.name)}
        row = [dataset]
        for first, end in SPANS.values():
            metrics = PoseMetrics(clips.skeleton, len(clips))
            for i in range(len(clips)):
                example = clips[i]
                mask = np.zeros(len(example['joints']), bool)
                mask[first:end] = True
                metrics.update(
                    i, found[example['clip']].joints, example['joints'], example['visible'], example['boxes'], mask=mask
                )
            value = metrics.compute()['torso']['pck']['0.2']['mPCK']
            low, high = metrics.bootstrap()['torso']['pck']['0.2']['mPCK']
            row.append(f'{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]')
        print(*row, sep='  ')


if __name__ == '__main__':
    main()
