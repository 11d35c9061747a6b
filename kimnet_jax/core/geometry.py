"""Boxes and the one affine map from an image to a crop, and back.

Points are (x, y) with pixel centres at integers, so an image of W columns spans [-0.5, W - 0.5]. Boxes are (x0, y0, x1, y1).
"""

from types import ModuleType

import numpy as np

from kimnet_jax.core.types import Array


def box_of_points(points: Array, visible: Array) -> np.ndarray:
    """Extent of the visible points.

    Args:
        points: [..., J, 2] pixels.
        visible: bool [..., J]; at least one True per row, else that row is NaN.

    Returns:
        float32 [..., 4] boxes in the same pixels.
    """
    points, visible = np.asarray(points, np.float32), np.asarray(visible, bool)[..., None]
    low = np.where(visible, points, np.inf).min(-2)
    high = np.where(visible, points, -np.inf).max(-2)
    box = np.concatenate([low, high], -1).astype(np.float32)
    return np.where(visible.any(-2), box, np.nan).astype(np.float32)


def square_of_box(boxes: Array, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre [..., 2] and side [...] (pixels) of the square around each box, its longer side times `scale`."""
    boxes = np.asarray(boxes, np.float32)
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    side = np.maximum((boxes[..., 2:] - boxes[..., :2]).max(-1), 1.0) * np.float32(scale)
    return centre, side


def crop_matrix(centre: Array, side: Array, size: int, *, rotation: float = 0.0, flip: bool = False) -> np.ndarray:
    """The affine map from image pixels to the pixels of a square crop.

    Args:
        centre: [..., 2] pixels, lands in the middle of the crop.
        side: [...] pixels of the image that fill the crop.
        size: rows and columns of the crop.
        rotation: degrees, positive turns the picture counter-clockwise.
        flip: mirror left and right, after the rotation.

    Returns:
        float64 [..., 2, 3].
    """
    centre, side = np.asarray(centre, np.float64), np.asarray(side, np.float64)
    angle = np.deg2rad(rotation)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if flip:
        turn = np.diag([-1.0, 1.0]) @ turn
    linear = (size / side)[..., None, None] * turn
    shift = (size - 1) / 2 - np.einsum('...ij,...j->...i', linear, centre)
    return np.concatenate([linear, shift[..., None]], -1)


def invert_affine(matrix: Array) -> np.ndarray:
    """The inverse of an affine map [..., 2, 3], float64."""
    matrix = np.asarray(matrix, np.float64)
    linear = np.linalg.inv(matrix[..., :2])
    return np.concatenate([linear, -linear @ matrix[..., 2:]], -1)


def apply_affine(matrix: Array, points: Array, xp: ModuleType = np) -> Array:
    """Maps points [..., J, 2] with an affine map [..., 2, 3]; float32 [..., J, 2]. NumPy computes in float64, JAX in float32."""
    if xp is np:
        matrix, points = np.asarray(matrix, np.float64), np.asarray(points, np.float64)
    products = matrix[..., None, :, :2] * points[..., None, :]  # no matrix product: accelerators would round its inputs
    return (products.sum(-1) + matrix[..., None, :, 2]).astype(xp.float32)


def inside(points: Array, image_size: tuple[int, int] | Array) -> np.ndarray:
    """bool [...]: which points [..., 2] lie in an image of (rows, columns)."""
    points, (rows, columns) = np.asarray(points), np.asarray(image_size)
    x, y = points[..., 0], points[..., 1]
    return (x >= -0.5) & (y >= -0.5) & (x < columns - 0.5) & (y < rows - 0.5)
