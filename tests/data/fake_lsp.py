"""Writes a small synthetic LSP Extended, or an original LSP, as released: images with `joints.mat` beside them."""

import pathlib

import cv2
import numpy as np
import scipy.io

from kimnet_jax.core.skeleton import LSP

SIZE = (60, 50)  # rows, columns
COUNTS = {'extended': 12, 'original': 1002}
DIGITS = {'extended': 5, 'original': 4}
HELD_OUT = ['im00011']  # by the checksum of its name
OFF = {3: (6, 7, 11)}  # image -> the joints whose flag is 0


def image_name(config: str, number: int) -> str:
    """Of an image; number from 1."""
    return f'im{number:0{DIGITS[config]}d}.jpg'


def records(config: str) -> np.ndarray:
    """float64 [14, 3, N]: a person in each image that walks to the right with its number."""
    count = COUNTS[config]
    joints = np.zeros((LSP.num_joints, 3, count))
    index = np.arange(LSP.num_joints)
    for number in range(1, count + 1):
        joints[:, 0, number - 1] = 5.25 + 1.5 * index + number % 10
        joints[:, 1, number - 1] = 50.5 - 3.25 * index
        joints[:, 2, number - 1] = config == 'extended'
    for number, off in OFF.items():
        joints[list(off), :, number - 1] = [-0.7, 1.4, 0] if config == 'extended' else [20, 30, 1]
    return joints


def write_joints(root: pathlib.Path, joints: np.ndarray) -> None:
    scipy.io.savemat(root / 'joints.mat', {'joints': joints}, do_compression=True)


def write_lsp(root: pathlib.Path, config: str) -> pathlib.Path:
    """The original LSP has its axes in the other order, [3, 14, N]."""
    (root / 'images').mkdir(parents=True)
    (root / 'README.txt').write_text('Leeds Sports Pose')
    for number in range(1, COUNTS[config] + 1):
        level = number * 255 // COUNTS[config]
        picture = np.full((*SIZE, 3), level, np.uint8)
        picture[number % SIZE[0], number // SIZE[0] :] = 255 - level
        assert cv2.imwrite(str(root / 'images' / image_name(config, number)), picture)
    joints = records(config)
    write_joints(root, joints if config == 'extended' else joints.transpose(1, 0, 2))
    return root
