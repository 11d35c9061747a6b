"""Networks of single images by name, as pose initializers and feature encoders of networks of videos (KIMNet Table III)."""

import dataclasses
from typing import Literal, Protocol, TypeAlias, cast, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.hourglass import Hourglass, HourglassConfig
from kimnet_jax.models.hrnet import TINY, HRNet, HRNetConfig
from kimnet_jax.models.layers import BatchNorm, Conv
from kimnet_jax.models.pose_resnet import Depth, PoseResNet, PoseResNetConfig

Array = jax.Array
BackboneConfig: TypeAlias = PoseResNetConfig | HourglassConfig | HRNetConfig

ResNetName: TypeAlias = Literal['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152']
HourglassName: TypeAlias = Literal['hourglass1', 'hourglass2', 'hourglass4', 'hourglass8']
HRNetName: TypeAlias = Literal['hrnet_w32', 'hrnet_w48', 'hrnet_tiny']  # the last, with one block and one module, is for tests
Backbone: TypeAlias = Literal[ResNetName, HourglassName, HRNetName]
RESNETS, HOURGLASSES, HRNETS, BACKBONES = map(get_args, (ResNetName, HourglassName, HRNetName, Backbone))


def backbone_config(
    name: str, *, num_joints: int | None, width: int = 64, features: int = 256, remat: bool = False
) -> BackboneConfig:
    """The config of a backbone.

    Args:
        name: one of `BACKBONES`; of HRNet the number is that of channels at `width` 64.
        num_joints: J, to give heatmaps; None: to give features.
        width: channels of the stem, to which all others are in proportion; 64 in the papers.
        features: D, channels of a PoseResNet's features; those of the others follow from `width`.
        remat: recompute the residual blocks in the backward pass.

    Raises:
        ValueError: an unknown name, or a width that leaves a branch without channels.
    """
    if width * {'hrnet_tiny': 32, 'hrnet_w32': 32, 'hrnet_w48': 48}.get(name, 64) < 64:
        raise ValueError(f'backbone {name!r} of width {width}: choose 2 or more')
    if name in RESNETS:
        return PoseResNetConfig(cast(Depth, int(name.removeprefix('resnet'))), num_joints, width, features, remat)
    if name in HOURGLASSES:
        return HourglassConfig(int(name.removeprefix('hourglass')), num_joints, features=4 * width, remat=remat)
    if name == 'hrnet_tiny':
        return dataclasses.replace(TINY, width=width // 2, num_joints=num_joints, stem=width, remat=remat)
    if name in HRNETS:
        return HRNetConfig(int(name.removeprefix('hrnet_w')) * width // 64, num_joints, stem=width, remat=remat)
    raise ValueError(f'backbone {name!r}: choose one of {", ".join(BACKBONES)}')


def backbone(config: BackboneConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
    """The network of a config: [B, H, W, 3] -> heatmaps [B, H/4, W/4, J], or features after ReLU."""
    match config:
        case PoseResNetConfig():
            return PoseResNet(config, dtype=dtype, rngs=rngs)
        case HourglassConfig():
            return Hourglass(config, dtype=dtype, rngs=rngs)
        case HRNetConfig():
            return HRNet(config, dtype=dtype, rngs=rngs)


class VideoConfig(Protocol):
    """What the config of a network of videos says of its networks of single images; see `KIMNetConfig`."""

    @property
    def num_joints(self) -> int: ...
    @property
    def pose_initializer(self) -> str: ...
    @property
    def feature_encoder(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def features(self) -> int: ...
    @property
    def remat(self) -> bool: ...


def feature_encoder(config: VideoConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
    """The backbone of that name: [B, H, W, 3] -> [B, h, w, D]; with an adapter where it has another number of channels."""
    encoder = backbone_config(
        config.feature_encoder, num_joints=None, width=config.width, features=config.features, remat=config.remat
    )
    network = backbone(encoder, dtype=dtype, rngs=rngs)
    if encoder.features == config.features:
        return network
    return Adapted(network, encoder.features, config.features, dtype=dtype, rngs=rngs)


def pose_initializer(config: VideoConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs) -> nnx.Module:
    """The backbone of that name: [B, H, W, 3] -> heatmaps [B, h, w, J]; `none`: a 1x1 convolution of features instead."""
    if config.pose_initializer == 'none':
        return Conv(config.features, config.num_joints, 1, use_bias=True, dtype=dtype, rngs=rngs)
    initializer = backbone_config(
        config.pose_initializer,
        num_joints=config.num_joints,
        width=config.width,
        features=config.features,
        remat=config.remat,
    )
    return backbone(initializer, dtype=dtype, rngs=rngs)


class Adapted(nnx.Module):
    """A network, and a 1x1 convolution, BatchNorm and ReLU from its channels to D features."""

    def __init__(self, network: nnx.Module, features_in: int, features: int, *, dtype: Dtype, rngs: nnx.Rngs):
        self.network = network
        self.conv = Conv(features_in, features, 1, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(features, dtype=dtype, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """[B, H, W, 3] -> [B, h, w, D]."""
        return nnx.relu(self.bn(self.conv(self.network(images))))
