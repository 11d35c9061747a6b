"""Predicted and true joints on the frames of a clip, in one strip."""

from collections.abc import Sequence

import numpy as np

from kimnet_jax.core.drawing import DARK, SHIFT, draw_skeleton, fixed_point
from kimnet_jax.core.geometry import apply_affine, box_of_points, crop_matrix, square_of_box
from kimnet_jax.core.image import decode_image, opencv, warp
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array, Example

SCALE = 1.5  # side of a panel over the longer side of the person
_WHITE = (255, 255, 255)


def panel(frame: np.ndarray, predicted: Array, joints: Array, visible: Array, skeleton: Skeleton, size: int) -> np.ndarray:
    """The person in a frame: the predicted skeleton, white crosses at the true joints, and lines from these to the predictions.

    Args:
        frame: uint8 [H, W, 3] RGB.
        predicted: [J, 2] pixels of the frame; a joint that is not finite is not drawn.
        joints: [J, 2] the truth.
        visible: bool [J], which true joints to draw.
        skeleton: of both.
        size: H = W of the panel.

    Returns:
        uint8 [size, size, 3]: the square around the true joints, or the whole frame where none is visible.
    """
    cv2 = opencv()
    visible, there = np.asarray(visible, bool), np.isfinite(predicted).all(-1)
    height, width = frame.shape[:2]
    box = box_of_points(joints, visible) if visible.any() else np.array([0, 0, width - 1, height - 1], np.float32)
    view = crop_matrix(*square_of_box(box, SCALE if visible.any() else 1.0), size)
    canvas = warp(frame, view, size)
    found, truth = apply_affine(view, np.nan_to_num(predicted)), apply_affine(view, joints)
    arm = np.array([0.012 * size, 0])

    def line(start: Array, end: Array, colour: tuple[int, int, int], thickness: int) -> None:
        cv2.line(canvas, *fixed_point(np.stack([start, end])), colour, thickness, cv2.LINE_AA, SHIFT)

    for j in np.flatnonzero(visible & there):
        line(truth[j], found[j], _WHITE, 1)
    draw_skeleton(canvas, found, there, skeleton)
    for colour, thickness in ((DARK, 3), (_WHITE, 1)):
        for j in np.flatnonzero(visible):
            for way in (arm, arm[::-1]):
                line(truth[j] - way, truth[j] + way, colour, thickness)
    return canvas


def strip(example: Example, predicted: Array, skeleton: Skeleton, frames: Sequence[int], size: int) -> np.ndarray:
    """Panels of some frames of a clip, from left to right.

    Args:
        example: the clip.
        predicted: [T, J, 2] pixels, of every frame.
        skeleton: of the poses.
        frames: which to draw.
        size: H = W of a panel.

    Returns:
        uint8 [size, size * len(frames), 3].

    Raises:
        InputError: a frame is damaged.
    """
    panels = [
        panel(
            decode_image(example['frames'][t], f'clip {example["clip"]!r}, frame {t}'),
            predicted[t],
            example['joints'][t],
            example['visible'][t],
            skeleton,
            size,
        )
        for t in frames
    ]
    return np.concatenate(panels, 1)


def spread(length: int, count: int) -> list[int]:
    """Up to `count` different indices of `length`, evenly from the first to the last; of one, that in the middle."""
    if count == 1:
        return [length // 2]
    return sorted({round(i) for i in np.linspace(0, length - 1, min(count, length)).tolist()})
