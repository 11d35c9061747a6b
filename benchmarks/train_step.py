"""How fast does KIMNet train beside PyTorch? Same weights, batch, precision and cores, in turn in one process.

    python benchmarks/train_step.py --preset small --rounds 10

Times are medians in ms; ratios are medians over the rounds of JAX / PyTorch (below 1: JAX is faster). The result also goes to
benchmarks/results as JSON. PyTorch runs eagerly, in its own memory layout and in channels_last.
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable

from absl import app, flags, logging

PRESETS = {  # fields of KIMNetConfig, clips, frames, pixels
    'tiny': ({'initializer_depth': 18, 'encoder_depth': 18, 'width': 8, 'features': 16}, 2, 3, 64),
    'small': ({'initializer_depth': 18, 'encoder_depth': 18, 'width': 16, 'features': 64}, 8, 5, 128),
    'medium': ({'initializer_depth': 18, 'encoder_depth': 18, 'width': 32, 'features': 64}, 8, 5, 128),
    'full': ({}, 1, 5, 256),
}
STAGES = ('forward', 'forward and backward', 'train step')
JOINTS = 13

PRESET = flags.DEFINE_enum('preset', 'small', list(PRESETS), 'Size of the model.')
BATCH = flags.DEFINE_integer('batch', None, 'Clips; default: that of the preset.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each contender runs.', lower_bound=1)
CORES = flags.DEFINE_integer('cores', None, 'Cores that both may use; default: all.', lower_bound=1)
OUT = flags.DEFINE_string('out', str(pathlib.Path(__file__).parent / 'results'), 'Folder for the JSON.')

Runs = dict[str, Callable[[], object]]  # by stage; each returns when its result is there


def jax_runs(config, weights, frames, target) -> tuple[Runs, dict[str, float]]:
    """And the seconds it took to compile each stage."""
    import jax
    import optax
    from flax import nnx

    from kimnet_jax.interop.keymaps import KIMNET, assign, translate
    from kimnet_jax.models import KIMNet

    model = nnx.eval_shape(lambda: KIMNet(config, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, KIMNET))
    graph, parameters, stats = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adam(1e-3)

    def forward(parameters, stats, frames):
        model = nnx.merge(graph, parameters, stats, copy=True)
        heatmaps, _ = model(frames)
        return heatmaps, nnx.state(model, nnx.BatchStat)

    def backward(parameters, stats, frames, target):
        def loss(parameters):
            heatmaps, moved = forward(parameters, stats, frames)
            return ((heatmaps - target) ** 2).mean(), moved

        return jax.value_and_grad(loss, has_aux=True)(parameters)

    def step(parameters, stats, moments, frames, target):
        (_, stats), gradients = backward(parameters, stats, frames, target)
        updates, moments = optimizer.update(gradients, moments)
        return optax.apply_updates(parameters, updates), stats, moments

    frames, target, state = jax.device_put((frames, target, (parameters, stats, optimizer.init(parameters))))
    arguments = {
        'forward': (forward, (parameters, stats, frames)),
        'forward and backward': (backward, (parameters, stats, frames, target)),
        'train step': (step, (*state, frames, target)),
    }
    runs, seconds = {}, {}
    for stage, (function, values) in arguments.items():
        began = time.perf_counter()
        compiled = jax.jit(function).lower(*values).compile()
        seconds[stage] = time.perf_counter() - began
        runs[stage] = lambda compiled=compiled, values=values: jax.block_until_ready(compiled(*values))
    return runs, seconds


def torch_runs(config, weights, frames, target, *, channels_last: bool) -> Runs:
    import torch

    from kimnet_jax.interop import torch_models

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = torch_models.KIMNet(config)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    model = model.to(memory_format=layout)
    frames = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).flatten(0, 1).contiguous(memory_format=layout)
    frames = frames.unflatten(0, target.shape[:2])
    target = torch.from_numpy(target).permute(0, 1, 4, 2, 3).contiguous()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def forward():
        with torch.no_grad():
            return model(frames)

    def backward():
        optimizer.zero_grad()
        ((model(frames) - target) ** 2).mean().backward()

    def step():
        backward()
        optimizer.step()

    return dict(zip(STAGES, (forward, backward, step), strict=True))


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)  # no lines about accelerators that are not there
    cores = sorted(os.sched_getaffinity(0))[: CORES.value]
    os.sched_setaffinity(0, cores)  # before XLA makes its threads
    import jax
    import numpy as np
    import torch

    from kimnet_jax.interop import torch_models
    from kimnet_jax.models import KIMNetConfig

    torch.set_num_threads(len(cores))
    torch.manual_seed(0)
    fields, clips, length, size = PRESETS[PRESET.value]
    clips = BATCH.value or clips
    config = KIMNetConfig(JOINTS, **fields)
    weights = {key: value.numpy() for key, value in torch_models.KIMNet(config).state_dict().items()}
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((clips, length, size, size, 3), np.float32)
    target = rng.random((clips, length, size // 4, size // 4, JOINTS), np.float32)

    ours, seconds = jax_runs(config, weights, frames, target)
    contenders = {
        'JAX': ours,
        'PyTorch': torch_runs(config, weights, frames, target, channels_last=False),
        'PyTorch channels_last': torch_runs(config, weights, frames, target, channels_last=True),
    }
    rows = {}
    for stage in STAGES:
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for round_ in range(1 + ROUNDS.value):
            for name, runs in contenders.items():
                began = time.perf_counter()
                runs[stage]()
                if round_:  # the first only warms up
                    times[name].append(1e3 * (time.perf_counter() - began))
        rows[stage] = {
            'compile_s': seconds[stage],
            'median_ms': {name: statistics.median(values) for name, values in times.items()},
            'shortest_ms': {name: min(values) for name, values in times.items()},
            'ratio': {
                name: statistics.median(a / b for a, b in zip(times['JAX'], values, strict=True))
                for name, values in times.items()
                if name != 'JAX'
            },
        }
    result = {
        'date': datetime.date.today().isoformat(),
        'preset': PRESET.value,
        'model': fields,
        'clips': clips,
        'frames': length,
        'pixels': size,
        'rounds': ROUNDS.value,
        'cores': len(cores),
        'processor': platform.processor() or platform.machine(),
        'versions': {'jax': jax.__version__, 'torch': torch.__version__},
        'stages': rows,
    }
    report(result)


def report(result: dict) -> None:
    size = f'{result["clips"]} clips x {result["frames"]} frames of {result["pixels"]} px'
    print(f'{result["preset"]}: {size}, {result["cores"]} cores')
    print(f'{"median ms (ratio)":<24}{"JAX":>10}{"PyTorch":>20}{"channels_last":>20}{"compile s":>12}')
    for stage, row in result['stages'].items():
        cells = ''.join(f'{row["median_ms"][name]:>12.1f} ({ratio:.2f}x)' for name, ratio in row['ratio'].items())
        print(f'{stage:<24}{row["median_ms"]["JAX"]:>10.1f}{cells}{row["compile_s"]:>12.1f}')
    folder = pathlib.Path(OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'train_step_{result["preset"]}_{result["date"]}.json'
    path.write_text(json.dumps(result, indent=2) + '\n')
    print(path)


if __name__ == '__main__':
    app.run(main)
