import numpy as np
from dots import draw, person

from kimnet_jax.core.video import stated_frame_count
from kimnet_jax.inference.people import FramePose
from kimnet_jax.inference.video import draw_poses


def pose(**changes) -> FramePose:
    fields = {
        'frame': 0,
        'joints': person((80, 60)),
        'scores': np.full(4, 0.9),
        'box': np.array([50, 20, 110, 100]),
        'lost': False,
    }
    return FramePose(**(fields | changes))


def test_pose_is_drawn_where_it_is(skeleton):
    frame = draw(None)
    drawn = draw_poses(frame, [pose()], skeleton, 0.1)
    assert (frame == 100).all()
    left, right = (255, 128, 0), (64, 190, 255)
    np.testing.assert_array_equal(drawn[60, 68], left)
    np.testing.assert_array_equal(drawn[60, 92], right)
    np.testing.assert_allclose(drawn[50, 74], left, atol=16)  # half-way along the limb from head to left hand
    np.testing.assert_allclose(drawn[50, 86], right, atol=16)
    assert (drawn[110:] == 100).all()


def test_of_several_people_each_has_a_box_of_their_colour(skeleton):
    two = [pose(id=3, box=np.array([20, 20, 60, 100])), pose(id=4, box=np.array([100, 20, 140, 100]))]
    drawn = draw_poses(draw(None), two, skeleton, 0.1)
    edges = drawn[60, 20].astype(int), drawn[60, 100].astype(int)
    assert np.ptp(edges[0]) > 50  # not grey
    assert np.abs(edges[0] - edges[1]).max() > 50
    again = draw_poses(draw(None), two[::-1], skeleton, 0.1)
    np.testing.assert_array_equal(again[60, 20], drawn[60, 20])  # by number, not by place


def test_unsure_joints_are_not_drawn(skeleton):
    drawn = draw_poses(draw(None), [pose(scores=np.array([0.9, 0.05, 0.9, 0.9]))], skeleton, 0.1)
    np.testing.assert_array_equal(drawn[55:65, 60:72], 100)
    assert tuple(drawn[60, 92]) == (64, 190, 255)


def test_wild_coordinates_do_no_harm(skeleton):
    wild = pose(joints=np.full((4, 2), 1e12), box=np.array([-1e12, -1e12, 1e12, 1e12]))
    drawn = draw_poses(draw(None), [wild], skeleton, 0.1)
    assert drawn.shape == (121, 161, 3)


def test_stated_frame_count(write_video, tmp_path):
    frames = [draw((60, 60))] * 3
    assert stated_frame_count(write_video('a.mp4', frames)) == 3
    assert stated_frame_count(write_video('folder', frames)) == 3
    (tmp_path / 'no.mp4').write_bytes(b'no video')
    assert stated_frame_count(tmp_path / 'no.mp4') is None
    assert stated_frame_count(tmp_path / 'missing.mp4') is None
