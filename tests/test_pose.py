"""The Python API of one page."""

import subprocess
import sys

import numpy as np
import pytest

import kimnet_jax
from kimnet_jax import Pose
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.filters import parse_filter
from kimnet_jax.core.image import encode_png
from kimnet_jax.inference.detection import Detections

pytestmark = pytest.mark.quick_compilation
BOX = [40, 20, 120, 100]


@pytest.fixture(scope='module')
def pose() -> Pose:
    return Pose.load()


@pytest.fixture(scope='module')
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(4)]


def test_a_folder_and_images_give_the_same(pose, images, tmp_path):
    for i, image in enumerate(images):
        (tmp_path / f'{i}.png').write_bytes(encode_png(image))
    read, given = list(pose(tmp_path, box=BOX)), list(pose(iter(images), box=BOX))
    assert [(frame.index, frame.time) for frame in read] == [(t, t / 25) for t in range(4)]
    for one, other, image in zip(read, given, images, strict=True):
        np.testing.assert_array_equal(one.image, image)
        (person,), (same,) = one.persons, other.persons
        np.testing.assert_array_equal(person.joints, same.joints)
        assert person.joints.shape == (len(pose.skeleton.joints), 2)
        assert person.probabilities is not None
    assert [frame.time for frame in pose(images, box=BOX, rate=10)] == [0, 0.1, 0.2, pytest.approx(0.3)]
    assert pose.draw(read[0]).shape == images[0].shape
    assert (pose.draw(read[0]) != images[0]).any()


def test_several_people(pose, images):
    tracks = {0: {3: BOX, 5: [60, 20, 150, 110]}, 1: {5: [60, 20, 150, 110]}}
    assert [[person.id for person in frame.persons] for frame in pose(images, tracks=tracks)] == [[3, 5], [5], [], []]
    found = pose(images, detect=lambda image: Detections(np.array([BOX], np.float32), np.ones(1, np.float32)), detect_every=1)
    assert [person.id for person in next(found).persons] == [1]
    given = np.tile(np.array(BOX, np.float32), (4, 1))
    for frame in pose(images, boxes=given, every=2):
        np.testing.assert_array_equal(frame.persons[0].box, BOX)
        assert (frame.persons[0].probabilities is None) == frame.persons[0].interpolated == (frame.index == 1)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'box': BOX, 'detect': 'hog'}, 'box and detect: give one of them'),
        ({'box': [1, 2, 3]}, r'box: of shape \[1, 3\], expected four numbers'),
        ({'boxes': np.ones((2, 4)) * [10, 10, 50, 50]}, 'boxes: 2 boxes, and the video has 4 frames'),
        ({'detect': 'yolo'}, 'give hog, or an ONNX file'),
    ],
)
def test_what_does_not_fit_is_named(pose, images, arguments, message):
    with pytest.raises(InputError, match=message):
        list(pose(images, **arguments))


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        ([np.zeros((4, 4), np.uint8)], r'image 0: uint8 \[4, 4\]; images are uint8 \[H, W, 3\]'),
        ([np.zeros((4, 4, 3))], r'image 0: float64 \[4, 4, 3\]'),
        (['a.png'], 'image 0: str; images are'),
        ([np.zeros((40, 40, 3), np.uint8), np.zeros((40, 41, 3), np.uint8)], r'image 1: \[40, 41, 3\], the first is'),
    ],
)
def test_images_of_other_kinds_are_named(pose, bad, message):
    with pytest.raises(InputError, match=message):
        list(pose(bad))


def test_images_are_refined_with_a_look_ahead(images):
    pose = Pose.load(refine='hanet-s-jhmdb')
    with pytest.raises(InputError, match='give look_ahead'):
        next(pose(iter(images)))
    with pytest.raises(InputError, match='use one of them'):
        next(pose(images, smooth='one_euro'))
    assert len(list(pose(iter(images), look_ahead=1))) == 4
    assert len(list(pose(images))) == 4


def test_poses_are_smoothed(pose, images):
    raw, smooth = (list(pose(images, box=BOX, smooth=text)) for text in (None, 'one_euro'))
    times = np.array([frame.time for frame in raw])
    joints, boxes = (np.stack([getattr(frame.persons[0], name) for frame in raw]) for name in ('joints', 'box'))
    expected = parse_filter('one_euro')(joints, boxes, times)
    np.testing.assert_allclose([frame.persons[0].joints for frame in smooth], expected, rtol=1e-4)
    assert smooth[0].persons[0].probabilities is None


def test_the_package_is_imported_without_jax():
    code = 'import sys, kimnet_jax; assert "jax" not in sys.modules; kimnet_jax.Pose; assert "jax" in sys.modules'
    subprocess.run([sys.executable, '-c', code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = kimnet_jax.Nothing
