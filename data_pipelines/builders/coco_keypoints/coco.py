"""COCO keypoints JSON, as CVAT, Label Studio, Roboflow, mmpose, COCO itself and `predict` write it."""

import collections
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.data_pipelines.builders.coco_keypoints import labelled
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled import Image, Labelled, Person
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import FILE, Settings, own_skeleton
from kimnet_jax.data_pipelines.findings import Finding

_MOST_PIXELS = 1 << 20  # of a side


def read_coco(file: pathlib.Path, settings: Settings, name: str) -> Labelled:
    """What a COCO keypoints file holds. Raises as `parse_coco`, and where the file is no JSON."""
    return parse_coco(read_json(file, 'annotation file'), file, settings, name)


def parse_coco(data: Any, file: pathlib.Path, settings: Settings, name: str) -> Labelled:
    """What a COCO keypoints file holds.

    Args:
        data: its JSON, with `images`, `annotations` and `categories`, and maybe `videos`.
        file: what errors name.
        settings: the category, the pixels, and what of the skeleton is not taken from the category.
        name: of the skeleton, where it is none that is known.

    Raises:
        InputError: it is no such JSON, or the images or the category are not clear. What is wrong with single annotations
            is in `problems`.
    """
    lists = {key: list_of(file, data, key) for key in ('images', 'annotations', 'categories')}
    videos = _videos(file, data)
    category = _category(file, lists['categories'], settings)
    skeleton = _skeleton(file, category, settings, name)
    problems: list[str] = []
    images: dict[Any, Image] = {}
    names: set[str] = set()
    for place, record in enumerate(lists['images']):
        try:
            key, image = _image(record, file, videos)
            if key in images:
                raise InputError(f'the id {key!r} is there twice')
            if image.name in names:
                raise InputError(f'{image.name!r} is there twice')
            names.add(image.name)
            images[key] = image
        except InputError as error:
            problems.append(f'{file}: images[{place}]: {error}')
    counts: collections.Counter[str] = collections.Counter()
    seen: set[Any] = set()
    for place, record in enumerate(lists['annotations']):
        try:
            person = _person(record, category['id'], skeleton, images, seen, counts, settings.pixel_centre)
        except InputError as error:
            problems.append(f'{file}: annotations[{place}]: {error}')
            continue
        if isinstance(person, str):
            counts[person] += 1
        elif person:
            images[record['image_id']].persons.append(person)
    findings = [Finding('warning', file.name, text, count) for text, count in counts.items()]
    return Labelled(skeleton, [*images.values()], findings, problems)


def is_coco(data: Any) -> bool:
    """Whether JSON looks like a COCO file, sound or not."""
    return isinstance(data, dict) and 'annotations' in data and ('images' in data or 'categories' in data)


def list_of(file: pathlib.Path, data: Any, key: str) -> list[dict[str, Any]]:
    """A list of objects of the file. Raises `InputError` where it has none."""
    if not isinstance(data, dict) or key not in data:
        raise InputError(f'{file}: no list {key!r} in it; a COCO keypoints file has images, annotations and categories')
    if not isinstance(data[key], list) or not all(isinstance(one, dict) for one in data[key]):
        raise InputError(f'{file}: {key!r} is no list of objects')
    return data[key]


def _id(value: Any, what: str = 'id') -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f'{what} is {value!r}, expected a whole number or a text')
    return value


def _videos(file: pathlib.Path, data: Mapping[str, Any]) -> dict[Any, str]:
    """Id -> name without suffix."""
    found: dict[Any, str] = {}
    for place, record in enumerate(list_of(file, data, 'videos') if 'videos' in data else []):
        try:
            key = _id(record.get('id'))
            name = labelled.checked_name(record.get('file_name', record.get('name')))
        except InputError as error:
            raise InputError(f'{file}: videos[{place}]: {error}') from error
        if key in found:
            raise InputError(f'{file}: videos[{place}]: the id {key!r} is there twice')
        found[key] = str(pathlib.PurePosixPath(name).with_suffix(''))
    return found


def _category(file: pathlib.Path, categories: list[dict[str, Any]], settings: Settings) -> dict[str, Any]:
    with_joints = [one for one in categories if one.get('keypoints')]
    names = [str(one.get('name')) for one in with_joints]
    if not with_joints:
        raise InputError(f"{file}: no category has 'keypoints'; export the labels as COCO keypoints")
    wanted = [one for one in with_joints if one.get('name') == settings.category] if settings.category else with_joints
    if not wanted:
        raise InputError(f'{file}: no category {settings.category!r} with keypoints; it has {some_of(names)}')
    if len(wanted) > 1:
        raise InputError(f"{file}: several categories have keypoints, {some_of(names)}; set category = '...' in {FILE}")
    try:
        key = _id(wanted[0].get('id'))
    except InputError as error:
        raise InputError(f'{file}: category {names[0]!r}: {error}') from error
    if sum(one.get('id') == key for one in categories) > 1:
        raise InputError(f'{file}: categories: the id {key!r} is there twice')
    return wanted[0]


def _skeleton(file: pathlib.Path, category: Mapping[str, Any], settings: Settings, name: str) -> Skeleton:
    own = settings.skeleton
    try:
        joints = category['keypoints']
        if not isinstance(joints, list):
            raise InputError('joints: expected a list of names')
        if 'joints' in own and own['joints'] != joints:
            raise InputError(f'joints: {FILE} names other ones than the category {category.get("name")!r}')
        limbs = None if 'limbs' in own else _limbs(category.get('skeleton') or [], joints)
        skeleton = own_skeleton(name, {'joints': joints, 'limbs': limbs} | dict(own))
    except InputError as error:
        raise InputError(f'{file}: skeleton: {error}') from error
    return skeleton


def _limbs(pairs: Any, joints: list[Any]) -> list[list[str]]:
    """COCO counts joints from 1; files that have a 0 count from 0."""
    good = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    if not good or not all(type(end) is int for pair in pairs for end in pair):
        raise InputError(f'limbs: the skeleton of the category is no list of pairs of joints; give limbs in {FILE}')
    first = 0 if any(0 in pair for pair in pairs) else 1
    if not all(first <= end < first + len(joints) for pair in pairs for end in pair):
        raise InputError(f'limbs: the skeleton of the category has a joint beyond its {len(joints)}; give limbs in {FILE}')
    return [[joints[end - first] for end in pair] for pair in pairs if pair[0] != pair[1]]


def _image(record: Mapping[str, Any], file: pathlib.Path, videos: Mapping[Any, str]) -> tuple[Any, Image]:
    key = _id(record.get('id'))
    name = labelled.checked_name(record.get('file_name'))
    size = record.get('height'), record.get('width')
    for value in size:
        if value is not None and not (type(value) in (int, float) and float(value).is_integer() and 0 <= value <= _MOST_PIXELS):
            raise InputError(f'{name!r}: height and width are {size[0]!r} and {size[1]!r}, expected whole numbers')
    stated = (int(size[0]), int(size[1])) if size[0] and size[1] else None
    video = ''
    if record.get('video_id') is not None:
        key_of_video = _id(record['video_id'], 'video_id')
        if videos and key_of_video not in videos:
            raise InputError(f'{name!r}: no video has the id {key_of_video!r}')
        video = videos.get(key_of_video, str(key_of_video))
    number = next((record[field] for field in ('frame_id', 'frame_index') if record.get(field) is not None), None)
    if number is not None and (type(number) is not int or not 0 <= number < 10**9):
        raise InputError(f'{name!r}: frame_id is {number!r}, expected a whole number')
    return key, Image(name, file, size=stated, video=video, number=number)


def _person(
    record: Mapping[str, Any],
    category: Any,
    skeleton: Skeleton,
    images: Mapping[Any, Image],
    seen: set[Any],
    counts: collections.Counter[str],
    pixel_centre: float,
) -> Person | str:
    """A person, or why the annotation is left out, to be counted."""
    if record.get('id') is not None:
        key = _id(record['id'])
        if key in seen:
            raise InputError(f'the id {key!r} is there twice')
        seen.add(key)
    image = _id(record.get('image_id'), 'image_id')
    if image not in images:
        raise InputError(f'no image has the id {image!r}')
    if _id(record.get('category_id'), 'category_id') != category:
        return labelled.OTHER
    if isinstance(record.get('segmentation'), dict):
        counts[labelled.MASKS] += 1
    if record.get('iscrowd'):
        return labelled.CROWD
    if not record.get('keypoints'):
        return labelled.NO_KEYPOINTS
    if record.get('num_keypoints') == 0:
        return labelled.NO_JOINTS
    numbers = _numbers(record['keypoints'], 'keypoints', 3 * skeleton.num_joints).reshape(-1, 3)
    if not np.isin(numbers[:, 2], (0, 1, 2)).all():
        raise InputError('keypoints: a visibility is none of 0, 1 and 2')
    box = None
    if record.get('bbox'):
        x, y, width, height = map(float, _numbers(record['bbox'], 'bbox', 4))
        if width < 0 or height < 0:
            raise InputError(f'bbox has the size {width:g} x {height:g}')
        if width and height:
            box = np.array([x, y, x + width, y + height]) - pixel_centre
        else:
            counts[labelled.EMPTY_BOX] += 1
    return labelled.make_person(numbers[:, :2] - pixel_centre, numbers[:, 2] > 0, box, _track(record))


def _numbers(value: Any, field: str, count: int) -> np.ndarray:
    good = isinstance(value, list) and all(type(one) in (int, float) for one in value)
    if not good or len(value) != count:
        told = f'{len(value)} entries' if isinstance(value, list) else repr(value)[:40]
        raise InputError(f'{field}: {told}, expected {count} numbers')
    return np.array(value, np.float64)


def _track(record: Mapping[str, Any]) -> str:
    attributes = record.get('attributes')
    track = record.get('track_id')
    if track is None and isinstance(attributes, dict):
        track = attributes.get('track_id')
    if track is None or track == '':
        return ''
    if type(track) is float and track.is_integer():
        track = int(track)
    name = str(_id(track, 'track_id'))
    if len(name) > 200 or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise InputError(f'track_id is {name[:40]!a}, which names no clip')
    return name.replace('/', '_')
