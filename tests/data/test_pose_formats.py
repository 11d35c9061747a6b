"""Poses in the formats of other tools: what their own readers find in our files, and what we find in files of theirs."""

import dataclasses
import json
import os
import pickle
import sys

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.kinematics import joint_angles
from kimnet_jax.core.skeleton import JHMDB, MPII, PENN_ACTION, get_skeleton, make_skeleton
from kimnet_jax.data_pipelines.pose_files import format_of, open_pose_file
from kimnet_jax.data_pipelines.pose_formats import BODY_25, COCO_18, ENDINGS, FORMATS, OPENPOSE_NAMES, write_poses
from kimnet_jax.data_pipelines.poses import Estimates

RATE = 25.0
TIMES = np.arange(8) / RATE
ABOUT = {'video': 'films/walk.mp4', 'model': 'kimnet', 'rate': RATE}


def person(name, first: int, end: int, skeleton=PENN_ACTION, dims: int = 2, seed: int = 0) -> Estimates:
    """In the frames from `first` to before `end`."""
    rng = np.random.default_rng(seed)
    joints = np.round(rng.uniform(10, 200, (end - first, skeleton.num_joints, dims)), 2).astype(np.float32)
    scores = np.round(rng.uniform(0.1, 1, joints.shape[:2]), 3).astype(np.float32)
    low, high = joints.min(1), joints.max(1)
    return Estimates(
        'walk', joints, scores, np.concatenate([low, high], -1), np.array([240, 320]), None, name, np.arange(first, end)
    )


def gone(one: Estimates, t: int) -> Estimates:
    """Without the person in a frame, and without a joint in another."""
    joints = one.joints.copy()
    joints[t], joints[t + 1, 3] = np.nan, np.nan
    return dataclasses.replace(one, joints=joints, scores=np.where(np.isfinite(joints).all(-1), one.scores, 0))


def single() -> list[Estimates]:
    return [gone(person(None, 0, 8), 2)]


def several() -> list[Estimates]:
    return [gone(person(3, 0, 8), 2), person(7, 2, 6, seed=1)]


def joints_of(one: Estimates, skeleton=PENN_ACTION, count: int = len(TIMES)) -> np.ndarray:
    """[frames of the video, J, D]; NaN where there is none."""
    whole = np.full((count, *one.joints.shape[1:]), np.nan)
    whole[one.frames] = one.joints
    return whole


@pytest.mark.parametrize('kind', [kind for kind in FORMATS if kind != 'mot'])
@pytest.mark.parametrize('clips', [single, several])
def test_there_and_back(kind, clips, tmp_path):
    written = write_poses(tmp_path / f'walk{ENDINGS[kind]}', kind, clips(), PENN_ACTION, ABOUT, TIMES)
    skeleton = PENN_ACTION.name if kind == 'openpose' else None
    found = [one for path in written for one in open_pose_file(path, skeleton=skeleton).clips]
    assert len(found) == len(clips())
    for one, other in zip(found, clips(), strict=True):
        held = [i for i, name in enumerate(PENN_ACTION.joints) if kind != 'openpose' or name in OPENPOSE_NAMES]
        np.testing.assert_allclose(joints_of(one)[:, held], joints_of(other)[:, held], atol=0.006)
        if kind != 'trc':
            scores = np.zeros((len(TIMES), len(PENN_ACTION.joints)))
            scores[one.frames] = one.scores
            np.testing.assert_allclose(scores[other.frames][:, held], other.scores[:, held], atol=6e-4)
        if kind in ('json', 'csv', 'trc'):
            np.testing.assert_allclose(one.times, TIMES[one.frames], atol=1e-6)
        if kind in ('json', 'csv', 'openpose', 'dlc', 'dlc_h5') and len(found) > 1:
            assert one.person == other.person
    if kind in ('json', 'csv', 'dlc', 'dlc_h5', 'trc'):
        assert open_pose_file(written[0]).skeleton == 'penn_action'


@pytest.mark.parametrize('kind', ['json', 'trc', 'dlc', 'dlc_h5'])
def test_poses_in_3d(kind, tmp_path):
    one = person(None, 0, 8, get_skeleton('points17'), dims=3)
    (path,) = write_poses(tmp_path / f'walk{ENDINGS[kind]}', kind, [one], get_skeleton('points17'), {}, TIMES)
    found = open_pose_file(path)
    np.testing.assert_allclose(found.clips[0].joints, one.joints, atol=1e-3)
    assert found.skeleton == 'points17'
    for other in ('csv', 'openpose', 'mot'):
        with pytest.raises(InputError, match=f"poses of 3 numbers a joint cannot be written as '{other}'"):
            write_poses(tmp_path / 'x', other, [one], get_skeleton('points17'), {})


def test_openpose_files(tmp_path):
    """Names, order and zeros as OpenPose's documentation has them."""
    clips = several()
    write_poses(tmp_path / 'out', 'openpose', clips, PENN_ACTION, ABOUT, TIMES)
    files = sorted(file.name for file in (tmp_path / 'out').iterdir())
    assert files == [f'walk_{t:012d}_keypoints.json' for t in range(8)]
    frames = [json.loads((tmp_path / 'out' / file).read_text()) for file in files]
    assert [[one['person_id'] for one in frame['people']] for frame in frames] == [
        [[3]],
        [[3]],
        [[7]],
        *[[[3], [7]]] * 3,
        [[3]],
        [[3]],
    ]
    assert frames[0]['version'] == 1.3
    points = np.reshape(frames[3]['people'][0]['pose_keypoints_2d'], (25, 3))
    for name, theirs in (('r_wrist', 4), ('l_shoulder', 5), ('r_hip', 9), ('l_ankle', 14)):  # of BODY_25
        joint = PENN_ACTION.joints.index(name)
        np.testing.assert_allclose(points[theirs], [*clips[0].joints[3, joint], clips[0].scores[3, joint]], rtol=1e-5)
    missing = PENN_ACTION.joints[3]
    assert points[BODY_25.index(OPENPOSE_NAMES[missing])].tolist() == [0, 0, 0]
    assert points[[0, 1, 8, 15, 24]].tolist() == [[0, 0, 0]] * 5


def test_joints_that_openpose_has_too():
    named = {
        name: [joint for joint in skeleton.joints if joint in OPENPOSE_NAMES]
        for name, skeleton in (('jhmdb', JHMDB), ('mpii', MPII))
    }
    assert len(named['jhmdb']) == 13
    assert 'neck' in named['jhmdb']
    assert 'pelvis' in named['mpii']
    assert set(OPENPOSE_NAMES.values()) < set(BODY_25)
    assert (len(BODY_25), len(COCO_18), BODY_25[8], COCO_18[8]) == (25, 18, 'MidHip', 'RHip')


def openpose_folder(folder, people_of, stem='cam_'):
    folder.mkdir()
    for t, people in enumerate(people_of):
        (folder / f'{stem}{t:012d}_keypoints.json').write_text(json.dumps({'version': 1.3, 'people': people}))
    return folder


def keypoints(value: float, count: int = 25, **fields) -> dict:
    return {
        'person_id': [-1],
        'pose_keypoints_2d': [value, value + 1, 0.5] * count,
        'hand_left_keypoints_2d': [1, 2, 0.1],
    } | fields


def test_openpose_without_ids(tmp_path):
    """A person is the place in the list; what is not the body's stays as it was."""
    folder = openpose_folder(tmp_path / 'a', [[keypoints(1), keypoints(50)], [keypoints(2), keypoints(60)], [keypoints(3)], []])
    found = open_pose_file(folder)
    assert [(one.clip, one.person, len(one.joints)) for one in found.clips] == [('cam:0', 0, 3), ('cam:1', 1, 2)]
    assert get_skeleton(found.skeleton).joints == BODY_25
    found.write(tmp_path / 'b', [one.joints + 10 for one in found.clips], {})
    after = json.loads((tmp_path / 'b/cam_000000000001_keypoints.json').read_text())['people']
    assert after[1]['pose_keypoints_2d'][:3] == [70, 71, 0.5]
    assert after[0]['hand_left_keypoints_2d'] == [1, 2, 0.1]
    assert len(list((tmp_path / 'b').iterdir())) == 4
    mapped = open_pose_file(openpose_folder(tmp_path / 'c', [[keypoints(1, 18)]]), skeleton='penn_action')
    assert np.isfinite(mapped.clips[0].joints).all(-1)[0].tolist() == [False, *[True] * 12]


@pytest.mark.parametrize(
    ('people', 'message'),
    [
        ([], 'no keypoint in any of its files'),
        ([{'pose_keypoints_2d': [0] * 75}], 'no keypoint in any of its files'),
        ([{'pose_keypoints_2d': [1, 2]}], 'person 0: pose_keypoints_2d must be x, y and score'),
        ([{'pose_keypoints_2d': 'x'}], 'person 0: pose_keypoints_2d must be'),
        (['x'], 'person 0: pose_keypoints_2d must be'),
        ([keypoints(1), keypoints(1, 18)], 'person 1: 18 keypoints, others have 25'),
        (
            [keypoints(1, person_id=[4]), keypoints(1, person_id=[4])],
            'frame 0 is there twice; both with id 4|frame 0 is there twice',
        ),
        ([keypoints(1e9)], 'frame 0: joint 0 is at'),
        (None, "no list 'people' in it"),
    ],
)
def test_bad_files_of_openpose(people, message, tmp_path):
    folder = openpose_folder(tmp_path / 'a', [people])
    with pytest.raises(InputError, match=message) as error:
        open_pose_file(folder)
    assert len(str(error.value).splitlines()) == 1


def test_folders_of_openpose(tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='no files of OpenPose in that folder'):
        open_pose_file(tmp_path / 'empty')
    with pytest.raises(InputError, match='none: there is no such file or folder'):
        open_pose_file(tmp_path / 'none')
    folder = openpose_folder(tmp_path / 'a', [[keypoints(1)]])
    (folder / 'other_000000000000_keypoints.json').write_text('{}')
    with pytest.raises(InputError, match='files of several videos: cam, other'):
        open_pose_file(folder)
    with pytest.raises(InputError, match=r'cam_000000000000_keypoints\.json of another video is in that folder'):
        write_poses(folder, 'openpose', single(), PENN_ACTION, ABOUT, TIMES)
    assert len(list(folder.iterdir())) == 2


def test_trc_by_hand(tmp_path):
    joints = np.array([[[1, 2], [3.5, 4]], [[np.nan, np.nan], [5, 6]]], np.float32)
    one = Estimates('a', joints, np.ones((2, 2)), np.zeros((2, 4)), np.zeros(2), frames=np.array([4, 5]))
    write_poses(tmp_path / 'a.trc', 'trc', [one], make_skeleton('leg', ['hip', 'knee']), {}, np.arange(6) / 50)
    assert (tmp_path / 'a.trc').read_text().split('\n') == [
        'PathFileType\t4\t(X/Y/Z)\ta.trc',
        'DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames',
        '50\t50\t2\t2\tm\t50\t4\t2',
        'Frame#\tTime\thip\t\t\tknee\t\t',
        '\t\tX1\tY1\tZ1\tX2\tY2\tZ2\t',
        '4\t0.080000\t1\t2\t0\t3.5\t4\t0\t',
        '5\t0.100000\t\t\t\t5\t6\t0\t',
        '',
    ]


def test_a_trc_of_others_stays_as_it_was(tmp_path):
    """But for its joints, and for a tab at the end of each row, without which OpenSim misses a last cell that is empty."""
    header = 'PathFileType\t4\t(X/Y/Z)\tx.trc\nDataRate\n50\nFrame#\tTime\thip\t\t\tknee\t\t\n\t\tX1\tY1\tZ1\tX2\tY2\tZ2\n'
    (tmp_path / 'a.trc').write_text(header + '\n0\t0\t1\t2\t0\t3\t4\t0\n1\t0.5\t1\t2\t0\t\t\t\n2\t1\t1\t2\t0\t\t\t\t\n')
    found = open_pose_file(tmp_path / 'a.trc')
    assert found.clips[0].joints[:, 0].tolist() == [[1, 2]] * 3
    found.write(tmp_path / 'b.trc', [found.clips[0].joints + 1], {})
    rows = '\n0\t0\t2\t3\t0\t4\t5\t0\t\n1\t0.5\t2\t3\t0\t\t\t\t\n2\t1\t2\t3\t0\t\t\t\t\n'
    assert (tmp_path / 'b.trc').read_text() == header[:-1] + '\t\n' + rows


def test_a_trc_with_short_lines(tmp_path):
    (tmp_path / 'a.trc').write_text('PathFileType\n\n\nFrame#\tTime\thip\t\t\tknee\n\n0\t0\t1\t2\t0\n1\t1\t1\t2\t0\t5\t6\t0\n')
    found = open_pose_file(tmp_path / 'a.trc')
    assert np.isfinite(found.clips[0].joints).all(-1).tolist() == [[True, False], [True, True]]
    found.write(tmp_path / 'b.trc', [np.nan_to_num(found.clips[0].joints, nan=7)], {})
    assert (tmp_path / 'b.trc').read_text().splitlines()[5] == '0\t0\t1\t2\t0\t7\t7\t0\t'


def test_opensim_reads_trc_and_mot(tmp_path):
    opensim = pytest.importorskip('opensim', reason='OpenSim is not installed')
    one = single()[0]
    (path,) = write_poses(tmp_path / 'walk_px.trc', 'trc', [one], PENN_ACTION, ABOUT, TIMES)
    table = opensim.TimeSeriesTableVec3(str(path))
    assert tuple(table.getColumnLabels()) == PENN_ACTION.joints
    found = [[[row[i][d] for d in range(2)] for i in range(row.size())] for row in map(table.getRowAtIndex, range(8))]
    np.testing.assert_allclose(found, one.joints, atol=1e-3)
    (path,) = write_poses(tmp_path / 'walk.mot', 'mot', [one], PENN_ACTION, ABOUT, TIMES)
    angles = opensim.TimeSeriesTable(str(path))
    found = [[row[i] for i in range(row.size())] for row in map(angles.getRowAtIndex, range(8))]
    expected = np.stack([*joint_angles(one.joints, PENN_ACTION).values()], -1)
    known = np.isfinite(expected)
    np.testing.assert_allclose(np.array(found)[known], expected[known], atol=1e-4)
    storage = opensim.Storage(str(path))
    assert (storage.isInDegrees(), storage.getSize(), storage.getColumnLabels().getSize()) == (True, 8, 9)


def test_a_person_each(tmp_path):
    for kind in ('trc', 'mot'):
        written = write_poses(tmp_path / f'walk.{kind}', kind, several(), PENN_ACTION, ABOUT, TIMES)
        assert [path.name for path in written] == [f'walk_person3.{kind}', f'walk_person7.{kind}']
        assert all(path.is_file() for path in written)


def test_angles(tmp_path):
    (path,) = write_poses(tmp_path / 'walk.mot', 'mot', single(), PENN_ACTION, ABOUT, TIMES)
    lines = path.read_text().splitlines()
    end = lines.index('endheader')
    names, rows = lines[end + 1].split('\t'), [line.split('\t') for line in lines[end + 2 :]]
    angles = joint_angles(single()[0].joints, PENN_ACTION)
    assert names == ['time', *angles]
    assert {'nRows=8', f'nColumns={len(names)}', 'inDegrees=yes'} <= set(lines[:end])
    expected = np.stack([TIMES, *angles.values()], -1)
    whole = np.isfinite(expected).all(-1)
    assert not whole.all()
    expected = np.stack([np.interp(TIMES, TIMES[np.isfinite(column)], column[np.isfinite(column)]) for column in expected.T], -1)
    np.testing.assert_allclose(np.array(rows, float), expected, atol=1e-4)
    (path,) = write_poses(tmp_path / 'walk.csv', 'mot', single(), PENN_ACTION, ABOUT, TIMES)
    assert path.read_text().splitlines()[0] == ','.join(names)
    assert path.read_text().splitlines()[3] == '0.080000' + ',' * len(angles)
    with pytest.raises(InputError, match='angles, from which no poses can be read'):
        open_pose_file(tmp_path / 'walk.mot')
    with pytest.raises(InputError, match="has no 'l_shoulder'"):
        write_poses(tmp_path / 'x.mot', 'mot', [person(None, 0, 3, get_skeleton('points17'))], get_skeleton('points17'), {})


@pytest.mark.parametrize('clips', [single, several])
@pytest.mark.parametrize('kind', ['dlc', 'dlc_h5'])
def test_pandas_reads_tables_as_deeplabcut_does(kind, clips, tmp_path):
    pandas = pytest.importorskip('pandas', reason='pandas is not installed')
    pytest.importorskip('tables', reason='PyTables is not installed')
    (path,) = write_poses(tmp_path / f'walk{ENDINGS[kind]}', kind, clips(), PENN_ACTION, ABOUT, TIMES)
    levels = [0, 1, 2, 3] if len(clips()) > 1 else [0, 1, 2]
    table = pandas.read_hdf(path) if kind == 'dlc_h5' else pandas.read_csv(path, header=levels, index_col=0)
    assert list(table.columns.names) == ['scorer', *(['individuals'] if len(levels) == 4 else []), 'bodyparts', 'coords']
    assert table.index.tolist() == [*range(8)]
    for one in clips():
        found = table['kimnet'][str(one.person)] if len(levels) == 4 else table['kimnet']
        for i, name in enumerate(PENN_ACTION.joints):
            np.testing.assert_allclose(found[name][['x', 'y']].to_numpy(), joints_of(one)[:, i], atol=1e-4)
            there = np.isfinite(joints_of(one)[:, i, 0])
            scores = found[name]['likelihood'].to_numpy()
            assert np.isnan(scores[~there]).all()
            np.testing.assert_allclose(scores[there], one.scores[:, i][there[one.frames]], atol=1e-4)


def test_names_of_other_animals_stay(tmp_path):
    """A file of joints that are no skeleton's of ours, changed in the format that it has."""
    rows = ['scorer,DLC_net,DLC_net,DLC_net,DLC_net,DLC_net,DLC_net', 'bodyparts,snout,snout,snout,tail,tail,tail']
    rows += ['coords,x,y,likelihood,x,y,likelihood', '0,1.5,2.5,0.9,3,4,0.8', '1,,,0.01,5,6,0.7', '2,2,3,0.9,7,8,1']
    (tmp_path / 'mouse.csv').write_text('\n'.join(rows) + '\n')
    assert format_of(tmp_path / 'mouse.csv') == 'dlc'
    found = open_pose_file(tmp_path / 'mouse.csv')
    skeleton = get_skeleton(found.skeleton)
    assert skeleton.joints == ('snout', 'tail')
    found.write(tmp_path / 'new.csv', [one.joints + 1 for one in found.clips], {})
    expected = [*rows[:3], '0,2.5,3.5,0.9,4,5,0.8', '1,,,0.01,6,7,0.7', '2,3,4,0.9,8,9,1', '']
    assert (tmp_path / 'new.csv').read_text().split('\n') == expected
    write_poses(tmp_path / 'mouse.h5', 'dlc_h5', found.clips, skeleton, {'model': 'net'})
    again = open_pose_file(tmp_path / 'mouse.h5')
    assert get_skeleton(again.skeleton) == skeleton
    again.write(tmp_path / 'new.h5', [one.joints + 1 for one in again.clips], {})
    np.testing.assert_allclose(open_pose_file(tmp_path / 'new.h5').clips[0].joints, found.clips[0].joints + 1)
    for kind in ('json', 'csv'):
        write_poses(tmp_path / f'x.{kind}', kind, found.clips, skeleton, {'width': 9, 'height': 9})
        ours = open_pose_file(tmp_path / f'x.{kind}')
        assert get_skeleton(ours.skeleton) == skeleton
        np.testing.assert_allclose(ours.clips[0].joints, found.clips[0].joints)
    with pytest.raises(InputError, match="none of the joints of 'jhmdb' in it; it has snout, tail"):
        open_pose_file(tmp_path / 'mouse.csv', skeleton='jhmdb')


def test_levels_and_frames_of_hdf5_stay(tmp_path):
    """Of a single individual, and from a later frame on."""
    pandas = pytest.importorskip('pandas', reason='pandas is not installed')
    labels = [('net', 'mouse', 'snout', coordinate) for coordinate in ('x', 'y', 'likelihood')]
    columns = pandas.MultiIndex.from_tuples(labels, names=['scorer', 'individuals', 'bodyparts', 'coords'])
    table = pandas.DataFrame([[1.0, 2, 0.5], [np.nan, np.nan, np.nan], [3, 4, 0.5]], columns=columns, index=[100, 101, 102])
    table.to_hdf(tmp_path / 'a.h5', key='df_with_missing', format='table', mode='w')
    found = open_pose_file(tmp_path / 'a.h5')
    assert (found.clips[0].person, found.clips[0].frames.tolist()) == ('mouse', [100, 101, 102])
    found.write(tmp_path / 'b.h5', [one.joints + 1 for one in found.clips], {})
    after = pandas.read_hdf(tmp_path / 'b.h5')
    assert (after.columns.equals(columns), after.index.tolist()) == (True, [100, 101, 102])
    np.testing.assert_array_equal(after.to_numpy(), [[2, 3, 0.5], [np.nan] * 3, [4, 5, 0.5]])


def test_hdf5_that_would_fill_the_memory(tmp_path, monkeypatch):
    write_poses(tmp_path / 'a.h5', 'dlc_h5', single(), PENN_ACTION, ABOUT, TIMES)
    monkeypatch.setenv('KIMNET_MAX_BYTES', '1000')
    with pytest.raises(InputError, match='more than 1,000 bytes'):
        open_pose_file(tmp_path / 'a.h5')


def test_files_of_pose2sim_have_shorter_names(tmp_path):
    folder = tmp_path / 'a'
    folder.mkdir()
    for t in range(2):
        (folder / f'cam01_{t:06d}.json').write_text(json.dumps({'version': 1.3, 'people': [keypoints(1 + t), {}]}))
    found = open_pose_file(folder)
    assert (found.clips[0].clip, len(found.clips[0].joints)) == ('cam01', 2)
    found.write(tmp_path / 'b', [one.joints for one in found.clips], {})
    assert sorted(file.name for file in (tmp_path / 'b').iterdir()) == ['cam01_000000.json', 'cam01_000001.json']


def test_a_joint_that_is_not_wanted_stays(tmp_path):
    """Refining the joints of a skeleton leaves the file's others as they were."""
    skeleton = make_skeleton('more', ['nose', *PENN_ACTION.joints])
    one = person(None, 0, 5, skeleton)
    (path,) = write_poses(tmp_path / 'a.trc', 'trc', [one], skeleton, {}, TIMES[:5])
    found = open_pose_file(path, skeleton='penn_action')
    np.testing.assert_allclose(found.clips[0].joints, one.joints[:, 1:], atol=1e-3)
    found.write(tmp_path / 'b.trc', [found.clips[0].joints + 1], {})
    after = open_pose_file(tmp_path / 'b.trc').clips[0].joints
    np.testing.assert_allclose(after[:, 0], one.joints[:, 0], atol=1e-3)
    np.testing.assert_allclose(after[:, 1:], one.joints[:, 1:] + 1, atol=1e-3)


MANY = 'frame,' + ','.join(f'j{i}_x,j{i}_y' for i in range(1001)) + '\n0' + ',1' * 2002


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.trc', 'PathFileType\t4\n', 'not a .trc'),
        ('a.trc', 'x', 'not a .trc'),
        ('a.trc', 'PathFileType\n\n\nFrame#\tTime\thip\n\n', 'no frames in it'),
        ('a.trc', 'PathFileType\n\n\nFrame#\tTime\thip\n\n1\t0.1\tx\t2\t0\n', "line 6, column 3: 'x' is no number"),
        ('a.trc', 'PathFileType\n\n\nFrame#\tTime\thip\n\n1\t\t1\t2\t0\n', 'no number of a frame, or no time'),
        ('a.trc', 'PathFileType\n\n\nFrame#\tTime\thip\n\n1\t0\t\t\t\n', 'no joint in any of its frames'),
        ('a.trc', 'PathFileType\n\n\nFrame#\tTime\thip\n\n2\t0\t1\t2\t0\n1\t0\t1\t2\t0\n', 'frame 1 comes after frame 2'),
        ('a.trc', 'PathFileType\n\n\nFrame#\tTime\thip\n\n1\t3\t1\t2\t0\n2\t0\t1\t2\t0\n', 'frame 2 is at 0 s, frame 1 at 3 s'),
        (
            'a.trc',
            'PathFileType\n\n\nFrame#\tTime\thip\t\t\thip\n\n1\t0\t1\t2\t0\t1\t2\t0\n',
            'line 4: a marker has no name, or two have',
        ),
        (
            'a.trc',
            'PathFileType\n\n\nFrame#\tTime\t\t\t\thip\n\n1\t0\t1\t2\t0\t1\t2\t0\n',
            'line 4: a marker has no name, or two have',
        ),
        ('a.csv', 'scorer,a,a,a\nbodyparts,n,n,n\ncoords,x,y,y\n0,1,2,3\n', "n has two columns 'y'"),
        ('a.csv', 'scorer,a,a\nbodyparts,x,x\n', 'must begin with the rows scorer, bodyparts and coords'),
        ('a.csv', 'scorer,a,a\nbodyparts,n,n\ncoords,x,y\n', 'no frames in it'),
        ('a.csv', 'scorer,a,a\nbodyparts,n,n\ncoords,x,z\n0,1,2\n', 'no coords x and y in it; it has x, z'),
        ('a.csv', 'scorer,a,a\nbodyparts,n,n\ncoords,x,y\n0,1\n', 'row 4: 2 cells, the header has 3'),
        ('a.csv', 'scorer,a,a\nbodyparts,n,n\ncoords,x,y\n0,1,two\n', "row 4, column 3: 'two' is no number"),
        ('a.csv', MANY, 'joints: 1001 of them, expected 1 to 1000'),
        ('a.csv', 'frame,_x,_y\n0,1,2\n', "column '_x' has no joint's name"),
        ('a.csv', 'frame,point0_x\n0,1\n', "no column 'point0_y'"),
        ('a.csv', 'a,b\n0,1\n', "no column 'frame'"),
        ('a.csv', 'frame,b\n0,1\n', "no column '..._x'"),
        ('a.csv', 'frame,point0_x,point0_y\n', 'no frames in it'),
        ('a.csv', 'frame,point0_x,point0_y\n0,1\n', 'row 2: 2 cells, the header has 3'),
        ('a.csv', 'frame,point0_x,point0_y\nx,1,2\n', "row 2: frame is 'x': no number"),
        ('a.csv', 'frame,point0_x,point0_y\n0.5,1,2\n', "row 2: frame is '0.5': no number"),
        ('a.csv', 'frame,point0_x,point0_y\n0,inf,2\n', "row 2: point0_x is 'inf': no number"),
        ('a.csv', 'frame,time,point0_x,point0_y\n0,,1,2\n', 'row 2: time is missing'),
        ('a.csv', 'frame,point0_x,point0_x,point0_y\n0,1,1,2\n', 'two columns have the same name'),
        ('a.csv', 'scorer,a,a,a\nbodyparts,n,n,m\ncoords,x,y,x\n0,1,2,3\n', "m has no column 'y'"),
        ('a.csv', 'frame,' + 'x' * 200_000, 'not a table with commas'),
        ('a.h5', 'x', 'cannot be read: cut short, or no table of DeepLabCut'),
        ('a.xyz', 'x', 'poses come in .json, .csv, .npz, .trc, .mot, .h5, or a folder'),
    ],
)
def test_bad_tables(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        open_pose_file(tmp_path / name)
    assert message in str(error.value)
    assert str(error.value).startswith(str(tmp_path / name))
    assert len(str(error.value).splitlines()) == 1


class Hostile:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_hdf5_runs_no_code(tmp_path):
    """pandas unpickles what it finds in the attributes of a file; we read plain containers alone."""
    h5py = pytest.importorskip('h5py', reason='h5py is not installed')
    write_poses(tmp_path / 'a.h5', 'dlc_h5', single(), PENN_ACTION, ABOUT, TIMES)
    made = tmp_path / 'made'
    with h5py.File(tmp_path / 'a.h5', 'a') as file:
        file['df_with_missing/table'].attrs['values_block_0_kind'] = np.bytes_(pickle.dumps(Hostile(made), 0))
    with pytest.raises(InputError, match=r'refused: it holds \w+\.mkdir'):
        open_pose_file(tmp_path / 'a.h5')
    assert not made.exists()


@pytest.mark.parametrize('name', ['h5py', 'pandas', 'tables'])
def test_without_the_packages(name, tmp_path, monkeypatch):
    write_poses(tmp_path / 'a.h5', 'dlc_h5', single(), PENN_ACTION, ABOUT, TIMES)
    monkeypatch.setitem(sys.modules, name, None)
    act = {'h5py': lambda: open_pose_file(tmp_path / 'a.h5')}.get(
        name, lambda: write_poses(tmp_path / 'b.h5', 'dlc_h5', single(), PENN_ACTION, ABOUT, TIMES)
    )
    with pytest.raises(InputError, match=rf'{name} is needed for .h5 files: pip install "kimnet-jax\[formats\]"'):
        act()
    assert not (tmp_path / 'b.h5').exists()


def test_persons_of_one_json(tmp_path):
    """A clip of each, gaps on lines, and as many records after as before."""
    (path,) = write_poses(tmp_path / 'walk.json', 'json', several(), PENN_ACTION, ABOUT, TIMES)
    data = json.loads(path.read_text())
    assert [(record['frame'], record['id']) for record in data['frames'][:4]] == [(0, 3), (1, 3), (2, 7), (3, 3)]
    assert (len(data['frames']), data['frame_count']) == (11, 8)
    first, second = open_pose_file(path).clips
    assert [first.clip, second.clip] == ['walk:3', 'walk:7']
    assert first.present.tolist() == [True, True, False, *[True] * 5]
    np.testing.assert_allclose(first.boxes[2], (first.boxes[1] + first.boxes[3]) / 2, rtol=1e-6)
    assert second.frames.tolist() == [2, 3, 4, 5]
    np.testing.assert_allclose(second.times, TIMES[2:6])
    found = open_pose_file(path)
    found.write(tmp_path / 'new.json', [one.joints + 1 for one in found.clips], {'filter': 'x'})
    after = json.loads((tmp_path / 'new.json').read_text())
    assert [(r['frame'], r['id']) for r in after['frames']] == [(r['frame'], r['id']) for r in data['frames']]
    assert (after['frame_count'], after['about']['refined']) == (8, {'filter': 'x'})
    np.testing.assert_allclose(after['frames'][2]['joints'], np.array(data['frames'][2]['joints']) + 1)


def test_one_person_has_all_frames_of_the_video(tmp_path):
    one = person(None, 2, 5)
    (path,) = write_poses(tmp_path / 'walk.json', 'json', [one], PENN_ACTION, ABOUT, TIMES)
    (found,) = open_pose_file(path).clips
    assert (found.clip, len(found.joints)) == ('walk', 8)
    assert found.present.tolist() == [False] * 2 + [True] * 3 + [False] * 3
    np.testing.assert_allclose(found.times, TIMES, atol=1e-6)


def test_our_table_keeps_its_other_columns(tmp_path):
    joints = [f'point{i}_{part}' for i in range(2) for part in ('x', 'y', 'score')]
    header = ['frame', 'time', 'id', 'score', 'lost', 'x0', 'y0', 'x1', 'y1', *joints, 'damaged', 'point0_probability']
    rows = ['0,0.0,1,0.9,0,1,2,30,40,5,6,0.9,7,8,0.8,0,0.5', '0,0.0,2,0.9,0,1,2,30,40,15,16,0.9,,,0.8,1,0.25']
    (tmp_path / 'a.csv').write_text('\n'.join([','.join(header), *rows]) + '\n')
    found = open_pose_file(tmp_path / 'a.csv')
    assert [one.person for one in found.clips] == [1, 2]
    found.write(tmp_path / 'b.csv', [one.joints + 1 for one in found.clips], {})
    expected = ['0,0.0,1,0.9,0,1,2,30,40,6.0,7.0,0.9,8.0,9.0,0.8,0,0.5', '0,0.0,2,0.9,0,1,2,30,40,16.0,17.0,0.9,,,0.8,1,0.25']
    assert (tmp_path / 'b.csv').read_text().splitlines()[1:] == expected


def test_pose2sim_and_sports2d_read_trc_and_mot(tmp_path):
    common = pytest.importorskip('Pose2Sim.common', reason='Pose2Sim is not installed', exc_type=ImportError)
    one = single()[0]
    (path,) = write_poses(tmp_path / 'walk_px.trc', 'trc', [one], PENN_ACTION, ABOUT, TIMES)
    table, frames, times, markers, _ = common.read_trc(path)
    assert tuple(markers) == PENN_ACTION.joints
    assert frames.tolist() == [*range(8)]
    np.testing.assert_allclose(times, TIMES)
    np.testing.assert_allclose(table.to_numpy().reshape(8, -1, 3)[..., :2], one.joints, atol=1e-3)
    (path,) = write_poses(tmp_path / 'walk.mot', 'mot', [one], PENN_ACTION, ABOUT, TIMES)
    angles, times, _ = common.read_mot(path)
    expected = np.stack([*joint_angles(one.joints, PENN_ACTION).values()], -1)
    known = np.isfinite(expected)
    np.testing.assert_allclose(angles.to_numpy()[known], expected[known], atol=1e-4)


@pytest.mark.parametrize('kind', ['dlc', 'dlc_h5'])
@pytest.mark.parametrize('clips', [single, several])
def test_movement_reads_tables(kind, clips, tmp_path):
    load_poses = pytest.importorskip('movement.io.load_poses', reason='movement is not installed')
    (path,) = write_poses(tmp_path / f'walk{ENDINGS[kind]}', kind, clips(), PENN_ACTION, ABOUT, TIMES)
    found = load_poses.from_dlc_file(path, fps=RATE)
    for i, one in enumerate(clips()):
        position = found.position.to_numpy()[..., i].transpose(0, 2, 1)
        np.testing.assert_allclose(position, joints_of(one), atol=1e-4)
