"""MPII's persons: from SimpleBaseline's JSON files or the official MATLAB file; both are 1-based and become 0-based here."""

import collections
import math
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from kimnet_jax.core import json_files
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import MPII
from kimnet_jax.data_pipelines import matlab
from kimnet_jax.data_pipelines.builders.mpii.layout import SPLITS
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.persons import Person, Splits, held_out

J = MPII.num_joints
# What is left out or kept, as it is counted; to be read after a number.
NO_JOINTS = 'persons have no joints and are left out'
NO_SCALE = 'persons have no scale or no position, so no box, and are left out'
TRAINED_ON = 'persons of train are in an image of valid and are left out'
TWICE = 'joints are annotated twice; the first one is taken'


def read_json(files: dict[str, pathlib.Path]) -> tuple[Splits, list[Finding]]:
    """The persons of SimpleBaseline's split. No image is in both splits: valid keeps it.

    Args:
        files: split -> a list of {image, center [2], scale, joints [16, 2], joints_vis [16]}; what is missing is -1.

    Raises:
        InputError: naming file and entry: not JSON, a field is missing or not of its type, shape or range.
    """
    splits, findings = {}, []
    for split, file in files.items():
        entries = json_files.read_json(file)
        if not isinstance(entries, list):
            raise InputError(f'{file}: expected a list of persons')
        splits[split], found = _kept(_json_persons(file, entries))
        findings += found
    validated = {person.image for person in splits['valid']}
    shared = [person for person in splits['train'] if person.image in validated]
    splits['train'] = [person for person in splits['train'] if person.image not in validated]
    findings += [Finding('warning', person.image, TRAINED_ON) for person in shared]
    return _not_empty(splits, ' and '.join(map(str, files.values()))), findings


def read_mat(file: pathlib.Path) -> tuple[Splits, list[Finding]]:
    """The persons of the images that the release is to be trained on (`img_train` 1), in a split of ours.

    The joints of MPII's test images are not public, and the release has no validation split: here every tenth video is held out,
    by a checksum of its number (of the image's name where it has none), so that no video is in both.

    Raises:
        InputError: naming the file and the image: no MATLAB file, or not made as the release is.
    """
    release = matlab.read_fields(file, ('RELEASE',))['RELEASE']
    try:
        annolist, training = np.ravel(release['annolist'].item()), np.ravel(release['img_train'].item())
    except (IndexError, ValueError, AttributeError) as error:
        raise InputError(f'{file}: RELEASE is not made as in the official file ({error})') from error
    if len(annolist) != len(training) or not np.isin(training, (0, 1)).all():
        raise InputError(f'{file}: annolist has {len(annolist)} images, and img_train not as many numbers 0 or 1')
    splits: Splits = {split: [] for split in SPLITS}
    findings = []
    for index in np.flatnonzero(training):
        try:
            image, video, rects = _mat_image(annolist[index])
            persons, found = _kept(_mat_persons(f'{file}: annolist({index + 1}), {image}', image, rects))
        except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f'{file}: annolist({index + 1}) is not made as in the release ({error})') from error
        splits['valid' if held_out(video or image) else 'train'] += persons
        findings += found
    return _not_empty(splits, str(file)), findings


def _not_empty(splits: Splits, source: str) -> Splits:
    for split, persons in splits.items():
        if not persons:
            raise InputError(f'{source}: no person with joints, scale and position for split {split!r}')
    return splits


def _kept(persons: Iterable[tuple[str, Person | None, list[str]]]) -> tuple[list[Person], list[Finding]]:
    """Those who are there, and what was found: (image, person or None, texts) each."""
    kept, findings = [], []
    for image, person, texts in persons:
        if person is not None:
            kept.append(person)
        findings += [Finding('warning', image, text, count) for text, count in collections.Counter(texts).items()]
    return kept, findings


def _person(
    where: str, image: str, number: int, joints: np.ndarray, annotated: np.ndarray, position: np.ndarray, scale: float
) -> tuple[Person | None, list[str]]:
    """A person from 1-based joints [16, 2], position [2] and scale; None and why where there is something missing.

    The box is a square of 200 * scale pixels about the position, which is moved down by 15 * scale.
    """
    if not annotated.any():
        return None, [NO_JOINTS]
    if not (np.isfinite(position).all() and np.isfinite(scale)) or scale <= 0 or (position == -1).all():
        return None, [NO_SCALE]
    bad = np.flatnonzero(annotated & ~np.isfinite(joints).all(-1))
    if len(bad):
        raise InputError(f'{where}: {MPII.joints[bad[0]]!r} is not finite ({len(bad)} such joints)')
    centre = position - 1 + [0, 15 * scale]  # the crop of SimpleBaseline is this box times 1.25
    half = 100 * scale
    box = matlab.single(np.concatenate([centre - half, centre + half]))
    points = matlab.single(np.where(annotated[:, None], joints - 1, 0))
    if not (np.isfinite(box).all() and np.isfinite(points).all()):
        raise InputError(f'{where}: scale, position or joints are too large')
    return Person(image, f'{pathlib.PurePosixPath(image).stem}/{number}', points, annotated, box), []


def _json_persons(file: pathlib.Path, entries: list[Any]) -> Iterator[tuple[str, Person | None, list[str]]]:
    numbers: collections.Counter[str] = collections.Counter()
    for index, entry in enumerate(entries):
        where = f'{file}: entry {index}'
        if not isinstance(entry, dict):
            raise InputError(f'{where}: expected a person with image, center, scale, joints, joints_vis')
        image = _file_name(where, entry.get('image'))
        numbers[image] += 1
        joints, visible = _array(where, entry, 'joints', (J, 2)), _array(where, entry, 'joints_vis', (J,))
        if not np.isin(visible, (0, 1)).all():
            raise InputError(f'{where}: joints_vis has values other than 0 and 1')
        center, scale = _array(where, entry, 'center', (2,)), float(_array(where, entry, 'scale', ()))
        yield image, *_person(where, image, numbers[image], joints, visible == 1, center, scale)


def _array(where: str, entry: dict[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        value = np.asarray(entry[name], np.float64)
    except KeyError:
        raise InputError(f'{where}: no field {name!r}') from None
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f'{where}: {name} is not made of numbers ({error})') from error
    if value.shape != shape:
        raise InputError(f'{where}: {name} of shape {list(value.shape)}, expected {list(shape)}')
    return value


def _file_name(where: str, image: Any) -> str:
    if not isinstance(image, str) or not image or pathlib.PurePath(image).name != image:
        raise InputError(f'{where}: image is {image!r}, expected the name of a file')
    return image


def _mat_image(record: Any) -> tuple[str, str, Any]:
    """Name of the image, name of its video ('' where none), and the persons' records, of one of `annolist`."""
    image = str(record['image']['name'].item().item())
    number = _number(record, 'vididx')
    return image, '' if math.isnan(number) else f'video {number:.0f}', np.ravel(record['annorect'])


def _mat_persons(where: str, image: str, rects: Any) -> Iterator[tuple[str, Person | None, list[str]]]:
    _file_name(where, image)
    for number, rect in enumerate(rects if rects.dtype.names else (), 1):
        joints, annotated, twice = np.zeros((J, 2)), np.zeros(J, bool), []
        for point in _structs(_structs(rect, 'annopoints'), 'point'):
            joint = _number(point, 'id')
            if joint not in range(J):
                raise InputError(f'{where}, annorect({number}): joint id is {joint}, expected 0 to {J - 1}')
            if annotated[int(joint)]:
                twice.append(TWICE)
                continue
            joints[int(joint)], annotated[int(joint)] = (_number(point, 'x'), _number(point, 'y')), True
        position = [_number(place, axis) for place in _structs(rect, 'objpos')[:1] for axis in 'xy'] or [math.nan] * 2
        place = f'{where}, annorect({number})'
        person, texts = _person(place, image, number, joints, annotated, np.array(position), _number(rect, 'scale'))
        yield image, person, texts + twice


def _structs(records: Any, field: str) -> np.ndarray:
    """The structs [n] in a field of the only one of `records`; none where there is no such field or it is empty."""
    record = next(iter(np.ravel(records)), None)
    if record is None or field not in (record.dtype.names or ()):
        return np.zeros(0)
    value = np.ravel(record[field])
    return value if value.dtype.names else np.zeros(0)


def _number(record: Any, field: str) -> float:
    """A number of a struct; NaN where there is no such field or it is empty."""
    if field not in record.dtype.names:
        return math.nan
    value = np.ravel(record[field])
    return float(value[0]) if value.size == 1 and value.dtype.kind in 'biuf' else math.nan
