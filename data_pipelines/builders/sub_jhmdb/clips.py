"""One clip of JHMDB: its annotation files and its frames, checked against each other."""

import io
import pathlib
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import box_of_points
from kimnet_jax.core.image import decode_image, encode_png
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.core.video import image_files, read_frames

MAX_FRAMES = 40  # no clip of JHMDB is longer


def read_joints(path: pathlib.Path) -> np.ndarray:
    """`pos_img` of a joint_positions.mat: float32 [T, 15, 2], 0-based pixels (the file is 1-based). Raises `InputError`."""
    joints = _read_field(path, 'pos_img', (2, JHMDB.num_joints), 'x and y, joints, frames')
    if not 1 <= joints.shape[2] <= MAX_FRAMES:
        raise InputError(f'{path}: pos_img has {joints.shape[2]} frames, a clip of JHMDB has 1 to {MAX_FRAMES}')
    joints = joints.transpose(2, 1, 0).astype(np.float64)
    bad = np.argwhere(~np.isfinite(joints).all(-1))
    if len(bad):
        frame, joint = bad[0]
        raise InputError(
            f'{path}: pos_img of {JHMDB.joints[joint]!r} in frame {frame + 1} is not finite ({len(bad)} such joints)'
        )
    return (joints - 1).astype(np.float32)


def read_boxes(path: pathlib.Path, joints: np.ndarray, image_size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """Extent of the person in `part_mask` of a puppet_mask.mat.

    Args:
        path: the file; `part_mask` [rows, columns, T], 0 where the person is not.
        joints: [T, 15, 2] pixels; their extent is the box where a frame's mask is empty.
        image_size: (rows, columns) of the frames.

    Returns:
        float32 [T, 4] boxes through the centres of the outermost pixels, and the number of frames with an empty mask.

    Raises:
        InputError: the file or the field is unreadable, or the mask's frames differ in size or number.
    """
    mask = _read_field(path, 'part_mask', image_size, 'rows and columns of the frames, frames') != 0
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
    for frame in read_frames(path):
        total += 1
        if total <= count:
            image_size = (frame.shape[0], frame.shape[1])
            frames.append(encode_png(frame))
    if total != count:
        raise InputError(f'{path}: {total} frames, but pos_img of its joint_positions.mat has {count}; replace the file')
    return frames, image_size


def read_images(folder: pathlib.Path, count: int) -> tuple[list[bytes], tuple[int, int]]:
    """The bytes of 00001.png, 00002.png, ..., untouched, and their (rows, columns).

    Raises:
        InputError: there are not `count` of them, one is no whole image, or their sizes differ.
    """
    names = [file.name for file in image_files(folder)]
    expected = [f'{number:05d}.png' for number in range(1, count + 1)]
    if names != expected:
        odd = min(set(names) ^ set(expected))
        what = 'is missing' if odd in expected else 'has no joints'
        raise InputError(
            f'{folder}: {len(names)} images, but pos_img of its joint_positions.mat has {count} frames; {odd} {what}'
        )
    frames = [(folder / name).read_bytes() for name in names]
    sizes = [decode_image(frame, str(folder / name)).shape[:2] for name, frame in zip(names, frames, strict=True)]
    for name, size in zip(names, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(f'{folder / name}: {size[1]}x{size[0]} pixels, the first frame has {sizes[0][1]}x{sizes[0][0]}')
    return frames, (sizes[0][0], sizes[0][1])


def _read_field(path: pathlib.Path, field: str, shape: tuple[int, int], meaning: str) -> np.ndarray:
    """A numeric field [*shape, T]; MATLAB drops a trailing T of 1."""
    import scipy.io

    data = path.read_bytes()
    try:
        contents: dict[str, Any] = scipy.io.loadmat(io.BytesIO(data))
    except Exception as error:  # scipy raises whatever the damage makes it stumble over
        raise InputError(f'{path}: not a readable MATLAB file ({error}); replace the file') from error
    if field not in contents:
        there = ', '.join(key for key in contents if not key.startswith('__'))
        raise InputError(f'{path}: no field {field!r}; it has: {there or "none"}')
    value = np.asarray(np.atleast_3d(contents[field]))
    if value.ndim != 3 or value.shape[:2] != shape or value.dtype.kind not in 'biuf':
        raise InputError(
            f'{path}: {field} is {value.dtype} {list(value.shape)}, expected numbers [{shape[0]}, {shape[1]}, T] ({meaning})'
        )
    return value
