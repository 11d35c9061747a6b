"""A decoded frame as players show it: its colours, its shape, which way up it is, and when. Frames are PyAV's."""

import fractions
import math
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import check_pixels

_SNAP = 1.0  # degrees: nearer to a right angle than this, FFmpeg takes it for one
_BILINEAR, _EXACT = (
    0x2,
    0x42000,
)  # of swscale; without the latter (SWS_FULL_CHR_H_INT, SWS_ACCURATE_RND) deep colours end too dark
_LIMITED = 1  # FFmpeg's number of a range whose black and white are 16 and 235
_BT709, _BT601, _BT2020 = 1, 5, 9  # and of matrices
_MATRICES = {0, 1, 4, 5, 6, 7, 9}  # that swscale knows
_STAND_INS = {10: _BT2020, 12: _BT709, 13: _BT2020}  # of constant luminance or derived from the primaries: near enough
_FOREIGN = {8: 'YCgCo', 11: 'YDzDx', 14: 'ICtCp', 15: 'IPT-C2', 16: 'YCgCo-Re', 17: 'YCgCo-Ro'}
HELD_BACK = 16  # frames; more than that no decoder puts in order
_SQUEEZED = 4  # frames in a row, before the next; where more have no later time, it stands still and means nothing
_DISCONTINUITY = 10.0  # seconds; a gap longer than that is one in formats whose clocks may jump, as for the command `ffmpeg`


def shown_image(frame: Any, aspect: fractions.Fraction | None, name: str, reformatter: Any) -> np.ndarray:
    """The pixels of a decoded frame as players show them.

    The tagged range and matrix give the colours; without a tag, the matrix is BT.601 up to 1279x576 pixels and BT.709 beyond.
    Pixels become square by a change of the width. Then the frame is turned and mirrored by its display matrix. An alpha channel
    is left out, and high dynamic range is not mapped to a lower one.

    Args:
        frame: `av.VideoFrame`.
        aspect: width through height of a stored pixel; None or 0: square.
        name: of the file, for errors.
        reformatter: `av.video.reformatter.VideoReformatter`, one for all frames: it is set up once.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        InputError: the angle is no right angle, the colours are of a kind that cannot be converted, or the frame is too large.
    """
    width = max(1, round(frame.width * aspect)) if aspect else frame.width
    check_pixels(frame.height, width, name)
    how = _BILINEAR | _EXACT if frame.format.components[0].bits > 8 else _BILINEAR
    matrix = _matrix(frame, name)
    size = {'width': width, 'height': frame.height}
    image = reformatter.reformat(frame, format='rgb24', **size, src_colorspace=matrix, interpolation=how).to_ndarray()
    if frame.color_range == _LIMITED and frame.format.name.startswith('gray'):  # swscale takes every grey for full range
        image = np.rint(np.clip((image.astype(np.float32) - 16) * (255 / 219), 0, 255)).astype(np.uint8)
    return np.ascontiguousarray(oriented(image, _display_matrix(frame), name))


def _matrix(frame: Any, name: str) -> int:
    tagged = frame.colorspace
    if tagged in _MATRICES:
        return tagged
    if tagged in _FOREIGN:
        raise InputError(f'{name}: its colours are {_FOREIGN[tagged]}, which cannot be converted; export it in BT.709 colours')
    return _STAND_INS.get(tagged, _BT709 if frame.width >= 1280 or frame.height > 576 else _BT601)


def _display_matrix(frame: Any) -> np.ndarray | None:
    try:
        data = frame.side_data.get('DISPLAYMATRIX')
    except ValueError:  # PyAV cannot list side data of kinds that it does not know
        turn = math.radians(frame.rotation)
        return np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) if frame.rotation else None
    return None if data is None else np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2] / 65536


def oriented(image: np.ndarray, matrix: np.ndarray | None, name: str) -> np.ndarray:
    """An image turned and mirrored by the linear part [[a, b], [c, d]] of a display matrix: x' = a x + c y, y' = b x + d y.

    Its scale is none of ours: FFmpeg makes a pixel aspect ratio of it. A matrix that is none, of zeros, turns nothing.

    Raises:
        InputError: a shear, or an angle that is not within 1 degree of a right angle.
    """
    if matrix is None or not np.linalg.norm(matrix, axis=1).all():
        return image
    (a, b), (c, d) = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    angles = math.degrees(math.atan2(b, a)), math.degrees(math.atan2(-c, d)) + (180 if a * d - b * c < 0 else 0)
    off = max(abs(angle - 90 * round(angle / 90)) for angle in angles)
    if off > _SNAP:
        raise InputError(
            f'{name}: players turn it by {angles[0]:.4g} degrees clockwise, which is no right angle; '
            'apply that first: ffmpeg -i in.mp4 out.mp4'
        )
    if abs(a) > abs(b):
        return image[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    return image.transpose(1, 0, 2)[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1]


class Clock:
    """Times in seconds after the first frame that always increase, from the ones a file states.

    A frame without a time comes as long after the one before as that did after its own predecessor. So does the first frame of
    another recording that was joined to the one before, whose times begin anew, and a frame far ahead where clocks may jump;
    those after it keep their distance from it. Any other frame that is not later than the one before is squeezed in after it.
    """

    def __init__(self, rate: float, may_jump: bool):
        """`rate` in frames per second, until there are two times; `may_jump`: gaps of more than 10 seconds are none."""
        self._step = self._least = 1 / rate  # the last difference, and the smallest
        self._may_jump = may_jump
        self._time: float | None = None
        self._offset: float | None = None
        self._late = self._restarts = 0

    def restart(self) -> None:
        """The times begin anew, with one of the next frames: decoders hold some back."""
        self._restarts = HELD_BACK

    def __call__(self, seconds: float | None) -> float:
        """The time of the next frame, which the file says to be shown at `seconds`."""
        if self._time is None:
            self._offset, self._time = seconds, 0.0
            return 0.0
        following = self._time + self._step
        self._restarts = max(0, self._restarts - 1)
        if seconds is None:
            self._time = following
            return following
        if self._offset is None:
            self._offset = seconds - following
        time = seconds - self._offset
        if (self._restarts and time <= self._time) or (self._may_jump and time > self._time + _DISCONTINUITY):
            self._offset, time, self._late, self._restarts = seconds - following, following, 0, 0
        elif time <= self._time:
            self._late += 1
            time = self._time + (self._least / 2**self._late if self._late <= _SQUEEZED else self._least)
        else:
            self._step = self._step if self._late else time - self._time
            self._least, self._late = min(self._least, self._step), 0
        self._time = time
        return time
