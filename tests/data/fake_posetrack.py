"""Writes a small synthetic PoseTrack18: frames of videos and their annotation files; those of `test` have no poses."""

import copy
import json
import pathlib
from typing import Any

import numpy as np
from fake_own_data import SIZE, picture, write_image

JOINTS = [
    'nose',
    'head_bottom',
    'head_top',
    'left_ear',
    'right_ear',
    'left_shoulder',
    'right_shoulder',
    'left_elbow',
    'right_elbow',
    'left_wrist',
    'right_wrist',
    'left_hip',
    'right_hip',
    'left_knee',
    'right_knee',
    'left_ankle',
    'right_ankle',
]
EARS = [3, 4]
CATEGORIES = [
    {
        'supercategory': 'person',
        'id': 1,
        'name': 'person',
        'keypoints': JOINTS,
        'skeleton': [
            [16, 14],
            [14, 12],
            [17, 15],
            [15, 13],
            [12, 13],
            [6, 12],
            [7, 13],
            [6, 7],
            [6, 8],
            [7, 9],
            [8, 10],
            [9, 11],
        ],
    }
]
FRAMES = {'000001_bonn_train': 8, '000002_mpii_train': 3, '000342_mpii_test': 10, '000400_mpii_test': 2, '000500_mpii_test': 2}
PARTS = {'000001_bonn_train': 'train', '000002_mpii_train': 'train', '000500_mpii_test': 'test'}  # the others: val
# video -> track -> the frames that the person is labelled in
TRACKS = {
    '000001_bonn_train': {0: [2, 3, 4, 5], 1: [2, 3, 5]},
    '000002_mpii_train': {7: [0, 1, 2]},
    '000342_mpii_test': {3: [0, 4, 5, 6, 8]},
}
CLIPS = {
    'train': {
        '000001_bonn_train/0': [2, 3, 4, 5],
        '000001_bonn_train/1': [2, 3],
        '000001_bonn_train/1/from5': [5],
        '000002_mpii_train/7': [0, 1, 2],
    },
    'valid': {
        '000342_mpii_test/3': [0],
        '000342_mpii_test/3/from4': [4, 5, 6],
        '000342_mpii_test/3/from8': [8],
    },
}
WITH_REGIONS = '000001_bonn_train'  # in all its labelled frames


def pose(track: int, number: int) -> np.ndarray:
    """float [17, 3]: x, y, whether it is annotated."""
    points = np.ones((17, 3))
    points[:, 0] = 12 + track + 2.5 * np.arange(17) + number / 4
    points[:, 1] = 10 + 2 * np.arange(17) + number / 2
    points[[*EARS, 9] if track == 1 else EARS] = 0
    return points


def box(track: int, number: int) -> list[float]:
    """x0, y0, width, height."""
    return [8.5 + track, 6 + number / 2, 52, 46]


def part_of(video: str) -> str:
    return PARTS.get(video, 'val')


def annotations_of(video: str) -> dict[str, Any]:
    """The annotation file of a video."""
    first = int(video.split('_')[0]) * 10000 + 10_000_000_000
    tracks = TRACKS.get(video, {})
    labelled = sorted({number for numbers in tracks.values() for number in numbers})
    images, annotations = [], []
    for number in range(FRAMES[video]):
        image: dict[str, Any] = {
            'has_no_densepose': True,
            'is_labeled': number in labelled,
            'file_name': f'images/{part_of(video)}/{video}/{number:06d}.jpg',
            'nframes': FRAMES[video],
            'frame_id': first + number,
            'vid_id': video.split('_')[0],
            'id': first + number,
        }
        if video == WITH_REGIONS:
            image |= {'mask_file': f'mask/{part_of(video)}/{video}/{number:06d}.jpg'}
            image |= {f'ignore_regions_{axis}': [[1, 9, 9, 1]] if number in labelled else [] for axis in 'xy'}
        images.append(image)
        for track, numbers in tracks.items():
            if number in numbers:
                points = pose(track, number)
                annotation = {
                    'bbox_head': [*points[2, :2].tolist(), 6, 8],
                    'keypoints': points.ravel().tolist(),
                    'track_id': track,
                    'image_id': first + number,
                    'bbox': box(track, number),
                    'scores': [],
                    'category_id': 1,
                    'id': (first + number) * 100 + track,
                }
                annotations.append(annotation)
    return {'images': images, 'annotations': annotations, 'categories': copy.deepcopy(CATEGORIES)}


def annotation_file(root: pathlib.Path, video: str) -> pathlib.Path:
    return root / f'annotations/{part_of(video)}/{video}.json'


def write_annotations(root: pathlib.Path, video: str, data: Any) -> None:
    file = annotation_file(root, video)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data))


def write_posetrack(root: pathlib.Path) -> pathlib.Path:
    """All videos."""
    for place, video in enumerate(FRAMES):
        data = annotations_of(video)
        if part_of(video) == 'test':
            data = {'images': data['images'], 'categories': CATEGORIES}
        write_annotations(root, video, data)
        for number, image in enumerate(data['images']):
            write_image(root / image['file_name'], picture(20 * place + number, SIZE))
    return root
