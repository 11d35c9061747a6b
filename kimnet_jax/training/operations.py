"""The convolutions and matrix products of a traced program, and what they cost."""

import math
from collections.abc import Iterator
from typing import Any


def operations(jaxpr: Any, times: int = 1) -> Iterator[tuple[int, int, int]]:
    """(flops, bytes of operands and result, how often) of each; `times`: how often the program runs.

    A loop counts by its length. A product with a zero that dilation inserts is no product.
    """
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ('dot_general', 'conv_general_dilated'):
            operands, result = [var.aval for var in equation.invars], equation.outvars[0].aval
            if name == 'dot_general':
                terms = math.prod(operands[0].shape[axis] for axis in equation.params['dimension_numbers'][0][0])
            else:
                features = operands[1].shape[equation.params['dimension_numbers'].rhs_spec[0]]
                terms = operands[1].size / features / math.prod(equation.params['lhs_dilation'])
            moved = sum(array.size * array.dtype.itemsize for array in (*operands, result))
            yield int(2 * result.size * terms), moved, times
        inside = times * equation.params['length'] if name == 'scan' else times
        for program in inner_programs(equation):
            yield from operations(getattr(program, 'jaxpr', program), inside)


def inner_programs(equation: Any) -> Iterator[Any]:
    """The programs inside of an operation."""
    for value in equation.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            if hasattr(part, 'jaxpr') or hasattr(part, 'eqns'):
                yield part


def total_flops(jaxpr: Any) -> int:
    """Of all of them, loops by their length."""
    return sum(flops * times for flops, _, times in operations(jaxpr))
