"""One label file of Penn Action: read, checked, and mended where the release has known faults."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import box_of_points, inside
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.data_pipelines import matlab

ACTIONS = (
    *('baseball_pitch', 'baseball_swing', 'bench_press', 'bowl', 'clean_and_jerk', 'golf_swing', 'jump_rope', 'jumping_jacks'),
    *('pullup', 'pushup', 'situp', 'squat', 'strum_guitar', 'tennis_forehand', 'tennis_serve'),
)
VIEWS = ('front', 'back', 'left', 'right')
SPLITS = {1: 'train', -1: 'test'}
FIELDS = ('action', 'pose', 'train', 'nframes', 'dimensions', 'x', 'y', 'visibility', 'bbox')
LARGEST_JPEG = 65535  # pixels of a side
# What is mended or kept, as it is counted; to be read after a number.
NOT_ANNOTATED = 'joints were never annotated and are stored at (0, 0), not visible'
NO_ROW = 'frames have no row in bbox and take the box of the nearest frame'
EMPTY_BOX = 'frames have an empty box and take the one of the nearest frame, widened to their visible joints'
OUTSIDE = 'joints are marked visible outside of the frame and are kept'
NONE_VISIBLE = 'frames have no visible joint and are kept'


@dataclasses.dataclass(frozen=True)
class Label:
    """What a label file says of its clip; pixels are 0-based.

    Attributes:
        action: one of `ACTIONS`.
        view: `front`, `back`, `left` or `right`: the side of the person that the camera sees.
        split: `train` or `test`.
        joints: float32 [T, 13, 2] pixels; (0, 0) where never annotated.
        visible: bool [T, 13].
        boxes: float32 [T, 4] pixels.
        image_size: (rows, columns) of every frame.
        mended: what was mended or kept though it looks wrong -> how many frames or joints.
    """

    action: str
    view: str
    split: str
    joints: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray
    image_size: tuple[int, int]
    mended: Mapping[str, int]


def read_label(path: pathlib.Path) -> Label:
    """Reads `<clip>.mat`.

    The release was scaled down after it was annotated, markers included: a joint that was never annotated lies at (s, s) in the
    file's 1-based pixels, s <= 1 being the scale of its clip, and is not visible.

    Raises:
        InputError: the file is unreadable, or lacks a field, or a field's type, shape or values are none that it may have.
    """
    fields = matlab.read_fields(path, FIELDS)
    action, view = _word(path, fields, 'action', ACTIONS), _word(path, fields, 'pose', VIEWS)
    train, T = _whole(path, fields, 'train', 1)[0], _whole(path, fields, 'nframes', 1)[0]
    rows, columns, length = _whole(path, fields, 'dimensions', 3)
    if train not in SPLITS:
        raise InputError(f'{path}: train is {train}, expected 1 (train) or -1 (test)')
    if not (0 < rows <= LARGEST_JPEG and 0 < columns <= LARGEST_JPEG and 0 < T == length):
        raise InputError(
            f'{path}: dimensions are [{rows}, {columns}, {length}], expected [rows, columns, nframes], nframes is {T}'
        )
    J = PENN_ACTION.num_joints
    x, y, visibility = (
        matlab.numbers(path, fields, name, (T, J), 'frames, joints').astype(np.float64) for name in ('x', 'y', 'visibility')
    )
    if not np.isin(visibility, (0, 1)).all():
        raise InputError(f'{path}: visibility has values other than 0 and 1')
    visible, points = visibility == 1, matlab.single(np.stack([x, y], -1) - 1)
    bad = np.argwhere(visible & ~np.isfinite(points).all(-1))
    if len(bad):
        joint = PENN_ACTION.joints[bad[0][1]]
        raise InputError(f'{path}: x or y of {joint!r} in frame {bad[0][0] + 1} is not finite ({len(bad)} such joints)')
    unmarked = ~visible & (((x == y) & (x >= 0) & (x <= 1)) | ~np.isfinite(points).all(-1))
    joints = np.where(unmarked[..., None], np.float32(0), points)
    boxes, mended = _read_boxes(path, fields, joints, visible)
    mended |= {
        NOT_ANNOTATED: int(unmarked.sum()),
        OUTSIDE: int((visible & ~inside(joints, (rows, columns))).sum()),
        NONE_VISIBLE: int((~visible.any(1)).sum()),
    }
    mended = {what: count for what, count in mended.items() if count}
    return Label(action, view, SPLITS[train], joints, visible, boxes, (rows, columns), mended)


def _word(path: pathlib.Path, fields: dict[str, np.ndarray], name: str, known: Sequence[str]) -> str:
    value = fields[name]
    word = str(value.item()) if value.dtype.kind == 'U' and value.size == 1 else ''
    if word not in known:
        raise InputError(f'{path}: {name} is {word or value.tolist()!r}, known are {", ".join(known)}')
    return word


def _whole(path: pathlib.Path, fields: dict[str, np.ndarray], name: str, count: int) -> list[int]:
    """A field of `count` whole numbers."""
    value = fields[name]
    if value.dtype.kind not in 'biuf' or value.size != count or not (np.isfinite(value) & (value == np.round(value))).all():
        raise InputError(
            f'{path}: {name} is {value.dtype} {list(value.shape)}, expected {count} whole number{"s" if count > 1 else ""}'
        )
    return [int(number) for number in value.ravel()]


def _read_boxes(
    path: pathlib.Path, fields: dict[str, np.ndarray], joints: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, dict[str, int]]:
    """Boxes float32 [T, 4], none of them empty, and how many had to be mended."""
    T = len(joints)
    boxes = matlab.single(matlab.numbers(path, fields, 'bbox', ('T', 4), 'frames, x0 y0 x1 y1').astype(np.float64) - 1)
    if len(boxes) > T:
        raise InputError(f'{path}: bbox has {len(boxes)} rows, but nframes is {T}')
    no_row = T - len(boxes)
    boxes = np.concatenate([boxes, np.full((no_row, 4), np.nan, np.float32)])
    good = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not good.any():
        raise InputError(f'{path}: bbox has no box that is not empty')
    there, bad = np.flatnonzero(good), np.flatnonzero(~good)
    nearest = there[np.abs(there - bad[:, None]).argmin(1)]  # the earlier of two
    boxes[bad] = boxes[nearest]
    extent = box_of_points(joints, visible)[bad]
    boxes[bad, :2] = np.fmin(boxes[bad, :2], extent[:, :2])  # NaN, of a frame without a visible joint, changes nothing
    boxes[bad, 2:] = np.fmax(boxes[bad, 2:], extent[:, 2:])
    return boxes, {NO_ROW: no_row, EMPTY_BOX: len(bad) - no_row}
