"""Poses drawn onto the frames."""

from typing import TYPE_CHECKING

import numpy as np

from kimnet_jax.core.drawing import DARK, SHIFT, draw_skeleton, fixed_point, line_thickness
from kimnet_jax.core.image import opencv
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.video import stated_frame_count as stated_frame_count
from kimnet_jax.inference.video_writer import VideoWriter as VideoWriter

if TYPE_CHECKING:
    from kimnet_jax.inference.predictor import FramePose

cv2 = opencv()
_BOX, _LOST = (235, 235, 235), (255, 70, 70)  # R G B


def draw_pose(frame: np.ndarray, pose: 'FramePose', skeleton: Skeleton, joint_score: float) -> np.ndarray:
    """The frame with limbs, joints, box and score drawn onto it, lines in proportion to its size.

    Args:
        frame: uint8 [H, W, 3] RGB; left as it is.
        pose: joints in pixels of the frame.
        skeleton: of the joints (`core.drawing.draw_skeleton`).
        joint_score: joints of a smaller score are not drawn, nor are their limbs.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    canvas = frame.copy()
    box_colour = _LOST if pose.lost else _BOX
    low, high = fixed_point(pose.box.reshape(2, 2))
    cv2.rectangle(canvas, low, high, box_colour, max(1, line_thickness(frame) // 2), cv2.LINE_AA, SHIFT)
    draw_skeleton(canvas, pose.joints, pose.scores >= joint_score, skeleton)
    _draw_label(canvas, f'{"lost " if pose.lost else ""}{pose.score:.2f}', pose.box, box_colour)
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
