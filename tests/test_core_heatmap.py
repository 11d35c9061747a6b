import jax.numpy as jnp
import numpy as np
import pytest

from kimnet_jax.core.heatmap import cells_to_pixels, decode, encode, pixels_to_cells

SIZE = (19, 23)  # (h, w)


def test_cells_and_pixels():
    # cell 0 covers pixels 0 to 3, whose middle is 1.5
    np.testing.assert_array_equal(cells_to_pixels(np.array([0.0, 1.0, 5.25]), 4), [1.5, 5.5, 22.5])
    np.testing.assert_array_equal(pixels_to_cells(np.array([1.5, 5.5, 22.5]), 4), [0, 1, 5.25])
    pixels = np.arange(64)
    np.testing.assert_array_equal(np.floor(pixels_to_cells(pixels, 4) + 0.5), pixels // 4)  # the released loaders' rule


def test_encode_by_hand():
    # pixel (13, 6) is in cell (3, 1); one cell away exp(-1 / (2 * 2 ** 2)), diagonally exp(-2 / 8)
    maps = encode(np.array([[13.0, 6.0]], np.float32), SIZE, centre='cell')
    assert maps.shape == (*SIZE, 1)
    assert maps.dtype == np.float32
    assert maps[1, 3, 0] == 1
    assert maps[1, 4, 0] == maps[0, 3, 0] == np.float32(np.exp(-1 / 8))
    assert maps[2, 4, 0] == pytest.approx(np.exp(-2 / 8))
    assert maps[1, 9, 0] == pytest.approx(np.exp(-36 / 8))  # 0.0111, above the floor
    assert maps[1, 10, 0] == 0  # exp(-49 / 8) = 0.0022, below it


def test_encode_subpixel_keeps_the_fraction():
    # pixel 13 is at 13.5 / 4 - 0.5 = 2.875 cells, pixel 6 at 1.125
    maps = encode(np.array([[13.0, 6.0]], np.float32), SIZE, centre='subpixel')
    assert maps[1, 3, 0] == pytest.approx(np.exp(-(0.125**2 + 0.125**2) / 8))


@pytest.mark.parametrize('joint', [(-1, 5), (5, -1), (23 * 4, 5), (5, 19 * 4), (-300, -300)])
def test_a_joint_outside_has_an_empty_map(joint):
    assert encode(np.array([joint], np.float32), SIZE).sum() == 0


@pytest.mark.parametrize(('joint', 'cell'), [((0, 0), (0, 0)), ((91, 75), (18, 22))])
def test_the_outermost_pixels_are_inside(joint, cell):
    assert encode(np.array([joint], np.float32), SIZE, centre='cell')[(*cell, 0)] == 1


def test_decode_methods_by_hand():
    maps = np.zeros((*SIZE, 1), np.float32)
    maps[7, 11], maps[7, 12], maps[6, 11] = 0.75, 0.5, 0.25  # best at (11, 7), higher to the right and above
    for method, expected in [('argmax', (11, 7)), ('quarter', (11.25, 6.75))]:
        position, score = decode(maps, method)
        np.testing.assert_array_equal(position, [expected])
        np.testing.assert_array_equal(score, [0.75])


def test_quarter_leaves_the_border_alone():
    maps = np.zeros((*SIZE, 1), np.float32)
    maps[0, 0], maps[0, 1] = 1, 0.5
    np.testing.assert_array_equal(decode(maps, 'quarter')[0], [[0, 0]])


def test_unknown_method():
    with pytest.raises(ValueError, match="choose 'argmax', 'quarter' or 'dark'"):
        decode(np.zeros((*SIZE, 1), np.float32), 'mean')


def round_trip_error(method: str, target: str) -> np.ndarray:
    """Distances [N], pixels, of joints well within the crop."""
    joints = np.random.default_rng(0).uniform((30, 30), (57, 41), (200, 1, 2)).astype(np.float32)
    maps = encode(joints, SIZE, centre=target)
    return np.linalg.norm(cells_to_pixels(decode(maps, method)[0], 4) - joints, axis=-1)


def test_round_trip():
    assert round_trip_error('argmax', 'cell').max() <= np.sqrt(8) + 1e-3  # half a cell in x and in y
    assert round_trip_error('dark', 'subpixel').max() < 0.1
    assert round_trip_error('quarter', 'subpixel').mean() < 0.75 * round_trip_error('argmax', 'subpixel').mean()


@pytest.mark.parametrize('method', ['argmax', 'quarter', 'dark'])
def test_numpy_and_jax_agree(method):
    joints = np.random.default_rng(1).uniform(-5, 90, (2, 3, 5, 2)).astype(np.float32)
    maps = encode(joints, SIZE, centre='subpixel')
    np.testing.assert_allclose(encode(jnp.asarray(joints), SIZE, centre='subpixel', xp=jnp), maps, atol=1e-6)
    for ours, theirs in zip(decode(maps, method), decode(jnp.asarray(maps), method, jnp), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize('method', ['argmax', 'quarter', 'dark'])
@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
def test_a_map_that_is_not_finite_has_no_joint(method, value, xp):
    """Before, NaN was a joint at the cell of the first NaN, or at (0, 0), with the confidence of a miss."""
    maps = encode(np.array([[20.0, 30.0], [40.0, 50.0]], np.float32), SIZE)
    maps[0, 5, 0] = value
    position, score = decode(xp.asarray(maps), method, xp)
    np.testing.assert_array_equal(np.isnan(position), [[True, True], [False, False]])
    np.testing.assert_array_equal(np.isnan(score), [True, False])
    np.testing.assert_array_equal(position[1], decode(maps[..., 1:], method)[0][0])


@pytest.mark.parametrize(('width', 'sigma'), [(2, 2), (3, 3), (3, 2)])  # of the peaks, of the decoding
@pytest.mark.parametrize('side', ['left', 'right', 'top', 'bottom'])
def test_dark_near_the_border(width, sigma, side):
    """Blurred across the border, the map of a joint in cell 2 gave 0.73 cells of error at sigma 3, and argmax 0.25."""
    size, away = 33, np.linspace(1.51, 2.49, 40)
    away = size - 1 - away if side in ('right', 'bottom') else away
    cells = np.stack([away, np.linspace(14, 18, 40)], -1)[:, None]
    cells = cells[..., ::-1] if side in ('top', 'bottom') else cells
    maps = encode(cells_to_pixels(cells, 4), (size, size), sigma=width)
    error = {
        method: np.linalg.norm(decode(maps, method, sigma=sigma)[0] - cells, axis=-1).mean() for method in ('argmax', 'dark')
    }
    assert error['dark'] < 0.01 < error['argmax']
