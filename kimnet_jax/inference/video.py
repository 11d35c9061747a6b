"""Poses drawn onto the frames."""

from collections.abc import Sequence

import numpy as np

from kimnet_jax.core.drawing import DARK, SHIFT, draw_skeleton, fixed_point, line_thickness
from kimnet_jax.core.image import opencv
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.inference.people import ONLY, FramePose

cv2 = opencv()
_BOX, _LOST = (235, 235, 235), (255, 70, 70)  # R G B
_COLOURS = (  # of Matplotlib's tab10, but for the red of those who are lost
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (188, 189, 34),
    (23, 190, 207),
)


def draw_poses(frame: np.ndarray, poses: Sequence[FramePose], skeleton: Skeleton, joint_score: float) -> np.ndarray:
    """The frame with limbs, joints, box and score of each person drawn onto it, lines in proportion to its size.

    One person alone has a white box; of several each has a box of a colour that goes with their number, which stands above it.

    Args:
        frame: uint8 [H, W, 3] RGB; left as it is.
        poses: joints in pixels of the frame.
        skeleton: of the joints (`core.drawing.draw_skeleton`).
        joint_score: joints of a smaller score are not drawn, nor are their limbs.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    canvas = frame.copy()
    for pose in poses:
        alone = len(poses) == 1 and pose.id == ONLY
        colour = _BOX if alone else _COLOURS[pose.id % len(_COLOURS)]
        low, high = fixed_point(pose.box.reshape(2, 2))
        weight = max(1, line_thickness(frame) // (2 if alone else 1))
        cv2.rectangle(canvas, low, high, _LOST if pose.lost and alone else colour, weight, cv2.LINE_AA, SHIFT)
        draw_skeleton(canvas, pose.joints, pose.scores >= joint_score, skeleton)
        words = [*([] if alone else [str(pose.id)]), *(['lost'] if pose.lost else []), f'{pose.score:.2f}']
        _draw_label(canvas, ' '.join(words), pose.box, _LOST if pose.lost else colour)
    return canvas


def _draw_label(canvas: np.ndarray, text: str, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Text on a dark ground above the box, or within the image where there is no room for it."""
    scale = max(0.35, min(canvas.shape[:2]) / 900)
    weight = max(1, round(scale * 1.5))
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, weight)
    x = int(np.clip(box[0], 0, max(0, canvas.shape[1] - width - 4)))
    y = int(np.clip(box[1] - below - 1, height + 2, max(height + 2, canvas.shape[0] - below)))
    cv2.rectangle(canvas, (x, y - height - 2), (x + width + 3, y + below - 1), DARK, -1)
    cv2.putText(canvas, text, (x + 2, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, weight, cv2.LINE_AA)
