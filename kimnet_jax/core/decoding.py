"""What FFmpeg reads, opened and decoded frame by frame. PyAV is imported on first use, here and nowhere else in `core`."""

import collections
import contextlib
import functools
import itertools
import logging
import pathlib
import re
import statistics
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from kimnet_jax.core.display import HELD_BACK, Clock, shown_image
from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.files import MAX_PIXELS, check_pixels, limit

DEFAULT_RATE = 25.0  # frames per second where the source names none (a folder of images)
_PLAUSIBLE_RATE = (1.0, 240.0)  # where there are no times to compare it with
_PACKETS_MEASURED = 1000
_FAR = 1.9  # times; fields for frames are twice as many
_NO_VIDEO = 1 << 10 | 1 << 11  # FFmpeg's flags of a stream that is a picture: cover art, thumbnails
_CLOCKS_JUMP = 1 << 9  # its flag of formats such as MPEG-TS
_SKIPPED = 'Skipping invalid undecodable NALU'  # what the decoder of HEVC calls a warning, and what leaves a hole
_ZEROS, _FORBIDDEN = bytes(64), re.compile(rb'\0\0[\0-\2]')  # escapes keep the latter out of H.264 and HEVC
_STRICT = {'err_detect': 'crccheck+bitstream+buffer'}  # checksums and impossible codes are looked at; no false alarm is known


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        image: uint8 [H, W, 3] RGB, as players show it: upright, with square pixels. Coordinates are in pixels of this image.
        time: seconds at which it is shown, after the first frame; larger than that of the frame before.
        damaged: whether it is not as it was filmed: the decoder had to conceal an error in it, or in a frame it may be built on.
    """

    image: np.ndarray
    time: float
    damaged: bool = False


@functools.cache
def _pyav() -> Any:
    """PyAV, whose decoders' complaints can be caught; what is not caught stays unsaid."""
    import av
    import av.logging
    import av.video.reformatter

    logging.getLogger('libav').addHandler(logging.NullHandler())
    logging.getLogger('libav').propagate = False
    av.logging.set_level(av.logging.WARNING)
    av.logging.set_skip_repeated(False)
    return av


def file_url(path: pathlib.Path) -> str:
    """What FFmpeg takes for this file whatever is in its name: `a:b` would be a protocol."""
    return f'file:{path}'


def open_container(source: str | IO[bytes], name: str, *, timeout: float | None = None) -> Any:
    """An open `av.container.InputContainer`.

    Args:
        source: `file_url`, another address, or an open file, which need not be seekable.
        name: what errors call it.
        timeout: seconds to wait for data.

    Raises:
        DamagedError: FFmpeg cannot read it.
    """
    av = _pyav()
    try:
        return av.open(source, options=_STRICT, timeout=timeout, metadata_errors='replace')  # titles may be in any encoding
    except av.FFmpegError as error:
        raise DamagedError(f'{name}: not a readable video ({_reason(error)})') from error


def _reason(error: Any) -> str:
    return 'no data came in time' if isinstance(error, _pyav().error.ExitError) else error.strerror


def video_stream(container: Any, name: str) -> Any:
    """The video of an open container. Raises `InputError` where it has none, no decoder for it, or too many pixels."""
    streams = [each for each in container.streams.video if not each.disposition & _NO_VIDEO]
    if not streams:
        pictures = ', only cover art' if container.streams.video else ''
        raise InputError(f'{name}: no video stream in it{pictures}')
    stream = streams[0]
    if stream.codec_context is None:
        raise InputError(f'{name}: no decoder for its video stream; convert it, to H.264 for example')
    check_pixels(stream.codec_context.height, stream.codec_context.width, name)
    return stream


@contextlib.contextmanager
def opened(source: str | IO[bytes], name: str) -> Iterator[tuple[Any, Any]]:
    """`open_container` and its `video_stream`."""
    with open_container(source, name) as container:
        yield container, video_stream(container, name)


def stated_rate(stream: Any) -> float | None:
    """Frames per second by the header, where it says something that can be."""
    rate = float(stream.average_rate or 0)
    return rate if _PLAUSIBLE_RATE[0] <= rate <= _PLAUSIBLE_RATE[1] else None


def rate_of(container: Any, stream: Any) -> float:
    """Frames per second by the header, unless the times of the packets, which this reads, are far from it: then by their median.

    `DEFAULT_RATE` where neither says anything.
    """
    av = _pyav()
    times: list[float] = []
    with contextlib.suppress(av.FFmpegError):  # whoever decodes it will say so
        for packet in itertools.islice(container.demux(stream), _PACKETS_MEASURED):
            time = packet.pts if packet.dts is None else packet.dts
            if time is not None:
                times.append(float(time * packet.time_base))
    steps = [after - before for before, after in itertools.pairwise(times) if after > before]
    stated = float(stream.average_rate or 0)
    if not steps:
        return stated_rate(stream) or DEFAULT_RATE
    measured = 1 / statistics.median(steps)
    return stated if measured / _FAR < stated < measured * _FAR else measured


def decoded_frames(container: Any, stream: Any, name: str, tolerant: bool) -> Iterator[Frame]:
    """The frames of an open container, as `core.video.read_frames` describes them.

    Of a recording that begins between two key frames, those before the first are left out: they are built on what is not there.

    Raises:
        DamagedError: a frame is damaged or cannot be decoded (unless `tolerant`), or the end is cut off.
        InputError: as `shown_image`.
    """
    av = _pyav()
    context, aspect = stream.codec_context, stream.sample_aspect_ratio
    reformatter = av.video.reformatter.VideoReformatter()
    context.options = _STRICT | {'max_pixels': str(limit(MAX_PIXELS))}
    context.thread_count = 1  # in a thread of its own the decoder's complaints would be those of any video
    clock = Clock(stated_rate(stream) or DEFAULT_RATE, bool(container.format.flags & _CLOCKS_JUMP))
    unordered = container.format.name == 'avi'  # which knows no times of B-frames: FFmpeg gives them those of others
    packets, beginning, damage = _packets(container, stream), _Beginning(), _Damage()
    count, latest = 0, None
    failure: _Failure | None = None  # of a packet whose frame and those after it have not come
    try:
        while True:
            with av.logging.Capture() as said:  # (level, decoder, text) each
                packet, missing, cut = next(packets, (None, False, False))
                if packet is None:
                    break
                if cut:  # some decoders drop it without a word
                    raise DamagedError(
                        f'{name}: breaks off near frame {count}; the file is damaged or incomplete, download it again'
                    )
                counts = beginning.is_over(packet)
                found = ['data is missing'] if missing else []
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    if counts and not tolerant:
                        raise
                    frames, found = [], [*found, error.strerror]
                    failure = _Failure(packet.pts, count, error) if counts else failure
            found += [text.strip() for level, _, text in said if level <= av.logging.ERROR or text.startswith(_SKIPPED)]
            if packet.size and (impossible := _impossible(bytes(packet), context)):
                found.append(impossible)
            if found and counts:
                damage.add(packet.pts, found[0])
            if packet.dts is not None:
                if latest is not None and packet.dts < latest:
                    clock.restart()
                latest = packet.dts
            for frame in frames:
                if not beginning.shows(frame):
                    continue
                damaged = damage.of(frame, frame.pict_type == av.video.frame.PictureType.B)
                if damaged and not tolerant:
                    raise DamagedError(f'{name}: frame {count} is damaged ({damaged}); download the file again')
                image = shown_image(frame, aspect, name, reformatter)
                stamp = frame.dts if unordered else frame.pts
                seconds = None if stamp is None or not frame.time_base else float(stamp * frame.time_base)
                yield Frame(image, clock(seconds), bool(damaged))
                count += 1
                if failure and failure.is_over(frame.pts, count):
                    failure = None
        if failure:
            raise failure.error
    except av.FFmpegError as error:
        raise DamagedError(f'{name}: cannot be decoded after frame {count} ({_reason(error)}); the file is damaged') from error
    if beginning.lasts():
        raise DamagedError(f'{name}: no key frame in it, so none can be decoded; record it anew')
    if damage.left() and not tolerant:
        raise DamagedError(f'{name}: damaged ({damage.left()}); download the file again')


class _Beginning:
    """Of a recording that begins between two key frames, what is built on frames that are not there."""

    def __init__(self) -> None:
        self._waiting: bool | None = None  # for the first key frame; None before the first packet
        self._between = False  # the first packet was none
        self._keys, self._first_key = 0, None

    def is_over(self, packet: Any) -> bool:
        """Whether the decoder's trouble with a packet counts. Before the first key frame is shown, it does not."""
        if self._waiting is None:
            self._waiting = self._between = not packet.is_keyframe
        if packet.is_keyframe:
            self._keys += 1
            self._first_key = packet.pts if self._keys == 1 else self._first_key
        if not self._keys:
            return not self._between
        if self._keys > 1 or packet.is_keyframe:
            return True
        if None in (packet.pts, self._first_key):
            return not self._between
        return packet.pts > self._first_key

    def shows(self, frame: Any) -> bool:
        """Whether a frame is whole: the first key frame, or after it."""
        self._waiting = self._waiting and not frame.key_frame
        return not self._waiting

    def lasts(self) -> bool:
        """Whether there was a packet, but no frame to show."""
        return bool(self._waiting)


class _Damage:
    """Which frames are damaged, by what the decoder says of packets: not every decoder marks the frames itself."""

    def __init__(self) -> None:
        self._complaints: dict[int | None, str] = {}  # by the time of the frame
        self._resting = ''  # until the next key frame

    def add(self, pts: int | None, complaint: str) -> None:
        """Notes a complaint about the packet of the frame at `pts`."""
        self._complaints[pts] = complaint

    def of(self, frame: Any, is_b: bool) -> str:
        """What is wrong with the next frame that is shown, '' where nothing is."""
        due = {time: self._complaints[time] for time in self._complaints if None in (time, frame.pts) or time <= frame.pts}
        for time in due:
            del self._complaints[time]
        lost = [due.pop(time) for time in [*due] if frame.key_frame and None not in (time, frame.pts) and time < frame.pts]
        own = [*due.values()]
        if frame.is_corrupt:
            own += [*self._complaints.values(), 'an error was concealed']
            self._complaints.clear()
        if own or frame.key_frame:
            self._resting = own[0] if own else ''
        built_on = [*self._complaints.values()] if is_b else []
        return next(iter([*lost, *filter(None, [self._resting]), *built_on]), '')  # of lost ones the next frame tells

    def left(self) -> str:
        """What is wrong with frames that have not come."""
        return next(iter(self._complaints.values()), '')


def _packets(container: Any, stream: Any) -> Iterator[tuple[Any, bool, bool]]:
    """Every packet, whether data is missing in it, and whether it is the end of a file that was cut off there."""
    packets = iter(container.demux(stream))
    ahead: collections.deque[Any] = collections.deque()
    while packet := ahead.popleft() if ahead else next(packets, None):
        missing = cut = packet.is_corrupt
        if missing:
            ahead.extend(itertools.islice(packets, 2 - len(ahead)))
            cut = not any(each.size for each in ahead)  # the last packets are empty
            # where recordings in MPEG-TS are joined, its counters begin anew, and the times do
            missing = not any(None not in (packet.dts, each.dts) and each.dts < packet.dts for each in ahead)
        yield packet, missing, cut


class _Failure(NamedTuple):
    """A packet that could not be decoded: its time, how many frames had come, and the decoder's error."""

    pts: int | None
    frames: int
    error: Exception

    def is_over(self, pts: int | None, frames: int) -> bool:
        """Whether frames go on after it: one of a later time has come, or more than a decoder holds back."""
        return self.pts is None or pts is None or pts >= self.pts or frames - self.frames > HELD_BACK


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
