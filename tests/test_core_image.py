import re

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from kimnet_jax.core import image
from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.geometry import crop_matrix
from kimnet_jax.core.image import MEAN, STD, decode_checked, decode_image, encode_jpeg, encode_png, normalise, warp


def test_png_is_lossless():
    image = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encode_png(image), 'a.png'), image)


def test_jpeg_keeps_red_red():
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    decoded = decode_image(encode_jpeg(image), 'a.jpg')
    assert np.abs(decoded.astype(int) - image).max() <= 4


@pytest.mark.parametrize('data', [b'', b'no image', encode_png(np.zeros((8, 8, 3), np.uint8))[:20]])
def test_unreadable_images_are_named(data):
    with pytest.raises(InputError, match=rf'clip/0001\.png: not a readable image \({len(data)} bytes\)'):
        decode_image(data, 'clip/0001.png')


def missing_block(data: bytes) -> bytes:
    """A JPEG whose last rows are gone, but not its end: decoders fill them with grey."""
    return data[: len(data) // 2] + data[-2:]


def test_a_damaged_jpeg_is_noticed():
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    assert decode_checked(data, 'a.jpg')[1] is None
    assert decode_checked(encode_png(np.zeros((8, 8, 3), np.uint8)), 'a.png')[1] is None
    damaged = missing_block(data)
    pixels, damage = decode_checked(damaged, 'a.jpg')
    assert pixels.shape == (64, 64, 3)
    np.testing.assert_array_equal(decode_image(damaged, 'a.jpg'), pixels)
    assert isinstance(damage, DamagedError)
    assert re.match(r'a\.jpg: damaged \(.*\); replace the file', str(damage))


KINDS = {  # what OpenCV's encoder is told
    '4:2:0': [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420],
    '4:1:1': [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411],
    '4:2:2': [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422],
    '4:4:0': [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440],
    '4:4:4': [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    'progressive': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    'restarts': [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
    'poor': [cv2.IMWRITE_JPEG_QUALITY, 12],
    'grey': [],
}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(61, 75), (48, 64), (1, 1), (9, 200)])
def test_the_faster_decoder_of_jpeg_gives_the_pixels_of_opencv(kind, size):
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 15, 3), np.uint8), size[::-1])
    data = cv2.imencode('.jpg', picture[..., 0] if kind == 'grey' else picture, KINDS[kind])[1].tobytes()
    faster = image._decode_whole_jpeg(data)
    assert faster.shape == (*size, 3)
    np.testing.assert_array_equal(faster, image._decode_with_opencv(data, 'a.jpg'))


def test_jpegs_that_opencv_alone_knows_are_left_to_it(monkeypatch):
    upright = np.zeros((8, 24, 3), np.uint8)
    upright[:, :12] = 200
    plain = cv2.imencode('.jpg', upright)[1].tobytes()
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'  # to be turned clockwise
    turned = plain[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + plain[2:]
    decoded, damage = decode_checked(turned, 'a.jpg')
    assert (decoded.shape, damage) == ((24, 8, 3), None)
    np.testing.assert_array_equal(decoded, np.rot90(decode_image(plain, 'a.jpg'), -1))
    assert image._decode_whole_jpeg(plain) is not None
    monkeypatch.setattr(image, '_damage', None)  # which training does not ask for
    assert decode_image(turned, 'a.jpg').shape == (24, 8, 3)
    monkeypatch.setenv('KIMNET_MAX_PIXELS', '100')
    assert image._decode_whole_jpeg(plain) is None


def test_warp_places_pixels_where_the_matrix_says():
    image = np.zeros((30, 40, 3), np.uint8)
    image[12, 20] = (10, 20, 30)
    # same scale, centre (20, 12) in the middle of 9 pixels
    cropped = warp(image, crop_matrix([20, 12], 9, 9), 9)
    assert cropped.shape == (9, 9, 3)
    np.testing.assert_array_equal(cropped[4, 4], (10, 20, 30))
    assert np.count_nonzero(cropped.any(-1)) == 1


def test_warp_writes_where_it_is_told():
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    matrix = crop_matrix([20, 12], 17, 9, rotation=20.0)
    crops = np.full((2, 9, 9, 3), 7, np.uint8)
    warp(image, matrix, 9, out=crops[1])
    np.testing.assert_array_equal(crops[1], warp(image, matrix, 9))
    assert (crops[0] == 7).all()


def test_warp_is_black_outside():
    cropped = warp(np.full((4, 4, 3), 255, np.uint8), crop_matrix([0, 0], 8, 8), 8)
    # the crop's pixel 3.5 is the image's 0: its pixels 4 to 7 lie at 0.5 to 3.5
    assert (cropped[:3] == 0).all()
    assert (cropped[4:7, 4:7] == 255).all()


def test_normalise_by_hand():
    frames = np.array([[[0, 128, 255]]], np.uint8)
    expected = [(value / 255 - mean) / std for value, mean, std in zip((0, 128, 255), MEAN, STD, strict=True)]
    assert normalise(frames).dtype == np.float32
    np.testing.assert_allclose(normalise(frames)[0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(normalise(jnp.asarray(frames), jnp)[0, 0], expected, rtol=1e-5)
