"""What the misses of a network are: where in a clip, and how many of them are left and right exchanged.

    python benchmarks/errors.py --data_dir data sub_jhmdb/fold1=estimates.npz ...

ESTIMATES: files of `kimnet_jax.evaluate --predictions` on the test split. Prints torso PCK@0.2 of first frames, of frames 2 to 5,
and of all later ones, with 95 % intervals by bootstrap over clips: is a chain as good in its first frame as in the later ones?
Then the share of the misses of all joints that lie within 0.2 torso lengths of the same joint on the other side.
"""

import argparse

import numpy as np

from kimnet_jax.data_pipelines import clip_source, pose_files
from kimnet_jax.data_pipelines.poses import Estimates
from kimnet_jax.metrics import PoseMetrics, torso_length

SPANS = {'frame 1': (0, 1), 'frames 2 to 5': (1, 5), 'frames 6 and later': (5, None)}


def exchanged(clips: clip_source.ClipSource, found: dict[str, Estimates], alpha: float = 0.2) -> tuple[int, int]:
    """(misses, those of them that are at the joint of the other side)."""
    order = np.asarray(clips.skeleton.flip_order)
    paired = order != np.arange(len(order))
    misses = swapped = 0
    for i in range(len(clips)):
        example = clips[i]
        joints, visible = example['joints'], example['visible']
        reach = alpha * torso_length(joints, visible, clips.skeleton)[:, None]
        pose = found[example['clip']].joints
        miss = visible & (np.linalg.norm(pose - joints, axis=-1) > reach)
        other = np.linalg.norm(pose - joints[:, order], axis=-1) <= reach
        misses += int(miss.sum())
        swapped += int((miss & other & paired & visible[:, order]).sum())
    return misses, swapped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('files', nargs='+', metavar='NAME/CONFIG=FILE')
    args = parser.parse_args()
    for argument in args.files:
        dataset, _, file = argument.partition('=')
        name, _, config = dataset.partition('/')
        clips = clip_source.open_clips(args.data_dir, name, config, 'test')
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
        misses, swapped = exchanged(clips, found)
        print(*row, f'left and right exchanged: {100 * swapped / misses:.0f} % of {misses} misses', sep='  ')


if __name__ == '__main__':
    main()
