"""Frames of a video file or of a folder of images, one at a time. PyAV is imported on first use."""

import functools
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.files import MAX_PIXELS, check_pixels, explained, limit, read_file, require_file
from kimnet_jax.core.image import check_jpeg, decode_image

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
DEFAULT_RATE = 25.0  # frames per second where the source names none (a folder of images)
_SKIPPED = 'Skipping invalid undecodable NALU'  # what the decoder of HEVC calls a warning, and what leaves a hole
_ZEROS, _FORBIDDEN = bytes(64), re.compile(rb'\0\0[\0-\2]')  # escapes keep the latter out of H.264 and HEVC
_STRICT = {'err_detect': 'crccheck+bitstream+buffer'}  # checksums and impossible codes are looked at; no false alarm is known


def frame_rate(path: str | pathlib.Path) -> float:
    """Frames per second that a video file states; `DEFAULT_RATE` for a folder of images. Raises `InputError`."""
    path = pathlib.Path(path)
    if path.is_dir():
        return DEFAULT_RATE
    with _open(path) as container:
        rate = container.streams.video[0].average_rate
    return float(rate) if rate else DEFAULT_RATE


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        image: uint8 [H, W, 3] RGB, as players show it.
        time: seconds at which it is shown, after the first frame.
        damaged: whether it is not as it was filmed: the decoder had to conceal an error in it, or in a frame it may be built on.
    """

    image: np.ndarray
    time: float
    damaged: bool = False


def read_frames(path: str | pathlib.Path, *, tolerant: bool = False) -> Iterator[Frame]:
    """Every frame of a video file, or of a folder of images in the order of their names.

    Decodes from the start, once: stated frame counts and seeking are not to be trusted in the wild. One frame is held at a time.

    Args:
        path: the video or the folder.
        tolerant: damaged frames come marked; otherwise the first is an error.

    Raises:
        DamagedError: a frame is damaged or cannot be decoded, or the file breaks off.
        InputError: the path is missing, is no video, has no frame, or its frames change size.
    """
    path = pathlib.Path(path)
    size, count = None, 0
    for frame in _folder_frames(path, tolerant) if path.is_dir() else _video_frames(path, tolerant):
        shape = frame.image.shape
        if size is None:
            size = shape
        elif shape != size:
            raise InputError(f'{path}: frame {count} is {shape[1]}x{shape[0]}, the first is {size[1]}x{size[0]}')
        count += 1
        yield frame
    if not count:
        what = f'no image ({", ".join(IMAGE_SUFFIXES)})' if path.is_dir() else 'no frame'
        raise InputError(f'{path}: {what} in it')


def image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of a folder, by name. Raises `InputError` where it cannot be read."""
    with explained():
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith('.'))


def _folder_frames(folder: pathlib.Path, tolerant: bool) -> Iterator[Frame]:
    for number, file in enumerate(image_files(folder)):
        data = read_file(file, 'image')
        image, damaged = decode_image(data, str(file)), False
        try:
            check_jpeg(data, str(file))
        except DamagedError:
            if not tolerant:
                raise
            damaged = True
        yield Frame(image, number / DEFAULT_RATE, damaged)


@functools.cache
def _pyav() -> Any:
    """PyAV, whose decoders' complaints can be caught; what is not caught stays unsaid."""
    import av
    import av.logging

    logging.getLogger('libav').addHandler(logging.NullHandler())
    logging.getLogger('libav').propagate = False
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    return av


def _open(path: pathlib.Path) -> Any:
    av = _pyav()
    require_file(path, 'video file or folder of images')
    try:
        container = av.open(str(path), options=_STRICT, metadata_errors='replace')  # titles may be in any encoding
    except av.FFmpegError as error:
        raise DamagedError(f'{path}: not a readable video ({error.strerror})') from error
    if not container.streams.video:
        container.close()
        raise InputError(f'{path}: no video stream in it')
    if container.streams.video[0].codec_context is None:
        container.close()
        raise InputError(f'{path}: no decoder for its video stream; convert it, to H.264 for example')
    context = container.streams.video[0].codec_context
    try:
        check_pixels(context.height, context.width, str(path))
    except InputError:
        container.close()
        raise
    return container


def _video_frames(path: pathlib.Path, tolerant: bool) -> Iterator[Frame]:
    av = _pyav()
    with _open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        context.options = _STRICT | {'max_pixels': str(limit(MAX_PIXELS))}
        context.thread_count = 1  # in a thread of its own the decoder's complaints would be those of any video
        packets = iter(container.demux(stream))
        rate = float(stream.average_rate or DEFAULT_RATE)
        count, resting = 0, ''
        complaints: dict[int | None, str] = {}  # by the time of the frame: not every decoder marks it itself
        try:
            while True:
                with av.logging.Capture() as said:  # (level, decoder, text) each
                    packet = next(packets, None)
                    if packet is None:
                        break
                    if packet.is_corrupt:  # cut short: some decoders drop it without a word
                        raise DamagedError(
                            f'{path}: breaks off near frame {count}; the file is damaged or incomplete, download it again'
                        )
                    frames = packet.decode()
                serious = [text.strip() for level, _, text in said if level <= av.logging.ERROR or text.startswith(_SKIPPED)]
                if packet.size and (impossible := _impossible(bytes(packet), context)):
                    serious.append(impossible)
                if serious:
                    complaints[packet.pts] = serious[0]
                for frame in frames:
                    due = [time for time in complaints if None in (time, frame.pts) or time <= frame.pts]
                    found = [complaints.pop(time) for time in due]
                    if frame.is_corrupt:
                        found = [*found, *complaints.values(), 'an error was concealed']
                        complaints.clear()
                    if found or frame.key_frame:
                        resting = found[0] if found else ''
                    built_on = frame.pict_type == av.video.frame.PictureType.B and bool(complaints)
                    damaged = bool(resting) or built_on
                    if damaged and not tolerant:
                        why = resting or next(iter(complaints.values()))
                        raise DamagedError(f'{path}: frame {count} is damaged ({why}); download the file again')
                    image = frame.to_ndarray(format='rgb24')
                    upright = np.ascontiguousarray(np.rot90(image, frame.rotation // 90))  # phones film them lying down
                    yield Frame(upright, count / rate, damaged)
                    count += 1
        except av.FFmpegError as error:
            raise DamagedError(
                f'{path}: cannot be decoded after frame {count} ({error.strerror}); the file is damaged'
            ) from error
        if complaints and not tolerant:
            raise DamagedError(f'{path}: damaged ({next(iter(complaints.values()))}); download the file again')


def _impossible(data: bytes, context: Any) -> str:
    """What no encoder writes and decoders do not notice in a packet, '' where there is nothing: blocks that became zeros."""
    if context.name in ('vp8', 'vp9', 'libdav1d') and _ZEROS in data:
        return 'a block of zeros'
    header = context.extradata or b''
    if context.name not in ('h264', 'hevc') or header[:1] != b'\x01':  # lengths before the units of an mp4 or mkv
        return ''
    width, start = (header[4] if context.name == 'h264' else header[21]) % 4 + 1, 0
    while start < len(data):
        end = start + width + int.from_bytes(data[start : start + width])
        if end > len(data) or end == start + width:
            return 'a length that does not fit'
        if _FORBIDDEN.search(data, start + width, end):
            return 'a start code inside of a unit'
        start = end
    return ''
