"""The loss, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kimnet_jax.core import heatmap
from kimnet_jax.losses import heatmap_loss

B, T, J, h, w = 2, 3, 5, 7, 11


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    joints = rng.uniform(0, 4 * np.array([w, h]) - 1, (B, T, J, 2)).astype(np.float32)
    return {'joints': joints, 'visible': rng.random((B, T, J)) < 0.5, 'mask': np.array([[True] * 3, [True, False, False]])}


def targets(batch):
    return jnp.asarray(heatmap.encode(batch['joints'], (h, w)))


def test_truth_costs_nothing_and_an_offset_its_square(batch):
    assert heatmap_loss(targets(batch), batch) == pytest.approx(0, abs=1e-12)
    assert heatmap_loss(targets(batch) + 0.5, batch) == pytest.approx(0.25, rel=1e-5)


def test_mean_is_over_the_frames_that_are_real(batch):
    heatmaps = targets(batch)
    heatmaps = heatmaps.at[1, 1:].add(100.0)  # padding
    assert heatmap_loss(heatmaps, batch) == pytest.approx(0, abs=1e-12)
    heatmaps = heatmaps.at[1, 0, :, :, 2].add(2.0)  # one map of 4 frames x 5 joints
    assert heatmap_loss(heatmaps, batch) == pytest.approx(4 / 20, rel=1e-5)
    heatmaps = heatmaps.at[0, 0, 0, 0, 0].add(3.0)  # one cell of 77
    assert heatmap_loss(heatmaps, batch) == pytest.approx((4 + 9 / 77) / 20, rel=1e-4)


def test_visibility_weighting(batch):
    batch['visible'][:] = True
    batch['visible'][0, 0, 1] = False
    heatmaps = targets(batch).at[0, 0, :, :, 1].add(1.0)
    assert heatmap_loss(heatmaps, batch, visibility_weighting=True) == pytest.approx(0, abs=1e-12)
    assert heatmap_loss(heatmaps, batch) == pytest.approx(1 / 20, rel=1e-5)
    heatmaps = heatmaps.at[0, 0, :, :, 0].add(1.0)
    assert heatmap_loss(heatmaps, batch, visibility_weighting=True) == pytest.approx(1 / 19, rel=1e-5)


def test_joints_outside_of_the_crop_have_no_peak_or_do_not_count(batch):
    batch['visible'][:] = True
    batch['joints'][0, 1, 3] = [4 * w, 5]  # the first pixel past the right border
    heatmaps = targets(batch).at[0, 1, :, :, 3].add(1.0)
    for weighting in (False, True):
        assert heatmap_loss(heatmaps, batch, visibility_weighting=weighting) == pytest.approx(1 / 20, rel=1e-5)
        assert heatmap_loss(heatmaps, batch, visibility_weighting=weighting, outside='ignored') == pytest.approx(0, abs=1e-12)
    batch['joints'][0, 1, 3] = [4 * w - 1, 5]  # the last one before it
    heatmaps = targets(batch).at[0, 1, :, :, 3].add(1.0)
    assert heatmap_loss(heatmaps, batch, outside='ignored') == pytest.approx(1 / 20, rel=1e-5)


def test_nothing_counts(batch):
    batch['mask'] = np.zeros((B, T), bool)
    loss, gradient = jax.value_and_grad(heatmap_loss)(targets(batch) + 1, batch)
    assert loss == 0
    assert not gradient.any()


def test_target_parameters_reach_the_encoder(batch):
    for settings in ({'sigma': 1.0}, {'centre': 'cell'}, {'stride': 5}):
        maps = jnp.asarray(heatmap.encode(batch['joints'], (h, w), **settings))
        assert heatmap_loss(maps, batch, **settings) == pytest.approx(0, abs=1e-12)
        assert heatmap_loss(maps, batch) > 1e-5
