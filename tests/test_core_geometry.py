import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimnet_jax.core.geometry import apply_affine, box_of_points, crop_matrix, inside, invert_affine, square_of_box


def test_box_of_points_takes_the_visible_ones():
    points = [[[1, 2], [7, 3], [100, 100]], [[5, 5], [6, 6], [7, 7]]]
    box = box_of_points(points, [[True, True, False], [False, False, False]])
    assert box.dtype == np.float32
    np.testing.assert_array_equal(box, [[1, 2, 7, 3], [np.nan] * 4])


def test_square_of_box_has_the_longer_side():
    centre, side = square_of_box([[10, 20, 30, 60], [0, 0, 0, 0]], 1.25)
    np.testing.assert_array_equal(centre, [[20, 40], [0, 0]])
    np.testing.assert_array_equal(side, [50, 1.25])  # 40 * 1.25; an empty box counts as one pixel


def test_crop_matrix_without_rotation():
    # 50 pixels of the image fill 100 of the crop: twice as large; (20, 40) lands in the middle, 49.5
    matrix = crop_matrix([20, 40], 50, 100)
    np.testing.assert_allclose(matrix, [[2, 0, 9.5], [0, 2, -30.5]])
    # the square spans 20 +- 25 between pixel edges, so its left edge -5 is the crop's edge -0.5
    np.testing.assert_allclose(apply_affine(matrix, [[-5, 15], [45, 65]]), [[-0.5, -0.5], [99.5, 99.5]])


def test_rotation_turns_the_picture_counter_clockwise():
    matrix = crop_matrix([0, 0], 100, 100, rotation=90)
    # what was right of the centre is above it: y points down
    np.testing.assert_allclose(apply_affine(matrix, [[10, 0]]), [[49.5, 39.5]], atol=1e-5)


def test_flip_mirrors_after_the_rotation():
    np.testing.assert_allclose(apply_affine(crop_matrix([0, 0], 9, 9, flip=True), [[3, 1]]), [[1, 5]])
    turned = crop_matrix([0, 0], 9, 9, rotation=90, flip=True)
    np.testing.assert_allclose(apply_affine(turned, [[3, 1]]), [[3, 1]], atol=1e-6)  # (3, 1) -> (1, -3) -> (-1, -3)


@given(
    centre=st.tuples(st.floats(-50, 700), st.floats(-50, 500)),
    side=st.floats(8, 900),
    rotation=st.floats(-180, 180),
    flip=st.booleans(),
    size=st.sampled_from([64, 128, 255, 256]),
)
def test_round_trip(centre, side, rotation, flip, size):
    matrix = crop_matrix(np.array(centre), np.array(side), size, rotation=rotation, flip=flip)
    points = np.array([[0, 0], [639, 479], [13.25, 377.5]], np.float32)
    back = apply_affine(invert_affine(matrix), apply_affine(matrix, points))
    assert np.abs(back - points).max() < 0.01  # pixels


def test_many_matrices_at_once():
    centres, sides = np.array([[3, 4], [50, 60], [7, 11]]), np.array([10, 20, 30])
    matrices = crop_matrix(centres, sides, 32)
    assert matrices.shape == (3, 2, 3)
    for i in range(3):
        np.testing.assert_array_equal(matrices[i], crop_matrix(centres[i], sides[i], 32))
    np.testing.assert_allclose(apply_affine(matrices, centres[:, None]), np.full((3, 1, 2), 15.5), rtol=1e-6)


@pytest.mark.parametrize(
    ('point', 'expected'),
    [((-0.5, -0.5), True), ((4.49, 2.49), True), ((4.5, 0), False), ((0, 2.5), False), ((-0.51, 0), False)],
)
def test_inside_reaches_to_the_pixels_edges(point, expected):
    assert inside(point, (3, 5)) == expected
