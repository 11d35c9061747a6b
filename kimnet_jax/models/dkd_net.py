"""DKD's network of videos: a pose initializer, a feature encoder and dynamic kernels (Nie et al., ICCV 2019)."""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.models.backbones import Backbone, feature_encoder, pose_initializer
from kimnet_jax.models.chain import ChainNetwork, ChainState, ChainTransition
from kimnet_jax.models.dkd import DKD
from kimnet_jax.models.kmm_transfer import KMMTransfer
from kimnet_jax.models.layers import CHANNELS, JOINTS

Array = jax.Array
DKDTemporal = Literal['dkd', 'kmm']


@dataclasses.dataclass(frozen=True)
class DKDNetConfig:
    """Attributes:
    num_joints: J.
    pose_initializer: backbone (`backbones.BACKBONES`) that gives the heatmaps of the first frame.
    feature_encoder: backbone that gives the features of every frame.
    width: channels of both networks' stems; 64 in the paper.
    features: D, channels of the features.
    temporal: `dkd`, the paper's; `kmm`, in its place KMM (`KMMTransfer`; KIMNet Table IV).
    remat: recompute the residual blocks in the backward pass: less memory, more time.
    """

    num_joints: int
    pose_initializer: Backbone = 'resnet101'
    feature_encoder: Backbone = 'resnet50'
    width: int = 64
    features: int = 256
    temporal: DKDTemporal = 'dkd'
    remat: bool = False

    def __post_init__(self) -> None:
        check_ranges('model', self, num_joints=JOINTS, width=CHANNELS, features=CHANNELS)


class Transition(ChainTransition):
    """One step of the chain: (state of frame t, (queries, keys) of frame t+1) -> state of frame t+1."""

    def __init__(self, config: DKDNetConfig, *, dtype: Dtype, rngs: nnx.Rngs):
        if config.temporal not in get_args(DKDTemporal):
            raise ValueError(f'DKD of temporal {config.temporal!r}: choose one of {", ".join(get_args(DKDTemporal))}')
        module = DKD if config.temporal == 'dkd' else KMMTransfer
        self.temporal: DKD | KMMTransfer = module(config.num_joints, config.features, dtype=dtype, rngs=rngs)

    def prepare(self, features: Array) -> tuple[Any, Any]:
        """Queries and keys of features [N, h, w, D]."""
        return self.temporal.queries(features), self.temporal.keys(features)

    def __call__(self, state: ChainState, prepared: tuple[Any, Any]) -> tuple[ChainState, dict[str, Array]]:
        queries, keys = prepared
        heatmaps, given = self.temporal.propagate(state.queries, keys, state.heatmaps)
        return ChainState(heatmaps, queries), {self.temporal.gives: given}


class DKDNet(ChainNetwork):
    """RPSTN without the relation of the joints; with the authors' adversarial training neither there nor here.

    Its evidence is, for every frame after the first, the `kernels` [B, T-1, k, l, D] or KMM's `correlation` [B, T-1, J, J].
    """

    transition: Transition

    def __init__(self, config: DKDNetConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions. Raises ValueError on an unknown backbone or temporal module."""
        super().__init__(dtype=dtype)
        self.feature_encoder = feature_encoder(config, dtype=dtype, rngs=rngs)
        self.pose_initializer = pose_initializer(config, dtype=dtype, rngs=rngs)
        self.transition = Transition(config, dtype=dtype, rngs=rngs)

    def begin(self, frames: Array, features: Array) -> tuple[ChainState, tuple[Array, ...]]:
        """The state of first frames [B, H, W, 3] with features [B, h, w, D]."""
        heatmaps = self.pose_initializer(frames).astype(jnp.float32)
        return ChainState(heatmaps, self.transition.temporal.queries(features)), ()
