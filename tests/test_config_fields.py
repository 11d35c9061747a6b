"""Plain fields to dataclasses."""

import dataclasses
import re
from typing import Literal

import pytest

from kimnet_jax.core.config import make, plain
from kimnet_jax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shape:
    rows: int = 1
    scale: tuple[float, ...] = ()


def test_fields_arrive_and_lists_become_tuples():
    assert make(Shape, {'rows': 3, 'scale': [0.5, 2.0]}, 'shape') == Shape(3, (0.5, 2.0))


@dataclasses.dataclass(frozen=True)
class Typed:
    kind: Literal['a', 'b'] | Literal['c'] = 'a'
    width: int = 1
    rate: float = 0.5
    name: str | None = None
    flag: bool = False
    shape: Shape = dataclasses.field(default_factory=Shape)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'kind': 'd'}, "config.kind='d': choose one of a, b, c"),
        ({'width': 1.5}, 'config.width=1.5: must be of type int'),
        ({'width': True}, 'config.width=True: must be of type int'),
        ({'rate': 'fast'}, "config.rate='fast': must be of type float"),
        ({'rate': float('nan')}, 'config.rate=nan: must be a finite number'),
        ({'name': 3}, 'config.name=3: must be of type str or NoneType'),
        ({'flag': 1}, 'config.flag=1: must be of type bool'),
        ({'shape': 3}, 'config.shape=3: must be a section of fields'),
        ({'shape': {'rows': 2}}, "config.shape: field 'scale' is missing"),
        ({'shape': {'rows': 2, 'scale': (), 'more': 1}}, 'config.shape.more: no such field; known: rows, scale'),
    ],
)
def test_a_value_of_another_type_is_named(fields, message):
    with pytest.raises(InputError, match=f'^{re.escape(message)}$'):
        make(Typed, fields, partial=True)


def test_a_config_there_and_back():
    config = Typed('c', 3, 1, 'x', True, Shape(2, (0.5,)))
    assert make(Typed, plain(config)) == config
    assert make(Typed, {}, partial=True) == Typed()
    assert plain(Typed())['shape'] == {'rows': 1, 'scale': ()}


def test_unknown_field():
    with pytest.raises(InputError, match=r'^config\.shape\.row: no such field; known: rows, scale$'):
        make(Shape, {'row': 3, 'rows': 3, 'scale': ()}, 'shape')


def test_missing_field():
    with pytest.raises(InputError, match=r"^config\.shape: field 'scale' is missing$"):
        make(Shape, {'rows': 3}, 'shape')
