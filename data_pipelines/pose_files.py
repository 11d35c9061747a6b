"""Files of poses: what `predict` and `evaluate --predictions` write, and those of other tools. D is 2 (pixels), 3 or 6."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from kimnet_jax.core.array_files import read_npz, write_npz
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_text
from kimnet_jax.core.json_files import parse_json
from kimnet_jax.core.skeleton import Skeleton, get_skeleton, named_apart
from kimnet_jax.data_pipelines import pose_formats, pose_records, pose_tables
from kimnet_jax.data_pipelines.poses import DIMS, Estimates, Kind
from kimnet_jax.data_pipelines.sequence_files import (
    FIELDS,
    check_boxes,
    check_joints,
    check_size,
    read_sequence_file,
    write_sequence_file,
)

_KEYS = ('clips', 'lengths', 'joints', 'scores', 'boxes', 'image_size', 'skeleton', 'about')


Form: TypeAlias = pose_formats.Format | Literal['npz']
_FORMS: dict[str, Form] = {'.json': 'json', '.csv': 'csv', '.npz': 'npz', '.trc': 'trc', '.mot': 'mot', '.h5': 'dlc_h5'}


class PoseFile(NamedTuple):
    """A file, or folder, of poses of any format.

    Attributes:
        clips: its poses; of a video, a clip of each person.
        skeleton: of their joints, as `Skeleton.text` has it.
        write: (path, joints [T, J, D] of each clip, what changed them): the same file with these joints.
        about: what it tells of the video.
    """

    clips: list[Estimates]
    skeleton: str
    write: Callable[[pathlib.Path, Sequence[np.ndarray], Mapping[str, Any]], None]
    about: Mapping[str, Any]


def format_of(path: pathlib.Path, like: Form | None = None) -> Form:
    """The format of a file by its name: one of `pose_formats.FORMATS`, or `npz`. Raises `InputError` where it is none of them.

    A table of DeepLabCut is told from one of ours by its content, where it exists, or by a name that ends in `.dlc.csv`, or else
    it is `like` the file that it is made from.
    """
    name, suffix = path.name.lower(), path.suffix.lower()
    if not suffix or (path.is_dir() and (like is None or suffix not in _FORMS)):
        return 'openpose'
    if suffix == '.csv':
        if name.endswith('.dlc.csv') or (like is None and read_text(path, 'file of poses', 'utf-8-sig').startswith('scorer,')):
            return 'dlc'
        return 'dlc' if like == 'dlc' else 'csv'
    if suffix not in _FORMS:
        raise InputError(f"{path}: poses come in {', '.join(_FORMS)}, or a folder of OpenPose's files")
    return _FORMS[suffix]


def open_pose_file(path: pathlib.Path, kind: Kind | None = '2d', skeleton: str | None = None) -> PoseFile:
    """Reads a file of poses of any format (`format_of`; docs/refine.md has a table of them).

    Args:
        path: the file, or the folder of OpenPose's files.
        kind: which of the arrays of a file in DeciWatch's layout (.npz with `imgname`) is wanted; None: the first that it has.
        skeleton: whose joints are wanted of a file of another tool, matched by name, and what a table with just these joints has;
            None: all.

    Raises:
        InputError: naming the file and the field that is wrong.
    """
    form = format_of(path)
    if form == 'mot':
        raise InputError(f'{path}: angles, from which no poses can be read')
    if form == 'npz':
        return _open_npz(path, kind)
    if form in ('json', 'csv'):
        wanted = None if skeleton is None else get_skeleton(skeleton)
        found = pose_records.read_pose_json(path) if form == 'json' else pose_records.read_pose_csv(path, wanted)
        rewrite = pose_records.rewrite_json if form == 'json' else pose_records.rewrite_csv
        return PoseFile(found.clips.clips, found.skeleton.text, functools.partial(rewrite, found), found.about)
    if form == 'openpose':
        folder = pose_formats.read_openpose(path)
        theirs = {name: name for name in folder.names} | pose_formats.OPENPOSE_NAMES
        write = functools.partial(pose_formats.rewrite_openpose, folder)
        return _of_tool(path, folder.clips.clips, folder.names, theirs, skeleton, write)
    assert form in ('trc', 'dlc', 'dlc_h5')
    read = {'trc': pose_tables.read_trc, 'dlc': pose_tables.read_dlc_csv, 'dlc_h5': pose_tables.read_dlc_h5}[form]
    table = read(path)
    write = functools.partial(pose_formats.rewrite, form, table)
    return _of_tool(path, table.clips.clips, table.names, {name: name for name in table.names}, skeleton, write)


def _of_tool(
    path: pathlib.Path,
    clips: list[Estimates],
    names: tuple[str, ...],
    theirs: Mapping[str, str],
    wanted: str | None,
    write: Callable[[pathlib.Path, Sequence[np.ndarray]], None],
) -> PoseFile:
    """Joints of other names than ours; those of the skeleton that is wanted, or of one that has them all, in its order."""
    found = get_skeleton(wanted) if wanted is not None else pose_records.skeleton_of(names, path)
    places = [names.index(theirs[joint]) if theirs.get(joint) in names else None for joint in found.joints]
    if all(place is None for place in places):
        raise InputError(f'{path}: none of the joints of {found.name!r} in it; it has {", ".join(names[:8])}')

    def chosen(array: np.ndarray, missing: float) -> np.ndarray:
        parts = [np.full_like(array[:, 0], missing) if place is None else array[:, place] for place in places]
        return np.stack(parts, 1)

    def write_all(target: pathlib.Path, joints: Sequence[np.ndarray], changed: Mapping[str, Any]) -> None:
        whole = [one.joints.copy() for one in clips]
        for poses, changed_poses in zip(whole, joints, strict=True):
            for i, place in enumerate(places):
                if place is not None:
                    poses[:, place] = changed_poses[:, i]
        write(target, whole)

    ours = [dataclasses.replace(one, joints=chosen(one.joints, np.nan), scores=chosen(one.scores, 0)) for one in clips]
    return PoseFile(ours, found.text, write_all, {})


def _open_npz(path: pathlib.Path, kind: Kind | None) -> PoseFile:
    arrays = read_npz(path)
    if 'imgname' in arrays:
        present: list[Kind] = [one for one, field in FIELDS.items() if field in arrays]
        held: Kind = kind if kind is not None else present[0] if present else '2d'
        clips, name = read_sequence_file(arrays, str(path), held)
        write = functools.partial(write_sequence_file, arrays, held)
    else:
        clips, name = _predictions_of(arrays, path)
        write = functools.partial(_write_predictions_again, arrays)
    return PoseFile(clips, name, write, {})


def write_predictions(path: pathlib.Path, estimates: Sequence[Estimates], skeleton: Skeleton, about: Mapping[str, Any]) -> None:
    """Writes the poses of many clips to one `.npz`, complete or not at all.

    Arrays: `clips` [N] names, `lengths` int [N], `joints` float32 [sum of lengths, J, D], `scores`, `boxes`, `image_size` int
    [N, 2], `skeleton` as `Skeleton.text` has it, `about` JSON.

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
        'skeleton': np.array(skeleton.text),
        'about': np.array(json.dumps(about)),
    }
    write_npz(path, arrays)


def read_predictions(paths: str, skeleton: str) -> list[Estimates]:
    """The poses of files of `evaluate --predictions` (.npz) or `predict` (.json, the clip is the file's name), or of folders.

    Args:
        paths: files and folders, with commas between.
        skeleton: the one that the poses must have, as `Skeleton.text` has it.

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
            if file.suffix == '.json':
                read = pose_records.read_pose_json(file)
                found, stored = read.clips.clips, read.skeleton.text
            else:
                found, stored = _predictions_of(read_npz(file), file)
            ours, theirs = get_skeleton(skeleton), get_skeleton(stored)
            if ours != theirs:
                told, known = named_apart(theirs, ours)
                raise InputError(f'{file}: poses of {told}, the data has {known}')
            estimates += found
    return estimates


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
    return [Estimates(*row) for row in rows], skeleton.text


def _write_predictions_again(
    arrays: Mapping[str, Any], path: pathlib.Path, joints: Sequence[np.ndarray], refined: Mapping[str, Any]
) -> None:
    about = json.loads(str(arrays['about'])) | ({'refined': dict(refined)} if refined else {})
    write_npz(path, {**arrays, 'joints': np.concatenate(joints).astype(np.float32), 'about': np.array(json.dumps(about))})
