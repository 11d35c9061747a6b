"""RPSTN's released evaluation of a run, to judge numbers of its kind: one window of a clip, by `released.metrics`."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kimnet_jax.core import geometry, heatmap
from kimnet_jax.core.types import Array, Clips, Example, Prediction
from kimnet_jax.released.metrics import RPSTN_FRAMES, peaks, rpstn_accuracy_of_peaks, rpstn_average, rpstn_corners
from kimnet_jax.reporting.tables import MEAN_POSE, RANDOM, table

TRUTH = 'truth'  # as if it were a prediction
COLUMNS: dict[str, dict[str, Any]] = {  # heading -> the arguments of RPSTN's accuracy, and which of its values
    'PCK, 1 torso': {'threshold': 1.0},
    'PCK, 0.2 torso': {'threshold': 0.2},
    'PCK, 0.2 box': {'threshold': 0.2, 'torso': False},
    'PCKh, 0.5': {'key': 'pckh'},
    'acc': {'key': 'acc'},
}
_SEED = 10480  # of RPSTN's Penn Action loader, plus the number of the clip
_PER_FRAME = ('frames', 'joints', 'visible', 'boxes')


class OneWindow:
    """The clips of a split, of each only the 5 frames that count; a shorter clip stays as it is.

    The window of clip i begins at a draw of RandomState(10480 + i), as in RPSTN's loader. There i follows the order in which the
    file system lists the clips; here it follows the order of the data set, so that the windows are the same everywhere.
    """

    def __init__(self, source: Clips):
        self.source = source
        self.folder, self.split, self.skeleton = source.folder, source.split, source.skeleton
        self.lengths: Sequence[int] = [min(length, RPSTN_FRAMES) for length in source.lengths]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = dict(self.source[index])
        first = self.first(index)
        return example | {key: example[key][first : first + RPSTN_FRAMES] for key in _PER_FRAME}

    def first(self, index: int) -> int:
        """The first frame of a clip's window."""
        starts = max(self.source.lengths[index] - RPSTN_FRAMES, 0) + 1
        return int(np.random.RandomState(_SEED + index).randint(starts))


@dataclasses.dataclass(frozen=True)
class Crop:
    """Pixels of the image to cells of heatmaps as in the run: `input_size` and `box_scale` of its data, `stride` of its maps."""

    input_size: int
    box_scale: float
    stride: int

    def cells(self, points: Array, boxes: Array) -> np.ndarray:
        """[T, J, 2] pixels of the image and boxes [T, 4] -> the nearest cells [T, J, 2], those outside moved to the border."""
        last = self.input_size // self.stride - 1
        return np.clip(np.rint(heatmap.pixels_to_cells(self._pixels(points, boxes), self.stride)), 0, last)

    def targets(self, joints: Array, boxes: Array) -> np.ndarray:
        """Peaks [T, J, 2] of the target maps of joints [T, J, 2]; (0, 0) where the joint lies outside the crop."""
        size = self.input_size // self.stride
        return peaks(heatmap.encode(self._pixels(joints, boxes), (size, size), stride=self.stride, centre='cell'))[0]

    def _pixels(self, points: Array, boxes: Array) -> np.ndarray:
        centre, side = geometry.square_of_box(boxes, self.box_scale)
        return geometry.apply_affine(geometry.crop_matrix(centre, side, self.input_size), points)


def measure(clips: OneWindow, predictions: Iterable[Prediction], crop: Crop) -> dict[str, Any]:
    """RPSTN's numbers: heading of `COLUMNS` -> `mean` and `joints` {joint: value}; see `released.rpstn_average`.

    A prediction whose heatmap has no positive value counts at cell (0, 0), as in the release.

    Raises:
        InputError: RPSTN has no rule for the skeleton.
    """
    size = crop.input_size // crop.stride
    results: dict[str, list[dict[str, Any]]] = {heading: [] for heading in COLUMNS}
    for clip, joints, maxima in predictions:
        example = clips[clip]
        pred, target = crop.cells(joints, example['boxes']), crop.targets(example['joints'], example['boxes'])
        if maxima is not None:
            pred = np.where((np.asarray(maxima) > 0)[..., None], pred, 0)
        corners = rpstn_corners(example['boxes'])
        for heading, options in COLUMNS.items():
            arguments = {key: value for key, value in options.items() if key != 'key'}
            result = rpstn_accuracy_of_peaks(pred, target, clips.skeleton.name, corners, size=(size, size), **arguments)
            results[heading].append(result)
    values = {}
    for heading, options in COLUMNS.items():
        each, mean = rpstn_average(results[heading], options.get('key', 'pck'))
        values[heading] = {'mean': mean, 'joints': dict(zip(clips.skeleton.joints, map(float, each), strict=True))}
    return values


def released_report(title: str, rows: Mapping[str, Any], *, clips: OneWindow, notes: Sequence[str] = ()) -> dict[str, Any]:
    """The results as one dict of plain values, ready for JSON.

    Args:
        title: heading; says what was evaluated.
        rows: name -> `measure`, in the order of the table; `RANDOM` and `MEAN_POSE` must be among them.
        clips: what was evaluated.
        notes: sentences under the heading.

    Raises:
        ValueError: a reference row is missing.
    """
    missing = [name for name in (RANDOM, MEAN_POSE) if name not in rows]
    if missing:
        raise ValueError(f'no row {missing[0]!r} among {list(rows)}: without it the numbers cannot be judged')
    notes, short = list(notes), sum(length < RPSTN_FRAMES for length in clips.lengths)
    if short:
        notes.append(f'{short} clips have fewer than {RPSTN_FRAMES} frames and count with all of them.')
    return {
        'title': title,
        'protocol': 'released',
        'notes': notes,
        'warning': _warning(rows[RANDOM]),
        'clips': len(clips),
        'frames': sum(clips.lengths),
        'rows': dict(rows),
    }


def render(report: Mapping[str, Any]) -> str:
    """The table of a report as Markdown, aligned; shares of 1, as RPSTN prints them."""
    lines = [[name, *(f'{row[heading]["mean"]:.3f}' for heading in COLUMNS)] for name, row in report['rows'].items()]
    blocks = [
        f'# {report["title"]}',
        "## RPSTN's released evaluation (protocol `released`)",
        f'**{report["warning"]}**',
        *report['notes'],
        f'One window of {RPSTN_FRAMES} frames of each of {report["clips"]} clips. Shares of 1, means over joints.',
        table(['', *COLUMNS], lines),
        'PCK, 1 torso: what its training reports and chooses checkpoints by. PCK, 0.2 torso: what its test scripts report. '
        'acc: nearer than half of a tenth of the map, after 1 is added to both components of the distance.',
    ]
    return '\n\n'.join(blocks) + '\n'


def _warning(chance: Mapping[str, Any]) -> str:
    heading = max(COLUMNS, key=lambda name: chance[name]['mean'])
    return (
        'Not to be compared with any other table: here random predictions can score 1.0 and perfect ones 0. '
        f'On these clips random joints score {chance[heading]["mean"]:.3f} in "{heading}".'
    )
