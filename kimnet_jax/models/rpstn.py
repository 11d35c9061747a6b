"""RPSTN, relation-based pose semantics transfer network (Dang et al., TIP 2022; github.com/YHDang/RPSTN)."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.models.backbones import RESNETS, ResNetName, feature_encoder, pose_initializer
from kimnet_jax.models.chain import ChainNetwork, ChainState, ChainTransition, encode_clip
from kimnet_jax.models.dkd import DKDVariant
from kimnet_jax.models.jrpsp import JRPSP
from kimnet_jax.models.kmm_transfer import KMMTransfer
from kimnet_jax.models.layers import CHANNELS, JOINTS
from kimnet_jax.models.relation_decoder import DecoderVariant, FirstStatistics, RelationDecoder

Array = jax.Array
RPSTNTemporal = Literal['jrpsp', 'kmm']


@dataclasses.dataclass(frozen=True)
class RPSTNConfig:
    """Attributes:
    num_joints: J.
    pose_initializer: PoseResNet (`backbones.RESNETS`) that gives the heatmaps of the first frame.
    feature_encoder: PoseResNet that gives the features of every frame.
    width: channels of both networks' stems; 64 in the paper.
    features: D, channels of the features.
    temporal: `jrpsp`, the paper's; `kmm`, in place of its dynamic kernels KMM (`KMMTransfer`; KIMNet Table IV).
    variant: of `jrpsp`, see `DKD`. The released ones carry the projected features to the next frame, but the first frame's
        as they are, and in train mode encode frame by frame, BatchNorm seeing one at a time; `intended` carries every frame's
        features as they are and encodes all frames at once.
    decoder_variant, first_statistics: see `RelationDecoder`; for the release's weights `released`, or `released_2021` for those
        of its first revision, and `shared`.
    output_scale: initial scale of the BatchNorm that every output heatmap goes through, see `KIMNetConfig`.
    remat: recompute the residual blocks in the backward pass: less memory, more time.
    """

    num_joints: int
    pose_initializer: ResNetName = 'resnet101'
    feature_encoder: ResNetName = 'resnet50'
    width: int = 64
    features: int = 256
    temporal: RPSTNTemporal = 'jrpsp'
    variant: DKDVariant = 'intended'
    decoder_variant: DecoderVariant = 'intended'
    first_statistics: FirstStatistics = 'own'
    output_scale: float = 0.05
    remat: bool = False

    def __post_init__(self) -> None:
        check_ranges('model', self, num_joints=JOINTS, width=CHANNELS, features=CHANNELS, output_scale=(0, 1e6))


class Transition(ChainTransition):
    """One step of the chain: (state of frame t, features of frame t+1) -> state of frame t+1."""

    def __init__(self, config: RPSTNConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.jrpsp = JRPSP(
            config.num_joints,
            config.features,
            variant=config.variant,
            decoder_variant=config.decoder_variant,
            output_scale=config.output_scale,
            first_statistics=config.first_statistics,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, state: ChainState, features: Array) -> tuple[ChainState, dict[str, Array]]:
        heatmaps, kernels, projected = self.jrpsp.projecting(state.queries, features, state.heatmaps)
        return ChainState(heatmaps, features if self.jrpsp.variant == 'intended' else projected), {'kernels': kernels}

    def begin(self, heatmaps: Array, features: Array) -> ChainState:
        """The state of a first frame, from its initial heatmaps [B, h, w, J] and its features [B, h, w, D]."""
        return ChainState(self.jrpsp.relation_decoder(heatmaps, first=True), features)


class KMMTransition(ChainTransition):
    """The same with KMM in place of the dynamic kernels."""

    def __init__(self, config: RPSTNConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        self.temporal = KMMTransfer(config.num_joints, config.features, dtype=dtype, rngs=rngs)
        self.relation_decoder = RelationDecoder(
            config.num_joints,
            variant=config.decoder_variant,
            output_scale=config.output_scale,
            first_statistics=config.first_statistics,
            rngs=rngs,
        )

    def prepare(self, features: Array) -> tuple[Any, Any]:
        """Queries and keys of features [N, h, w, D]."""
        return self.temporal.queries(features), self.temporal.keys(features)

    def __call__(self, state: ChainState, prepared: tuple[Any, Any]) -> tuple[ChainState, dict[str, Array]]:
        queries, keys = prepared
        heatmaps, correlation = self.temporal.propagate(state.queries, keys, state.heatmaps)
        return ChainState(self.relation_decoder(heatmaps), queries), {'correlation': correlation}

    def begin(self, heatmaps: Array, features: Array) -> ChainState:
        """As that of `Transition`."""
        return ChainState(self.relation_decoder(heatmaps, first=True), self.temporal.queries(features))


class RPSTN(ChainNetwork):
    """Pose initializer, feature encoder and the chain of transitions, as in `KIMNet`.

    Its evidence is, for every frame after the first, the `kernels` [B, T-1, k, l, D], 7x7 for images of 256 x 256, or KMM's
    `correlation` [B, T-1, J, J].

    The release is built for T frames, 5 in its configs, of 256 x 256; here T is free, and H and W are multiples of 32 from 64 on.
    """

    transition: Transition | KMMTransition

    def __init__(self, config: RPSTNConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions; parameters, statistics, softmax and heatmaps stay float32.

        Raises ValueError on a backbone that is no PoseResNet, or an unknown temporal module.
        """
        super().__init__(dtype=dtype)
        for name in (config.pose_initializer, config.feature_encoder):
            if name not in RESNETS:
                raise ValueError(f'RPSTN with {name!r}: choose one of {", ".join(RESNETS)}')
        if config.temporal not in get_args(RPSTNTemporal):
            raise ValueError(f'RPSTN of temporal {config.temporal!r}: choose one of {", ".join(get_args(RPSTNTemporal))}')
        self.feature_encoder = feature_encoder(config, dtype=dtype, rngs=rngs)
        self.pose_initializer = pose_initializer(config, dtype=dtype, rngs=rngs)
        self.transition = (Transition if config.temporal == 'jrpsp' else KMMTransition)(config, dtype=dtype, rngs=rngs)
        self.frame_by_frame = config.temporal == 'jrpsp' and config.variant != 'intended'

    def encode(self, frames: Array) -> Array:
        """Features [B, T, h, w, D] of frames [B, T, H, W, 3]; the released variants in train mode encode frame by frame."""
        return encode_clip(self.feature_encoder, frames, frame_by_frame=self.frame_by_frame and not self.deterministic)

    def begin(self, frames: Array, features: Array) -> tuple[ChainState, tuple[Array, ...]]:
        """The state of first frames [B, H, W, 3] with features [B, h, w, D]."""
        return self.transition.begin(self.pose_initializer(frames), features), ()
