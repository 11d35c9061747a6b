"""How fast does HANet refine and train beside PyTorch? The same weights, windows, precision, cores; the contenders run in turn.

    python benchmarks/hanet.py --preset small --rounds 10

`one window`: host to host, as in a stream. `windows`: a batch that lies on the device. `train step`: loss, gradient, clipping and
Adam, without dropout, so that both sides can be held to the same numbers, and then with the release's dropout, where they cannot.
"""

import dataclasses
import sys
import time
from typing import Any

import harness
import jax
import numpy as np
import sides
import timing
import torch
from absl import app
from contenders import Prepared, Stage
from costs import compile_counted
from flax import nnx
from sides import COMPILED, EAGER, JAX, Case
from torch import Tensor
from train_step import STEP, Training, make_adam, one_device, torch_stages

from kimnet_jax.core.pose_windows import WindowConfig
from kimnet_jax.inference.refiner import PoseRefiner
from kimnet_jax.models.hanet import PRESETS as CONFIGS
from kimnet_jax.models.hanet import HANetConfig
from kimnet_jax.training import refinement_steps, state
from kimnet_jax.training.steps import Stepping

ONE, MANY = 'one window', 'windows'
CONTENDERS = (JAX, EAGER, COMPILED)  # channels_last means nothing to poses
PRESETS = {
    'tiny': (HANetConfig(10, width=8, levels=2), 4),
    'small': (CONFIGS['small'], 64),
    'medium': (dataclasses.replace(CONFIGS['small'], width=128, levels=4), 64),
    'full': (CONFIGS['jhmdb_2d'], 8),
}
FULL_GPU = 256


def draw(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Estimated and true poses [B, L, C]."""
    rng = np.random.default_rng(0)
    shape = (*case.shape, case.config.length, case.config.channels)
    truth = rng.uniform(-0.5, 0.5, shape).astype(np.float32)
    return truth + rng.normal(0, 0.05, shape).astype(np.float32), truth


def prepare(contender: str, case: Case) -> Prepared:
    """Ready to refine or to train."""
    if contender == JAX:
        return (_jax_training if STEP in case.stages else _jax_refining)(case)
    return (_torch_training if STEP in case.stages else _torch_refining)(contender, case)


def _jax_refining(case: Case) -> Prepared:
    graph, weights = nnx.split(sides.jax_network(case))
    estimated, _ = draw(case)
    mask = np.ones(estimated.shape[:2], bool)

    def network(weights: Any, poses: Any, mask: Any) -> Any:
        return nnx.merge(graph, weights)(poses, mask).final

    refiner = PoseRefiner(weights, network, WindowConfig(case.config.length))
    began = time.perf_counter()
    refiner.one(estimated[:1], mask[:1])
    compile_s = {ONE: time.perf_counter() - began}
    weights, poses, everywhere = jax.device_put((weights, estimated, mask))
    program, compile_s[MANY], costs = compile_counted(jax.jit(network), weights, poses, everywhere)
    outputs = {'poses': np.asarray(program(weights, poses, everywhere))}
    stages = {
        ONE: Stage(lambda: refiner.one(estimated[:1], mask[:1])),
        MANY: Stage(lambda: program(weights, poses, everywhere), jax.block_until_ready),
    }
    return Prepared({name: stages[name] for name in case.stages}, outputs, compile_s, {MANY: costs})


def _jax_training(case: Case) -> Prepared:
    model = sides.jax_network(case)
    graph, weights = state.split_model(model, training=True)
    optimizer, schedule = make_adam()
    train = refinement_steps.make_train_step(
        graph,
        Stepping(optimizer, schedule, accumulate=1, average_decay=0.0, mesh=one_device()),
        refinement_steps.LossConfig(),
        interval=case.config.interval,
        seed=0,
    )
    estimated, truth = draw(case)
    batch = {'estimated': estimated, 'poses': truth, 'known': np.ones(truth.shape, bool), 'mask': np.ones(truth.shape[:2], bool)}
    first, batch = jax.device_put((state.create_state(weights, optimizer, average=False), batch))
    program, compile_s, costs = compile_counted(train, first, batch)
    now, metrics = program(first, batch)
    outputs = _comparable(case, metrics['loss'], metrics['gradient_norm'])
    stage = Stage(Training(program, now, batch), jax.block_until_ready)
    return Prepared({STEP: stage}, outputs, {STEP: compile_s}, {STEP: costs})


def _comparable(case: Case, loss: Any, norm: Any) -> dict[str, np.ndarray]:
    """Nothing, where dropout draws."""
    return {} if case.config.dropout else {'loss': np.asarray(float(loss)), 'gradient_norm': np.asarray(float(norm))}


def _torch_refining(contender: str, case: Case) -> Prepared:
    twin = sides.torch_network(case, contender, inference=True)
    estimated, _ = draw(case)
    poses = torch.from_numpy(estimated).to(sides.torch_device())

    def forward(poses: Tensor) -> Tensor:
        with sides.autocast(case):
            return twin(poses)[0].float()

    function = sides.compiled(contender, forward, graphs=True)

    @torch.no_grad()
    def one() -> np.ndarray:
        return function(torch.from_numpy(estimated[:1]).to(sides.torch_device())).cpu().numpy()

    @torch.no_grad()
    def many() -> Tensor:
        return function(poses)

    compile_s = {}
    for name, call in ((ONE, one), (MANY, many)):
        began = time.perf_counter()
        found = call()
        sides.torch_wait()
        compile_s[name] = time.perf_counter() - began
    stages = {ONE: Stage(one), MANY: Stage(many, sides.torch_wait)}
    return Prepared({name: stages[name] for name in case.stages}, {'poses': found.cpu().numpy()}, compile_s, {})


def _torch_training(contender: str, case: Case) -> Prepared:
    twin = sides.torch_network(case, contender, inference=False).train()
    estimated, truth = (torch.from_numpy(array).to(sides.torch_device()) for array in draw(case))

    def objective() -> Tensor:
        with sides.autocast(case):
            final, refined = twin(estimated)
        return torch_loss(final.float(), refined.float(), truth, case.config.interval)

    step = torch_stages(twin, sides.compiled(contender, objective))[STEP]
    began = time.perf_counter()
    loss, norm = step()
    outputs = _comparable(case, loss, norm)
    compile_s = time.perf_counter() - began
    return Prepared({STEP: Stage(step, sides.torch_wait)}, outputs, {STEP: compile_s}, {})


def torch_loss(final: Tensor, refined: Tensor, truth: Tensor, interval: int) -> Tensor:
    """`losses.hanet_loss` of whole windows, its learning `detached`."""
    config = refinement_steps.LossConfig()

    def share(difference: Tensor) -> Tensor:
        return difference.abs().sum((0, 1)) / truth.numel()

    def sampled(poses: Tensor) -> Tensor:
        return poses[:, ::interval]

    refined_error = share(sampled(refined - truth))
    refined_teaches = share(sampled(final - truth)) > refined_error
    teacher = torch.where(refined_teaches, refined, final).detach()
    student = torch.where(refined_teaches, final, refined)
    mutual = share(sampled(student - teacher))
    channels = config.final_weight * share(final - truth) + config.refined_weight * (refined_error + mutual)
    hard = channels.topk(2 * (len(channels) // 4)).values
    return channels.sum() + hard.mean()


def make_cases(preset: str, device: str, precision: str, stages: tuple[str, ...], batches: list[int]) -> list[Case]:
    """Refining; training without dropout, and with the config's."""
    config, windows = PRESETS[preset]
    still = dataclasses.replace(config, dropout=0.0)
    found = [Case('hanet', still, (1,), (ONE,), precision, device)] if ONE in stages else []
    for batch in batches or [FULL_GPU if preset == 'full' and device == 'gpu' else windows]:
        if MANY in stages:
            found.append(Case('hanet', still, (batch,), (MANY,), precision, device))
        if STEP in stages:
            found += [Case('hanet', kind, (batch,), (STEP,), precision, device) for kind in dict.fromkeys((still, config))]
    return found


def cases(device: str, precision: str) -> list[Case]:
    """What the flags ask for."""
    return make_cases(harness.PRESET.value, device, precision, harness.stages((ONE, MANY, STEP)), harness.batches(()))


def main(argv: list[str]) -> None:
    del argv
    sys.exit(timing.run('hanet', prepare, CONTENDERS, cases))


if __name__ == '__main__':
    app.run(main)
