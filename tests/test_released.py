"""The released metrics against arrays of the original codes (tests/golden/eval_*.npz; the inputs' recipe is beside them)."""

import json

import golden
import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.released import metrics as released

RPSTN = {'penn_action': (13, 2, 7), 'jhmdb': (15, 4, 5)}  # joints, the two of the torso
FILES = {'penn_action': 'eval_rpstn_penn_action', 'jhmdb': 'eval_rpstn_sub_jhmdb'}


def channels_last(maps):
    return np.moveaxis(maps, 1, -1)


def drawn(name, *shape, kind='input'):
    return golden.tensor(name, shape, kind, 0)


# --- SimpleBaseline


@pytest.fixture(scope='module')
def simplebaseline():
    reference = golden.arrays('eval_simplebaseline')
    recipe = json.loads((golden.FOLDER / 'eval_simplebaseline.json').read_text())
    maps = drawn('sb_heatmaps', 5, 13, 64, 64)
    for n, p, y, x in recipe['forced_peaks']:
        maps[n, p, y, x] = 2.0
    maps[4, 12] *= -1
    maps[3, 11] = 0.5
    maps[3, 10, 20, 20:22] = 3.0
    targets = drawn('sb_target_heatmaps', 5, 13, 64, 64)
    targets[:, :6] = np.float32(0.05) * maps[:, :6] + np.float32(0.02) * targets[:, :6]
    targets[2, 5] = 0
    return reference, channels_last(maps), channels_last(targets)


def test_peaks_are_simplebaselines(simplebaseline):
    reference, maps, _ = simplebaseline
    position, value = released.peaks(maps)
    np.testing.assert_array_equal(position, reference['max_coords'])
    np.testing.assert_array_equal(value[..., None], reference['max_values'])
    np.testing.assert_array_equal(released.quarter_peaks(maps), reference['quarter_pixel_coords'])


def test_positions_in_the_image_are_simplebaselines(simplebaseline):
    """The release solves for its affine map with OpenCV, from float32 points: that costs it the seventh digit."""
    reference, maps, _ = simplebaseline
    centre, scale = 100 + 200 * drawn('sb_center', 5, 2), 0.5 + drawn('sb_scale', 5, 2)
    cases = {'final_preds': released.quarter_peaks(maps), 'final_preds_no_post_process': released.peaks(maps)[0]}
    for key, positions in cases.items():
        pixels = released.peaks_in_image(positions, (64, 64), centre, scale)
        np.testing.assert_allclose(pixels, reference[key], rtol=0, atol=1e-4, err_msg=key)


def test_accuracy_is_simplebaselines(simplebaseline):
    reference, maps, targets = simplebaseline
    result = released.simplebaseline_accuracy(maps, targets)
    np.testing.assert_array_equal(np.float32([result['mean'], *result['joints']]), reference['accuracy_acc'])
    assert np.float32(result['mean']) == reference['accuracy_avg']
    assert result['count'] == reference['accuracy_cnt']
    np.testing.assert_array_equal(result['pred'], reference['accuracy_pred'])


def test_accuracy_without_targets():
    result = released.simplebaseline_accuracy(np.ones((2, 8, 8, 3)), np.zeros((2, 8, 8, 3)))
    assert (result['mean'], result['count'], result['joints'].tolist()) == (0.0, 0, [-1.0] * 3)


def test_flip_average_by_hand():
    maps = np.array([[[8, 0], [0, 0], [0, 2]]], np.float32)  # one row, three columns, joints left and right
    mirrored = np.array([[[4, 0], [0, 0], [0, 6]]], np.float32)
    # mirrored back and swapped: left [6, 0, 0], right [0, 0, 4]; shifted: left [6, 6, 0], right [0, 0, 0]
    np.testing.assert_array_equal(released.flip_average(maps, mirrored, (1, 0), False), [[[7, 0], [0, 0], [0, 3]]])
    np.testing.assert_array_equal(released.flip_average(maps, mirrored, (1, 0)), [[[7, 0], [3, 0], [0, 1]]])


# --- RPSTN


def rpstn_cases(skeleton):
    """Heatmaps (pred, target) [5, h, w, J] of each case of the recipe."""
    joints, a, b = RPSTN[skeleton]
    target_xy = np.floor(60 * drawn('acc_target_xy', 5, joints, 2)).astype(int) + 2
    offset = np.rint(4 * drawn('acc_offset', 5, joints, 2, kind='normal')).astype(int)
    offset[:, ::3] = 0
    pred_xy = np.clip(target_xy + offset, 0, 63)

    def maps(xy, noise=None):
        result = np.zeros((5, joints, 64, 64), np.float32) if noise is None else np.float32(0.1) * noise
        t, k = np.mgrid[:5, :joints]
        result[t, k, xy[..., 1], xy[..., 0]] = 1
        return result

    def moved(step):
        xy = target_xy.copy()
        xy[0, b] = step(xy[0, a])
        return xy

    noise = drawn('acc_pred_noise', 5, joints, 64, 64)
    pred, target = maps(pred_xy, noise), maps(target_xy)
    target[:, 9] = 0
    target[1, 3] = 0
    target[2, 5] = 0
    target[2, 5, 20, 1] = 1
    pred[3, 6] = -0.1
    body = moved(lambda xy: [min(xy[0] + 3, 63), xy[1] + 14 if xy[1] + 14 <= 63 else xy[1] - 14])
    far = np.rint(12 * drawn('acc_far_offset', 5, joints, 2, kind='normal')).astype(int)
    small = moved(lambda xy: [xy[0], xy[1] + 6 if xy[1] + 6 <= 63 else xy[1] - 6])
    cases = {
        'noise': (drawn('acc_noise_pred', 5, joints, 64, 64), drawn('acc_noise_target', 5, joints, 64, 64)),
        'peaks': (pred, target),
        'body': (maps(np.clip(body + far, 0, 63), noise), maps(body)),
        'perfect': (maps(target_xy, noise), maps(target_xy)),
        'perfect_small_torso': (maps(small, noise), maps(small)),
        'degenerate_torso': (maps(pred_xy, noise), maps(moved(lambda xy: xy))),
    }
    return {name: (channels_last(pred), channels_last(target)) for name, (pred, target) in cases.items()}


@pytest.mark.parametrize('skeleton', RPSTN)
def test_accuracy_is_rpstns_digit_for_digit(skeleton):
    reference, corners = golden.arrays(FILES[skeleton]), 256 * drawn('acc_bbox', 5, 4, 3)
    for case, (pred, target) in rpstn_cases(skeleton).items():
        for i, threshold in enumerate((0.2, 1)):
            for j, torso in enumerate((True, False)):
                result = released.rpstn_accuracy(pred, target, skeleton, corners, threshold=threshold, torso=torso)
                np.testing.assert_array_equal(np.float32(result['pck']), reference[f'{case}/PCK'][i, j], f'{case} {i} {j}')
        for ours, theirs in {'acc': 'acc', 'pckh': 'PCKh', 'visible': 'visible', 'count': 'cnt', 'pred': 'pred'}.items():
            np.testing.assert_array_equal(np.float32(result[ours]), reference[f'{case}/{theirs}'], f'{case} {theirs}')


def test_noise_scores_one_and_perfection_can_score_zero():
    """At the threshold that RPSTN's training reports; and at its test threshold, of a body of 6 cells."""
    cases = rpstn_cases('penn_action')
    noise = released.rpstn_accuracy(*cases['noise'], 'penn_action', None, threshold=1)
    perfect = released.rpstn_accuracy(*cases['perfect_small_torso'], 'penn_action', None, threshold=0.2)
    assert noise['pck'].mean() == 1.0
    assert perfect['pck'].mean() == 0.0
    assert perfect['acc'].mean() == 0.0


def test_corners_are_the_wrong_ones():
    expected = [[213.33, 48.76], [100, 250], [220, 40], [682.67, 353.52]]
    np.testing.assert_allclose(released.rpstn_corners([[100, 40, 220, 250]])[0], expected, atol=0.01)
    peak = np.full((1, 13, 2), 9.0)
    peak[0, 7] = 19
    # the box is 8.76 long where it should be 256: 0.2 of that is above the sqrt(2) of a perfect prediction, 0.1 is not
    corners = released.rpstn_corners([[100, 40, 220, 250]])
    for threshold, hit in ((0.2, 1.0), (0.1, 0.0)):
        result = released.rpstn_accuracy_of_peaks(peak, peak, 'penn_action', corners, threshold=threshold, torso=False)
        assert (result['pck'] == hit).all()


def test_average_over_clips_by_hand():
    clips = [{'pck': [1.0, 0.0, 0.0], 'visible': [1, 0, 0]}, {'pck': [0.5, 0.25, 0.0], 'visible': [1, 1, 0]}]
    joints, mean = released.rpstn_average(clips)
    assert joints.tolist() == [0.75, 0.25, 0.0]
    assert mean == pytest.approx(1 / 3)


def test_other_skeletons_have_no_rule():
    with pytest.raises(InputError, match="'mpii': RPSTN evaluates 'penn_action' and 'jhmdb' only"):
        released.rpstn_accuracy_of_peaks(np.ones((1, 16, 2)), np.ones((1, 16, 2)), 'mpii', None)


# --- HANet and SmoothNet


def boxes_of(name, frames):
    b = np.floor(60 * drawn(name, frames, 4)).astype(np.int32)
    return np.stack([b[:, 0], b[:, 1], b[:, 0] + 60 + b[:, 2], b[:, 1] + 80 + b[:, 3]], -1)


@pytest.fixture(scope='module')
def hanet():
    truth = drawn('m_gt', 40, 15, 2)
    truth_3d = drawn('m_gt3', 40, 14, 3, kind='normal')
    return (
        golden.arrays('eval_hanet_metrics'),
        (truth + np.float32(0.03) * drawn('m_noise', 40, 15, 2, kind='normal'), truth),
        (truth_3d + np.float32(0.1) * drawn('m_noise3', 40, 14, 3, kind='normal'), truth_3d),
    )


def test_pck_is_hanets_and_smoothnets(hanet):
    reference, (pred, truth), _ = hanet
    boxes = boxes_of('m_bbox', 40)
    for threshold, name in zip(released.HANET_THRESHOLDS, ('005', '01', '02'), strict=True):
        share = released.hanet_pck(pred, truth, boxes, (240, 320), threshold)
        np.testing.assert_array_equal(share, reference[f'hanet_pck_{name}'])
        share = released.smoothnet_pck(pred - np.float32(0.5), truth - np.float32(0.5), boxes, (240, 320), threshold)
        np.testing.assert_array_equal(share, reference[f'smoothnet_pck_{name}'])


def test_errors_are_hanets_and_smoothnets(hanet):
    """The references are float64 runs, or sums in PyTorch's order: the last of float32's digits may differ."""
    reference, flat, solid = hanet
    visible = drawn('m_vis', 40) > 0.2
    values = {
        'hanet_accel_error_2d': released.acceleration_error(*flat),
        'hanet_accel_error_3d': released.acceleration_error(*solid),
        'hanet_accel_error_3d_vis': released.acceleration_error(*solid, visible),
        'smoothnet_accel_error_2d': released.smoothnet_acceleration_error(*flat),
        'smoothnet_accel_error_3d': released.smoothnet_acceleration_error(*solid),
        'hanet_mpjpe_2d': released.mpjpe(*flat),
        'hanet_mpjpe_3d': released.mpjpe(*solid),
        'hanet_pampjpe_3d': released.pa_mpjpe(*solid),
    }
    for key, value in values.items():
        assert value.shape == reference[key].shape, key
        assert golden.relative_error(value, reference[key]) < (1e-6 if 'pampjpe' in key else 2e-7), key


def test_sequences_are_put_together_as_hanets(hanet):
    reference = hanet[0]['slide_window_to_sequence']
    sequence = released.hanet_sequence(drawn('m_windows', 6, 11, 30), 5)
    np.testing.assert_array_equal(sequence, reference)


def test_windows_drop_the_end_and_pad_the_short():
    assert released.hanet_windows(np.arange(13), 5, 3).tolist() == [[0, 1, 2, 3, 4], [3, 4, 5, 6, 7], [6, 7, 8, 9, 10]]
    assert released.hanet_windows(np.arange(1, 4), 5, 3).tolist() == [[1, 2, 3, 0, 0]]


def test_evaluation_is_hanets(hanet):
    reference = dict(zip(hanet_keys(), hanet[0]['evaluate_2D'], strict=True))
    sequences = []
    for s, frames in enumerate((23, 16, 8)):
        truth = drawn(f'm_seq_gt{s}', frames, 30)
        noisy = truth + np.float32(0.03) * drawn(f'm_seq_noise{s}', frames, 30, kind='normal')
        sequences.append((noisy, truth, boxes_of(f'm_seq_bbox{s}', frames)))

    def refine(poses):
        return np.float32(0.5) * (poses + poses.mean(1, keepdims=True)), poses + np.float32(0.01)

    values = released.hanet_evaluate_2d(refine, sequences, (240, 320), interval=5, window=2, step=1)
    assert values.keys() == reference.keys()
    for key, value in values.items():
        np.testing.assert_allclose(value, reference[key], rtol=0, atol=1.2e-7, err_msg=key)  # the order of the sums


def hanet_keys():
    return json.loads((golden.FOLDER / 'eval_hanet_metrics.json').read_text())['evaluate_2D_keys']


def test_procrustes_undoes_a_similarity():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(3, 7, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    assert released.pa_mpjpe(2.5 * truth @ turn + 3, truth).max() < 1e-5
    assert released.pa_mpjpe(truth * [-1, 1, 1], truth).min() > 0.05  # a mirrored body is another body


def test_joints_of_the_body_are_those_of_the_skeletons():
    assert [JHMDB.joints[i] for i in RPSTN['jhmdb'][1:]] == ['l_shoulder', 'r_hip']
