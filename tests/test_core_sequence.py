import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kimnet_jax.core.sequence import interpolate, sampled_frames


def test_every_third_frame_and_the_ends_of_runs():
    def frames(text):
        return np.array([character == '1' for character in text])

    for mask, expected in [
        ('1111111', '1001001'),
        ('1111110', '1001010'),  # the last real frame too
        ('1000000', '1000000'),
        ('0000000', '0000000'),
        ('1101111', '1101001'),  # both sides of a gap
    ]:
        np.testing.assert_array_equal(sampled_frames(frames(mask), 3), frames(expected), mask)


@pytest.mark.parametrize('xp', [np, jnp])
def test_lines_between_known_frames(xp):
    values = np.array([[9, 1, 9, 9, 4, 9], [9, 9, 9, 9, 9, 9]], np.float32)[..., None] * np.array([1, -2], np.float32)
    known = np.array([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]], bool)
    values[~known] = np.nan
    filled = interpolate(xp.asarray(values), xp.asarray(known), xp)
    assert filled.dtype == np.float32
    np.testing.assert_allclose(filled[0, :, 0], [1, 1, 2, 3, 4, 4], rtol=1e-6)
    np.testing.assert_allclose(filled[0, :, 1], [-2, -2, -4, -6, -8, -8], rtol=1e-6)
    np.testing.assert_array_equal(filled[1], 0)


def test_gradients_reach_the_known_frames_only():
    known = jnp.asarray([True, False, False, True])
    gradient = jax.grad(lambda values: interpolate(values, known, jnp).sum())(jnp.ones((4, 1)))
    np.testing.assert_allclose(gradient[:, 0], [2, 0, 0, 2], rtol=1e-6)
