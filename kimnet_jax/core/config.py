"""Plain config fields to the dataclass that the code reads."""

import dataclasses
import math
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
    check_finite(fields, f'config.{section}')
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    except TypeError as error:  # of a comparison, in a config that was written by hand
        raise InputError(f'config.{section}: a field is of another type than it should be ({error})') from error


def check_finite(fields: Mapping[str, Any], name: str) -> None:
    """Raises `InputError` naming the field, below `name`, that is NaN or infinite."""
    for key, value in fields.items():
        if isinstance(value, Mapping):
            check_finite(value, f'{name}.{key}')
        elif any(
            isinstance(one, float) and not math.isfinite(one) for one in (value if isinstance(value, tuple | list) else [value])
        ):
            raise InputError(f'{name}.{key}={value}: must be a finite number')


def check_ranges(section: str, config: Any, **ranges: tuple[float, float]) -> None:
    """Raises `InputError` naming the field of `config.<section>`, or element of one, that is not from low to high."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if not all(low <= one <= high for one in (value if isinstance(value, tuple | list) else [value])):
            raise InputError(f'config.{section}.{name}={value}: must be {low:g} to {high:g}')
