"""The metrics of the released evaluation codes, number by number, so that their figures can be judged; ours are in `metrics`.

SimpleBaseline (microsoft/human-pose-estimation.pytorch), RPSTN, HANet and SmoothNet. Where a release has a flaw, so has the
function here: docs/evaluation.md says what each number means. Heatmaps are [T, h, w, J] and peaks (x, y) in cells of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Array

# --- SimpleBaseline: lib/core/inference.py, lib/core/evaluate.py, lib/core/function.py


def peaks(heatmaps: Array) -> tuple[np.ndarray, np.ndarray]:
    """First best cell of each map [..., h, w, J]: float32 ([..., J, 2], (0, 0) where nothing is positive; its value [..., J])."""
    maps = np.moveaxis(np.asarray(heatmaps, np.float32), -1, -3)
    flat = maps.reshape(*maps.shape[:-2], -1)
    best, value = flat.argmax(-1), flat.max(-1)
    position = np.stack([best % maps.shape[-1], best // maps.shape[-1]], -1).astype(np.float32)
    return position * (value > 0)[..., None], value


def quarter_peaks(heatmaps: Array) -> np.ndarray:
    """Peaks [..., J, 2] moved a quarter of a cell to the higher neighbour; not where x or y is 0, 1 or the last."""
    position, _ = peaks(heatmaps)
    maps = np.moveaxis(np.asarray(heatmaps, np.float32), -1, -3)
    h, w = maps.shape[-2:]
    x, y = np.floor(position + 0.5).astype(int)[..., 0], np.floor(position + 0.5).astype(int)[..., 1]
    inner = (x > 1) & (x < w - 1) & (y > 1) & (y < h - 1)
    x, y = np.where(inner, x, 1), np.where(inner, y, 1)

    def value(column: np.ndarray, row: np.ndarray) -> np.ndarray:
        return np.take_along_axis(maps.reshape(*maps.shape[:-2], h * w), (row * w + column)[..., None], -1)[..., 0]

    slope = np.stack([value(x + 1, y) - value(x - 1, y), value(x, y + 1) - value(x, y - 1)], -1)
    return position + np.where(inner[..., None], np.float32(0.25) * np.sign(slope), np.float32(0))


def peaks_in_image(positions: Array, size: tuple[int, int], centre: Array, scale: Array) -> np.ndarray:
    """Peaks in pixels of the image, float32 [T, J, 2]; no half pixel is added for the centres of cells.

    Args:
        positions: [T, J, 2] cells.
        size: (h, w) of the heatmaps.
        centre: [T, 2] of the person, pixels.
        scale: [T, 2] of the person, in 200 pixels; only the first counts.
    """
    h, w = size
    cell = np.asarray(scale, np.float64)[:, None, :1] * 200.0 / w
    offset = np.asarray(positions, np.float64) - np.array([w, h]) / 2
    return (np.asarray(centre, np.float64)[:, None] + offset * cell).astype(np.float32)


def simplebaseline_accuracy(outputs: Array, targets: Array) -> dict[str, Any]:
    """The accuracy that SimpleBaseline prints in training: a joint is right within half of a tenth of the map.

    Returns:
        `joints` float [J], -1 where a joint is in no target (a target counts where its peak has x > 1 and y > 1); `mean` over
        the other joints, 0 if there is none; `count` of these; `pred` float32 [T, J, 2], the peaks.
    """
    pred, target = peaks(outputs)[0], peaks(targets)[0]
    distance, counted = _distance(pred, target, np.shape(outputs)[-3:-1]), (target > 1).all(-1)
    hits = ((distance < 0.5) & counted).sum(0)
    joints = np.where(counted.any(0), hits / np.maximum(counted.sum(0), 1), -1.0)
    there = joints >= 0
    return {'joints': joints, 'mean': joints[there].mean() if there.any() else 0.0, 'count': int(there.sum()), 'pred': pred}


def flip_average(heatmaps: Array, mirrored: Array, flip_order: Sequence[int], shift: bool = True) -> np.ndarray:
    """SimpleBaseline's flip test: the mean of the maps and of those of the mirrored image, mirrored back, [..., h, w, J].

    Args:
        heatmaps: of the image.
        mirrored: of the mirrored image.
        flip_order: where each joint of a mirrored image is found (`Skeleton.flip_order`).
        shift: the second maps one column to the right (SHIFT_HEATMAP); their first column stays as well.
    """
    back = np.asarray(mirrored)[..., ::-1, :][..., list(flip_order)]
    if shift:
        back = np.concatenate([back[..., :1, :], back[..., :-1, :]], -2)
    return (np.asarray(heatmaps) + back) * np.float32(0.5)


def _distance(pred: Array, target: Array, size: tuple[int, ...], offset: float = 0.0) -> np.ndarray:
    """Between peaks [T, J, 2] in tenths of the map, [T, J]; `offset` is added to both components."""
    tenth = np.array(size) / 10  # (h, w) for (x, y): alike only where the map is square
    return np.linalg.norm(pred / tenth - target / tenth + offset, axis=-1)


# --- RPSTN: lib/utils/evaluate.py

RPSTN_OFFSET = 1.0  # on both components of every normalised difference
RPSTN_FRAMES = 5  # of a clip, which stand where SimpleBaseline has a batch
RPSTN_CROP = 256


class _Body(NamedTuple):
    """What RPSTN measures a body by: the joints of its torso, the head's length of peaks [J, 2], and a share of the box."""

    torso: tuple[int, int]
    head: Callable[[np.ndarray], np.ndarray]
    box_share: float


_BODIES = {
    'penn_action': _Body((2, 7), lambda peak: peak[0] - (peak[1] + peak[2]) / 2, 1.0),
    'jhmdb': _Body((4, 5), lambda peak: 2 * (peak[0] - peak[2]), 0.35),
}


def rpstn_accuracy(outputs: Array, targets: Array, skeleton: str, corners: Array, **thresholds: Any) -> dict[str, Any]:
    """RPSTN's `accuracy` of the heatmaps [T, h, w, J] of a clip; see `rpstn_accuracy_of_peaks`."""
    size = np.shape(outputs)[-3:-1]
    return rpstn_accuracy_of_peaks(peaks(outputs)[0], peaks(targets)[0], skeleton, corners, size=size, **thresholds)


def rpstn_accuracy_of_peaks(
    pred: Array,
    target: Array,
    skeleton: str,
    corners: Array,
    *,
    size: tuple[int, ...] = (64, 64),
    threshold: float = 0.2,
    head_threshold: float = 0.5,
    torso: bool = True,
) -> dict[str, Any]:
    """RPSTN's `accuracy` of the peaks of a clip, with its flaws.

    Distances are in tenths of the map, with 1 added to both components, so that a perfect prediction is sqrt(2) away; the lengths
    that they are compared with are in cells, or in what the corners are in, of the first frame only. Visibility plays no part.

    Args:
        pred, target: [T, J, 2] cells, (0, 0) where there is none. A target counts where x > 1 and y > 1.
        skeleton: 'penn_action' or 'jhmdb'.
        corners: [T, 4, 2 or more], see `rpstn_corners`; read where `torso` is False.
        size: (h, w) of the heatmaps.
        threshold: of PCK, a share of the torso or box.
        head_threshold: of PCKh, a share of the head.
        torso: divide by the torso's length, the predicted one where the true one is below 1 cell; else by the box.

    Returns:
        float [J] `acc` (distance below 0.5: 0 for perfect predictions), `pck`, `pckh`, `visible` (1 where a joint counts in any
        frame; 0 for the others, whose shares are 0), `count` of these joints, `pred`.

    Raises:
        InputError: RPSTN has no rule for the skeleton.
    """
    if skeleton not in _BODIES:
        raise InputError(f'skeleton {skeleton!r}: RPSTN evaluates {" and ".join(map(repr, _BODIES))} only')
    body = _BODIES[skeleton]
    pred, target = np.asarray(pred, np.float32), np.asarray(target, np.float32)
    distance, counted = _distance(pred, target, size, RPSTN_OFFSET), (target > 1).all(-1)
    if torso:
        first, second = body.torso
        length = _length(target[0, first] - target[0, second])
        if length < 1:
            length = _length(pred[0, first] - pred[0, second])
    else:
        length = np.abs(np.asarray(corners)[0, 2, :2] - np.asarray(corners)[0, 0, :2]).max() * body.box_share

    def share(radius: float | np.ndarray) -> np.ndarray:
        return ((distance < radius) & counted).sum(0) / np.maximum(counted.sum(0), 1)

    visible = counted.any(0)
    return {
        'acc': share(0.5),
        'pck': share(threshold * length),
        'pckh': share(head_threshold * _length(body.head(target[0]))),
        'visible': visible.astype(np.float64),
        'count': int(visible.sum()),
        'pred': pred,
    }


def rpstn_corners(boxes: Array) -> np.ndarray:
    """The corners that RPSTN's loaders hand to its metric for boxes [T, 4]: float64 [T, 4, 2], of which none is right.

    The box is stretched to the crop: the first corner is scaled but not shifted, the second and third stay in image pixels,
    the last is the sum of two scaled corners. The difference of the first and the third is what the metric takes for the box.
    """
    boxes = np.asarray(boxes, np.float64)
    near, far = boxes[:, :2], boxes[:, 2:]
    scale = RPSTN_CROP / np.maximum(far - near, 1)
    second = np.stack([near[:, 0], far[:, 1]], -1)
    third = np.stack([far[:, 0], near[:, 1]], -1)
    return np.stack([near * scale, second, third, near * scale + far * scale], 1)


def rpstn_average(clips: Sequence[Mapping[str, Any]], key: str = 'pck') -> tuple[np.ndarray, float]:
    """What RPSTN's scripts print: per joint the mean over the clips in which it is visible (0 if none), and the mean of all J."""
    values, visible = (np.array([clip[name] for clip in clips], np.float64) for name in (key, 'visible'))
    joints = (values * visible).sum(0) / np.maximum(visible.sum(0), 1)
    return joints, float(joints.mean())


# --- HANet: lib/utils/eval_metrics.py; all in float32

HANET_THRESHOLDS = (0.05, 0.1, 0.2)


def hanet_pck(prediction: Array, truth: Array, boxes: Array, image_size: tuple[int, int], threshold: float) -> np.ndarray:
    """Share of frames in which a joint is at most `threshold` longer box sides off, float32 [J].

    Args:
        prediction, truth: [T, J, 2] shares of the image's width and height.
        boxes: int [T, 4] pixels. A padded frame's has no size: there only an error of exactly 0 is a hit.
        image_size: (rows, columns).
        threshold: share of the longer side of each frame's box.
    """
    pixels = np.array(image_size[::-1], np.float32)
    error = _length(np.asarray(truth, np.float32) * pixels - np.asarray(prediction, np.float32) * pixels)
    boxes = np.asarray(boxes)
    side = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]).astype(np.float32)
    hits = error <= (side * np.float32(threshold))[:, None]
    return hits.sum(0).astype(np.float32) / np.float32(len(hits))


def hanet_windows(sequence: Array, length: int, step: int) -> np.ndarray:
    """Windows [N, L, ...] of a sequence [T, ...]: as many as fit, what follows is dropped; a shorter one gets zeros."""
    sequence = np.asarray(sequence)
    if len(sequence) < length:
        padding = np.zeros((length - len(sequence), *sequence.shape[1:]), sequence.dtype)
        return np.concatenate([sequence, padding])[None]
    return np.stack([sequence[first : first + length] for first in range(0, len(sequence) - length + 1, step)])


def hanet_sequence(windows: Array, step: int) -> np.ndarray:
    """Windows [N, L, ...] back to a sequence float32 [(N - 1) * step + L, ...], the mean where they overlap."""
    windows = np.asarray(windows, np.float32)
    count, length = windows.shape[:2]
    total = np.zeros(((count - 1) * step + length, *windows.shape[2:]), np.float32)
    covered = np.zeros((len(total), *[1] * (total.ndim - 1)), np.float32)
    for i, window in enumerate(windows):
        total[i * step : i * step + length] += window
        covered[i * step : i * step + length] += 1
    return total / covered


def acceleration_error(prediction: Array, truth: Array, visible: Array | None = None) -> np.ndarray:
    """Mean over joints of |second difference of prediction - of truth|, float32, one for each of the T - 2 inner frames.

    Args:
        prediction, truth: [T, J, dims].
        visible: bool [T]; three frames of which one is not visible have no value. None: all are.
    """

    def acceleration(points: Array) -> np.ndarray:
        points = np.asarray(points, np.float32)
        return points[:-2] - 2 * points[1:-1] + points[2:]

    error = _length(acceleration(prediction) - acceleration(truth)).mean(-1)
    if visible is not None:
        visible = np.asarray(visible, bool)
        error = error[visible[:-2] & visible[1:-1] & visible[2:]]
    return error[~np.isnan(error)]


def smoothnet_acceleration_error(prediction: Array, truth: Array) -> np.ndarray:
    """SmoothNet's: with a zero before and after, [T], so that its mean is (T - 2) / T of HANet's."""
    return np.pad(acceleration_error(prediction, truth), 1)


def smoothnet_pck(prediction: Array, truth: Array, boxes: Array, image_size: tuple[int, int], threshold: float) -> np.ndarray:
    """SmoothNet's PCK, of poses whose origin is the middle of the image; otherwise HANet's."""
    half = np.float32(0.5)
    return hanet_pck(np.asarray(prediction) + half, np.asarray(truth) + half, boxes, image_size, threshold)


def mpjpe(prediction: Array, truth: Array) -> np.ndarray:
    """Mean distance of the joints, float32 [T], in the unit of the points [T, J, dims]; frames without one are left out."""
    error = _length(np.asarray(prediction, np.float32) - np.asarray(truth, np.float32)).mean(-1)
    return error[~np.isnan(error)]


def pa_mpjpe(prediction: Array, truth: Array) -> np.ndarray:
    """`mpjpe` after each frame's best rotation, scale and shift of the prediction (Procrustes), float32 [T]."""
    prediction, truth = np.asarray(prediction, np.float32), np.asarray(truth, np.float32)
    middle, true_middle = prediction.mean(1, keepdims=True), truth.mean(1, keepdims=True)
    centred = (prediction - middle).swapaxes(1, 2)  # [T, dims, J]
    covariance = centred @ (truth - true_middle)
    u, _, vt = np.linalg.svd(covariance)
    mirror = np.tile(np.eye(u.shape[-1], dtype=np.float32), (len(u), 1, 1))
    mirror[:, -1, -1] = np.sign(np.linalg.det(u @ vt))
    rotation = vt.swapaxes(1, 2) @ mirror @ u.swapaxes(1, 2)
    scale = np.trace(rotation @ covariance, axis1=1, axis2=2) / (centred**2).sum((1, 2))
    aligned = scale[:, None, None] * (rotation @ centred).swapaxes(1, 2) + true_middle
    return mpjpe(aligned, truth)


def hanet_evaluate_2d(
    refine: Callable[[np.ndarray], tuple[Array, Array]],
    sequences: Sequence[tuple[Array, Array, Array]],
    image_size: tuple[int, int],
    *,
    interval: int,
    window: int,
    step: int,
) -> dict[str, np.float32]:
    """HANet's evaluation of 2D sequences; every sequence has the same weight, and padded frames count.

    Args:
        refine: poses [N, L, J * 2] to (final, refined).
        sequences: (estimated poses [T, J * 2], true ones, boxes int [T, 4] pixels); poses in shares of the image.
        image_size: (rows, columns) of all.
        interval: N; every N-th frame is sampled.
        window: Q; L = N * Q + 1.
        step: intervals from one window to the next.

    Returns:
        For each threshold t of 0.05, 0.1 and 0.2, as in the release: `input_pck_<t>`, `output_pck_<t>`, `improvement_pck_<t>`,
        `linear_interp_pck_<t>`, `denosie_pck_<t>` (refined poses at every N-th frame) and `relative_improvement_pck_<t>` (all
        frames of the output against every N-th of the input).
    """
    length, stride = interval * window + 1, interval * step
    shares: dict[str, list[np.ndarray]] = {}
    for estimated, truth, boxes in sequences:
        poses, true, sides = (hanet_windows(part, length, stride) for part in (estimated, truth, boxes))
        poses, true = np.asarray(poses, np.float32), np.asarray(true, np.float32)
        final, refined = refine(poses)

        def joined(windows: Array) -> np.ndarray:
            return hanet_sequence(windows, stride).reshape(-1, np.shape(windows)[-1] // 2, 2)

        box, gt = hanet_sequence(sides, stride).astype(np.int32), joined(true)
        rows = {'input': joined(poses), 'output': joined(final), 'linear_interp': joined(_interpolated(poses, interval))}
        every = slice(None, None, interval)
        for threshold in HANET_THRESHOLDS:
            name = f'pck_{str(threshold).replace(".", "")}'
            values = {row: hanet_pck(points, gt, box, image_size, threshold) for row, points in rows.items()}
            values['denosie'] = hanet_pck(joined(refined)[every], gt[every], box[every], image_size, threshold)
            sampled = hanet_pck(rows['input'][every], gt[every], box[every], image_size, threshold)
            values['relative_improvement'] = values['output'].mean() - sampled.mean()
            for row, value in values.items():
                shares.setdefault(f'{row}_{name}', []).append(value)
    result = {key: np.mean(value, dtype=np.float32) for key, value in shares.items()}
    for key in [key for key in result if key.startswith('input_')]:
        name = key.removeprefix('input_')
        result[f'improvement_{name}'] = result[f'output_{name}'] - result[key]
    return result


def _interpolated(poses: np.ndarray, interval: int) -> np.ndarray:
    """Lines between every `interval`-th frame of windows [N, L, C], in float64 as SciPy's."""
    time = np.arange(poses.shape[1])
    known = np.asarray(poses, np.float64)[:, ::interval]
    start = np.minimum(time // interval, known.shape[1] - 2)
    slope = (known[:, start + 1] - known[:, start]) / interval
    return slope * (time - start * interval)[:, None] + known[:, start]


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt((vectors**2).sum(-1))
