"""What networks give, and what they are made of."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax

Array = jax.Array


class VideoOutput(NamedTuple):
    """What a network of videos gives for T frames.

    Attributes:
        heatmaps: [B, T, h, w, J] float32.
        state: where the chain stands after the last frame, for a call on the next ones.
        evidence: what the temporal module predicts with, by name, of every frame after the first, [B, T-1, ...]: the `predicted`
            heatmaps, KMM's `correlation` W_r, the `kernels` of DKD and JRPSP.
        auxiliary: more heatmaps of the first t frames, [B, t, h, w, J] each, which are trained as the others.
    """

    heatmaps: Array
    state: Any
    evidence: Mapping[str, Array]
    auxiliary: tuple[Array, ...] = ()


class ImageNetwork(Protocol):
    """A network of single images."""

    def __call__(self, images: Array) -> Array:
        """[B, H, W, 3] -> heatmaps [B, h, w, J], or features."""

    def outputs(self, images: Array) -> tuple[Array, ...]:
        """[B, H, W, 3] -> all heatmaps that are trained, the result last."""
