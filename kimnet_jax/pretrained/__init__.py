"""The weights that travel with the package, by name: files beside this module, their checksums and their cards.

`catalogue.json` has for each name its `file`, `sha256`, `summary` and `card`, a page beside it that says what the network was
trained on, how well it does, where it fails, and on what terms it may be used. `python -m kimnet_jax.pretrained` lists them.
"""

import functools
import hashlib
import json
import pathlib
from typing import NamedTuple

from kimnet_jax.core.errors import InputError

FOLDER = pathlib.Path(__file__).parent
DEFAULT = 'kimnet-s-jhmdb'  # what predict takes where no model is named
DEFAULT_REFINER = 'hanet-s-jhmdb'  # what refine takes
PREFIX = 'pretrained:'  # before a name where a path could stand as well


class Entry(NamedTuple):
    """Attributes:
    name: what the user says.
    file: of the weights.
    sha256: of the file, hexadecimal.
    summary: a line for a list.
    card: Markdown file.
    """

    name: str
    file: pathlib.Path
    sha256: str
    summary: str
    card: pathlib.Path


@functools.cache
def catalogue() -> dict[str, Entry]:
    """Name -> entry, in the order of the list."""
    found = json.loads((FOLDER / 'catalogue.json').read_text(encoding='utf-8'))
    return {
        name: Entry(name, FOLDER / one['file'], one['sha256'], one['summary'], FOLDER / one['card'])
        for name, one in found.items()
    }


def find(name: str) -> pathlib.Path:
    """The file of the weights of that name, checked. Raises `InputError`: there is no such name, or the file is damaged."""
    known = catalogue()
    if name not in known:
        raise InputError(f'{name!r}: no pretrained model has that name; known: {", ".join(known)}')
    entry = known[name]
    try:
        found = hashlib.sha256(entry.file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f'{entry.file}: cannot be read ({error.strerror}); install kimnet-jax again') from error
    if found != entry.sha256:
        raise InputError(f'{entry.file}: damaged, its checksum is not that of {name!r}; install kimnet-jax again')
    return entry.file
