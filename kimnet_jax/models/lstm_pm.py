"""LSTM-PM, LSTM Pose Machines (Luo et al., CVPR 2018)."""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.chain import encode_clip, run_chain
from kimnet_jax.models.conv_lstm import ConvLSTM, Memory, together
from kimnet_jax.models.layers import conv, max_pool, torch_conv

Array = jax.Array
LSTMPMVariant = Literal['intended', 'released']
STRIDE = 8  # crop pixels per heatmap cell
_CENTRE_SIGMA = 21 / 368  # of the centre map, in heights of the image


@dataclasses.dataclass(frozen=True)
class LSTMPMConfig:
    """Attributes:
    num_joints: J, output channels (with the background where the weights have it).
    width: channels of the large convolutions; the first frame's last ones have four times as many.
    features: channels of a frame's features.
    memory: channels of the LSTM.
    variant: `intended`, the first frame takes the step of all others from an empty memory, with a forget bias of 1, as in the
        authors' Caffe model; `released`, it has gates of its own and a cell squashed twice, for the weights of the PyTorch port
        (github.com/HowieMa/lstm_pm_pytorch).
    """

    num_joints: int
    width: int = 128
    features: int = 32
    memory: int = 48
    variant: LSTMPMVariant = 'intended'


class LSTMState(NamedTuple):
    """What goes from frame to frame, float32: heatmaps [B, h, w, J] of the last one, the LSTM's memory [B, h, w, M], and the
    centre map [B, h, w, 1], which stays as it is.
    """

    heatmaps: Array
    cell: Array
    hidden: Array
    centre: Array


class Encoder(nnx.Module):
    """Features of a frame (convnet2 of the port), and the first layers of `Initializer`."""

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.conv1 = conv(3, config.width, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = conv(config.width, config.width, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv3 = conv(config.width, config.width, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv4 = conv(config.width, config.features, 5, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, frames: Array) -> Array:
        """[B, H, W, 3] -> [B, h, w, C], h = H / 8 - 1 and w alike."""
        x = frames
        for layer in (self.conv1, self.conv2, self.conv3):
            x = max_pool(nnx.relu(layer(x)), padding=0)
        return nnx.relu(self.conv4(x))


class Initializer(Encoder):
    """Heatmaps of the first frame alone (convnet1)."""

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        wide = 4 * config.width
        self.conv5 = conv(config.features, wide, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv6 = conv(wide, wide, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv7 = torch_conv(wide, config.num_joints, 1, dtype=dtype, rngs=rngs)

    def __call__(self, frames: Array) -> Array:
        """[B, H, W, 3] -> float32 [B, h, w, J]."""
        x = nnx.relu(self.conv6(nnx.relu(self.conv5(super().__call__(frames)))))
        return self.conv7(x).astype(jnp.float32)


class Generator(nnx.Module):
    """Heatmaps from the hidden state (convnet3)."""

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.conv1 = conv(config.memory, config.width, 11, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = conv(config.width, config.width, 11, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv3 = conv(config.width, config.width, 11, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv4 = conv(config.width, config.width, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv5 = torch_conv(config.width, config.num_joints, 1, dtype=dtype, rngs=rngs)

    def __call__(self, hidden: Array) -> Array:
        """[B, h, w, M] -> float32 [B, h, w, J]."""
        x = hidden
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = nnx.relu(layer(x))
        return self.conv5(x).astype(jnp.float32)


class Transition(nnx.Module):
    """One step of the chain: (state of frame t, features of frame t+1) -> (state of frame t+1, {})."""

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        channels = config.num_joints + config.features + 1
        released = config.variant == 'released'
        self.lstm = ConvLSTM(channels, config.memory, forget_bias=0.0 if released else 1.0, dtype=dtype, rngs=rngs)
        self.first_gates = (
            nnx.Dict({gate: torch_conv(channels, config.memory, 3, dtype=dtype, rngs=rngs) for gate in 'gio'})
            if released
            else None
        )
        self.generator = Generator(config, dtype=dtype, rngs=rngs)
        self.channels = config.memory

    def __call__(self, state: LSTMState, features: Array) -> tuple[LSTMState, dict[str, Array]]:
        memory = self.lstm(Memory(state.cell, state.hidden), _inputs(state.heatmaps, features, state.centre))
        return LSTMState(self.generator(memory.hidden), *memory, state.centre), {}

    def begin(self, initial: Array, features: Array, centre: Array) -> LSTMState:
        """The state of the first frame from its initial heatmaps, its features and the centre map."""
        if self.first_gates is None:
            empty = jnp.zeros((*initial.shape[:-1], self.channels), jnp.float32)
            return self(LSTMState(initial, empty, empty, centre), features)[0]
        gates = [self.first_gates[gate] for gate in 'gio']
        g, i, o = together(gates, _inputs(initial, features, centre))
        cell = jnp.tanh(jnp.tanh(g) * jax.nn.sigmoid(i))
        hidden = jax.nn.sigmoid(o) * cell
        return LSTMState(self.generator(hidden), cell, hidden, centre)


def _inputs(heatmaps: Array, features: Array, centre: Array) -> Array:
    return jnp.concatenate([heatmaps, features.astype(jnp.float32), centre], -1)


class LSTMPM(nnx.Module):
    """Initializer, encoder and a convolutional LSTM over the frames, with the interface of `KIMNet`; 8 pixels per heatmap cell.

    A centre map tells which person is meant, at its middle. In crops around the person it is always the same, and the default.
    The port takes images of 368 x 368 in [0, 1] with neither mean nor deviation, and a fixed number of frames T; here T is free.
    """

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions; parameters, memory and heatmaps stay float32. Raises ValueError on an unknown variant."""
        if config.variant not in get_args(LSTMPMVariant):
            raise ValueError(f'LSTM-PM variant {config.variant!r}: choose one of {", ".join(get_args(LSTMPMVariant))}')
        self.dtype = dtype
        self.encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.initializer = Initializer(config, dtype=dtype, rngs=rngs)
        self.transition = Transition(config, dtype=dtype, rngs=rngs)
        self.deterministic = False  # of `train` and `eval`, the only difference being how the chain is compiled

    def __call__(
        self,
        frames: Array,
        state: LSTMState | None = None,
        start: Array | None = None,
        centre: Array | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Heatmaps of T frames.

        Args:
            frames: [B, T, H, W, 3] float images, H and W multiples of 8.
            state: where an earlier call on the frames before ended; None: the chain begins with these frames.
            start: bool [B], with `state`: True where the chain begins anew.
            centre: [B, H, W, 1], the centre map of chains that begin; None: `centre_map`, the person in the middle.

        Returns:
            (heatmaps [B, T, h, w, J] float32, h = H / 8 - 1 and w alike; intermediates: `initial` [B, h, w, J], heatmaps of the
            first frame from that frame alone, which the releases train too, and `state` after the last frame).
        """
        features = encode_clip(self.encoder, frames)
        initial = self.initializer(frames[:, 0])
        first = self.transition.begin(initial, features[:, 0], _centre(frames[:, 0], centre))
        heatmaps, intermediates = run_chain(self.transition, first, features, state, start, training=not self.deterministic)
        return heatmaps, intermediates | {'initial': initial}

    def init_state(self, frames: Array, centre: Array | None = None) -> tuple[Array, LSTMState]:
        """Begins a stream: first frames [B, H, W, 3], centre map [B, H, W, 1] -> (heatmaps [B, h, w, J], state)."""
        state = self.transition.begin(self.initializer(frames), self.encoder(frames), _centre(frames, centre))
        return state.heatmaps, state

    def step(self, state: LSTMState, frames: Array) -> tuple[Array, LSTMState]:
        """Goes on with a stream: the next frames [B, H, W, 3] -> (heatmaps [B, h, w, J], state)."""
        state, _ = self.transition(state, self.encoder(frames))
        return state.heatmaps, state


def centre_map(height: int, width: int) -> Array:
    """A Gaussian in the middle of an image, float32 [H, W, 1]; its deviation is 21 pixels at a height of 368, as in the port."""
    rows, columns = jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2
    squared = rows[:, None] ** 2 + columns**2
    return jnp.exp(-squared / (2 * (_CENTRE_SIGMA * height) ** 2))[..., None]


def _centre(frames: Array, centre: Array | None) -> Array:
    """The centre map at the resolution of the heatmaps, for frames [B, H, W, 3]."""
    if centre is None:
        centre = jnp.broadcast_to(centre_map(*frames.shape[1:3]), (*frames.shape[:3], 1))
    return nnx.avg_pool(centre.astype(jnp.float32), (9, 9), strides=(8, 8))
