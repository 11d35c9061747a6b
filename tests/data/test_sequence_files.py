"""DeciWatch's layout in 2D, 3D and rotations, and files of the body model."""

import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse
from sequences import PARENTS, body_arrays, body_file, image_names, joint_files, matrices, objects, rotation_files

from kimnet_jax.core import smpl
from kimnet_jax.core.array_files import read_npz
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.pose_windows import WindowConfig
from kimnet_jax.core.skeleton import JHMDB, SMPL
from kimnet_jax.data_pipelines.pose_files import open_pose_file
from kimnet_jax.data_pipelines.poses import PoseConfig, overlapping, train_batches, training_window
from kimnet_jax.data_pipelines.sequence_files import read_sequences
from kimnet_jax.data_pipelines.smpl_files import read_body

FILES = dict.fromkeys(('train', 'eval', 'train_truth', 'eval_truth'), 'a.npz')
SMPL_CONFIG = FILES | {
    'source': 'sequences',
    'kind': 'smpl',
    'smpl_file': 'SMPL_NEUTRAL.npz',
    'augment_scale': (1.0, 1.0),
    'augment_shift': 0.0,
}


@pytest.mark.parametrize('flat', [False, True])
def test_in_2d(tmp_path, flat):
    detected, truth, true = joint_files(tmp_path, flat=flat)
    pairs = read_sequences(str(detected), str(truth), 'poses')
    names = ['data/Rename_Images/jump/clip0', 'data/Rename_Images/jump/clip1']
    assert (pairs.names, pairs.skeleton) == (names, JHMDB)
    pair = pairs(1)
    np.testing.assert_allclose(pair.joints, true[1], rtol=1e-6)
    np.testing.assert_allclose(pair.estimates.joints, true[1] + 1, rtol=1e-6)
    assert pair.visible.all()
    assert pair.boxes.tolist() == [[10, 20, 110, 220]] * 6
    assert pair.estimates.image_size.tolist() == [240, 320]
    twice = read_sequences(f'{detected}, {detected}', f'{truth}, {truth}', 'poses')
    assert len(twice) == 4
    assert overlapping(pairs, twice) == names


def test_in_3d(tmp_path):
    detected, truth, true = joint_files(tmp_path, dims=3, joints=17)
    pairs = read_sequences(str(detected), str(truth), 'poses', '3d')
    assert pairs.skeleton.num_joints == 17
    pair = pairs(0)
    assert pair.joints.shape == (4, 17, 3)
    np.testing.assert_allclose(pair.boxes[:, 3:], pair.estimates.joints.max(1))
    stream = train_batches(pairs, PoseConfig(), WindowConfig(5), batch_size=2, seed=0)
    assert next(stream)['poses'].shape == (2, 5, 51)
    relative = read_sequences(str(detected), str(truth), 'poses', '3d', root=(2, 5))(0)
    np.testing.assert_allclose(relative.joints, true[0] - true[0][:, [2, 5]].mean(1, keepdims=True), atol=1e-4)
    np.testing.assert_allclose(relative.estimates.joints, relative.joints, atol=1e-4)
    with pytest.raises(InputError, match=r'config\.poses\.root=\(17,\): .* has joints 0 to 16'):
        read_sequences(str(detected), str(truth), 'poses', '3d', root=(17,))


def test_joints_of_no_skeleton_are_not_mirrored(tmp_path):
    detected, truth, _ = joint_files(tmp_path, dims=3, joints=3)
    pair = read_sequences(str(detected), str(truth), 'poses', '3d')
    same = {'augment_scale': (1.0, 1.0), 'augment_rotation': 0.0, 'augment_shift': 0.0}
    flipped, plain = (
        training_window(pair(0), PoseConfig(augment_flip=f, **same), WindowConfig(5), pair.skeleton, np.random.default_rng(0))
        for f in (1.0, 0.0)
    )
    np.testing.assert_array_equal(flipped['poses'], plain['poses'])


def test_rotations(tmp_path):
    detected, truth = rotation_files(tmp_path)
    pairs = read_sequences(str(detected), str(truth), 'poses', 'smpl', body=read_body(body_file(tmp_path)))
    assert pairs.skeleton is SMPL
    raw = read_npz(truth)
    expected = matrices(raw['pose'][1].reshape(-1, 24, 3))
    np.testing.assert_allclose(smpl.rotation_matrices(pairs(1).joints), expected, atol=1e-6)
    np.testing.assert_allclose(pairs(1).joints.reshape(-1, 24, 3, 2), expected[..., :2], atol=1e-6)  # column by column of it
    np.testing.assert_allclose(pairs(1).shape, raw['shape'][1], rtol=1e-6)
    six = objects([smpl.six_numbers(matrices(pose.reshape(-1, 24, 3))).reshape(len(pose), -1) for pose in raw['pose']])
    np.savez(tmp_path / 'six.npz', imgname=raw['imgname'], pose=six)
    again = read_sequences(str(tmp_path / 'six.npz'), str(truth), 'poses', 'smpl')(1)
    np.testing.assert_allclose(again.estimates.joints, pairs(1).joints, atol=1e-6)
    assert again.estimates.shape is None


def test_a_missing_rotation(tmp_path):
    pose = np.zeros((2, 72))
    pose[1, 3:6] = np.nan
    np.savez(tmp_path / 'a.npz', imgname=image_names((2,)), pose=objects([pose]))
    one = open_pose_file(tmp_path / 'a.npz', 'smpl').clips[0]
    assert np.argwhere(np.isnan(one.joints).any(-1)).tolist() == [[1, 1]]
    np.testing.assert_allclose(one.joints[0, 0], [1, 0, 0, 1, 0, 0])


def test_augmented_rotations_are_those_of_the_augmented_body(tmp_path):
    """Turning and mirroring the rotations turns and mirrors the joints of a symmetric body."""
    detected, truth = rotation_files(tmp_path)
    body, pairs = read_body(body_file(tmp_path)), read_sequences(str(detected), str(truth), 'poses', 'smpl')
    order, mirror = list(SMPL.flip_order), np.array([-1, 1, 1])
    rest = (body.rest + body.rest[order] * mirror) / 2
    body = body._replace(rest=rest)
    config = PoseConfig(**SMPL_CONFIG, augment_rotation=90.0, augment_flip=1.0)
    none = PoseConfig(**SMPL_CONFIG, augment_rotation=0.0, augment_flip=0.0)
    windows = WindowConfig(3, 1, 'none')
    changed, plain = (
        smpl.joint_positions(
            body, training_window(pairs(1), c, windows, SMPL, np.random.default_rng(4))['poses'].reshape(3, 24, 6)
        )
        for c in (config, none)
    )
    expected = plain[:, order] * mirror
    np.testing.assert_allclose(changed[..., 2], expected[..., 2], atol=1e-6)  # the turn is in the plane of x and y
    flat, wanted = (points[..., 0] + 1j * points[..., 1] for points in (changed, expected))
    turn = (flat * wanted.conj()).sum() / (abs(wanted) ** 2).sum()
    assert abs(turn) == pytest.approx(1, abs=1e-6)
    assert abs(turn - 1) > 0.1
    np.testing.assert_allclose(flat, turn * wanted, atol=1e-6)


@pytest.mark.parametrize('kind', ['2d', '3d', 'smpl'])
def test_written_again_in_the_same_form(tmp_path, kind):
    if kind == 'smpl':
        detected, _ = rotation_files(tmp_path)
    else:
        detected, *_ = joint_files(tmp_path, dims=int(kind[0]), flat=kind == '3d')
    found = open_pose_file(detected, kind)
    found.write(tmp_path / 'new/out.npz', [one.joints for one in found.clips], {'step': 7})
    before, after = read_npz(detected), read_npz(tmp_path / 'new/out.npz')
    field = {'2d': 'joints_2d', '3d': 'joints_3d', 'smpl': 'pose'}[kind]
    assert set(after) == set(before) | {'refined'}
    assert str(after['refined']) == '{"step": 7}'
    for i, poses in enumerate(before[field]):
        assert after[field][i].shape == poses.shape
        np.testing.assert_allclose(after[field][i], poses, atol=1e-5 if kind == 'smpl' else 1e-4)
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['out.npz']


def test_clips_of_other_people_have_other_names(tmp_path):
    """Human3.6M: S1/Walking/camera5/00001.jpg, one folder name for every subject and action."""
    for name in ('S1', 'S9'):
        np.savez(
            tmp_path / f'{name}.npz', imgname=objects([np.array([f'{name}/Walking/camera5/1.jpg'])]), joints_3d=np.ones((1, 1, 6))
        )
    first, second = (
        read_sequences(str(tmp_path / f'{name}.npz'), str(tmp_path / f'{name}.npz'), 'p', '3d') for name in ('S1', 'S9')
    )
    assert overlapping(first, second) == []


class Evil:
    def __reduce__(self):
        return print, ('ran',)


def test_a_file_that_holds_code_is_refused(tmp_path, capsys):
    detected, truth, _ = joint_files(tmp_path)
    evil = objects([Evil()])
    np.savez(truth, imgname=evil, joints_2d=evil, bbox=evil, imgshape=evil)
    with pytest.raises(InputError, match=r'refused: it holds builtins\.print, no array; none of its code was run'):
        read_sequences(str(detected), str(truth), 'poses')
    (tmp_path / 'evil.pkl').write_bytes(pickle.dumps({'v_template': Evil()}, 2))
    with pytest.raises(InputError, match=r'evil\.pkl: not a readable pickle of arrays \(refused: it holds __builtin__\.print'):
        read_body(tmp_path / 'evil.pkl')
    assert 'ran' not in capsys.readouterr().out


def bad_file(tmp_path, **arrays) -> str:
    np.savez(tmp_path / 'bad.npz', **arrays)
    return str(tmp_path / 'bad.npz')


def test_bad_sequences(tmp_path):
    detected, truth, _ = (str(path) for path in joint_files(tmp_path))
    names = image_names()

    def refused(message: str, found: str = detected, true: str = truth, **options) -> None:
        with pytest.raises(InputError, match=message):
            read_sequences(found, true, 'poses', **options)

    refused(r"bad\.npz: no array 'joints_2d'; it has imgname$", bad_file(tmp_path, imgname=np.zeros((2, 3))))
    refused(r"no array 'joints_3d'; it has imgname, joints_2d; its poses are of config\.poses\.kind=2d", kind='3d')
    refused("no arrays 'bbox' and 'imgshape'", true=detected)
    refused('as many files of truth as of estimates', f'{detected},{detected}')
    refused('2 clips, .* has 1', true=str(joint_files(tmp_path, lengths=(4,), prefix='one')[1]))
    refused(
        r'clip .*clip1: poses of shape \[7, 15, 2\], the truth has \[6, 15, 2\]',
        str(joint_files(tmp_path, lengths=(4, 7), prefix='b')[0]),
    )
    refused(r'joints_2d is not of numbers for each of 4 frames', bad_file(tmp_path, imgname=names, joints_2d=objects(['x', 'y'])))
    refused(
        '15 numbers a frame, which is no multiple of 2',
        bad_file(tmp_path, imgname=names, joints_2d=objects([np.zeros((4, 15))] * 2)),
    )
    refused('imgname is one value', bad_file(tmp_path, imgname=np.zeros(()), joints_2d=objects([])))
    refused('no clips in it', bad_file(tmp_path, imgname=objects([]), joints_2d=objects([])))
    refused('no frames in it', bad_file(tmp_path, imgname=objects([[]]), joints_2d=objects([[]])))
    refused(
        'pose has 69 numbers a frame; 72', bad_file(tmp_path, imgname=names, pose=objects([np.zeros((4, 69))] * 2)), kind='smpl'
    )
    refused('none.npz: no such file', str(tmp_path / 'none.npz'))
    refused('a folder, not a file', str(tmp_path))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'kind': '4d'}, r"config\.poses\.kind='4d': choose one of 2d, 3d, smpl"),
        ({'kind': '3d', 'source': 'noise'}, r"config\.poses\.kind='3d': only files of config\.poses\.source=sequences"),
        ({'kind': '3d', 'normalise': 'image'}, r"config\.poses\.normalise='image': only poses in 2D"),
        ({'kind': '2d', 'root': (0,)}, r"config\.poses\.root=\(0,\): belongs to config\.poses\.kind='3d'"),
        ({'smpl_file': ''}, r'config\.poses\.smpl_file: name the file of the SMPL body model.*https://smpl\.is\.tue\.mpg\.de'),
        ({'augment_shift': 0.1}, r'rotations have no size and no place'),
    ],
)
def test_bad_settings(fields, message):
    with pytest.raises(InputError, match=message):
        make(PoseConfig, SMPL_CONFIG | fields, 'poses', partial=True)


def test_joints_of_a_body(tmp_path):
    """By 4 x 4 matrices down the tree, with the vertices that the shape moves."""
    arrays, rng = body_arrays(), np.random.default_rng(2)
    body = read_body(body_file(tmp_path))
    turns, shape = matrices(rng.normal(0, 1, (24, 3))), rng.normal(0, 1, 10)
    rest = arrays['J_regressor'] @ (arrays['v_template'] + arrays['shapedirs'] @ shape)
    whole = []
    for joint, parent in enumerate(PARENTS):
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = turns[joint], rest[joint] - (rest[parent] if joint else rest[0])
        whole.append(whole[parent] @ step if joint else step)
    expected = np.stack([matrix[:3, 3] for matrix in whole])
    six = smpl.six_numbers(turns)
    np.testing.assert_allclose(smpl.joint_positions(body, six, shape), expected, atol=1e-6)
    many = smpl.joint_positions(body, np.stack([six, six * 3]), np.stack([shape, shape]))  # their length means nothing
    np.testing.assert_allclose(many, [expected] * 2, atol=1e-6)
    still = smpl.joint_positions(body, smpl.six_numbers(np.tile(np.eye(3), (24, 1, 1))))
    np.testing.assert_allclose(still, body.rest - body.rest[0], atol=1e-6)


def test_the_body_model_as_it_is_handed_out(tmp_path, monkeypatch):
    """A pickle of Python 2 with chumpy's arrays and a sparse matrix, read where chumpy is not installed."""
    chumpy = types.ModuleType('chumpy.ch')

    class Ch:
        def __init__(self, **state):
            self.__dict__.update(state)

    Ch.__module__, Ch.__qualname__, chumpy.Ch = 'chumpy.ch', 'Ch', Ch
    arrays = body_arrays()
    wide = np.concatenate([arrays['shapedirs'], arrays['shapedirs'] + 1], -1)
    index = np.arange(wide.size).reshape(wide.shape)[..., :10].ravel()
    held = arrays | {
        'v_template': Ch(x=arrays['v_template'], _dirty_vars=set()),
        'shapedirs': Ch(a=Ch(x=wide), idxs=index, preferred_shape=(30, 3, 10)),
        'J_regressor': scipy.sparse.csc_matrix(arrays['J_regressor']),
        'bs_type': 'lrotmin',
    }
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, 'chumpy', types.ModuleType('chumpy'))
        patch.setitem(sys.modules, 'chumpy.ch', chumpy)
        (tmp_path / 'basicmodel.pkl').write_bytes(pickle.dumps(held, 2))
    found, expected = read_body(tmp_path / 'basicmodel.pkl'), read_body(body_file(tmp_path))
    np.testing.assert_allclose(found.rest, expected.rest, atol=1e-6)
    np.testing.assert_allclose(found.shapes, expected.shapes, atol=1e-6)
    assert found.parents == expected.parents == PARENTS
    regressor = scipy.sparse.csr_matrix(arrays['J_regressor'])
    np.savez(tmp_path / 'sparse.npz', **arrays | {'J_regressor': np.array(regressor, object)})
    np.testing.assert_allclose(read_body(tmp_path / 'sparse.npz').rest, expected.rest, atol=1e-6)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda arrays: arrays.pop('J_regressor'), "no 'J_regressor' in it, so no SMPL model; it has v_template, shapedirs"),
        (lambda arrays: arrays.update(v_template=np.zeros((9, 3))), r'not a model of SMPL, .* v_template \[9, 3\]'),
        (lambda arrays: arrays['v_template'].fill(np.nan), 'v_template is not finite'),
        (lambda arrays: arrays['kintree_table'].fill(23), 'the parent of each joint must come before it'),
        (lambda arrays: arrays.update(v_template=np.array('x')), 'v_template cannot be read'),
    ],
)
def test_bad_body_models(tmp_path, change, message):
    arrays = body_arrays()
    change(arrays)
    np.savez(tmp_path / 'a.npz', **arrays)
    with pytest.raises(InputError, match=message):
        read_body(tmp_path / 'a.npz')


def test_other_files_are_no_body_models(tmp_path):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps([1]))
    for name, message in (('a.pkl', 'holds a list, no SMPL model'), ('a.obj', 'come as .npz or .pkl'), ('b.pkl', 'no such file')):
        with pytest.raises(InputError, match=message):
            read_body(tmp_path / name)
