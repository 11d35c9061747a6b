"""How large is each network? Writes the table of docs/models.md: parameters, FLOPs and peak memory of every network and row.

    python benchmarks/models.py [--only kimnet,lstm_pm]

Of one clip of 5 frames of 256 x 256 pixels, 13 joints, in float32. Parameters and FLOPs are facts of the network; FLOPs are those
that XLA counts in the program before it optimises it, two for a multiplication and its addition. Peak memory is what the compiled
program asks for, weights and results included: on the backend that this runs on, and it differs between backends.
"""

import argparse
import importlib
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from kimnet_jax import models
from kimnet_jax.configs.models import ROWS
from kimnet_jax.core.files import write_text

PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'models.md'
MARKS = '<!-- table: python benchmarks/models.py -->\n', '<!-- end of table -->\n'
ARGUMENTS = [f'model={name}' for name in models.VIDEO_MODELS] + [f'row={name}' for name in ROWS]
JOINTS, FRAMES, PIXELS = 13, 5, 256
QUICK = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}  # buffers are the same


def main() -> None:
    """Measures and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', help='names of networks and rows; prints their lines and leaves the page as it is')
    only = parser.parse_args().only
    chosen = [argument for argument in ARGUMENTS if not only or argument.partition('=')[2] in only.split(',')]
    lines, seen = [], {}
    for argument in chosen:
        config = importlib.import_module('kimnet_jax.configs.penn_action').get_config(argument)
        key = json.dumps(config.model.to_dict(), sort_keys=True)
        if key not in seen:
            seen[key] = measure(config.model)
        lines.append(line(argument, config.model.name, seen[key]))
        print(lines[-1], end='', file=sys.stderr, flush=True)
    if not only:
        page = PAGE.read_text()
        before, rest = page.split(MARKS[0])
        _, after = rest.split(MARKS[1])
        text = before + MARKS[0] + HEAD.format(backend=jax.default_backend().upper()) + ''.join(lines) + MARKS[1] + after
        write_text(PAGE, text)


HEAD = """
| argument of a config | parameters, M | GFLOP a frame | GiB to infer, {backend} | GiB to train, {backend} | source |
|---|---:|---:|---:|---:|---|
"""


def line(argument: str, name: str, sizes: dict[str, float]) -> str:
    """A line of the table."""
    numbers = '{parameters:.1f} | {flops:.1f} | {infer:.2f} | {train:.2f}'.format_map(sizes)
    return f'| `{argument}` | {numbers} | {models.MODELS[name].source} |\n'


def measure(fields: ConfigDict) -> dict[str, float]:
    """Parameters in millions, GFLOPs of a frame, and peak memory of the forward pass and of the gradient in GiB."""
    model = models.abstract_model(fields.to_dict(), num_joints=JOINTS)
    frames = jax.ShapeDtypeStruct((1, FRAMES, PIXELS, PIXELS, 3), jnp.float32)
    model.eval()
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params: nnx.State, rest: nnx.State, frames: jax.Array) -> jax.Array:
        return nnx.merge(graph, params, rest, copy=True)(frames)[0]

    model.train()
    train_graph = nnx.graphdef(model)

    def backward(params: nnx.State, rest: nnx.State, frames: jax.Array) -> nnx.State:
        def loss(params: nnx.State) -> jax.Array:
            output = nnx.merge(train_graph, params, rest, copy=True)(frames)
            return sum((maps**2).mean() for maps in (output.heatmaps, *output.auxiliary))

        return jax.grad(loss)(params)

    sizes = {'parameters': models.count_parameters(model) / 1e6}
    programs = {'infer': jax.jit(forward).lower(params, rest, frames), 'train': jax.jit(backward).lower(params, rest, frames)}
    for name, program in programs.items():
        memory = program.compile(compiler_options=QUICK).memory_analysis()
        used = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        sizes[name] = used / 2**30
    sizes['flops'] = flops(model, params, rest) / FRAMES / 1e9
    return sizes


def flops(model: nnx.Module, params: nnx.State, rest: nnx.State) -> float:
    """Of a clip: its first frame, and a step of the chain for each of the others (of a rolled chain XLA counts one step)."""
    model.eval()
    graph = nnx.graphdef(model)
    frame = jax.ShapeDtypeStruct((1, PIXELS, PIXELS, 3), jnp.float32)

    def init_state(params, rest, frame):
        return nnx.merge(graph, params, rest, copy=True).init_state(frame)

    def step(params, rest, state, frame):
        return nnx.merge(graph, params, rest, copy=True).step(state, frame)

    _, state = jax.eval_shape(init_state, params, rest, frame)
    first = jax.jit(init_state).lower(params, rest, frame).cost_analysis()['flops']
    return first + (FRAMES - 1) * jax.jit(step).lower(params, rest, state, frame).cost_analysis()['flops']


if __name__ == '__main__':
    main()
