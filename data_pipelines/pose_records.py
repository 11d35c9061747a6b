"""Poses record by record, as `predict` writes them to JSON and CSV: one for each person in each frame; and the clips they make.

A record has `frame`, and may have `time` (seconds) and `id` (the person; without it there is one). D is 2 (pixels) or 3.
"""

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_text, write_text
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.pose_windows import extent
from kimnet_jax.core.skeleton import SKELETONS, Skeleton, get_skeleton, make_skeleton
from kimnet_jax.data_pipelines.poses import Estimates
from kimnet_jax.data_pipelines.sequence_files import check_boxes, check_joints, check_size

_SPARSEST = 100  # frames of a video for each record, beyond `_SHORT`
_SHORT = 100_000  # frames of a video, however few have a record
_BOX = ('x0', 'y0', 'x1', 'y1')


class Records(NamedTuple):
    """Attributes:
    persons: [R], the id of the person of each record, None where the file has none.
    frames: [R], numbers of frames.
    joints: float32 [R, J, D]; NaN where one is missing.
    scores: float32 [R, J].
    boxes: float32 [R, 2 * D].
    times: [R], seconds; None: unknown.
    """

    persons: list[int | str | None]
    frames: list[int]
    joints: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    times: list[float] | None = None


class Clips(NamedTuple):
    """Attributes:
    clips: a person each, in the order of their first records.
    places: [R], the clip of each record and the frame in it.
    """

    clips: list[Estimates]
    places: list[tuple[int, int]]

    def at_records(self, joints: Sequence[np.ndarray]) -> np.ndarray:
        """Of joints [T, J, D] of each clip, those of the records, [R, J, D]."""
        return np.stack([joints[clip][t] for clip, t in self.places])


def clips_of(
    records: Records, source: str, name: str, image_size: Any, *, rate: float | None = None, count: int | None = None
) -> Clips:
    """A clip of each person, from the first of its frames to the last; frames in between without a record have NaN for joints.

    Args:
        records: of a file.
        source: what errors name.
        name: of the clip; of several, their ids are added.
        image_size: (rows, columns), zeros where there is no image.
        rate: frames per second, for records without times; None: unknown.
        count: frames of the video; where there is one person, the clip has them all. None: unknown.

    Raises:
        InputError: a person is twice in a frame, or frames or times are not in order.
    """
    rows: dict[int | str | None, list[int]] = {}
    for row, person in enumerate(records.persons):
        rows.setdefault(person, []).append(row)
    check_joints(records.joints, source, records.frames)
    if records.boxes.shape[-1] == 4:
        check_boxes(records.boxes, source, records.frames)
    spread = max(records.frames) - min(records.frames) + 1
    if max(spread, count or 0) > _SHORT + _SPARSEST * len(records.frames):
        raise InputError(f'{source}: frames {min(records.frames)} to {max(records.frames)}, and poses of {len(records.frames)}')
    clips, places = [], [(0, 0)] * len(records.frames)
    for person, found in rows.items():
        numbers = np.array([records.frames[row] for row in found])
        _check_order(numbers, person, source)
        first, last = int(numbers[0]), int(numbers[-1])
        if len(rows) == 1 and count is not None:
            first, last = 0, max(last, count - 1)
        frames = np.arange(first, last + 1)
        present = np.isin(frames, numbers)
        joints = np.full((len(frames), *records.joints.shape[1:]), np.nan, np.float32)
        scores = np.zeros(joints.shape[:2], np.float32)
        joints[present], scores[present] = records.joints[found], records.scores[found]
        boxes = np.stack([np.interp(frames, numbers, side) for side in records.boxes[found].T], -1).astype(np.float32)
        label = name if len(rows) == 1 else f'{name}:{person}'
        times = _times_of(records, found, frames, numbers, source)
        if times is None and rate is not None:
            times = frames / rate
        clips.append(Estimates(label, joints, scores, boxes, image_size, None, person, frames, times, present))
        for row, number in zip(found, numbers, strict=True):
            places[row] = (len(clips) - 1, int(number) - first)
    return Clips(clips, places)


def _check_order(numbers: np.ndarray, person: int | str | None, source: str) -> None:
    bad = np.flatnonzero(np.diff(numbers) <= 0)
    if not len(bad):
        return
    before, after = numbers[bad[0] : bad[0] + 2]
    if before == after:
        remedy = 'give each person an id' if person is None else f'both with id {person!r}'
        raise InputError(f'{source}: frame {after} is there twice; {remedy}')
    raise InputError(f'{source}: frame {after} comes after frame {before}; give the frames in their order')


def _times_of(records: Records, rows: list[int], frames: np.ndarray, numbers: np.ndarray, source: str) -> np.ndarray | None:
    """float64 [T], on lines between the records, and beyond them as between the first two and the last two."""
    if records.times is None:
        return None
    known = np.array([records.times[row] for row in rows], np.float64)
    bad = np.flatnonzero(np.diff(known) < 0)
    if len(bad):
        i = bad[0]
        raise InputError(f'{source}: frame {numbers[i + 1]} is at {known[i + 1]:g} s, frame {numbers[i]} at {known[i]:g} s')
    times = np.interp(frames, numbers, known)
    if len(known) > 1:
        steps = np.diff(known) / np.diff(numbers)
        times += np.minimum(frames - numbers[0], 0) * steps[0] + np.maximum(frames - numbers[-1], 0) * steps[-1]
    return times


class RecordFile(NamedTuple):
    """A JSON or CSV file of ours.

    Attributes:
        data: what the file has: JSON's object, or a table's rows, the header first.
        clips: of its persons.
        skeleton: of its joints.
        about: what it tells of the video; a table tells nothing.
    """

    data: Any
    clips: Clips
    skeleton: Skeleton
    about: Mapping[str, Any]


def read_pose_json(path: pathlib.Path) -> RecordFile:
    """A file of `predict`. A joint `[null, null]` is missing.

    Poses in 3D need no `width`, `height` and `box`; `scores`, `time` and `id` are needed nowhere.

    Raises:
        InputError: naming the file, the frame and the field that is wrong.
    """
    data = read_json(path, 'file of poses')
    try:
        about, frames = data['about'], data['frames']
        skeleton = get_skeleton(about['skeleton'])
        if not isinstance(frames, list) or not frames:
            raise InputError(f'{path}: no frames in it')
        dims = np.shape(frames[0].get('joints', ()))[-1:]
        spatial = dims in ((3,), (6,))
        sizeless = spatial or not {'width', 'height'} & set(about)
        size = np.array([about.get(key, 0) if sizeless else about[key] for key in ('height', 'width')], np.float64)
        rate, count = about.get('rate'), data.get('frame_count')
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f'{path}: not a file of poses that predict wrote ({type(error).__name__}: {error})') from error
    if not sizeless:
        check_size(size, str(path))
    for name, value in (('about.rate', rate), ('frame_count', count)):
        if value is not None and (not isinstance(value, int | float) or not 0 < value < 1e9):
            raise InputError(f'{path}: {name} is {value!r}: must be a positive number')
    joints = _column(path, frames, 'joints', (skeleton.num_joints, dims[0] if spatial else 2))
    scores = np.isfinite(joints).all(-1).astype(np.float32)
    if 'scores' in frames[0]:
        scores = _column(path, frames, 'scores', (skeleton.num_joints,))
    boxes = extent(joints) if spatial else _column(path, frames, 'box', (4,))
    numbers, times = _numbers_of(path, frames)
    records = Records([_person(path, frame, i) for i, frame in enumerate(frames)], numbers, joints, scores, boxes, times)
    clips = clips_of(records, str(path), path.stem, size, rate=rate, count=None if count is None else int(count))
    return RecordFile(data, clips, skeleton, about)


def _column(path: pathlib.Path, frames: list[dict[str, Any]], key: str, shape: tuple[int, ...]) -> np.ndarray:
    values = []
    for i, frame in enumerate(frames):
        try:
            with np.errstate(over='ignore'):
                value = np.array(frame[key], np.float32)  # null becomes NaN
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}: frame {i}: field {key!r} is missing or not of numbers') from error
        if value.shape != shape:
            raise InputError(f'{path}: frame {i}: {key} of shape {list(value.shape)}, expected {list(shape)}')
        values.append(value)
    return np.stack(values)


def _numbers_of(path: pathlib.Path, frames: list[dict[str, Any]]) -> tuple[list[int], list[float] | None]:
    """The numbers of the frames, and their times where all have one."""
    numbers: list[Any] = [frame.get('frame') for frame in frames]
    if all(number is None for number in numbers):
        numbers = [*range(len(frames))]
    for i, number in enumerate(numbers):
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise InputError(f"{path}: frame {i}: field 'frame' is {number!r}: must be a number from 0 on")
    if not any('time' in frame for frame in frames):
        return numbers, None
    times: list[Any] = [frame.get('time') for frame in frames]
    for number, time in zip(numbers, times, strict=True):
        if not isinstance(time, int | float) or not abs(time) < 1e9:
            raise InputError(f"{path}: frame {number}: field 'time' is {time!r}: must be a number of seconds")
    return numbers, times


def _person(path: pathlib.Path, frame: dict[str, Any], i: int) -> int | str | None:
    person = frame.get('id')
    if isinstance(person, bool) or not isinstance(person, int | str | None):
        raise InputError(f"{path}: frame {i}: field 'id' is {person!r}: must be a whole number or a name")
    return person


def rewrite_json(found: RecordFile, path: pathlib.Path, joints: Sequence[np.ndarray], changed: Mapping[str, Any]) -> None:
    """The same file with joints [T, J, D] of each clip; `changed`, if not empty: by what, for `refined`. Whole or not at all."""
    data = found.data
    records = [
        frame | {'joints': pose} for frame, pose in zip(data['frames'], _plain(found.clips.at_records(joints)), strict=True)
    ]
    rest = {key: value for key, value in data.items() if key not in ('about', 'frames')}
    _write_json(path, data['about'] | ({'refined': dict(changed)} if changed else {}), records, rest)


def write_json(path: pathlib.Path, clips: Sequence[Estimates], skeleton: Skeleton, about: Mapping[str, Any], count: int) -> None:
    """Clips as a file of `predict`, `count` frames long; a frame of a clip that has no joint gets no record."""
    size = clips[0].image_size
    known = {'height': int(size[0]), 'width': int(size[1])} if np.all(size) else {}
    about = {**known, **about, 'skeleton': skeleton.described(), 'joints': skeleton.joints}
    _write_json(path, about, [record for *_, record in _records(clips)], {'frame_count': count})


def _write_json(path: pathlib.Path, about: Mapping[str, Any], records: list[dict[str, Any]], rest: Mapping[str, Any]) -> None:
    lines = ',\n'.join(json.dumps(record, allow_nan=False) for record in records)
    others = ''.join(f',\n{json.dumps(key)}: {json.dumps(value)}' for key, value in rest.items())
    write_text(path, f'{{"about": {json.dumps(about)},\n"frames": [\n{lines}\n]{others}}}\n')


def _records(clips: Sequence[Estimates]) -> list[tuple[int, int, dict[str, Any]]]:
    """(frame, number of the clip, record), in the order of the frames."""
    found = []
    for i, clip in enumerate(clips):
        frames = np.arange(len(clip.joints)) if clip.frames is None else clip.frames
        for t in np.flatnonzero(np.isfinite(clip.joints).all(-1).any(-1)):
            record: dict[str, Any] = {'frame': int(frames[t])}
            record |= {} if clip.times is None else {'time': round(float(clip.times[t]), 6)}
            record |= {} if clip.person is None else {'id': clip.person}
            record |= {'box': np.round(clip.boxes[t].astype(np.float64), 2).tolist(), 'joints': _plain(clip.joints[t])}
            found.append((int(frames[t]), i, record | {'scores': np.round(clip.scores[t].astype(np.float64), 4).tolist()}))
    return sorted(found, key=lambda one: one[:2])


def _plain(joints: np.ndarray) -> list[Any]:
    """Nested lists of short numbers, null where one is missing; a hundredth of a pixel is beyond what any model tells."""
    points = np.round(joints.astype(np.float64), 2 if joints.shape[-1] == 2 else 6)
    return np.where(np.isfinite(points), points, None).tolist()  # type: ignore[call-overload]


def read_pose_csv(path: pathlib.Path, wanted: Skeleton | None = None) -> RecordFile:
    """A table of `predict`: `frame` and, for each joint, its name with `_x` and `_y`; `time`, `id`, box and scores as they are.

    An empty cell is a missing number. The skeleton is `wanted` where its joints are those of the table, or else by `skeleton_of`.
    Raises `InputError` naming the file, the row and the column that is wrong.
    """
    rows = read_cells(path)
    if len(rows) < 2:
        raise InputError(f'{path}: no frames in it')
    header, body = rows[0], rows[1:]
    if len(set(header)) < len(header):
        raise InputError(f'{path}: two columns have the same name')
    column = {name: i for i, name in enumerate(header)}
    joints = [name.removesuffix('_x') for name in header if name.endswith('_x')]
    missing = [name for name in ('frame', *(f'{joint}_y' for joint in joints)) if name not in column]
    if missing or not joints:
        raise InputError(f'{path}: no column {(missing or ["..._x"])[0]!r}; give a table that predict wrote')
    if '' in joints:
        raise InputError(f"{path}: column '_x' has no joint's name")
    skeleton = wanted if wanted is not None and set(wanted.joints) == set(joints) else skeleton_of(joints, path)

    def numbers(name: str, whole: bool = False) -> np.ndarray:
        found = np.empty(len(body))
        for i, row in enumerate(body):
            text = row[column[name]].strip() if len(row) == len(header) else None
            try:
                found[i] = np.nan if text == '' else float(text or 'none')
                if (whole or text != '') and not (np.isfinite(found[i]) and (not whole or found[i].is_integer())):
                    raise ValueError
            except ValueError:
                what = f'{len(row)} cells, the header has {len(header)}' if text is None else f'{name} is {text!r}: no number'
                raise InputError(f'{path}: row {i + 2}: {what}') from None
        return found

    poses = np.stack([np.stack([numbers(f'{joint}_{axis}') for axis in 'xy'], -1) for joint in skeleton.joints], 1)
    with np.errstate(over='ignore'):
        poses = poses.astype(np.float32)
    scores = np.isfinite(poses).all(-1).astype(np.float32)
    if all(f'{joint}_score' in column for joint in skeleton.joints):
        scores = np.nan_to_num(np.stack([numbers(f'{joint}_score') for joint in skeleton.joints], 1)).astype(np.float32)
    boxed = all(name in column for name in _BOX)
    boxes = np.stack([numbers(name) for name in _BOX], -1).astype(np.float32) if boxed else extent(poses)
    frames = numbers('frame', whole=True)
    if (frames < 0).any() or (frames > 1e9).any():
        raise InputError(f'{path}: row {np.flatnonzero((frames < 0) | (frames > 1e9))[0] + 2}: frame must be a number from 0 on')
    times = numbers('time') if 'time' in column else None
    if times is not None and not np.isfinite(times).all():
        raise InputError(f'{path}: row {np.flatnonzero(~np.isfinite(times))[0] + 2}: time is missing')
    persons = [_id_of(row[column['id']]) if 'id' in column else None for row in body]
    records = Records(persons, frames.astype(int).tolist(), poses, scores, boxes, None if times is None else times.tolist())
    return RecordFile(rows, clips_of(records, str(path), path.stem, np.zeros(2, int)), skeleton, {})


def read_cells(path: pathlib.Path) -> list[list[str]]:
    """The rows of a table with commas. Raises `InputError` where it is none."""
    try:
        return list(csv.reader(io.StringIO(read_text(path, 'file of poses', 'utf-8-sig'), newline='')))
    except csv.Error as error:
        raise InputError(f'{path}: not a table with commas ({error})') from error


def write_cells(path: pathlib.Path, rows: Sequence[Sequence[Any]]) -> None:
    """Writes a table with commas, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    write_text(path, text.getvalue())


def _id_of(text: str) -> int | str | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else text or None


def skeleton_of(joints: Sequence[str], source: object) -> Skeleton:
    """The skeleton that has these joints, in any order; of `point0`, `point1`, ... the one without names; else one of their own.

    Raises `InputError` naming `source` where they are too many.
    """
    known = (*SKELETONS.values(), get_skeleton(f'points{len(joints)}'))
    if found := next((skeleton for skeleton in known if set(skeleton.joints) == set(joints)), None):
        return found
    try:
        return make_skeleton('own', joints)
    except InputError as error:
        raise InputError(f'{source}: {error}') from error


def rewrite_csv(found: RecordFile, path: pathlib.Path, joints: Sequence[np.ndarray], changed: Mapping[str, Any]) -> None:
    """The same table with joints [T, J, 2] of each clip; a table has no place for what `changed` them. Whole or not at all."""
    header, *body = found.data
    column = {name: i for i, name in enumerate(header)}
    rows = []
    for row, pose in zip(body, _plain(found.clips.at_records(joints)), strict=True):
        row = list(row)
        for joint, point in zip(found.skeleton.joints, pose, strict=True):
            for axis, value in zip('xy', point, strict=True):
                row[column[f'{joint}_{axis}']] = '' if value is None else value
        rows.append(row)
    write_cells(path, [header, *rows])


def write_csv(path: pathlib.Path, clips: Sequence[Estimates], skeleton: Skeleton) -> None:
    """Clips as a table of `predict`, with the columns that are known; a frame of a clip that has no joint gets no row."""
    records = _records(clips)
    timed, named = (all(key in record for *_, record in records) for key in ('time', 'id'))
    columns = ['frame', *(['time'] if timed else []), *(['id'] if named else []), *_BOX]
    rows: list[list[Any]] = [[*columns, *(f'{joint}_{part}' for joint in skeleton.joints for part in ('x', 'y', 'score'))]]
    for *_, record in records:
        known = [record[key] for key in columns if key not in _BOX]
        cells = [n for point, score in zip(record['joints'], record['scores'], strict=True) for n in (*point, score)]
        rows.append([*known, *record['box'], *('' if cell is None else cell for cell in cells)])
    write_cells(path, rows)
