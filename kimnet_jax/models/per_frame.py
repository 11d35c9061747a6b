"""A network of single images with the interface of a video model: what the recursion is compared with, and pretrained as."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.outputs import ImageNetwork, VideoOutput

Array = jax.Array


class PerFrame(nnx.Module):
    """Every frame by itself through `network`; the interface is that of `KIMNet`, its state is empty."""

    stride: ClassVar[int] = 4  # crop pixels per heatmap cell
    reads_past: ClassVar[bool] = False

    def __init__(self, network: Callable[..., ImageNetwork], config: Any, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`network(config, dtype=..., rngs=...)` makes the module that maps [B, H, W, 3] to heatmaps [B, h, w, J]."""
        self.dtype = dtype
        self.network = network(config, dtype=dtype, rngs=rngs)

    def __call__(self, frames: Array, state: tuple[()] | None = None, start: Array | None = None) -> VideoOutput:
        """Heatmaps of T frames [B, T, H, W, 3], normalised images.

        `state` and `start` (see `ChainNetwork`) change nothing: no frame knows of another.
        """
        b, t = frames.shape[:2]
        images = frames.reshape(b * t, *frames.shape[2:])
        outputs = self.network.outputs(images)
        *auxiliary, heatmaps = (maps.astype(jnp.float32).reshape(b, t, *maps.shape[1:]) for maps in outputs)
        return VideoOutput(heatmaps, (), {}, tuple(auxiliary))

    def init_state(self, frames: Array) -> tuple[Array, tuple[()]]:
        """Begins a stream: first frames [B, H, W, 3] -> (heatmaps [B, h, w, J] float32, the empty state)."""
        return self.network(frames).astype(jnp.float32), ()

    def step(self, state: tuple[()], frames: Array) -> tuple[Array, tuple[()]]:
        """Goes on with a stream: as `init_state`."""
        return self.init_state(frames)

    def step_with_evidence(self, state: tuple[()], frames: Array) -> tuple[Array, tuple[()], dict[str, Array]]:
        """`step`, and no evidence."""
        return *self.step(state, frames), {}
