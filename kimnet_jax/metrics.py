"""PCK and smoothness as sums and counts: update clip by clip, merge, divide once (KIMNet Eq. 12 and 13 are ratios of sums).

The array functions work on NumPy and JAX (`xp`) and never write to their arguments.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array

ALPHAS = np.arange(21) / 100  # PCK's thresholds: 0, 0.01, ..., 0.2; AUC is the trapezoid over all of them
REPORTED = ('0.2', '0.1', '0.05')
ALPHA = REPORTED[0]  # the paper's
NORMALISERS = ('torso', 'person')
MEAN = 'mPCK'  # the column over all joints
SPATIAL = ('mpjpe', 'pa_mpjpe', 'acceleration', 'jitter')  # of poses in 3D


class Ratio(NamedTuple):
    """A metric before its division; a pytree, so it may cross `jit`.

    Attributes:
        sums: what is averaged, summed.
        counts: how many terms `sums` holds; broadcasts against it.
    """

    sums: Array
    counts: Array

    def merge(self, other: 'Ratio') -> 'Ratio':
        """The metric over both sets of terms."""
        return Ratio(self.sums + other.sums, self.counts + other.counts)

    def pool(self, axis: int | tuple[int, ...]) -> 'Ratio':
        """The metric over an axis (clips, joints) as a ratio of sums."""
        return Ratio(self.sums.sum(axis), self.counts.sum(axis))

    def compute(self, xp: ModuleType = np) -> Array:
        """The quotient; NaN where nothing was counted."""
        return xp.where(self.counts > 0, self.sums / xp.maximum(self.counts, 1), xp.nan)


def person_length(boxes: Array, xp: ModuleType = np) -> Array:
    """The longer side of each box [..., 4], pixels [...]."""
    return xp.maximum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])


def torso_length(joints: Array, visible: Array, skeleton: Skeleton, xp: ModuleType = np) -> Array:
    """Distance from left shoulder to right hip of the truth, pixels [...].

    NaN where either of the two was never annotated (not visible and at (0, 0), where Penn Action keeps such joints): a length
    measured to the corner would turn misses into hits. An annotated joint that is hidden has its place and counts.

    Args:
        joints: [..., J, 2] pixels.
        visible: bool [..., J].
        skeleton: names the two joints (`torso`).
        xp: numpy or jax.numpy.
    """
    start, end = skeleton.torso
    step = joints[..., start, :] - joints[..., end, :]
    annotated = visible | (joints != 0).any(-1)
    return xp.where(annotated[..., start] & annotated[..., end], xp.hypot(step[..., 0], step[..., 1]), xp.nan)


def measurable(length: Array, xp: ModuleType = np) -> Array:
    """bool [...]: where a normaliser is finite and positive; other frames are left out of PCK."""
    return xp.isfinite(length) & (length > 0)


def pck_state(
    prediction: Array, joints: Array, visible: Array, length: Array, alphas: Sequence[float] | Array = ALPHAS, xp: ModuleType = np
) -> Ratio:
    """Hits of each joint, summed over frames: distance <= alpha * length (KIMNet Eq. 12).

    Args:
        prediction: [..., T, J, 2] pixels; a NaN is a miss.
        joints: [..., T, J, 2] the truth, same pixels.
        visible: bool [..., T, J], which joints count; False in padded frames.
        length: [..., T] same pixels; a frame whose length is not `measurable` is left out.
        alphas: [A] thresholds as shares of the length.
        xp: numpy or jax.numpy.

    Returns:
        Ratio of hits [..., A, J] to joints counted [..., 1, J].
    """
    usable = measurable(length, xp)
    counted = xp.asarray(visible, bool) & usable[..., None]
    step = xp.asarray(prediction, float) - xp.asarray(joints, float)
    distance = xp.hypot(step[..., 0], step[..., 1])  # [..., T, J]
    radius = xp.asarray(alphas, float)[:, None] * xp.where(usable, length, 0.0)[..., None, :]  # [..., A, T]
    hit = (distance[..., None, :, :] <= radius[..., None]) & counted[..., None, :, :]
    return Ratio(hit.sum(-2), counted.sum(-2)[..., None, :])


def difference_state(points: Array, valid: Array, order: int, xp: ModuleType = np) -> Ratio:
    """Length of the `order`-th difference in time, summed over the runs of `order` + 1 frames in which a joint is valid.

    Order 2 of (prediction - truth) is the acceleration error, order 3 of the prediction the jitter; pixels.

    Args:
        points: [..., T, J, D] pixels, or another unit in 3D.
        valid: bool [..., T, J].
        order: of the difference; clips of `order` frames or fewer count nothing.
        xp: numpy or jax.numpy.

    Returns:
        Ratio of lengths [..., J] to runs counted [..., J].
    """
    valid = xp.asarray(valid, bool)
    step = xp.diff(xp.where(valid[..., None], xp.asarray(points, float), 0.0), order, axis=-3)
    for _ in range(order):
        valid = valid[..., 1:, :] & valid[..., :-1, :]
    return Ratio(xp.where(valid, xp.sqrt((step**2).sum(-1)), 0.0).sum(-2), valid.sum(-2))


def position_error_state(prediction: Array, joints: Array, valid: Array, xp: ModuleType = np) -> Ratio:
    """MPJPE before its division: distances of the joints, summed over frames.

    Args:
        prediction, joints: [..., T, J, D], same unit.
        valid: bool [..., T, J], which joints count.
        xp: numpy or jax.numpy.

    Returns:
        Ratio of distances [..., J] to joints counted [..., J].
    """
    valid = xp.asarray(valid, bool)
    step = xp.where(valid[..., None], xp.asarray(prediction, float) - xp.asarray(joints, float), 0.0)
    return Ratio(xp.sqrt((step**2).sum(-1)).sum(-2), valid.sum(-2))


def aligned(prediction: Array, joints: Array, valid: Array) -> np.ndarray:
    """Each frame's prediction after the rotation, scale and shift that bring it closest to the truth (Procrustes), for PA-MPJPE.

    Args:
        prediction, joints: [T, J, D], same unit.
        valid: bool [T, J], which joints count; a frame with fewer than D of them stays as it is.

    Returns:
        float64 [T, J, D]; no mirror images.
    """
    prediction, joints = (np.where(valid[..., None], np.asarray(part, np.float64), 0.0) for part in (prediction, joints))
    weight = np.asarray(valid, np.float64)[..., None]
    count, dims = np.maximum(weight.sum(1, keepdims=True), 1), joints.shape[-1]
    centre, true_centre = (part.sum(1, keepdims=True) / count for part in (prediction, joints))
    a, b = (prediction - centre) * weight, (joints - true_centre) * weight
    u, values, vt = np.linalg.svd(np.einsum('tji,tjk->tik', a, b))
    signs = np.ones((len(a), dims))
    signs[:, -1] = np.where(np.linalg.det(u) * np.linalg.det(vt) < 0, -1.0, 1.0)
    rotation = np.einsum('tik,tk,tkl->til', u, signs, vt)
    spread = (a**2).sum((1, 2))
    scale = np.where(spread > 0, (values * signs).sum(-1) / np.where(spread > 0, spread, 1.0), 1.0)
    result = scale[:, None, None] * ((prediction - centre) @ rotation) + true_centre
    return np.where((weight.sum(1) >= dims)[..., None], result, prediction)


@dataclasses.dataclass
class PoseMetrics:
    """The sums of every metric, clip by clip, so that clips can be resampled and processes merged.

    Attributes:
        skeleton: joints and report groups.
        clips: N, clips of the split (each process allocates all and fills its own).
        ratios: `torso` and `person`, PCK over `ALPHAS` [N, A, J]; `acceleration` and `jitter` [N, J].
        counts: int [N] `frames`; `missing`, predictions that are not finite (misses for PCK, left out of smoothness);
            `skipped_torso` and `skipped_person`, frames without a measurable length.

    `ratios` and `counts` are pytrees of arrays that add up: summing them over processes equals `merge`.
    """

    skeleton: Skeleton
    clips: int
    ratios: dict[str, Ratio] = dataclasses.field(init=False)
    counts: dict[str, np.ndarray] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        n, a, j = self.clips, len(ALPHAS), self.skeleton.num_joints
        self.ratios = {key: Ratio(np.zeros((n, a, j), np.int64), np.zeros((n, 1, j), np.int64)) for key in NORMALISERS}
        self.ratios |= {key: Ratio(np.zeros((n, j)), np.zeros((n, j), np.int64)) for key in ('acceleration', 'jitter')}
        self.counts = {key: np.zeros(n, np.int64) for key in ('frames', 'missing', *(f'skipped_{key}' for key in NORMALISERS))}

    def update(
        self,
        clip: int,
        prediction: Array,
        joints: Array,
        visible: Array,
        boxes: Array,
        mask: Array | None = None,
        counted: Array | None = None,
    ) -> None:
        """Adds one whole clip.

        Args:
            clip: its index, 0 to N - 1, each once.
            prediction: [T, J, 2] pixels of the original frames.
            joints: [T, J, 2] the truth, same pixels.
            visible: bool [T, J].
            boxes: [T, 4] the person, same pixels.
            mask: bool [T], False where a frame is padding; default no padding.
            counted: bool [T, J], which of the visible joints count; default all. A length is measured between any.

        Raises:
            InputError: an array has another shape.
            ValueError: the clip is out of range or was added before.
        """
        prediction, joints, boxes = (np.asarray(x, np.float64) for x in (prediction, joints, boxes))
        frames, visible = len(joints), np.asarray(visible, bool)
        mask = np.ones(frames, bool) if mask is None else np.asarray(mask, bool)
        counted = visible if counted is None else np.asarray(counted, bool)
        shape = (frames, self.skeleton.num_joints)
        wanted = {'prediction': (*shape, 2), 'joints': (*shape, 2), 'visible': shape, 'boxes': (frames, 4), 'mask': (frames,)}
        given = {'prediction': prediction, 'joints': joints, 'visible': visible, 'boxes': boxes, 'mask': mask}
        wanted['counted'], given['counted'] = shape, counted
        for name, value in given.items():
            if value.shape != wanted[name]:
                raise InputError(
                    f'clip {clip}: {name} of shape {list(value.shape)}, expected {list(wanted[name])} '
                    f'({frames} frames, {shape[1]} joints of {self.skeleton.name!r})'
                )
        if not 0 <= clip < self.clips or self.counts['frames'][clip]:
            raise ValueError(f'clip {clip} of {self.clips} was added before or is out of range')

        finite = np.isfinite(prediction).all(-1) & mask[:, None]
        lengths = {'person': person_length(boxes), 'torso': torso_length(joints, visible, self.skeleton)}
        visible = visible & counted & mask[:, None]
        states = {key: pck_state(prediction, joints, visible, length) for key, length in lengths.items()}
        states['acceleration'] = difference_state(prediction - joints, finite & visible, 2)
        states['jitter'] = difference_state(prediction, finite, 3)
        for key, state in states.items():
            self.ratios[key].sums[clip], self.ratios[key].counts[clip] = state
        self.counts['frames'][clip] = mask.sum()
        self.counts['missing'][clip] = (mask[:, None] & ~finite).sum()
        for key, length in lengths.items():
            self.counts[f'skipped_{key}'][clip] = (mask & ~measurable(length)).sum()

    def merge(self, other: 'PoseMetrics') -> 'PoseMetrics':
        """The metrics over the clips of both. Raises `ValueError` where a clip is in both or the skeletons differ."""
        if (self.skeleton, self.clips) != (other.skeleton, other.clips):
            parts = ' and '.join(f'{part.clips} clips of {part.skeleton.name!r}' for part in (self, other))
            raise ValueError(f'{parts} do not merge')
        both = np.flatnonzero((self.counts['frames'] > 0) & (other.counts['frames'] > 0))
        if len(both):
            raise ValueError(f'clip {both[0]} is in both parts ({len(both)} such clips): it would count twice')
        merged = PoseMetrics(self.skeleton, self.clips)
        merged.ratios = {key: ratio.merge(other.ratios[key]) for key, ratio in self.ratios.items()}
        merged.counts = {key: count + other.counts[key] for key, count in self.counts.items()}
        return merged

    def compute(self) -> dict[str, Any]:
        """Every metric over the clips added, as a nested dict of plain numbers (shares of 1, pixels; NaN where nothing counted).

        Returns:
            `clips`, `frames`, `missing`, `skipped` {normaliser: frames}; for each of `NORMALISERS`: `pck` {alpha: {column:
            share}} and `auc` {column: share} (trapezoid over `ALPHAS`, divided by 0.2), where a column is a report group or
            `mPCK`, and `joints` {joint: PCK@0.2}; `acceleration` and `jitter`: `mean` and `joints` {joint: pixels}.
        """
        result = _each(self._quotients(np.ones((1, self._seen.sum()))), lambda values: float(values[0]))
        return {
            'clips': int(self._seen.sum()),
            'frames': int(self.counts['frames'].sum()),
            'missing': int(self.counts['missing'].sum()),
            'skipped': {key: int(self.counts[f'skipped_{key}'].sum()) for key in NORMALISERS},
            **result,
        }

    def bootstrap(self, samples: int = 1000, seed: int = 0, level: float = 0.95) -> dict[str, Any]:
        """Percentile intervals [low, high] of every metric of `compute`, by drawing clips with replacement."""
        return contrast([(1.0, self)], samples, seed, level)[1]

    @property
    def _seen(self) -> np.ndarray:
        return self.counts['frames'] > 0

    def _quotients(self, weights: np.ndarray) -> dict[str, Any]:
        """The metrics of `compute` for each row of clip weights [S, N seen], as arrays [S]."""
        result: dict[str, Any] = {}
        names = self.skeleton.joints
        columns = dict(self.skeleton.groups) | {MEAN: tuple(range(len(names)))}
        for key in NORMALISERS:
            state = self._weighted(key, weights)  # [S, A, J]
            curves = {name: _of_joints(state, index).compute() for name, index in columns.items()}  # [S, A]
            at = {alpha: int(np.argmin(np.abs(ALPHAS - float(alpha)))) for alpha in REPORTED}
            result[key] = {
                'pck': {alpha: {name: curve[:, i] for name, curve in curves.items()} for alpha, i in at.items()},
                'auc': {name: np.trapezoid(curve, ALPHAS, axis=-1) / ALPHAS[-1] for name, curve in curves.items()},
                'joints': dict(zip(names, state.compute()[:, at[ALPHA]].T, strict=True)),
            }
        for key in ('acceleration', 'jitter'):
            state = self._weighted(key, weights)  # [S, J]
            result[key] = {'mean': state.pool(-1).compute(), 'joints': dict(zip(names, state.compute().T, strict=True))}
        return result

    def _weighted(self, key: str, weights: np.ndarray) -> Ratio:
        sums, counts = (part[self._seen] for part in self.ratios[key])
        return Ratio(np.tensordot(weights, sums, 1), np.tensordot(weights, counts, 1))


def contrast(
    terms: Sequence[tuple[float, PoseMetrics]], samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A sum of metrics over the same clips, each times a factor, such as a paired difference: [(1, a), (-1, b)].

    Returns:
        (values, percentile intervals [low, high]) of every metric of `PoseMetrics.compute`, by drawing clips with replacement,
        in each draw the same ones for all terms.

    Raises:
        ValueError: the terms are not over the same clips.
    """
    seen = terms[0][1]._seen
    if any(not np.array_equal(metrics._seen, seen) for _, metrics in terms):
        raise ValueError('metrics over different clips do not compare')
    clips = seen.sum()
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(clips, np.full(clips, 1 / clips), samples) if clips else np.zeros((samples, 0))
    tails = [(1 - level) / 2, (1 + level) / 2]

    def interval(values: np.ndarray) -> list[float]:
        values = values[np.isfinite(values)]  # a draw in which nothing counts has no value
        return [float(q) for q in np.quantile(values, tails)] if len(values) else [np.nan, np.nan]

    def total(weights: np.ndarray) -> dict[str, Any]:
        return _summed([_each(metrics._quotients(weights), lambda part, by=factor: by * part) for factor, metrics in terms])

    values = _each(total(np.ones((1, clips))), lambda values: float(values[0]))
    return values, _each(total(weights.astype(np.float64)), interval)


@dataclasses.dataclass
class SpatialMetrics:
    """The metrics of poses in 3D, with the interface of `PoseMetrics`; in the unit of the poses.

    Attributes:
        ratios: `mpjpe`, `pa_mpjpe`, `acceleration` and `jitter` [N, J].
        counts: int [N] `frames`; `missing`, predictions that are not finite: left out of everything.
    """

    skeleton: Skeleton
    clips: int
    ratios: dict[str, Ratio] = dataclasses.field(init=False)
    counts: dict[str, np.ndarray] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        shape = (self.clips, self.skeleton.num_joints)
        self.ratios = {key: Ratio(np.zeros(shape), np.zeros(shape, np.int64)) for key in SPATIAL}
        self.counts = {key: np.zeros(self.clips, np.int64) for key in ('frames', 'missing')}

    def update(self, clip: int, prediction: Array, joints: Array, visible: Array, boxes: Array | None = None) -> None:
        """Adds one clip: [T, J, 3] twice, bool [T, J]; boxes play no part. Raises `ValueError` where it was added before."""
        prediction, joints = np.asarray(prediction, np.float64), np.asarray(joints, np.float64)
        if not 0 <= clip < self.clips or self.counts['frames'][clip]:
            raise ValueError(f'clip {clip} of {self.clips} was added before or is out of range')
        finite = np.isfinite(prediction).all(-1)
        valid = finite & np.asarray(visible, bool)
        states = {
            'mpjpe': position_error_state(prediction, joints, valid),
            'pa_mpjpe': position_error_state(aligned(prediction, joints, valid), joints, valid),
            'acceleration': difference_state(prediction - joints, valid, 2),
            'jitter': difference_state(prediction, finite, 3),
        }
        for key, state in states.items():
            self.ratios[key].sums[clip], self.ratios[key].counts[clip] = state
        self.counts['frames'][clip], self.counts['missing'][clip] = len(joints), (~finite).sum()

    def compute(self) -> dict[str, Any]:
        """`clips`, `frames`, `missing`, and the mean over all joints and frames of each metric (NaN where nothing counted)."""
        return {
            'clips': int((self.counts['frames'] > 0).sum()),
            'frames': int(self.counts['frames'].sum()),
            'missing': int(self.counts['missing'].sum()),
            **{key: float(ratio.pool((0, 1)).compute()) for key, ratio in self.ratios.items()},
        }


def _of_joints(state: Ratio, joints: Sequence[int]) -> Ratio:
    index = list(joints)
    return Ratio(state.sums[..., index], state.counts[..., index]).pool(-1)


def _each(tree: Mapping[str, Any], function: Any) -> dict[str, Any]:
    return {key: _each(value, function) if isinstance(value, Mapping) else function(value) for key, value in tree.items()}


def _summed(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        key: _summed([tree[key] for tree in trees]) if isinstance(value, Mapping) else sum(tree[key] for tree in trees)
        for key, value in trees[0].items()
    }
