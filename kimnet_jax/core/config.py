"""Plain config fields to the dataclasses that the code reads, and back."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from kimnet_jax.core.errors import InputError

T = TypeVar('T')


def make(kind: type[T], fields: Mapping[str, Any], section: str = '', *, partial: bool = False) -> T:
    """A `kind` from the fields of `config.<section>`; its fields that are dataclasses are made from sections of their own.

    Args:
        kind: frozen dataclass, whose `__post_init__` checks ranges.
        fields: by name; lists become tuples.
        section: path of the section, '' for the whole config.
        partial: fields that are missing have their defaults.

    Raises:
        InputError: naming a field that is unknown or missing, or has a value that its type does not allow.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    path = f'config.{section}' if section else 'config'
    if unknown := sorted(set(fields) - set(known)):
        raise InputError(f'{path}.{unknown[0]}: no such field; known: {", ".join(known)}')
    needed = [
        name for name, field in known.items() if not partial or field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in needed if name not in fields]:
        raise InputError(f'{path}: field {missing[0]!r} is missing')
    check_finite(fields, path)
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in fields.items():
        if dataclasses.is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise InputError(f'{path}.{name}={value!r}: must be a section of fields')
            values[name] = make(hints[name], value, f'{section}.{name}' if section else name)
            continue
        values[name] = tuple(value) if isinstance(value, list) else value
        _check_type(values[name], hints[name], f'{path}.{name}')
    try:
        return kind(**values)
    except TypeError as error:  # of a comparison, in a config that was written by hand
        raise InputError(f'{path}: a field is of another type than it should be ({error})') from error


def plain(config: Any) -> dict[str, Any]:
    """The fields of a dataclass, and of those in it, as nested dicts."""
    found = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        name: plain(value) if dataclasses.is_dataclass(value) else dict(value) if isinstance(value, Mapping) else value
        for name, value in found.items()
    }


def _check_type(value: Any, hint: Any, name: str) -> None:
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if all(get_origin(part) is Literal for part in parts):
        allowed = [choice for part in parts for choice in get_args(part)]
        if value not in allowed:
            raise InputError(f'{name}={value!r}: choose one of {", ".join(map(str, allowed))}')
        return
    if set(parts) <= set(_TYPES) and not any(_TYPES[kind](value) for kind in parts):
        wanted = ' or '.join(kind.__name__ for kind in parts)
        raise InputError(f'{name}={value!r}: must be of type {wanted}')
    if get_origin(hint) is tuple:
        _check_tuple(value, get_args(hint), name)


def _check_tuple(value: Any, kinds: tuple[Any, ...], name: str) -> None:
    many = kinds[-1] is Ellipsis
    fits = isinstance(value, tuple) and (many or len(value) == len(kinds))
    if not fits or not all(_TYPES[kind](one) for kind, one in zip(kinds[:1] * len(value) if many else kinds, value, strict=True)):
        wanted = f'any number of {kinds[0].__name__}' if many else ', '.join(kind.__name__ for kind in kinds)
        raise InputError(f'{name}={value!r}: must be ({wanted})')


_TYPES: Mapping[Any, Any] = {
    bool: lambda value: isinstance(value, bool),
    int: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    str: lambda value: isinstance(value, str),
    type(None): lambda value: value is None,
}


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
    """Raises `InputError` naming the field of `config.<section>`, or element of one, that is not from low to high; None is."""
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        if value is not None and not all(low <= one <= high for one in (value if isinstance(value, tuple | list) else [value])):
            path = '.'.join(filter(None, ('config', section, name)))
            bounds = ' to '.join(str(bound) if isinstance(bound, int) else f'{bound:g}' for bound in (low, high))
            raise InputError(f'{path}={value}: must be {bounds}')
