"""Frames as players show them: which way up, how wide, in which colours, and when."""

import fractions
import itertools
import math
import struct

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from kimnet_jax.core.display import Clock, oriented, shown_image
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image, encode_jpeg
from kimnet_jax.core.video import frame_rate, read_frames

NAMED = np.array([[200, 30, 60], [20, 180, 40], [40, 60, 220], [255, 255, 255], [0, 0, 0], [128, 128, 128]], np.float64)
MATRICES = {  # FFmpeg's number: weights of red and blue
    'BT.709': (1, 0.2126, 0.0722),
    'FCC': (4, 0.3, 0.11),
    'BT.470': (5, 0.299, 0.114),
    'SMPTE 170M': (6, 0.299, 0.114),
    'SMPTE 240M': (7, 0.212, 0.087),
    'BT.2020': (9, 0.2627, 0.0593),
    'BT.2020 constant': (10, 0.2627, 0.0593),
}
LIMITED, FULL, UNTAGGED = 1, 2, 2
ONE = 1 << 16
EIGHT = {  # matrix: where a bright corner, top left as stored, is shown
    (1, 0, 0, 1): (0, 0),
    (-1, 0, 0, 1): (0, -1),
    (1, 0, 0, -1): (-1, 0),
    (-1, 0, 0, -1): (-1, -1),
    (0, 1, 1, 0): (0, 0),
    (0, 1, -1, 0): (0, -1),
    (0, -1, 1, 0): (-1, 0),
    (0, -1, -1, 0): (-1, -1),
}


def write_corner(path, matrix=None, aspect=None, size=(120, 160)):
    """A video of one frame with a bright top left corner of 40x40."""
    frame = np.zeros((*size, 3), np.uint8)
    frame[:40, :40] = 255
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, 'yuv420p'
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix:
            a, b, c, d = (round(part * ONE) for part in matrix)
            stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())


@pytest.mark.parametrize('matrix', EIGHT)
def test_a_display_matrix_turns_and_mirrors(tmp_path, matrix):
    write_corner(tmp_path / 'clip.mp4', matrix)
    (read,) = read_frames(tmp_path / 'clip.mp4')
    assert read.image.shape == ((120, 160, 3) if matrix[0] else (160, 120, 3))
    assert read.image[EIGHT[matrix]].min() > 200
    assert (read.image > 128).all(-1).sum() == pytest.approx(1600, rel=0.1)


def turned(degrees: float) -> tuple[float, float, float, float]:
    turn = math.radians(degrees)
    return math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn)


@pytest.mark.parametrize(('degrees', 'corner'), [(0.6, (0, 0)), (90.9, (0, -1)), (179.5, (-1, -1)), (-89.2, (-1, 0))])
def test_an_angle_near_a_right_one_is_taken_for_it(tmp_path, degrees, corner):
    write_corner(tmp_path / 'clip.mp4', turned(degrees))
    (read,) = read_frames(tmp_path / 'clip.mp4')
    assert read.image[corner].min() > 200


@pytest.mark.parametrize(
    ('matrix', 'told'), [(turned(45), '45'), (turned(-30), '-30'), (turned(91.5), '91.5'), ((1, 0.5, 0, 1), r'26\.57')]
)
def test_other_angles_and_shears_are_refused(tmp_path, matrix, told):
    write_corner(tmp_path / 'clip.mp4', matrix)
    with pytest.raises(InputError, match=rf'clip\.mp4: players turn it by {told} degrees clockwise.*ffmpeg -i in\.mp4 out\.mp4'):
        list(read_frames(tmp_path / 'clip.mp4'))


def test_a_matrix_of_zeros_turns_nothing():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(oriented(image, np.zeros((2, 2)), 'x'), image)


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    tags = b'II*\0' + struct.pack('<IHHHIHHI', 8, 1, 0x112, 3, 1, orientation, 0, 0)
    segment = b'Exif\0\0' + tags
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize(
    ('orientation', 'corner'),
    [*enumerate([(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)], 1)],
)
def test_photos_are_upright(tmp_path, orientation, corner):
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:15, :15] = 255
    data = with_exif(encode_jpeg(photo), orientation)
    (tmp_path / 'folder').mkdir()
    for path in (tmp_path / 'folder' / 'a.jpg', tmp_path / 'photo.JPG'):
        path.write_bytes(data)
    for image in (
        decode_image(data, 'x'),
        *(frame.image for place in ('folder', 'photo.JPG') for frame in read_frames(tmp_path / place)),
    ):
        assert image.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
        assert image[corner].min() > 200


@pytest.mark.parametrize(('orientation', 'corner'), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_photos_in_a_video_are_upright(tmp_path, orientation, corner):
    """Their frames have side data of a kind that PyAV does not know."""
    photo = np.zeros((40, 60, 3), np.uint8)
    photo[:15, :15] = 255
    (tmp_path / 'clip.mjpeg').write_bytes(with_exif(encode_jpeg(photo), orientation) * 3)
    frames = list(read_frames(tmp_path / 'clip.mjpeg'))
    assert len(frames) == 3
    for frame in frames:
        assert frame.image.shape == ((40, 60, 3) if orientation < 5 else (60, 40, 3))
        assert frame.image[corner].min() > 200


@pytest.mark.parametrize(
    ('size', 'aspect', 'matrix', 'shown'),
    [
        ((120, 80), (2, 1), None, (120, 160)),
        ((120, 160), (8, 9), None, (120, 142)),
        ((120, 160), (16, 15), None, (120, 171)),
        ((120, 160), (1, 2), None, (120, 80)),
        ((120, 80), (2, 1), (0, 1, -1, 0), (160, 120)),
    ],
)
def test_pixels_become_square_before_the_frame_is_turned(tmp_path, size, aspect, matrix, shown):
    write_corner(tmp_path / 'clip.mp4', matrix, fractions.Fraction(*aspect), size)
    (read,) = read_frames(tmp_path / 'clip.mp4')
    assert read.image.shape[:2] == shown
    bright = (read.image > 128).all(-1)
    rows, columns = bright.any(1).sum(), bright.any(0).sum()
    wide = 40 * aspect[0] / aspect[1]
    assert (rows, columns) == pytest.approx((wide, 40) if matrix else (40, wide), abs=2)


def test_a_frame_that_is_too_large_as_shown_is_refused(tmp_path, monkeypatch):
    write_corner(tmp_path / 'clip.mp4', aspect=fractions.Fraction(100))
    monkeypatch.setenv('KIMNET_MAX_PIXELS', '1000000')
    with pytest.raises(InputError, match=r'clip\.mp4: 16000x120 pixels'):
        list(read_frames(tmp_path / 'clip.mp4'))


def coded(red: float, blue: float, full: bool, bits: int) -> np.ndarray:
    """Y, Cb, Cr [3, colours] of `NAMED`, by the formulae of the standards."""
    r, g, b = (NAMED / 255).T
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 - 2 * blue), (r - luma) / (2 - 2 * red)
    if full:
        top = 2**bits - 1
        return np.rint([luma * top, cb * top + 2 ** (bits - 1), cr * top + 2 ** (bits - 1)])
    return np.rint(np.array([16 + 219 * luma, 128 + 224 * cb, 128 + 224 * cr]) * 2 ** (bits - 8))


def patches(pix_fmt: str, planes: np.ndarray, matrix: int, colour_range: int, size: tuple[int, int] = (192, 32)) -> av.VideoFrame:
    """A frame with a broad stripe of each colour."""
    frame = av.VideoFrame(*size, pix_fmt)
    frame.colorspace, frame.color_range = matrix, colour_range
    for plane, values in zip(frame.planes, planes, strict=True):
        deep = frame.format.components[0].bits > 8
        row = np.repeat(values, -(-plane.width // len(values)))[: plane.width]
        lines = np.zeros((plane.height, plane.line_size // (1 + deep)), '<u2' if deep else np.uint8)
        lines[:, : plane.width] = row
        plane.update(lines.tobytes())
    return frame


def colours(image: np.ndarray) -> np.ndarray:
    step = image.shape[1] // 6
    return image[image.shape[0] // 2, step // 2 :: step][:6].astype(int)


@pytest.mark.parametrize('name', MATRICES)
@pytest.mark.parametrize(
    ('pix_fmt', 'full', 'bits'),
    [
        ('yuv420p', False, 8),
        ('yuv420p', True, 8),
        ('yuvj420p', True, 8),
        ('yuv444p', False, 8),
        ('yuv420p10le', False, 10),
        ('yuv422p12le', True, 12),
    ],
)
def test_colours_are_right_in_every_matrix_and_range(name, pix_fmt, full, bits):
    number, red, blue = MATRICES[name]
    frame = patches(pix_fmt, coded(red, blue, full, bits), number, FULL if full else LIMITED)
    np.testing.assert_allclose(colours(shown_image(frame, None, 'x', VideoReformatter())), NAMED, atol=3)


@pytest.mark.parametrize(('size', 'name'), [((192, 32), 'BT.470'), ((768, 576), 'BT.470'), ((1280, 720), 'BT.709')])
@pytest.mark.parametrize('tag', [UNTAGGED, 3])
def test_without_a_matrix_the_size_tells(size, name, tag):
    _, red, blue = MATRICES[name]
    frame = patches('yuv420p', coded(red, blue, False, 8), tag, LIMITED, size)
    np.testing.assert_allclose(colours(shown_image(frame, None, 'x', VideoReformatter())), NAMED, atol=3)


@pytest.mark.parametrize('pix_fmt', ['gray', 'gray10le'])
def test_greys_have_a_range(pix_fmt):
    stored, expanded = np.array([16, 235, 126, 50, 0, 255]), [0, 255, 128, 40, 0, 255]
    planes = (stored * (4 if pix_fmt == 'gray10le' else 1))[None]
    for colour_range, wanted in ((LIMITED, expanded), (FULL, stored), (0, stored)):
        image = shown_image(patches(pix_fmt, planes, UNTAGGED, colour_range), None, 'x', VideoReformatter())
        np.testing.assert_allclose(colours(image), np.stack([wanted] * 3, -1), atol=1)


def test_an_alpha_channel_is_left_out():
    picture = np.zeros((8, 8, 4), np.uint8)
    picture[:, :4] = 200, 30, 60, 0
    image = shown_image(av.VideoFrame.from_ndarray(picture, format='rgba'), None, 'x', VideoReformatter())
    np.testing.assert_array_equal(image, picture[..., :3])


def test_colours_that_cannot_be_converted_are_refused():
    frame = patches('yuv444p', coded(0.2126, 0.0722, False, 8), 8, LIMITED)
    with pytest.raises(InputError, match=r'a\.mp4: its colours are YCgCo'):
        shown_image(frame, None, 'a.mp4', VideoReformatter())


def times(clock: Clock, stated: list[float | None]) -> list[float]:
    found = [clock(seconds) for seconds in stated]
    assert all(after > before for before, after in itertools.pairwise(found))
    return found


@pytest.mark.parametrize(
    ('stated', 'wanted'),
    [
        ([5.0, 5.1, 5.4, 5.5], [0, 0.1, 0.4, 0.5]),
        ([-0.2, -0.1, 0.3], [0, 0.1, 0.5]),
        ([None] * 4, [0, 0.04, 0.08, 0.12]),
        ([0, 0.1, None, None, 0.4], [0, 0.1, 0.2, 0.3, 0.4]),
        ([None, None, 7.0, 7.04], [0, 0.04, 0.08, 0.12]),
        ([0, 0.1, 0.1, 0.2, 0.3], [0, 0.1, 0.12, 0.2, 0.3]),
        ([0, 0.1, 0.2, 0.15, 0.3, 0.4], [0, 0.1, 0.2, 0.22, 0.3, 0.4]),
        ([0, 0.04, 0.4, 0.08, 0.48, 0.52], [0, 0.04, 0.4, 0.42, 0.48, 0.52]),
        ([0, 0.1, 3600.0, 3600.1], [0, 0.1, 3600, 3600.1]),
    ],
)
def test_times_always_increase(stated, wanted):
    np.testing.assert_allclose(times(Clock(25, False), stated), wanted, atol=1e-9)


def test_times_that_stand_still_go_on():
    assert times(Clock(25, False), [0.0, 0.04] + [0.04] * 20)[-1] == pytest.approx(0.04 + 16 * 0.04, abs=0.04)


def test_times_go_on_where_recordings_are_joined():
    clock = Clock(25, False)
    assert times(clock, [3.0, 3.1, 3.2])[-1] == pytest.approx(0.2)
    clock.restart()
    np.testing.assert_allclose([clock(each) for each in (3.3, 3.0, 3.1, 3.2)], [0.3, 0.4, 0.5, 0.6])  # the decoder held one back
    jumping = Clock(25, True)
    np.testing.assert_allclose(times(jumping, [0, 0.1, 95444.0, 95444.1, 95453.0]), [0, 0.1, 0.2, 0.3, 9.2])


def write_at(path, stamps, rate=25, base=1000, codec='ffv1'):
    """A video of grey frames at `stamps` in units of 1/`base` s; the header says `rate`."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
        stream.codec_context.time_base = fractions.Fraction(1, base)
        for stamp in stamps:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8)).reformat(format='yuv420p')
            frame.pts, frame.time_base = stamp, fractions.Fraction(1, base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ('stamps', 'stated', 'wanted'),
    [
        ([round(n * 36.4) for n in range(45)], 1000, 27.5),
        ([40 * n for n in range(20)], 30000, 25),
        ([20 * n for n in range(30)], 1, 50),
        ([40 * n for n in range(20)], 50, 25),  # of fields
        ([40 * n for n in range(20)], 25, 25),
        ([n * 33 for n in range(15)] + [500 + n * 50 for n in range(20)], 25, 25),  # both are near enough
        ([0], 1000, 25),
    ],
)
def test_a_rate_that_cannot_be_is_replaced_by_that_of_the_times(tmp_path, stamps, stated, wanted):
    write_at(tmp_path / 'clip.mkv', stamps, stated)
    with av.open(str(tmp_path / 'clip.mkv')) as container:
        assert container.streams.video[0].average_rate == stated
    assert frame_rate(tmp_path / 'clip.mkv') == pytest.approx(wanted, rel=0.03)
    np.testing.assert_allclose([frame.time for frame in read_frames(tmp_path / 'clip.mkv')], np.array(stamps) / 1000, atol=2e-3)


def test_one_frame_in_forty_minutes_is_no_rate(tmp_path):
    write_at(tmp_path / 'clip.mp4', [0, 40, 80, 120, 2_400_000], 25, codec='libx264')
    assert frame_rate(tmp_path / 'clip.mp4') == pytest.approx(25)
    assert [round(frame.time, 2) for frame in read_frames(tmp_path / 'clip.mp4')] == [0, 0.04, 0.08, 0.12, 2400]
