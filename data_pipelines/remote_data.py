"""Built data sets in remote folders: read from a copy on this machine, and written there when they are whole.

Readers of array_record open files of this machine alone.
"""

import hashlib
import pathlib
import sys

from kimnet_jax.core import paths
from kimnet_jax.core.files import cache_folder, explained, locked, make_folder, naming, work_folder
from kimnet_jax.data_pipelines import checksums

MARK = 'dataset_info.json'  # is there when the rest is
_DIGITS = 16  # of the digest that tells copies apart


def local_copy(folder: pathlib.Path) -> pathlib.Path:
    """The copy of a remote data set, `<data_dir>/<name>/<config>/<version>`, in `data` of the user's cache folder.

    It is made by the first process of this machine that asks; the others wait. Every byte is compared with the checksums of the
    build. A data set that was built anew gets another copy. Raises `InputError` where a file is missing or differs.
    """
    listed = checksums.read_list(folder)
    digest = hashlib.sha256((folder / checksums.FILE).read_bytes()).hexdigest()[:_DIGITS]
    place = cache_folder() / 'data' / digest / folder.parent.parent.name / folder.parent.name / folder.name
    if place.is_dir():
        return place
    make_folder(place.parent)
    size = sum(entry['bytes'] for entry in listed.values())
    with explained(), naming(place), locked(place.parent, wait=True):
        if place.is_dir():  # by a process that this one waited for
            return place
        with work_folder(place.parent, place.name) as hidden:
            print(f'copying {folder} ({size / 1e6:.1f} MB) to {place}', file=sys.stderr, flush=True)
            there = paths.listed(folder)
            for name in [name for name in (*listed, checksums.FILE) if name in there]:
                paths.download(folder / name, hidden / name)
            checksums.check(hidden, in_full=lambda name: True, named=folder)
            (hidden / 'whole').mkdir()
            for file in [file for file in hidden.iterdir() if file.is_file()]:
                file.rename(hidden / 'whole' / file.name)
            (hidden / 'whole').rename(place)
    return place


def publish(built: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a whole data set to a remote folder; `MARK` comes last, and goes first where the folder holds another one."""
    checksums.check(built, in_full=lambda name: True)
    paths.remove(target / MARK)
    names = sorted(file.name for file in built.iterdir() if file.is_file() and file.name != MARK)
    for name in [name for name in paths.listed(target) if name not in names]:
        paths.remove(target / name)
    size = sum(file.stat().st_size for file in built.iterdir() if file.is_file())
    print(f'copying {size / 1e6:.1f} MB to {target}', file=sys.stderr, flush=True)
    for name in (*names, MARK):
        paths.upload(built / name, target / name)
