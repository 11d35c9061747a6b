"""Tables of a tiny example, and the reference predictions."""

import json

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.reporting import paper
from kimnet_jax.reporting.reference import hold_last_seen, mean_pose, place_pose, random_pose
from kimnet_jax.reporting.tables import MEAN_POSE, RANDOM, Row, render, report, write_report

SHOULDER, HIP = JHMDB.torso
WRIST = JHMDB.joints.index('r_wrist')


def row(distance: float, *, wrist: float | None = None, hidden: bool = False) -> Row:
    """4 clips of 4 frames, torso 50 px, person 100 px: every joint `distance` px off, the right wrist `wrist`."""
    metrics = PoseMetrics(JHMDB, 4)
    joints, visible = np.zeros((4, JHMDB.num_joints, 2)), np.ones((4, JHMDB.num_joints), bool)
    joints[:, SHOULDER, 0] = 50
    visible[0, HIP] = not hidden
    prediction = joints + np.array([0, distance])
    prediction[:, WRIST] = joints[:, WRIST] + np.array([0, distance if wrist is None else wrist])
    for clip in range(4):
        metrics.update(clip, prediction, joints, visible, np.tile([0.0, 0, 100, 50], (4, 1)))
    return Row.of(metrics, samples=20)


def tiny(**others: Row) -> dict[str, Row]:
    return {**others, MEAN_POSE: row(8), RANDOM: row(90)}


def cells(text: str, label: str) -> list[list[str]]:
    """The cells of every table line that begins with the label."""
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('|')]
    return [line[1:] for line in lines if line[0] == label]


def test_tables_of_a_tiny_example():
    # ours: 3 px off, the right wrist 30 px. Torso (50 px): allowed 10, 5, 2.5 px at 0.2, 0.1, 0.05, so 14 of 15 joints are right,
    # 14 of 15, none; the AUC steps up at alpha 0.06: (half a step + 14 steps) of 20 = 0.725, times 14/15 = 0.677.
    # Person (100 px): 20, 10, 5 px: 14 of 15 everywhere; from alpha 0.03 on: 17.5 / 20 * 14/15 = 0.817.
    # Every clip is alike, so every interval is a point.
    text = render(report('Tiny', tiny(ours=row(3, wrist=30)), dataset='sub_jhmdb', notes=['16 frames drawn by hand.']))
    assert text.startswith('# Tiny\n\n16 frames drawn by hand.\n\n4 clips, 16 frames.')
    torso, torso_joints, person, person_joints, smoothness = cells(text, 'ours')
    assert torso == ['93.3 [93.3, 93.3]', '0.0 [0.0, 0.0]', '67.7 [67.7, 67.7]', '93.3 [93.3, 93.3]']
    assert torso_joints == ['100.0', '100.0', '100.0', '50.0', '100.0', '100.0', '100.0', '93.3']
    assert [cell.split()[0] for cell in person] == ['93.3', '93.3', '81.7', '93.3']
    assert person_joints == torso_joints
    assert smoothness == ['0.00 [0.00, 0.00]'] * 2
    assert cells(text, '')[0] == ['mPCK@0.2', 'mPCK@0.05', 'AUC', 'mPCK@0.1']
    assert cells(text, 'PCK@0.2')[0] == ['Head', 'Sho', 'Elb', 'Wri', 'Hip', 'Knee', 'Ank', 'mPCK']
    assert cells(text, 'KIMNet (paper)') == [
        ['90.1', '88.8', '87.1', '85.8', '87.9', '88.8', '86.2', '88.1'],
        ['98.9', '99.1', '98.7', '98.5', '98.6', '98.3', '97.2', '98.5'],
    ]
    assert 'arXiv 2207.10971v1: LSTM-PM 73.6, DKD 77.4, RPSTN 85.8.' in text
    assert 'tell models apart' not in text
    assert 'Left out' not in text
    assert text.index('## Torso') < text.index('## Person')


def test_tables_are_aligned():
    text = render(report('Tiny', tiny(**{'a model with a long name': row(3)})))
    for block in text.split('\n\n'):
        if block.startswith('|'):
            assert len({len(line) for line in block.splitlines()}) == 1
            assert len({line.count('|') for line in block.splitlines()}) == 1


def test_columns_in_which_random_predictions_succeed_say_so():
    # random is 15 px off, its right wrist 90: within the 20 px of the person (Wrist has 50 %), not within the 10 px of the torso.
    rows = tiny() | {RANDOM: row(15, wrist=90)}
    result = report('Tiny', rows)
    columns = 'Head@0.2, Shoulder@0.2, Elbow@0.2, Hip@0.2, Knee@0.2, Ankle@0.2, mPCK@0.2'
    assert result['saturated'] == {'torso': [], 'person': columns.split(', ')}
    text = render(result)
    assert text.count('tell models apart') == 1
    assert f'**Random predictions score 90% or more in {columns}: these columns cannot tell models apart.**' in text
    assert text.index('## Person') < text.index('tell models apart')


def test_left_out_frames_and_missing_predictions_are_told():
    ours, mean, random = row(3, wrist=np.nan, hidden=True), row(8, hidden=True), row(90, hidden=True)
    text = render(report('Tiny', {'ours': ours, MEAN_POSE: mean, RANDOM: random}))
    assert 'Left out: 4 of 16 frames, whose torso length is not defined.' in text
    assert 'whose person length' not in text
    assert 'ours: 16 predictions are not finite: misses' in text


def test_no_paper_row_where_the_paper_has_none():
    result = report('Tiny', tiny(), dataset='kinetic_puppets')
    assert result['paper'] == {}
    assert 'KIMNet' not in render(result)


def test_nothing_counted_is_a_dash_and_null():
    empty = Row.of(PoseMetrics(JHMDB, 1), samples=5)
    result = report('Empty', {MEAN_POSE: empty, RANDOM: empty})
    assert cells(render(result), RANDOM)[0] == ['-'] * 4
    assert json.loads(json.dumps(result, allow_nan=False))['rows'][RANDOM]['values']['torso']['auc']['mPCK'] is None


def test_rows_without_intervals():
    rows = {name: Row(value.values) for name, value in tiny().items()}
    assert cells(render(report('Tiny', rows)), MEAN_POSE)[0] == [
        '100.0',
        '0.0',
        '22.5',
        '0.0',
    ]  # 8 px: from alpha 0.16, 4.5 of 20


def test_a_report_needs_its_reference_rows_over_the_same_frames():
    with pytest.raises(ValueError, match="no row 'random'"):
        report('Tiny', {MEAN_POSE: row(8)})
    with pytest.raises(ValueError, match='do not compare'):
        report('Tiny', tiny() | {'ours': Row.of(PoseMetrics(JHMDB, 1), samples=2)})


def test_written_report_is_the_report(tmp_path):
    result = report('Tiny', tiny())
    text, data = write_report(tmp_path / 'new' / 'folder', 'full', result)
    assert text.read_text(encoding='utf-8') == render(result)
    assert json.loads(data.read_text(encoding='utf-8')) == result
    assert sorted(path.name for path in text.parent.iterdir()) == ['full.json', 'full.md']


def test_a_name_that_is_too_long_is_cut(tmp_path):
    slices = '_'.join(f'train{i}' for i in range(90))  # of a split of many parts
    names = ['train0_train1', slices, slices, f'{slices}_train91']
    stems = [write_report(tmp_path, name, report('Tiny', tiny()))[0].stem for name in names]
    assert [len(stem) for stem in stems] == [13, 120, 120, 120]
    assert all(stem.startswith('train0_train1') for stem in stems)
    assert len(set(stems)) == 3


def test_failed_write_leaves_the_old_report(tmp_path):
    write_report(tmp_path, 'full', report('Old', tiny()))
    with pytest.raises(ValueError):
        write_report(tmp_path, 'full', report('New', tiny()) | {'loss': float('nan')})
    assert (tmp_path / 'full.md').read_text(encoding='utf-8').startswith('# Old')
    (tmp_path / 'full.json').unlink()
    (tmp_path / 'full.json').mkdir()  # nothing can take its name: the draft must not stay behind
    with pytest.raises(InputError, match=r'full\.json: a folder is in the way'):
        write_report(tmp_path, 'full', report('New', tiny()))
    assert (tmp_path / 'full.md').read_text(encoding='utf-8').startswith('# Old')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['full.json', 'full.md']
    with pytest.raises(InputError, match='a file is in the way'):
        write_report(tmp_path / 'full.md', 'full', report('Tiny', tiny()))


def test_numbers_of_the_paper_are_whole():
    for dataset, normalisers in paper.KIMNET.items():
        for key, numbers in normalisers.items():
            assert len(numbers) == len(paper.COLUMNS)
            assert paper.PEERS[dataset][key]['RPSTN'] < numbers[-1]  # the paper's claim
    assert (*(name for name, _ in JHMDB.groups), 'mPCK') == paper.COLUMNS


def test_mean_pose_is_relative_to_the_box_and_to_visible_joints():
    # Box (10, 20)-(30, 60), 20 wide and 40 high: joint 0 at (15, 30) is (1/4, 1/4), at (25, 50) (3/4, 3/4): mean 1/2.
    # Joint 1 at (10, 60) is (0, 1); hidden in frame 1. Joint 2 is never visible: the middle.
    boxes = np.array([[10, 20, 30, 60]] * 2)
    joints = np.array([[[15, 30], [10, 60], [0, 0]], [[25, 50], [0, 0], [0, 0]]])
    visible = np.array([[True, True, False], [True, False, False]])
    pose = mean_pose([(joints[:1], visible[:1], boxes[:1]), (joints[1:], visible[1:], boxes[1:])])
    np.testing.assert_allclose(pose, [[0.5, 0.5], [0, 1], [0.5, 0.5]])
    np.testing.assert_allclose(
        place_pose(pose, [[0, 0, 8, 4], [1, 1, 3, 3]]), [[[4, 2], [0, 4], [4, 2]], [[2, 2], [1, 3], [2, 2]]]
    )


def test_occluded_joints_stay_where_they_were_seen():
    prediction = np.arange(6)[:, None, None] * 10 + np.array([[[1, 2], [3, 4]]])  # joint 0 at (10 t + 1, 10 t + 2)
    occluded = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [1, 0], [0, 1]], bool)
    held = hold_last_seen(prediction, occluded)
    np.testing.assert_array_equal(held[:, 0, 0], [1, 1, 1, 31, 31, 51])
    np.testing.assert_array_equal(held[:, 1, 1], [4, 14, 24, 34, 44, 44])  # never seen before frame 2: as predicted
    assert prediction[1, 0, 0] == 11


def test_random_pose_fills_the_box_and_repeats_per_clip():
    boxes = np.array([[10.0, 20, 30, 60]] * 500)
    pose = random_pose(boxes, 3, seed=0, clip=5)
    assert pose.shape == (500, 3, 2)
    low, high = pose.min((0, 1)), pose.max((0, 1))
    assert (low >= [10, 20]).all()
    assert (high <= [30, 60]).all()
    np.testing.assert_allclose(low, [10, 20], atol=0.5)
    np.testing.assert_allclose(high, [30, 60], atol=0.5)
    np.testing.assert_allclose(pose.mean((0, 1)), [20, 40], atol=1.5)
    np.testing.assert_array_equal(pose, random_pose(boxes, 3, seed=0, clip=5))
    assert (pose != random_pose(boxes, 3, seed=0, clip=6)).all()
    assert (pose != random_pose(boxes, 3, seed=1, clip=5)).all()
