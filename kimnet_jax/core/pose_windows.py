"""Windows of pose sequences: cut with padding, normalised, and put together again. D is 2 (pixels), 3 or 6 (rotations)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.sequence import interpolate
from kimnet_jax.core.types import Array

Normalise: TypeAlias = Literal['box', 'image', 'none']
RefineFunction: TypeAlias = Callable[[np.ndarray, np.ndarray], Array]  # (poses [B, L, C], mask bool [B, L]) -> poses [B, L, C]


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """How poses are cut and normalised. Raises `InputError` naming the setting that is out of range.

    Attributes:
        length: L, frames of a window.
        step: frames from one window to the next; where windows overlap, `combine` makes one pose of theirs.
        normalise: `box` (0 in the middle of the person's mean box in the window, 1 its longer side away), `image` (shares of
            the image's width and height; 2D only) or `none` (as they are).
    """

    length: int
    step: int = 1
    normalise: Normalise = 'box'

    def __post_init__(self) -> None:
        if not 1 <= self.step <= self.length:
            raise InputError(f'config.eval.step={self.step}: must be 1 to {self.length}, the frames of a window')
        if self.normalise not in get_args(Normalise):
            raise InputError(f'config.poses.normalise={self.normalise!r}: choose one of {", ".join(get_args(Normalise))}')


def extent(poses: Array) -> np.ndarray:
    """Boxes float32 [T, 2 * D] (low, high) of the joints [T, J, D] that are finite; a frame without any has the clip's."""
    poses = np.asarray(poses, np.float32)
    known = np.isfinite(poses).all(-1)[..., None]
    low, high = np.where(known, poses, np.inf).min(1), np.where(known, poses, -np.inf).max(1)
    empty = ~known.any((1, 2))
    if empty.all():
        return np.tile(np.array([0, 1], np.float32).repeat(poses.shape[-1]), (len(poses), 1))
    low[empty], high[empty] = low[~empty].min(0), high[~empty].max(0)
    return np.concatenate([low, high], -1)


def fill_gaps(poses: Array) -> np.ndarray:
    """Lines across the frames in which a joint is not finite, joint by joint.

    Args:
        poses: [T, J, D].

    Returns:
        float32 [T, J, D], finite; a joint that is nowhere has the mean of the others, or 0.
    """
    poses = np.asarray(poses, np.float32)
    known = np.isfinite(poses).all(-1)
    if known.all():
        return poses
    filled = np.moveaxis(interpolate(np.moveaxis(np.nan_to_num(poses), 1, 0), known.T), 0, 1)
    nowhere = ~known.any(0)
    if nowhere.any() and not nowhere.all():
        filled[:, nowhere] = filled[:, ~nowhere].mean(1, keepdims=True)
    return filled


def spans_without_long_gaps(present: Array, longest: int) -> list[tuple[int, int]]:
    """[first, end) of the runs of frames that are `present` (bool [T]), across gaps of up to `longest` frames."""
    there = np.flatnonzero(present)
    breaks = np.flatnonzero(np.diff(there) > longest + 1)
    starts, ends = [0, *(breaks + 1)], [*breaks, len(there) - 1]
    return [(int(there[a]), int(there[b]) + 1) for a, b in zip(starts, ends, strict=True)] if len(there) else []


def root_position(poses: Array, root: Sequence[int]) -> np.ndarray:
    """The mean of the joints `root` of poses [T, J, D], float32 [T, 1, D]; across frames in which they are missing, lines."""
    return fill_gaps(np.asarray(poses)[:, list(root)]).mean(1, keepdims=True)


def reference_frame(boxes: Array, image_size: Array, normalise: Normalise) -> tuple[np.ndarray, np.ndarray]:
    """(origin [D], unit [D]) of the normalised coordinates of a window; unit is positive.

    Args:
        boxes: [T, 2 * D] (low, high) of its real frames.
        image_size: (rows, columns), for `image`.
        normalise: see `WindowConfig`.
    """
    if normalise == 'image':
        return np.zeros(2, np.float32), np.asarray(image_size, np.float32)[::-1].copy()
    low, high = np.split(np.asarray(boxes, np.float32).mean(0), 2)
    if normalise == 'none':
        return np.zeros_like(low), np.ones_like(low)
    return (low + high) / 2, np.full(len(low), max((high - low).max(), 1e-6), np.float32)


def pad(values: Array, length: int) -> tuple[np.ndarray, np.ndarray]:
    """([length, ...] with zeros at the end, bool [length]: which of them are real)."""
    values = np.asarray(values)
    padding = [(0, length - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, padding), np.arange(length) < len(values)


def window_starts(frames: int, length: int, step: int) -> list[int]:
    """First frames of the windows of a sequence: every `step`, and one that ends with it, so that every frame is in one."""
    last = max(frames - length, 0)
    return sorted({*range(0, last + 1, step), last})


def refine(function: RefineFunction, poses: Array, boxes: Array, image_size: Array, config: WindowConfig) -> np.ndarray:
    """Refines a whole sequence; every frame is what `combine` makes of the windows that it is in.

    Args:
        function: the network, on normalised windows.
        poses: [T, J, D]; joints that are not finite are missing, and are filled in.
        boxes: [T, 2 * D], the person, same units.
        image_size: (rows, columns).
        config: windows.

    Returns:
        float32 [T, J, D].
    """
    poses, boxes = fill_gaps(poses), np.asarray(boxes, np.float32)
    spans = [(start, min(start + config.length, len(poses))) for start in window_starts(len(poses), config.length, config.step)]
    parts: list[dict[int, np.ndarray]] = [{} for _ in poses]
    for (start, _), window in zip(spans, _run(function, poses, boxes, image_size, spans, config), strict=True):
        for place, pose in enumerate(window):
            parts[start + place][place] = pose
    return np.stack([combine(part, config.length) for part in parts])


def refine_causally(
    function: RefineFunction, poses: Array, boxes: Array, image_size: Array, config: WindowConfig, look_ahead: int
) -> np.ndarray:
    """Refines each frame t from the frames up to t + `look_ahead` alone, as `inference.refiner.RefinementStream` does.

    A frame is what `combine` makes of the full windows that end at t, ..., t + look_ahead; where there is none, at the beginning
    of a sequence, that of the frames 0 to t + look_ahead. Arguments and result as of `refine`; `config.step` plays no part.
    """
    poses, boxes = np.asarray(poses, np.float32), np.asarray(boxes, np.float32)
    frames, refined = len(poses), np.empty(poses.shape, np.float32)
    for t in range(frames):
        spans = causal_spans(t, frames, config.length, look_ahead)
        parts = {t - a: refine_span(function, poses[a:b], boxes[a:b], image_size, config)[t - a] for a, b in spans}
        refined[t] = combine(parts, config.length)
    return refined


def combine(poses: Mapping[int, Array], length: int) -> np.ndarray:
    """One pose of a frame from those of the windows that it is in: coordinate by coordinate, their weighted interquartile mean.

    A joint that is far off in one frame is so in the windows that sample this frame, and in no other: the quartiles leave it out,
    where a mean would be drawn to it. The weight falls in a line from the middle of a window, where a frame has most neighbours.

    Args:
        poses: place of the frame in the window -> its pose there, [J, D].
        length: L, frames of a window.

    Returns:
        float32 [J, D].
    """
    middle = (length - 1) / 2
    weights = np.array([1 - abs(place - middle) / (middle + 1) for place in poses])
    values = np.stack([np.asarray(pose, np.float64) for pose in poses.values()])
    order = np.argsort(values, 0)
    share = weights[order] / weights.sum()
    above = np.cumsum(share, 0)
    inside = np.clip(np.minimum(above, 0.75) - np.maximum(above - share, 0.25), 0, None)
    return (np.take_along_axis(values, order, 0) * inside).sum(0).astype(np.float32) / np.float32(0.5)


def refine_span(function: RefineFunction, poses: Array, boxes: Array, image_size: Array, config: WindowConfig) -> np.ndarray:
    """Refines no more than L frames as one window: float32 [T, J, D]; arguments as of `refine`."""
    (window,) = _run(function, fill_gaps(poses), np.asarray(boxes, np.float32), image_size, [(0, len(poses))], config)
    return window


def causal_spans(t: int, frames: int, length: int, look_ahead: int) -> list[tuple[int, int]]:
    """[first, end) of the windows that frame t of a sequence of so many frames is refined from (`refine_causally`)."""
    last = min(t + look_ahead, frames - 1)
    full = [(end - length + 1, end + 1) for end in range(t, last + 1) if end - length + 1 >= 0]
    return [span for span in full if span[0] <= t] or [(0, last + 1)]


def in_batches(function: RefineFunction, batch_size: int) -> RefineFunction:
    """A function of any number of windows from one that is compiled for `batch_size` of them; the last batch is padded."""

    def call(poses: np.ndarray, mask: np.ndarray) -> np.ndarray:
        parts = []
        for first in range(0, len(poses), batch_size):
            rows = poses[first : first + batch_size], mask[first : first + batch_size]
            padded = [np.concatenate([part, np.repeat(part[:1], batch_size - len(part), 0)]) for part in rows]
            parts.append(np.asarray(function(*padded))[: len(rows[0])])
        return np.concatenate(parts)

    return call


def _run(
    function: RefineFunction,
    poses: np.ndarray,
    boxes: np.ndarray,
    image_size: Array,
    spans: list[tuple[int, int]],
    config: WindowConfig,
) -> list[np.ndarray]:
    """The refined poses [frames, J, D] of each span, in the units of the poses."""
    rows, masks, frames = [], [], []
    for start, end in spans:
        origin, unit = reference_frame(boxes[start:end], image_size, config.normalise)
        row, mask = pad((poses[start:end] - origin) / unit, config.length)
        rows.append(row.reshape(config.length, -1))
        masks.append(mask)
        frames.append((origin, unit))
    windows = np.asarray(function(np.stack(rows), np.stack(masks)), np.float32)
    windows = windows.reshape(len(rows), config.length, *poses.shape[1:])
    return [
        window[: end - start] * unit + origin for window, (start, end), (origin, unit) in zip(windows, spans, frames, strict=True)
    ]
