"""Tables of poses of other tools: TRC (OpenSim, Pose2Sim, Sports2D), DeepLabCut's CSV and HDF5, read and written.

Nothing that a file holds is ever executed: HDF5 is read without pandas, which would unpickle what it finds there.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core import array_files
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import MAX_BYTES, draft_of, limit, read_text, require_file, write_text
from kimnet_jax.core.pose_windows import extent
from kimnet_jax.data_pipelines.pose_records import Clips, Records, clips_of, read_cells
from kimnet_jax.data_pipelines.poses import Estimates

H5_KEY = 'df_with_missing'  # DeepLabCut's
_LEVELS = ('scorer', 'individuals', 'bodyparts', 'coords')
_LIKELIHOOD = 'likelihood'
_TRC_HEADER = 5  # lines
_EXTRA = 'pip install "kimnet-jax[formats]"'


class Table(NamedTuple):
    """A table of poses.

    Attributes:
        names: of the joints.
        clips: a clip of each person, in the order of the names.
        cells: text of every row and column, the header included; empty where the file is no text.
        columns: (person, joint, axis) -> its column; a `.trc` has Z, 0 or empty, of poses in 2D, too.
        rows: number of a frame -> its row in the file.
        scorer: DeepLabCut's name of what found the poses.
    """

    names: tuple[str, ...]
    clips: Clips
    cells: list[list[str]]
    columns: Mapping[tuple[int, int, int], int]
    rows: Mapping[int, int]
    scorer: str = ''


def read_trc(path: pathlib.Path) -> Table:
    """A `.trc`. Where all Z are 0, poses are in 2D, as those of Sports2D in pixels. Raises `InputError` naming the line."""
    cells = [line.split('\t') for line in read_text(path, 'file of poses', 'utf-8-sig').splitlines()]
    if len(cells) < _TRC_HEADER or cells[0][0] != 'PathFileType' or cells[3][:2] != ['Frame#', 'Time']:
        raise InputError(f'{path}: not a .trc: its first lines are not those of the format')
    names = tuple('\t'.join(cells[3][2::3]).rstrip().split('\t')) if ''.join(cells[3][2:]).strip() else ()
    if not all(name.strip() for name in names) or len(set(names)) < len(names):
        raise InputError(f'{path}: line 4: a marker has no name, or two have the same')
    width = 2 + 3 * len(names)
    cells[_TRC_HEADER:] = [row + [''] * (width - len(row)) for row in cells[_TRC_HEADER:]]
    body = [(i, row) for i, row in enumerate(cells) if i >= _TRC_HEADER and ''.join(row).strip()]
    if not names or not body:
        raise InputError(f'{path}: no {"frames" if names else "markers"} in it')
    values = np.full((len(body), width), np.nan)
    for k, (i, row) in enumerate(body):
        for column, text in enumerate(row[:width]):
            values[k, column] = _number(text, f'{path}: line {i + 1}, column {column + 1}')
    if not np.isfinite(values[:, :2]).all() or (values[:, 0] < 0).any() or (values[:, 0] != np.floor(values[:, 0])).any():
        raise InputError(f'{path}: a line has no number of a frame, or no time')
    joints = values[:, 2:].reshape(len(body), len(names), 3)
    if not np.nan_to_num(joints[..., 2]).any():
        joints = joints[..., :2]
    numbers = values[:, 0].astype(int)
    clips = _clips_of(path, numbers, joints[:, None], np.isfinite(joints).all(-1)[:, None], [None], values[:, 1])
    columns = {(0, joint, axis): 2 + 3 * joint + axis for joint in range(len(names)) for axis in range(3)}
    return Table(names, clips, cells, columns, {int(number): i for number, (i, _) in zip(numbers, body, strict=True)})


def read_dlc_csv(path: pathlib.Path) -> Table:
    """DeepLabCut's CSV, with a level `individuals` or without. Raises `InputError` naming the row and column."""
    cells = read_cells(path)
    levels = [row[0] for row in cells[:4] if row and row[0] in _LEVELS]
    header, body = cells[: len(levels)], [(i, row) for i, row in enumerate(cells) if i >= len(levels) and row]
    labels = list(zip(*(row[1:] for row in header), strict=False))
    values = np.full((len(body), len(labels)), np.nan)
    for k, (i, row) in enumerate(body):
        if len(row) != len(labels) + 1:
            raise InputError(f'{path}: row {i + 1}: {len(row)} cells, the header has {len(labels) + 1}')
        for column, text in enumerate(row[1:]):
            values[k, column] = _number(text, f'{path}: row {i + 1}, column {column + 2}')
    first = [row[0].strip() for _, row in body]
    whole = all(text.isascii() and text.isdigit() and len(text) < 10 for text in first)
    numbers = np.array([int(text) for text in first] if whole else [*range(len(body))], int)  # paths of images: in their order
    table = _dlc_table(path, levels, labels, values, numbers)
    rows = {int(number): i for number, (i, _) in zip(numbers, body, strict=True)}
    columns = {place: column + 1 for place, column in table.columns.items()}
    return table._replace(cells=cells, rows=rows, columns=columns)


def read_dlc_h5(path: pathlib.Path) -> Table:
    """DeepLabCut's HDF5. Raises `InputError` where h5py is not installed, or the file is no such table."""
    require_file(path, 'file of poses')
    h5py = _extra('h5py', path)
    try:
        with h5py.File(path) as file:
            if H5_KEY not in file or 'table' not in file[H5_KEY]:
                raise InputError(f'{path}: no table {H5_KEY!r} in it, which files of DeepLabCut have')
            table, attributes = file[H5_KEY]['table'], file[H5_KEY].attrs
            if table.size * table.dtype.itemsize > limit(MAX_BYTES):
                raise InputError(
                    f'{path}: more than {limit(MAX_BYTES):,} bytes; if it is meant to be that large, set {MAX_BYTES}'
                )
            names = [name for name in table.dtype.names or () if name.startswith('values_block_')]
            levels = array_files.unpickle(bytes(attributes['info']))[1]['names']
            data = table[()]
            numbers = data['index']
            labels = [label for name in names for label in array_files.unpickle(bytes(table.attrs[f'{name}_kind']))]
            values = np.concatenate([np.asarray(data[name], np.float64).reshape(len(data), -1) for name in names], -1)
        if values.shape[1] != len(labels):
            raise ValueError(f'{values.shape[1]} columns, {len(labels)} names')
        whole = numbers.dtype.kind in 'iu' and (numbers >= 0).all() and (numbers < 1e9).all()
        numbers = numbers.astype(int) if whole else np.arange(len(values))
        labels = [tuple(map(str, label)) for label in labels]
    except InputError:
        raise
    except Exception as error:  # of h5py and pickle: on damaged files they raise all kinds
        raise InputError(f'{path}: cannot be read: cut short, or no table of DeepLabCut ({error})'.splitlines()[0]) from error
    rows = {int(number): i for i, number in enumerate(numbers)}
    return _dlc_table(path, list(levels), labels, values, numbers)._replace(rows=rows)


def _dlc_table(
    path: pathlib.Path, levels: Sequence[str], labels: Sequence[tuple[str, ...]], values: np.ndarray, numbers: np.ndarray
) -> Table:
    several = 'individuals' in levels
    if tuple(levels) != tuple(level for level in _LEVELS if several or level != 'individuals') or not labels:
        raise InputError(f'{path}: not a table of DeepLabCut: it must begin with the rows scorer, bodyparts and coords')
    if not len(values):
        raise InputError(f'{path}: no frames in it')
    at = {level: [label[i] for label in labels] for i, level in enumerate(levels)}
    persons: list[str | None] = [*dict.fromkeys(at['individuals'])] if several else [None]
    names = tuple(dict.fromkeys(at['bodyparts']))
    axes = [axis for axis in 'xyz' if axis in at['coords']]
    if axes[:2] != ['x', 'y']:
        raise InputError(f'{path}: no coords x and y in it; it has {", ".join(dict.fromkeys(at["coords"]))}')
    shape = len(values), len(persons), len(names)
    joints, scores = np.full((*shape, len(axes)), np.nan), np.full(shape, np.nan)
    columns = {}
    for column in range(len(labels)):
        person = persons.index(at['individuals'][column]) if several else 0
        joint, coordinate = names.index(at['bodyparts'][column]), at['coords'][column]
        if coordinate == _LIKELIHOOD:
            scores[:, person, joint] = values[:, column]
        elif coordinate in axes:
            joints[:, person, joint, axes.index(coordinate)] = values[:, column]
            if (person, joint, axes.index(coordinate)) in columns:
                raise InputError(f'{path}: {names[joint]} has two columns {coordinate!r}')
            columns[person, joint, axes.index(coordinate)] = column
    for person, joint, _ in columns:
        if missing := [axis for k, axis in enumerate(axes) if (person, joint, k) not in columns]:
            raise InputError(f'{path}: {names[joint]} has no column {missing[0]!r}')
    known = np.isfinite(joints).all(-1)
    ids = [int(person) if person is not None and person.isdecimal() and len(person) < 10 else person for person in persons]
    clips = _clips_of(path, numbers, joints, np.where(known, np.where(np.isfinite(scores), scores, 1), 0), ids, None)
    there = [i for i in range(len(persons)) if known[:, i].any()]
    columns = {(there.index(i), joint, axis): column for (i, joint, axis), column in columns.items() if i in there}
    return Table(names, clips, [], columns, {}, scorer=at['scorer'][0])


def _clips_of(
    path: pathlib.Path, numbers: np.ndarray, joints: np.ndarray, scores: np.ndarray, ids: Sequence[Any], times: Any
) -> Clips:
    """Of joints [T, persons, J, D]; a person is in the frames in which there is a joint."""
    with np.errstate(over='ignore'):
        joints = joints.astype(np.float32)
    there = np.isfinite(joints).all(-1).any(-1)
    persons, rows = np.nonzero(there.T)
    if not len(rows):
        raise InputError(f'{path}: no joint in any of its frames')
    poses = joints[rows, persons]
    boxes = np.concatenate([extent(poses[persons == person]) for person in np.unique(persons)])
    low, high = np.split(boxes, 2, -1)
    boxes = np.concatenate([low, np.maximum(high, low + 1)], -1)  # of a single joint, too
    seconds = None if times is None else times[rows].tolist()
    found = Records([ids[i] for i in persons.tolist()], numbers[rows].tolist(), poses, scores[rows, persons], boxes, seconds)
    return clips_of(found, str(path), path.stem, np.zeros(2, int))


def _number(text: str, where: str) -> float:
    text = text.strip()
    try:
        value = float(text) if text else np.nan
    except ValueError:
        value = np.inf
    if np.isinf(value):
        raise InputError(f'{where}: {text!r} is no number')
    return value


def rewrite_table(found: Table, joints: Sequence[np.ndarray]) -> list[list[Any]]:
    """The cells of a text with joints [T, J, D] of each clip; what is missing in them becomes an empty cell."""
    cells: list[list[Any]] = [list(row) for row in found.cells]
    depth = [0.0] * (3 - joints[0].shape[-1])
    for person, (clip, poses) in enumerate(zip(found.clips.clips, joints, strict=True)):
        assert clip.frames is not None
        assert clip.present is not None
        for t in np.flatnonzero(clip.present):
            row = cells[found.rows[int(clip.frames[t])]]
            for joint in range(len(found.names)):
                point = poses[t, joint] if np.isfinite(poses[t, joint]).all() else None
                for axis in range(3):
                    if (column := found.columns.get((person, joint, axis))) is not None:  # not every person has every joint
                        row[column] = '' if point is None else f'{[*point, *depth][axis]:.6g}'
    return cells


def write_trc_cells(path: pathlib.Path, cells: Sequence[Sequence[str]], names: Sequence[str]) -> None:
    """Writes a `.trc`, whole or not at all."""
    width = 2 + 3 * len(names)
    lines = ['\t'.join(row) + '\n' for row in cells[: _TRC_HEADER - 1]]
    for row in cells[_TRC_HEADER - 1 :]:
        lines.append(_trc_line([*row, *[''] * (width - len(row))][:width]) if ''.join(row).strip() else '\n')
    write_text(path, ''.join(lines))


def _trc_line(cells: Sequence[str]) -> str:
    """With a tab at its end: without, OpenSim does not see that the last cell is empty."""
    return '\t'.join(cells) + '\t\n'


def trc_text(name: str, names: Sequence[str], clip: Estimates, frames: np.ndarray, times: np.ndarray) -> str:
    """A `.trc` of one person, laid out as Sports2D does: in 2D, X and Y are pixels, Y downwards, Z is 0, and the unit says m.

    Args:
        name: of the file.
        names: of the joints.
        clip: its joints; NaN becomes an empty cell.
        frames: [T], numbers.
        times: [T], seconds.
    """
    count = len(frames)
    rate = round((count - 1) / (times[-1] - times[0]), 4) if count > 1 and times[-1] > times[0] else 1
    points = clip.joints.astype(np.float64)
    if points.shape[-1] == 2:
        points = np.concatenate([points, np.zeros((*points.shape[:2], 1))], -1)
    points = np.where(np.isfinite(points).all(-1, keepdims=True), points, np.nan)
    header = [
        f'PathFileType\t4\t(X/Y/Z)\t{name}',
        'DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames',
        f'{rate:g}\t{rate:g}\t{count}\t{len(names)}\tm\t{rate:g}\t{frames[0]}\t{count}',
        'Frame#\tTime\t' + '\t\t\t'.join(names) + '\t\t',
    ]
    rows = [['', '', *(f'{axis}{i}' for i in range(1, len(names) + 1) for axis in 'XYZ')]]
    for frame, time, row in zip(frames, times, points.reshape(count, -1), strict=True):
        rows.append([str(frame), f'{time:.6f}', *('' if np.isnan(n) else f'{n:.6g}' for n in row)])
    return ''.join(line + '\n' for line in header) + ''.join(map(_trc_line, rows))


def dlc_columns(
    names: Sequence[str], clips: Sequence[Estimates], scorer: str, count: int, several: bool
) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """(labels of the columns in the order of the levels, values float64 [count, columns]); NaN where a person is not there.

    `several`: with the level `individuals`.
    """
    axes = 'xyz'[: clips[0].joints.shape[-1]]
    coordinates = (*axes, _LIKELIHOOD) if len(axes) == 2 else tuple(axes)
    labels, values = [], np.full((count, len(clips), len(names), len(coordinates)), np.nan)
    for i, clip in enumerate(clips):
        frames = np.arange(len(clip.joints)) if clip.frames is None else clip.frames
        known = np.isfinite(clip.joints).all(-1)
        values[frames, i, :, : len(axes)] = np.where(known[..., None], clip.joints, np.nan)
        if len(axes) == 2:
            values[frames, i, :, 2] = np.where(known, clip.scores, np.nan)
        person = str(i if clip.person is None else clip.person)
        labels += [(scorer, *((person,) if several else ()), name, one) for name in names for one in coordinates]
    return labels, np.round(values.reshape(count, -1), 4)


def dlc_cells(labels: Sequence[tuple[str, ...]], values: np.ndarray) -> list[list[Any]]:
    """DeepLabCut's CSV."""
    levels = [level for level in _LEVELS if len(labels[0]) == 4 or level != 'individuals']
    header: list[list[Any]] = [[level, *(label[i] for label in labels)] for i, level in enumerate(levels)]
    return header + [[t, *('' if np.isnan(n) else f'{n:.7g}' for n in row)] for t, row in enumerate(values)]


def write_dlc_h5(
    path: pathlib.Path, labels: Sequence[tuple[str, ...]], values: np.ndarray, frames: Sequence[int] | None = None
) -> None:
    """DeepLabCut's HDF5, whole or not at all. Raises `InputError` where pandas or PyTables is not installed."""
    pandas = _extra('pandas', path)
    _extra('tables', path)
    levels = [level for level in _LEVELS if len(labels[0]) == 4 or level != 'individuals']
    columns = pandas.MultiIndex.from_tuples(labels, names=levels)
    with draft_of(path) as draft:
        pandas.DataFrame(values, columns=columns, index=frames).to_hdf(str(draft), key=H5_KEY, format='table', mode='w')


def _extra(name: str, path: pathlib.Path) -> Any:
    try:
        if name == 'h5py':
            import h5py as module
        elif name == 'tables':
            import tables as module
        else:
            import pandas as module
    except ModuleNotFoundError:
        raise InputError(f'{path}: {name} is needed for .h5 files: {_EXTRA}') from None
    return module
