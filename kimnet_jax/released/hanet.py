"""HANet's released evaluation of a run, to judge numbers of its kind, by `released.metrics`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kimnet_jax.core.pose_windows import RefineFunction, WindowConfig, fill_gaps, reference_frame
from kimnet_jax.core.types import Pairs
from kimnet_jax.released.metrics import HANET_THRESHOLDS, hanet_evaluate_2d, hanet_windows
from kimnet_jax.reporting.tables import table

ROWS = {
    'output': 'all frames',
    'input': 'raw input',
    'linear_interp': 'lines between sampled frames',
    'denosie': 'sampled frames, refined',
    'improvement': 'all frames less raw input',
    'relative_improvement': 'all frames less sampled input',
}
_WARNING = (
    'Not to be compared with any other table: clips count alike whatever their length, frames after the last whole window are '
    'dropped, frames that pad a short clip count, where the padded input is always right, and every joint counts, seen or not.'
)


def measure(
    pairs: Pairs, functions: tuple[RefineFunction, RefineFunction], windows: WindowConfig, interval: int
) -> dict[str, float]:
    """The means over clips of `released.metrics.hanet_evaluate_2d`.

    Args:
        pairs: of a split, 2D; missing joints are filled in by lines.
        functions: the network's final and refined poses, on normalised windows.
        windows: their length and normalisation; the windows of the release begin every `interval` frames.
        interval: N of the network.
    """
    results = []
    for i in range(len(pairs)):
        pair = pairs(i)
        estimates = pair.estimates
        rows, columns = (int(n) for n in estimates.image_size)
        shares = np.array([columns, rows], np.float32)
        boxes = hanet_windows(estimates.boxes, windows.length, interval)
        parts = (fill_gaps(estimates.joints) / shares, pair.joints / shares)
        estimated, truth = (part.reshape(len(part), -1).astype(np.float32) for part in parts)

        def refine(poses: np.ndarray, shares: np.ndarray = shares, boxes: np.ndarray = boxes) -> tuple[np.ndarray, np.ndarray]:
            pixels = poses.reshape(*poses.shape[:2], -1, 2) * shares
            frames = [reference_frame(box[box.any(-1)], shares[::-1], windows.normalise) for box in boxes]
            origin, unit = (np.stack(part)[:, None, None] for part in zip(*frames, strict=True))
            inputs = ((pixels - origin) / unit).reshape(poses.shape).astype(np.float32)
            every = np.ones(inputs.shape[:2], bool)  # the release knows no padding
            final, refined = (np.asarray(one(inputs, every)).reshape(pixels.shape) * unit + origin for one in functions)
            return (final / shares).reshape(poses.shape), (refined / shares).reshape(poses.shape)

        sequence = (estimated, truth, np.asarray(pair.boxes).astype(np.int32))
        intervals = (windows.length - 1) // interval
        results.append(hanet_evaluate_2d(refine, [sequence], (rows, columns), interval=interval, window=intervals, step=1))
    return {key: float(np.mean([result[key] for result in results])) for key in results[0]}


def released_report(
    title: str,
    pairs: Pairs,
    functions: tuple[RefineFunction, RefineFunction],
    windows: WindowConfig,
    *,
    interval: int,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The results as one dict of plain values; arguments as of `measure`."""
    lengths = [len(pairs(i).joints) for i in range(len(pairs))]
    dropped = sum((length - windows.length) % interval for length in lengths if length >= windows.length)
    padded = [length for length in lengths if length < windows.length]
    values = measure(pairs, functions, windows, interval)
    return {
        'title': title,
        'protocol': 'released',
        'warning': _WARNING,
        'notes': [*notes, f'{dropped} of {sum(lengths)} frames are dropped; {len(padded)} of {len(lengths)} clips are padded.'],
        'clips': len(lengths),
        'rows': {row: {str(t): values[f'{row}_pck_{_digits(t)}'] for t in HANET_THRESHOLDS} for row in ROWS},
    }


def render(report: Mapping[str, Any]) -> str:
    """The table of a report as Markdown; PCK by the longer side of the box, in percent."""
    lines = [
        [f'{row} ({text})', *(f'{100 * report["rows"][row][str(t)]:.2f}' for t in HANET_THRESHOLDS)] for row, text in ROWS.items()
    ]
    blocks = [
        f'# {report["title"]}',
        "## HANet's released evaluation (protocol `released`)",
        f'**{report["warning"]}**',
        *report['notes'],
        table(['', *(f'PCK@{t}' for t in HANET_THRESHOLDS)], lines),
    ]
    return '\n\n'.join(blocks) + '\n'


def _digits(threshold: float) -> str:
    return str(threshold).replace('.', '')
