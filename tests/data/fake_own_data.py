"""Writes one's own data as annotation tools export it: images and videos with COCO keypoints JSON, YOLO pose."""

import json
import pathlib
from typing import Any

import cv2
import numpy as np

from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.data_pipelines.builders.kinetic_puppets.kinetic_puppets_dataset_builder import make_example

SIZE = (60, 80)  # rows, columns
JOINTS = ['nose', 'left_shoulder', 'right_shoulder', 'left_hip', 'right_hip']
LENGTHS = {'gym': 4, 'hall': 3, 'park': 5, 'yard': 2, 'pool': 3}


def picture(level: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 [H, W, 3], of its own for every level."""
    image = np.full((*size, 3), level % 200, np.uint8)
    image[: 5 + level % 40, : 5 + level // 40] = 250
    return image


def pose(number: int) -> np.ndarray:
    """float [5, 3]: x, y, visibility."""
    points = np.array([[40, 8, 2], [50, 20, 2], [30, 20, 1], [46, 40, 2], [34.25, 40.5, 2]], float)
    points[:, :2] += number
    return points


def person(key: int, image: int, number: int, **fields: Any) -> dict[str, Any]:
    """An annotation."""
    joints = pose(number)
    x, y = joints[:, :2].min(0) - 2
    width, height = np.ptp(joints[:, :2], axis=0) + 4
    found = {
        'id': key,
        'image_id': image,
        'category_id': 1,
        'iscrowd': 0,
        'bbox': [x, y, width, height],
        'area': width * height,
        'num_keypoints': int((joints[:, 2] > 0).sum()),
        'keypoints': joints.ravel().tolist(),
    }
    return found | fields


def labels(lengths: dict[str, int] = LENGTHS) -> dict[str, Any]:
    """The JSON of videos whose frames lie in a folder each."""
    data: dict[str, Any] = {
        'info': {'description': 'fake'},
        'categories': [{'id': 1, 'name': 'person', 'keypoints': JOINTS, 'skeleton': [[1, 2], [1, 3], [2, 4], [3, 5]]}],
        'images': [],
        'annotations': [],
    }
    for video, length in lengths.items():
        for number in range(length):
            key = len(data['images']) + 1
            name = f'{video}/{number:06d}.jpg'
            data['images'].append({'id': key, 'file_name': name, 'height': SIZE[0], 'width': SIZE[1]})
            data['annotations'].append(person(key, key, number))
    return data


def write_json(root: pathlib.Path, data: Any, name: str = 'annotations/labels.json') -> pathlib.Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(data))
    return root


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


def write_own_data(root: pathlib.Path) -> pathlib.Path:
    """Videos as folders of images, one person in each."""
    data = labels()
    for image in data['images']:
        write_image(root / 'images' / image['file_name'], picture(image['id']))
    return write_json(root, data)


def write_puppets(root: pathlib.Path, clips: int, frames: int) -> pathlib.Path:
    """Clips of Kinetic Puppets with 13 joints as a person with an annotation tool would label them."""
    names = [name.replace('l_', 'left_', 1).replace('r_', 'right_', 1) for name in PENN_ACTION.joints]
    limbs = [[a + 1, b + 1] for a, b in PENN_ACTION.limbs]
    data: dict[str, Any] = {
        'categories': [{'id': 1, 'name': 'person', 'keypoints': names, 'skeleton': limbs}],
        'images': [],
        'annotations': [],
    }
    for index in range(clips):
        example = make_example(PENN_ACTION, 0, 'train', index)
        rows, columns = (int(number) for number in example['image_size'])
        for number, frame in enumerate(example['frames'][:frames]):
            key = len(data['images']) + 1
            name = f'clip{index + 1:02d}/{number:06d}.jpg'
            path = root / 'images' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(frame)
            data['images'].append({'id': key, 'file_name': name, 'height': rows, 'width': columns})
            x0, y0, x1, y1 = (round(float(end), 2) for end in example['boxes'][number])
            points = [
                [round(float(x), 2), round(float(y), 2), 2 if there else 0] if there else [0, 0, 0]
                for (x, y), there in zip(example['joints'][number], example['visible'][number], strict=True)
            ]
            data['annotations'].append(
                {
                    'id': key,
                    'image_id': key,
                    'category_id': 1,
                    'iscrowd': 0,
                    'bbox': [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)],
                    'num_keypoints': sum(v > 0 for *_, v in points),
                    'keypoints': [value for point in points for value in point],
                }
            )
    return write_json(root, data)
