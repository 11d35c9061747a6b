import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.inference.tracking import Tracker, check_boxes, overlap, parse_box, read_boxes

SIZE = (480, 640)
POSE = np.array([[100, 100], [200, 100], [150, 200], [150, 300]], np.float32)  # 100 wide, 200 high
SURE, UNSURE = np.full(4, 0.9), np.full(4, 0.05)


def started() -> Tracker:
    tracker = Tracker([0, 0, 639, 479], SIZE)
    tracker.update(POSE, SURE)
    return tracker


def test_first_box_is_the_pose_with_a_margin_of_its_longer_side():
    tracker = Tracker([0, 0, 639, 479], SIZE)
    assert tracker.restart
    tracker.update(POSE, SURE)
    np.testing.assert_allclose(tracker.box, [80, 80, 220, 320])  # 0.1 of 200 at every edge
    assert tracker.restart  # from the whole image to the person: a new view
    assert not tracker.lost


def test_size_is_smoothed_and_the_middle_is_not():
    tracker = started()
    tracker.update(POSE + np.array([10, 0]), SURE)  # that was the first frame of the new view
    tracker.update((POSE - 200) * 2 + 400, SURE)  # twice the size: joints 200..400 by 200..600
    # 280 x 480 with margins; halfway from 140 x 240: 210 x 360, around (300, 400), cut at the last row
    np.testing.assert_allclose(tracker.box, [195, 220, 405, 479])


def test_same_view_goes_on():
    tracker = started()
    tracker.update(POSE + 5, SURE)
    assert not tracker.restart
    np.testing.assert_allclose(tracker.box, [85, 85, 225, 325])


def test_unsure_joints_do_not_shape_the_box():
    tracker = Tracker([0, 0, 639, 479], SIZE)
    tracker.update(np.concatenate([POSE, [[600, 10]]]), np.array([0.9, 0.9, 0.9, 0.9, 0.01]))
    np.testing.assert_allclose(tracker.box, [80, 80, 220, 320])


@pytest.mark.parametrize('scores', [np.full(4, 0.15), np.array([1.0, 0.05, 0.05, 0.05])])  # a low mean; a quarter of the joints
def test_lost_after_patience_then_searches_wider_up_to_the_whole_image(scores):
    tracker = started()
    for _ in range(2):
        tracker.update(POSE + 100, scores)
        np.testing.assert_allclose(tracker.box, [80, 80, 220, 320])
        assert not tracker.lost
    tracker.update(POSE, scores)
    assert tracker.lost
    assert tracker.restart
    np.testing.assert_allclose(tracker.box, [0, 0, 390, 440])  # a square of 240 * 2 around (150, 200), cut at row and column 0
    areas = [390 * 440]
    for _ in range(3):
        tracker.update(POSE, scores)
        areas.append(np.prod(tracker.box[2:] - tracker.box[:2]))
        assert tracker.restart
    assert areas[1] > areas[0]
    assert (np.diff(areas) >= 0).all()
    np.testing.assert_allclose(tracker.box, [0, 0, 639, 479])


def test_found_again():
    tracker = started()
    for _ in range(8):
        tracker.update(POSE, UNSURE)
    tracker.update(POSE + np.array([300, 50]), SURE)
    assert not tracker.lost
    assert tracker.restart  # the view jumps from the whole image to the person
    np.testing.assert_allclose(tracker.box, [380, 130, 520, 370])
    tracker.update(POSE + np.array([300, 50]), SURE)
    assert not tracker.restart


def test_pose_outside_the_image_is_unsure():
    tracker = started()
    for _ in range(3):
        tracker.update(POSE - [500, 0], SURE)
    assert tracker.lost


def test_pose_of_one_point_is_unsure():
    tracker = started()
    for _ in range(3):
        tracker.update(np.full((4, 2), 50.0), SURE)
    assert tracker.lost


def test_overlap():
    assert overlap([0, 0, 2, 2], [1, 1, 3, 3]) == pytest.approx(1 / 7)
    assert overlap([0, 0, 2, 2], [5, 5, 6, 6]) == 0


def test_parse_box():
    np.testing.assert_array_equal(parse_box('1, 2.5,30,40'), [[1, 2.5, 30, 40]])


@pytest.mark.parametrize('text', ['1,2,3', '1,2,3,4,5', '1,2,x,4', '10,0,5,20', '0,0,nan,4', ''])
def test_parse_box_rejects(text):
    with pytest.raises(InputError, match='--box'):
        parse_box(text)


@pytest.mark.parametrize(
    'text',
    [
        '{"boxes": [[0, 1, 2, 3], [4, 5, 6.5, 7]], "clip": "a"}',
        ' [[0, 1, 2, 3], [4, 5, 6.5, 7]]',
        '0,1,2,3\n4,5,6.5,7\n',
        'x0,y0,x1,y1\n0,1,2,3\n\n4,5,6.5,7',
    ],
)
def test_read_boxes(tmp_path, text):
    path = tmp_path / 'boxes.txt'
    path.write_text(text)
    np.testing.assert_array_equal(read_boxes(path), np.array([[0, 1, 2, 3], [4, 5, 6.5, 7]], np.float32))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'no boxes'),
        ('[]', 'no boxes'),
        ('{"box": []}', "no field 'boxes'"),
        ('{"boxes": 3}', "field 'boxes': no boxes"),
        ('{"boxes": [[1, 2', 'not valid JSON'),
        ('[[0, 0, 1, 1], [1, 2, 3]]', 'box 1 is'),
        ('["1234"]', 'box 0 is'),
        ('0,0,1,1\n5,5,5,9', 'box 1 is'),
        ('0,0,1,1\n1,2,3,4,5', 'box 1 is'),
    ],
)
def test_read_boxes_rejects(tmp_path, text, message):
    path = tmp_path / 'bad_boxes'
    path.write_text(text)
    with pytest.raises(InputError, match=f'bad_boxes.*{message}'):
        read_boxes(path)


def test_read_boxes_rejects_what_is_no_text(tmp_path):
    (tmp_path / 'b').write_bytes(b'\xff\xfe\x00\x81')
    for path in (tmp_path / 'b', tmp_path / 'missing'):
        with pytest.raises(InputError, match=str(path)):
            read_boxes(path)


def test_check_boxes():
    for box in ([-1e30, -1e30, 1e30, 1e30], [-3e38, -3e38, 3e38, 3e38], [10, 10, 10.0001, 10.0001], [-4000, -4000, 4400, 4400]):
        with pytest.raises(InputError, match=r'f: box 0 is .* it must have 8 pixels or more, and at most 10 times the image'):
            check_boxes(np.array([box], np.float32), SIZE, 'f')
    check_boxes(np.array([[-20, -20, 100, 100]], np.float32), SIZE, 'f')  # people reach out of the image
    with pytest.raises(InputError, match=r'f: box 1 .* outside the 640x480 image'):
        check_boxes(np.array([[0, 0, 10, 10], [640, 0, 700, 50]], np.float32), SIZE, 'f')
    with pytest.raises(InputError, match='outside'):
        check_boxes(np.array([[0, 0, 9999, 9999]], np.float32), SIZE, 'f')


@pytest.mark.parametrize(
    ('boxes', 'message'),
    [
        ('[[0.1, 0.2, 0.5, 0.9]]', r'these look like shares of the image; give pixels'),
        ('[[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1]]', r'box 0 .* these look like shares'),
        ('[[200, 100, 40, 90]]', r'x1 must be greater than x0.*; if these are x, y, width and height, give x \+ width'),
        ('[[20, 30, 100, 200], [200, 100, 40, 90]]', r'box 1 is .*; if these are x, y, width'),
    ],
)
def test_boxes_of_other_conventions_are_named_with_the_remedy(tmp_path, boxes, message):
    (tmp_path / 'b.json').write_text(boxes)
    with pytest.raises(InputError, match=message):
        read_boxes(tmp_path / 'b.json')
