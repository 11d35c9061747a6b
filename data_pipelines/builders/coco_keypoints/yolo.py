"""YOLO pose, as Ultralytics has it: `data.yaml`, images, and beside `images` a folder `labels` with a text file for each."""

import collections
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_text
from kimnet_jax.core.skeleton import COCO
from kimnet_jax.core.video import IMAGE_SUFFIXES
from kimnet_jax.data_pipelines.builders.coco_keypoints import labelled
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled import Image, Labelled, Person
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import SKELETON_FILE, Settings, own_skeleton
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.images import read_image

SPLITS = ('train', 'val', 'test')
MOST_KEYPOINTS = 1000


def read_yolo(file: pathlib.Path, settings: Settings, name: str) -> Labelled:
    """What `data.yaml` and the files of labels hold. Places are shares of the image, so its header is read, or all of it.

    The names of the joints are those of `kpt_names`, or of the TOML files; without any of them, 17 joints are COCO's.

    Raises:
        InputError: `data.yaml` is unreadable, or lacks `kpt_shape`, or the joints have no names. What is wrong with single labels
            is in `problems`.
    """
    data = _read_yaml(file)
    shape = data.get('kpt_shape')
    if not (isinstance(shape, list) and len(shape) == 2 and type(shape[0]) is int and shape[0] > 0 and shape[1] in (2, 3)):
        raise InputError(f'{file}: kpt_shape is {shape!r}, expected [joints, 2 or 3]')
    count, dims = shape
    if count > MOST_KEYPOINTS:
        raise InputError(f'{file}: kpt_shape has {count} joints, more than {MOST_KEYPOINTS}')
    try:
        skeleton = own_skeleton(name, _skeleton_fields(data, count, settings))
    except InputError as error:
        raise InputError(f'{file}: skeleton: {error}') from error
    if skeleton.num_joints != count:
        raise InputError(f'{file}: kpt_shape has {count} joints, {skeleton.num_joints} are named')
    category = _category(file, data.get('names'), settings.category)
    images: list[Image] = []
    problems: list[str] = []
    counts: collections.Counter[str] = collections.Counter()
    for folder, split in _folders(file, data):
        for picture in sorted(one for one in folder.rglob('*') if one.suffix.lower() in IMAGE_SUFFIXES and one.is_file()):
            image = Image(picture.relative_to(file.parent).as_posix(), file.parent / split / file.name)
            images.append(image)
            try:
                labels = _label_file(picture, file.parent)
                if labels.is_file():
                    image.size = read_image(picture)[1]
                    image.persons = [*_persons(labels, image.size, count, dims, category, counts)]
            except InputError as error:
                problems.append(str(error))
    if not images:
        raise InputError(f'{file}: no image in the folders that it names')
    findings = [Finding('warning', file.name, text, number) for text, number in counts.items() if number]
    return Labelled(skeleton, images, findings, problems)


def _read_yaml(file: pathlib.Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'{file}: not valid YAML ({" ".join(str(error).split())})') from error
    if not isinstance(data, dict):
        raise InputError(f'{file}: no fields in it; expected those of YOLO pose')
    return data


def _skeleton_fields(data: Mapping[str, Any], count: int, settings: Settings) -> dict[str, Any]:
    fields = dict(settings.skeleton)
    names = data.get('kpt_names')
    if isinstance(names, dict) and names:  # by category
        names = next(iter(names.values()))
    if 'joints' not in fields:
        fields['joints'] = names
    if fields['joints'] is None and count == COCO.num_joints:
        fields['joints'] = [*COCO.joints]
    if not isinstance(fields['joints'], list):
        raise InputError(f'YOLO does not name the joints; list them in {SKELETON_FILE}: joints = ["nose", ...]')
    order = data.get('flip_idx')
    if order is not None and 'flip_pairs' not in fields:
        joints = fields['joints']
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(len(joints)))):
            raise InputError('flip_idx: expected each number of a joint once')
        if any(order[other] != i for i, other in enumerate(order)):
            raise InputError('flip_idx: a joint is not swapped with the one that is swapped with it')
        by_names = own_skeleton('own', {'joints': joints})
        pairs = tuple((i, other) for i, other in enumerate(order) if i < other)
        if pairs != by_names.flip_pairs:
            fields['flip_pairs'] = [[joints[i], joints[other]] for i, other in pairs]
    return fields


def _category(file: pathlib.Path, names: Any, wanted: str) -> int | None:
    """The number of the wanted category; None: any."""
    known = dict(enumerate(names)) if isinstance(names, list) else names
    if not wanted:
        return None
    if not isinstance(known, dict) or wanted not in known.values():
        raise InputError(f'{file}: names has no category {wanted!r}')
    return next(number for number, name in known.items() if name == wanted)


def _folders(file: pathlib.Path, data: Mapping[str, Any]) -> list[tuple[pathlib.Path, str]]:
    """The folders of images and their splits, wherever `data.yaml` believes that it lies itself."""
    found: dict[pathlib.Path, str] = {}
    for split in SPLITS:
        for place in data[split] if isinstance(data.get(split), list) else [data.get(split)]:
            if place is None:
                continue
            if not isinstance(place, str):
                raise InputError(f'{file}: {split} is {place!r}, expected a folder')
            parts = [part for part in pathlib.PurePosixPath(place.replace('\\', '/')).parts if part not in ('/', '..', '.')]
            tails = [file.parent.joinpath(*parts[i:]) for i in range(len(parts))]
            folder = next((tail for tail in tails if tail.is_dir()), None)
            if folder is None:
                raise InputError(f'{file}: {split}: no folder {place} there')
            found.setdefault(folder, split)
    if not found:
        raise InputError(f'{file}: names no folder of images; expected {", ".join(SPLITS)}')
    return [*found.items()]


def _label_file(picture: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Ultralytics' rule: the last folder `images` of the path becomes `labels`."""
    parts = [*picture.relative_to(root).parts]
    if 'images' in parts:
        parts[len(parts) - 1 - parts[::-1].index('images')] = 'labels'
    return root.joinpath(*parts).with_suffix('.txt')


def _persons(
    file: pathlib.Path, size: tuple[int, int], count: int, dims: int, category: int | None, counts: collections.Counter[str]
) -> list[Person]:
    found = []
    for place, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = np.array([float(cell) for cell in line.split()])
        except ValueError as error:
            raise InputError(f'{file}: line {place}: {error}') from error
        if len(row) not in (5 + count * dims, 6 + count * dims):  # a track at the end, as `yolo track` writes it
            raise InputError(f'{file}: line {place}: {len(row)} numbers, expected {5 + count * dims}')
        if not np.isfinite(row).all() or (np.abs(row[1:5]) > 1e4).any():
            raise InputError(f'{file}: line {place}: a number is not finite or no share of an image')
        if category is not None and row[0] != category:
            counts[labelled.OTHER] += 1
            continue
        columns_rows = np.array([size[1], size[0]])
        points = row[5 : 5 + count * dims].reshape(count, dims)
        visible = points[:, 2] > 0 if dims == 3 else (points != 0).any(1)
        centre, extent = row[1:3] * columns_rows - 0.5, row[3:5] * columns_rows
        if (extent < 0).any():
            raise InputError(f'{file}: line {place}: the box has a negative size')
        box = np.concatenate([centre - extent / 2, centre + extent / 2]) if extent.all() else None
        counts[labelled.EMPTY_BOX] += box is None
        track = f'{row[-1]:.0f}' if len(row) > 5 + count * dims else ''
        try:
            person = labelled.make_person(points[:, :2] * columns_rows - 0.5, visible, box, track)
        except InputError as error:
            raise InputError(f'{file}: line {place}: {error}') from error
        if isinstance(person, str):
            counts[person] += 1
        else:
            found.append(person)
    return found
