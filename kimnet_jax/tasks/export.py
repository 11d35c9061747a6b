"""A trained network as an artifact for deployment, read back and compared with the network."""

import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.inference import artifact
from kimnet_jax.models.folding import fold
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.training.state import Weights, split_model

TOLERANCE = 0.05  # pixels of the crop
CHECKED_CLIPS = 3


class Loaded(NamedTuple):
    """Attributes:
    model: as it was trained.
    folded: the same for inference (`fold`).
    """

    model: artifact.Model
    folded: artifact.Model


def load(found: Trained, dtype: str | None) -> Loaded:
    """The network made ready for export. Raises `InputError` where it is none of videos."""
    network, config = found.load(dtype), found.config
    size = config['data']['input_size']
    graph, weights = split_model(network, training=False)

    def model_of(graph: nnx.GraphDef, weights: Weights) -> artifact.Model:
        return artifact.Model(
            weights,
            init_state=lambda weights, frames: nnx.merge(graph, *weights).init_state(frames),
            step=lambda weights, state, frames: nnx.merge(graph, *weights).step(state, frames),
            forward=lambda weights, frames: nnx.merge(graph, *weights, copy=True)(frames).heatmaps,
            skeleton=found.skeleton,
            size=size,
            stride=network.stride,
            box_scale=config['data']['box_scale'],
            decoding=config['eval']['decoding'],
            sigma=config['target']['sigma'],
        )

    folded = split_model(fold(nnx.merge(graph, *weights), size), training=False)
    return Loaded(model_of(graph, weights), model_of(*folded))


def export(found: Trained, out: pathlib.Path, *, frames: int, platforms: Sequence[str], dtype: str | None = None) -> None:
    """Writes the artifact to the folder `out`, which must not exist, and compares its joints with those of the network.

    Args:
        found: the network.
        out: the folder.
        frames: T, of the function `clip`.
        platforms: some of `core.platform.EXPORTED`.
        dtype: of the convolutions; None: as in training.

    Raises:
        InputError: the folder exists, the network reads no videos, or the joints differ.
    """
    model, folded = load(found, dtype)
    artifact.export(folded, out, frames=frames, platforms=platforms, about={'weights': found.name, 'step': found.step})
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f'{out}: {", ".join(artifact.FUNCTIONS)} for {", ".join(platforms)}, {size:.1f} MB')
    sys.stdout.flush()

    shape = (CHECKED_CLIPS, frames, model.size, model.size, 3)
    inputs = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    difference = artifact.largest_difference(model, artifact.Artifact(out), inputs)
    if not difference < TOLERANCE:
        raise InputError(f'{out}: its joints differ from the model by up to {difference:.3f} pixels; do not use it')
    print(f'read back and run: joints within {difference:.2g} pixels of the model')
