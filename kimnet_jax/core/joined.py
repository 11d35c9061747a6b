"""Recordings that were joined byte by byte, as `cat` does it, in formats of which FFmpeg and players read the first alone."""

import pathlib
from collections.abc import Callable

from kimnet_jax.core.files import explained

_MP4_KINDS = (b'ftyp', b'moov', b'mdat', b'wide', b'free', b'skip', b'pnot')
_ASF_HEADER = bytes.fromhex('3026b2758e66cf11a6d900aa0062ce6c')
_ONCE = (b'ftyp', b'moov', b'FLV', _ASF_HEADER)  # what a recording has one of
_ELEMENTS = 5_000_000  # looked at; hours of FLV have less


def second_recording(path: pathlib.Path) -> int | None:
    """The byte at which another recording begins in a file of MP4, FLV or ASF; None where there is none, and for other formats.

    Looks at the outermost elements only. Raises `InputError` where the file cannot be read.
    """
    with explained(), path.open('rb') as file:
        element = _format(file.read(16))
        if element is None:
            return None
        length, start = path.stat().st_size, 0
        seen: set[bytes] = set()
        for _ in range(_ELEMENTS):
            if start >= length:
                break
            file.seek(start)
            kind, size = element(file.read(24))
            if kind in seen:
                return start
            if kind == b'moof' or size < 8:  # of fragments FFmpeg reads on; a size of 0 reaches to the end
                break
            if kind in _ONCE:
                seen.add(kind)
            start += size
    return None


def _format(head: bytes) -> Callable[[bytes], tuple[bytes, int]] | None:
    """What reads kind and size of an element of the format that begins so."""
    if head.startswith(b'FLV'):
        return _flv
    if head.startswith(_ASF_HEADER):
        return _asf
    return _mp4 if head[4:8] in _MP4_KINDS else None


def _mp4(head: bytes) -> tuple[bytes, int]:
    size = int.from_bytes(head[:4])
    return head[4:8], int.from_bytes(head[8:16]) if size == 1 else size


def _flv(head: bytes) -> tuple[bytes, int]:
    if head.startswith(b'FLV'):
        return b'FLV', int.from_bytes(head[5:9]) + 4
    return head[:1], int.from_bytes(head[1:4]) + 15


def _asf(head: bytes) -> tuple[bytes, int]:
    return head[:16], int.from_bytes(head[16:], 'little')
