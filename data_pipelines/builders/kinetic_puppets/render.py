"""Hulls of circles with a texture, drawn back to front. The canvas has twice the frame's rows and columns, for smooth edges."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from kimnet_jax.core.image import opencv

cv2 = opencv()
ROWS, COLUMNS = 240, 320
_RIM = 14  # points on each circle
_SHIFT = 4  # fractional bits of OpenCV's polygon corners


@dataclasses.dataclass(frozen=True)
class Layer:
    """One opaque shape through time.

    Attributes:
        points: float32 [N, P, 2], frame pixels; the shape is their convex hull.
        to_frame: float64 [N, 2, 3], the affine map from texture to frame pixels.
        patch: uint8 [h, w, 3] texture.
        label: written to the label map where the shape is seen.
        order: float [N], larger is drawn later.
    """

    points: np.ndarray
    to_frame: np.ndarray
    patch: np.ndarray
    label: int
    order: np.ndarray


def hull_layer(
    centres: np.ndarray,
    radii: np.ndarray,
    axis: np.ndarray,
    patch: np.ndarray,
    *,
    label: int = 0,
    order: np.ndarray | float = 0.0,
) -> Layer:
    """The convex hull of K circles; the texture's rows run along `axis` and fill the hull's extent.

    Args:
        centres: [N, K, 2] frame pixels.
        radii: [N, K] pixels.
        axis: [N, 2, 2] from which to which point the texture's rows run.
        patch: uint8 [h, w, 3].
        label: positive for what is to be seen in the label map.
        order: [N] or one number.
    """
    angles = 2 * np.pi * np.arange(_RIM) / _RIM
    rim = np.stack([np.cos(angles), np.sin(angles)], -1) / np.cos(np.pi / _RIM) ** 0.5
    points = (centres[:, :, None] + radii[:, :, None, None] * rim).reshape(len(centres), -1, 2)
    down = axis[:, 1] - axis[:, 0] + (0.0, 1e-3)
    down = down / np.linalg.norm(down, axis=-1, keepdims=True)
    across = np.stack([down[:, 1], -down[:, 0]], -1)
    frame = np.stack([across, down], -1)  # [N, 2, 2], columns
    extent = points @ frame
    low, high = extent.min(1), extent.max(1)
    linear = frame * ((high - low) / (patch.shape[1], patch.shape[0]))[:, None]
    corner = np.einsum('nij,nj->ni', frame, low) + linear.sum(-1) / 2
    to_frame = np.concatenate([linear, corner[..., None]], -1)
    return Layer(points.astype(np.float32), to_frame, patch, label, np.broadcast_to(order, len(points)))


def draw(canvas: np.ndarray, labels: np.ndarray | None, layer: Layer, n: int) -> None:
    """Draws a layer at time `n` on the canvas uint8 [2 H, 2 W, 3] and, where given, its label on uint8 [2 H, 2 W]."""
    points = 2 * layer.points[n] + 0.5
    low = np.maximum(np.floor(points.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(points.max(0)).astype(int) + 2, (canvas.shape[1], canvas.shape[0]))
    if (high <= low).any():
        return
    corners = np.rint((cv2.convexHull(points) - low) * (1 << _SHIFT)).astype(np.int32)
    (columns, rows), region = high - low, (slice(low[1], high[1]), slice(low[0], high[0]))
    mask = np.zeros((rows, columns), np.uint8)
    cv2.fillConvexPoly(mask, corners, 255, cv2.LINE_8, _SHIFT)
    matrix = 2 * layer.to_frame[n]
    matrix[:, 2] += 0.5 - low
    picture = cv2.warpAffine(layer.patch, matrix, (int(columns), int(rows)), borderMode=cv2.BORDER_REPLICATE)
    cv2.copyTo(picture, mask, canvas[region])
    if labels is not None:
        labels[region][mask > 0] = layer.label


def render(
    background: np.ndarray, to_frame: np.ndarray, layers: list[Layer], frames: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws the frames one after the other, each the mean of its sub-frames.

    Args:
        background: uint8 [h, w, 3] RGB, reflected at its borders.
        to_frame: [N, 2, 3] from background to frame pixels; N is a multiple of `frames`.
        layers: what is drawn over it, each of N times.
        frames: T.

    Yields:
        (float32 [H, W, 3] RGB, labels uint8 [H, W] at the middle of the exposure).
    """
    times = len(to_frame) // frames
    for first in range(0, len(to_frame), times):
        total = np.zeros((ROWS, COLUMNS, 3), np.float32)
        labels = np.zeros((2 * ROWS, 2 * COLUMNS), np.uint8)
        for n in range(first, first + times):
            view = cv2.warpAffine(background, to_frame[n], (COLUMNS, ROWS), borderMode=cv2.BORDER_REFLECT_101)
            canvas = cv2.resize(view, (2 * COLUMNS, 2 * ROWS), interpolation=cv2.INTER_NEAREST)
            middle = labels if n == first + times // 2 else None
            for layer in sorted(layers, key=lambda each: each.order[n]):
                draw(canvas, middle, layer, n)
            cv2.accumulate(cv2.resize(canvas, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA), total)
        yield total / times, labels[::2, ::2]
