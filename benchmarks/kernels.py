"""The formulations of max-pooling and of the transposed convolution against each other, on this machine's device.

    python benchmarks/kernels.py --out results

`models.layers` chooses them by platform. Forward and gradient of the shapes of the paper's network and of preset `medium`, in the
precision of training; milliseconds, the median of many calls, in turn.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx

from kimnet_jax.core.platform import compiled_for, platform_of
from kimnet_jax.models.layers import Conv, ConvTranspose, max_pool

SHAPES = {  # (batch, side of the images, channels of the stem, channels in and out of the first transposed convolution)
    'full': (40, 256, 64, 2048, 256),
    'medium': (40, 192, 32, 256, 96),
}


def measure(function, *arguments, rounds: int) -> float:
    """Milliseconds of one call."""
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(5):
            result = function(*arguments)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - began) / 5)
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results')
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--preset', choices=[*SHAPES, 'all'], default='all')
    args = parser.parse_args()
    device = jax.devices()[0]
    here = platform_of(device.platform)
    dtype = jnp.float32 if here == 'cpu' else jnp.bfloat16
    rows = []
    for preset, (batch, side, stem, deep, features) in SHAPES.items():
        if args.preset not in (preset, 'all'):
            continue
        keys = iter(jax.random.split(jax.random.key(0), 9))
        cases = {
            'max_pool': (max_pool, (batch, side // 2, side // 2, stem)),
            'conv_transpose, first': (
                ConvTranspose(deep, features, dtype=dtype, rngs=nnx.Rngs(0)),
                (batch, side // 32, side // 32, deep),
            ),
            'conv_transpose, last': (
                ConvTranspose(features, features, dtype=dtype, rngs=nnx.Rngs(0)),
                (batch, side // 8, side // 8, features),
            ),
            'conv 1x1, stride 2': (
                Conv(4 * stem, 8 * stem, 1, stride=2, dtype=dtype, rngs=nnx.Rngs(0)),
                (batch, side // 4, side // 4, 4 * stem),
            ),
        }
        for name, (layer, shape) in cases.items():
            x = jax.random.normal(next(keys), shape, dtype)
            for formulation in ('cpu', here if here != 'cpu' else 'gpu'):

                def forward(x, layer=layer, formulation=formulation):
                    with compiled_for(formulation):
                        return layer(x)

                def backward(x, forward=forward):
                    return jax.grad(lambda x: forward(x).astype(jnp.float32).var())(x)

                if isinstance(layer, nnx.Module):
                    graph, state = nnx.split(layer)

                    def backward(x, graph=graph, state=state, formulation=formulation):
                        def loss(state, x):
                            with compiled_for(formulation):
                                return nnx.merge(graph, state)(x).astype(jnp.float32).var()

                        return jax.grad(loss, argnums=(0, 1))(state, x)

                row = {
                    'preset': preset,
                    'layer': name,
                    'formulation': formulation,
                    'forward_ms': measure(jax.jit(forward), x, rounds=args.rounds),
                    'forward_and_gradient_ms': measure(jax.jit(backward), x, rounds=args.rounds),
                }
                rows.append(row)
                times = f'{row["forward_ms"]:.3f} ms, with gradient {row["forward_and_gradient_ms"]:.3f} ms'
                print(f'{preset:7} {name:22} as on {formulation}: {times}', flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f'kernels_{here}_{datetime.date.today()}.json'
    file.write_text(json.dumps({'device': device.device_kind, 'dtype': jnp.dtype(dtype).name, 'rows': rows}, indent=1) + '\n')


if __name__ == '__main__':
    main()
