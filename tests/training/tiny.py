"""The smallest network with KIMNet's interface, and what it is trained on: compiles in a second."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype
from jax.sharding import AxisType, Mesh

from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.core.types import Batch
from kimnet_jax.models.layers import BatchNorm, Conv
from kimnet_jax.models.outputs import VideoOutput
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.state import TrainState, create_state, split_model
from kimnet_jax.training.steps import Stepping, TargetConfig, make_train_step

J, STRIDE = JHMDB.num_joints, 4


class TinyNet(nnx.Module):
    """Every frame through one convolution with stride 4 and BatchNorm, plus half of the frame before."""

    stride = STRIDE

    def __init__(self, dtype: Dtype = jnp.float32):
        rngs = nnx.Rngs(0)
        self.conv = Conv(3, J, 3, stride=STRIDE, use_bias=True, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(J, rngs=rngs)

    def __call__(self, frames, state=None, start=None):
        b, t = frames.shape[:2]
        maps = self.norm(self.conv(frames.reshape(b * t, *frames.shape[2:])))
        maps = maps.reshape(b, t, *maps.shape[1:])
        before = jnp.zeros_like(maps[:, 0]) if state is None else jnp.where(start[:, None, None, None], 0.0, state)
        heatmaps = []
        for i in range(t):
            before = maps[:, i] + before / 2
            heatmaps.append(before)
        return VideoOutput(jnp.stack(heatmaps, 1), before, {})

    def init_state(self, frames):
        maps = self.norm(self.conv(frames))
        return maps, maps


def one_device() -> Mesh:
    return jax.make_mesh((1,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])


def random_batch(seed: int, rows: int = 4, frames: int = 3, size: int = 32) -> Batch:
    rng = np.random.default_rng(seed)
    return {
        'frames': rng.integers(0, 256, (rows, frames, size, size, 3), np.uint8),
        'joints': rng.uniform(2, size - 2, (rows, frames, J, 2)).astype(np.float32),
        'visible': rng.random((rows, frames, J)) < 0.8,
        'mask': np.arange(frames) < np.array([[frames]] * (rows - 1) + [[1]]),  # the last row is a short clip
    }


def train_parts(average_decay: float = 0.9, model: nnx.Module | None = None, mesh: Mesh | None = None, **optimizer):
    """(train step, first state) of a network."""
    config = OptimizerConfig(**{'schedule': 'constant', 'learning_rate': 0.01, 'clip_norm': 0.0} | optimizer)
    graph, weights = split_model(model or TinyNet(), training=True)
    schedule = make_schedule(config, steps=100, steps_per_epoch=10)
    adam = make_optimizer(config, schedule)
    step = make_train_step(
        graph,
        Stepping(adam, schedule, config.accumulate, average_decay, mesh or one_device()),
        TargetConfig(),
        skeleton=JHMDB,
        stride=STRIDE,
    )
    return step, create_state(weights, adam, average=average_decay > 0)


def host(tree):
    """A copy that no donation can take away."""
    return jax.tree.map(lambda leaf: np.array(leaf), tree)


@functools.cache
def _first_state() -> TrainState:
    return train_parts()[1]


def first_state() -> TrainState:
    return host(_first_state())
