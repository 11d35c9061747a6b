import numpy as np
import pytest

from kimnet_jax.data_pipelines.clips import Window, consecutive_windows, fill_slots, random_window


def test_random_windows_reach_every_start_and_none_beyond_the_clip():
    rng = np.random.default_rng(0)
    windows = [random_window(3, 7, 5, rng) for _ in range(100)]
    assert {w.first for w in windows} == {0, 1, 2}
    assert {(w.clip, w.count) for w in windows} == {(3, 5)}


@pytest.mark.parametrize('length', [1, 4, 5])
def test_a_clip_no_longer_than_the_window_is_taken_whole(length):
    assert random_window(2, length, 5, np.random.default_rng(0)) == Window(2, 0, length)


def test_consecutive_windows_without_chains_start_once():
    assert consecutive_windows(4, 7, 3, None) == [Window(4, 0, 3, True), Window(4, 3, 3, False), Window(4, 6, 1, False)]


def test_consecutive_windows_do_not_cross_a_chain():
    # Chains of 5 in 12 frames: 0-4, 5-9, 10-11; segments of 3 within each.
    assert consecutive_windows(0, 12, 3, 5) == [
        Window(0, 0, 3, True),
        Window(0, 3, 2, False),
        Window(0, 5, 3, True),
        Window(0, 8, 2, False),
        Window(0, 10, 2, True),
    ]


def test_consecutive_windows_longer_than_the_chain():
    assert consecutive_windows(0, 5, 8, 2) == [Window(0, 0, 2), Window(0, 2, 2), Window(0, 4, 1)]


def test_slots_are_balanced_longest_clip_first():
    clips = [consecutive_windows(i, length, 1, None) for i, length in enumerate([2, 5, 3, 4])]
    # 5 -> slot 0, 4 -> slot 1, 3 -> slot 1 (7), 2 -> slot 0 (7).
    first, second = fill_slots(clips, 2)
    assert [w.clip for w in first] == [1] * 5 + [0] * 2
    assert [w.clip for w in second] == [3] * 4 + [2] * 3


def test_more_slots_than_clips_leaves_slots_empty():
    assert [len(slot) for slot in fill_slots([consecutive_windows(0, 3, 2, None)], 3)] == [2, 0, 0]
