"""How fast does KIMNet train beside PyTorch? The same weights, batch, precision and cores; the contenders run in turn.

    python benchmarks/train_step.py --preset small --rounds 10

A step is all that `kimnet_jax.train` does on the device: normalising the uint8 frames, network, target maps, loss, gradient,
clipping, Adam; the batch lies there already. PyTorch does the same work in the same order. `jax_remat` recomputes the residual
blocks in the backward pass. `harness.py` says how times are taken.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import sides
import timing
import torch
from absl import app
from contenders import Prepared, Stage
from costs import compile_counted
from flax import nnx
from jax.sharding import AxisType
from sides import CHANNELS_LAST, COMPILED, EAGER, JAX, REMAT, Case

from kimnet_jax import losses
from kimnet_jax.core.image import normalise
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.translation import flatten, translate
from kimnet_jax.models import KIMNetConfig
from kimnet_jax.training import state, steps
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule

STEP = 'train step'
STAGES = ('forward', 'forward and backward', STEP)
CONTENDERS = (JAX, REMAT, EAGER, CHANNELS_LAST, COMPILED)
RESNET18 = {'pose_initializer': 'resnet18', 'feature_encoder': 'resnet18'}
PRESETS: dict[str, tuple[dict[str, Any], int, int, int]] = {  # fields of KIMNetConfig, clips, frames, pixels
    'tiny': ({**RESNET18, 'width': 8, 'features': 16}, 2, 3, 64),
    'small': ({**RESNET18, 'width': 16, 'features': 64}, 8, 5, 128),
    'medium': ({**RESNET18, 'width': 32, 'features': 64}, 8, 5, 128),
    'full': ({}, 1, 5, 256),
}
FULL_GPU = 32  # clips
RATE = 1e-3  # of Adam
STRIDE = 4


def draw_batch(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """A batch of noise; joints anywhere in the crop."""
    clips, frames, pixels = shape
    rng = np.random.default_rng(0)
    return {
        'frames': rng.integers(0, 256, (clips, frames, pixels, pixels, 3), np.uint8),
        'joints': rng.uniform(0, pixels, (clips, frames, PENN_ACTION.num_joints, 2)).astype(np.float32),
        'visible': np.ones((clips, frames, PENN_ACTION.num_joints), bool),
        'mask': np.ones((clips, frames), bool),
    }


def make_adam() -> tuple[Any, Any]:
    """(optimizer, schedule) of a constant rate, as a run has them by default: with clipping."""
    config = OptimizerConfig(schedule='constant', learning_rate=RATE)
    schedule = make_schedule(config, steps=1, steps_per_epoch=1)
    return make_optimizer(config, schedule), schedule


def one_device() -> jax.sharding.Mesh:
    """The first one: PyTorch has one, too."""
    return jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


class Training:
    """One step of ours after the other; each consumes the state that it is given."""

    def __init__(self, program: Any, first: Any, batch: Any):
        self._program, self._state, self._batch = program, first, batch

    def __call__(self) -> Any:
        self._state, metrics = self._program(self._state, self._batch)
        return metrics


def torch_stages(twin: torch.nn.Module, loss_of: Callable[[], torch.Tensor]) -> dict[str, Callable[[], Any]]:
    """What PyTorch does in each of `STAGES`; the last gives (loss, norm of the gradient)."""
    optimizer = torch.optim.Adam(twin.parameters(), lr=RATE, fused=True)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return loss_of()

    def backward() -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss.detach()

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        loss = backward()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
        return loss, norm

    return dict(zip(STAGES, (forward, backward, step), strict=True))


def prepare(contender: str, case: Case) -> Prepared:
    """Ready to train."""
    return (_prepare_jax if contender in (JAX, REMAT) else _prepare_torch)(contender, case)


def _prepare_jax(contender: str, case: Case) -> Prepared:
    model = sides.jax_network(case._replace(config=dataclasses.replace(case.config, remat=contender == REMAT)))
    graph, weights = state.split_model(model, training=True)
    optimizer, schedule = make_adam()
    train = steps.make_train_step(
        graph,
        steps.Stepping(optimizer, schedule, accumulate=1, average_decay=0.0, mesh=one_device()),
        steps.TargetConfig(centre='cell'),  # as the others draw them
        skeleton=PENN_ACTION,
        stride=STRIDE,
    )

    def forward(params: Any, stats: Any, batch: Any) -> Any:
        network = nnx.merge(graph, params, stats, copy=True)
        heatmaps = network(normalise(batch['frames'], jnp)).heatmaps
        return losses.heatmap_loss(heatmaps, batch, stride=STRIDE, centre='cell'), nnx.state(network, nnx.BatchStat)

    backward = jax.value_and_grad(forward, has_aux=True)
    batch = jax.device_put(draw_batch(case.shape))
    functions = {STAGES[0]: jax.jit(forward), STAGES[1]: jax.jit(backward), STEP: train}
    stages, compile_s, costs, outputs = {}, {}, {}, {}
    for name in case.stages:
        first = state.create_state(jax.tree.map(jnp.copy, weights), optimizer, average=False)
        arguments = (first, batch) if name == STEP else (*weights, batch)
        program, compile_s[name], costs[name] = compile_counted(functions[name], *arguments)
        if name == STEP:
            now, metrics = program(first, batch)
            statistics = flatten(now.weights.batch_stats)
            outputs = {key: np.asarray(metrics[key]) for key in ('loss', 'gradient_norm')}
            outputs['statistics'] = np.concatenate([np.asarray(statistics[path]).ravel() for path in sorted(statistics)])
            stages[name] = Stage(Training(program, now, batch), jax.block_until_ready)
        else:
            stages[name] = Stage(lambda program=program, arguments=arguments: program(*arguments), jax.block_until_ready)
    return Prepared(stages, outputs, compile_s, costs)


def _prepare_torch(contender: str, case: Case) -> Prepared:
    twin = sides.torch_network(case, contender, inference=False).train()
    arrays = draw_batch(case.shape)
    frames = sides.to_torch(arrays['frames'], contender)
    joints, mask = (torch.from_numpy(arrays[key]).to(sides.torch_device()) for key in ('joints', 'mask'))

    def objective() -> torch.Tensor:
        heatmaps = sides.torch_clip(case, twin, sides.torch_normalise(frames))
        targets = sides.torch_targets(joints, heatmaps.shape[-2:], STRIDE)
        squared = ((heatmaps - targets) ** 2).mean((-2, -1))
        weight = mask[..., None].expand_as(squared)
        return (squared * weight).sum() / weight.sum().clamp_min(1)

    functions = torch_stages(twin, sides.compiled(contender, objective))
    compile_s, outputs = {}, {}
    for name in sorted(case.stages, key=lambda name: name != STEP):  # the first step is compared
        began = time.perf_counter()
        result = functions[name]()
        sides.torch_wait()
        compile_s[name] = time.perf_counter() - began
        if name == STEP:
            buffers = {key: value for key, value in twin.state_dict().items() if 'running_' in key}
            values = {key: value.cpu().numpy() for key, value in buffers.items()}
            statistics = translate(values, NETWORKS[case.model].rules(case.config))
            outputs = {key: np.asarray(value.item()) for key, value in zip(('loss', 'gradient_norm'), result, strict=True)}
            outputs['statistics'] = np.concatenate([statistics[path].ravel() for path in sorted(statistics)])
    stages = {name: Stage(functions[name], sides.torch_wait) for name in case.stages}
    return Prepared(stages, outputs, compile_s, {})


def make_cases(preset: str, device: str, precision: str, stages: tuple[str, ...], batches: list[int]) -> list[Case]:
    """Of a preset; `batches`: none for its own."""
    fields, clips, frames, pixels = PRESETS[preset]
    config = KIMNetConfig(PENN_ACTION.num_joints, **fields)
    own = FULL_GPU if preset == 'full' and device == 'gpu' else clips
    return [Case('kimnet', config, (batch, frames, pixels), stages, precision, device) for batch in batches or [own]]


def cases(device: str, precision: str) -> list[Case]:
    """What the flags ask for."""
    stages = harness.stages(STAGES, STAGES if device == 'cpu' else (STEP,))
    return make_cases(harness.PRESET.value, device, precision, stages, harness.batches(()))


def main(argv: list[str]) -> None:
    del argv
    targets = [timing.Target('training, bf16', 'bf16', STEP, 'frames_per_s', 2500)]
    sys.exit(timing.run('train_step', prepare, CONTENDERS, cases, targets))


if __name__ == '__main__':
    app.run(main)
