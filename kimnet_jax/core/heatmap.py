"""Joints to heatmaps and back, for NumPy and JAX (`xp`): encoder and decoder side by side, so that they agree.

A heatmap cell covers `stride` x `stride` pixels of the crop; with centres at integers, pixel x lies at cell
(x + 0.5) / stride - 0.5. The nearest cell to an integer pixel is then int(x / stride), the rule of the released loaders.
"""

import math
from types import ModuleType

import numpy as np

from kimnet_jax.core.types import Array, Centre, Decoding

FLOOR = 0.0099  # target values below it are 0, as in the released loaders
SIGMA = 2.0  # of the targets, cells: that of the released loaders, at any size of the heatmaps
CENTRE: Centre = 'subpixel'  # of the targets


def pixels_to_cells(points: Array, stride: int) -> Array:
    """Crop pixels [..., 2] to heatmap cells [..., 2]."""
    return (points + 0.5) / stride - 0.5


def cells_to_pixels(points: Array, stride: int) -> Array:
    """Heatmap cells [..., 2] to crop pixels [..., 2]."""
    return (points + 0.5) * stride - 0.5


def encode(
    joints: Array,
    size: tuple[int, int],
    *,
    stride: int = 4,
    sigma: float = SIGMA,
    centre: Centre = CENTRE,
    xp: ModuleType = np,
) -> Array:
    """Gaussian target heatmaps (KIMNet Sec. III-D, in the form of the released loaders).

    Args:
        joints: [..., J, 2] crop pixels.
        size: (h, w) of the heatmaps, cells.
        stride: crop pixels per cell.
        sigma: standard deviation, cells.
        centre: `cell` centres the peak on the joint's cell, `subpixel` keeps the fraction.
        xp: numpy or jax.numpy.

    Returns:
        float32 [..., h, w, J]; a joint outside the crop has a map of zeros.
    """
    h, w = size
    cells = pixels_to_cells(joints, stride)
    nearest = xp.floor(cells + 0.5)
    inside = xp.all((nearest >= 0) & (nearest < xp.asarray([w, h])), axis=-1)
    middle = nearest if centre == 'cell' else cells
    columns = xp.arange(w, dtype=xp.float32)[:, None] - middle[..., None, :, 0]  # [..., w, J]
    rows = xp.arange(h, dtype=xp.float32)[:, None] - middle[..., None, :, 1]  # [..., h, J]
    squared = rows[..., :, None, :] ** 2 + columns[..., None, :, :] ** 2
    maps = xp.exp(-squared / (2 * sigma**2))
    return xp.where((maps >= FLOOR) & inside[..., None, None, :], maps, 0.0).astype(xp.float32)


def decode(heatmaps: Array, method: Decoding = 'argmax', xp: ModuleType = np, *, sigma: float = SIGMA) -> tuple[Array, Array]:
    """Joint positions of heatmaps.

    Args:
        heatmaps: float32 [..., h, w, J].
        method: `argmax`, the best cell; `quarter`, a quarter of a cell towards the higher neighbour (SimpleBaseline);
            `dark`, the peak of a Gaussian fitted to the smoothed map (Zhang et al., CVPR 2020). Unlike DARK's code, it does not
            smooth across a border that is nearer than 2 sigma: what the border cuts off would push the peak inwards.
        xp: numpy or jax.numpy.
        sigma: of the Gaussians that the maps were trained on, cells; `dark` smooths by it.

    Returns:
        (positions [..., J, 2] as (x, y) in cells, scores [..., J]: the map's value at its best cell), float32; both NaN for a map
        that has a value which is not finite.
    """
    h, w = heatmaps.shape[-3:-1]
    maps = xp.moveaxis(heatmaps, -1, -3).astype(xp.float32)  # [..., J, h, w]
    flat = maps.reshape((*maps.shape[:-2], h * w))
    best = xp.argmax(flat, -1)
    score = xp.take_along_axis(flat, best[..., None], -1)[..., 0]
    x, y = best % w, best // w
    finite = xp.isfinite(flat).all(-1)
    score = xp.where(finite, score, xp.nan)
    position = xp.where(finite[..., None], xp.stack([x, y], -1), xp.nan).astype(xp.float32)
    if method == 'argmax':
        return position, score
    maps = xp.where(finite[..., None, None], maps, 0.0)
    if method == 'dark':
        maps = _smoothed_log(maps, (x, y), score, sigma, xp)
    flat = maps.reshape(flat.shape)

    def value(dx: int, dy: int) -> Array:
        index = xp.clip(y + dy, 0, h - 1) * w + xp.clip(x + dx, 0, w - 1)
        return xp.take_along_axis(flat, index[..., None], -1)[..., 0]

    slope = xp.stack([value(1, 0) - value(-1, 0), value(0, 1) - value(0, -1)], -1) / 2
    if method == 'quarter':
        inner = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
        return position + xp.where(inner[..., None], 0.25 * xp.sign(slope), 0.0), score
    if method != 'dark':
        raise ValueError(f"decoding method {method!r}: choose 'argmax', 'quarter' or 'dark'")
    centre = value(0, 0)
    dxx = (value(2, 0) - 2 * centre + value(-2, 0)) / 4
    dyy = (value(0, 2) - 2 * centre + value(0, -2)) / 4
    dxy = (value(1, 1) - value(-1, 1) - value(1, -1) + value(-1, -1)) / 4
    determinant = dxx * dyy - dxy**2
    inner = (x > 1) & (x < w - 2) & (y > 1) & (y < h - 2) & (determinant > 1e-12) & (dxx < 0)
    safe = xp.where(inner, determinant, 1.0)
    shift = (
        -xp.stack([dyy * slope[..., 0] - dxy * slope[..., 1], dxx * slope[..., 1] - dxy * slope[..., 0]], -1) / safe[..., None]
    )
    return position + xp.where(inner[..., None], xp.clip(shift, -1.0, 1.0), 0.0), score


def _smoothed_log(maps: Array, peak: tuple[Array, Array], score: Array, sigma: float, xp: ModuleType) -> Array:
    """Log of the maps [..., h, w] blurred and brought back to their own maximum, as DARK prescribes.

    `peak`: column and row [...] of the best cell. Where it is nearer than 2 sigma to a border, the map is not blurred across it.
    """
    half = math.ceil(2.5 * sigma)  # the kernel has 11 cells for sigma 2 and 17 for sigma 3, as DARK's
    offsets = np.arange(-half, half + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    for axis, place in ((-2, peak[1]), (-1, peak[0])):
        widths = [(0, 0)] * maps.ndim
        widths[axis] = (half, half)
        padded, n = xp.pad(maps, widths), maps.shape[axis]
        index = [slice(None)] * maps.ndim
        blurred = xp.zeros_like(maps)
        for k, weight in enumerate(kernel):
            index[axis] = slice(k, k + n)
            blurred = blurred + float(weight) * padded[tuple(index)]
        inside = xp.minimum(place, n - 1 - place) >= 2 * sigma
        maps = xp.where(inside[..., None, None], blurred, maps)
    top = xp.maximum(maps.max((-2, -1), keepdims=True), 1e-10)
    return xp.log(xp.maximum(maps * (xp.maximum(score, 1e-10)[..., None, None] / top), 1e-10))
