"""Poses in the formats of other tools: OpenPose's JSON, TRC, angles for OpenSim (.mot), DeepLabCut's tables; see docs/predict.md.

Of a skeleton of ours, OpenPose's files hold the joints that both have (`OPENPOSE_NAMES`); the other formats hold all, by name.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import drafts_in, explained, write_text
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.kinematics import joint_angles
from kimnet_jax.core.pose_windows import extent
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.video import DEFAULT_RATE
from kimnet_jax.data_pipelines import pose_tables
from kimnet_jax.data_pipelines.pose_records import Clips, Records, clips_of, write_cells, write_csv, write_json
from kimnet_jax.data_pipelines.poses import Estimates

Format: TypeAlias = Literal['json', 'csv', 'openpose', 'trc', 'mot', 'dlc', 'dlc_h5']
FORMATS: tuple[Format, ...] = get_args(Format)
ENDINGS: dict[Format, str] = {  # of what is written for a video, after its name
    'json': '.json',
    'csv': '.csv',
    'openpose': '_openpose',
    'trc': '_px.trc',  # Sports2D opens a file in pixels by this name
    'mot': '.mot',
    'dlc': '.dlc.csv',
    'dlc_h5': '.h5',
}
_BODY = 'Nose Neck RShoulder RElbow RWrist LShoulder LElbow LWrist MidHip RHip RKnee RAnkle LHip LKnee LAnkle'
_HEAD, _FEET = 'REye LEye REar LEar', 'LBigToe LSmallToe LHeel RBigToe RSmallToe RHeel'
BODY_25 = (*_BODY.split(), *_HEAD.split(), *_FEET.split())
COCO_18 = tuple(name for name in BODY_25[:19] if name != 'MidHip')
_PARTS = ('shoulder', 'elbow', 'wrist', 'hip', 'knee', 'ankle')
OPENPOSE_NAMES = {  # our name -> OpenPose's
    'neck': 'Neck',
    'pelvis': 'MidHip',
    **{f'{side}_{part}': f'{side.upper()}{part.capitalize()}' for side in 'lr' for part in _PARTS},
}
_FILE = re.compile(r'(?P<stem>.*?)_?(?P<frame>\d+)(_keypoints)?\.json')  # Pose2Sim's have no `_keypoints`
_POINTS = 'pose_keypoints_2d'


class OpenPose(NamedTuple):
    """A folder of OpenPose's.

    Attributes:
        names: of the keypoints: `BODY_25`, `COCO_18`, or numbers.
        clips: of its persons.
        files: name -> what it holds.
        places: (name of the file, number of the person in it) of each record.
    """

    names: tuple[str, ...]
    clips: Clips
    files: Mapping[str, Any]
    places: list[tuple[str, int]]


def read_openpose(folder: pathlib.Path) -> OpenPose:
    """A folder of `<name>_000000000000_keypoints.json`, a file a frame.

    A person is who has the same `person_id`, or, where that is -1, the same place in the list. A keypoint 0, 0, 0 is missing.

    Raises:
        InputError: naming the file that is wrong.
    """
    with explained():
        found = sorted((int(m['frame']), m['stem'], file) for file in folder.iterdir() if (m := _FILE.fullmatch(file.name)))
    if not found:
        raise InputError(f'{folder}: no files of OpenPose in that folder (NAME_000000000000_keypoints.json)')
    if len({stem for _, stem, _ in found}) > 1:
        raise InputError(f'{folder}: files of several videos: {", ".join(sorted({stem for _, stem, _ in found}))}')
    files: dict[str, Any] = {}
    persons: list[int | str | None] = []
    frames, places = [], []
    points: list[np.ndarray] = []
    for number, _, file in found:
        data = files[file.name] = read_json(file, 'file of poses')
        people = data.get('people') if isinstance(data, dict) else None
        if not isinstance(people, list):
            raise InputError(f"{file}: no list 'people' in it")
        for i, person in enumerate(people):
            values = _keypoints(person, f'{file}: person {i}')
            if not values.any():
                continue  # an empty place in the list
            if points and values.shape != points[0].shape:
                raise InputError(f'{file}: person {i}: {len(values)} keypoints, others have {len(points[0])}')
            persons.append(_person_id(person, i))
            frames.append(number)
            points.append(values)
            places.append((file.name, i))
    if not points:
        raise InputError(f'{folder}: no keypoint in any of its files')
    values = np.stack(points)
    known = (values[..., 2] > 0) | values[..., :2].any(-1)
    joints = np.where(known[..., None], values[..., :2], np.nan).astype(np.float32)
    if len(set(persons)) == 1:
        persons = [None] * len(persons)
    names = {25: BODY_25, 18: COCO_18}.get(values.shape[1], tuple(f'point{i}' for i in range(values.shape[1])))
    low, high = np.split(extent(joints), 2, -1)
    boxes = np.concatenate([low, np.maximum(high, low + 1)], -1)
    records = Records(persons, frames, joints, np.where(known, values[..., 2], 0).astype(np.float32), boxes)
    count = max(number for number, *_ in found) + 1
    return OpenPose(
        names, clips_of(records, str(folder), found[0][1] or folder.name, np.zeros(2, int), count=count), files, places
    )


def _keypoints(person: Any, where: str) -> np.ndarray:
    """[keypoints, 3]: x, y, score."""
    try:
        values = np.array(person.get(_POINTS) or [], np.float64)
        if values.ndim != 1 or len(values) % 3 or not np.isfinite(values).all():
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise InputError(f'{where}: {_POINTS} must be x, y and score of each keypoint') from None
    return values.reshape(-1, 3)


def _person_id(person: Any, place: int) -> int | str:
    given = person.get('person_id')
    given = given[0] if isinstance(given, list) and given else given
    return given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else place


def rewrite_openpose(found: OpenPose, folder: pathlib.Path, joints: Sequence[np.ndarray]) -> None:
    """The same files with joints [T, J, 2] of each clip. All or none; raises `InputError` where others are in the folder."""
    files = {name: json.loads(json.dumps(data)) for name, data in found.files.items()}
    for (name, person), pose in zip(found.places, found.clips.at_records(joints), strict=True):
        values = _keypoints(files[name]['people'][person], name)
        known = np.isfinite(pose).all(-1)
        values[known, :2] = np.round(pose[known].astype(np.float64), 3)
        values[~known] = 0
        files[name]['people'][person][_POINTS] = values.ravel().tolist()
    _write_files(folder, {name: json.dumps(data) for name, data in files.items()})


def _write_files(folder: pathlib.Path, files: Mapping[str, str]) -> None:
    if folder.is_dir():
        with explained():
            others = sorted(
                file.name for file in folder.iterdir() if file.name.endswith('_keypoints.json') and file.name not in files
            )
        if others:
            raise InputError(f'{folder}: {others[0]} of another video is in that folder; remove it or choose another folder')
    with drafts_in(folder) as hidden:
        for name, text in files.items():
            (hidden / name).write_text(text, encoding='utf-8')


def rewrite(kind: Format, found: pose_tables.Table, path: pathlib.Path, joints: Sequence[np.ndarray]) -> None:
    """The same `trc`, `dlc` or `dlc_h5` with joints [T, J, D] of each clip; whole or not at all."""
    if kind == 'trc':
        pose_tables.write_trc_cells(path, pose_tables.rewrite_table(found, joints), found.names)
    elif kind == 'dlc':
        write_cells(path, pose_tables.rewrite_table(found, joints))
    else:
        clips = [dataclasses.replace(clip, joints=pose) for clip, pose in zip(found.clips.clips, joints, strict=True)]
        numbers = list(found.rows)
        several = any(clip.person is not None for clip in clips)
        labels, values = pose_tables.dlc_columns(found.names, clips, found.scorer, max(numbers) + 1, several)
        pose_tables.write_dlc_h5(path, labels, values[numbers], numbers)


def write_poses(
    path: pathlib.Path,
    kind: Format,
    clips: Sequence[Estimates],
    skeleton: Skeleton,
    about: Mapping[str, Any],
    times: Sequence[float] | None = None,
) -> list[pathlib.Path]:
    """Writes the poses of the persons of one video; whole or not at all.

    Args:
        path: the file, or the folder of `openpose`. `trc` and `mot` are files of one person: where there are several, each has
            its own, `<name>_person<id>.trc`. A `mot` whose name ends in .csv is a table with commas and without a header.
        kind: one of `FORMATS`.
        clips: a person each: `person`, `frames` and, where known, `times`; joints that are NaN are missing.
        skeleton: of the joints.
        about: goes into our JSON; `video` gives the names of OpenPose's files, `model` DeepLabCut's scorer.
        times: [N] seconds of all frames of the video; None: those of the clips, as many frames as these have.

    Returns:
        The files, or the folder.

    Raises:
        InputError: the format cannot hold these poses, a package is missing, or the place cannot be written to.
    """
    names = skeleton.joints
    dims = clips[0].joints.shape[-1]
    if dims > 3 or (dims == 3 and kind in ('csv', 'openpose', 'mot')):
        raise InputError(f'{path}: poses of {dims} numbers a joint cannot be written as {kind!r}')
    clips = [_timed(clip, times) for clip in clips]
    count = len(times) if times is not None else max(int(clip.frames[-1]) for clip in clips if clip.frames is not None) + 1
    if kind == 'json':
        write_json(path, clips, skeleton, about, count)
    elif kind == 'csv':
        write_csv(path, clips, skeleton)
    elif kind == 'openpose':
        stem = pathlib.PurePath(str(about.get('video', path.name))).stem
        _write_files(path, _openpose_files(clips, names, stem, count))
    elif kind in ('dlc', 'dlc_h5'):
        labels, values = pose_tables.dlc_columns(names, clips, str(about.get('model', 'kimnet_jax')), count, len(clips) > 1)
        if kind == 'dlc':
            write_cells(path, pose_tables.dlc_cells(labels, values))
        else:
            pose_tables.write_dlc_h5(path, labels, values)
    else:
        return _write_each(path, kind, clips, skeleton)
    return [path]


def _write_each(path: pathlib.Path, kind: Format, clips: Sequence[Estimates], skeleton: Skeleton) -> list[pathlib.Path]:
    """A file for each person, all or none."""
    files = {}
    for i, clip in enumerate(clips):
        person = i if clip.person is None else re.sub(r'[^\w-]', '_', str(clip.person))
        name = path.name if len(clips) == 1 else f'{path.stem}_person{person}{path.suffix}'
        assert clip.frames is not None
        assert clip.times is not None
        there = np.flatnonzero(np.isfinite(clip.joints).all(-1).any(-1))
        if not len(there):
            raise InputError(f'{path}: a person without a joint in any frame')
        part = slice(there[0], there[-1] + 1)
        frames, seconds = clip.frames[part], clip.times[part]
        clip = dataclasses.replace(clip, joints=clip.joints[part], times=seconds)
        if kind == 'trc':
            files[name] = pose_tables.trc_text(name, skeleton.joints, clip, frames, seconds)
        else:
            files[name] = _angles(clip, seconds, skeleton, commas=path.suffix == '.csv')
    if len(files) == 1:
        ((name, text),) = files.items()
        write_text(path, text)
        return [path]
    with drafts_in(path.parent) as hidden:
        for name, text in files.items():
            (hidden / name).write_text(text, encoding='utf-8')
    return [path.parent / name for name in files]


def _angles(clip: Estimates, times: np.ndarray, skeleton: Skeleton, commas: bool) -> str:
    """Joint angles in degrees over time (`core.kinematics`): OpenSim's table, or one with commas and without a header.

    OpenSim stops at the first cell that is no number. So its table has lines over time across frames without an angle, and no
    column for an angle that is nowhere; in the other such cells are empty.
    """
    angles = joint_angles(clip.joints, skeleton)
    if not commas:
        known = {name: np.isfinite(angle) for name, angle in angles.items()}
        angles = {
            name: np.interp(times, times[known[name]], angle[known[name]]) for name, angle in angles.items() if known[name].any()
        }
    if not angles:
        raise InputError(f'{clip.clip}: no angle in any frame, as joints are missing')
    columns, separator = ['time', *angles], ',' if commas else '\t'
    header = [
        'Coordinates',
        'version=1',
        f'nRows={len(times)}',
        f'nColumns={len(columns)}',
        'inDegrees=yes',
        '',
        'Angles between two segments in the image, not the coordinates of an OpenSim model.',
        'endheader',
    ]
    rows = zip(times, np.stack([*angles.values()], -1), strict=True)
    body = [separator.join([f'{time:.6f}', *('' if np.isnan(n) else f'{n:.4f}' for n in row)]) for time, row in rows]
    return '\n'.join([*([] if commas else header), separator.join(columns), *body]) + '\n'


def _timed(clip: Estimates, times: Sequence[float] | None) -> Estimates:
    frames = np.arange(len(clip.joints)) if clip.frames is None else np.asarray(clip.frames, int)
    known = np.asarray(times, np.float64)[frames] if times is not None else clip.times_at(DEFAULT_RATE)
    return dataclasses.replace(clip, frames=frames, times=known)


def _openpose_files(clips: Sequence[Estimates], names: Sequence[str], stem: str, count: int) -> dict[str, str]:
    known = {OPENPOSE_NAMES.get(name, name): i for i, name in enumerate(names)}
    places = [known.get(name) for name in BODY_25]
    if all(place is None for place in places):
        raise InputError(f"{stem}: none of the joints {', '.join(names[:4])}, ... is among OpenPose's BODY_25")
    people: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    for i, clip in enumerate(clips):
        assert clip.frames is not None
        there = np.isfinite(clip.joints).all(-1)
        for t in np.flatnonzero(there.any(-1)):
            points: list[float] = []
            for place in places:
                if place is None or not there[t, place]:
                    points += [0, 0, 0]
                else:
                    x, y = clip.joints[t, place].astype(np.float64)
                    points += [round(x, 3), round(y, 3), round(float(clip.scores[t, place]), 6)]
            empty: dict[str, list[float]] = {
                f'{part}_keypoints_{dims}d': [] for dims in (2, 3) for part in ('face', 'hand_left', 'hand_right')
            }
            person = clip.person if isinstance(clip.person, int) else i
            people[clip.frames[t]].append({'person_id': [person], _POINTS: points, 'pose_keypoints_3d': [], **empty})
    return {
        f'{stem}_{frame:012d}_keypoints.json': json.dumps({'version': 1.3, 'people': found}) for frame, found in enumerate(people)
    }
