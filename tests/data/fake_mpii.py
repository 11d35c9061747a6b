"""Writes a small synthetic MPII: images, the official MATLAB file with its nested structs, SimpleBaseline's JSON files."""

import json
import pathlib

import cv2
import numpy as np
import scipy.io

from kimnet_jax.core.skeleton import MPII

SIZE = (90, 120)  # rows, columns
MAT = 'mpii_human_pose_v1_u12_1.mat'
VIDEOS = {'a.jpg': 0, 'b.jpg': 2, 'c.jpg': 3, 'd.jpg': 8}  # crc32('video 8') is a multiple of ten: held out
MISSING = 6  # the pelvis of everybody's first person is not annotated


def joints_of(image: str, person: int) -> np.ndarray:
    """float [16, 2], 0-based pixels; person from 0."""
    start = 20 + 3 * sorted(VIDEOS).index(image) + 5 * person
    return np.stack([start + 2.5 * np.arange(16), 70 - 2.25 * np.arange(16)], -1)


def position_of(image: str, person: int) -> tuple[np.ndarray, float]:
    """(centre [2] 0-based, scale)."""
    return np.array([50.0 + 5 * person, 40.0 + sorted(VIDEOS).index(image)]), 0.25 + 0.05 * person


def write_mpii(root: pathlib.Path, *, json_files: bool = True, mat: bool = True) -> pathlib.Path:
    """Two persons in each of a, b, d, one in c; a in train, d in valid."""
    (root / 'images').mkdir(parents=True)
    for number, image in enumerate(VIDEOS):
        picture = np.full((*SIZE, 3), 40 * number + 20, np.uint8)
        assert cv2.imwrite(str(root / 'images' / image), picture)
    if json_files:
        write_json(
            root,
            {'train': [entry(i, p) for i in 'ab' for p in (0, 1)] + [entry('c', 0)], 'valid': [entry('d', 0), entry('d', 1)]},
        )
    if mat:
        write_mat(root / MAT, [annotated(name, [rect(name, 0), rect(name, 1)][: 1 if name == 'c.jpg' else 2]) for name in VIDEOS])
    return root


def entry(image: str, person: int) -> dict:
    """A person as in the JSON files: 1-based, what is missing is -1."""
    name = f'{image}.jpg'
    joints, (centre, scale) = joints_of(name, person) + 1, position_of(name, person)
    visible = np.ones(16, int)
    if not person:
        joints[MISSING], visible[MISSING] = -1, 0
    return {
        'joints_vis': visible.tolist(),
        'joints': joints.tolist(),
        'image': name,
        'scale': scale,
        'center': (centre + 1).tolist(),
    }


def write_json(root: pathlib.Path, splits: dict[str, list]) -> None:
    (root / 'annot').mkdir(exist_ok=True)
    for split, entries in splits.items():
        (root / 'annot' / f'{split}.json').write_text(json.dumps(entries))


def rect(image: str, person: int, **changes) -> dict:
    """A person as in the MATLAB file; `changes` replace fields, None makes them empty."""
    joints, (centre, scale) = joints_of(image, person) + 1, position_of(image, person)
    points = [
        {'x': x, 'y': y, 'id': i, 'is_visible': np.zeros((0, 0)) if MPII.joints[i] == 'head_top' else str(i % 2)}
        for i, (x, y) in enumerate(joints)
        if person or i != MISSING
    ]
    fields = {
        'x1': 1.0,
        'annopoints': {'point': structs(points[::-1])},  # in no order
        'scale': scale,
        'objpos': {'x': centre[0] + 1, 'y': centre[1] + 1},
    }
    return {key: np.zeros((0, 0)) if value is None else value for key, value in (fields | changes).items()}


def annotated(name: str, rects: list[dict], **changes) -> dict:
    """One of `annolist`."""
    record = {'image': {'name': name}, 'annorect': structs(rects), 'frame_sec': 3.0, 'vididx': float(VIDEOS.get(name, 99))}
    return record | changes


def structs(records: list[dict]) -> np.ndarray:
    """A MATLAB struct array [1, n]; an empty matrix where there are none."""
    if not records:
        return np.zeros((0, 0))
    array = np.empty((1, len(records)), [(key, object) for key in records[0]])
    for i, record in enumerate(records):
        array[0, i] = tuple(record.values())
    return array


def write_mat(path: pathlib.Path, annolist: list[dict], training: list[int] | None = None) -> None:
    """The release with these images; a test image without persons is put after them."""
    annolist = [*annolist, annotated('test.jpg', [])]
    flags = [*(training or [1] * (len(annolist) - 1)), 0]
    release = {'annolist': structs(annolist), 'img_train': np.array([flags], np.uint8), 'version': '12'}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {'RELEASE': release}, do_compression=True)
