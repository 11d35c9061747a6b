"""KIMNet: heatmaps of a video by a Markov chain over its frames (Dang et al., arXiv 2207.10971, Fig. 2, Eq. 4-10)."""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.models.backbones import Backbone, feature_encoder, pose_initializer
from kimnet_jax.models.chain import ChainNetwork, ChainState, ChainTransition
from kimnet_jax.models.dkd import DKD
from kimnet_jax.models.jrpsp import JRPSP
from kimnet_jax.models.kmm import KMM, KMMActivation, KMMVariant, KMMWeights
from kimnet_jax.models.layers import CHANNELS, JOINTS, BatchNorm, Conv
from kimnet_jax.models.relation_decoder import DecoderVariant, FirstStatistics, RelationDecoder
from kimnet_jax.models.temporal import TemporalModule

Array = jax.Array
Temporal = Literal['kmm', 'dkd', 'jrpsp', 'none']


@dataclasses.dataclass(frozen=True)
class KIMNetConfig:
    """Attributes:
    num_joints: J.
    pose_initializer: backbone that gives the heatmaps of the first frame; `none`: a 1x1 convolution of its features instead
        (KIMNet-w/o-P, Table III).
    feature_encoder: backbone that gives the features of every frame.
    width: channels of both networks' stems; 64 in the paper.
    features: D, channels of the features; a backbone that has others gets an adapter.
    temporal: what predicts a frame's heatmaps from the frame before: `kmm`; `dkd`, dynamic kernel distillation; `jrpsp`, RPSTN's
        propagation (Table VI); `none`: nothing, every frame but the first comes from its features alone.
    kmm_variant: of `kmm`, for Table V: `full`, `share_qk`, `no_scale`, `residual` or `heatmap` (`KMM`).
    kmm_activation: of `kmm`, sigma of Eq. 6 and 7: `relu`, `sigmoid` or `none`.
    kmm_weights: of `kmm`, those of Eq. 9: `softmax`, or the `ratio` to the sum that is printed there.
    biases: of the convolutions of `kmm` and of Eq. 4.
    fusion_norm: BatchNorm and ReLU between the two convolutions of Eq. 4.
    decoder_variant: of the relation decoder: `intended`, or `released` and `released_2021` for the predecessor's weights.
    first_statistics: BatchNorm statistics of the relation decoder for the first frame of a chain: its `own`, or `shared` with the
        later frames, as in the releases.
    output_scale: initial scale of the last BatchNorm: near the standard deviation of the targets, it saves many steps against
        PyTorch's 1.
    remat: recompute the residual blocks in the backward pass: less memory, more time.
    """

    num_joints: int
    pose_initializer: Backbone | Literal['none'] = 'resnet101'
    feature_encoder: Backbone = 'resnet50'
    width: int = 64
    features: int = 256
    temporal: Temporal = 'kmm'
    kmm_variant: KMMVariant = 'full'
    kmm_activation: KMMActivation = 'relu'
    kmm_weights: KMMWeights = 'softmax'
    biases: bool = True
    fusion_norm: bool = True
    decoder_variant: DecoderVariant = 'intended'
    first_statistics: FirstStatistics = 'own'
    output_scale: float = 0.05
    remat: bool = False

    def __post_init__(self) -> None:
        check_ranges('model', self, num_joints=JOINTS, width=CHANNELS, features=CHANNELS, output_scale=(0, 1e6))


class Prepared(NamedTuple):
    """What a step reads of its frame's features.

    Attributes:
        queries: for the step after (`TemporalModule.queries`).
        keys: for this one (`TemporalModule.keys`).
        coarse: the features' part of Conv_g, [N, h, w, D].
    """

    queries: Any
    keys: Any
    coarse: Array


class Fusion(nnx.Module):
    """Conv_g 3x3 over predicted heatmaps and features, Conv_d 1x1 to heatmaps (Eq. 4)."""

    def __init__(
        self, predicted: int, num_joints: int, features: int, *, norm: bool, use_bias: bool, dtype: Dtype, rngs: nnx.Rngs
    ):
        """`predicted`: heatmaps that go in, J or 0."""
        self.joins = predicted > 0
        self.conv_g = Conv(predicted + features, features, 3, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.bn_g = BatchNorm(features, dtype=dtype, rngs=rngs) if norm else None
        self.conv_d = Conv(features, num_joints, 1, use_bias=use_bias, dtype=dtype, rngs=rngs)

    def coarse(self, features: Array) -> Array:
        """The features' part of Conv_g, which is linear: [N, h, w, D] -> [N, h, w, D]."""
        return self.conv_g.part(features) if self.joins else self.conv_g(features)

    def __call__(self, predicted: Array | None, coarse: Array) -> Array:
        """[B, h, w, J] (None where none go in) and the features' part [B, h, w, D] -> [B, h, w, J]."""
        if predicted is not None:
            coarse = self.conv_g(predicted, coarse)
        return self.conv_d(coarse if self.bn_g is None else nnx.relu(self.bn_g(coarse)))


class Transition(ChainTransition):
    """One step of the chain: (state of frame t, what is `prepared` of frame t+1) -> state of frame t+1."""

    def __init__(self, config: KIMNetConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        joints, features = config.num_joints, config.features
        self.temporal: TemporalModule | None
        match config.temporal:
            case 'kmm':
                self.temporal = KMM(
                    joints,
                    features,
                    variant=config.kmm_variant,
                    activation=config.kmm_activation,
                    weights=config.kmm_weights,
                    use_bias=config.biases,
                    dtype=dtype,
                    rngs=rngs,
                )
            case 'dkd':
                self.temporal = DKD(joints, features, dtype=dtype, rngs=rngs)
            case 'jrpsp':
                self.temporal = JRPSP(joints, features, output_scale=config.output_scale, dtype=dtype, rngs=rngs)
            case 'none':
                self.temporal = None
            case _:
                raise ValueError(f'KIMNet of temporal {config.temporal!r}: choose one of {", ".join(get_args(Temporal))}')
        predicted = 0 if self.temporal is None else joints
        norm, use_bias = config.fusion_norm, config.biases
        self.fusion = Fusion(predicted, joints, features, norm=norm, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.relation_decoder = RelationDecoder(
            joints,
            variant=config.decoder_variant,
            output_scale=config.output_scale,
            first_statistics=config.first_statistics,
            rngs=rngs,
        )

    def queries(self, features: Array) -> Any:
        """What the next step reads of features [N, h, w, D]."""
        return None if self.temporal is None else self.temporal.queries(features)

    def prepare(self, features: Array) -> Prepared:
        """What steps read of features [N, h, w, D]."""
        keys = None if self.temporal is None else self.temporal.keys(features)
        return Prepared(self.queries(features), keys, self.fusion.coarse(features))

    def __call__(self, state: ChainState, prepared: Prepared) -> tuple[ChainState, dict[str, Array]]:
        evidence, predicted = {}, None
        if self.temporal is not None:
            predicted, given = self.temporal.propagate(state.queries, prepared.keys, state.heatmaps)
            evidence = {'predicted': predicted, self.temporal.gives: given}
        heatmaps = self.relation_decoder(self.fusion(predicted, prepared.coarse))
        return ChainState(heatmaps, prepared.queries), evidence


class KIMNet(ChainNetwork):
    """Pose initializer, feature encoder and the chain of transitions.

    Its evidence is, for every frame after the first [B, T-1, ...], the `predicted` heatmaps of the temporal module and what
    that gives besides: KMM's `correlation` W_r [J, J], the `kernels` of the others. H and W are multiples of 32, of 64 with an
    hourglass, and at least 64 with dynamic kernels.
    """

    transition: Transition

    def __init__(self, config: KIMNetConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions; parameters, statistics, softmax and heatmaps stay float32.

        Raises ValueError on an unknown backbone or temporal module.
        """
        super().__init__(dtype=dtype)
        self.feature_encoder = feature_encoder(config, dtype=dtype, rngs=rngs)
        self.pose_initializer = pose_initializer(config, dtype=dtype, rngs=rngs)
        self.from_features = config.pose_initializer == 'none'
        self.transition = Transition(config, dtype=dtype, rngs=rngs)
        self.reads_past = config.temporal != 'none'

    def begin(self, frames: Array, features: Array) -> tuple[ChainState, tuple[Array, ...]]:
        """The state of first frames [B, H, W, 3] with features [B, h, w, D]."""
        initial = self.pose_initializer(features if self.from_features else frames)
        heatmaps = self.transition.relation_decoder(initial, first=True)
        return ChainState(heatmaps, self.transition.queries(features)), ()
