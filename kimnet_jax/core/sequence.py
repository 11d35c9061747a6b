"""Every N-th frame of a sequence, and lines between known frames; for NumPy and JAX (`xp`)."""

from types import ModuleType

import numpy as np

from kimnet_jax.core.types import Array


def sampled_frames(mask: Array, interval: int, xp: ModuleType = np) -> Array:
    """Every `interval`-th frame, and the ends of every run of real frames: so all real frames lie between two sampled ones.

    Args:
        mask: bool [..., L], False where a frame is padding.
        interval: N.
        xp: numpy or jax.numpy.

    Returns:
        bool [..., L]; in a full window of N * Q + 1 frames, the Q + 1 frames 0, N, ..., N * Q.
    """
    edge = xp.zeros_like(mask[..., :1])
    before = xp.concatenate([edge, mask[..., :-1]], -1)
    after = xp.concatenate([mask[..., 1:], edge], -1)
    regular = xp.arange(mask.shape[-1]) % interval == 0
    return mask & (regular | ~before | ~after)


def interpolate(values: Array, known: Array, xp: ModuleType = np) -> Array:
    """Lines between the known frames; before the first and after the last, its value.

    Args:
        values: [..., L, C]; what stands at unknown frames is not read.
        known: bool [..., L].
        xp: numpy or jax.numpy.

    Returns:
        [..., L, C]; the known frames unchanged, zeros where no frame is known.
    """
    frames = values.shape[-2]
    time = xp.arange(frames)
    there = known[..., None, :] & xp.ones((frames, 1), bool)  # [..., L, L]: of each frame, the known ones
    last = xp.where(there & (time <= time[:, None]), time, -1).max(-1)
    following = xp.where(there & (time >= time[:, None]), time, frames).min(-1)
    start = xp.where(last < 0, following, last)
    end = xp.where(following == frames, start, following)
    share = ((time - start) / xp.maximum(end - start, 1))[..., None].astype(values.dtype)
    first, second = (xp.take_along_axis(values, xp.minimum(i, frames - 1)[..., None], -2) for i in (start, end))
    return xp.where(known.any(-1)[..., None, None], first + share * (second - first), 0).astype(values.dtype)
