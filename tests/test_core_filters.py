"""Filters over time, on signals whose answer is known, and against SciPy's where frames come at even times."""

import numpy as np
import pytest
from scipy import ndimage, signal

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.filters import FILTERS, Gaussian, OneEuro, SavitzkyGolay, parse_filter
from kimnet_jax.core.pose_windows import extent

NAMES = [*FILTERS]
BOX = np.array([0.0, 0, 100, 100])


def boxes(frames: int) -> np.ndarray:
    return np.tile(BOX, (frames, 1))


def uneven(frames: int, seed: int = 0) -> np.ndarray:
    """Half of the frames at 30 a second, the others at 5."""
    steps = np.where(np.arange(frames) < frames // 2, 1 / 30, 1 / 5)
    return np.cumsum(steps) - steps[0]


def streamed(smooth, joints, times) -> np.ndarray:
    stream = smooth.stream()
    return np.stack([stream.push(pose, BOX, time) for pose, time in zip(joints, times, strict=True)])


@pytest.mark.parametrize('rate', [25, 30, 59.94])
@pytest.mark.parametrize(('window', 'order'), [(4, 1), (10, 2), (10, 3), (2, 2)])
@pytest.mark.parametrize('frames', [11, 30])
def test_savgol_is_that_of_scipy(rate, window, order, frames):
    joints = np.random.default_rng(0).normal(size=(frames, 3, 2))
    found = SavitzkyGolay(window=window / rate, order=order)(joints, boxes(frames), np.arange(frames) / rate)
    np.testing.assert_allclose(found, signal.savgol_filter(joints, window + 1, order, axis=0), atol=1e-9)


@pytest.mark.parametrize('sigma', [1, 2, 3.5])
@pytest.mark.parametrize('frames', [1, 2, 7, 40])
def test_gaussian_is_that_of_scipy(sigma, frames):
    joints = np.random.default_rng(0).normal(size=(frames, 3, 2))
    found = Gaussian(sigma=sigma / 25)(joints, boxes(frames), np.arange(frames) / 25)
    np.testing.assert_allclose(found, ndimage.gaussian_filter1d(joints, sigma, axis=0, mode='nearest'), atol=1e-9)


def test_one_euro_by_hand():
    """Two steps of different length: the cutoffs are in hertz, so the shares depend on the time between the frames."""
    joints = np.zeros((3, 1, 2))
    joints[1:] = [30, 40]  # 50 px, half of the box
    value, speed, expected = 0.0, 0.0, [0.0]
    for step in (0.1, 0.25):
        share = 1 / (1 + 1 / (2 * np.pi * 1.5 * step))
        speed += share * ((50 - value) / step / 100 - speed)
        share = 1 / (1 + 1 / (2 * np.pi * (0.5 + 2 * abs(speed)) * step))
        value += share * (50 - value)
        expected.append(value)
    smooth = OneEuro(min_cutoff=0.5, beta=2, d_cutoff=1.5)
    found = smooth(joints, boxes(3), [0, 0.1, 0.35])
    np.testing.assert_allclose(np.linalg.norm(found[:, 0], axis=-1), expected)
    np.testing.assert_allclose(streamed(smooth, joints, [0, 0.1, 0.35]), found)


def test_scale_of_the_person_makes_no_difference():
    joints = np.cumsum(np.random.default_rng(0).normal(size=(30, 3, 2)), 0)
    times = uneven(30)
    for smooth in map(parse_filter, NAMES):
        large = smooth(joints * 7, boxes(30) * 7, times)
        np.testing.assert_allclose(large, 7 * smooth(joints, boxes(30), times))


@pytest.mark.parametrize('name', ['savgol', 'gaussian'])
def test_even_motion_stays_at_a_changing_rate(name):
    times = uneven(60)
    joints = (times[:, None, None] * np.array([[30.0, -10], [5, 0]])) + 50
    found = parse_filter(name)(joints, boxes(60), times)
    tolerance = {'savgol': 1e-9, 'gaussian': 0.8}[name]  # the bell is wide for 5 frames a second, and not even where rates change
    np.testing.assert_allclose(found[3:-3], joints[3:-3], atol=tolerance)


@pytest.mark.parametrize('name', NAMES)
def test_jitter_falls(name):
    times = uneven(60)
    joints = np.random.default_rng(0).normal(size=(60, 3, 2))
    for found in (parse_filter(name)(joints, boxes(60), times), streamed(parse_filter('one_euro'), joints, times)):
        assert found[5:30].std() < 0.75 * joints[5:30].std()


@pytest.mark.parametrize('name', NAMES)
def test_streams_use_the_past_alone(name):
    times = uneven(40)
    joints = np.random.default_rng(0).normal(size=(40, 3, 2))
    whole = streamed(parse_filter(name), joints, times)
    changed = joints.copy()
    changed[20:] += 1000
    np.testing.assert_array_equal(streamed(parse_filter(name), changed, times)[:20], whole[:20])
    assert np.isfinite(whole).all()


def test_a_stream_is_the_last_frame_of_a_sequence():
    """The polynomial of a window is the one that SciPy has at the end of a sequence."""
    joints = np.random.default_rng(0).normal(size=(30, 2, 2))
    found = streamed(SavitzkyGolay(window=0.4), joints, np.arange(30) / 25)
    np.testing.assert_allclose(found[-1], signal.savgol_filter(joints, 11, 2, axis=0)[-1], atol=1e-9)
    weights = np.exp(-0.5 * (np.arange(-8, 1) / 2) ** 2)
    found = streamed(Gaussian(sigma=0.08), joints, np.arange(30) / 25)
    np.testing.assert_allclose(found[-1], np.average(joints[-9:], 0, weights), atol=1e-9)


@pytest.mark.parametrize('name', NAMES)
def test_missing_joints(name):
    """In a sequence they are filled in over time; one that is nowhere stays missing, and leaves the others alone."""
    times = np.array([0, 0.1, 0.5, 0.6, 0.7])
    joints = np.random.default_rng(0).normal(size=(5, 3, 2))
    joints[1:3, 1] = np.nan
    joints[:, 2] = np.nan
    smooth = parse_filter(name)
    found = smooth(joints, boxes(5), times)
    assert np.isfinite(found[:, :2]).all()
    assert np.isnan(found[:, 2]).all()
    filled = joints.copy()
    filled[1, 1], filled[2, 1] = (joints[0, 1] * (1 - share) + joints[3, 1] * share for share in (1 / 6, 5 / 6))
    np.testing.assert_allclose(found[:, :2], smooth(filled[:, :2], boxes(5), times))
    found = streamed(smooth, joints, times)
    assert np.array_equal(np.isnan(found), np.isnan(joints))
    np.testing.assert_allclose(found[:, 0], streamed(smooth, joints[:, :1], times)[:, 0])


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('times', [[0], [0, 0], [0, 0, 0.1], [3, 3, 3, 3]])
@pytest.mark.parametrize('dims', [2, 3, 6])
def test_short_sequences_and_equal_times(name, times, dims):
    joints = np.random.default_rng(0).normal(size=(len(times), 4, dims))
    smooth = parse_filter(name)
    found = smooth(joints, extent(joints), times)
    assert found.shape == joints.shape
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 1.5 * np.abs(joints).max()
    stream = smooth.stream()
    assert all(
        np.isfinite(stream.push(pose, box, time)).all() for pose, box, time in zip(joints, extent(joints), times, strict=True)
    )


@pytest.mark.parametrize('name', NAMES)
def test_times_out_of_order(name):
    joints = np.zeros((3, 1, 2))
    with pytest.raises(InputError, match=r'frame 2 is at 0\.5 s, the one before it at 1 s'):
        parse_filter(name)(joints, boxes(3), [0, 1, 0.5])
    with pytest.raises(InputError, match='frame 1 is at nan s'):
        parse_filter(name)(joints, boxes(3), [0, np.nan, 2])
    with pytest.raises(InputError, match=r'a frame is at 0\.5 s, the one before it at 1 s'):
        streamed(parse_filter(name), joints, [0, 1, 0.5])


def test_texts():
    assert parse_filter('one_euro') == OneEuro(min_cutoff=1, beta=5, d_cutoff=1)
    assert parse_filter('one_euro:min_cutoff=0.5,beta=0.3') == OneEuro(min_cutoff=0.5, beta=0.3)
    assert parse_filter('savgol:window=0.5, order=3') == SavitzkyGolay(0.5, 3)
    assert parse_filter('gaussian:sigma=1e-1') == Gaussian(0.1)
    for name in NAMES:
        smooth = parse_filter(name)
        assert parse_filter(str(smooth)) == smooth
    assert str(SavitzkyGolay()) == 'savgol:window=0.4,order=2'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', "no filter ''; known: one_euro, savgol, gaussian"),
        ('kalman', "no filter 'kalman'; known: one_euro, savgol, gaussian"),
        ('savgol:', "savgol: no setting ''; give some of window=NUMBER, order=NUMBER"),
        ('savgol:size=3', "savgol: no setting 'size=3'; give some of window=NUMBER, order=NUMBER"),
        ('savgol:window', "savgol: no setting 'window'"),
        ('savgol:window=wide', 'savgol: window=wide: must be a number'),
        ('savgol:order=2.5', 'savgol: order=2.5: must be a whole number'),
        ('savgol:order=11', 'savgol: order=11: must be 0 to 10'),
        ('savgol:window=0', 'savgol: window=0: must be 0.001 to 60 seconds'),
        ('gaussian:sigma=nan', 'gaussian: sigma=nan: must be 0.001 to 60 seconds'),
        ('one_euro:min_cutoff=-1', 'one_euro: min_cutoff=-1: must be 0.001 to 1000 Hz'),
        ('one_euro:beta=1,beta=2', 'one_euro: beta is given twice'),
        ('one_euro:beta=inf', 'one_euro: beta=inf: must be 0 to 1000'),
    ],
)
def test_texts_of_nonsense(text, message):
    with pytest.raises(InputError) as error:
        parse_filter(text)
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) == 1
