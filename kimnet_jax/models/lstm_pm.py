"""LSTM-PM, LSTM Pose Machines (Luo et al., CVPR 2018)."""

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.models.chain import ChainNetwork, ChainTransition
from kimnet_jax.models.conv_lstm import ConvLSTM, Memory, together
from kimnet_jax.models.kmm import KMM
from kimnet_jax.models.layers import CHANNELS, JOINTS, Conv, max_pool, torch_conv

Array = jax.Array
LSTMPMVariant = Literal['intended', 'released']
LSTMPMTemporal = Literal['lstm', 'kmm']
_CENTRE_SIGMA = 21 / 368  # of the centre map, in heights of the image


@dataclasses.dataclass(frozen=True)
class LSTMPMConfig:
    """Attributes:
    num_joints: J, output channels (with the background where the weights have it).
    width: channels of the large convolutions; the first frame's last ones have four times as many.
    features: channels of a frame's features.
    memory: channels of the LSTM.
    temporal: `lstm`, the paper's; `kmm`, in its place KMM, whose predicted heatmaps go into the generator with the features and
        the centre map, as they do into the LSTM (KIMNet Table IV, which does not say how).
    variant: of `lstm`: `intended`, the first frame takes the step of all others from an empty memory, with a forget bias of 1, as
        in the authors' Caffe model; `released`, it has gates of its own and a cell squashed twice, for the weights of the PyTorch
        port (github.com/HowieMa/lstm_pm_pytorch).
    """

    num_joints: int
    width: int = 128
    features: int = 32
    memory: int = 48
    temporal: LSTMPMTemporal = 'lstm'
    variant: LSTMPMVariant = 'intended'

    def __post_init__(self) -> None:
        check_ranges('model', self, num_joints=JOINTS, width=CHANNELS, features=CHANNELS, memory=CHANNELS)


class LSTMState(NamedTuple):
    """What goes from frame to frame, float32: heatmaps [B, h, w, J] of the last one, the LSTM's memory [B, h, w, M], and the
    centre map [B, h, w, 1], which stays as it is.
    """

    heatmaps: Array
    cell: Array
    hidden: Array
    centre: Array


class KMMState(NamedTuple):
    """What goes from frame to frame with KMM: heatmaps and queries [B, h, w, J] of the last one, and the centre map."""

    heatmaps: Array
    queries: Any
    centre: Array


State: TypeAlias = LSTMState | KMMState


class Encoder(nnx.Module):
    """Features of a frame (convnet2 of the port), and the first layers of `Initializer`."""

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.conv1 = Conv(3, config.width, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(config.width, config.width, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv3 = Conv(config.width, config.width, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv4 = Conv(config.width, config.features, 5, use_bias=True, dtype=dtype, rngs=rngs)

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
        self.conv5 = Conv(config.features, wide, 9, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv6 = Conv(wide, wide, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv7 = torch_conv(wide, config.num_joints, 1, dtype=dtype, rngs=rngs)

    def __call__(self, frames: Array) -> Array:
        """[B, H, W, 3] -> float32 [B, h, w, J]."""
        x = nnx.relu(self.conv6(nnx.relu(self.conv5(super().__call__(frames)))))
        return self.conv7(x).astype(jnp.float32)


class Generator(nnx.Module):
    """Heatmaps from the hidden state (convnet3)."""

    def __init__(self, features_in: int, config: LSTMPMConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.conv1 = Conv(features_in, config.width, 11, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(config.width, config.width, 11, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv3 = Conv(config.width, config.width, 11, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv4 = Conv(config.width, config.width, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv5 = torch_conv(config.width, config.num_joints, 1, dtype=dtype, rngs=rngs)

    def __call__(self, hidden: Array) -> Array:
        """[B, h, w, C] -> float32 [B, h, w, J]."""
        x = hidden
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = nnx.relu(layer(x))
        return self.conv5(x).astype(jnp.float32)


class Transition(ChainTransition):
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
        self.generator = Generator(config.memory, config, dtype=dtype, rngs=rngs)
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


class KMMTransition(ChainTransition):
    """The same with KMM in place of the LSTM."""

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.kmm = KMM(config.num_joints, config.features, dtype=dtype, rngs=rngs)
        self.generator = Generator(config.num_joints + config.features + 1, config, dtype=dtype, rngs=rngs)

    def prepare(self, features: Array) -> tuple[Any, Array, Array]:
        """KMM's queries and keys of features [N, h, w, C], and these."""
        return self.kmm.queries(features), self.kmm.keys(features), features

    def __call__(self, state: KMMState, prepared: tuple[Any, Array, Array]) -> tuple[KMMState, dict[str, Array]]:
        queries, keys, features = prepared
        predicted, correlation = self.kmm.propagate(state.queries, keys, state.heatmaps)
        heatmaps = self.generator(_inputs(predicted, features, state.centre))
        return KMMState(heatmaps, queries, state.centre), {'predicted': predicted, 'correlation': correlation}

    def begin(self, initial: Array, features: Array, centre: Array) -> KMMState:
        """The state of the first frame from its initial heatmaps, its features and the centre map."""
        return KMMState(self.generator(_inputs(initial, features, centre)), self.kmm.queries(features), centre)


def _inputs(heatmaps: Array, features: Array, centre: Array) -> Array:
    return jnp.concatenate([heatmaps, features.astype(jnp.float32), centre], -1)


class LSTMPM(ChainNetwork):
    """Initializer, encoder and a convolutional LSTM over the frames; 8 pixels per heatmap cell, h = H / 8 - 1 and w alike.

    A centre map tells which person is meant, at its middle. In crops around the person it is always the same, and the default.
    The port takes images of 368 x 368 in [0, 1] with neither mean nor deviation, and a fixed number of frames T; here T is free,
    and H and W are multiples of 8.

    Its `auxiliary` heatmaps are those [B, 1, h, w, J] of the first frame from that frame alone, which the releases train
    too, and with KMM its `predicted` heatmaps and `correlation`, as in `KIMNet`.
    """

    stride: ClassVar[int] = 8
    transition: Transition | KMMTransition

    def __init__(self, config: LSTMPMConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions; parameters, memory and heatmaps stay float32. Raises ValueError on an unknown variant or
        temporal module."""
        super().__init__(dtype=dtype)
        if config.variant not in get_args(LSTMPMVariant):
            raise ValueError(f'LSTM-PM variant {config.variant!r}: choose one of {", ".join(get_args(LSTMPMVariant))}')
        if config.temporal not in get_args(LSTMPMTemporal):
            raise ValueError(f'LSTM-PM of temporal {config.temporal!r}: choose one of {", ".join(get_args(LSTMPMTemporal))}')
        self.feature_encoder = Encoder(config, dtype=dtype, rngs=rngs)
        self.pose_initializer = Initializer(config, dtype=dtype, rngs=rngs)
        self.transition = (Transition if config.temporal == 'lstm' else KMMTransition)(config, dtype=dtype, rngs=rngs)

    def begin(self, frames: Array, features: Array, centre: Array | None = None) -> tuple[State, tuple[Array, ...]]:
        """The state of first frames [B, H, W, 3] with features [B, h, w, C].

        `centre`: [B, H, W, 1], the centre map; None: `centre_map`, the person in the middle.
        """
        initial = self.pose_initializer(frames)
        return self.transition.begin(initial, features, _centre(frames, centre)), (initial[:, None],)


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
