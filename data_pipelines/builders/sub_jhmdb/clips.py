"""One clip of JHMDB: its annotation files and its frames, checked against each other."""

import pathlib
from collections.abc import Collection

import numpy as np

from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.geometry import box_of_points
from kimnet_jax.core.image import encode_png
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.core.video import image_files, read_frames
from kimnet_jax.data_pipelines import matlab
from kimnet_jax.data_pipelines.images import read_image, require_names

MAX_FRAMES = 40  # no clip of JHMDB is longer


def read_joints(path: pathlib.Path) -> np.ndarray:
    """`pos_img` of a joint_positions.mat: float32 [T, 15, 2], 0-based pixels (the file is 1-based). Raises `InputError`."""
    fields = matlab.read_fields(path, ('pos_img',))
    joints = matlab.numbers(path, fields, 'pos_img', (2, JHMDB.num_joints, 'T'), 'x and y, joints, frames')
    if not 1 <= joints.shape[2] <= MAX_FRAMES:
        raise InputError(f'{path}: pos_img has {joints.shape[2]} frames, a clip of JHMDB has 1 to {MAX_FRAMES}')
    joints = matlab.single(joints.transpose(2, 1, 0).astype(np.float64) - 1)
    bad = np.argwhere(~np.isfinite(joints).all(-1))
    if len(bad):
        frame, joint = bad[0]
        raise InputError(
            f'{path}: pos_img of {JHMDB.joints[joint]!r} in frame {frame + 1} is not finite ({len(bad)} such joints)'
        )
    return joints


def read_boxes(path: pathlib.Path, joints: np.ndarray, image_size: tuple[int, int] | None) -> tuple[np.ndarray, int]:
    """Extent of the person in `part_mask` of a puppet_mask.mat.

    Args:
        path: the file; `part_mask` [rows, columns, T], 0 where the person is not.
        joints: [T, 15, 2] pixels; their extent is the box where a frame's mask is empty.
        image_size: (rows, columns) of the frames; None: not known, those of the mask are not checked.

    Returns:
        float32 [T, 4] boxes through the centres of the outermost pixels, and the number of frames with an empty mask.

    Raises:
        InputError: the file or the field is unreadable, or the mask's frames differ in size or number.
    """
    fields = matlab.read_fields(path, ('part_mask',))
    size = image_size or ('rows', 'columns')
    mask = matlab.numbers(path, fields, 'part_mask', (*size, 'T'), 'rows and columns of the frames, frames') != 0
    if mask.shape[2] != len(joints):
        raise InputError(
            f'{path}: part_mask has {mask.shape[2]} frames, but pos_img of its joint_positions.mat has {len(joints)}'
        )
    columns, rows = mask.any(0), mask.any(1)
    last_column, last_row = mask.shape[1] - 1, mask.shape[0] - 1
    x0, x1 = columns.argmax(0), last_column - columns[::-1].argmax(0)
    y0, y1 = rows.argmax(0), last_row - rows[::-1].argmax(0)
    empty = ~columns.any(0)
    boxes = np.stack([x0, y0, x1, y1], -1).astype(np.float32)
    boxes[empty] = box_of_points(joints, np.ones(joints.shape[:2], bool))[empty]
    return boxes, int(empty.sum())


def read_video(path: pathlib.Path, count: int) -> tuple[list[bytes], tuple[int, int]]:
    """The frames of a video as PNG, lossless, and their (rows, columns). Raises `InputError` unless there are `count`."""
    frames, total = [], 0
    for image, *_ in read_frames(path):
        total += 1
        if total <= count:
            image_size = (image.shape[0], image.shape[1])
            frames.append(encode_png(image))
    if total != count:
        raise DamagedError(f'{path}: {total} frames, but pos_img of its joint_positions.mat has {count}; replace the file')
    return frames, image_size


def read_images(folder: pathlib.Path, count: int) -> tuple[list[bytes], tuple[int, int]]:
    """The bytes of 00001.png, 00002.png, ..., untouched, and their (rows, columns).

    Raises:
        InputError: there are not `count` of them, one is no whole image, or their sizes differ.
    """
    files = image_files(folder)
    require_image_names(str(folder), [file.name for file in files], count)
    first, image_size = read_image(files[0])
    return [first, *(read_image(file, image_size, 'the first frame has')[0] for file in files[1:])], image_size


def require_image_names(place: str, names: Collection[str], count: int) -> None:
    """Raises `InputError` unless the images of the clip in `place` are 00001.png, 00002.png, ..., as many as it has joints."""
    expected = [f'{number:05d}.png' for number in range(1, count + 1)]
    require_names(place, names, expected, 'pos_img of its joint_positions.mat')
