"""Files of poses: what `evaluate --predictions` and `predict` write, and the npz layout of DeciWatch, SmoothNet and HANet."""

import json
import os
import pathlib
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.poses import Estimates, FixedPairs, PosePair
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.pose_windows import extent
from kimnet_jax.core.skeleton import JHMDB, Skeleton, get_skeleton

_KEYS = ('clips', 'lengths', 'joints', 'scores', 'boxes', 'image_size', 'skeleton', 'about')
_PICKLED = {  # all that an array of arrays needs: a file of poses must not be able to run code
    *((module, '_reconstruct') for module in ('numpy.core.multiarray', 'numpy._core.multiarray')),
    *((module, 'scalar') for module in ('numpy.core.multiarray', 'numpy._core.multiarray')),
    ('numpy', 'ndarray'),
    ('numpy', 'dtype'),
    ('_codecs', 'encode'),
}


def write_predictions(path: pathlib.Path, estimates: Sequence[Estimates], skeleton: Skeleton, about: Mapping[str, Any]) -> None:
    """Writes the poses of many clips to one `.npz`, complete or not at all.

    Arrays: `clips` [N] names, `lengths` int [N], `joints` float32 [sum of lengths, J, D], `scores`, `boxes`, `image_size` int
    [N, 2], `skeleton` its name, `about` JSON.

    Raises:
        InputError: the name has another suffix, or the folder cannot be made.
    """
    if path.suffix != '.npz':
        raise InputError(f'{path}: predictions are written as .npz; give the file that suffix')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f'{path.parent}: a file is in the way of that folder; choose another one') from error
    draft = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with draft.open('wb') as file:
            np.savez_compressed(
                file,
                clips=np.array([one.clip for one in estimates]),
                lengths=np.array([len(one.joints) for one in estimates]),
                joints=np.concatenate([one.joints for one in estimates]).astype(np.float32),
                scores=np.concatenate([one.scores for one in estimates]).astype(np.float32),
                boxes=np.concatenate([one.boxes for one in estimates]).astype(np.float32),
                image_size=np.array([one.image_size for one in estimates]),
                skeleton=np.array(skeleton.name),
                about=np.array(json.dumps(about)),
            )
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def read_predictions(paths: str, skeleton: str) -> list[Estimates]:
    """The poses of files of `evaluate --predictions` (.npz) or `predict` (.json, the clip is the file's name), or of folders.

    Args:
        paths: files and folders, with commas between.
        skeleton: name of the one that the poses must have.

    Raises:
        InputError: naming the file and the field that is wrong.
    """
    estimates = []
    for path in (pathlib.Path(part).expanduser() for part in paths.split(',')):
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in ('.npz', '.json') and '.coco.' not in file.name)
            if not files:
                raise InputError(f'{path}: no .npz or .json file of poses in that folder')
        else:
            files = [path]
        for file in files:
            found, name = _read_json(file) if file.suffix == '.json' else _read_npz(file)
            if name != skeleton:
                raise InputError(f'{file}: poses of {name!r}, the data has {skeleton!r}')
            estimates += found
    return estimates


def read_pose_json(path: pathlib.Path) -> tuple[dict[str, Any], Estimates, Skeleton]:
    """A file of `predict`: (the JSON as it is, its poses, their skeleton). A joint `[null, null]` is missing.

    Raises:
        InputError: naming the file, the frame and the field that is wrong.
    """
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise InputError(f'{path}: no such file of poses') from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f'{path}: not valid JSON ({error}); give the .json file that predict wrote') from error
    try:
        about, frames = data['about'], data['frames']
        skeleton, size = get_skeleton(about['skeleton']), np.array([about['height'], about['width']], int)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f'{path}: not a file of poses that predict wrote ({type(error).__name__}: {error})') from error
    if not isinstance(frames, list) or not frames:
        raise InputError(f'{path}: no frames in it')
    shapes = {'joints': (skeleton.num_joints, 2), 'scores': (skeleton.num_joints,), 'box': (4,)}
    values: dict[str, list[np.ndarray]] = {key: [] for key in shapes}
    for i, frame in enumerate(frames):
        for key, shape in shapes.items():
            try:
                value = np.array(frame[key], np.float32)  # null becomes NaN
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f'{path}: frame {i}: field {key!r} is missing or not of numbers') from error
            if value.shape != shape:
                raise InputError(f'{path}: frame {i}: {key} of shape {list(value.shape)}, expected {list(shape)}')
            values[key].append(value)
    joints, scores, boxes = (np.stack(values[key]) for key in ('joints', 'scores', 'box'))
    bad = np.flatnonzero(~np.isfinite(boxes).all(-1) | (boxes[:, 2:] <= boxes[:, :2]).any(-1))
    if len(bad):
        raise InputError(f'{path}: frame {bad[0]}: the box is empty or not finite: {boxes[bad[0]].tolist()}')
    return data, Estimates(path.stem, joints, scores, boxes, size), skeleton


def read_sequences(detected: str, truth: str, source: str) -> FixedPairs:
    """Pairs in DeciWatch's layout: `imgname`, `joints_2d` (or `joints_3d`), `bbox`, `imgshape`, each with an array for each clip.

    `joints_2d` are [T, J, 2] or [T, J * 2] pixels, `bbox` [T, 4] (x0, y0, x1, y1), `imgshape` (rows, columns, ...) of a clip; the
    last two are read from the truth. In 3D there are neither. A clip's name is that of its first frame's folder. Only arrays are
    read: a file that holds other objects is refused.

    Args:
        detected, truth: files, with commas between for several (in the same order): the release has a file for each split.
        source: what errors name.

    Raises:
        InputError: naming the file and the clip.
    """
    pairs: list[PosePair] = []
    if len(detected.split(',')) != len(truth.split(',')):
        raise InputError(f'{source}: as many files of truth as of estimates are needed')
    for first, second in zip(detected.split(','), truth.split(','), strict=True):
        pairs += _pairs_of(pathlib.Path(first).expanduser(), pathlib.Path(second).expanduser())
    shapes = {pair.joints.shape[1:] for pair in pairs}
    if len(shapes) != 1:
        raise InputError(f'{source}: clips of different joints: {sorted(shapes)}')
    ((joints, dims),) = shapes
    skeleton = JHMDB if (joints, dims) == (JHMDB.num_joints, 2) else get_skeleton(f'points{joints}')
    return FixedPairs(pairs, skeleton)


def _pairs_of(detected: pathlib.Path, truth: pathlib.Path) -> list[PosePair]:
    estimates, true = _arrays(detected), _arrays(truth)
    key = 'joints_3d' if 'joints_3d' in true and 'joints_2d' not in true else 'joints_2d'
    for path, arrays in ((detected, estimates), (truth, true)):
        missing = [name for name in ('imgname', key) if name not in arrays]
        if missing:
            raise InputError(f'{path}: no array {missing[0]!r}; it has {", ".join(arrays) or "none"}')
    if key == 'joints_2d' and not {'bbox', 'imgshape'} <= set(true):
        raise InputError(f"{truth}: no arrays 'bbox' and 'imgshape'; it has {', '.join(true)}")
    if len(estimates['imgname']) != len(true['imgname']):
        raise InputError(f'{detected}: {len(estimates["imgname"])} clips, {truth} has {len(true["imgname"])}')
    pairs, dims = [], 2 if key == 'joints_2d' else 3
    for i, names in enumerate(true['imgname']):
        clip, frames = pathlib.PurePath(str(np.ravel(names)[0])).parent.name or f'clip {i}', len(names)
        try:
            joints, found = (np.asarray(part[key][i], np.float32).reshape(frames, -1, dims) for part in (true, estimates))
        except (ValueError, TypeError, IndexError) as error:
            raise InputError(f'{detected}: clip {clip}: not as many poses as the {frames} frames of {truth} ({error})') from error
        if found.shape != joints.shape:
            raise InputError(f'{detected}: clip {clip}: poses of shape {list(found.shape)}, the truth has {list(joints.shape)}')
        if dims == 2:
            boxes = np.asarray(true['bbox'][i], np.float32).reshape(frames, 4)
            size = np.asarray(true['imgshape'][i], int).reshape(-1)[:2]
        else:
            boxes, size = extent(found), np.zeros(2, int)
        visible, scores = np.asarray(np.isfinite(joints).all(-1)), np.asarray(np.isfinite(found).all(-1), np.float32)
        pairs.append(PosePair(Estimates(clip, found, scores, boxes, size), joints, visible, boxes))
    return pairs


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f'it holds {module}.{name}, no array')
        return super().find_class(module, name)


def _arrays(path: pathlib.Path) -> dict[str, Any]:
    """The arrays of an npz, those of arrays included."""
    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                    _, _, dtype = read(file)
                    if dtype.hasobject:
                        arrays[member.removesuffix('.npy')] = _ArraysOnly(file, encoding='latin1').load()
                        continue
                with archive.open(member) as file:
                    arrays[member.removesuffix('.npy')] = np.lib.format.read_array(file)
    except FileNotFoundError:
        raise InputError(f'{path}: no such file of poses') from None
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, IndexError, pickle.UnpicklingError) as error:
        raise InputError(f'{path}: not a readable npz of arrays ({error})') from error
    return arrays


def _read_json(path: pathlib.Path) -> tuple[list[Estimates], str]:
    _, estimates, skeleton = read_pose_json(path)
    return [estimates], skeleton.name


def _read_npz(path: pathlib.Path) -> tuple[list[Estimates], str]:
    arrays = _arrays(path)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise InputError(f'{path}: no array {missing[0]!r}; give the file that evaluate --predictions wrote')
    lengths, total = arrays['lengths'], len(arrays['joints'])
    if lengths.sum() != total or any(len(arrays[key]) != total for key in ('scores', 'boxes')):
        raise InputError(f'{path}: {total} poses for {lengths.sum()} frames; write it again with evaluate --predictions')
    ends = np.cumsum(lengths)[:-1]
    parts = [np.split(arrays[key], ends) for key in ('joints', 'scores', 'boxes')]
    rows = zip(arrays['clips'].tolist(), *parts, arrays['image_size'], strict=True)
    return [Estimates(*row) for row in rows], str(arrays['skeleton'])
