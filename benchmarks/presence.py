"""Does the score of a pose say whether a person is there? Held-out people against pictures without one.

    python benchmarks/presence.py --model kimnet-s-jhmdb --dataset sub_jhmdb/fold1 --split test --data_dir data --out results

The first two frames of windows of the split, cropped as in evaluation, against crops beside the person in the same frames, the
same crops cut into shuffled tiles, and pictures that are no photograph: black, flat colours, noise, patterns, a test card. The
score is the mean of a pose's joint scores, as `predict` writes and `inference.tracking` judges it: of the first frame of a chain
and of the second. Prints and writes the area under the ROC curve for each kind, and what share a threshold takes for people.
"""

import argparse
import contextlib
import datetime
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from kimnet_jax.core import heatmap
from kimnet_jax.core.image import normalise
from kimnet_jax.data_pipelines import backgrounds, clip_source
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.transforms import Augmentation, DataConfig, crop_window
from kimnet_jax.inference.tracking import TrackerConfig
from kimnet_jax.tasks.trained import open_trained
from kimnet_jax.training.state import split_model

BATCH = 16
PEOPLE = 'people'


def test_card(size: int) -> np.ndarray:
    """uint8 [size, size, 3]: colour bars, a circle and a grid of white lines."""
    bars = np.array(
        [[235, 235, 235], [235, 235, 16], [16, 235, 235], [16, 235, 16], [235, 16, 235], [235, 16, 16], [16, 16, 235]]
    )
    image = np.repeat(np.repeat(bars[None], -(-size // 7), 1)[:, :size], size, 0).astype(np.uint8)
    rows, columns = np.mgrid[:size, :size] - size / 2
    image[np.abs(np.hypot(rows, columns) - 0.4 * size) < 0.01 * size] = 255
    image[(rows % (size // 8) == 0) | (columns % (size // 8) == 0)] = 255
    return image


def pictures(clips: clip_source.ClipSource, config: DataConfig, windows: int) -> dict[str, list[np.ndarray]]:
    """Kind -> windows of two frames, uint8 [2, H, W, 3]."""
    found: dict[str, list[np.ndarray]] = {kind: [] for kind in (PEOPLE, *backgrounds.SHARES)}
    place = {'skeleton': clips.skeleton, 'folder': clips.folder}
    for i in range(len(clips)):
        example, rng = clips[i], np.random.default_rng(i)
        for first in np.unique(np.linspace(0, len(example['joints']) - 2, windows).astype(int)):
            window = Window(i, int(first), 2)
            found[PEOPLE].append(crop_window(example, window, 2, config, **place)['frames'])
            for kind in backgrounds.SHARES:
                with contextlib.suppress(LookupError):  # the person fills the frame
                    drawn = backgrounds.background_window(example, window, config, Augmentation(), rng, **place, kind=kind)
                    found[kind].append(drawn['frames'])
    size = config.input_size
    found['black'] = [np.zeros((2, size, size, 3), np.uint8)]
    found['test card'] = [np.stack([test_card(size)] * 2)]
    return found


def auc(people: np.ndarray, others: np.ndarray) -> float:
    """Probability that a person's score is above another's; ties count half."""
    difference = people[:, None] - others[None]
    return float(((difference > 0) + (difference == 0) / 2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True)
    parser.add_argument('--dataset', default='sub_jhmdb/fold1')
    parser.add_argument('--split', default='test')
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--windows', type=int, default=4, help='of each clip')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results')
    args = parser.parse_args()
    found = open_trained(args.model)
    name, _, config = args.dataset.partition('/')
    clips = clip_source.open_clips(args.data_dir, name, config, args.split)
    data = DataConfig(frames=2, input_size=found.config['data']['input_size'], box_scale=found.config['data']['box_scale'])
    model = found.load('float32')
    graph, weights = split_model(model, training=False)

    @jax.jit
    def scores(weights, frames):
        from flax import nnx

        heatmaps = nnx.merge(graph, *weights, copy=True)(normalise(frames, jnp)).heatmaps
        return heatmap.decode(heatmaps, 'argmax', jnp)[1]  # [B, T, J]

    measured = {}
    for kind, windows in pictures(clips, data, args.windows).items():
        parts = []
        for first in range(0, len(windows), BATCH):
            batch = np.stack(windows[first : first + BATCH])
            padded = np.pad(batch, ((0, BATCH - len(batch)), *[(0, 0)] * 4))
            parts.append(np.asarray(scores(weights, padded))[: len(batch)])
        measured[kind] = np.concatenate(parts) if parts else np.zeros((0, 2, clips.skeleton.num_joints))
    config = TrackerConfig()
    rows = {}
    people = measured[PEOPLE].mean(-1)
    for kind, values in measured.items():
        pose = values.mean(-1)
        sure = (pose >= config.pose_score) & ((values >= config.joint_score).mean(-1) >= config.pose_share)
        rows[kind] = {
            'windows': len(pose),
            'score_quantiles_5_50_95': np.quantile(pose, (0.05, 0.5, 0.95), axis=0).T.tolist() if len(pose) else None,
            'taken_for_a_person': sure.mean(0).tolist() if len(pose) else None,
            'auc_against_people': [auc(people[:, t], pose[:, t]) for t in range(2)] if kind != PEOPLE and len(pose) else None,
        }
    others = np.concatenate([values.mean(-1) for kind, values in measured.items() if kind != PEOPLE])
    thresholds = np.round(np.arange(0.02, 0.7, 0.02), 2)
    curve = [
        {
            'threshold': float(threshold),
            'people': (people >= threshold).mean(0).tolist(),
            'others': (others >= threshold).mean(0).tolist(),
        }
        for threshold in thresholds
    ]
    print(f'{args.model} on {args.dataset}, split {args.split}; first and second frame of a chain')
    for kind, row in rows.items():
        if row['windows']:
            low, middle, high = (' '.join(f'{row["score_quantiles_5_50_95"][t][q]:.2f}' for t in range(2)) for q in range(3))
            print(
                f'{kind:10} {row["windows"]:4} windows  score 5 %: {low}  median: {middle}  95 %: {high}'
                f'  taken for a person: {row["taken_for_a_person"][0]:.3f} {row["taken_for_a_person"][1]:.3f}'
                + (f'  AUC {row["auc_against_people"][0]:.3f} {row["auc_against_people"][1]:.3f}' if kind != PEOPLE else '')
            )
    print('all others: AUC', *(f'{auc(people[:, t], others[:, t]):.4f}' for t in range(2)))
    args.out.mkdir(parents=True, exist_ok=True)
    result = {
        'model': {**found.about, 'weights': pathlib.Path(found.name).name},  # without the folder
        'dataset': f'{args.dataset}, split {args.split}',
        'rows': rows,
        'auc_all_others': [auc(people[:, t], others[:, t]) for t in range(2)],
        'roc': curve,
    }
    file = args.out / f'presence_{pathlib.Path(args.model).stem}_{datetime.date.today()}.json'
    file.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
