"""Encoded images to pixels, the one warp, and the normalisation of a network's input. OpenCV is imported on first use."""

import functools
import os
import threading
from types import ModuleType
from typing import Any

import numpy as np

from kimnet_jax.core import files
from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.types import Array

MEAN = (0.485, 0.456, 0.406)  # ImageNet, R G B
STD = (0.229, 0.224, 0.225)
_LOCK = threading.Lock()
_LONGEST_SIDE = 1 << 20  # OpenCV's own limit
_VECTOR = 32  # bytes of AVX2's
_JPEG, _EXIF = b'\xff\xd8', b'Exif\0\0'


@functools.cache
def _load_opencv() -> Any:
    # before the import, which reads it: OpenCV looks at an image's header before it makes room for its pixels
    os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(files.limit(files.MAX_PIXELS)))
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')  # what is wrong with a file is said by our error
    import cv2

    cv2.setNumThreads(0)  # loaders and builders run many of its functions at once
    return cv2


def opencv() -> Any:
    """OpenCV, working in the caller's thread alone. The only way to it: told so while it is at work, it kills the process."""
    with _LOCK:
        return _load_opencv()


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Encoded bytes to uint8 [H, W, 3] RGB, turned as EXIF says.

    Raises `DamagedError` naming `name` where they are no whole image, `InputError` where it is too large.
    """
    image = _decode_whole_jpeg(data) if data.startswith(_JPEG) else None
    return _decode_with_opencv(data, name) if image is None else image


def decode_checked(data: bytes, name: str) -> tuple[np.ndarray, DamagedError | None]:
    """As `decode_image`, and the error of a JPEG image of which the decoder made up what is missing.

    Other formats have none: their decoders take no damaged file.
    """
    jpeg = data.startswith(_JPEG)
    if jpeg and (image := _decode_whole_jpeg(data)) is not None:
        return image, None
    return _decode_with_opencv(data, name), _damage(data, name) if jpeg else None


def _decode_whole_jpeg(data: bytes) -> np.ndarray | None:
    """OpenCV's pixels, some 10 % faster; None where only OpenCV will do: damaged, turned by EXIF, or of rarer colours."""
    import simplejpeg

    try:
        rows, columns, colours, _ = simplejpeg.decode_jpeg_header(data)
        if _EXIF in data or colours not in ('YCbCr', 'Gray') or rows * columns > files.limit(files.MAX_PIXELS):
            return None
        # not aligned: where it is, libjpeg-turbo writes past the caches, and what reads the pixels next takes three times as long
        room = np.empty(rows * columns * 3 + 2 * _VECTOR, np.uint8)
        first = -room.ctypes.data % _VECTOR + _VECTOR // 4
        return simplejpeg.decode_jpeg(data, 'RGB', buffer=room[first : first + rows * columns * 3], strict=True)
    except ValueError:
        return None


def _decode_with_opencv(data: bytes, name: str) -> np.ndarray:
    cv2 = opencv()
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error as error:
        told = f'not a readable image ({error.err}); replace the file'
        if 'CV_IO_MAX_IMAGE_PIXELS' in str(error):
            told = f'more than {files.limit(files.MAX_PIXELS):,} pixels; scale it down, or set {files.MAX_PIXELS}'
        elif 'CV_IO_MAX_IMAGE' in str(error):  # of one side
            told = f'more than {_LONGEST_SIDE:,} pixels wide or high, which OpenCV does not read; scale it down'
        raise InputError(f'{name}: {told}') from error
    if image is None:
        raise DamagedError(f'{name}: not a readable image ({len(data)} bytes); replace the file')
    files.check_pixels(image.shape[0], image.shape[1], name)
    return image


def _damage(data: bytes, name: str) -> DamagedError | None:
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(data, 'GRAY', fastdct=True, strict=True)
    except ValueError as error:
        try:
            simplejpeg.decode_jpeg(data, 'GRAY', fastdct=True, strict=False)
        except ValueError:
            return None  # a kind of JPEG that OpenCV alone reads
        damaged = DamagedError(f'{name}: damaged ({error}); replace the file, or, if it looks right, save it anew')
        damaged.__cause__ = error
        return damaged
    return None


def encode_png(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] RGB to PNG bytes, lossless, at the level that is fast to write."""
    cv2 = opencv()
    done, data = cv2.imencode('.png', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f'image of shape {image.shape} and dtype {image.dtype} cannot be written as PNG')
    return data.tobytes()


def encode_jpeg(image: np.ndarray, quality: int = 95) -> bytes:
    """uint8 [H, W, 3] RGB to JPEG bytes."""
    cv2 = opencv()
    done, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f'image of shape {image.shape} and dtype {image.dtype} cannot be written as JPEG')
    return data.tobytes()


def warp(image: np.ndarray, matrix: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """Bilinear crop uint8 [size, size, 3] of an image; `matrix` [2, 3] maps image pixels to crop pixels; black outside.

    Where `out`, of that shape, is given, the crop is written there.
    """
    cv2 = opencv()
    return cv2.warpAffine(image, matrix, (size, size), dst=out, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def normalise(frames: Array, xp: ModuleType = np) -> Array:
    """uint8 RGB [..., 3] to float32 with ImageNet's mean and standard deviation."""
    scale = 1.0 / (255.0 * np.asarray(STD, np.float32))
    shift = np.asarray(MEAN, np.float32) / np.asarray(STD, np.float32)
    return frames.astype(xp.float32) * scale - shift
