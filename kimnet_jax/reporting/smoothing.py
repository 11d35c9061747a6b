"""Filters that every refined result is set beside, and its tables: a filter that smooths too much loses PCK.

The parameters are usual ones, chosen once and tuned on nothing. Missing joints are filled in by lines before a filter.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import savgol_filter

from kimnet_jax.core.pose_windows import fill_gaps
from kimnet_jax.core.sequence import interpolate, sampled_frames
from kimnet_jax.core.types import Array
from kimnet_jax.metrics import MEAN, NORMALISERS
from kimnet_jax.reporting.tables import SMOOTHNESS, number, percent, render, table

RAW = 'raw input'
_SUMMARY = ('0.05', '0.1', '0.2')
SPATIAL_COLUMNS = {'mpjpe': 'MPJPE', 'pa_mpjpe': 'PA-MPJPE', 'acceleration': 'Acceleration error', 'jitter': 'Jitter'}


def one_euro(
    poses: Array,
    boxes: Array,
    *,
    rate: float = 30.0,
    minimum_cutoff: float = 1.0,
    beta: float = 5.0,
    derivative_cutoff: float = 1.0,
) -> np.ndarray:
    """The One-Euro filter (Casiez et al., CHI 2012), frame after frame, without look-ahead.

    Args:
        poses: [T, J, D].
        boxes: [T, 2 * D]; speed is measured in their mean longer sides per second, so that the parameters fit any scale.
        rate: frames per second, nominal.
        minimum_cutoff: Hz, of a joint at rest.
        beta: Hz that a speed of 1 adds to the cutoff.
        derivative_cutoff: Hz, of the speed.

    Returns:
        float64 [T, J, D].
    """
    poses = fill_gaps(poses).astype(np.float64)
    low, high = np.split(np.asarray(boxes, np.float64), 2, axis=-1)
    unit = max((high - low).max(-1).mean(), 1e-6)

    def share(cutoff: Any) -> Any:
        return 1 / (1 + rate / (2 * math.pi * cutoff))

    result, speed = poses.copy(), np.zeros_like(poses[0])
    for t in range(1, len(poses)):
        change = (poses[t] - result[t - 1]) * rate / unit
        speed += share(derivative_cutoff) * (change - speed)
        cutoff = minimum_cutoff + beta * np.linalg.norm(speed, axis=-1, keepdims=True)
        result[t] = result[t - 1] + share(cutoff) * (poses[t] - result[t - 1])
    return result


def savitzky_golay(poses: Array, *, window: int = 11, order: int = 2) -> np.ndarray:
    """Polynomials of an order through a window of frames; in a shorter clip the longest odd window. float64 [T, J, D]."""
    poses = fill_gaps(poses).astype(np.float64)
    window = min(window, len(poses) - 1 + len(poses) % 2)
    return savgol_filter(poses, window, order, axis=0) if window > order else poses


def gaussian(poses: Array, *, sigma: float = 2.0) -> np.ndarray:
    """Means with Gaussian weights over time, `sigma` in frames; the ends are continued as they are. float64 [T, J, D]."""
    return gaussian_filter1d(fill_gaps(poses).astype(np.float64), sigma, axis=0, mode='nearest')


def linear(poses: Array, *, interval: int) -> np.ndarray:
    """Lines between every `interval`-th frame and the last; no other frame is read. float64 [T, J, D]."""
    poses = fill_gaps(poses).astype(np.float64)
    sampled = sampled_frames(np.ones(len(poses), bool), interval)
    flat = interpolate(poses.reshape(len(poses), -1), sampled)
    return np.asarray(flat, np.float64).reshape(poses.shape)


def baselines(interval: int) -> dict[str, Callable[[Array, Array], np.ndarray]]:
    """Name -> (poses [T, J, D], boxes [T, 2 * D]) -> poses, in the order of the tables; `interval` of the network beside them."""
    return {
        RAW: lambda poses, boxes: np.asarray(poses),
        'One-Euro': one_euro,
        'Savitzky-Golay': lambda poses, boxes: savitzky_golay(poses),
        'Gaussian': lambda poses, boxes: gaussian(poses),
        f'lines, every {_ordinal(interval)} frame': lambda poses, boxes: linear(poses, interval=interval),
    }


def _ordinal(number: int) -> str:
    ending = 'th' if number % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')
    return f'{number}{ending}'


def render_refinement(report: Mapping[str, Any]) -> str:
    """The tables of `tables.report`, after one that puts accuracy and smoothness side by side."""
    header = ['', *(f'{key} PCK@{alpha}' for key in NORMALISERS for alpha in _SUMMARY), *SMOOTHNESS.values()]
    lines = []
    for name, row in report['rows'].items():
        values = row['values']
        shares = [percent(values[key]['pck'][alpha][MEAN]) for key in NORMALISERS for alpha in _SUMMARY]
        lines.append([name, *shares, *(number(values[key]['mean'], None, '.2f') for key in SMOOTHNESS)])
    summary = f'## Accuracy and smoothness\n\n{table(header, lines)}\n\n'
    return render(report).replace('## ', summary + '## ', 1)


def spatial_report(title: str, rows: Mapping[str, Mapping[str, Any]], notes: list[str]) -> dict[str, Any]:
    """The results of poses in 3D as one dict of plain values; rows are `SpatialMetrics.compute()`."""
    plain = {name: {key: None if value != value else value for key, value in row.items()} for name, row in rows.items()}
    return {'title': title, 'notes': notes, 'rows': plain}


def render_spatial(report: Mapping[str, Any]) -> str:
    """The table of a `spatial_report` as Markdown."""
    first = next(iter(report['rows'].values()))
    lines = [[name, *(number(row[key], None, '.4g') for key in SPATIAL_COLUMNS)] for name, row in report['rows'].items()]
    blocks = [
        f'# {report["title"]}',
        *report['notes'],
        f'{first["clips"]} clips, {first["frames"]} frames; in the unit of the poses.',
    ]
    return '\n\n'.join([*blocks, table(['', *SPATIAL_COLUMNS.values()], lines)]) + '\n'
