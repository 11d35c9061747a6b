"""What has the KMM learnt? W_r on the clips of a split, and mPCK without it.

    python benchmarks/correlation.py --model runs/a[,runs/b] [--data_dir data] [--split test] [--out FILE.json]

Takes what `kimnet_jax.occlusion` takes. W_r is judged over all transitions between two frames of a clip (entropy 1 is uniform,
diagonal 1 the identity), and by three evaluations of the same weights: as trained; with q = 0, which makes every W_r uniform; and
with the channels of Conv_g cut off through which the predicted heatmaps reach the fusion.
"""

import argparse
import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kimnet_jax.core.command import run_command
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import normalise
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.loader import eval_batches
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.metrics import PoseMetrics, contrast
from kimnet_jax.models import KMM, KIMNet
from kimnet_jax.tasks.occlusion import predictor
from kimnet_jax.tasks.trained import Trained, open_trained
from kimnet_jax.training.state import Weights, split_model


def correlations(model: KIMNet, config: Mapping[str, Any], clips: clip_source.ClipSource) -> Iterator[np.ndarray]:
    """W_r [T-1, J, J] of each clip, the whole of it one chain."""
    graph, weights = split_model(model, training=False)

    @jax.jit
    def of_frames(weights: Weights, frames: jax.Array) -> jax.Array:
        model = nnx.merge(graph, *weights, copy=True)
        return model(normalise(frames, jnp)).evidence['correlation'][0]

    data = make(DataConfig, config['data'], 'data')
    batches = eval_batches(clips, data, batch_size=1, segment=max(clips.lengths), chain_length=None)
    with contextlib.closing(batches):
        for batch in batches:
            yield np.asarray(of_frames(weights, batch['frames']))[batch['mask'][0, 1:]]


def statistics(clips: list[np.ndarray]) -> dict[str, float]:
    """Of W_r [T-1, J, J] of each clip, means over all of its rows."""
    matrices = np.concatenate(clips).astype(np.float64)
    joints = matrices.shape[-1]
    logits = np.log(np.maximum(matrices, 1e-30))
    average = matrices.mean(0)
    return {
        'transitions': len(matrices),
        'entropy over log J': float(-(matrices * logits).sum(-1).mean() / np.log(joints)),
        'mean diagonal': float(np.diagonal(matrices, 0, 1, 2).mean()),
        'uniform diagonal': 1 / joints,
        'rows whose largest weight is the diagonal': float((matrices.argmax(-1) == np.arange(joints)).mean()),
        'mean largest weight': float(matrices.max(-1).mean()),
        'distinct joints that take the largest weight': len(np.unique(matrices.argmax(-1))),
        'standard deviation of the logits in a row': float(logits.std(-1).mean()),
        'range of the logits in a row': float(np.ptp(logits, -1).mean()),
        'total variation from uniform': float(np.abs(matrices - 1 / joints).sum(-1).mean() / 2),
        'total variation from the mean W_r': float(np.abs(matrices - average).sum(-1).mean() / 2),
        'total variation between the rows and their mean': float(
            np.abs(matrices - matrices.mean(-2, keepdims=True)).sum(-1).mean() / 2
        ),
    }


def changed(model: KIMNet, what: str) -> KIMNet:
    """A copy with other weights: `uniform` W_r, or without the `predicted` heatmaps."""
    model = nnx.clone(model)
    transition: Any = model.transition
    if what == 'uniform':
        for variable in (transition.temporal.conv_q.kernel, transition.temporal.conv_q.bias):
            variable.set_value(jnp.zeros_like(variable[...]))
    else:
        kernel, joints = transition.fusion.conv_g.kernel, transition.fusion.conv_d.kernel.shape[-1]
        kernel.set_value(jnp.asarray(kernel[...]).at[:, :, :joints].set(0))
    return model


def measure(model: KIMNet, config: Mapping[str, Any], clips: clip_source.ClipSource) -> PoseMetrics:
    """The metrics on all clips, without masks."""
    metrics = PoseMetrics(clips.skeleton, len(clips))
    for i, pose in enumerate(predictor(model, config, clips)(None)):
        example = clips[i]
        metrics.update(i, pose, example['joints'], example['visible'], example['boxes'])
    return metrics


def judge(found: Trained, data_dir: str | None = None, split: str | None = None) -> dict[str, Any]:
    """Statistics, mPCK@0.2 by torso with its interval, and the differences from it, in percent."""
    model, config = found.load(), found.config
    if not isinstance(model, KIMNet) or not isinstance(model.transition.temporal, KMM):
        raise InputError(f'{found.name}: a {found.kind} without a KMM; W_r is of a KIMNet with temporal=kmm')
    dataset = config['dataset']
    data_dir, split = data_dir or dataset['data_dir'], split or dataset['eval_split']
    clips = clip_source.open_clips(data_dir, dataset['name'], dataset['config'], split)
    result: dict[str, Any] = {'clips': len(clips), 'split': split, 'step': found.step}
    result['correlation'] = statistics(list(correlations(model, config, clips)))
    as_trained = measure(model, config, clips)

    def percent(*terms: tuple[float, PoseMetrics]) -> list[float]:
        value, interval = (part['torso']['pck']['0.2']['mPCK'] for part in contrast(terms))
        return [round(100 * x, 2) for x in (value, *interval)]

    result['as trained'] = percent((1.0, as_trained))
    for what in ('uniform', 'predicted'):
        other = measure(changed(model, what), config, clips)
        result[{'uniform': 'uniform W_r', 'predicted': 'without predicted heatmaps'}[what]] = {
            'mPCK@0.2 by torso': percent((1.0, other)),
            'minus as trained': percent((1.0, other), (-1.0, as_trained)),
        }
    return result


def main() -> None:
    """Judges the runs, prints and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, help='names, folders of runs or files of weights of KIMNet with a KMM')
    parser.add_argument('--data_dir')
    parser.add_argument('--split')
    parser.add_argument('--out', type=pathlib.Path)
    args = parser.parse_args()
    result: dict[str, Any] = {}
    for reference in args.model.split(','):
        name = pathlib.Path(reference).stem
        result[name] = judge(open_trained(reference), args.data_dir, args.split)
        print(json.dumps({name: result[name]}, indent=2), flush=True)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    run_command(main)
