"""Filters that smooth poses over time: One-Euro, Savitzky-Golay, Gaussian. All settings are in seconds and hertz.

A filter is given the time of every frame, so frames may come at any rate, and at a changing one. It smooths a whole sequence, or
frame after frame without look-ahead (`stream`). D is 2 (pixels), 3 or 6, as in `pose_windows`.

Missing joints (NaN): in a whole sequence they are filled in by lines over time first, and a joint that is in none of the frames
stays missing. In a stream a missing joint stays missing in its frame, as nothing is known of what follows.
"""

import dataclasses
import math
from collections import deque
from typing import Any, ClassVar, Protocol

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Array

_SLACK = 1e-3  # seconds that a frame may lie beyond the end of a window: times in files are rounded
_SHORTEST = 1e-6  # seconds between frames: some videos show two at the same time
_TRUNCATE = 4.0  # standard deviations of a Gaussian that count


class FilterStream(Protocol):
    """A filter at work on a sequence that is still coming."""

    def push(self, joints: Array, box: Array, time: float) -> np.ndarray:
        """The next frame smoothed, float64 [J, D].

        Args:
            joints: [J, D]; NaN: missing.
            box: [2 * D] (low, high), the person.
            time: seconds, not before that of the last frame.

        Raises:
            InputError: the time is before that of the last frame.
        """


class Filter(Protocol):
    """Smooths poses over time. `str(filter)` is its text for `parse_filter`."""

    def __call__(self, joints: Array, boxes: Array, times: Array) -> np.ndarray:
        """A whole sequence smoothed, float64 [T, J, D]; NaN only where a joint is in none of the frames.

        Args:
            joints: [T, J, D]; NaN: missing.
            boxes: [T, 2 * D] (low, high), the person; their size is the unit of speeds.
            times: [T] seconds, in order; any spacing.

        Raises:
            InputError: the times are not in order.
        """

    def stream(self) -> FilterStream:
        """A new stream, which uses the past alone."""


class _Settings:
    """What the filters share: their settings are the fields of a dataclass, `_RANGES` has what these may be."""

    _NAME: ClassVar[str]
    _RANGES: ClassVar[dict[str, tuple[float, float, str]]]

    def __post_init__(self) -> None:
        for name, (low, high, unit) in self._RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f'{self._NAME}: {name}={value:g}: must be {low:g} to {high:g}{f" {unit}" if unit else ""}')

    def __str__(self) -> str:
        settings = [f'{name}={getattr(self, name):g}' for name in self._RANGES]
        return f'{self._NAME}:{",".join(settings)}'


@dataclasses.dataclass(frozen=True)
class OneEuro(_Settings):
    """The One-Euro filter (Casiez et al., CHI 2012): the faster a joint, the less it is smoothed. Without look-ahead.

    Speed is measured in longer sides of the person's box per second, so that the settings fit any scale: in the mean side of the
    sequence, or, in a stream, of the frames so far.

    Attributes:
        min_cutoff: Hz, of a joint at rest.
        beta: Hz that a speed of 1 adds to the cutoff.
        d_cutoff: Hz, of the speed.
    """

    min_cutoff: float = 1.0
    beta: float = 5.0
    d_cutoff: float = 1.0

    _NAME = 'one_euro'
    _RANGES: ClassVar[dict[str, tuple[float, float, str]]] = {
        'min_cutoff': (1e-3, 1e3, 'Hz'),
        'beta': (0, 1e3, ''),
        'd_cutoff': (1e-3, 1e3, 'Hz'),
    }

    def __call__(self, joints: Array, boxes: Array, times: Array) -> np.ndarray:
        joints, times = _filled(joints, times)
        unit = max(_longer_sides(boxes).mean(), 1e-6)
        state = _OneEuroState(self)
        return np.stack([state.step(pose, unit, time) for pose, time in zip(joints, times, strict=True)])

    def stream(self) -> FilterStream:
        """A new stream, which uses the past alone."""
        return _OneEuroStream(self)


@dataclasses.dataclass(frozen=True)
class SavitzkyGolay(_Settings):
    """Polynomials through the frames of a window, by least squares (Savitzky and Golay, 1964).

    The window lies around its frame; at the ends of a sequence it is the first or last one inside. In a stream it ends with the
    frame. With frames at even times this is `scipy.signal.savgol_filter`, whose window is `window` * rate + 1 frames long.

    Attributes:
        window: seconds from its first frame to its last one.
        order: of the polynomials; lower where a window has too few frames.
    """

    window: float = 0.4
    order: int = 2

    _NAME = 'savgol'
    _RANGES: ClassVar[dict[str, tuple[float, float, str]]] = {'window': (1e-3, 60, 'seconds'), 'order': (0, 10, '')}

    def __call__(self, joints: Array, boxes: Array, times: Array) -> np.ndarray:
        joints, times = _filled(joints, times)
        half = self.window / 2
        low, high = times[0] + half, times[-1] - half
        middles = np.clip(times, low, high) if low < high else np.full(len(times), (times[0] + times[-1]) / 2)
        first = np.searchsorted(times, middles - half - _SLACK)
        end = np.searchsorted(times, middles + half + _SLACK, 'right')
        result, there = joints.copy(), np.isfinite(joints).all((0, 2))
        if there.any():
            for i, (a, b) in enumerate(zip(first, end, strict=True)):
                result[i, there] = self.fit(joints[a:b, there], times[a:b], times[i])
        return result

    def fit(self, joints: np.ndarray, times: np.ndarray, time: float) -> np.ndarray:
        """The value at `time` of the polynomials through joints [T, J, D]."""
        apart = (times - time) / self.window
        basis = np.vander(apart, min(self.order, len(np.unique(times)) - 1) + 1, increasing=True)
        solution = np.linalg.lstsq(basis, joints.reshape(len(joints), -1), rcond=None)[0]
        return solution[0].reshape(joints.shape[1:])

    def stream(self) -> FilterStream:
        """A new stream, which uses the past alone."""
        return _WindowStream(self.window, self.fit)


@dataclasses.dataclass(frozen=True)
class Gaussian(_Settings):
    """Means with Gaussian weights over time.

    Each frame also weighs as the time that it stands for, so that a changing rate draws nothing to where frames are dense. The
    ends of a sequence are continued as they are. In a stream only the half of the bell before the frame counts, which lags
    behind. With frames at even times this is `scipy.ndimage.gaussian_filter1d` with `mode='nearest'`.

    Attributes:
        sigma: seconds.
    """

    sigma: float = 0.08

    _NAME = 'gaussian'
    _RANGES: ClassVar[dict[str, tuple[float, float, str]]] = {'sigma': (1e-3, 60, 'seconds')}

    def __call__(self, joints: Array, boxes: Array, times: Array) -> np.ndarray:
        joints, times = _filled(joints, times)
        step = max(np.median(np.diff(times)), _SHORTEST) if len(times) > 1 else self.sigma
        more = int(_TRUNCATE * self.sigma / step + 0.5)
        before, after = times[0] - step * np.arange(more, 0, -1), times[-1] + step * np.arange(1, more + 1)
        padded = np.concatenate([before, times, after])
        values = np.concatenate([joints[:1].repeat(more, 0), joints, joints[-1:].repeat(more, 0)])
        first = np.searchsorted(padded, times - _TRUNCATE * self.sigma - _SLACK)
        end = np.searchsorted(padded, times + _TRUNCATE * self.sigma + _SLACK, 'right')
        widths = _widths(padded)
        spans = zip(first, end, times, strict=True)
        return np.stack([self._mean(values[a:b], padded[a:b] - time, widths[a:b]) for a, b, time in spans])

    def fit(self, joints: np.ndarray, times: np.ndarray, time: float) -> np.ndarray:
        """The weighted mean of joints [T, J, D]."""
        return self._mean(joints, times - time, _widths(times))

    def _mean(self, joints: np.ndarray, apart: np.ndarray, widths: np.ndarray) -> np.ndarray:
        weights = widths * np.exp(-0.5 * (apart / self.sigma) ** 2)
        return np.tensordot(weights / weights.sum(), joints, 1)

    def stream(self) -> FilterStream:
        """A new stream, which uses the past alone."""
        return _WindowStream(_TRUNCATE * self.sigma, self.fit)


FILTERS: dict[str, type[OneEuro] | type[SavitzkyGolay] | type[Gaussian]] = {
    kind._NAME: kind for kind in (OneEuro, SavitzkyGolay, Gaussian)
}


def parse_filter(text: str) -> Filter:
    """The filter that a text names: `one_euro`, `savgol:window=0.4,order=2`, `gaussian:sigma=0.08`.

    Raises `InputError` naming the filter or the setting that is wrong, and the known ones.
    """
    name, colon, given = text.partition(':')
    if name not in FILTERS:
        raise InputError(f'no filter {name!r}; known: {", ".join(FILTERS)}')
    kind = FILTERS[name]
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for setting in given.split(',') if colon else ():
        key, equals, value = (part.strip() for part in setting.partition('='))
        if key not in kinds or not equals:
            raise InputError(f'{name}: no setting {setting!r}; give some of {", ".join(f"{key}=NUMBER" for key in kinds)}')
        if key in values:
            raise InputError(f'{name}: {key} is given twice')
        try:
            values[key] = int(value) if kinds[key] is int else float(value)
        except ValueError:
            what = 'a whole number' if kinds[key] is int else 'a number'
            raise InputError(f'{name}: {key}={value}: must be {what}') from None
    return kind(**values)


def _filled(joints: Array, times: Array) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [T, J, D] with lines over time across missing joints, times float64 [T]). Raises `InputError` on disorder."""
    joints, times = np.array(joints, np.float64), np.asarray(times, np.float64)
    bad = np.flatnonzero(~(np.diff(times) >= 0))
    if len(bad):
        raise InputError(f'frame {bad[0] + 1} is at {times[bad[0] + 1]:g} s, the one before it at {times[bad[0]]:g} s')
    known = np.isfinite(joints).all(-1)
    for joint in np.flatnonzero(~known.all(0) & known.any(0)):
        there = known[:, joint]
        for d in range(joints.shape[-1]):
            joints[~there, joint, d] = np.interp(times[~there], times[there], joints[there, joint, d])
    joints[:, ~known.any(0)] = np.nan
    return joints, times


def _longer_sides(boxes: Array) -> np.ndarray:
    low, high = np.split(np.asarray(boxes, np.float64), 2, axis=-1)
    return (high - low).max(-1)


def _widths(times: np.ndarray) -> np.ndarray:
    """The time that each frame stands for: half of the way to its neighbours; where all are at the same time, the same."""
    widths = np.gradient(times) if len(times) > 1 else np.ones(1)
    return widths if widths.any() else np.ones(len(times))


class _OneEuroState:
    def __init__(self, settings: OneEuro):
        self._settings = settings
        self._value: np.ndarray | None = None
        self._speed = self._time = np.zeros(0)

    def step(self, joints: np.ndarray, unit: float, time: float) -> np.ndarray:
        """The next frame; a joint that is missing (NaN) stays so, and the filter goes on with it where it comes back."""
        known = np.isfinite(joints).all(-1)
        if self._value is None:
            self._value, self._speed = np.full_like(joints, np.nan), np.zeros_like(joints)
            self._time = np.full(len(joints), -np.inf)
        new = known & ~np.isfinite(self._value).all(-1)
        old = known & ~new
        self._value[new] = joints[new]
        if old.any():
            step = np.maximum(time - self._time[old], _SHORTEST)[:, None]
            change = (joints[old] - self._value[old]) / step / unit
            speed = self._speed[old] + _share(self._settings.d_cutoff, step) * (change - self._speed[old])
            cutoff = self._settings.min_cutoff + self._settings.beta * np.linalg.norm(speed, axis=-1, keepdims=True)
            self._value[old] += _share(cutoff, step) * (joints[old] - self._value[old])
            self._speed[old] = speed
        self._time[known] = time
        return np.where(known[:, None], self._value, np.nan)


def _share(cutoff: Any, step: np.ndarray) -> np.ndarray:
    """Of the new value in the mean of a low-pass filter."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))


class _Ordered:
    """Frames one after the other."""

    def __init__(self) -> None:
        self._last = -math.inf

    def _check(self, time: float) -> None:
        if not time >= self._last:
            raise InputError(f'a frame is at {time:g} s, the one before it at {self._last:g} s')
        self._last = time


class _OneEuroStream(_Ordered):
    def __init__(self, settings: OneEuro):
        super().__init__()
        self._state, self._sides, self._count = _OneEuroState(settings), 0.0, 0

    def push(self, joints: Array, box: Array, time: float) -> np.ndarray:
        self._check(time)
        self._sides, self._count = self._sides + float(_longer_sides(box)), self._count + 1
        return self._state.step(np.array(joints, np.float64), max(self._sides / self._count, 1e-6), time)


class _WindowStream(_Ordered):
    """The frames of the last `length` seconds, joint by joint those in which it is there."""

    def __init__(self, length: float, fit: Any):
        super().__init__()
        self._length, self._fit = length, fit
        self._frames: deque[tuple[float, np.ndarray, np.ndarray]] = deque()

    def push(self, joints: Array, box: Array, time: float) -> np.ndarray:
        self._check(time)
        joints = np.array(joints, np.float64)
        self._frames.append((time, joints, np.isfinite(joints).all(-1)))
        while self._frames[0][0] < time - self._length - _SLACK:
            self._frames.popleft()
        times, poses = np.array([frame[0] for frame in self._frames]), np.stack([frame[1] for frame in self._frames])
        known = np.stack([frame[2] for frame in self._frames])
        result = np.full_like(joints, np.nan)
        complete = known.all(0)
        if complete.any():
            result[complete] = self._fit(poses[:, complete], times, time)
        for joint in np.flatnonzero(known[-1] & ~complete):
            there = known[:, joint]
            result[joint] = self._fit(poses[there][:, [joint]], times[there], time)[0]
        return result
