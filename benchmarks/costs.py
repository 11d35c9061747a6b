"""What a program costs and what the device can do: counted in the traced program, asked of the compiler, measured."""

import collections
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import sides
import torch
from jax.extend import core

from kimnet_jax.training.operations import inner_programs, operations

SIZES = {  # of the measured ceilings: rows of a matrix; images, cells, channels of a 3x3 convolution; numbers copied; calls
    'cpu': (1024, (8, 32, 128), 2**26, 2),
    'gpu': (8192, (256, 64, 256), 2**29, 10),
}


def compile_counted(function: Any, *arguments: Any) -> tuple[Any, float, dict[str, Any]]:
    """(the program of a jitted function for these arguments, the seconds that it took to compile, its costs)."""
    began = time.perf_counter()
    traced = function.trace(*arguments)
    program = traced.lower().compile()
    seconds = time.perf_counter() - began
    return program, seconds, count(traced.jaxpr, program)


def count(program: Any, compiled: Any = None) -> dict[str, Any]:
    """The costs of a call.

    Args:
        program: as JAX traced it (a ClosedJaxpr).
        compiled: the same, compiled; None: nothing is asked of the compiler.

    Returns:
        `flops` of all convolutions and matrix products, loops by their length, a product with a zero that dilation inserts not
        counted; `work`: (flops, bytes of operands and result, how often) of each of these; and of the compiled program, as its
        compiler gives them: `compiled_flops`, `compiled_bytes` moved (None where it does not know them) and `program_bytes`, the
        memory that arguments, results and temporary arrays take.
    """
    work = collections.Counter(operations(program.jaxpr))
    found: dict[str, Any] = {
        'flops': sum(flops * times * number for (flops, _, times), number in work.items()),
        'work': [(flops, moved, times * number) for (flops, moved, times), number in work.items()],
        'compiled_flops': None,
        'compiled_bytes': None,
        'program_bytes': None,
    }
    if compiled is not None:
        given = _compiler_costs(compiled)
        in_sight = sum(flops * number for (flops, _, _), number in work.items())
        if given['flops'] > 0.5 * in_sight:  # else calls of libraries hide what they do
            for body, times in _loops(program.jaxpr):  # the compiler counts the body of a loop once
                inside = _compiler_costs(jax.jit(core.jaxpr_as_fun(body)).lower(*body.in_avals).compile())
                given = {key: given[key] + (times - 1) * inside[key] for key in given}
            found['compiled_flops'], found['compiled_bytes'] = given['flops'], given['bytes accessed']
        memory = compiled.memory_analysis()
        if memory is not None:
            sizes = (memory.argument_size_in_bytes, memory.output_size_in_bytes, memory.temp_size_in_bytes)
            found['program_bytes'] = sum(sizes) - memory.alias_size_in_bytes
    return found


def _compiler_costs(compiled: Any) -> dict[str, float]:
    given = compiled.cost_analysis() or {}
    given = given[0] if isinstance(given, list) else given
    return {key: given.get(key, 0.0) for key in ('flops', 'bytes accessed')}


def _loops(jaxpr: Any) -> Iterator[tuple[Any, int]]:
    """(body, times) of each rolled loop; none of ours holds another."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == 'scan':
            if equation.params['length'] > 1 and equation.params['unroll'] < equation.params['length']:
                yield equation.params['jaxpr'], equation.params['length']
        else:
            for program in inner_programs(equation):
                yield from _loops(getattr(program, 'jaxpr', program))


def fastest(start: Callable[[], Any], wait: Callable[[Any], Any], calls: int) -> float:
    """Seconds of a call that queues up with others: the best of four turns, after a warm-up."""
    wait(start())
    times = []
    for _ in range(4):
        began = time.perf_counter()
        for _ in range(calls):
            result = start()
        wait(result)
        times.append((time.perf_counter() - began) / calls)
    return min(times)


def ceilings(contender: str, _: Any, device: str, precision: str) -> dict[str, float]:
    """FLOP/s of a matrix product and of a 3x3 convolution, bytes/s read and written by a copy: by the contender's library."""
    rows, (images, cells, channels), copied, calls = SIZES[device]
    if contender != sides.JAX:
        sides.check_torch(device)
    measure = _jax_times if contender == sides.JAX else _torch_times
    times = measure(precision, rows, (images, cells, channels), copied, calls)
    convolution = 2 * images * cells**2 * 9 * channels**2
    return {'matmul': 2 * rows**3 / times[0], 'convolution': convolution / times[1], 'copy': 8 * copied / times[2]}


def _jax_times(precision: str, rows: int, conv: tuple[int, int, int], copied: int, calls: int) -> list[float]:
    sides.set_jax_precision(precision)
    dtype = jnp.bfloat16 if precision == 'bf16' else jnp.float32
    images, cells, channels = conv
    keys = jax.random.split(jax.random.key(0), 4)

    def draw(key: jax.Array, *shape: int) -> jax.Array:
        return jax.random.normal(key, shape, dtype)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    cases = (
        (jnp.matmul, (draw(keys[0], rows, rows), draw(keys[1], rows, rows))),
        (convolve, (draw(keys[2], images, cells, cells, channels), draw(keys[3], 3, 3, channels, channels))),
        (jnp.negative, (jnp.ones(copied, jnp.float32),)),
    )
    times = []
    for function, arrays in cases:
        compiled = jax.jit(function)
        times.append(fastest(lambda compiled=compiled, arrays=arrays: compiled(*arrays), jax.block_until_ready, calls))
    return times


def _torch_times(precision: str, rows: int, conv: tuple[int, int, int], copied: int, calls: int) -> list[float]:
    device = sides.torch_device()
    sides.set_torch_precision(precision)
    dtype = torch.bfloat16 if precision == 'bf16' else torch.float32
    images, cells, channels = conv

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=dtype)

    a, b, source = draw(rows, rows), draw(rows, rows), torch.ones(copied, device=device)
    x, kernel = (
        draw(*shape).to(memory_format=torch.channels_last)
        for shape in ((images, channels, cells, cells), (channels, channels, 3, 3))
    )
    target = torch.empty_like(source)
    cases = (lambda: a @ b, lambda: torch.nn.functional.conv2d(x, kernel, padding=1), lambda: target.copy_(source))
    with torch.no_grad():
        return [fastest(case, sides.torch_wait, calls) for case in cases]


def merge(measured: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The ceilings of the device: the best that any library reached. `measured`: by contender."""
    best = {key: max(values[key] for values in measured.values()) for key in ('matmul', 'convolution', 'copy')}
    flops = max(best['matmul'], best['convolution'])
    return {'flops_per_s': flops, 'bytes_per_s': best['copy'], 'measured': measured}
