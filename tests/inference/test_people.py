"""Several people in a video: in given tracks, side by side on the device, with gaps, and between frames that are left out."""

import itertools

import numpy as np
import pytest
from dots import draw, filmed, person

from kimnet_jax.core.errors import InputError
from kimnet_jax.inference.people import Look, OnePerson, TrackedPeople
from kimnet_jax.inference.predictor import padded, predict_poses

pytestmark = pytest.mark.quick_compilation

PLACES = [(40, 60), (160, 70), (280, 60), (400, 80), (520, 60)]
SIZE = (121, 600)


def box_of(place) -> np.ndarray:
    x, y = place
    return np.array([x - 20, y - 28, x + 20, y + 28], np.float32)


def scene(places) -> np.ndarray:
    """A frame with several people."""
    frame = draw(None, SIZE)
    for place in places:
        image = draw(place, SIZE)
        frame = np.where(image != draw(None, SIZE), image, frame)
    return frame


def test_people_are_padded_to_a_few_numbers():
    assert [padded(n) for n in range(1, 18)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 24]


def test_people_side_by_side_are_found_as_one_by_one(predictor):
    frame = scene(PLACES)
    looks = [Look(i, box_of(place), True) for i, place in enumerate(PLACES)]
    together = predictor.people(frame, looks)
    for place, look, (joints, scores) in zip(PLACES, looks, together, strict=True):
        np.testing.assert_allclose(joints, person(place), atol=0.6)
        alone = predictor(frame, look.box, restart=True)
        np.testing.assert_allclose(joints, alone[0], atol=1e-3)
        np.testing.assert_allclose(scores, alone[1], atol=1e-5)


def test_each_recursion_goes_on_for_itself(predictor):
    """The state counts the frames since its beginning; people come, go, change places and begin anew."""
    frame = scene(PLACES)
    steps = [  # the numbers of those in the frame, who of them begin anew -> the state of each afterwards
        ([0, 1, 2], [0, 1, 2], {0: 0, 1: 0, 2: 0}),
        ([0, 1, 2], [], {0: 1, 1: 1, 2: 1}),
        ([2, 0, 3], [], {0: 2, 2: 2, 3: 0}),
        ([3, 2, 1, 0, 4], [2], {0: 3, 1: 0, 2: 0, 3: 1, 4: 0}),
        ([1], [], {1: 1}),
        ([], [], {}),
        ([1, 0], [], {0: 0, 1: 0}),
    ]
    for people, anew, expected in steps:
        found = predictor.people(frame, [Look(i, box_of(PLACES[i]), i in anew) for i in people])
        for i, (joints, _) in zip(people, found, strict=True):
            np.testing.assert_allclose(joints, person(PLACES[i]), atol=0.6)
        rows = [] if predictor.state is None else predictor.state.tolist()
        states = dict(zip(predictor._people, rows, strict=False))  # what fills up comes after them
        assert states == expected


def test_tracks_with_gaps(predictor):
    tracks = {t: {7: box_of(PLACES[0]), 9: box_of(PLACES[2])} for t in range(6)}
    del tracks[2][9]
    tracks[4] = {}
    found = list(predict_poses(predictor, filmed([scene(PLACES[:3])] * 6), TrackedPeople(tracks, 't.txt')))
    assert [[pose.id for pose in poses] for _, poses in found] == [[7, 9], [7, 9], [7], [7, 9], [], [7, 9]]
    for _, poses in found:
        for pose in poses:
            np.testing.assert_allclose(pose.joints, person(PLACES[{7: 0, 9: 2}[pose.id]]), atol=0.6)
            assert pose.time == pose.frame / 25
    assert predictor.state.tolist() == [0, 0]  # both were away in frame 4


def test_a_track_that_jumps_begins_anew(predictor):
    tracks = {t: {1: box_of(PLACES[0 if t < 3 else 2])} for t in range(5)}
    list(predict_poses(predictor, filmed([scene(PLACES[:3])] * 5), TrackedPeople(tracks, 't.txt')))
    assert predictor.state.tolist() == [1]


def test_lost_is_judged_in_given_boxes(predictor):
    images = [draw((60, 60))] * 2 + [draw(None)] * 5 + [draw((60, 60))] * 2
    boxes = np.tile([[30, 30, 90, 90]], (9, 1)).astype(np.float32)
    for people in (OnePerson(boxes), TrackedPeople({t: {1: boxes[t]} for t in range(9)}, 't.txt')):
        poses = [pose for _, (pose,) in predict_poses(predictor, filmed(images), people)]
        assert [pose.lost for pose in poses] == [False] * 5 + [True] * 3 + [False]  # after three unsure poses
        assert all((pose.box == boxes[0]).all() for pose in poses)


@pytest.mark.parametrize(
    ('tracks', 'message'),
    [
        ({0: {1: [10, 10, 60, 90]}, 3: {1: [10, 10, 60, 90]}}, 't.txt: has boxes of frame 3 .* has 3 frames; give the tracks'),
        ({1: {1: [10, 10, 60, 90]}, 3: {1: [10, 10, 60, 90]}}, 't.txt: has boxes of frame 3 .*; count frames from 0'),
        ({0: {5: [700, 10, 760, 90]}}, 't.txt: frame 0, id 5: .*outside the 600x121 image'),
    ],
)
def test_tracks_that_do_not_fit_the_video(predictor, tracks, message):
    boxes = {frame: {i: np.array(box, np.float32) for i, box in people.items()} for frame, people in tracks.items()}
    with pytest.raises(InputError, match=message):
        list(predict_poses(predictor, filmed([scene(PLACES)] * 3), TrackedPeople(boxes, 't.txt')))


@pytest.mark.parametrize('count', [1, 4, 10, 12])
def test_every_third_frame_is_seen_and_the_others_lie_between(predictor, count):
    walk = [(40 + 4 * t, 60) for t in range(count)]
    images = [draw(place, SIZE) for place in walk]
    calls = []

    class Counting:
        def people(self, frame, looks):
            calls.append(len(looks))
            return predictor.people(frame, looks)

    found = list(predict_poses(Counting(), filmed(images), OnePerson(box_of(walk[0])[None]), every=3))
    assert len(calls) == 1 + -(-(count - 1) // 3)  # the last one too
    assert [pose.interpolated for _, (pose,) in found] == [t % 3 > 0 and t != count - 1 for t in range(count)]
    for t, (frame, (pose,)) in enumerate(found):
        assert frame.image is images[t]
        assert (pose.frame, pose.time) == (t, t / 25)
        np.testing.assert_allclose(pose.joints, person(walk[t]), atol=1.0)


def test_between_two_frames_only_those_are_who_are_in_both(predictor):
    tracks = {t: {1: box_of(PLACES[0])} | ({2: box_of(PLACES[1])} if t < 4 else {}) for t in range(7)}
    found = predict_poses(predictor, filmed([scene(PLACES[:2])] * 7), TrackedPeople(tracks, 't.txt'), every=3)
    assert [[pose.id for pose in poses] for _, poses in found] == [[1, 2]] * 4 + [[1]] * 3


def test_it_compiles_a_few_times_only(predictor):
    frame = scene(PLACES)
    before = predictor._first._cache_size() + predictor._following._cache_size()
    for _, n in itertools.product(range(2), (1, 2, 3, 4, 5, 3, 4, 5)):
        predictor.people(frame, [Look(i, box_of(PLACES[i]), False) for i in range(n)])
    assert predictor._first._cache_size() + predictor._following._cache_size() - before <= 10  # 1, 2, 3, 4, 6
