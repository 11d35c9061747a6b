"""Arrays out of files that others wrote, npz of arrays of arrays and pickles included: nothing that a file holds is ever run."""

import codecs
import io
import math
import operator
import pathlib
import pickle
import sys
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core import files
from kimnet_jax.core.errors import InputError

_BUILTINS = ('builtins', '__builtin__')
_MULTIARRAY = ('numpy.core.multiarray', 'numpy._core.multiarray')
_KINDS = 'biufcSUO'  # of the arrays that are read: numbers, text, objects
_MOST_AXES = 32  # NumPy's limit
_STAND_INS = ('chumpy', 'scipy')  # packages whose objects are read for their arrays alone


class Parts:
    """Stands for an object of a package that is not imported: its attributes, and no code."""

    def __new__(cls, *_: Any) -> 'Parts':
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.__dict__ = dict(state) if isinstance(state, dict) else {}


class _Dtype:
    """Stands for `numpy.dtype`, whose own `__setstate__` believes what it is given, to the end of the process."""

    def __init__(self, kind: str, *_: Any):
        self.dtype = np.dtype(kind if isinstance(kind, str) else 'V')
        if self.dtype.kind not in _KINDS:
            raise pickle.UnpicklingError(f'an array of {kind!r}')

    def __setstate__(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose state is checked before NumPy, which does not, gets it."""

    def __setstate__(self, state: Any) -> None:
        *_, shape, kind, in_columns, data = state
        shape, dtype = tuple(map(operator.index, shape)), kind.dtype
        data = data.encode('latin1') if isinstance(data, str) else data  # of Python 2
        objects = dtype.hasobject
        if len(shape) > _MOST_AXES or min(shape, default=0) < 0 or not isinstance(data, list if objects else bytes):
            raise pickle.UnpicklingError('an array whose shape and data do not go together')
        if math.prod(shape) * (1 if objects else dtype.itemsize) != len(data):
            raise pickle.UnpicklingError('an array whose shape and data do not go together')
        super().__setstate__((1, shape, dtype, bool(in_columns), data))  # type: ignore[arg-type]  # a bool of Python's will do


def _scalar(kind: _Dtype, data: Any) -> Any:
    (value,) = np.frombuffer(data.encode('latin1') if isinstance(data, str) else data, kind.dtype)
    return value


def _new_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.int8)


PICKLED_ARRAYS: dict[tuple[str, str], Any] = {  # (module, name) -> ours in its place: all that arrays in plain containers need
    **{(module, '_reconstruct'): _new_array for module in _MULTIARRAY},
    **{(module, 'scalar'): _scalar for module in _MULTIARRAY},
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Dtype,
    ('_codecs', 'encode'): codecs.encode,
    **{(module, kind.__name__): kind for module in _BUILTINS for kind in (set, object)},
    **{(module, 'bytes'): lambda *_: b'' for module in _BUILTINS},  # what protocol 2 has of an empty array
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in PICKLED_ARRAYS:
            return PICKLED_ARRAYS[module, name]
        if module.split('.')[0] in _STAND_INS:
            return type(name, (Parts,), {})
        if name == '_reconstructor' and module in ('copyreg', 'copy_reg'):
            return _reconstruct
        raise pickle.UnpicklingError(f'refused: it holds {module}.{name}, no array; none of its code was run')


def _load(file: Any) -> Any:
    """What a pickle of arrays in plain containers holds."""
    return plain(_ArraysOnly(file, encoding='latin1').load())


def unpickle(data: bytes) -> Any:
    """What a pickle of arrays in plain containers holds. Raises all kinds of errors on a damaged one, and on any other."""
    return _load(io.BytesIO(data))


def plain(value: Any) -> Any:
    """What `PICKLED_ARRAYS` rebuilt, with NumPy's own arrays, within lists, dicts and `Parts` in place."""
    return _plain(value, {})


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """The value with NumPy's own arrays for `_Array`s, within lists, dicts and `Parts` in place; `known`: done, by id."""
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = value
    if isinstance(value, _Array):
        known[id(value)] = plain = value.view(np.ndarray)
        if plain.dtype.hasobject:
            for i, item in enumerate(plain.flat):
                plain.flat[i] = _plain(item, known)
        return plain
    if isinstance(value, dict | Parts):
        items = value if isinstance(value, dict) else value.__dict__
        items.update({key: _plain(item, known) for key, item in items.items()})
    elif isinstance(value, list):
        value[:] = [_plain(item, known) for item in value]
    elif isinstance(value, tuple):
        known[id(value)] = value = tuple(_plain(item, known) for item in value)
    return value


class Npz(NamedTuple):
    """Attributes:
    arrays: by name; of objects only where those were asked for.
    comment: of the archive.
    """

    arrays: dict[str, Any]
    comment: bytes


def read_npz(path: pathlib.Path, *, objects: bool = True) -> dict[str, Any]:
    """The arrays of an `.npz`. Raises `InputError` as `open_npz`."""
    return open_npz(path, objects=objects).arrays


def open_npz(path: pathlib.Path, *, objects: bool = False) -> Npz:
    """Reads an `.npz`; `objects`: arrays of arrays may be in it, too.

    Raises `InputError` where it cannot be read, is too large, holds anything but arrays, or a name twice.
    """
    arrays: dict[str, Any] = {}
    try:
        files.require_file(path)
        with path.open('rb') as file, zipfile.ZipFile(file) as archive:
            files.check_npz(archive)
            for member in archive.namelist():
                name = member.removesuffix('.npy')
                if name in arrays:
                    raise ValueError(f'array {name!r} is there twice')
                arrays[name] = _read_array(archive, member, objects)
            return Npz(arrays, archive.comment)
    except InputError:
        raise
    except Exception as error:  # of zip, pickle and NumPy: on damaged files they raise all kinds
        raise InputError(f'{path}: cannot be read: cut short, or no npz of arrays ({_line(error)})') from error


def write_npz(path: pathlib.Path, arrays: Mapping[str, Any]) -> None:
    """Writes an `.npz`, complete or not at all. Raises `InputError` where its name has another suffix or is taken."""
    if path.suffix != '.npz':
        raise InputError(f'{path}: arrays are written as .npz; give the file that suffix')
    with files.draft_of(path) as draft, draft.open('wb') as file:
        np.savez_compressed(file, **arrays)


def read_pickle(path: pathlib.Path) -> Any:
    """What a pickle of arrays in plain containers holds; objects of `chumpy` and `scipy` are `Parts`. Raises `InputError`."""
    data = files.read_file(path)
    try:
        return _load(io.BytesIO(data))
    except Exception as error:  # as above
        raise InputError(f'{path}: not a readable pickle of arrays ({_line(error)})') from error


def dense(value: Any) -> np.ndarray:
    """The array that a value is, also one of chumpy's or a sparse matrix of SciPy's. Raises `ValueError` where it is none."""
    if isinstance(value, np.ndarray) and value.dtype == object and not value.shape:
        value = value.item()
    if not isinstance(value, Parts):
        return np.asarray(value, np.float64)
    parts = value.__dict__
    if 'x' in parts:
        return dense(parts['x'])
    if {'a', 'idxs', 'preferred_shape'} <= set(parts):  # chumpy's selection of another array's elements
        return dense(parts['a']).ravel()[np.asarray(parts['idxs'])].reshape(parts['preferred_shape'])
    kind = type(value).__name__
    shape = parts.get('_shape', parts.get('shape'))
    if kind not in ('csc_matrix', 'csr_matrix') or shape is None:
        raise ValueError(f'an object of type {kind}')
    result = np.zeros(shape if kind == 'csr_matrix' else shape[::-1])
    lines = np.repeat(np.arange(len(result)), np.diff(parts['indptr']))
    np.add.at(result, (lines, parts['indices']), parts['data'])
    return result if kind == 'csr_matrix' else result.T


def _read_array(archive: zipfile.ZipFile, member: str, objects: bool) -> Any:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read(file)
        if dtype.hasobject and not objects:
            raise pickle.UnpicklingError('refused: it holds Python objects, not only arrays; none of their code was run')
        if dtype.hasobject:
            archive.read(member)  # raises where its checksum is wrong; a pickle is not read to the end
            return _load(file)
    with archive.open(member) as file:
        array = np.lib.format.read_array(file)
    if array.dtype.kind == 'U' and array.size:
        codes = np.frombuffer(array.astype(array.dtype.newbyteorder('=')).tobytes(), np.uint32)
        if (codes > sys.maxunicode).any():  # of which NumPy makes no text, and Python no error that can be caught everywhere
            raise ValueError('a text with characters that do not exist')
    return array


def _reconstruct(kind: type, *_: Any) -> Any:
    return Parts.__new__(kind) if issubclass(kind, Parts) else object()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
