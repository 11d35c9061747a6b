"""How fast does KIMNet train beside PyTorch? Same weights, batch, precision and cores; the contenders run in turn.

    python benchmarks/train_step.py --preset small --rounds 10

Times are medians in ms; ratios are medians over the rounds of JAX / PyTorch (below 1: JAX is faster). The result also goes to
benchmarks/results as JSON. PyTorch runs eagerly, in its own memory layout and in channels_last. Each contender has a process of
its own: in one process, each pays for the memory that the other gives back.
"""

import datetime
import json
import multiprocessing
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from multiprocessing.connection import Connection

from absl import app, flags

PRESETS = {  # fields of KIMNetConfig, clips, frames, pixels
    'tiny': ({'initializer_depth': 18, 'encoder_depth': 18, 'width': 8, 'features': 16}, 2, 3, 64),
    'small': ({'initializer_depth': 18, 'encoder_depth': 18, 'width': 16, 'features': 64}, 8, 5, 128),
    'medium': ({'initializer_depth': 18, 'encoder_depth': 18, 'width': 32, 'features': 64}, 8, 5, 128),
    'full': ({}, 1, 5, 256),
}
STAGES = ('forward', 'forward and backward', 'train step')
CONTENDERS = ('JAX', 'PyTorch', 'channels_last')
JOINTS = 13

PRESET = flags.DEFINE_enum('preset', 'small', list(PRESETS), 'Size of the model.')
BATCH = flags.DEFINE_integer('batch', None, 'Clips; default: that of the preset.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often each contender runs.', lower_bound=1)
CORES = flags.DEFINE_integer('cores', None, 'Cores that each may use; default: all.', lower_bound=1)
OUT = flags.DEFINE_string('out', str(pathlib.Path(__file__).parent / 'results'), 'Folder for the JSON.')

Runs = dict[str, Callable[[], object]]  # by stage; each returns when its result is there


def serve(connection: Connection, contender: str, fields: dict, shape: tuple[int, int, int], cores: list[int]) -> None:
    """A contender's process: gets ready, says how long it compiled, then runs the stages it is sent and answers with ms."""
    os.sched_setaffinity(0, cores)
    import numpy as np
    import torch

    from kimnet_jax.interop import torch_models
    from kimnet_jax.models import KIMNetConfig

    torch.set_num_threads(len(cores))
    torch.manual_seed(0)
    twin = torch_models.KIMNet(KIMNetConfig(JOINTS, **fields))
    clips, length, size = shape
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((clips, length, size, size, 3), np.float32)
    target = rng.random((clips, length, size // 4, size // 4, JOINTS), np.float32)
    if contender == 'JAX':
        runs, seconds = jax_runs(twin, KIMNetConfig(JOINTS, **fields), frames, target)
    else:
        runs, seconds = torch_runs(twin, frames, target, channels_last=contender == 'channels_last'), None
    connection.send(seconds)
    while stage := connection.recv():
        began = time.perf_counter()
        runs[stage]()
        connection.send(1e3 * (time.perf_counter() - began))


def jax_runs(twin, config, frames, target) -> tuple[Runs, dict[str, float]]:
    """And the seconds it took to compile each stage."""
    import jax
    import optax
    from flax import nnx

    from kimnet_jax.interop.keymaps import KIMNET
    from kimnet_jax.interop.translation import assign, translate
    from kimnet_jax.models import KIMNet

    model = nnx.eval_shape(lambda: KIMNet(config, rngs=nnx.Rngs(0)))
    assign(model, translate({key: value.numpy() for key, value in twin.state_dict().items()}, KIMNET))
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

    frames, target, moments = jax.device_put((frames, target, optimizer.init(parameters)))
    functions = (forward, backward, step)
    arguments = ((parameters, stats, frames), (parameters, stats, frames, target), (parameters, stats, moments, frames, target))
    runs, seconds = {}, {}
    for stage, function, values in zip(STAGES, functions, arguments, strict=True):
        began = time.perf_counter()
        compiled = jax.jit(function).lower(*values).compile()
        seconds[stage] = time.perf_counter() - began
        runs[stage] = lambda compiled=compiled, values=values: jax.block_until_ready(compiled(*values))
    return runs, seconds


def torch_runs(model, frames, target, *, channels_last: bool) -> Runs:
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
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
    cores = sorted(os.sched_getaffinity(0))[: CORES.value]
    fields, clips, length, size = PRESETS[PRESET.value]
    shape = (BATCH.value or clips, length, size)
    context = multiprocessing.get_context('spawn')
    connections, compile_s = {}, {}
    for name in CONTENDERS:
        connections[name], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, name, fields, shape, cores), daemon=True).start()
        compile_s |= connections[name].recv() or {}

    stages = {}
    for stage in STAGES:
        times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for round_ in range(1 + ROUNDS.value):
            for name, connection in connections.items():
                connection.send(stage)
                duration = connection.recv()
                if round_:  # the first only warms up
                    times[name].append(duration)
        stages[stage] = {
            'compile_s': compile_s[stage],
            'median_ms': {name: statistics.median(values) for name, values in times.items()},
            'shortest_ms': {name: min(values) for name, values in times.items()},
            'ratio': {
                name: statistics.median(a / b for a, b in zip(times['JAX'], times[name], strict=True)) for name in CONTENDERS[1:]
            },
        }
    for connection in connections.values():
        connection.send(None)  # nothing more to run
    report(
        {
            'date': datetime.date.today().isoformat(),
            'preset': PRESET.value,
            'model': fields,
            'clips, frames, pixels': shape,
            'rounds': ROUNDS.value,
            'cores': len(cores),
            'machine': f'{platform.system()} {platform.machine()}',
            'versions': {name: metadata.version(name) for name in ('jax', 'flax', 'torch')},
            'stages': stages,
        }
    )


def report(result: dict) -> None:
    print(
        '{}: {} clips x {} frames of {} px, {} cores'.format(result['preset'], *result['clips, frames, pixels'], result['cores'])
    )
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
