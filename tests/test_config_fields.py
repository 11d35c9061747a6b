"""Plain fields to dataclasses."""

import dataclasses

import pytest

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shape:
    rows: int = 1
    scale: tuple[float, ...] = ()


def test_fields_arrive_and_lists_become_tuples():
    assert make(Shape, {'rows': 3, 'scale': [0.5, 2.0]}, 'shape') == Shape(3, (0.5, 2.0))


def test_unknown_field():
    with pytest.raises(InputError, match=r'^config\.shape\.row: no such field; known: rows, scale$'):
        make(Shape, {'row': 3, 'rows': 3, 'scale': ()}, 'shape')


def test_missing_field():
    with pytest.raises(InputError, match=r"^config\.shape: field 'scale' is missing$"):
        make(Shape, {'rows': 3}, 'shape')
