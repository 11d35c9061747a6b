"""How fast are poses found beside PyTorch? The same weights, frames, precision and cores; the contenders run in turn.

    python benchmarks/inference.py --preset small --rounds 10

`stream`: one frame after the other at batch 1, what `kimnet_jax.predict` does with a decoded frame: the crop is cut out on the
host (OpenCV, the same on both sides, timed by itself as `crop on the host`) and goes to the device as uint8; there it is
normalised, the network takes a step from the state of the frame before, and the joints are read off; they come back to the host.
`clips`: batches of uint8 clips that lie on the device, to joints that stay there. `--model` names another network.
"""

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
from absl import app, flags
from contenders import Prepared, Stage
from costs import compile_counted, count
from flax import nnx
from sides import CHANNELS_LAST, COMPILED, EAGER, JAX, Case
from torch import Tensor
from train_step import PRESETS, STRIDE

from kimnet_jax.core import geometry, heatmap, image
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.inference.predictor import PosePredictor
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.models import KIMNetConfig

STREAM, CROP, CLIPS = 'stream', 'crop on the host', 'clips'
CONTENDERS = (JAX, EAGER, CHANNELS_LAST, COMPILED)
MODELS = tuple(name for name in NETWORKS if name in ('kimnet', 'pose_resnet', 'hourglass', 'hrnet', 'rpstn', 'lstm_pm'))
STREAMS = ('kimnet', 'pose_resnet', 'hourglass', 'hrnet')  # those whose twin can take one frame after the other
BATCHES = {'tiny': (2,), 'small': (8, 1), 'medium': (8, 1), 'full': (4, 1)}
BATCHES_GPU = (64, 16, 4, 1)  # of the full preset
BOX = np.array([180, 60, 420, 420], np.float32)
BOX_SCALE = 1.25
DECODING = 'dark'

MODEL = flags.DEFINE_enum('model', 'kimnet', MODELS, 'The network; all but kimnet have the presets tiny and full only.')


def draw_frames() -> np.ndarray:
    """Eight frames of noise."""
    return np.random.default_rng(0).integers(0, 256, (8, 480, 640, 3), np.uint8)


def draw_clips(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [B, T, H, W, 3]."""
    clips, frames, pixels = shape
    return np.random.default_rng(1).integers(0, 256, (clips, frames, pixels, pixels, 3), np.uint8)


def prepare(contender: str, case: Case) -> Prepared:
    """Ready to find poses."""
    if case.stages == (CLIPS,):
        return (_jax_clips if contender == JAX else _torch_clips)(contender, case)
    if contender == JAX:
        predictor, costs = _jax_stream(case)
    else:
        predictor, costs = _TorchStream(contender, case), {}
    return _stream(predictor, case, costs, crop=contender == JAX)


def _stream(predictor: Callable[..., Any], case: Case, costs: dict[str, Any], *, crop: bool) -> Prepared:
    frames, number = draw_frames(), 0

    def following() -> Any:
        nonlocal number
        number += 1
        return predictor(frames[number % len(frames)], BOX, restart=False)

    found = [predictor(frames[0], BOX, restart=True)]
    began = time.perf_counter()
    found.append(following())
    compile_s = time.perf_counter() - began
    found += [following(), following()]
    outputs = {name: np.stack(values) for name, values in zip(('joints', 'scores'), zip(*found, strict=True), strict=True)}
    stages = {STREAM: Stage(following)}
    if crop:
        stages[CROP] = Stage(lambda: cut_out(frames[0], case.shape[2]))
    return Prepared(stages, outputs, {STREAM: compile_s}, costs)


def cut_out(frame: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(crop uint8 [size, size, 3], the matrix that leads there), as `PosePredictor` does."""
    matrix = geometry.crop_matrix(*geometry.square_of_box(BOX, BOX_SCALE), size)
    return image.warp(frame, matrix, size), matrix


def _jax_stream(case: Case) -> tuple[PosePredictor, dict[str, Any]]:
    model = sides.jax_network(case)
    graph, weights = nnx.split(model)

    def first(weights: Any, frames: Any) -> Any:
        return nnx.merge(graph, weights).init_state(frames)

    def step(weights: Any, state: Any, frames: Any) -> Any:
        return nnx.merge(graph, weights).step(state, frames)

    size = case.shape[2]
    frame = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    state = jax.eval_shape(first, weights, frame)[1]
    costs = {STREAM: count(jax.jit(step).trace(weights, state, frame).jaxpr)}
    stride = model.stride
    return PosePredictor(weights, first, step, size=size, stride=stride, box_scale=BOX_SCALE, decoding=DECODING), costs


class _TorchStream:
    """What `PosePredictor` does, with the twin."""

    def __init__(self, contender: str, case: Case):
        self._case, self._contender = case, contender
        self._twin = sides.torch_network(case, contender, inference=True)
        self._step = sides.compiled(contender, self._decoded_step, graphs=True)
        self._state: tuple[Tensor, ...] = ()

    def __call__(self, frame: np.ndarray, box: np.ndarray, *, restart: bool) -> tuple[np.ndarray, np.ndarray]:
        crop, to_crop = cut_out(frame, self._case.shape[2])
        with torch.no_grad() if self._contender == COMPILED else torch.inference_mode():
            images = sides.to_torch(crop[None, None], self._contender)[:, 0]
            found, *state = self._decoded_first(images) if restart else self._step(images, *self._state)
            self._state = tuple(array.clone() for array in state)  # CUDA graphs write where they wrote before
            joints = found.cpu().numpy()
        cells = heatmap.cells_to_pixels(joints[:, :2], STRIDE)
        return geometry.apply_affine(geometry.invert_affine(to_crop), cells), joints[:, 2]

    def _decoded_first(self, images: Tensor) -> tuple[Tensor, ...]:
        with sides.autocast(self._case):
            normalised = sides.torch_normalise(images)
            if self._case.model != 'kimnet':
                heatmaps, state = sides.network_outputs(self._twin(normalised))[-1], ()
            else:
                features = self._twin.feature_encoder(normalised)
                initial = self._twin.pose_initializer(features if self._twin.from_features else normalised)
                heatmaps = self._twin.relation_decoder(initial, first=True)
                state = (features, heatmaps)
        return self._joints(heatmaps), *state

    def _decoded_step(self, images: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        if self._case.model != 'kimnet':
            return self._decoded_first(images)
        twin, (before, heatmaps) = self._twin, state
        with sides.autocast(self._case):
            features = twin.feature_encoder(sides.torch_normalise(images))
            predicted, _ = twin.kmm(before, features, heatmaps)
            heatmaps = twin.relation_decoder(twin.fusion(predicted, features))
        return self._joints(heatmaps), features, heatmaps

    def _joints(self, heatmaps: Tensor) -> Tensor:
        """[J, 3]: one array to copy."""
        cells, scores = sides.torch_decode(heatmaps[0].float())
        return torch.cat([cells, scores[:, None]], -1)


def _jax_clips(contender: str, case: Case) -> Prepared:
    del contender
    graph, weights = nnx.split(sides.jax_network(case))

    def forward(weights: Any, frames: Any) -> Any:
        heatmaps = nnx.merge(graph, weights)(image.normalise(frames, jnp)).heatmaps
        return heatmap.decode(heatmaps, DECODING, jnp), heatmaps

    weights, frames = jax.device_put((weights, draw_clips(case.shape)))
    program, compile_s, costs = compile_counted(jax.jit(forward), weights, frames)
    heatmaps = np.moveaxis(np.asarray(program(weights, frames)[1]), -1, -3)
    stages = {CLIPS: Stage(lambda: program(weights, frames), jax.block_until_ready)}
    return Prepared(stages, {'heatmaps': heatmaps}, {CLIPS: compile_s}, {CLIPS: costs})


def _torch_clips(contender: str, case: Case) -> Prepared:
    twin = sides.torch_network(case, contender, inference=True)
    frames = sides.to_torch(draw_clips(case.shape), contender)

    def forward(frames: Tensor) -> tuple[Tensor, ...]:
        heatmaps = sides.torch_clip(case, twin, sides.torch_normalise(frames))
        return *sides.torch_decode(heatmaps), heatmaps

    function = sides.compiled(contender, forward, graphs=True)

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad() if contender == COMPILED else torch.inference_mode():
            return function(frames)

    began = time.perf_counter()
    heatmaps = call()[-1].cpu().numpy()
    compile_s = time.perf_counter() - began
    return Prepared({CLIPS: Stage(call, sides.torch_wait)}, {'heatmaps': heatmaps}, {CLIPS: compile_s}, {})


def make_cases(model: str, preset: str, device: str, precision: str, stages: tuple[str, ...], batches: list[int]) -> list[Case]:
    """The stream and a case for each number of clips. Exits where the network has no such preset."""
    fields, _, frames, pixels = PRESETS[preset]
    if model != 'kimnet' and preset not in NETWORKS[model].presets:
        sys.exit(f'error: --preset={preset}: {model} has {", ".join(NETWORKS[model].presets)}')
    config = KIMNetConfig(PENN_ACTION.num_joints, **fields) if model == 'kimnet' else NETWORKS[model].presets[preset]
    found = []
    if model in STREAMS and STREAM in stages:
        found.append(Case(model, config, (1, 1, pixels), (STREAM, CROP), precision, device))
    if CLIPS in stages:
        found += [Case(model, config, (batch, frames, pixels), (CLIPS,), precision, device) for batch in batches]
    return found


def own_batches(preset: str, device: str) -> tuple[int, ...]:
    """Numbers of clips, the largest first."""
    return BATCHES_GPU if preset == 'full' and device == 'gpu' else BATCHES[preset]


def cases(device: str, precision: str) -> list[Case]:
    """What the flags ask for."""
    preset = harness.PRESET.value
    batches = harness.batches(own_batches(preset, device))
    return make_cases(MODEL.value, preset, device, precision, harness.stages((STREAM, CLIPS)), batches)


def main(argv: list[str]) -> None:
    del argv
    targets = [
        timing.Target('one frame, from pixels to joints', 'bf16', STREAM, 'median_ms', 1.5),
        timing.Target('batches, bf16', 'bf16', CLIPS, 'frames_per_s', 12000),
    ]
    script = 'inference' if MODEL.value == 'kimnet' else f'inference_{MODEL.value}'
    sys.exit(timing.run(script, prepare, CONTENDERS, cases, targets))


if __name__ == '__main__':
    app.run(main)
