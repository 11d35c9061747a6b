"""Frames of a video file or of a folder of images, one at a time."""

import contextlib
import functools
import pathlib
import re
import sys
from collections.abc import Iterator

from kimnet_jax.core import decoding
from kimnet_jax.core.decoding import DEFAULT_RATE, Frame
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import explained, read_file, require_file
from kimnet_jax.core.image import decode_checked
from kimnet_jax.core.joined import second_recording

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
_JPEG = ('.jpg', '.jpeg')  # of one file, too, these are read as images: PyAV knows nothing of EXIF's mirrored orientations
_MEDIA = 'video file or folder of images'


def frame_rate(path: str | pathlib.Path) -> float:
    """Frames per second that a video file states, or, where the times of its frames are far from that, their median.

    `DEFAULT_RATE` for images, and where the file says neither. Raises `InputError`.
    """
    path = pathlib.Path(path)
    if _is_images(path):
        return DEFAULT_RATE
    require_file(path, _MEDIA)
    with decoding.opened(decoding.file_url(path), str(path)) as (container, stream):
        return decoding.rate_of(container, stream)


def stated_frame_count(path: str | pathlib.Path) -> int | None:
    """How many frames a video claims to have, None where it does not say: a hint for a progress bar, often wrong."""
    path = pathlib.Path(path)
    if path.is_dir():
        return len(image_files(path))
    if not path.is_file():  # a pipe would be waited for
        return None
    if _is_images(path):
        return 1
    with contextlib.suppress(InputError), decoding.opened(decoding.file_url(path), str(path)) as (_, stream):
        return stream.frames or None
    return None


def read_frames(path: str | pathlib.Path, *, tolerant: bool = False) -> Iterator[Frame]:
    """Every frame of a video file, or of a folder of images in the order of their names, numbers in them as numbers.

    Decodes from the start, once: stated frame counts and seeking are not to be trusted in the wild. One frame is held at a time.
    A file of recordings that were joined byte by byte is read whole where FFmpeg does that, or refused.

    Args:
        path: the video or the folder.
        tolerant: damaged frames come marked; otherwise the first is an error.

    Raises:
        DamagedError: a frame is damaged or cannot be decoded, or the file breaks off.
        InputError: the path is missing, is no video, has no frame, or its frames change size.
    """
    path = pathlib.Path(path)
    what = f'no image ({", ".join(IMAGE_SUFFIXES)})' if path.is_dir() else 'no frame'
    frames = _image_frames(path, tolerant) if _is_images(path) else _file_frames(path, tolerant)
    yield from checked_frames(frames, str(path), what)


def checked_frames(frames: Iterator[Frame], name: str, what: str = 'no frame') -> Iterator[Frame]:
    """The same frames. Raises `InputError` where their size changes, or where there is none."""
    size = None
    for count, frame in enumerate(frames):
        shape = frame.image.shape
        size = size or shape
        if shape != size:
            raise InputError(f'{name}: frame {count} is {shape[1]}x{shape[0]}, the first is {size[1]}x{size[0]}')
        yield frame
    if size is None:
        raise InputError(f'{name}: {what} in it')


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of a folder, by name, numbers in it as numbers, without folders. Raises `InputError` where it cannot be read."""
    with explained():
        return sorted((file for file in _image_names(folder) if not file.is_dir()), key=_in_order)


def _image_names(folder: pathlib.Path) -> list[pathlib.Path]:
    return [each for each in folder.iterdir() if each.suffix.lower() in IMAGE_SUFFIXES and not each.name.startswith('.')]


def _in_order(file: pathlib.Path) -> tuple[list[str | int], str]:
    """A key that sorts `frame2` before `frame10`; of equal numbers, as `2` and `02`, the text decides."""
    return [int(part) if n % 2 else part for n, part in enumerate(re.split('([0-9]+)', file.stem))], file.name


def _is_images(path: pathlib.Path) -> bool:
    return path.is_dir() or path.suffix.lower() in _JPEG


def _image_frames(path: pathlib.Path, tolerant: bool) -> Iterator[Frame]:
    if path.is_dir():
        with explained():
            for file in _image_names(path):
                if file.is_dir():
                    _warn_once(f'{file}: a folder, left out of the images of {path}')
    for number, file in enumerate(image_files(path) if path.is_dir() else [path]):
        data = read_file(file, 'image' if path.is_dir() else _MEDIA)
        image, damage = decode_checked(data, str(file))
        if damage and not tolerant:
            raise damage
        yield Frame(image, number / DEFAULT_RATE, damage is not None)


@functools.cache
def _warn_once(text: str) -> None:
    """A video may be read twice."""
    print(f'warning: {text}', file=sys.stderr)


def _file_frames(path: pathlib.Path, tolerant: bool) -> Iterator[Frame]:
    require_file(path, _MEDIA)
    with decoding.opened(decoding.file_url(path), str(path)) as (container, stream):
        if (start := second_recording(path)) is not None:
            raise InputError(
                f'{path}: another recording begins at byte {start:,}, and players show the first only; '
                f'take them apart: head -c {start} and tail -c +{start + 1}'
            )
        yield from decoding.decoded_frames(container, stream, str(path), tolerant)
