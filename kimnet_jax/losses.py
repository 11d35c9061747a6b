"""Losses: (outputs, batch) -> scalar, masked."""

from typing import Literal

import jax
import jax.numpy as jnp

from kimnet_jax.core import heatmap
from kimnet_jax.core.sequence import sampled_frames
from kimnet_jax.core.types import Batch, Centre, Outside

Array = jax.Array
Mutual = Literal['detached', 'released']


def heatmap_loss(
    heatmaps: Array,
    batch: Batch,
    *,
    stride: int = 4,
    sigma: float = heatmap.SIGMA,
    centre: Centre = heatmap.CENTRE,
    visibility_weighting: bool = False,
    outside: Outside = 'zeros',
) -> Array:
    """Mean squared error of heatmaps (KIMNet Eq. 11, averaged over every element as in RPSTN's release).

    Args:
        heatmaps: [B, T, h, w, J] float32.
        batch: `joints` [B, T, J, 2] crop pixels, `visible` bool [B, T, J], `mask` bool [B, T] (padding does not count).
        stride, sigma, centre: of the target maps, which are drawn on the device (`core.heatmap.encode`).
        visibility_weighting: leave invisible joints out, as SimpleBaseline does; RPSTN counts them.
        outside: what a joint outside the crop counts for: a map of `zeros` is wanted of it (RPSTN), or it is `ignored`
            (SimpleBaseline).

    Returns:
        float32 scalar; 0 where nothing counts.
    """
    h, w = heatmaps.shape[2:4]
    targets = heatmap.encode(batch['joints'], (h, w), stride=stride, sigma=sigma, centre=centre, xp=jnp)
    weight = jnp.broadcast_to(batch['mask'][..., None], batch['visible'].shape)
    if visibility_weighting:
        weight = weight & batch['visible']
    if outside == 'ignored':
        weight = weight & (targets.max((2, 3)) > 0)
    squared = jnp.mean((heatmaps - targets) ** 2, axis=(2, 3))  # [B, T, J]
    return jnp.sum(squared * weight) / jnp.maximum(jnp.sum(weight), 1)


def hanet_loss(
    final: Array,
    refined: Array,
    batch: Batch,
    *,
    interval: int,
    final_weight: float = 5.0,
    refined_weight: float = 1.0,
    mutual: Mutual = 'detached',
) -> tuple[Array, dict[str, Array]]:
    """HANet's L1 loss with online mutual learning and hard-keypoint mining (Jin et al., WACV 2023, in the form of its release).

    For each coordinate channel: `final_weight` * |final - truth| over all frames, and `refined_weight` * (|refined - truth| +
    |final - refined|) over the sampled frames, each summed and divided by the number of coordinates of the batch. The loss is the
    sum over channels plus the mean of its 2 * (C // 4) largest terms, through which the gradient flows once more.

    Args:
        final, refined: [B, L, C] float32, of the network.
        batch: `poses` [B, L, C] the truth; `mask` bool [B, L], False where a frame is padding; where not every coordinate has a
            truth, `known` bool [B, L, C]. What stands at the others is not read.
        interval: N of the network; every N-th frame is sampled.
        final_weight, refined_weight: lambda and w of the release; 1 for the first in 3D.
        mutual: who learns in |final - refined|. `detached`: in each channel the output that is worse at the sampled frames; the
            other, its teacher, gets no gradient. `released`: both, whichever is worse.

    Returns:
        (float32 scalar, parts: `l1` the sum over channels, `channels` [C] its terms, `final_error` and `refined_error`: the mean
        |.| of each, over all frames and over the sampled ones). All 0 where nothing counts.

    Raises:
        ValueError: an unknown `mutual`.
    """
    if mutual not in ('detached', 'released'):
        raise ValueError(f"mutual learning {mutual!r}: choose 'detached' or 'released'")
    mask = batch['mask']
    known = jnp.broadcast_to(mask[..., None], final.shape) & batch.get('known', True)
    sampled = known & sampled_frames(mask, interval, jnp)[..., None]
    truth = jnp.where(known, batch['poses'], 0.0)
    count = jnp.maximum(known.sum(), 1)

    def share(difference: Array, where: Array) -> Array:
        difference = jnp.where(where, difference, 0.0)
        return jnp.sum(difference * jnp.sign(difference), axis=(0, 1)) / count  # [C]; unlike jnp.abs, no gradient at 0

    final_error, refined_error = share(final - truth, known), share(refined - truth, sampled)
    teacher, student = final, refined
    if mutual == 'detached':
        refined_teaches = share(final - truth, sampled) > refined_error
        teacher = jax.lax.stop_gradient(jnp.where(refined_teaches, refined, final))
        student = jnp.where(refined_teaches, final, refined)
    channels = final_weight * final_error + refined_weight * (refined_error + share(student - teacher, sampled))
    l1, hard = channels.sum(), 2 * (len(channels) // 4)
    loss = l1 + jnp.mean(jax.lax.top_k(channels, hard)[0]) if hard else l1
    errors = {'final_error': final_error.sum(), 'refined_error': refined_error.sum() * count / jnp.maximum(sampled.sum(), 1)}
    return loss, {'l1': l1, 'channels': channels, **errors}
