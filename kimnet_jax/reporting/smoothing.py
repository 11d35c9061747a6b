"""The filters that every refined result is set beside, and its tables: a filter that smooths too much loses PCK.

The parameters are usual ones, chosen once and tuned on nothing. The clips of the tables state no rate: all are taken to have
`RATE`, so that the settings of `core.filters`, in seconds, are the numbers of frames that the tables are about. Missing joints
are filled in by lines before a filter.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from kimnet_jax.core.filters import Filter, Gaussian, OneEuro, SavitzkyGolay
from kimnet_jax.core.pose_windows import fill_gaps
from kimnet_jax.core.sequence import interpolate, sampled_frames
from kimnet_jax.core.types import Array
from kimnet_jax.metrics import MEAN, NORMALISERS
from kimnet_jax.reporting.tables import SMOOTHNESS, number, percent, render, table

RAW = 'raw input'
RATE = 30.0  # frames per second, nominal
_WINDOW, _SIGMA = 10, 2  # frames: from the first to the last of a window of 11, and a standard deviation
_SUMMARY = ('0.05', '0.1', '0.2')
SPATIAL_COLUMNS = {'mpjpe': 'MPJPE', 'pa_mpjpe': 'PA-MPJPE', 'acceleration': 'Acceleration error', 'jitter': 'Jitter'}


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
        'One-Euro': _filtering(OneEuro()),
        'Savitzky-Golay': _filtering(SavitzkyGolay(window=_WINDOW / RATE)),
        'Gaussian': _filtering(Gaussian(sigma=_SIGMA / RATE)),
        f'lines, every {_ordinal(interval)} frame': lambda poses, boxes: linear(poses, interval=interval),
    }


def _filtering(smooth: Filter) -> Callable[[Array, Array], np.ndarray]:
    return lambda poses, boxes: smooth(fill_gaps(poses), boxes, np.arange(len(poses)) / RATE)


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
