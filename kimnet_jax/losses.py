"""Losses: (outputs, batch) -> scalar, masked."""

import jax
import jax.numpy as jnp

from kimnet_jax.core import heatmap
from kimnet_jax.core.types import Batch, Target

Array = jax.Array


def heatmap_loss(
    heatmaps: Array,
    batch: Batch,
    *,
    stride: int = 4,
    sigma: float = 2.0,
    target: Target = 'cell',
    visibility_weighting: bool = False,
) -> Array:
    """Mean squared error of heatmaps (KIMNet Eq. 11, averaged over every element as in RPSTN's release).

    Args:
        heatmaps: [B, T, h, w, J] float32.
        batch: `joints` [B, T, J, 2] crop pixels, `visible` bool [B, T, J], `mask` bool [B, T] (padding does not count).
        stride, sigma, target: of the target maps, which are drawn on the device (`core.heatmap.encode`).
        visibility_weighting: leave invisible joints out; the release counts them.

    Returns:
        float32 scalar; 0 where nothing counts.
    """
    h, w = heatmaps.shape[2:4]
    targets = heatmap.encode(batch['joints'], (h, w), stride=stride, sigma=sigma, target=target, xp=jnp)
    weight = jnp.broadcast_to(batch['mask'][..., None], batch['visible'].shape)
    if visibility_weighting:
        weight = weight & batch['visible']
    squared = jnp.mean((heatmaps - targets) ** 2, axis=(2, 3))  # [B, T, J]
    return jnp.sum(squared * weight) / jnp.maximum(jnp.sum(weight), 1)
