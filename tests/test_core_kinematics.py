"""Angles and speeds worked by hand."""

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.kinematics import joint_angles, speeds
from kimnet_jax.core.skeleton import JHMDB, SKELETONS, get_skeleton


def upright() -> np.ndarray:
    """[15, 2]: a person who stands with straight legs, the left arm hanging, the right one raised to the side, its hand up."""
    left = {'shoulder': (60, 20), 'elbow': (60, 40), 'wrist': (60, 60), 'hip': (60, 80), 'knee': (60, 120), 'ankle': (60, 160)}
    right = {'shoulder': (40, 20), 'elbow': (20, 20), 'wrist': (20, 0), 'hip': (40, 80), 'knee': (40, 120), 'ankle': (80, 120)}
    places = dict.fromkeys(JHMDB.joints, (0, 0))
    places |= {f'l_{name}': place for name, place in left.items()} | {f'r_{name}': place for name, place in right.items()}
    return np.array([places[name] for name in JHMDB.joints], float)


def test_angles():
    found = joint_angles(upright()[None], JHMDB)
    assert {name: round(float(values[0]), 6) for name, values in found.items()} == {
        'l_elbow': 180,
        'r_elbow': 90,
        'l_shoulder': 0,
        'r_shoulder': 90,
        'l_hip': 180,
        'r_hip': 180,
        'l_knee': 180,
        'r_knee': 90,
    }


def test_angles_do_not_change_with_place_size_and_turn():
    pose = upright() + np.random.default_rng(0).normal(0, 5, (15, 2))
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    found = joint_angles(np.stack([pose, 3 * pose @ turn + 100, pose * [-1, 1]]), JHMDB)
    for values in found.values():
        np.testing.assert_allclose(values, values[0], atol=1e-9)
        assert 0 < values[0] < 180


def test_what_is_missing_has_no_angle():
    pose = upright()
    pose[JHMDB.joints.index('l_wrist')] = np.nan
    pose[JHMDB.joints.index('r_ankle')] = pose[JHMDB.joints.index('r_knee')]
    found = joint_angles(pose[None], JHMDB)
    assert [name for name, values in found.items() if np.isnan(values[0])] == ['l_elbow', 'r_knee']


@pytest.mark.parametrize('name', SKELETONS)
def test_every_skeleton_of_people_has_them(name):
    skeleton = get_skeleton(name)
    assert len(joint_angles(np.zeros((2, skeleton.num_joints, 2)), skeleton)) == 8


def test_points_have_none():
    with pytest.raises(InputError, match="skeleton 'points3' has no 'l_shoulder'"):
        joint_angles(np.zeros((2, 3, 2)), get_skeleton('points3'))


def test_speeds():
    joints = np.array([[[0, 0]], [[3, 4]], [[6, 8]], [[6, 8]]])
    np.testing.assert_allclose(speeds(joints, np.arange(4))[:, 0], [5, 5, 2.5, 0])
    np.testing.assert_allclose(speeds(joints, np.arange(4) / 30)[:, 0], [150, 150, 75, 0])
    times = np.array([0, 1, 3, 4])
    np.testing.assert_allclose(speeds(times[:, None, None] * [[[3, 4]]], times), 5)  # which need not be even
