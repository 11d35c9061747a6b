"""Files of tracks: the boxes of several people, frame by frame, as trackers write them."""

import csv
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_text
from kimnet_jax.core.json_files import parse_json

Tracks = dict[int, dict[int, np.ndarray]]  # by the index of the frame, and there by the person's number: float32 [4]

_MOT_COLUMNS = 'frame, id, left, top, width, height'
_PERSON = 1  # the class of pedestrians in the ground truth of MOTChallenge
_MOST = 2**53  # beyond it, numbers in JSON and CSV are not exact


class _Row(NamedTuple):
    where: str
    frame: int
    person: int
    box: np.ndarray


def read_tracks(path: str | pathlib.Path) -> Tracks:
    """The tracks of a video.

    Which of these a file is shows in its content:

    - MOTChallenge, a row `frame, id, left, top, width, height, ...` each, where frames, rows and columns of pixels count from 1.
      Of its ground truth (9 columns or more), what is to be ignored or no pedestrian is left out;
    - COCO results `[{"image_id", "track_id", "bbox": [x, y, width, height], ...}, ...]`, or a file of COCO annotations with
      `track_id`. Frames are the `images` in the order of their ids; where there are none, `image_id` is the frame, from 0;
    - JSON or CSV as `predict` writes it: `frame` (from 0), `id` and the box.

    Raises:
        InputError: naming the file and the row that is wrong.
    """
    path = pathlib.Path(path)
    text = read_text(path, 'file of tracks', 'utf-8-sig')
    if text.lstrip()[:1] in ('[', '{'):
        rows = _json_rows(parse_json(text, str(path)), str(path))
    else:
        table = [(i, [cell.strip() for cell in row]) for i, row in enumerate(csv.reader(text.splitlines()), 1) if row]
        titled = bool(table) and re.search('[a-zA-Z]{2}', table[0][1][0])
        rows = _csv_rows(table, str(path)) if titled else _mot_rows(table, str(path))
    tracks: Tracks = {}
    for row in rows:
        if not np.isfinite(row.box).all() or (row.box[2:] <= row.box[:2]).any():
            raise InputError(f'{row.where}: the box is empty or not finite: {row.box.tolist()}')
        people = tracks.setdefault(row.frame, {})
        if row.person in people:
            raise InputError(f'{row.where}: id {row.person} is twice in frame {row.frame}')
        people[row.person] = row.box
    if not tracks:
        raise InputError(f'{path}: no tracks in it')
    return tracks


def _mot_rows(table: Sequence[tuple[int, list[str]]], source: str) -> Iterator[_Row]:
    for number, cells in table:
        where = f'{source}: line {number}'
        if len(cells) < 6:
            raise InputError(f'{where}: {len(cells)} columns; MOTChallenge has {_MOT_COLUMNS}, ...')
        frame, person, *place = _numbers(cells[:6], where)
        if len(cells) >= 9:
            flag, kind = _numbers(cells[6:8], where)
            if kind > 0 and (not flag or kind != _PERSON):  # trackers write -1
                continue
        if frame < 1:
            raise InputError(f'{where}: frame {frame:g}; MOTChallenge counts frames from 1')
        left, top, width, height = place
        box = np.array([left - 1, top - 1, left - 2 + width, top - 2 + height], np.float32)
        yield _Row(where, _whole(frame, where, 'frame') - 1, _person(person, where), box)


def _csv_rows(table: Sequence[tuple[int, list[str]]], source: str) -> Iterator[_Row]:
    (_, header), *rest = table
    columns = ('frame', 'id', 'x0', 'y0', 'x1', 'y1')
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(f'{source}: no column {missing[0]!r}; a CSV of tracks has {", ".join(columns)}')
    for number, cells in rest:
        where = f'{source}: line {number}'
        if len(cells) != len(header):
            raise InputError(f'{where}: {len(cells)} columns, the header has {len(header)}')
        frame, person, *box = _numbers([cells[header.index(name)] for name in columns], where)
        yield _Row(where, _whole(frame, where, 'frame'), _person(person, where), np.array(box, np.float32))


def _json_rows(data: Any, source: str) -> Iterator[_Row]:
    if isinstance(data, dict) and isinstance(data.get('frames'), list):
        for i, record in enumerate(data['frames']):
            where = f"{source}: field 'frames', entry {i}"
            frame, person, *box = _fields(record, where, ('frame', 'id'), 'box')
            yield _Row(where, _whole(frame, where, 'frame'), _person(person, where), np.array(box, np.float32))
        return
    order: Mapping[Any, int] | None = None
    name, records = '', data
    if isinstance(data, dict):
        if not isinstance(data.get('annotations'), list):
            raise InputError(f"{source}: neither 'frames' (as predict writes them) nor COCO's 'annotations' in it")
        name, records = "field 'annotations', ", data['annotations']
        images = data.get('images')
        if isinstance(images, list):
            ids = set()
            for i, image in enumerate(images):
                number = image.get('id') if isinstance(image, dict) else None
                if not isinstance(number, int):
                    raise InputError(f"{source}: field 'images', entry {i}: id is {number!r}, expected a whole number")
                ids.add(number)
            order = {number: place for place, number in enumerate(sorted(ids))}
    for i, record in enumerate(records):
        where = f'{source}: {name}entry {i}'
        image, person, x, y, width, height = _fields(record, where, ('image_id', 'track_id'), 'bbox')
        if order is not None and image not in order:
            raise InputError(f"{where}: image_id {image:g} is not in the file's images")
        frame = _whole(image, where, 'image_id') if order is None else order[image]
        yield _Row(where, frame, _person(person, where), np.array([x, y, x + width, y + height], np.float32))


def _fields(record: Any, where: str, scalars: Sequence[str], box: str) -> list[float]:
    if not isinstance(record, dict):
        raise InputError(f'{where}: {str(record)[:40]!r}, expected an object with {", ".join([*scalars, box])}')
    missing = [name for name in (*scalars, box) if name not in record]
    if missing:
        hint = '; a file of detections has no tracks, see --detect' if missing[0] in ('track_id', 'id') else ''
        raise InputError(f'{where}: no field {missing[0]!r}{hint}')
    if not isinstance(record[box], list) or len(record[box]) != 4:
        raise InputError(f'{where}: {box} is {str(record[box])[:60]!r}, expected four numbers')
    return _numbers([*(record[name] for name in scalars), *record[box]], where)


def _numbers(values: Sequence[Any], where: str) -> list[float]:
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError('true and false are none')
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f'{where}: not a number ({error})') from error
    if not np.isfinite(numbers).all():
        raise InputError(f'{where}: a number is not finite')
    return numbers


def _whole(value: float, where: str, name: str) -> int:
    if value != int(value) or not 0 <= value < _MOST:
        raise InputError(f'{where}: {name} {value:g} is no whole number from 0 on')
    return int(value)


def _person(value: float, where: str) -> int:
    if value == -1:
        raise InputError(
            f'{where}: id -1 says that nobody is tracked; give the output of a tracker, or find people with --detect'
        )
    return _whole(value, where, 'id')
