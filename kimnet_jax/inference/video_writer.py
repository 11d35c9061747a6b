"""The mp4 file that drawn frames go into."""

import fractions
import io
import pathlib
from typing import IO

import av
import numpy as np

_TICKS = 90_000  # a second; the common durations of a frame are whole numbers of these
_LOWEST_RATE = fractions.Fraction(1, 1001)  # what the encoder is told; the times count
ENCODER = {'bf': '0', 'preset': 'veryfast', 'crf': '20'}  # twice as fast as x264's own preset, for files a quarter larger
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers of matrix, primaries and transfer, and of the range


class VideoWriter:
    """An mp4 file (H.264), frame by frame, that browsers play: its index comes first, its colours are BT.709 and say so.

    An odd row or column is repeated, as H.264's 4:2:0 needs even sizes.
    """

    def __init__(self, file: IO[bytes], rate: float):
        """Writes into an open, seekable binary file; `rate` in frames per second, of frames that come without their time."""
        self._step = 1 / rate
        self._first = self._time = 0.0
        self._pts: int | None = None
        self._duration = max(1, round(self._step * _TICKS))
        self._held: av.Packet | None = None
        self._container = av.open(
            _Nameless(file), 'w', format='mp4', options={'movflags': '+faststart'}, io_open=lambda *_: _second_reader(file)
        )
        stated = max(fractions.Fraction(rate).limit_denominator(1001), _LOWEST_RATE)
        # without B-frames the last packet is the frame that is shown last, and the first one is shown at 0
        self._stream = self._container.add_stream('libx264', rate=stated, options=ENCODER)
        self._stream.pix_fmt = 'yuv420p'
        context = self._stream.codec_context
        context.time_base = fractions.Fraction(1, _TICKS)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Appends a frame.

        Args:
            frame: uint8 [H, W, 3] RGB; all are of one size.
            time: seconds at which it is shown, later than the frame before; the first one's is where the file begins. None: as
                long after the frame before as the rate says.
        """
        rows, columns = frame.shape[:2]
        if self._pts is None:
            self._stream.height, self._stream.width = rows + rows % 2, columns + columns % 2
            self._first = self._time = 0.0 if time is None else time
            self._pts = 0
        else:
            self._time = self._time + self._step if time is None else time
            pts = max(self._pts + 1, round((self._time - self._first) * _TICKS))
            self._duration, self._pts = pts - self._pts, pts
        if rows % 2 or columns % 2:
            frame = np.pad(frame, ((0, rows % 2), (0, columns % 2), (0, 0)), mode='edge')
        picture = av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(
            format='yuv420p', dst_colorspace=_BT709, dst_color_range=_LIMITED
        )
        picture.color_primaries = picture.color_trc = _BT709
        picture.pts, picture.time_base = self._pts, fractions.Fraction(1, _TICKS)
        self._mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Writes what is still held back; without it the file is no video. The last frame is shown as long as the one before."""
        self._mux(self._stream.encode())
        if self._held is not None:
            self._held.duration = self._duration
            self._container.mux(self._held)
        self._container.close()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            if self._held is not None:
                self._container.mux(self._held)
            self._held = packet


def _second_reader(file: IO[bytes]) -> 'IO[bytes] | _Elsewhere':
    """The same file once more, to be read while it is written: FFmpeg moves the pictures to make room for the index."""
    file.flush()
    return _Elsewhere(file) if isinstance(file, io.BytesIO) else pathlib.Path(file.name).open('rb')


class _Nameless:
    """A file whose name PyAV does not see: it takes none that is no valid Unicode."""

    def __init__(self, file: IO[bytes]):
        self.write, self.seek, self.tell = file.write, file.seek, file.tell


class _Elsewhere:
    """A second position in a file in memory."""

    def __init__(self, file: IO[bytes]):
        self._file, self._position = file, 0

    def read(self, size: int) -> bytes:
        there = self._file.tell()
        self._file.seek(self._position)
        data = self._file.read(size)
        self._file.seek(there)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        there = self._file.tell()
        self._file.seek(self._position)
        self._position = self._file.seek(offset, whence)
        self._file.seek(there)
        return self._position

    def tell(self) -> int:
        return self._position
