"""JSON that others wrote: what a standard parser leaves open is refused in one line."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_file

DEEPEST = 100  # lists and objects within each other
_SUSPECT = re.compile(r'\d{200}|[eE]\+?\d{3}')  # without it, no number is beyond a float
_LARGEST_DIGITS = 308  # of a whole number that is a float as well


def read_json(path: pathlib.Path, what: str = 'file') -> Any:
    """What a JSON file holds. Raises `InputError` as `read_file` and `parse_json`."""
    return parse_json(read_file(path, what), str(path))


def parse_json(text: str | bytes, source: str) -> Any:
    """What JSON holds.

    Raises:
        InputError: naming `source`: it is not UTF-8 (a byte order mark is skipped), no JSON, nested deeper than `DEEPEST`, has a
            name twice in one object, a number that no float can hold, or NaN or Infinity, which JSON does not know.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode('utf-8-sig')
        hooks: dict[str, Any] = {'parse_constant': _no_constant, 'object_pairs_hook': _unique}
        if _SUSPECT.search(text):
            hooks |= {'parse_int': _whole_number, 'parse_float': _number}
        found = json.loads(text.removeprefix('\ufeff'), **hooks)
        if _bracket_depth(text) > DEEPEST and _depth(found) > DEEPEST:
            raise RecursionError
        return found
    except UnicodeDecodeError as error:
        raise InputError(f'{source}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8') from error
    except RecursionError as error:
        raise InputError(f'{source}: not valid JSON (nested more than {DEEPEST} deep)') from error
    except ValueError as error:
        raise InputError(f'{source}: not valid JSON ({error})') from error


def check_texts(found: Any, source: str) -> Mapping[str, str]:
    """Metadata as files of weights have it. Raises `InputError` naming `source` where it is not text by name."""
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise InputError(f'{source}: must be an object of texts')
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f'the name {next(name for name in names if names.count(name) > 1)!r} is there twice in one object')
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f'{name} is no number that JSON knows; write null for what is missing')


def _whole_number(text: str) -> int:
    if len(text.lstrip('-')) > _LARGEST_DIGITS:
        raise ValueError(f'a number of {len(text)} digits is too large')
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not np.isfinite(value):
        raise ValueError(f'the number {text[:40]} is too large')
    return value


def _bracket_depth(text: str) -> int:
    """At least the depth of lists and objects; brackets in texts count, too."""
    if not text.isascii():
        text = text.encode('ascii', 'replace').decode()
    letters = np.frombuffer(text.encode(), np.uint8)
    letters = letters[np.isin(letters, np.frombuffer(b'[]{}', np.uint8))]
    steps = np.where(np.isin(letters, np.frombuffer(b'[{', np.uint8)), 1, -1)
    return int(steps.cumsum().max(initial=0))


def _depth(found: Any) -> int:
    depth, level = 0, [found]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth
