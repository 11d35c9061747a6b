"""Plain config fields to the dataclass that the code reads."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from kimnet_jax.core.errors import InputError

T = TypeVar('T')


def make(kind: type[T], fields: Mapping[str, Any], section: str) -> T:
    """A `kind` from the fields of `config.<section>`. Raises `InputError` naming a field that is unknown or missing."""
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise InputError(f'config.{section}.{unknown[0]}: no such field; known: {", ".join(known)}')
    missing = [name for name in known if name not in fields]
    if missing:
        raise InputError(f'config.{section}: field {missing[0]!r} is missing')
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
