import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kimnet_jax.losses import hanet_loss

# one window of 3 frames, 4 channels, interval 2: frames 0 and 2 are sampled; the truth is 0
FINAL = np.array([[[1, 0, 2, 1], [3, 0, 0, 0], [1, 0, 1, 1]]], np.float32)
REFINED = np.array([[[2, 1, 1, 1], [9, 9, 9, 9], [2, 0, 1, 0]]], np.float32)
BATCH = {'poses': np.zeros((1, 3, 4), np.float32), 'mask': np.ones((1, 3), bool)}


def test_by_hand():
    loss, parts = hanet_loss(FINAL, REFINED, BATCH, interval=2, final_weight=5.0, refined_weight=2.0)
    # of 12 coordinates; final: 5, 0, 3, 2; refined: 4, 1, 2, 1; their difference: 2, 1, 1, 1
    channels = np.array([5 * 5 + 2 * (4 + 2), 2 * (1 + 1), 5 * 3 + 2 * (2 + 1), 5 * 2 + 2 * (1 + 1)]) / 12
    np.testing.assert_allclose(parts['channels'], channels, rtol=1e-6)
    np.testing.assert_allclose(parts['l1'], channels.sum(), rtol=1e-6)
    np.testing.assert_allclose(loss, channels.sum() + (37 + 21) / 12 / 2, rtol=1e-6)  # the 2 * (4 // 4) worst: channels 0 and 2
    np.testing.assert_allclose(parts['final_error'], 10 / 12, rtol=1e-6)
    np.testing.assert_allclose(parts['refined_error'], 8 / 8, rtol=1e-6)


def gradients(mutual, batch=BATCH, **weights):
    def loss(final, refined):
        return hanet_loss(final, refined, batch, interval=2, mutual=mutual, **weights)[1]['l1']

    return jax.grad(loss, (0, 1))(jnp.asarray(FINAL), jnp.asarray(REFINED))


def test_the_worse_output_learns_from_the_better():
    # at the sampled frames, final against refined: 2 < 4, 0 < 1, 3 > 2, 2 > 1; only the mutual term is weighed
    batch = BATCH | {'poses': np.full((1, 3, 4), 0.0, np.float32)}
    final, refined = gradients('detached', batch, final_weight=0.0)
    both_final, both_refined = gradients('released', batch, final_weight=0.0)
    error = np.sign(REFINED) * np.array([1, 0, 1])[None, :, None] / 12  # of |refined - truth|, in both
    step = np.sign(FINAL - REFINED) * np.array([1, 0, 1])[None, :, None] / 12
    learns = np.array([False, False, True, True])  # final, in the last two channels
    np.testing.assert_allclose(final, np.where(learns, step, 0), atol=1e-7)
    np.testing.assert_allclose(refined, error - np.where(learns, 0, step), atol=1e-7)
    np.testing.assert_allclose(both_final, step, atol=1e-7)
    np.testing.assert_allclose(both_refined, error - step, atol=1e-7)


def test_both_forms_have_one_value():
    values = [hanet_loss(FINAL, REFINED, BATCH, interval=2, mutual=mutual)[0] for mutual in ('detached', 'released')]
    assert values[0] == values[1]


def test_padding_and_unknown_coordinates_count_nowhere():
    def grown(array, value):
        return np.concatenate([array, np.full((1, 2, array.shape[2]), value, np.float32)], 1)

    mask = np.array([[True, True, True, False, False]])
    batch = {'poses': grown(BATCH['poses'], np.nan), 'mask': mask}
    expected, _ = hanet_loss(FINAL, REFINED, BATCH, interval=2)
    loss, _ = hanet_loss(grown(FINAL, 7), grown(REFINED, -7), batch, interval=2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)

    known = np.ones((1, 3, 4), bool)
    known[0, 0, 0] = known[0, 1, 1] = False
    batch = BATCH | {'poses': np.where(known, 0, np.nan).astype(np.float32), 'known': known}
    _, parts = hanet_loss(FINAL, REFINED, batch, interval=2, final_weight=1.0)
    # of 10 coordinates; channel 0 loses 1, 2 and 1 at the sampled frame 0
    np.testing.assert_allclose(parts['channels'][0] * 10, (3 + 1) + 2 + 1, rtol=1e-6)
    np.testing.assert_allclose(parts['channels'][1] * 10, 0 + 1 + 1, rtol=1e-6)


def test_nothing_known_is_zero_with_zero_gradients():
    batch = BATCH | {'mask': np.zeros((1, 3), bool)}
    loss, parts = hanet_loss(FINAL, REFINED, batch, interval=2)
    assert loss == 0
    assert all((value == 0).all() for value in parts.values())
    assert all((gradient == 0).all() for gradient in gradients('detached', batch))


def test_fewer_than_four_channels_have_no_hard_ones():
    loss, parts = hanet_loss(FINAL[..., :3], REFINED[..., :3], BATCH | {'poses': BATCH['poses'][..., :3]}, interval=2)
    assert loss == parts['l1']


def test_unknown_mutual_learning():
    with pytest.raises(ValueError, match="'both': choose 'detached' or 'released'"):
        hanet_loss(FINAL, REFINED, BATCH, interval=2, mutual='both')
