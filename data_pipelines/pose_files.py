"""Files of poses: what `evaluate --predictions` and `predict` write. D is 2 (pixels), 3 or 6, as in `poses`."""

import functools
import itertools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.array_files import read_npz, write_npz
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import write_text
from kimnet_jax.core.json_files import parse_json, read_json
from kimnet_jax.core.pose_windows import extent
from kimnet_jax.core.skeleton import Skeleton, get_skeleton
from kimnet_jax.data_pipelines.poses import DIMS, Estimates, Kind
from kimnet_jax.data_pipelines.sequence_files import (
    check_boxes,
    check_joints,
    check_size,
    read_sequence_file,
    write_sequence_file,
)

_KEYS = ('clips', 'lengths', 'joints', 'scores', 'boxes', 'image_size', 'skeleton', 'about')


class PoseFile(NamedTuple):
    """A file of poses of any layout.

    Attributes:
        clips: its poses.
        skeleton: their name of it.
        write: (path, joints [T, J, D] of each clip, what refined them): the same file with these joints.
    """

    clips: list[Estimates]
    skeleton: str
    write: Callable[[pathlib.Path, Sequence[np.ndarray], Mapping[str, Any]], None]


def open_pose_file(path: pathlib.Path, kind: Kind) -> PoseFile:
    """Reads a file of `predict` (.json), of `evaluate --predictions` (.npz) or in DeciWatch's layout (.npz with `imgname`).

    `kind` says which of the arrays of the last is wanted. Raises `InputError` naming the file and the field that is wrong.
    """
    if path.suffix not in ('.json', '.npz'):
        raise InputError(f'{path}: poses come in .json or .npz')
    if path.suffix == '.json':
        data, one, skeleton = read_pose_json(path)
        return PoseFile([one], skeleton.name, functools.partial(_write_json, data))
    arrays = read_npz(path)
    if 'imgname' in arrays:
        clips, name = read_sequence_file(arrays, str(path), kind)
        return PoseFile(clips, name, functools.partial(write_sequence_file, arrays, kind))
    clips, name = _predictions_of(arrays, path)
    return PoseFile(clips, name, functools.partial(_write_predictions_again, arrays))


def write_predictions(path: pathlib.Path, estimates: Sequence[Estimates], skeleton: Skeleton, about: Mapping[str, Any]) -> None:
    """Writes the poses of many clips to one `.npz`, complete or not at all.

    Arrays: `clips` [N] names, `lengths` int [N], `joints` float32 [sum of lengths, J, D], `scores`, `boxes`, `image_size` int
    [N, 2], `skeleton` its name, `about` JSON.

    Raises:
        InputError: the name has another suffix, or the folder cannot be made.
    """
    arrays = {
        'clips': np.array([one.clip for one in estimates]),
        'lengths': np.array([len(one.joints) for one in estimates]),
        'joints': np.concatenate([one.joints for one in estimates]).astype(np.float32),
        'scores': np.concatenate([one.scores for one in estimates]).astype(np.float32),
        'boxes': np.concatenate([one.boxes for one in estimates]).astype(np.float32),
        'image_size': np.array([one.image_size for one in estimates]),
        'skeleton': np.array(skeleton.name),
        'about': np.array(json.dumps(about)),
    }
    write_npz(path, arrays)


def read_predictions(paths: str, skeleton: str) -> list[Estimates]:
    """The poses of files of `evaluate --predictions` (.npz) or `predict` (.json, the clip is the file's name), or of folders.

    Args:
        paths: files and folders, with commas between.
        skeleton: name of the one that the poses must have.

    Raises:
        InputError: naming the file and the field that is wrong.
    """
    estimates: list[Estimates] = []
    for path in (pathlib.Path(part.strip()).expanduser() for part in paths.split(',')):
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in ('.npz', '.json') and '.coco.' not in file.name)
            if not files:
                raise InputError(f'{path}: no .npz or .json file of poses in that folder')
        else:
            files = [path]
        for file in files:
            found, name = _read_json(file) if file.suffix == '.json' else _predictions_of(read_npz(file), file)
            if name != skeleton:
                raise InputError(f'{file}: poses of {name!r}, the data has {skeleton!r}')
            estimates += found
    return estimates


def read_pose_json(path: pathlib.Path) -> tuple[dict[str, Any], Estimates, Skeleton]:
    """A file of `predict`: (the JSON as it is, its poses, their skeleton). A joint `[null, null]` is missing.

    Poses in 3D need no `width`, `height` and `box`; `scores` are needed nowhere.

    Raises:
        InputError: naming the file, the frame and the field that is wrong.
    """
    data = read_json(path, 'file of poses')
    try:
        about, frames = data['about'], data['frames']
        skeleton = get_skeleton(about['skeleton'])
        if not isinstance(frames, list) or not frames:
            raise InputError(f'{path}: no frames in it')
        dims = np.shape(frames[0].get('joints', ()))[-1:]
        spatial = dims in ((3,), (6,))
        size = np.array([about.get(key, 0) if spatial else about[key] for key in ('height', 'width')], np.float64)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f'{path}: not a file of poses that predict wrote ({type(error).__name__}: {error})') from error
    joints = _column(path, frames, 'joints', (skeleton.num_joints, dims[0] if spatial else 2))
    check_joints(joints, str(path))
    if not spatial:
        check_size(size, str(path))
    scores = np.isfinite(joints).all(-1).astype(np.float32)
    if 'scores' in frames[0]:
        scores = _column(path, frames, 'scores', (skeleton.num_joints,))
    boxes = extent(joints) if spatial else _column(path, frames, 'box', (4,))
    if not spatial:
        check_boxes(boxes, str(path))
    numbers = [frame.get('frame') for frame in frames]
    for before, after in itertools.pairwise(numbers):
        if isinstance(before, int) and isinstance(after, int) and after != before + 1:
            raise InputError(f'{path}: frame {after} comes after frame {before}; give every frame, with null for missing joints')
    return data, Estimates(path.stem, joints, scores, boxes, size), skeleton


def _column(path: pathlib.Path, frames: list[dict[str, Any]], key: str, shape: tuple[int, ...]) -> np.ndarray:
    values = []
    for i, frame in enumerate(frames):
        try:
            with np.errstate(over='ignore'):
                value = np.array(frame[key], np.float32)  # null becomes NaN
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f'{path}: frame {i}: field {key!r} is missing or not of numbers') from error
        if value.shape != shape:
            raise InputError(f'{path}: frame {i}: {key} of shape {list(value.shape)}, expected {list(shape)}')
        values.append(value)
    return np.stack(values)


def _read_json(path: pathlib.Path) -> tuple[list[Estimates], str]:
    _, estimates, skeleton = read_pose_json(path)
    return [estimates], skeleton.name


def _write_json(data: Mapping[str, Any], path: pathlib.Path, joints: Sequence[np.ndarray], refined: Mapping[str, Any]) -> None:
    """As `predict` does: one line a frame; complete or not at all."""
    (points,) = joints
    points = np.round(points.astype(np.float64), 2 if points.shape[-1] == 2 else 6)
    points = np.where(np.isfinite(points), points, None)  # type: ignore[call-overload]
    about = data['about'] | {'refined': dict(refined)}
    rows = zip(data['frames'], points.tolist(), strict=True)
    lines = ',\n'.join(json.dumps(frame | {'joints': pose}, allow_nan=False) for frame, pose in rows)
    write_text(path, f'{{"about": {json.dumps(about)},\n"frames": [\n{lines}\n]}}\n')


def _predictions_of(arrays: Mapping[str, Any], path: pathlib.Path) -> tuple[list[Estimates], str]:
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise InputError(f'{path}: no array {missing[0]!r}; give the file that evaluate --predictions wrote')
    try:
        skeleton = get_skeleton(str(arrays['skeleton']))
    except InputError as error:
        raise InputError(f'{path}: skeleton: {error}') from error
    about = parse_json(str(arrays['about']), f'{path}: about')
    unlike = [key for key in _KEYS if not isinstance(arrays[key], np.ndarray) or arrays[key].dtype.hasobject]
    if unlike:
        raise InputError(f'{path}: {unlike[0]} is no plain array; give the file that evaluate --predictions wrote')
    clips, count, shape = np.size(arrays['clips']), skeleton.num_joints, np.shape(arrays['joints'])
    if len(shape) != 3 or shape[2] not in DIMS.values():
        raise InputError(f'{path}: joints of shape {list(shape)}, expected [frames, {count}, 2 or 3]')
    total, _, dims = shape
    shapes = {
        'clips': (clips,),
        'lengths': (clips,),
        'image_size': (clips, 2),
        'joints': (total, count, dims),
        'scores': (total, count),
        'boxes': (total, 2 * dims),
    }
    for key, shape in shapes.items():
        array = np.asarray(arrays[key])
        if array.shape != shape or array.dtype.kind not in ('U' if key == 'clips' else 'iuf'):
            raise InputError(f'{path}: {key} of shape {list(array.shape)} ({array.dtype}), expected {list(shape)}')
    lengths = arrays['lengths']
    whole = np.isfinite(lengths).all() and (lengths == np.floor(lengths)).all() and (lengths <= total).all()
    if not isinstance(about, dict) or not whole or lengths.min(initial=1) < 1 or lengths.sum() != total or not total:
        raise InputError(f'{path}: {total} poses for {lengths.sum()} frames; write it again with evaluate --predictions')
    check_joints(np.asarray(arrays['joints'], np.float64), str(path))
    if not np.isfinite(arrays['scores']).all():
        raise InputError(f'{path}: scores are not all finite')
    if dims == 2:
        check_boxes(arrays['boxes'], str(path))
        check_size(arrays['image_size'], str(path))
    ends = np.cumsum(lengths.astype(int))[:-1]
    parts = [np.split(arrays[key].astype(np.float32), ends) for key in ('joints', 'scores', 'boxes')]
    rows = zip(arrays['clips'].tolist(), *parts, arrays['image_size'], strict=True)
    return [Estimates(*row) for row in rows], skeleton.name


def _write_predictions_again(
    arrays: Mapping[str, Any], path: pathlib.Path, joints: Sequence[np.ndarray], refined: Mapping[str, Any]
) -> None:
    about = json.loads(str(arrays['about'])) | {'refined': dict(refined)}
    write_npz(path, {**arrays, 'joints': np.concatenate(joints).astype(np.float32), 'about': np.array(json.dumps(about))})
