"""Does time help? The same weights on the same frames, after their own past and after others (docs/evaluation.md)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Clips
from kimnet_jax.data_pipelines.other_clips import OtherClips
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.models import VideoModel, network_name
from kimnet_jax.tasks.evaluators import make_evaluator, make_stream
from kimnet_jax.training import sharding
from kimnet_jax.training.evaluation import PASTS, measure, of_all_processes
from kimnet_jax.training.state import split_model

ROWS = dict(zip(PASTS, ('true past', 'frozen past', 'past of another clip', 'restarted at every frame'), strict=True))
TRUE = ROWS['true']


def check(model: VideoModel, name: str, chain_length: int) -> None:
    """Raises `InputError` where no frame of the network has a past."""
    if not model.reads_past:
        raise InputError(
            f'--temporal_control: {name} ({network_name(model)}) finds joints in every frame by itself; it has no past to control'
        )
    if chain_length == 1:
        raise InputError('--temporal_control: in chains of 1 frame no frame has a past; give a longer --chain_length, or 0')


def rows(model: VideoModel, config: Mapping[str, Any], clips: Clips, seed: int) -> tuple[dict[str, PoseMetrics], list[str]]:
    """The metrics after each past, and what a report says of the pasts.

    Args:
        model: in eval mode, of those that `check` lets pass.
        config: of its training, whose crop, decoding and chains are taken.
        clips: of a split.
        seed: of the draw of other clips.

    Raises:
        InputError: there is only one clip.
    """
    config = {**config, 'eval': {**config['eval'], 'segment': 1}}
    others, mesh = OtherClips(clips, seed), sharding.make_mesh()
    graph, weights = split_model(model, training=False)
    evaluator = make_evaluator(graph, model.stride, config, clips, mesh)
    predictions = evaluator.predict_with_pasts(sharding.put(weights, mesh), make_stream(config, others, mesh))
    poses = {clip: joints for clip, joints, _ in of_all_processes(predictions)}

    def metrics(past: int) -> PoseMetrics:
        return measure(clips, ((clip, np.asarray(joints[:, past]), None) for clip, joints in poses.items()))

    notes = [
        f'`{TRUE}`: as evaluated otherwise. `{ROWS["frozen"]}`: each frame is given twice, the first time to begin a chain, and '
        f'the second pose counts. `{ROWS["shuffled"]}`: as many frames of another clip come before it, drawn with seed {seed}. '
        f'`{ROWS["restarted"]}`: it begins a chain. The first frame of a chain has no past and is the same in all four rows.'
    ]
    if others.short:
        notes.append(f'{others.short} clips are longer than all others: the past of another clip runs back and forth there.')
    return {name: metrics(i) for i, name in enumerate(ROWS.values())}, notes
