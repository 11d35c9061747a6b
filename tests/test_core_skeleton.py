import json

import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.joint_names import canonical, matched
from kimnet_jax.core.skeleton import (
    COCO,
    JHMDB,
    LSP,
    MPII,
    PENN_ACTION,
    POSETRACK,
    SMPL,
    get_skeleton,
    make_skeleton,
    named_apart,
)


def test_flip_pairs_are_those_of_the_data_sets():
    assert PENN_ACTION.flip_pairs == ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12))
    assert JHMDB.flip_pairs == ((3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14))
    assert MPII.flip_pairs == ((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13))
    assert LSP.flip_pairs == ((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9))
    assert SMPL.flip_pairs == ((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23))
    assert JHMDB.flip_order == (0, 1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13)


def test_the_torso_goes_from_left_shoulder_to_right_hip():
    assert PENN_ACTION.torso == (2, 7)  # as RPSTN's evaluation has it
    assert JHMDB.torso == (4, 5)
    assert MPII.torso == (13, 2)
    assert LSP.torso == (9, 2)
    assert POSETRACK.torso == (5, 12)


@pytest.mark.parametrize('skeleton', [PENN_ACTION, JHMDB, MPII, LSP, SMPL, COCO, POSETRACK])
def test_groups_pair_left_and_right(skeleton):
    groups = dict(skeleton.groups)
    assert list(groups) == ['Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle']
    tops = dict.fromkeys(('mpii', 'lsp', 'posetrack'), 'head_top')
    head = {'penn_action': 'head', 'jhmdb': 'face', 'smpl': 'head', 'coco': 'nose', **tops}[skeleton.name]
    assert [skeleton.joints[i] for i in groups['Head']] == [head]
    for group in list(groups)[1:]:
        assert tuple(sorted(groups[group])) in skeleton.flip_pairs


SIZES = [(PENN_ACTION, 14), (JHMDB, 16), (MPII, 17), (LSP, 15), (SMPL, 25), (COCO, 19), (POSETRACK, 16)]


@pytest.mark.parametrize(('skeleton', 'limbs'), SIZES)
def test_limbs_mirror_onto_limbs_and_reach_every_joint(skeleton, limbs):
    edges = {frozenset(limb) for limb in skeleton.limbs}
    assert len(edges) == len(skeleton.limbs) == limbs
    assert {frozenset(skeleton.flip_order[i] for i in edge) for edge in edges} == edges
    ears = {3, 4} if skeleton is POSETRACK else set()  # never annotated
    assert frozenset().union(*edges) == set(range(skeleton.num_joints)) - ears


def test_get_skeleton():
    assert get_skeleton('jhmdb') is JHMDB
    with pytest.raises(InputError, match="unknown skeleton 'cocoa'; known: coco, jhmdb, lsp, mpii, penn_action, posetrack, smpl"):
        get_skeleton('cocoa')


OWN = make_skeleton('mine', ['nose', 'LShoulder', 'right_hip', 'RShoulder'], limbs=[['nose', 'LShoulder']], sigmas=[0.1] * 4)


def test_what_is_not_given_comes_from_the_names_of_the_joints():
    assert OWN.flip_pairs == ((1, 3),)
    assert OWN.torso == (1, 2)
    assert OWN.groups == (('Head', (0,)), ('Shoulder', (1, 3)), ('Hip', (2,)))
    assert not make_skeleton('tool', ['tip', 'grip']).has_torso
    assert not make_skeleton('mine', OWN.joints, torso=[]).has_torso


def test_an_own_skeleton_is_stored_whole_and_a_known_one_by_its_name():
    assert [one.described() for one in (JHMDB, COCO, get_skeleton('points3'))] == ['jhmdb', 'coco', 'points3']
    without = make_skeleton('mine', OWN.joints, torso=[], flip_pairs=[], groups={})
    assert make_skeleton('yours', OWN.joints, limbs=[['nose', 'LShoulder']], sigmas=[0.1] * 4) == OWN != without
    for skeleton in (OWN, without, make_skeleton('tool', ['tip', 'grip'])):
        assert get_skeleton(skeleton.text) == get_skeleton(json.loads(json.dumps(skeleton.described()))) == skeleton


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 'jhmdb'}, "'jhmdb' is the name of another one"),
        ({'name': 3}, 'name is 3, expected a text'),
        ({'joints': ['nose', 'nose']}, 'joints: nose more than once'),
        ({'joints': []}, 'joints: 0 of them, expected 1 to 1000'),
        ({'joints': 'nose'}, 'joints: expected a list of names'),
        ({'flip_pairs': [['LShoulder', 'RShoulder'], ['RShoulder', 'nose']]}, 'flip_pairs: a joint is in two pairs'),
        ({'flip_pairs': [['nose', 'nose']]}, "flip_pairs: 'nose' is paired with itself"),
        ({'limbs': [['nose', 'tail']]}, "limbs: 'tail' is none of the joints nose, LShoulder, right_hip, RShoulder"),
        ({'limbs': [[0, 1, 2]]}, 'limbs: expected a list of pairs of joints'),
        ({'groups': {'Head': 'nose'}}, 'groups: expected a list of joints for each name of a group'),
        ({'torso': ['nose']}, 'torso: expected two joints, left shoulder and right hip, or none'),
        ({'sigmas': [0.1, 0.1, 0.1, True]}, 'sigmas: expected 4 positive numbers, one for each joint'),
        ({'sigmas': {'nose': 1}}, 'sigmas: expected one for each of the 4 joints'),
        ({'colour': 'red'}, "'colour' is no field of a skeleton"),
    ],
)
def test_a_stored_skeleton_with_a_fault_is_one_line(change, message):
    with pytest.raises(InputError) as caught:
        get_skeleton(OWN.described() | change)
    assert str(caught.value) == f'skeleton: {message}'


@pytest.mark.parametrize(
    ('other', 'told'),
    [
        (make_skeleton('yours', ['tip']), (
            "'mine' (4 joints, among them nose, LShoulder, right_hip, RShoulder)", "'yours' (1 joint, among them tip)")),
        (make_skeleton('yours', OWN.joints[::-1]), ("'mine'", "'yours', with the same joints in another order")),
        (make_skeleton('mine', ['nose', 'tail']), (
            "'mine' (4 joints, among them LShoulder, right_hip, RShoulder)", "'mine' (2 joints, among them tail)")),
        (make_skeleton('mine', OWN.joints[:3]), ("'mine' (4 joints, among them RShoulder)", "'mine' (3 joints)")),
        (make_skeleton('mine', OWN.joints[::-1]), ("'mine'", "another 'mine', with the same joints in another order")),
        (make_skeleton('mine', OWN.joints, sigmas=[0.1] * 4), ("'mine'", "another 'mine', of other limbs")),
    ],
)  # fmt: skip
def test_two_skeletons_that_differ_are_told_apart_even_by_one_name(other, told):
    assert named_apart(OWN, other) == told


def test_known_skeletons_are_told_apart_by_their_names():
    assert named_apart(JHMDB, COCO) == ("'jhmdb'", "'coco'")


def test_a_stored_skeleton_that_lacks_a_field_is_one_line():
    described = OWN.described()
    del described['limbs']
    with pytest.raises(InputError, match=r"^skeleton: 'limbs' is missing$"):
        get_skeleton(json.dumps(described))
    with pytest.raises(InputError, match=r'^skeleton: not valid JSON'):
        get_skeleton('{"name"')


def test_names_of_joints_are_one_whatever_their_spelling():
    spellings = ['left_shoulder', 'LShoulder', 'Shoulder.L', 'shoulder-left', 'lshoulder', 'LEFT SHOULDER', 'LeftShoulder']
    assert {canonical(name) for name in spellings} == {'l_shoulder'}
    assert [canonical(name) for name in ('lip', 'reye', 'left', 'HeadTop', 'RBigToe')] == [
        *('lip', 'r_eye', 'left', 'head_top', 'r_big_toe')
    ]
    assert matched(COCO.joints, JHMDB.joints) == [
        (i, JHMDB.joints.index(f'{n[0]}_{n.partition("_")[2]}')) for i, n in enumerate(COCO.joints) if i > 4
    ]
    assert matched(['left_hip', 'l_hip', 'nose'], ['l_hip', 'nose']) == [(1, 0), (2, 1)]  # each joint once, its own name first
