"""What `predict` may be given: files, folders, webcams, addresses of streams and standard input."""

import dataclasses
import functools
import itertools
import os
import pathlib
import queue
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

from kimnet_jax.core import decoding
from kimnet_jax.core.decoding import DEFAULT_RATE, Frame
from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.files import check_pixels, shortened
from kimnet_jax.core.image import opencv
from kimnet_jax.core.video import checked_frames, frame_rate, read_frames, stated_frame_count

STDIN = '-'
_ADDRESS = re.compile(r'([a-z][a-z0-9+.-]*)://', re.IGNORECASE)
_PROTOCOLS = ('http', 'https', 'rtsp', 'rtsps', 'rtmp', 'rtmps', 'udp', 'rtp', 'tcp', 'srt')
_STEM = 200  # bytes; file systems allow names of 255
_TIMEOUT = 10.0  # seconds without data
_OPENING = 14.0  # seconds, the look-up of the name included, which nothing else ends


@dataclasses.dataclass(frozen=True)
class Source:
    """Where frames come from.

    Attributes:
        name: what messages and files call it; without the password that an address may have.
        stem: the name of its output files, without a suffix; short enough for one.
        path: the file or folder, None for anything else.
        frames: reads it (`core.video.read_frames`); the argument is whether damaged frames come marked.
        stated_rate: frames per second, as far as known before it is read; None where only the times of the frames will tell.
        stated_count: of its frames: a hint, None where it does not say.
    """

    name: str
    stem: str
    path: pathlib.Path | None
    frames: Callable[[bool], Iterator[Frame]]
    stated_rate: Callable[[], float | None] = lambda: None
    stated_count: Callable[[], int | None] = lambda: None

    @property
    def readable_again(self) -> bool:
        """Whether `frames` can be called more than once."""
        return self.path is not None


def open_source(text: str, *, stdin_size: str | None = None, stdin_rate: float | None = None) -> Source:
    """The source that a command line names. Nothing is opened before its frames are read.

    Args:
        text: a file or folder; the number of a webcam (`0`) or its device (`/dev/video0`); an address
            (http, https, rtsp, rtsps, rtmp, rtmps, udp, rtp, tcp, srt); or `-` for standard input, which has any container that
            needs no seeking, as Matroska or MPEG-TS.
        stdin_size: `WIDTHxHEIGHT`: standard input has raw frames of that size instead, 3 bytes a pixel, R G B.
        stdin_rate: of those, in frames per second; None: `DEFAULT_RATE`.

    Raises:
        InputError: a protocol, size or rate that cannot be.
    """
    if text != STDIN and (stdin_size or stdin_rate):
        raise InputError(f'--stdin_size and --stdin_rate are of raw frames from standard input, `{STDIN}`, not of {text}')
    path = pathlib.Path(text)
    if text == STDIN:
        return _stdin(stdin_size, stdin_rate)
    if os.path.lexists(path) and not _camera_of(text):
        return _file(path)
    if (camera := _camera_of(text) or (text if re.fullmatch(r'\d{1,3}', text) else '')) != '':
        return Source(f'webcam {camera}', f'webcam_{camera}', None, lambda _: _webcam_frames(int(camera)))
    if address := _ADDRESS.match(text):
        if address[1].lower() not in _PROTOCOLS:
            raise InputError(f'{_public(text)}: {address[1]} is none of {", ".join(_PROTOCOLS)}; download it and give the file')
        name = _public(text)
        return Source(name, _stem(name), None, lambda tolerant: _live_frames(text, name, tolerant))
    return _file(path)


def _file(path: pathlib.Path) -> Source:
    return Source(
        str(path),
        shortened(path.resolve().name if path.is_dir() else path.stem, _STEM),
        path,
        lambda tolerant: read_frames(path, tolerant=tolerant),
        functools.partial(frame_rate, path),
        functools.partial(stated_frame_count, path),
    )


def _camera_of(text: str) -> str:
    device = re.fullmatch(r'/dev/video(\d+)', text)
    return device[1] if device else ''


def _public(address: str) -> str:
    """An address without user and password."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition('@')[2]))


def _stem(address: str) -> str:
    parts = urllib.parse.urlsplit(address)
    name = f'{parts.netloc}{parts.path}'
    return re.sub(r'[^A-Za-z0-9.-]+', '_', name).strip('_.')[:_STEM] or 'stream'


def _live_frames(address: str, name: str, tolerant: bool) -> Iterator[Frame]:
    """The frames of an address, until its end; one that breaks off later is told of, as it cannot be read again."""
    container = _within(_OPENING, functools.partial(decoding.open_container, address, name, timeout=_TIMEOUT), name)
    count = 0
    with container:
        try:
            frames = decoding.decoded_frames(container, decoding.video_stream(container, name), name, tolerant)
            for frame in checked_frames(frames, name):
                count += 1
                yield frame
        except DamagedError as error:
            if not count or not tolerant:
                raise
            print(f'warning: {error}; it ends there', file=sys.stderr)


def _within(seconds: float, call: Callable[[], Any], name: str) -> Any:
    """What `call` returns or raises. Raises `InputError` where that takes longer: the look-up of a host heeds no timeout."""
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise InputError(f'{name}: no answer within {seconds:g} seconds; check the address and the network') from None
    if error is not None:
        raise error
    return value


def _webcam_frames(number: int) -> Iterator[Frame]:
    cv2 = opencv()
    name = f'webcam {number}'
    camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise InputError(f'{name}: cannot be opened; see with `ls -l /dev/video*` whether it is there and yours to read')
        yield from checked_frames(_captured(camera), name)
    finally:
        camera.release()


def _captured(camera: Any) -> Iterator[Frame]:
    """Frames at the times at which they arrive."""
    cv2, start = opencv(), None
    while True:
        read, image = camera.read()
        if not read:
            return
        now = time.monotonic()
        start = now if start is None else start
        yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), now - start)


def _stdin(size: str | None, rate: float | None) -> Source:
    if size is None:
        if rate is not None:
            raise InputError('--stdin_rate is of raw frames; give --stdin_size=WIDTHxHEIGHT, too')
        return Source(STDIN, 'stdin', None, _piped_frames)
    found = re.fullmatch(r'([1-9]\d{0,5})x([1-9]\d{0,5})', size)
    if not found:
        raise InputError(f'--stdin_size={size}: must be WIDTHxHEIGHT in pixels, as 640x480')
    if rate is not None and not 0 < rate < float('inf'):
        raise InputError(f'--stdin_rate={rate}: must be a positive number of frames per second')
    columns, rows = int(found[1]), int(found[2])
    check_pixels(rows, columns, f'--stdin_size={size}')
    frames_per_second = rate or DEFAULT_RATE
    return Source(
        STDIN,
        'stdin',
        None,
        lambda _: checked_frames(_raw_frames(rows, columns, frames_per_second), STDIN),
        lambda: frames_per_second,
    )


def _open_stdin(buffering: int) -> IO[bytes]:
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError(f'{STDIN}: standard input is the terminal; pipe a video into the command')
    return os.fdopen(os.dup(sys.stdin.fileno()), 'rb', buffering)


def _piped_frames(tolerant: bool) -> Iterator[Frame]:
    with _open_stdin(0) as file:  # without a buffer, which would wait until it is full
        try:
            with decoding.opened(file, STDIN) as (container, stream):
                yield from checked_frames(decoding.decoded_frames(container, stream, STDIN, tolerant), STDIN)
        except DamagedError as error:
            if file.seekable():
                raise
            raise DamagedError(f'{error}; of a pipe, MP4 cannot be read: pipe Matroska (ffmpeg ... -f matroska -)') from error


def _raw_frames(rows: int, columns: int, rate: float) -> Iterator[Frame]:
    length = rows * columns * 3
    with _open_stdin(-1) as file:
        for count in itertools.count():
            data = file.read(length)
            if not data:
                return
            if len(data) < length:
                raise DamagedError(
                    f'{STDIN}: breaks off in frame {count} ({len(data)} of {length} bytes); is it rgb24 of --stdin_size?'
                )
            yield Frame(np.frombuffer(data, np.uint8).reshape(rows, columns, 3), count / rate)
