"""PCK and smoothness, worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB, PENN_ACTION
from kimnet_jax.metrics import (
    ALPHAS,
    PoseMetrics,
    Ratio,
    contrast,
    difference_state,
    pck_state,
    person_length,
    torso_length,
)

J = JHMDB.num_joints
SHOULDER, HIP = JHMDB.torso


def truth(frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Joints at the origin but the left shoulder at (30, 40): the torso is 50 px; boxes of 100 x 60: the person is 100 px."""
    joints = np.zeros((frames, J, 2), np.float32)
    joints[:, SHOULDER] = 30, 40
    return joints, np.ones((frames, J), bool), np.tile(np.float32([5, 5, 65, 105]), (frames, 1))


def moved(joints: np.ndarray, distance: float) -> np.ndarray:
    return joints + np.float32([distance, 0])


def test_lengths_are_the_longer_side_and_left_shoulder_to_right_hip():
    joints, visible, boxes = truth(1)
    np.testing.assert_allclose(person_length(boxes), [100])
    np.testing.assert_allclose(person_length(np.float32([[0, 0, 70, 20]])), [70])
    np.testing.assert_allclose(torso_length(joints, visible, JHMDB), [50])
    penn = np.zeros((1, 13, 2))
    penn[0, 2] = 3, 4  # left shoulder; the right hip, joint 7, stays at the origin
    np.testing.assert_allclose(torso_length(penn, np.ones((1, 13), bool), PENN_ACTION), [5])


@pytest.mark.parametrize('hidden', [SHOULDER, HIP])
def test_torso_with_an_end_that_was_never_annotated_is_not_defined(hidden):
    joints, visible, _ = truth(3)
    joints += 7  # no joint of the truth is at the corner
    visible[1:, hidden] = False
    joints[2, hidden] = 0  # hidden in frame 1, never annotated in frame 2
    np.testing.assert_array_equal(torso_length(joints, visible, JHMDB), [50, 50, np.nan])


def test_half_right_and_the_bound_itself_is_a_hit():
    # Length 100: alpha 0.2 allows 20 px. Errors 0, 20, 20.01, 60: two of four hit; at alpha 0.1 (10 px) one of four.
    joints = np.zeros((1, 4, 2))
    prediction = joints + np.array([[0, 0], [12, 16], [20.01, 0], [0, -60]])
    state = pck_state(prediction, joints, np.ones((1, 4), bool), np.array([100.0]), (0.2, 0.1))
    np.testing.assert_array_equal(state.sums, [[1, 1, 0, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(state.counts, [[1, 1, 1, 1]])
    np.testing.assert_allclose(state.pool(-1).compute(), [0.5, 0.25])


def test_fully_masked_is_not_a_number_rather_than_zero():
    state = pck_state(np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), np.zeros((2, 3), bool), np.full(2, 10.0), (0.2,))
    assert state.counts.sum() == 0
    assert np.isnan(state.compute()).all()


def test_hidden_joints_do_not_count():
    # 3 joints, errors 0, 50, 50 against 20 px; hiding one of the wrong ones: 1 of 2.
    prediction = np.array([[[0, 0], [50, 0], [50, 0]]])
    state = pck_state(prediction, np.zeros((1, 3, 2)), np.array([[True, True, False]]), np.array([100.0]), (0.2,))
    assert state.pool(-1).compute() == 0.5


@pytest.mark.parametrize('length', [0.0, -5.0, np.nan, np.inf])
def test_frames_without_a_length_are_left_out(length):
    # Frame 0 (20 px allowed, error 30) misses; frame 1 has no length: exact though it is, it is no hit.
    joints = np.zeros((2, 1, 2))
    prediction = np.array([[[30, 0]], [[0, 0]]])
    state = pck_state(prediction, joints, np.ones((2, 1), bool), np.array([100.0, length]), (0.2,))
    np.testing.assert_array_equal([state.sums[0, 0], state.counts[0, 0]], [0, 1])


def test_nan_and_infinite_predictions_are_misses():
    prediction = np.zeros((1, 3, 2))
    prediction[0, 1, 0], prediction[0, 2] = np.nan, np.inf
    state = pck_state(prediction, np.zeros((1, 3, 2)), np.ones((1, 3), bool), np.array([100.0]), (0.2,))
    np.testing.assert_array_equal(state.sums, [[1, 0, 0]])
    np.testing.assert_array_equal(state.counts, [[1, 1, 1]])


def test_second_and_third_difference():
    # x = 0 1 4 9 16 (t squared): second difference 2 at each of 3 places, third 0. y = 3 x: lengths are sqrt(10) times that.
    t = np.arange(5.0)
    points = np.stack([t**2, 3 * t**2], -1)[:, None]
    valid = np.ones((5, 1), bool)
    second, third = difference_state(points, valid, 2), difference_state(points, valid, 3)
    np.testing.assert_allclose(second.sums, [3 * 2 * np.sqrt(10)])
    np.testing.assert_array_equal(second.counts, [3])
    np.testing.assert_allclose(third.sums, [0], atol=1e-12)
    np.testing.assert_array_equal(third.counts, [2])
    # x = 0 0 1 0 0: second differences 1 -2 1 (mean 4/3), third -3 3 (mean 3).
    spike = np.zeros((5, 1, 2))
    spike[2, 0, 0] = 1
    np.testing.assert_allclose(difference_state(spike, valid, 2).compute(), [4 / 3])
    np.testing.assert_allclose(difference_state(spike, valid, 3).compute(), [3])


def test_differences_skip_every_run_that_touches_an_invalid_frame():
    # 7 frames, frame 2 invalid (and NaN): of the 5 runs of three frames only 3-5 and 4-6 remain; of the 4 runs of four, 3-6.
    points = np.arange(7.0)[:, None, None] ** 2 * np.ones(2)
    points[2] = np.nan
    valid = np.ones((7, 1), bool)
    valid[2] = False
    second = difference_state(points, valid, 2)
    np.testing.assert_array_equal(second.counts, [2])
    np.testing.assert_allclose(second.compute(), [2 * np.sqrt(2)])
    np.testing.assert_array_equal(difference_state(points, valid, 3).counts, [1])


@pytest.mark.parametrize('frames', [0, 1, 2])
def test_clips_too_short_for_a_difference_count_nothing(frames):
    state = difference_state(np.ones((frames, 3, 2)), np.ones((frames, 3), bool), 2)
    np.testing.assert_array_equal(state.counts, [0, 0, 0])
    np.testing.assert_array_equal(state.sums, [0, 0, 0])


def test_numpy_and_jax_agree():
    rng = np.random.default_rng(3)
    joints = rng.uniform(0, 100, (2, 5, 7, 2)).astype(np.float32)
    prediction = joints + rng.normal(0, 10, joints.shape).astype(np.float32)
    prediction[0, 1, 2] = np.nan
    visible, length = rng.random((2, 5, 7)) < 0.8, rng.uniform(40, 90, (2, 5)).astype(np.float32)
    length[1, 3], length[0, 0] = 0, np.nan

    @jax.jit
    def on_device(prediction, joints, visible, length):
        pck = pck_state(prediction, joints, visible, length, xp=jnp)
        return pck, pck.pool((0, -1)).compute(jnp), difference_state(prediction, visible, 2, jnp)

    pck, pooled, smooth = on_device(prediction, joints, visible, length)
    expected = pck_state(prediction, joints, visible, length)
    assert 0 < expected.sums[:, -1].sum() < expected.counts.sum()
    assert expected.sums.shape == (2, 21, 7)
    assert expected.counts.shape == (2, 1, 7)
    np.testing.assert_array_equal(pck.sums, expected.sums)
    np.testing.assert_array_equal(pck.counts, expected.counts)
    np.testing.assert_allclose(pooled, expected.pool((0, -1)).compute(), rtol=1e-6)
    finite = difference_state(prediction, visible, 2)
    np.testing.assert_array_equal(smooth.counts, finite.counts)
    np.testing.assert_allclose(smooth.sums, finite.sums, rtol=1e-5)
    boxes, all_visible = joints[..., :2, :].reshape(2, 5, 4), np.ones((2, 5, 15), bool)
    np.testing.assert_allclose(person_length(jnp.asarray(boxes), jnp), person_length(boxes))
    wide = np.resize(joints, (2, 5, 15, 2))
    np.testing.assert_allclose(
        torso_length(jnp.asarray(wide), all_visible, JHMDB, jnp), torso_length(wide, all_visible, JHMDB), rtol=1e-6
    )


def test_inputs_are_not_written_to():
    joints, visible, boxes = truth(5)
    visible[1, 3], joints[2, SHOULDER] = False, joints[2, HIP]  # a hidden joint, a torso of length 0
    prediction, mask = moved(joints, 3), np.array([True] * 4 + [False])
    prediction[0, 0] = np.nan
    arrays = (prediction, joints, visible, boxes, mask)
    copies = [array.copy() for array in arrays]
    results = []
    for _ in range(2):
        metrics = PoseMetrics(JHMDB, 1)
        metrics.update(0, *arrays)
        results.append(metrics.compute())
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    np.testing.assert_equal(results[0], results[1])


def test_groups_average_left_and_right_and_mean_covers_every_joint():
    # One frame, person 100 px, 20 px allowed: right wrist and neck are wrong. Torso 50 px, 10 px allowed: so is the right elbow.
    joints, visible, boxes = truth(1)
    prediction = joints.copy()
    at = {name: i for i, name in enumerate(JHMDB.joints)}
    prediction[0, at['r_wrist'], 0] += 90
    prediction[0, at['neck'], 1] -= 90
    prediction[0, at['r_elbow'], 0] += 15
    metrics = PoseMetrics(JHMDB, 1)
    metrics.update(0, prediction, joints, visible, boxes)
    result = metrics.compute()
    person, torso = result['person']['pck']['0.2'], result['torso']['pck']['0.2']
    assert person == {
        'Head': 1,
        'Shoulder': 1,
        'Elbow': 1,
        'Wrist': 0.5,
        'Hip': 1,
        'Knee': 1,
        'Ankle': 1,
        'mPCK': pytest.approx(13 / 15),
    }
    assert torso['Elbow'] == 0.5
    assert torso['mPCK'] == pytest.approx(12 / 15)
    assert result['torso']['joints']['r_elbow'] == 0
    assert result['torso']['joints']['l_elbow'] == 1
    assert result['person']['pck']['0.1']['Elbow'] == 0.5  # 15 px > 10 px


def test_groups_are_ratios_of_sums_over_both_sides():
    # Right wrist visible in 1 frame (hit), left in 3 (all missed): 1 of 4; the mean of the two sides would be 1/2.
    joints, visible, boxes = truth(3)
    prediction, names = joints.copy(), list(JHMDB.joints)
    visible[1:, names.index('r_wrist')] = False
    prediction[:, names.index('l_wrist')] += 99
    metrics = PoseMetrics(JHMDB, 1)
    metrics.update(0, prediction, joints, visible, boxes)
    assert metrics.compute()['person']['pck']['0.2']['Wrist'] == 0.25


def test_clips_weigh_by_their_frames():
    # 1 frame right, 4 frames wrong: ratio of sums 1/5, whereas the mean of the two clips' PCK would be 1/2.
    metrics = PoseMetrics(JHMDB, 2)
    for clip, (frames, distance) in enumerate([(1, 0), (4, 99)]):
        joints, visible, boxes = truth(frames)
        metrics.update(clip, moved(joints, distance), joints, visible, boxes)
    result = metrics.compute()
    assert result['person']['pck']['0.2']['mPCK'] == pytest.approx(0.2)
    assert (result['clips'], result['frames']) == (2, 5)


def test_padded_frames_change_nothing():
    joints, visible, boxes = truth(7)
    prediction = joints + np.random.default_rng(0).normal(0, 8, joints.shape)
    whole, padded = PoseMetrics(JHMDB, 1), PoseMetrics(JHMDB, 1)
    whole.update(0, prediction[:5], joints[:5], visible[:5], boxes[:5])
    prediction[5:], boxes[6] = np.nan, 0  # what lies in the padding does not matter
    padded.update(0, prediction, joints, visible, boxes, np.arange(7) < 5)
    assert whole.compute() == padded.compute()
    assert 0 < whole.compute()['person']['auc']['mPCK'] < 1


def test_skipped_and_missing_are_counted():
    # 5 frames: frame 1 a torso of length 0, frame 2 a hidden hip, frame 3 an empty box; one prediction of frame 4 is NaN.
    joints, visible, boxes = truth(5)
    joints[1, SHOULDER] = joints[1, HIP]
    visible[2, HIP] = False
    boxes[3] = 7
    prediction = joints.copy()
    prediction[4, 0] = np.nan
    metrics = PoseMetrics(JHMDB, 3)
    metrics.update(1, prediction, joints, visible, boxes)
    result = metrics.compute()
    assert result['skipped'] == {'torso': 2, 'person': 1}
    assert result['missing'] == 1
    assert result['torso']['pck']['0.2']['mPCK'] == pytest.approx((3 * J - 1) / (3 * J))
    assert result['person']['pck']['0.2']['mPCK'] == pytest.approx((4 * J - 2) / (4 * J - 1))  # the hidden hip does not count


def test_acceleration_error_needs_visible_truth_and_jitter_does_not():
    # The truth stands still; the prediction of each joint jumps 1 px to the right in frame 2 of 5.
    # Second differences 1 -2 1: mean 4/3. Third -3 3: mean 3. Hiding joint 0 in frame 0 leaves -2 1 for it: mean 3/2.
    joints, visible, boxes = truth(5)
    visible[0, 0] = False
    prediction = joints.copy()
    prediction[2, :, 0] += 1
    metrics = PoseMetrics(JHMDB, 1)
    metrics.update(0, prediction, joints, visible, boxes)
    result = metrics.compute()
    assert result['acceleration']['joints'][JHMDB.joints[0]] == pytest.approx(3 / 2)
    assert result['acceleration']['joints'][JHMDB.joints[1]] == pytest.approx(4 / 3)
    assert result['acceleration']['mean'] == pytest.approx((3 + 4 * (J - 1)) / (2 + 3 * (J - 1)))
    assert result['jitter']['mean'] == pytest.approx(3)
    np.testing.assert_array_equal(metrics.ratios['jitter'].counts, np.full((1, J), 2))


def test_area_under_the_curve():
    # Every error is 10 px of 100: 0 below alpha 0.1, 1 from it on. Trapezoid over steps of 0.01: half a step from 0.09 to 0.1 and
    # ten whole ones to 0.2: 0.105 / 0.2 = 0.525. An exact prediction has 1 everywhere.
    joints, visible, boxes = truth(2)
    assert (ALPHAS[0], ALPHAS[5], ALPHAS[10], ALPHAS[-1]) == (0, 0.05, 0.1, 0.2)
    for distance, area in ((10, 0.525), (0, 1.0), (21, 0.0)):
        metrics = PoseMetrics(JHMDB, 1)
        metrics.update(0, moved(joints, distance), joints, visible, boxes)
        assert metrics.compute()['person']['auc']['mPCK'] == pytest.approx(area)


def filled(clips: int, indices: range) -> PoseMetrics:
    metrics = PoseMetrics(JHMDB, clips)
    for clip in indices:
        rng = np.random.default_rng(clip)
        joints, visible, boxes = truth(3 + clip % 5)
        prediction = joints + rng.normal(0, rng.uniform(2, 20), joints.shape)
        metrics.update(clip, prediction, joints, visible, boxes)
    return metrics


def test_merged_parts_equal_one_pass():
    merged = filled(7, range(0, 7, 2)).merge(filled(7, range(1, 7, 2)))
    assert merged.compute() == filled(7, range(7)).compute()
    assert merged.bootstrap(50) == filled(7, range(7)).bootstrap(50)
    single = Ratio(np.array([1.0]), np.array([2])).merge(Ratio(np.array([3.0]), np.array([6])))
    assert single.compute() == 0.5


def test_bootstrap_contains_the_estimate_shrinks_with_clips_and_repeats_with_its_seed():
    few, many = filled(10, range(10)), filled(160, range(160))
    widths = []
    for metrics in (few, many):
        value = metrics.compute()['torso']['pck']['0.2']['mPCK']
        low, high = metrics.bootstrap(500)['torso']['pck']['0.2']['mPCK']
        assert low < value < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2  # 16 times the clips: about a quarter of the width
    assert few.bootstrap(100, seed=1) == few.bootstrap(100, seed=1) != few.bootstrap(100, seed=2)
    narrow = few.bootstrap(500, level=0.5)['jitter']['mean']
    assert np.ptp(narrow) < np.ptp(few.bootstrap(500)['jitter']['mean'])


def test_bootstrap_draws_whole_clips():
    # A right and a wrong clip of equal length: a draw of two has 0, 1 or 2 right ones, so the 95 % interval is all of [0, 1],
    # whereas drawing 400 frames one by one would leave about [0.45, 0.55].
    metrics = PoseMetrics(JHMDB, 3)  # the third clip is never added, and never drawn
    for clip, distance in enumerate([0, 99]):
        joints, visible, boxes = truth(200)
        metrics.update(clip, moved(joints, distance), joints, visible, boxes)
    assert metrics.bootstrap(200)['person']['pck']['0.2']['mPCK'] == [0, 1]


def two_thirds(right: float) -> PoseMetrics:
    """3 clips of 10 frames; every joint is 0 px off in all frames of the first, in that share of them of the others, else 99."""
    metrics = PoseMetrics(JHMDB, 3)
    for clip in range(3):
        joints, visible, boxes = truth(10)
        off = np.where(np.arange(10) < (10 if clip == 0 else 10 * right), 0.0, 99.0)
        metrics.update(clip, joints + np.stack([off, 0 * off], -1)[:, None], joints, visible, boxes)
    return metrics


def test_a_contrast_is_of_the_same_clips_in_every_draw():
    # mPCK is (1 + 0.6 + 0.6) / 3 and (1 + 0.5 + 0.5) / 3. By clip the difference is 0, 0.1 and 0.1, so a draw's is 0 to 0.1,
    # whereas with draws of their own the two would differ by up to 0.5.
    values, intervals = contrast([(1.0, two_thirds(0.6)), (-1.0, two_thirds(0.5))], samples=2000)
    key = ('person', 'pck', '0.2', 'mPCK')
    value, interval = values, intervals
    for part in key:
        value, interval = value[part], interval[part]
    assert value == pytest.approx(0.2 / 3)
    assert interval == pytest.approx([0, 0.1], abs=1e-9)
    alone, same = contrast([(1.0, two_thirds(0.6))], samples=50), two_thirds(0.6)
    computed = same.compute()
    assert alone[0] == {name: computed[name] for name in alone[0]}
    assert alone[1] == same.bootstrap(50)


def test_a_contrast_of_other_clips_is_refused():
    with pytest.raises(ValueError, match='different clips'):
        contrast([(1.0, filled(4, [0, 1])), (-1.0, filled(4, [0, 2]))])


def test_joints_that_are_not_to_count_still_measure_the_torso():
    joints, visible, boxes = truth(2)  # the right hip, an end of the torso, is at (0, 0)
    counted = np.zeros_like(visible)
    counted[0, [2, SHOULDER]] = counted[1, 2] = True
    prediction = joints.copy()
    prediction[:, SHOULDER] += 99
    metrics = PoseMetrics(JHMDB, 1)
    metrics.update(0, prediction, joints, visible, boxes, counted=counted)
    result = metrics.compute()
    assert result['torso']['pck']['0.2']['mPCK'] == result['person']['pck']['0.2']['mPCK'] == pytest.approx(2 / 3)
    assert result['skipped'] == {'torso': 0, 'person': 0}
    visible[0, 2] = False
    hidden = PoseMetrics(JHMDB, 1)
    hidden.update(0, prediction, joints, visible, boxes, counted=counted)
    assert hidden.compute()['person']['pck']['0.2']['mPCK'] == 0.5
    with pytest.raises(InputError, match=r'counted of shape \[1, 15\], expected \[2, 15\]'):
        PoseMetrics(JHMDB, 1).update(0, prediction, joints, visible, boxes, counted=counted[:1])


def test_no_clip_gives_no_number():
    metrics = PoseMetrics(JHMDB, 2)
    assert np.isnan(metrics.compute()['torso']['auc']['mPCK'])
    assert np.isnan(metrics.bootstrap(5)['torso']['auc']['mPCK']).all()


def test_wrong_use_is_refused():
    joints, visible, boxes = truth(3)
    metrics = PoseMetrics(JHMDB, 2)
    with pytest.raises(InputError, match=r'clip 0: prediction of shape \[2, 15, 2\], expected \[3, 15, 2\]'):
        metrics.update(0, joints[:2], joints, visible, boxes)
    metrics.update(0, joints, joints, visible, boxes)
    for clip in (0, 2, -1):
        with pytest.raises(ValueError, match='added before or is out of range'):
            metrics.update(clip, joints, joints, visible, boxes)
    with pytest.raises(ValueError, match='clip 0 is in both parts'):
        metrics.merge(metrics)
    with pytest.raises(ValueError, match='do not merge'):
        metrics.merge(PoseMetrics(PENN_ACTION, 2))
