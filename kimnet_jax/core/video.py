"""Frames of a video file or of a folder of images, one at a time. PyAV is imported on first use."""

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
DEFAULT_RATE = 25.0  # frames per second where the source names none (a folder of images)


def frame_rate(path: str | pathlib.Path) -> float:
    """Frames per second that a video file states; `DEFAULT_RATE` for a folder of images. Raises `InputError`."""
    path = pathlib.Path(path)
    if path.is_dir():
        return DEFAULT_RATE
    with _open(path) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) if rate else DEFAULT_RATE


def read_frames(path: str | pathlib.Path) -> Iterator[np.ndarray]:
    """Every frame of a video file, or of a folder of images in the order of their names, as uint8 [H, W, 3] RGB.

    Decodes from the start, once: stated frame counts and seeking are not to be trusted in the wild. One frame is held at a time.

    Raises:
        InputError: the path is missing, is no video, has no frame, breaks off, or its frames change size.
    """
    path = pathlib.Path(path)
    size, count = None, 0
    for frame in _folder_frames(path) if path.is_dir() else _video_frames(path):
        if size is None:
            size = frame.shape
        elif frame.shape != size:
            raise InputError(f'{path}: frame {count} is {frame.shape[1]}x{frame.shape[0]}, the first is {size[1]}x{size[0]}')
        count += 1
        yield frame
    if not count:
        what = f'no image ({", ".join(IMAGE_SUFFIXES)})' if path.is_dir() else 'no frame'
        raise InputError(f'{path}: {what} in it')


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith('.'))


def _folder_frames(folder: pathlib.Path) -> Iterator[np.ndarray]:
    for file in image_files(folder):
        yield decode_image(file.read_bytes(), str(file))


def _open(path: pathlib.Path) -> Any:
    import av

    if not path.is_file():
        raise InputError(f'{path}: no such video file or folder of images')
    try:
        container = av.open(str(path))
    except av.FFmpegError as error:
        raise InputError(f'{path}: not a readable video ({error.strerror})') from error
    if not container.streams.video:
        container.close()
        raise InputError(f'{path}: no video stream in it')
    return container


def _video_frames(path: pathlib.Path) -> Iterator[np.ndarray]:
    import av

    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = 'AUTO'
        count = 0
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:  # cut short: some decoders drop it without a word
                    raise InputError(f'{path}: breaks off near frame {count}; the file is damaged or incomplete, fetch it again')
                for frame in packet.decode():
                    image = frame.to_ndarray(format='rgb24')
                    yield np.ascontiguousarray(np.rot90(image, frame.rotation // 90))  # phones film upright pictures lying down
                    count += 1
        except av.FFmpegError as error:
            raise InputError(f'{path}: cannot be decoded after frame {count} ({error.strerror}); the file is damaged') from error
