"""MATLAB files of annotations: their fields, checked, with errors that name the file."""

import io
import math
import pathlib
import struct
import zlib
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import MAX_BYTES, limit, read_file


def read_fields(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """These fields of a .mat file, as they are. Raises `InputError` where the file is unreadable or lacks one."""
    import scipy.io

    data = read_file(path)
    try:
        _check_parts(data, names)
        contents: dict[str, Any] = scipy.io.loadmat(io.BytesIO(data), variable_names=names)
    except Exception as error:  # scipy raises whatever the damage makes it stumble over
        raise InputError(f'{path}: not a readable MATLAB file ({error}); replace the file') from error
    missing = [name for name in names if name not in contents]
    if missing:
        there = ', '.join(name for name, *_ in scipy.io.whosmat(io.BytesIO(data)))
        raise InputError(f'{path}: no field {missing[0]!r}; it has: {there or "none"}')
    return {name: np.asarray(contents[name]) for name in names}


_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}  # type of data -> bytes of a number
_MATRIX, _COMPRESSED = 14, 15  # types of parts
_CELL, _STRUCT, _CHAR, _NUMERIC = 1, 2, 4, range(6, 16)  # classes of matrices
_COMPLEX = 0x800
_DEEPEST = 30


def _check_parts(data: bytes, names: tuple[str, ...]) -> None:
    """Raises where a part is damaged or cut short: what scipy makes of such bytes may end the process.

    MAT-file format 5: 128 bytes of header, then parts, each with its type and length; compressed ones hold one more. Two files of
    Penn Action, 1605 and 1833, have parts that are whole, but without the checksum at their end.
    """
    if 0 in data[:4] or data[126:128] not in (b'IM', b'MI'):
        raise ValueError('not of MAT-file format 5')
    room = limit(MAX_BYTES) // 4
    order = '>' if data[126:128] == b'MI' else '<'
    start = 128
    while start < len(data):
        kind, length = struct.unpack_from(f'{order}II', data, start)
        start += 8 + length
        part = data[start - length - 8 : start]
        if kind == _COMPRESSED:
            part = zlib.decompressobj().decompress(part[8:], room)
            room -= len(part)
            if room <= 0:
                raise ValueError(
                    f'more than {limit(MAX_BYTES) // 4:,} bytes when unpacked; {MAX_BYTES} in the environment allows more'
                )
        kind, content, _ = _element(part, 0, order)
        if kind != _MATRIX:
            raise ValueError(f'a part of type {kind}')
        _check_matrix(content, order, names)


def _element(data: bytes, start: int, order: str) -> tuple[int, bytes, int]:
    """(type, content, where the next one starts) of the element at `start`."""
    if start + 8 > len(data):
        raise ValueError('cut short')
    kind, length = struct.unpack_from(f'{order}II', data, start)
    small = kind >> 16
    first = start + (4 if small else 8)
    kind, length = (kind & 0xFFFF, small) if small else (kind, length)
    if first + length > len(data) or small > 4:
        raise ValueError('cut short')
    return kind, data[first : first + length], start + 8 if small else first + length + -length % 8


def _check_matrix(data: bytes, order: str, names: tuple[str, ...] | None, depth: int = 0) -> None:
    """Raises unless the parts of a matrix, in the order of the format, fill its shape; those of other `names` are not read."""
    if not data and names is None:
        return  # an empty place in a cell
    if depth > _DEEPEST:
        raise ValueError(f'cells within each other, more than {_DEEPEST} deep')
    kind, content, start = _element(data, 0, order)
    if (kind, len(content)) != (6, 8):
        raise ValueError('a matrix without its class')
    (flags,) = struct.unpack_from(f'{order}I', content)
    kind, content, start = _element(data, start, order)
    if kind != 5 or len(content) % 4 or not 8 <= len(content) <= 128:
        raise ValueError('a matrix without its shape')
    shape = struct.unpack(f'{order}{len(content) // 4}i', content)
    kind, content, start = _element(data, start, order)
    if kind not in (1, 2, 16):
        raise ValueError('a matrix without its name')
    if names is not None and content.decode('latin1') not in names:
        return
    if min(shape) < 0:
        raise ValueError(f'a matrix of shape {list(shape)}')
    size, form = math.prod(shape), flags & 0xFF
    if form in _NUMERIC or form == _CHAR:
        for _ in range(2 if flags & _COMPLEX and form != _CHAR else 1):
            kind, content, start = _element(data, start, order)
            if kind not in _SIZES or len(content) % _SIZES[kind]:
                raise ValueError(f'numbers of type {kind}')
            if form != _CHAR and len(content) != size * _SIZES[kind]:
                raise ValueError(f'{len(content)} bytes of numbers for the shape {list(shape)}')
        return
    if form == _STRUCT:
        kind, content, start = _element(data, start, order)
        longest = struct.unpack(f'{order}i', content)[0] if (kind, len(content)) == (5, 4) else 0
        kind, content, start = _element(data, start, order)
        if kind not in (1, 2) or not 0 < longest <= 1024 or len(content) % longest:
            raise ValueError('a struct without the names of its fields')
        size *= len(content) // longest
    elif form != _CELL:
        raise ValueError(f'a matrix of class {form}, which holds no numbers, text, cells or fields')
    for _ in range(size):
        kind, content, start = _element(data, start, order)
        if kind != _MATRIX:
            raise ValueError('a cell or field without a matrix')
        _check_matrix(content, order, None, depth + 1)


def numbers(
    path: pathlib.Path, fields: dict[str, np.ndarray], name: str, shape: tuple[int | str, ...], meaning: str
) -> np.ndarray:
    """A real numeric field, in its own dtype.

    Args:
        path: the file, for messages.
        fields: of `read_fields`.
        name: of the field.
        shape: its sizes; a letter stands for any size. MATLAB drops trailing axes of 1, which come back here.
        meaning: of the axes, for messages.

    Raises:
        InputError: the field is not numeric or of another shape.
    """
    value = fields[name]
    found = value.reshape(value.shape + (1,) * (len(shape) - value.ndim)) if value.ndim < len(shape) else value
    fits = found.ndim == len(shape) and all(isinstance(n, str) or n == m for n, m in zip(shape, found.shape, strict=True))
    if not fits or value.dtype.kind not in 'biuf':
        expected = ', '.join(map(str, shape))
        raise InputError(f'{path}: {name} is {value.dtype} {list(value.shape)}, expected numbers [{expected}] ({meaning})')
    return found


def single(value: np.ndarray) -> np.ndarray:
    """As float32; what is too large for it becomes infinite."""
    with np.errstate(over='ignore'):
        return value.astype(np.float32)
