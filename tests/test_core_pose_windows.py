"""Windows of pose sequences: every frame in one, padding, normalisation and back."""

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.pose_windows import (
    WindowConfig,
    causal_spans,
    combine,
    extent,
    fill_gaps,
    in_batches,
    reference_frame,
    refine,
    refine_causally,
    window_starts,
)

SIZE = (37, 53)


def sequence(frames: int, joints: int = 3, dims: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(frames)
    poses = rng.uniform(5, 30, (frames, joints, dims)).astype(np.float32)
    low = rng.uniform(0, 5, (frames, dims))
    return poses, np.concatenate([low, low + rng.uniform(20, 40, (frames, dims))], -1).astype(np.float32)


def identity(poses: np.ndarray, mask: np.ndarray) -> np.ndarray:
    assert poses.shape[:2] == mask.shape
    assert not poses[~mask].any()
    return poses


@pytest.mark.parametrize(
    ('frames', 'step', 'starts'),
    [(1, 1, [0]), (5, 1, [0]), (7, 1, [0, 1, 2]), (11, 3, [0, 3, 6]), (12, 3, [0, 3, 6, 7]), (13, 5, [0, 5, 8])],
)
def test_window_starts_reach_the_last_frame(frames, step, starts):
    assert window_starts(frames, 5, step) == starts


@pytest.mark.parametrize('normalise', ['box', 'image'])
@pytest.mark.parametrize('frames', [1, 2, 5, 13])
@pytest.mark.parametrize('step', [1, 3, 5])
def test_what_is_left_alone_comes_back(normalise, frames, step):
    poses, boxes = sequence(frames)
    refined = refine(identity, poses, boxes, SIZE, WindowConfig(5, step, normalise))
    np.testing.assert_allclose(refined, poses, rtol=1e-5)


def test_overlaps_are_combined():
    def position(poses: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.tile(np.arange(3.0)[:, None], (len(poses), 1, poses.shape[-1]))  # each frame: its place in the window

    poses, _ = sequence(4)
    boxes = np.tile(np.array([-0.5, -0.5, 0.5, 0.5]), (4, 1))  # normalised coordinates are pixels
    refined = refine(position, poses, boxes, SIZE, WindowConfig(3))
    # windows 0-2 and 1-3, of weights 1/2, 1, 1/2: 0 | 1 (upper two thirds) and 0 | 2 (upper third) and 1 | 2
    np.testing.assert_allclose(refined[:, 0, 0], [0, 5 / 6, 7 / 6, 2], rtol=1e-6)


def test_a_window_that_is_far_off_is_left_out():
    poses = {place: np.full((3, 2), 7.0) for place in range(5)}  # of weights 1/9, 2/9, 3/9, 2/9, 1/9
    poses[0], poses[4] = np.full((3, 2), 1e4), np.full((3, 2), -1e4)
    assert combine(poses, 5).tolist() == [[7.0, 7.0]] * 3
    poses[1] = np.full((3, 2), 16.0)  # from the low end: 6/9 of the weight at 7 or below, 16 up to 8/9: 3/4 - 6/9 counts
    np.testing.assert_allclose(combine(poses, 5), np.full((3, 2), 7 + 9 * (0.75 - 6 / 9) / 0.5), rtol=1e-6)


def test_reference_frames():
    boxes = np.array([[0, 0, 10, 20], [2, 4, 12, 24]], np.float32)  # mean box 1, 2, 11, 22
    origin, unit = reference_frame(boxes, SIZE, 'box')
    assert (origin.tolist(), unit.tolist()) == ([6, 12], [20, 20])
    origin, unit = reference_frame(boxes, SIZE, 'image')
    assert (origin.tolist(), unit.tolist()) == ([0, 0], [53, 37])


def test_gaps_are_filled_by_lines():
    poses = np.full((5, 3, 2), np.nan, np.float32)
    poses[0, 0], poses[4, 0] = (0, 8), (4, 0)
    poses[1:3, 1] = [[5, 5], [7, 9]]
    filled = fill_gaps(poses)
    assert filled[:, 0].tolist() == [[0, 8], [1, 6], [2, 4], [3, 2], [4, 0]]
    assert filled[:, 1].tolist() == [[5, 5], [5, 5], [7, 9], [7, 9], [7, 9]]
    np.testing.assert_allclose(filled[:, 2], filled[:, :2].mean(1))  # nowhere: where the others are
    assert np.isnan(poses[1, 0]).all()  # the argument stays
    assert not fill_gaps(np.full((2, 3, 2), np.nan)).any()


def test_extent():
    poses = np.array([[[1, 5, 2], [3, 0, 9]], [[np.nan] * 3] * 2, [[0, 0, 0], [np.nan, 1, 1]]], np.float32)
    assert extent(poses).tolist() == [[1, 0, 2, 3, 5, 9], [0, 0, 0, 3, 5, 9], [0] * 6]
    assert np.isfinite(extent(np.full((2, 3, 2), np.nan))).all()


def test_causal_spans():
    assert causal_spans(0, 20, 5, 2) == [(0, 3)]  # nothing whole yet
    assert causal_spans(2, 20, 5, 2) == [(0, 5)]
    assert causal_spans(3, 20, 5, 2) == [(0, 5), (1, 6)]
    assert causal_spans(9, 20, 5, 2) == [(5, 10), (6, 11), (7, 12)]
    assert causal_spans(19, 20, 5, 2) == [(15, 20)]
    assert causal_spans(9, 20, 5, 0) == [(5, 10)]
    assert causal_spans(9, 20, 5, 9) == [(i, i + 5) for i in range(5, 10)]  # frame 9 is in no later one
    assert causal_spans(2, 3, 5, 2) == [(0, 3)]


@pytest.mark.parametrize('look_ahead', [0, 2, 7])
def test_a_causal_frame_knows_no_later_one(look_ahead):
    poses, boxes = sequence(12)

    def mean(poses: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.broadcast_to((poses * mask[..., None]).sum(1, keepdims=True) / mask.sum(1)[:, None, None], poses.shape)

    config = WindowConfig(5)
    before = refine_causally(mean, poses, boxes, SIZE, config, look_ahead)
    changed = poses.copy()
    changed[9:] += 100
    after = refine_causally(mean, changed, boxes, SIZE, config, look_ahead)
    moved = np.flatnonzero((before != after).any((1, 2)))
    assert moved.min() == max(9 - look_ahead, 5)  # frame 9 is in the windows of frames 5 and later only


def test_batches_of_one_size():
    sizes = []

    def double(poses: np.ndarray, mask: np.ndarray) -> np.ndarray:
        sizes.append(len(poses))
        return 2 * poses

    poses = np.random.default_rng(0).random((7, 5, 4))
    np.testing.assert_array_equal(in_batches(double, 3)(poses, np.ones((7, 5), bool)), 2 * poses)
    assert sizes == [3, 3, 3]


@pytest.mark.parametrize(
    ('fields', 'name'), [({'step': 0}, 'eval.step'), ({'step': 6}, 'eval.step'), ({'normalise': 'no'}, 'normalise')]
)
def test_bad_settings(fields, name):
    with pytest.raises(InputError, match=name):
        WindowConfig(5, **fields)
