import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB, LSP, MPII, PENN_ACTION, SMPL, get_skeleton


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


@pytest.mark.parametrize('skeleton', [PENN_ACTION, JHMDB, MPII, LSP, SMPL])
def test_groups_pair_left_and_right(skeleton):
    groups = dict(skeleton.groups)
    assert list(groups) == ['Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle']
    head = {'penn_action': 'head', 'jhmdb': 'face', 'mpii': 'head_top', 'lsp': 'head_top', 'smpl': 'head'}[skeleton.name]
    assert [skeleton.joints[i] for i in groups['Head']] == [head]
    for group in list(groups)[1:]:
        assert tuple(sorted(groups[group])) in skeleton.flip_pairs


@pytest.mark.parametrize(('skeleton', 'limbs'), [(PENN_ACTION, 14), (JHMDB, 16), (MPII, 17), (LSP, 15), (SMPL, 25)])
def test_limbs_mirror_onto_limbs_and_reach_every_joint(skeleton, limbs):
    edges = {frozenset(limb) for limb in skeleton.limbs}
    assert len(edges) == len(skeleton.limbs) == limbs
    assert {frozenset(skeleton.flip_order[i] for i in edge) for edge in edges} == edges
    assert frozenset().union(*edges) == set(range(skeleton.num_joints))


def test_get_skeleton():
    assert get_skeleton('jhmdb') is JHMDB
    with pytest.raises(InputError, match="unknown skeleton 'coco'; known: jhmdb, lsp, mpii, penn_action, smpl"):
        get_skeleton('coco')
