"""The skeleton as every overlay and picture shows it: limbs and joints drawn onto a frame with OpenCV."""

import numpy as np

from kimnet_jax.core.image import opencv
from kimnet_jax.core.joint_names import side_of
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array

LEFT, RIGHT, CENTRE = (255, 128, 0), (64, 190, 255), (120, 230, 90)  # R G B, apart for the colour-blind too
DARK = (20, 20, 20)
SHIFT = 4  # OpenCV draws at 1 / 2**4 pixel


def line_thickness(frame: np.ndarray) -> int:
    """Pixels, in proportion to the size of a frame [H, W, 3]."""
    return max(1, round(min(frame.shape[:2]) / 160))


def fixed_point(points: Array) -> list[tuple[int, int]]:
    """Pixels [N, 2] as OpenCV takes them, with `SHIFT` bits of a fraction."""
    limit = 2**15  # beyond any image, within OpenCV's integers
    return [(int(x), int(y)) for x, y in np.rint(np.clip(points, -limit, limit) * 2**SHIFT)]


def draw_skeleton(canvas: np.ndarray, joints: Array, sure: Array, skeleton: Skeleton) -> None:
    """Draws limbs and joints onto a frame, in place: left ones orange, right ones blue, those in the middle green.

    Args:
        canvas: uint8 [H, W, 3] RGB.
        joints: [J, 2] pixels.
        sure: bool [J]; the other joints are not drawn, nor are their limbs.
        skeleton: its limbs.
    """
    cv2 = opencv()
    thickness, points = line_thickness(canvas), fixed_point(np.nan_to_num(joints))
    limbs = [(a, b) for a, b in skeleton.limbs if sure[a] and sure[b]]
    for a, b in limbs:  # a dark rim keeps limbs visible on any ground
        cv2.line(canvas, points[a], points[b], DARK, thickness + 2, cv2.LINE_AA, SHIFT)
    for a, b in limbs:
        cv2.line(canvas, points[a], points[b], _limb_colour(skeleton, a, b), thickness, cv2.LINE_AA, SHIFT)
    radius = round((thickness + 0.5) * 2**SHIFT)
    for i in np.flatnonzero(sure).tolist():
        cv2.circle(canvas, points[i], radius + 2**SHIFT, DARK, -1, cv2.LINE_AA, SHIFT)
        cv2.circle(canvas, points[i], radius, _joint_colour(skeleton, i), -1, cv2.LINE_AA, SHIFT)


def _joint_colour(skeleton: Skeleton, joint: int) -> tuple[int, int, int]:
    return {'l': LEFT, 'r': RIGHT}.get(side_of(skeleton.joints[joint]), CENTRE)


def _limb_colour(skeleton: Skeleton, a: int, b: int) -> tuple[int, int, int]:
    """The side of a limb, where its ends do not lie on opposite sides."""
    sides = {_joint_colour(skeleton, a), _joint_colour(skeleton, b)} - {CENTRE}
    return sides.pop() if len(sides) == 1 else CENTRE
