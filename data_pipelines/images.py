"""The frames of a clip as image files: named as expected, readable, of one size."""

import pathlib
from collections.abc import Collection

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_file
from kimnet_jax.core.image import decode_checked


def require_names(place: str, names: Collection[str], expected: Collection[str], source: str) -> None:
    """Raises `InputError` unless the images of a folder are those that the annotations are for.

    Args:
        place: the folder, for messages.
        names: of the images there.
        expected: their names by the annotations.
        source: what says so: 'nframes of 0001.mat'.
    """
    odd = set(names) ^ set(expected)
    if odd:
        first = min(odd)
        what = 'is missing' if first in expected else 'has no joints'
        raise InputError(f'{place}: {len(names)} images, but {source} has {len(expected)} frames; {first} {what}')


def read_image(path: pathlib.Path, size: tuple[int, int] | None = None, source: str = '') -> tuple[bytes, tuple[int, int]]:
    """The bytes of an image file, untouched, and its (rows, columns).

    Args:
        path: the file.
        size: (rows, columns) that it has to have; None: any.
        source: what says so: 'the first frame has'.

    Raises:
        InputError: missing, no whole image, damaged, or of another size.
    """
    data = read_file(path)
    image, damage = decode_checked(data, str(path))
    if damage:
        raise damage
    rows, columns = image.shape[:2]
    if size not in (None, (rows, columns)):
        raise InputError(f'{path}: {columns}x{rows} pixels, {source} {size[1]}x{size[0]}')
    return data, (rows, columns)
