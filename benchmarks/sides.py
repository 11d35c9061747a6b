"""One network on both sides: the same weights, the same precision, and around it the same work on the device.

PyTorch's twins have images and heatmaps [B, T, C, H, W]; everything here that a twin is given or gives has these, too.
"""

import contextlib
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import Tensor
from torch.nn import functional

from kimnet_jax.core import heatmap, image
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.parity.pair import network_outputs, random_weights
from kimnet_jax.interop.translation import assign, translate
from kimnet_jax.models import MODELS

JAX, REMAT, EAGER, CHANNELS_LAST, COMPILED = 'jax', 'jax_remat', 'eager', 'channels_last', 'compile'  # contenders
CLIP_NETWORKS = ('kimnet', 'rpstn', 'lstm_pm')  # the others look at one image


class Case(NamedTuple):
    """Attributes:
    model: name in `NETWORKS`.
    config: the network's.
    shape: of the input: (clips, frames, pixels) or, of HANet, (windows,).
    stages: those to get ready.
    precision: float32, tf32 or bf16.
    device: cpu or gpu.
    """

    model: str
    config: Any
    shape: tuple[int, ...]
    stages: tuple[str, ...]
    precision: str
    device: str

    @property
    def frames(self) -> int:
        """Of a call."""
        return self.shape[0] * (self.shape[1] if len(self.shape) > 1 else self.config.length)


def device_of(contender: str, _: Any) -> dict[str, str]:
    """Where a contender runs."""
    if contender in (JAX, REMAT):
        return {'backend': jax.default_backend(), 'kind': jax.devices()[0].device_kind}
    return {'backend': 'gpu' if torch_device() == 'cuda' else 'cpu'}


def random_entries(case: Case) -> dict[str, np.ndarray]:
    """PyTorch's state_dict, the same in every process: it depends on names and shapes alone."""
    with torch.device('meta'):
        return random_weights(NETWORKS[case.model].make_twin(case.config))


def set_jax_precision(precision: str) -> None:
    """Of products of float32."""
    jax.config.update('jax_default_matmul_precision', {'float32': 'highest', 'tf32': 'tensorfloat32', 'bf16': None}[precision])


def jax_network(case: Case) -> Any:
    """Ours in eval mode; a network of images has the interface of one of clips."""
    set_jax_precision(case.precision)
    network = NETWORKS[case.model]
    build = MODELS[case.model].build if case.model in MODELS else network.module
    dtype = jnp.bfloat16 if case.precision == 'bf16' else jnp.float32
    model = nnx.eval_shape(lambda: build(case.config, dtype=dtype, rngs=nnx.Rngs(0)))
    assign(getattr(model, 'network', model), translate(random_entries(case), network.rules(case.config)))
    model.eval()
    return model


def set_torch_precision(precision: str) -> None:
    """Of products and convolutions of float32; the latter are chosen by trial."""
    torch.backends.cuda.matmul.allow_tf32 = precision != 'float32'
    torch.backends.cudnn.allow_tf32 = precision != 'float32'
    torch.backends.cudnn.benchmark = True


def torch_network(case: Case, contender: str, *, inference: bool) -> Any:
    """The twin in eval mode, on the device. For inference in bfloat16 its weights are cast once, not in every call."""
    check_torch(case.device)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch._dynamo.reset()
    torch.cuda.empty_cache()
    set_torch_precision(case.precision)
    twin = NETWORKS[case.model].make_twin(case.config)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in random_entries(case).items()})
    if inference and case.precision == 'bf16':
        for module in twin.modules():
            if type(module) in (torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.Linear):
                module.to(torch.bfloat16)
    return twin.to(torch_device(), memory_format=memory_format(contender)).eval()


def torch_device() -> str:
    """cuda where PyTorch has one."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def check_torch(device: str) -> None:
    """Raises `RuntimeError` where JAX has a GPU and PyTorch has none."""
    if device == 'gpu' and torch_device() != 'cuda':
        raise RuntimeError('this PyTorch sees no GPU')


def torch_wait(_: Any = None) -> None:
    """Until the device has done all that it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def memory_format(contender: str) -> torch.memory_format:
    """torch.compile is given channels_last, too."""
    return torch.contiguous_format if contender == EAGER else torch.channels_last


def autocast(case: Case) -> contextlib.AbstractContextManager:
    """bfloat16 as PyTorch has it, or nothing."""
    return torch.autocast(torch_device(), torch.bfloat16, enabled=case.precision == 'bf16')


def compiled(contender: str, function: Any, *, graphs: bool = False) -> Any:
    """The function, compiled for the contender that compiles; with `graphs`, on a GPU, as CUDA graphs."""
    if contender != COMPILED:
        return function
    return torch.compile(function, dynamic=False, mode='reduce-overhead' if graphs and torch_device() == 'cuda' else 'default')


def to_torch(array: np.ndarray, contender: str) -> Tensor:
    """Images uint8 [B, T, H, W, 3] on the device as [B, T, 3, H, W] in the contender's layout."""
    tensor = torch.from_numpy(array).to(torch_device()).permute(0, 1, 4, 2, 3)
    return tensor.flatten(0, 1).contiguous(memory_format=memory_format(contender)).unflatten(0, array.shape[:2])


_SCALE = [1 / (255 * value) for value in image.STD]
_SHIFT = [mean / value for mean, value in zip(image.MEAN, image.STD, strict=True)]


def torch_normalise(frames: Tensor) -> Tensor:
    """uint8 [..., 3, H, W] to float32, as `core.image.normalise`."""
    scale, shift = (frames.new_tensor(values, dtype=torch.float32)[:, None, None] for values in (_SCALE, _SHIFT))
    return frames.float() * scale - shift


def torch_clip(case: Case, twin: Any, frames: Tensor) -> Tensor:
    """Heatmaps [B, T, J, h, w] float32 of normalised frames, whatever the network takes."""
    with autocast(case):
        if case.model in CLIP_NETWORKS:
            return network_outputs(twin(frames))[0].float()
        return network_outputs(twin(frames.flatten(0, 1)))[-1].float().unflatten(0, frames.shape[:2])


def torch_targets(joints: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Target maps [B, T, J, h, w] of joints [B, T, J, 2], as `core.heatmap.encode` of target `cell`, sigma 2."""
    h, w = size
    cells = torch.floor((joints + 0.5) / stride)
    x, y = cells[..., 0], cells[..., 1]
    inside = (x >= 0) & (y >= 0) & (x < w) & (y < h)
    columns = torch.arange(w, device=joints.device) - x[..., None]
    rows = torch.arange(h, device=joints.device) - y[..., None]
    maps = torch.exp(-(rows[..., :, None] ** 2 + columns[..., None, :] ** 2) / 8)
    return torch.where((maps >= heatmap.FLOOR) & inside[..., None, None], maps, 0.0)


def torch_decode(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Cells [..., J, 2] and scores [..., J] of heatmaps [..., J, h, w], as `core.heatmap.decode` of method `dark`."""
    h, w = heatmaps.shape[-2:]
    score, best = heatmaps.flatten(-2).max(-1)
    x, y = best % w, best // w
    offsets = torch.arange(11, device=heatmaps.device) - 5
    kernel = torch.exp(-(offsets**2) / 8.0)
    kernel = kernel / kernel.sum()
    flat = functional.conv2d(heatmaps.reshape(-1, 1, h, w), kernel[None, None, :, None], padding=(5, 0))
    maps = functional.conv2d(flat, kernel[None, None, None, :], padding=(0, 5)).view_as(heatmaps)
    top = maps.amax((-2, -1)).clamp_min(1e-10)
    log = (maps * (score.clamp_min(1e-10) / top)[..., None, None]).clamp_min(1e-10).log().flatten(-2)

    def value(dx: int, dy: int) -> Tensor:
        index = (y + dy).clamp(0, h - 1) * w + (x + dx).clamp(0, w - 1)
        return log.gather(-1, index[..., None])[..., 0]

    slope_x, slope_y = (value(1, 0) - value(-1, 0)) / 2, (value(0, 1) - value(0, -1)) / 2
    centre = value(0, 0)
    dxx = (value(2, 0) - 2 * centre + value(-2, 0)) / 4
    dyy = (value(0, 2) - 2 * centre + value(0, -2)) / 4
    dxy = (value(1, 1) - value(-1, 1) - value(1, -1) + value(-1, -1)) / 4
    determinant = dxx * dyy - dxy**2
    inner = (x > 1) & (x < w - 2) & (y > 1) & (y < h - 2) & (determinant > 1e-12) & (dxx < 0)
    safe = torch.where(inner, determinant, 1.0)
    shift = -torch.stack([dyy * slope_x - dxy * slope_y, dxx * slope_y - dxy * slope_x], -1) / safe[..., None]
    return torch.stack([x, y], -1) + torch.where(inner[..., None], shift.clamp(-1, 1), 0.0), score
