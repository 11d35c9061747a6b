"""Other clips in the place of one's own."""

import numpy as np
import pytest
from memory_clips import make_clips

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.data_pipelines.other_clips import OtherClips


def frames_of(source, clip: int) -> list[tuple[int, int]]:
    """(clip, frame) of each, as its colour says."""
    return [tuple(int(n) for n in decode_image(frame, 'a frame')[0, 0, :2]) for frame in source[clip]['frames']]


def test_another_clip_that_is_long_enough():
    clips = make_clips([3, 5, 4, 5, 2, 3])
    others = OtherClips(clips, seed=0)
    assert (list(others.lengths), len(others), others.short) == (clips.lengths, 6, 0)
    for clip, other in enumerate(others.others):
        assert other != clip
        assert clips.lengths[other] >= clips.lengths[clip]
        assert frames_of(others, clip) == [(other, t) for t in range(clips.lengths[clip])]
        np.testing.assert_array_equal(others[clip]['joints'], clips[other]['joints'][: clips.lengths[clip]])
        assert len(others[clip]['boxes']) == len(others[clip]['visible']) == clips.lengths[clip]


def test_the_seed_decides():
    clips = make_clips([2] * 9)
    assert OtherClips(clips, seed=3).others == OtherClips(clips, seed=3).others != OtherClips(clips, seed=4).others


def test_the_longest_clip_gets_one_that_runs_back_and_forth():
    others = OtherClips(make_clips([1, 8, 3]), seed=0)
    assert (others.others[1], others.short) == (2, 1)
    assert frames_of(others, 1) == [(2, t) for t in (0, 1, 2, 1, 0, 1, 2, 1)]
    still = OtherClips(make_clips([1, 3]), seed=0)
    assert frames_of(still, 1) == [(0, 0)] * 3


def test_one_clip_has_no_other():
    with pytest.raises(InputError, match="'test' has a single clip"):
        OtherClips(make_clips([4]), seed=0)
