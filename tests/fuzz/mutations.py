"""How valid inputs are spoilt: bytes, JSON, arrays and paths. Everything is drawn by hypothesis."""

import copy
import io
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
from hypothesis import strategies as st

ODD_TEXT = st.sampled_from(
    ['', 'x', '../x', 'a\0b', '\ud800', 'é' * 300, '-1', 'nan', '1e999', '~nobody/x', '\n', '{}', 'jhmdb', 'dark']
)
ODD_NUMBERS = st.sampled_from([0, -1, 1, 2, 0.5, -0.5, 1e30, -1e30, 1e-30, 2**31, 2**63, 10**18, 10**400, 7, 33, 65, 1000])
ODD_FLOATS = st.sampled_from([float('nan'), float('inf'), -float('inf')])
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    ODD_NUMBERS,
    ODD_NUMBERS,
    ODD_FLOATS,
    ODD_TEXT,
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.just([1, 2, 3]),
)
RAW = (  # of files of text
    b'', b'\0' * 64, b'[', b'[' * 100_000, b'{"a":' * 50_000, b'[]', b'{}', b'null', b'1', b'"x"', b'\xff\xfe\x00', b'\xc3\x28',
    b'9' * 5000, b'[1e999]', b'NaN', b'{"a": 1, "a": 2}',
)  # fmt: skip


@st.composite
def json_text(draw: st.DrawFn, valid: bytes) -> bytes:
    """A JSON file with something changed."""
    how = draw(st.integers(0, 9))
    if how == 0:
        return draw(st.sampled_from(RAW))
    if how == 1:
        text = valid.decode()
        return draw(
            st.sampled_from([text.encode('utf-16'), b'\xef\xbb\xbf' + valid, text.encode('utf-32'), valid + valid, valid + b'\0'])
        )
    if how == 2:
        return draw(spoilt_bytes(valid))
    data = json.loads(valid)
    for _ in range(draw(st.integers(1, 2))):
        data = draw(json_value(data))
    try:
        return json.dumps(data).encode()
    except RecursionError:
        return b'['


@st.composite
def json_value(draw: st.DrawFn, data: Any) -> Any:
    """The same with one part replaced, removed, repeated, or put into another place."""
    data = copy.deepcopy(data)
    parent, key, here = None, None, data
    for _ in range(draw(st.integers(0, 6))):
        if not isinstance(here, dict | list) or not here:
            break
        parent, key = here, draw(st.sampled_from([*here] if isinstance(here, dict) else [*range(min(len(here), 4))]))
        here = parent[key]
    if parent is None:
        return draw(ODD_VALUES)
    how = draw(st.integers(0, 5))
    if how == 0:
        del parent[key]
    elif how == 1 and isinstance(parent, list):
        parent.append(copy.deepcopy(here))
    elif how == 2:
        parent[key] = [here]
    elif how == 3 and isinstance(parent, dict):
        parent['odd'] = draw(ODD_VALUES)
    else:
        parent[key] = draw(ODD_VALUES)
    return data


@st.composite
def spoilt_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """Cut short, bits flipped, a part zeroed, doubled, left out or filled with others."""
    if not valid:
        return draw(st.binary(max_size=64))
    start = draw(st.integers(0, len(valid) - 1))
    length = draw(st.sampled_from([1, 2, 4, 8, 64, 1000]))
    how = draw(st.integers(0, 6))
    if how == 0:
        return valid[:start]
    if how == 1:
        return valid[:start] + valid[start + length :]
    if how == 2:
        return valid[:start] + bytes(min(length, len(valid) - start)) + valid[start + length :]
    if how == 3:
        return valid[:start] + valid[start : start + length] + valid[start:]
    if how == 4:
        return draw(st.binary(max_size=200))
    changed = bytearray(valid)
    head = draw(st.booleans())  # most of what a file claims stands at its beginning
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, min(len(valid), 200 if head else len(valid)) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@st.composite
def csv_text(draw: st.DrawFn, valid: bytes) -> bytes:
    """A table with a cell, a row or bytes changed."""
    if draw(st.booleans()):
        return draw(st.one_of(spoilt_bytes(valid), st.sampled_from(RAW)))
    rows = [line.split(',') for line in valid.decode().splitlines()]
    row = draw(st.sampled_from(rows))
    row[draw(st.integers(0, len(row) - 1))] = draw(
        st.sampled_from(['', 'x', 'nan', 'inf', '-1e30', '1e999', '9' * 5000, '"', '\0', 'é'])
    )
    return '\n'.join(','.join(row) for row in rows).encode()


def _odd_arrays(array: Any) -> list[Any]:
    """What may stand in an array's place."""
    array = np.asarray(array)
    odd: list[Any] = [
        np.zeros(()), np.zeros((0,)), np.array('x'), np.array([{}], object), np.zeros(3, 'M8[s]'), np.zeros(2, [('a', 'f4')]),
        np.array([1 + 2j]), np.zeros((1, 1, 1, 1, 1)), np.array([True]), np.array(None), np.array(5),
    ]  # fmt: skip
    if array.ndim:
        odd += [array[:0], array[:-1], array[..., :-1], array[None], array.ravel(), np.concatenate([array, array])]
    if array.dtype.kind in 'fiu':
        odd += [
            array * 0,
            array - array.max(initial=0) - 1,
            array.astype('f8') * 1e30,
            array.astype('f8') * np.nan,
            array.astype('f2'),
        ]
        odd += [
            array.astype('i8') + 2**60,
            array.astype('f8') + 0.5,
            array.astype('c16'),
            array.astype(str),
            array.astype(object),
        ]
        odd += [array.astype('>f8'), np.asfortranarray(array), array.astype('f8') * np.inf]
    return odd


@st.composite
def npz_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """An archive of arrays with one replaced, removed or added, another comment, or bytes changed."""
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(spoilt_bytes(valid))
    with zipfile.ZipFile(io.BytesIO(valid)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        comment = archive.comment
    name = draw(st.sampled_from([*members]))
    if how == 1 and comment:
        comment = draw(json_text(comment))[:60_000]
    elif how == 2:
        del members[name]
    elif how == 3:
        members[name] = draw(spoilt_bytes(members[name]))
    elif how == 4:
        members[draw(st.sampled_from(['x.npy', 'x', '../x.npy', name.removesuffix('.npy')]))] = members[name]
    else:
        array = np.load(io.BytesIO(members[name]), allow_pickle=True)
        stream = io.BytesIO()
        np.save(stream, draw(st.sampled_from(_odd_arrays(array))), allow_pickle=True)
        members[name] = stream.getvalue()
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.comment = comment
    return out.getvalue()


@st.composite
def safetensors_bytes(draw: st.DrawFn, valid: bytes) -> bytes:
    """A file of weights with another header, other metadata, or bytes changed."""
    how = draw(st.integers(0, 4))
    if how == 0:
        return draw(spoilt_bytes(valid))
    size = int.from_bytes(valid[:8], 'little')
    header, data = json.loads(valid[8 : 8 + size]), valid[8 + size :]
    if how == 1:
        text = draw(json_text(json.dumps(header).encode()))
    elif how == 2:
        text = json.dumps(draw(json_value(header))).encode()
    else:
        key = draw(st.sampled_from([*header['__metadata__']]))
        inner = header['__metadata__'][key]
        spoilt = json_text(inner.encode()).map(lambda data: data.decode('utf-8', 'replace')) if inner[:1] == '{' else ODD_TEXT
        header['__metadata__'][key] = draw(spoilt)
        text = json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + data


PATHS = (
    'file',
    'folder',
    'full',
    'dangling',
    'loop',
    'under',
    'through',
    'nul',
    'surrogate',
    'long',
    'deep',
    'nobody',
    'pipe',
    'system',
)


def bad_path(kind: str, folder: pathlib.Path) -> str:
    """A path that is another thing than what is asked for; `folder` is an empty one to make it in."""
    path = folder / 'x'
    match kind:
        case 'file':
            path.write_text('x')
        case 'folder':
            path.mkdir()
        case 'full':
            path.mkdir()
            (path / 'other').write_text('x')
        case 'dangling':
            path.symlink_to('nowhere')
        case 'loop':
            path.symlink_to('x')
        case 'under':
            path.write_text('x')
            return str(path / 'y')
        case 'through':
            path.symlink_to('x')
            return str(path / 'y')
        case 'nul':
            return f'{folder}/a\0b'
        case 'surrogate':
            return f'{folder}/a\udc80b'
        case 'long':
            return f'{folder}/{"n" * 300}'
        case 'deep':
            return f'{folder}/{"n/" * 3000}'
        case 'nobody':
            return '~nobody_of_that_name/x'
        case 'pipe':
            os.mkfifo(path)
        case 'system':
            return '/proc/nothing'
    return str(path)
