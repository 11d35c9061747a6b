"""MATLAB files of annotations: their fields, checked, with errors that name the file."""

import io
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
        _check_parts(data)
        contents: dict[str, Any] = scipy.io.loadmat(io.BytesIO(data), variable_names=names)
    except Exception as error:  # scipy raises whatever the damage makes it stumble over
        raise InputError(f'{path}: not a readable MATLAB file ({error}); replace the file') from error
    missing = [name for name in names if name not in contents]
    if missing:
        there = ', '.join(name for name, *_ in scipy.io.whosmat(io.BytesIO(data)))
        raise InputError(f'{path}: no field {missing[0]!r}; it has: {there or "none"}')
    return {name: np.asarray(contents[name]) for name in names}


def _check_parts(data: bytes) -> None:
    """Raises where a compressed part is damaged or cut short: what scipy makes of such bytes may end the process.

    MAT-file format 5: 128 bytes of header, then parts, each with its type (15: compressed) and length; so is what is in them. Two
    files of Penn Action, 1605 and 1833, have parts that are whole, but without the checksum at their end.
    """
    room = limit(MAX_BYTES) // 4
    order = '>II' if data[126:128] == b'MI' else '<II'
    start = 128
    while start < len(data):
        kind, length = struct.unpack_from(order, data, start)
        start += 8 + length
        if kind == 15:
            content = zlib.decompressobj().decompress(data[start - length : start], room)
            room -= len(content)
            if room <= 0:
                raise ValueError(
                    f'more than {limit(MAX_BYTES) // 4:,} bytes when unpacked; {MAX_BYTES} in the environment allows more'
                )
            if len(content) < 8 + struct.unpack_from(order, content)[1]:
                raise ValueError('cut short')


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
