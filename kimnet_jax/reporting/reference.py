"""Predictions that need no model: every table carries their rows, so that its numbers can be judged."""

from collections.abc import Iterable

import numpy as np
import tqdm

from kimnet_jax.core.types import Array, Clips


def mean_pose(clips: Iterable[tuple[Array, Array, Array]]) -> np.ndarray:
    """The mean pose of training clips, each joint relative to the box of its frame.

    Args:
        clips: (joints [T, J, 2], visible bool [T, J], boxes [T, 4]) of each clip, pixels; only visible joints enter.

    Returns:
        float64 [J, 2], 0 at the box's left and top, 1 at its right and bottom; its middle for a joint that was never visible.
    """
    total, count = np.zeros(()), np.zeros(())
    for joints, visible, boxes in clips:
        corner, size = _corner_and_size(boxes)
        shown = np.asarray(visible, bool)[..., None]
        total = total + np.where(shown, (np.asarray(joints, np.float64) - corner) / size, 0.0).sum(0)
        count = count + shown.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), 0.5)


def mean_pose_of(clips: Clips) -> np.ndarray:
    """`mean_pose` of the clips of a split; shows a progress bar on a terminal."""
    examples = (clips[i] for i in tqdm.trange(len(clips), desc='mean pose', leave=False, disable=None))
    return mean_pose((example['joints'], example['visible'], example['boxes']) for example in examples)


def place_pose(pose: Array, boxes: Array) -> np.ndarray:
    """A pose [J, 2] relative to a box, in each box [T, 4]: float64 [T, J, 2] pixels."""
    corner, size = _corner_and_size(boxes)
    return corner + np.asarray(pose, np.float64) * size


def hold_last_seen(prediction: Array, occluded: Array) -> np.ndarray:
    """Poses in which a joint that is occluded stays where it was predicted in the last frame in which it was not.

    Args:
        prediction: [T, J, 2] pixels.
        occluded: bool [T, J].

    Returns:
        [T, J, 2]; a joint that has been occluded from the first frame on keeps its prediction.
    """
    now = np.arange(len(occluded))[:, None]
    seen = np.maximum.accumulate(np.where(occluded, -1, now), 0)
    return np.take_along_axis(np.asarray(prediction), np.where(seen < 0, now, seen)[..., None], 0)


def random_pose(boxes: Array, num_joints: int, *, seed: int, clip: int) -> np.ndarray:
    """Joints uniform in each box [T, 4], the same for the same (seed, clip): float64 [T, J, 2] pixels."""
    corner, size = _corner_and_size(boxes)
    return corner + np.random.default_rng((seed, clip)).random((len(size), num_joints, 2)) * size


def _corner_and_size(boxes: Array) -> tuple[np.ndarray, np.ndarray]:
    boxes = np.asarray(boxes, np.float64)[:, None, :]
    return boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
