"""KIMNet: heatmaps of a video by a Markov chain over its frames (Dang et al., arXiv 2207.10971, Fig. 2, Eq. 4-10)."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.chain import encode_clip, run_chain
from kimnet_jax.models.kmm import KMM, KMMVariant
from kimnet_jax.models.layers import BatchNorm, conv
from kimnet_jax.models.pose_resnet import PoseResNet, PoseResNetConfig
from kimnet_jax.models.relation_decoder import DecoderVariant, RelationDecoder

Array = jax.Array
STRIDE = 4  # crop pixels per heatmap cell


@dataclasses.dataclass(frozen=True)
class KIMNetConfig:
    """Attributes:
    num_joints: J.
    initializer_depth: depth of the PoseResNet that gives the heatmaps of the first frame; 0: a 1x1 convolution of the first
        frame's features instead (KIMNet-w/o-P, Table III).
    encoder_depth: depth of the PoseResNet that gives the features of every frame.
    width: channels of both networks' stems; 64 in the paper.
    features: D, channels of the features.
    kmm_variant: see `KMM`.
    fusion_norm: BatchNorm and ReLU between the two convolutions of Eq. 4.
    decoder_variant: see `RelationDecoder`.
    output_scale: initial scale of the BatchNorm that every output heatmap goes through. Target maps have a standard deviation
        near 0.05, so a smaller start than PyTorch's 1 saves many steps.
    remat: recompute the residual blocks in the backward pass: less memory, more time.
    """

    num_joints: int
    initializer_depth: int = 101
    encoder_depth: int = 50
    width: int = 64
    features: int = 256
    kmm_variant: KMMVariant = 'full'
    fusion_norm: bool = True
    decoder_variant: DecoderVariant = 'intended'
    output_scale: float = 1.0
    remat: bool = False


class ChainState(NamedTuple):
    """What the chain carries from frame to frame: heatmaps [B, h, w, J] float32 and features [B, h, w, D] of the last one."""

    heatmaps: Array
    features: Array


class Fusion(nnx.Module):
    """Conv_g 3x3 over predicted heatmaps and features, Conv_d 1x1 to heatmaps (Eq. 4)."""

    def __init__(self, num_joints: int, features: int, *, norm: bool, dtype: Dtype, rngs: nnx.Rngs):
        self.conv_g = conv(num_joints + features, features, 3, use_bias=True, dtype=dtype, rngs=rngs)
        self.bn_g = BatchNorm(features, dtype=dtype, rngs=rngs) if norm else None
        self.conv_d = conv(features, num_joints, 1, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, predicted: Array, features: Array) -> Array:
        """[B, h, w, J] and [B, h, w, D] -> [B, h, w, J]."""
        coarse = self.conv_g(jnp.concatenate([predicted.astype(features.dtype), features], -1))
        return self.conv_d(coarse if self.bn_g is None else nnx.relu(self.bn_g(coarse)))


class Transition(nnx.Module):
    """One step of the chain: (state of frame t, features of frame t+1) -> state of frame t+1."""

    def __init__(self, config: KIMNetConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.kmm = KMM(config.num_joints, config.features, variant=config.kmm_variant, dtype=dtype, rngs=rngs)
        self.fusion = Fusion(config.num_joints, config.features, norm=config.fusion_norm, dtype=dtype, rngs=rngs)
        self.relation_decoder = RelationDecoder(
            config.num_joints, variant=config.decoder_variant, output_scale=config.output_scale, rngs=rngs
        )

    def __call__(self, state: ChainState, features: Array) -> tuple[ChainState, dict[str, Array]]:
        predicted, correlation = self.kmm(state.features, features, state.heatmaps)
        heatmaps = self.relation_decoder(self.fusion(predicted, features))
        return ChainState(heatmaps, features), {'predicted': predicted, 'correlation': correlation}


class KIMNet(nnx.Module):
    """Pose initializer, feature encoder and the chain of transitions.

    `model.train()` and `model.eval()` choose between batch and running statistics, as everywhere in NNX.
    """

    def __init__(self, config: KIMNetConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions; parameters, statistics, softmax and heatmaps stay float32."""
        self.dtype = dtype
        encoder = PoseResNetConfig(config.encoder_depth, None, config.width, config.features, config.remat)
        self.feature_encoder = PoseResNet(encoder, dtype=dtype, rngs=rngs)
        self.pose_initializer: nnx.Module
        if config.initializer_depth:
            initializer = dataclasses.replace(encoder, depth=config.initializer_depth, num_joints=config.num_joints)
            self.pose_initializer = PoseResNet(initializer, dtype=dtype, rngs=rngs)
        else:
            self.pose_initializer = conv(config.features, config.num_joints, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.from_features = not config.initializer_depth
        self.transition = Transition(config, dtype=dtype, rngs=rngs)

    def __call__(
        self, frames: Array, state: ChainState | None = None, start: Array | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Heatmaps of T frames.

        Args:
            frames: [B, T, H, W, 3] normalised float images, H and W multiples of 32.
            state: where an earlier call on the frames before ended; None: the chain begins with these frames.
            start: bool [B], with `state`: True where the chain begins anew.

        Returns:
            (heatmaps [B, T, h, w, J] float32, intermediates: `state` after the last frame and, for every frame after the first
            [B, T-1, ...], `predicted` heatmaps of the KMM and its `correlation` W_r [J, J]).
        """
        training = not self.transition.relation_decoder.bn_u.use_running_average
        features = encode_clip(self.feature_encoder, frames)
        return run_chain(self.transition, self._begin(frames[:, 0], features[:, 0]), features, state, start, training=training)

    def init_state(self, frames: Array) -> tuple[Array, ChainState]:
        """Begins a stream: first frames [B, H, W, 3] -> (heatmaps [B, h, w, J], state)."""
        state = self._begin(frames, self.feature_encoder(frames))
        return state.heatmaps, state

    def step(self, state: ChainState, frames: Array) -> tuple[Array, ChainState]:
        """Goes on with a stream: the next frames [B, H, W, 3] -> (heatmaps [B, h, w, J], state)."""
        state, _ = self.transition(state, self.feature_encoder(frames))
        return state.heatmaps, state

    def _begin(self, frames: Array, features: Array) -> ChainState:
        initial = self.pose_initializer(features if self.from_features else frames)
        return ChainState(self.transition.relation_decoder(initial), features)
