"""Files that others wrote, and how large they may be: what is none, or larger, is an error instead of a wait or a full memory.

The environment changes the limits: `KIMNET_MAX_BYTES`, of the content of one file when it is read or unpacked into memory (2 GiB;
of a MATLAB file, a quarter of it), and `KIMNET_MAX_PIXELS`, rows times columns of an image or of a frame (100 million).
"""

import math
import os
import pathlib
import zipfile
from typing import IO

import numpy as np

from kimnet_jax.core.errors import InputError

MAX_BYTES, MAX_PIXELS = 'KIMNET_MAX_BYTES', 'KIMNET_MAX_PIXELS'
_DEFAULTS = {MAX_BYTES: 2 << 30, MAX_PIXELS: 100_000_000}


def limit(name: str) -> int:
    """`MAX_BYTES` or `MAX_PIXELS`, as the environment has it. Raises `InputError` where it is no positive whole number."""
    text = os.environ.get(name, str(_DEFAULTS[name]))
    if not text.isdecimal() or not int(text):
        raise InputError(f'{name}={text}: must be a positive whole number')
    return int(text)


def require_file(path: pathlib.Path, what: str = 'file') -> None:
    """Raises `InputError` unless there is a regular file: to open a pipe or a device may wait for ever."""
    try:
        if path.is_file():
            return
        if path.is_dir():
            raise InputError(f'{path}: a folder, not a {what}')
        if path.exists():
            raise InputError(f'{path}: a pipe, a socket or a device, not a {what}; write it to a file first')
    except OSError as error:  # a name that is too long, a loop of links
        raise InputError(f'{path}: cannot be read ({error.strerror})') from error
    raise InputError(f'{path}: {"a link to nothing" if path.is_symlink() else f"no such {what}"}')


def read_file(path: pathlib.Path, what: str = 'file') -> bytes:
    """The content of a file. Raises `InputError` where it is none, cannot be read or is too large."""
    require_file(path, what)
    try:
        if path.stat().st_size > limit(MAX_BYTES):
            raise InputError(f'{path}: {_too_large(path.stat().st_size, MAX_BYTES)}')
        return path.read_bytes()
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from error


def read_text(path: pathlib.Path, what: str = 'file', encoding: str = 'utf-8') -> str:
    """The content of a text file. Raises `InputError` as `read_file`, and where it is no text."""
    try:
        return read_file(path, what).decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not a text file ({error.reason} at byte {error.start})') from error


def check_npz(archive: zipfile.ZipFile) -> None:
    """Raises a `ValueError` where the arrays would be too large, or one has a shape that its bytes do not fill."""
    total = sum(info.file_size for info in archive.infolist())
    if total > limit(MAX_BYTES):
        raise ValueError(f'{_too_large(total, MAX_BYTES)} when unpacked')
    for info in archive.infolist():
        with archive.open(info) as file:
            check_array(file, info.file_size)


def check_array(file: IO[bytes], size: int) -> None:
    """Raises a `ValueError` where an `.npy` of `size` bytes has a shape that these do not fill; pickled arrays pass."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f'shape {list(shape)} of {dtype} in {size} bytes')


def _too_large(found: int, name: str) -> str:
    return f'{found:,} bytes, more than {limit(name):,}; if it is meant to be that large, set {name} in the environment'


def check_pixels(rows: int, columns: int, source: str) -> None:
    """Raises `InputError` naming `source` where an image would be larger than `MAX_PIXELS`."""
    if rows * columns > limit(MAX_PIXELS):
        raise InputError(
            f'{source}: {columns}x{rows} pixels, more than {limit(MAX_PIXELS):,} in all; scale it down, or set {MAX_PIXELS}'
        )
