"""DeepLabCut's labels: `CollectedData_<scorer>.csv`, as lies in the folder of each video in `labeled-data`."""

import collections
import pathlib
from collections.abc import Sequence

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines.builders.coco_keypoints import labelled
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled import Image, Labelled
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import Settings, own_skeleton
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.pose_records import read_cells

_LEVELS = ('scorer', 'individuals', 'bodyparts', 'coords')
SINGLE = 'single'  # the individual of joints that no animal has, which are left out


def read_deeplabcut(file: pathlib.Path, settings: Settings, name: str) -> Labelled:
    """What a table of labels holds: a row for each image, whose path is in the first column or the first three.

    Raises:
        InputError: naming the file: it is no such table, or its individuals have different joints. What is wrong with single rows
            is in `problems`.
    """
    cells = read_cells(file)
    levels = [row[0].strip() for row in cells[:4] if row and row[0].strip() in _LEVELS]
    several = 'individuals' in levels
    if levels != [level for level in _LEVELS if several or level != 'individuals']:
        raise InputError(f'{file}: not a table of DeepLabCut: it must begin with the rows scorer, bodyparts and coords')
    header = cells[: len(levels)]
    index = next((i for i, cell in enumerate(header[0][1:], 1) if cell.strip()), 0)
    if index not in (1, 3) or any(len(row) != len(header[0]) for row in header):
        raise InputError(f'{file}: its first rows have no columns of labels, or not as many as each other')
    columns = _columns(file, levels, [row[index:] for row in header])
    joints = list(next(iter(columns.values())))
    if any(list(theirs) != joints for theirs in columns.values()):
        raise InputError(f'{file}: its individuals have different joints')
    try:
        skeleton = own_skeleton(name, {'joints': joints} | dict(settings.skeleton))
    except InputError as error:
        raise InputError(f'{file}: skeleton: {error}') from error
    if [*skeleton.joints] != joints:
        raise InputError(f'{file}: its joints are {", ".join(joints)}; those of the skeleton in the TOML file are others')
    images: dict[str, Image] = {}
    problems: list[str] = []
    counts: collections.Counter[str] = collections.Counter()
    for place, row in enumerate(cells[len(levels) :], len(levels) + 1):
        if not any(cell.strip() for cell in row):
            continue
        try:
            image = _image(row, index, len(header[0]), file, columns, settings.pixel_centre, counts)
            if image.name in images:
                raise InputError(f'{image.name!r} is there twice')
            images[image.name] = image
        except InputError as error:
            problems.append(f'{file}: row {place}: {error}')
    findings = [Finding('warning', file.name, text, count) for text, count in counts.items()]
    return Labelled(skeleton, [*images.values()], findings, problems)


def _columns(file: pathlib.Path, levels: Sequence[str], header: Sequence[Sequence[str]]) -> dict[str, dict[str, dict[str, int]]]:
    """Individual ('' where there is one) -> joint -> `x`, `y` -> number of the column behind the path."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for place, label in enumerate(zip(*header, strict=True)):
        at = dict(zip(levels, map(str.strip, label), strict=True))
        individual = at.get('individuals', '')
        if individual == SINGLE or at['coords'] not in ('x', 'y'):
            continue
        axes = found.setdefault(individual, {}).setdefault(at['bodyparts'], {})
        if at['coords'] in axes:
            raise InputError(f'{file}: {at["bodyparts"]} has two columns {at["coords"]!r}')
        axes[at['coords']] = place
    for joints in found.values():
        for joint, axes in joints.items():
            if len(axes) < 2:
                raise InputError(f'{file}: {joint} has no column {"xy".replace(next(iter(axes)), "")!r}')
    if not found:
        raise InputError(f'{file}: no columns x and y in it')
    return found


def _image(
    row: Sequence[str],
    index: int,
    length: int,
    file: pathlib.Path,
    columns: dict[str, dict[str, dict[str, int]]],
    pixel_centre: float,
    counts: collections.Counter[str],
) -> Image:
    if len(row) != length:
        raise InputError(f'{len(row)} cells, the header has {length}')
    image = Image(labelled.checked_name('/'.join(cell.strip() for cell in row[:index])), file)
    try:
        values = np.array([float(cell) if cell.strip() else np.nan for cell in row[index:]])
    except ValueError as error:
        raise InputError(str(error)) from error
    for individual, joints in columns.items():
        points = np.array([[values[axes['x']], values[axes['y']]] for axes in joints.values()]) - pixel_centre
        there: np.ndarray = np.logical_not(np.isnan(points).any(-1))
        if not there.any() and individual:
            continue  # an animal that is not in this image
        person = labelled.make_person(points, there, None, individual)
        if isinstance(person, str):
            counts[person] += 1
        else:
            image.persons.append(person)
    return image
