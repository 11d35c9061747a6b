"""The npz layout of DeciWatch, SmoothNet and HANet: `imgname` and the poses, each with an array for each clip.

`joints_2d` are [T, J, 2] or [T, J * 2] pixels, with `bbox` [T, 4] (x0, y0, x1, y1) and `imgshape` (rows, columns, ...);
`joints_3d` likewise; `pose` are SMPL's rotations, [T, 72] axis-angle or [T, 144] six numbers each (`core.smpl`), with `shape`
[T, S]. A clip is named after the folder of its first frame. D is 2, 3 or 6.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kimnet_jax.core import smpl
from kimnet_jax.core.array_files import read_npz, write_npz
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.pose_windows import extent, root_position
from kimnet_jax.core.skeleton import JHMDB, SMPL, get_skeleton
from kimnet_jax.data_pipelines.poses import DIMS, Estimates, FixedPairs, Kind, PosePair

LARGEST = 1e6  # of a coordinate, pixels or millimetres
FIELDS: dict[Kind, str] = {'2d': 'joints_2d', '3d': 'joints_3d', 'smpl': 'pose'}


def read_sequences(
    detected: str, truth: str, source: str, kind: Kind = '2d', *, root: Sequence[int] = (), body: smpl.Body | None = None
) -> FixedPairs:
    """Pairs of files of estimates and of truth; `bbox` and `imgshape` are read from the latter.

    Args:
        detected, truth: files, with commas between for several (in the same order): the release has a file for each split.
        source: what errors name.
        kind: of the poses.
        root: of `3d`, joints whose mean becomes the origin.
        body: of `smpl`.

    Raises:
        InputError: naming the file and the clip.
    """
    pairs: list[PosePair] = []
    if len(detected.split(',')) != len(truth.split(',')):
        raise InputError(f'{source}: as many files of truth as of estimates are needed')
    for names in zip(detected.split(','), truth.split(','), strict=True):
        first, second = (pathlib.Path(name.strip()).expanduser() for name in names)
        pairs += _pairs_of(first, second, kind, root)
    shapes = {pair.joints.shape[1:] for pair in pairs}
    if len(shapes) != 1:
        raise InputError(f'{source}: clips of different joints: {sorted(shapes)}')
    ((joints, dims),) = shapes
    return FixedPairs(pairs, get_skeleton(_skeleton_name(joints, dims)), body)


def read_sequence_file(arrays: Mapping[str, Any], source: str, kind: Kind) -> tuple[list[Estimates], str]:
    """The poses of a file, and the name of their skeleton. Without `bbox`, a person's box is that of the joints.

    Raises:
        InputError: naming `source` and the clip.
    """
    field = FIELDS[kind]
    missing = [name for name in ('imgname', field) if name not in arrays]
    if missing:
        others = [other for other, name in FIELDS.items() if name in arrays]
        hint = f'; its poses are of config.poses.kind={" or ".join(others)}' if others else ''
        raise InputError(f'{source}: no array {missing[0]!r}; it has {", ".join(arrays) or "none"}{hint}')
    if not np.ndim(arrays['imgname']):
        raise InputError(f'{source}: imgname is one value, expected the names of the frames of each clip')
    clips = []
    for i, names in enumerate(arrays['imgname']):
        clip, frames = _clip_name(names, i), np.size(names)
        if not frames:
            raise InputError(f'{source}: {clip}: no frames in it')
        where = f'{source}: clip {clip}'
        flat = _rows(arrays, field, i, frames, where)
        joints = _rotations(flat, where) if kind == 'smpl' else _points(flat, DIMS[kind], where)
        check_joints(joints, where)
        boxes, size, shape = extent(joints), np.zeros(2, int), None
        if kind == 'smpl':
            boxes = np.tile(np.array([-1, 1], np.float32).repeat(6), (frames, 1))  # rotations have no place: 0 is the middle
            shape = _rows(arrays, 'shape', i, frames, where) if 'shape' in arrays else None
        elif kind == '2d':
            if 'bbox' in arrays:
                boxes = _rows(arrays, 'bbox', i, frames, where)
                check_boxes(boxes, where)
            if 'imgshape' in arrays:
                size = _rows(arrays, 'imgshape', i, 1, where)[0, :2]
                check_size(size, where)
                size = size.astype(int)
        scores = np.isfinite(joints).all(-1).astype(np.float32)
        clips.append(Estimates(clip, joints, scores, boxes, size, shape))
    if not clips:
        raise InputError(f'{source}: no clips in it')
    return clips, _skeleton_name(*clips[0].joints.shape[1:])


def write_sequence_file(
    arrays: Mapping[str, Any], kind: Kind, path: pathlib.Path, joints: Sequence[np.ndarray], refined: Mapping[str, Any]
) -> None:
    """The same file with other poses, in the form that they had, and, if not empty, `refined` (JSON)."""
    field = FIELDS[kind]
    poses = np.empty(len(joints), object)
    for i, one in enumerate(joints):
        before = np.asarray(arrays[field][i])
        if kind == 'smpl' and before.size == len(one) * smpl.NUM_JOINTS * 3:
            one = _rotation().from_matrix(smpl.rotation_matrices(one.astype(np.float64))).as_rotvec()
        poses[i] = np.asarray(one, np.float32).reshape(before.shape)
    told = {'refined': np.array(json.dumps(dict(refined)))} if refined else {}
    write_npz(path, {**arrays, field: poses, **told})


def check_boxes(boxes: np.ndarray, where: str, frames: Sequence[int] | None = None) -> None:
    """Raises `InputError` naming `where` and the frame (its number in `frames`), where a box [T, 4] is empty or not finite."""
    if boxes.shape[-1] != 4:
        raise InputError(f'{where}: boxes of {boxes.shape[-1]} numbers, expected x0, y0, x1, y1')
    bad = np.flatnonzero(~np.isfinite(boxes).all(-1) | (boxes[:, 2:] <= boxes[:, :2]).any(-1))
    if len(bad):
        raise InputError(f'{where}: frame {_number(bad[0], frames)}: the box is empty or not finite: {boxes[bad[0]].tolist()}')
    side = (boxes[:, 2:].astype(np.float64) - boxes[:, :2]).max(-1)
    bad = np.flatnonzero((side < 1) | (np.abs(boxes) > LARGEST).any(-1))
    if len(bad):
        raise InputError(f'{where}: frame {_number(bad[0], frames)}: no box of a person in pixels: {boxes[bad[0]].tolist()}')


def check_size(size: np.ndarray, source: str) -> None:
    """Raises `InputError` naming `source` where sizes of images [..., 2] are no rows and columns."""
    if size.shape[-1] != 2 or not ((size > 0) & (size <= LARGEST) & (size == np.floor(size))).all():
        raise InputError(
            f'{source}: height and width are {", ".join(f"{n:g}" for n in np.ravel(size)[:2])}: must be numbers of pixels'
        )


def check_joints(joints: np.ndarray, where: str, frames: Sequence[int] | None = None) -> None:
    """Raises `InputError` naming `where`, the frame and the joint where a coordinate is beyond all images; NaN is missing."""
    bad = np.argwhere(np.abs(joints) > LARGEST)
    if len(bad):
        frame, joint, _ = bad[0]
        place = joints[frame, joint].tolist()
        raise InputError(f'{where}: frame {_number(frame, frames)}: joint {joint} is at {place}; at most {LARGEST:g} is read')


def _number(i: int, frames: Sequence[int] | None) -> int:
    return int(i if frames is None else frames[i])


def _pairs_of(detected: pathlib.Path, truth: pathlib.Path, kind: Kind, root: Sequence[int]) -> list[PosePair]:
    arrays = read_npz(truth)
    (estimates, _), (true, _) = (
        read_sequence_file(found, str(path), kind) for found, path in ((read_npz(detected), detected), (arrays, truth))
    )
    if kind == '2d' and not {'bbox', 'imgshape'} <= set(arrays):
        raise InputError(f"{truth}: no arrays 'bbox' and 'imgshape'; it has {', '.join(arrays)}")
    if len(estimates) != len(true):
        raise InputError(f'{detected}: {len(estimates)} clips, {truth} has {len(true)}')
    pairs = []
    for one, other in zip(estimates, true, strict=True):
        found, joints, boxes = one.joints, other.joints, other.boxes
        if found.shape != joints.shape:
            shapes = f'poses of shape {list(found.shape)}, the truth has {list(joints.shape)} (frames, joints, numbers)'
            raise InputError(f'{detected}: clip {other.clip}: {shapes}')
        if root:
            if not max(root) < joints.shape[1] or min(root) < 0:
                raise InputError(f'config.poses.root={tuple(root)}: {truth} has joints 0 to {joints.shape[1] - 1}')
            found, joints = found - root_position(found, root), joints - joints[:, list(root)].mean(1, keepdims=True)
        if kind == '3d':
            boxes = extent(found)
        pair = Estimates(other.clip, found, one.scores, boxes, other.image_size, one.shape)
        pairs.append(PosePair(pair, joints, np.isfinite(joints).all(-1), boxes, other.shape))
    return pairs


def _rows(arrays: Mapping[str, Any], field: str, i: int, frames: int, where: str) -> np.ndarray:
    try:
        with np.errstate(over='ignore'):
            return np.asarray(arrays[field][i], np.float32).reshape(frames, -1)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
        raise InputError(f'{where}: {field} is not of numbers for each of {frames} frames ({error})') from error


def _points(rows: np.ndarray, dims: int, where: str) -> np.ndarray:
    if rows.shape[1] == 0 or rows.shape[1] % dims:
        raise InputError(f'{where}: {rows.shape[1]} numbers a frame, which is no multiple of {dims}')
    return rows.reshape(len(rows), -1, dims)


def _rotation() -> Any:
    from scipy.spatial.transform import Rotation  # slow to import, and only SMPL's poses need it

    return Rotation


def _rotations(rows: np.ndarray, where: str) -> np.ndarray:
    """[T, 72] or [T, 144] -> [T, 24, 6]; NaN where a rotation is missing."""
    joints = rows.reshape(len(rows), -1, 3 if rows.shape[1] == 3 * smpl.NUM_JOINTS else 6) if rows.shape[1] % 6 == 0 else rows
    if joints.shape[1:] not in ((smpl.NUM_JOINTS, 3), (smpl.NUM_JOINTS, 6)):
        raise InputError(f'{where}: pose has {rows.shape[1]} numbers a frame; 72 (axis-angle) or 144 (six a joint) are wanted')
    if joints.shape[-1] == 6:
        return joints
    missing = ~np.isfinite(joints).all(-1)
    vectors = np.where(missing[..., None], 0.0, joints).reshape(-1, 3)
    six = smpl.six_numbers(_rotation().from_rotvec(vectors).as_matrix()).reshape(len(rows), -1, 6)
    return np.where(missing[..., None], np.nan, six).astype(np.float32)


def _clip_name(names: Any, i: int) -> str:
    first = pathlib.PurePosixPath(str(np.ravel(names)[0])) if np.size(names) else pathlib.PurePosixPath()
    return first.parent.as_posix().strip('./') or f'clip {i}'


def _skeleton_name(joints: int, dims: int) -> str:
    if dims == DIMS['smpl']:
        return SMPL.name
    return JHMDB.name if (joints, dims) == (JHMDB.num_joints, 2) else f'points{joints}'
