import itertools
import weakref

import numpy as np
import pytest
from dots import draw, filmed, person

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.video import read_frames
from kimnet_jax.inference.people import OnePerson
from kimnet_jax.inference.predictor import PosePredictor, predict_poses

BOX = np.array([[20, 30, 60, 90]], np.float32)
WALK = [(40 + 3 * t, 60 + t / 2) for t in range(20)]


@pytest.mark.parametrize('size', [(121, 161), (240, 320), (97, 300)])
def test_joints_come_back_in_original_pixels(predictor, size):
    frame = draw((70, 50), size)
    for box in ([50, 22, 90, 78], [20, 10, 160, 90], [-30, 0, 110, 96]):
        joints, scores = predictor(frame, box, restart=True)
        np.testing.assert_allclose(joints, person((70, 50)), atol=0.6)
        assert (scores > 0.8).all()


def test_joints_do_not_drift_with_the_crop(predictor):
    """The mean over many crops of one frame is right to a fraction of a pixel: no half-pixel slip in the chain."""
    frame = draw((70, 50))
    offsets = itertools.product(range(-6, 7, 3), range(-6, 7, 3), (0, 7))
    found = [predictor(frame, [40 + x, 20 + y, 100 + x + s, 80 + y + s], restart=True)[0] for x, y, s in offsets]
    np.testing.assert_allclose(np.mean(found, 0), person((70, 50)), atol=0.1)


@pytest.mark.parametrize('name', ['walk.mp4', 'walk'])
def test_box_follows_the_person(predictor, write_video, name):
    path = write_video(name, [draw(place) for place in WALK])
    for frame, (pose,) in predict_poses(predictor, read_frames(path), OnePerson(BOX)):
        np.testing.assert_allclose(pose.joints, person(WALK[pose.frame]), atol=1.0)
        assert frame.image.shape == (121, 161, 3)
        assert not pose.lost
    assert pose.frame == 19
    np.testing.assert_allclose((pose.box[:2] + pose.box[2:]) / 2, WALK[18], atol=1.5)  # from the pose before
    assert (pose.box[2:] - pose.box[:2]).max() < 60


def test_the_recursion_goes_on_and_compiles_once(predictor):
    compiled = [predictor._first._cache_size(), predictor._following._cache_size()]
    for _ in range(2):  # two videos
        for _ in predict_poses(predictor, filmed(map(draw, WALK)), OnePerson(BOX)):
            pass
        assert predictor.state[0] == 19
    assert predictor._first._cache_size() <= compiled[0] + 1
    assert predictor._following._cache_size() <= compiled[1] + 1


def test_whole_first_frame_then_the_person(predictor):
    poses = [pose for _, (pose,) in predict_poses(predictor, filmed(map(draw, WALK)), OnePerson())]
    np.testing.assert_array_equal(poses[0].box, [0, 0, 160, 120])
    assert (poses[1].box[2:] - poses[1].box[:2]).max() < 60
    assert predictor.state[0] == 18  # it began anew in the second frame, in another view
    np.testing.assert_allclose([pose.joints for pose in poses], [person(place) for place in WALK], atol=1.2)


def test_person_is_lost_and_found_elsewhere(predictor):
    places = [(40, 60)] * 5 + [None] * 8 + [(120, 80)] * 5
    poses = [pose for _, (pose,) in predict_poses(predictor, filmed(map(draw, places)), OnePerson(BOX))]
    assert [pose.lost for pose in poses] == [False] * 8 + [True] * 6 + [False] * 4  # three frames of patience
    assert [round(pose.score) for pose in poses] == [1] * 5 + [0] * 8 + [1] * 5
    for pose in poses[13:]:
        np.testing.assert_allclose(pose.joints, person((120, 80)), atol=1.2)
    assert predictor.state[0] == 3  # anew at the sixth frame of the search, then in the person's box


def test_given_boxes_are_used_as_they_are(predictor):
    boxes = np.array([[x - 30, y - 30, x + 30, y + 30] for x, y in WALK], np.float32)
    for _, (pose,) in predict_poses(predictor, filmed(map(draw, WALK)), OnePerson(boxes)):
        np.testing.assert_array_equal(pose.box, boxes[pose.frame])
        np.testing.assert_allclose(pose.joints, person(WALK[pose.frame]), atol=1.0)


@pytest.mark.parametrize('count', [19, 22])
def test_as_many_boxes_as_frames(predictor, count):
    boxes = np.tile(np.array([[20, 30, 60, 90]], np.float32), (count, 1))
    with pytest.raises(InputError, match=f'b.json: {count} boxes, and the video has 20 frames'):
        list(predict_poses(predictor, filmed(map(draw, WALK)), OnePerson(boxes, 'b.json')))


def test_box_outside_the_image(predictor):
    with pytest.raises(InputError, match=r'--box: box 0 .* outside the 161x121 image'):
        next(predict_poses(predictor, filmed([draw(None)]), OnePerson(np.array([[200, 30, 260, 90]], np.float32), '--box')))


def test_heatmaps_that_are_not_finite():
    def heatmaps(weights, frames):
        return np.nan * frames[:, ::4, ::4], ()

    predictor = PosePredictor((), heatmaps, lambda w, s, f: heatmaps(w, f), size=32, stride=4, box_scale=1.0, decoding='argmax')
    with pytest.raises(InputError, match=r'frame 0: .* not finite'):
        next(predict_poses(predictor, filmed([draw(None)]), OnePerson()))


def test_one_frame_is_held_at_a_time(predictor):
    alive: list[weakref.ref] = []

    def frames():
        for _ in range(30):
            frame = draw((60, 60))
            alive.append(weakref.ref(frame))
            yield frame

    for _ in predict_poses(predictor, filmed(frames()), OnePerson()):
        assert sum(ref() is not None for ref in alive) <= 2
    assert len(alive) == 30
