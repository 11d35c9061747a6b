"""RPSTN, relation-based pose semantics transfer network (Dang et al., TIP 2022; github.com/YHDang/RPSTN)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.chain import encode_clip, run_chain
from kimnet_jax.models.dkd import DKDVariant
from kimnet_jax.models.jrpsp import JRPSP
from kimnet_jax.models.kimnet import ChainState
from kimnet_jax.models.pose_resnet import PoseResNet, PoseResNetConfig
from kimnet_jax.models.relation_decoder import DecoderVariant

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class RPSTNConfig:
    """Attributes:
    num_joints: J.
    initializer_depth: depth of the PoseResNet that gives the heatmaps of the first frame.
    encoder_depth: depth of the PoseResNet that gives the features of every frame.
    width: channels of both networks' stems; 64 in the paper.
    features: D, channels of the features.
    variant: of the propagator, see `DKD`. The released ones carry the projected features to the next frame, but the first frame's
        as they are, and in train mode encode frame by frame, BatchNorm seeing one at a time; `intended` carries every frame's
        features as they are and encodes all frames at once.
    decoder_variant: see `RelationDecoder`; `released` or, of the first revision, `released_2021` for the release's weights.
    output_scale: initial scale of the BatchNorm that every output heatmap goes through, see `KIMNetConfig`.
    remat: recompute the residual blocks in the backward pass: less memory, more time.
    """

    num_joints: int
    initializer_depth: int = 101
    encoder_depth: int = 50
    width: int = 64
    features: int = 256
    variant: DKDVariant = 'intended'
    decoder_variant: DecoderVariant = 'intended'
    output_scale: float = 1.0
    remat: bool = False


class Transition(nnx.Module):
    """One step of the chain: (state of frame t, features of frame t+1) -> (state of frame t+1, {'kernels'})."""

    def __init__(self, config: RPSTNConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.jrpsp = JRPSP(
            config.num_joints,
            config.features,
            variant=config.variant,
            decoder_variant=config.decoder_variant,
            output_scale=config.output_scale,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, state: ChainState, features: Array) -> tuple[ChainState, dict[str, Array]]:
        heatmaps, intermediates, projected = self.jrpsp.propagate(state.features, features, state.heatmaps)
        return ChainState(heatmaps, features if self.jrpsp.variant == 'intended' else projected), intermediates

    def begin(self, heatmaps: Array, features: Array) -> ChainState:
        """The state of the first frame from its initial heatmaps [B, h, w, J] and its features [B, h, w, D]."""
        return ChainState(self.jrpsp.relation_decoder(heatmaps), features)


class RPSTN(nnx.Module):
    """Pose initializer, feature encoder and the chain of transitions, as in `KIMNet`, whose interface it has.

    The release is built for T frames, 5 in its configs, of 256 x 256; here T is free, and H and W are multiples of 32 from 64 on.
    """

    def __init__(self, config: RPSTNConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions; parameters, statistics, softmax and heatmaps stay float32."""
        self.dtype = dtype
        encoder = PoseResNetConfig(config.encoder_depth, None, config.width, config.features, config.remat)
        initializer = dataclasses.replace(encoder, depth=config.initializer_depth, num_joints=config.num_joints)
        self.feature_encoder = PoseResNet(encoder, dtype=dtype, rngs=rngs)
        self.pose_initializer = PoseResNet(initializer, dtype=dtype, rngs=rngs)
        self.transition = Transition(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, frames: Array, state: ChainState | None = None, start: Array | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Heatmaps of T frames.

        Args:
            frames: [B, T, H, W, 3] normalised float images.
            state: where an earlier call on the frames before ended; None: the chain begins with these frames.
            start: bool [B], with `state`: True where the chain begins anew.

        Returns:
            (heatmaps [B, T, h, w, J] float32, intermediates: `state` after the last frame and, for every frame after the first,
            `kernels` [B, T-1, k, l, D], 7x7 for images of 256 x 256).
        """
        training = not self.transition.jrpsp.relation_decoder.bn_u.use_running_average
        released = self.transition.jrpsp.variant != 'intended'
        features = encode_clip(self.feature_encoder, frames, frame_by_frame=released and training)
        first = self.transition.begin(self.pose_initializer(frames[:, 0]), features[:, 0])
        return run_chain(self.transition, first, features, state, start, training=training)

    def init_state(self, frames: Array) -> tuple[Array, ChainState]:
        """Begins a stream: first frames [B, H, W, 3] -> (heatmaps [B, h, w, J], state)."""
        state = self.transition.begin(self.pose_initializer(frames), self.feature_encoder(frames))
        return state.heatmaps, state

    def step(self, state: ChainState, frames: Array) -> tuple[Array, ChainState]:
        """Goes on with a stream: the next frames [B, H, W, 3] -> (heatmaps [B, h, w, J], state)."""
        state, _ = self.transition(state, self.feature_encoder(frames))
        return state.heatmaps, state
