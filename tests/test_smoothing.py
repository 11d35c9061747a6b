"""The filters beside every refined result, on signals whose answer is known, and their tables."""

import numpy as np
import pytest
from scipy import ndimage, signal

from kimnet_jax.core.skeleton import PENN_ACTION, get_skeleton
from kimnet_jax.metrics import PoseMetrics, SpatialMetrics, aligned, difference_state, position_error_state
from kimnet_jax.reporting import smoothing, tables

BOX = np.tile(np.array([0.0, 0, 100, 100]), (60, 1))


def line(frames: int = 60, joints: int = 2) -> np.ndarray:
    """Joints that move evenly."""
    start, speed = np.arange(joints * 2).reshape(joints, 2) * 7.0, np.array([0.5, -0.25])
    return (start + np.arange(frames)[:, None, None] * speed).astype(np.float32)


@pytest.mark.parametrize('name', [*smoothing.baselines(5)])
def test_even_motion_stays(name):
    poses = line()
    filtered = smoothing.baselines(5)[name](poses, BOX)
    middle = slice(12, -12)  # the Gaussian bends at the ends
    tolerance = 4.0 if name == 'One-Euro' else 1e-3  # causal: it lags behind
    np.testing.assert_allclose(filtered[middle], poses[middle], atol=tolerance)


@pytest.mark.parametrize('name', [name for name in smoothing.baselines(5) if name != smoothing.RAW])
def test_jitter_falls(name):
    poses = line() + np.random.default_rng(0).normal(0, 1, (60, 2, 2)).astype(np.float32)
    before, after = (
        float(difference_state(p, np.ones((60, 2)), 3).pool(0).compute())
        for p in (poses, smoothing.baselines(5)[name](poses, BOX))
    )
    assert after < 0.7 * before


@pytest.mark.parametrize('name', [*smoothing.baselines(5)])
@pytest.mark.parametrize('frames', [1, 2, 3, 4, 11])
def test_gaps_and_short_clips(name, frames):
    poses = line(frames)
    poses[frames // 2, 1] = np.nan
    filtered = smoothing.baselines(5)[name](poses, BOX[:frames])
    assert filtered.shape == poses.shape
    assert np.isfinite(filtered).all() == (name != smoothing.RAW)


def test_lines_read_every_nth_frame_only():
    poses = np.zeros((8, 1, 2), np.float32)
    poses[[0, 3, 6, 7], 0, 0] = [0, 3, 9, 5]
    poses[[1, 2, 4, 5]] = 1000
    assert smoothing.linear(poses, interval=3)[:, 0, 0].tolist() == [0, 1, 2, 3, 5, 7, 9, 5]


@pytest.mark.parametrize('frames', [11, 12, 60])
def test_the_filters_of_the_tables_are_in_frames(frames):
    """11 frames, and a standard deviation of 2 frames, as SciPy has them."""
    poses = np.random.default_rng(0).normal(size=(frames, 3, 2))
    found = smoothing.baselines(5)
    expected = signal.savgol_filter(poses.astype(np.float32).astype(float), 11, 2, axis=0)
    np.testing.assert_allclose(found['Savitzky-Golay'](poses, BOX[:frames]), expected, atol=1e-9)
    expected = ndimage.gaussian_filter1d(poses.astype(np.float32).astype(float), 2, axis=0, mode='nearest')
    np.testing.assert_allclose(found['Gaussian'](poses, BOX[:frames]), expected, atol=1e-9)


def test_the_first_table_has_accuracy_and_smoothness():
    truth, visible = line(10, 13), np.ones((10, 13), bool)
    rows = {}
    for name, shift in {'ours': 0, tables.MEAN_POSE: 3, tables.RANDOM: 90}.items():
        metrics = PoseMetrics(PENN_ACTION, 1)
        metrics.update(0, truth + shift, truth, visible, BOX[:10])
        rows[name] = tables.Row.of(metrics, samples=10)
    text = smoothing.render_refinement(tables.report('Title', rows))
    summary = text.split('## ')[1]
    assert summary.startswith('Accuracy and smoothness')
    cells = [cell.strip() for cell in summary.splitlines()[4].split('|')[1:-1]]
    assert cells == ['ours', *['100.0'] * 6, '0.00', '0.00']
    assert text.count('## Smoothness') == 1


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_mpjpe_by_hand():
    truth = np.zeros((2, 2, 3))
    prediction = truth.copy()
    prediction[0, 0], prediction[1, 1] = (2, 3, 6), (0, 0, 100)  # 7 off, and one that does not count
    state = position_error_state(prediction, truth, np.array([[True, True], [True, False]]))
    assert (state.sums.tolist(), state.counts.tolist()) == ([7, 0], [2, 1])


@pytest.mark.parametrize('dims', [2, 3])
def test_alignment_undoes_rotation_scale_and_shift(dims):
    truth = np.random.default_rng(0).normal(size=(3, 7, 3))[..., :dims]
    moved = truth @ rotation(0.7)[:dims, :dims] * 2.5 + 11
    valid = np.ones((3, 7), bool)
    np.testing.assert_allclose(aligned(moved, truth, valid), truth, atol=1e-9)
    moved[:, 3], valid[:, 3] = 1000, False  # an outlier that does not count has no say
    np.testing.assert_allclose(aligned(moved, truth, valid)[valid], truth[valid], atol=1e-9)


def test_alignment_never_mirrors():
    truth = np.random.default_rng(0).normal(size=(1, 7, 3))
    mirrored = truth * [-1, 1, 1]
    error = np.linalg.norm(aligned(mirrored, truth, np.ones((1, 7), bool)) - truth, axis=-1).mean()
    assert error > 0.1


def test_spatial_metrics():
    truth = np.random.default_rng(1).normal(size=(6, 17, 3))
    metrics = SpatialMetrics(get_skeleton('points17'), 2)
    prediction = truth + np.array([3.0, 0, 4])
    prediction[0, 0] = np.nan
    metrics.update(1, prediction, truth, np.ones((6, 17), bool))
    result = metrics.compute()
    assert (result['clips'], result['frames'], result['missing']) == (1, 6, 1)
    assert result['mpjpe'] == pytest.approx(5)
    assert result['pa_mpjpe'] == pytest.approx(0, abs=1e-9)
    assert result['acceleration'] == pytest.approx(0, abs=1e-9)
    assert result['jitter'] > 1
    with pytest.raises(ValueError, match='added before'):
        metrics.update(1, truth, truth, np.ones((6, 17), bool))
    report = smoothing.spatial_report(
        'Title', {'ours': result, 'none': SpatialMetrics(metrics.skeleton, 1).compute()}, ['A note.']
    )
    text = smoothing.render_spatial(report)
    assert '| ours |     5 |' in text
    assert report['rows']['none']['mpjpe'] is None
