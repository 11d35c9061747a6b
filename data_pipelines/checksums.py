"""The checksums of a built data set: `checksums.json`, written beside its files when all of them are there."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import write_text
from kimnet_jax.core.json_files import read_json

FILE = 'checksums.json'
AGAIN = 'rebuild it with --overwrite'


def write(folder: pathlib.Path) -> None:
    """Notes the size and the SHA-256 of every file in the folder; the list itself has a checksum, too."""
    files = {path.name: {'bytes': path.stat().st_size, 'sha256': _digest(path)} for path in sorted(_files(folder))}
    write_text(folder / FILE, json.dumps({'files': files, 'sha256': _digest_of_list(files)}, indent=1) + '\n')


def check(folder: pathlib.Path, in_full: Callable[[str], bool], *, named: pathlib.Path | None = None) -> frozenset[str]:
    """Raises the first of `damages` as an `InputError`; returns the names of the files that the list has."""
    for damage in damages(folder, in_full, named=named):
        raise InputError(damage)
    return frozenset(read_list(folder))


def damages(folder: pathlib.Path, in_full: Callable[[str], bool], *, named: pathlib.Path | None = None) -> Iterator[str]:
    """What differs from the list, a sentence for each file.

    Args:
        folder: the built data set.
        in_full: of which files, by name, the content is read; of the others it is the size that is compared.
        named: what messages call the folder, where it is a copy.

    Raises:
        InputError: the list itself is missing or damaged.
    """
    shown = named or folder
    for name, expected in read_list(folder).items():
        path = folder / name
        if not path.is_file():
            yield f'{shown}: {name} is {"no regular file" if path.exists() else "missing"}; {AGAIN}'
        elif path.stat().st_size != expected['bytes']:
            was = expected['bytes']
            yield f'{shown}: {name} is damaged or altered ({path.stat().st_size} bytes, {was} when it was built); {AGAIN}'
        elif in_full(name) and _digest(path) != expected['sha256']:
            yield f'{shown}: {name} is damaged or altered (its SHA-256 is not that of what was built); {AGAIN}'


def read_list(folder: pathlib.Path) -> dict[str, Any]:
    """Name -> `bytes` and `sha256` of each file, by the list. Raises `InputError` where that is missing or damaged."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f'{folder}: no {FILE}: built by an earlier version, or not copied completely; {AGAIN}')
    try:
        found = read_json(path)
        files = {name: {'bytes': int(entry['bytes']), 'sha256': str(entry['sha256'])} for name, entry in found['files'].items()}
        whole = found['sha256'] == _digest_of_list(files)
    except Exception as error:  # of JSON, on anything
        raise InputError(f'{folder}: {FILE} is damaged ({type(error).__name__}); {AGAIN}') from error
    if not whole or any(pathlib.PurePath(name).name != name for name in files):
        raise InputError(f'{folder}: {FILE} is damaged or altered; {AGAIN}')
    return files


def _files(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    return (path for path in folder.iterdir() if path.is_file() and path.name != FILE)


def _digest(path: pathlib.Path) -> str:
    with path.open('rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def _digest_of_list(files: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
