"""Networks of single images by name, as parts of networks of videos (see `kimnet_jax.models.backbones`)."""

from typing import TypeAlias

import torch
from torch import Tensor, nn

from kimnet_jax.interop.torch_models.hourglass import Hourglass
from kimnet_jax.interop.torch_models.hrnet import HRNet
from kimnet_jax.interop.torch_models.pose_resnet import PoseResNet
from kimnet_jax.models.backbones import BackboneConfig, backbone_config
from kimnet_jax.models.dkd_net import DKDNetConfig
from kimnet_jax.models.hourglass import HourglassConfig
from kimnet_jax.models.kimnet import KIMNetConfig
from kimnet_jax.models.pose_resnet import PoseResNetConfig
from kimnet_jax.models.rpstn import RPSTNConfig

VideoConfig: TypeAlias = KIMNetConfig | DKDNetConfig | RPSTNConfig


def backbone(config: BackboneConfig) -> nn.Module:
    """[B, 3, H, W] -> heatmaps [B, J, H/4, W/4], or features."""
    if isinstance(config, PoseResNetConfig):
        return PoseResNet(config)
    return Hourglass(config) if isinstance(config, HourglassConfig) else HRNet(config)


def pose_initializer(config: VideoConfig) -> nn.Module:
    """The network of that name: [B, 3, H, W] -> heatmaps [B, J, H/4, W/4]."""
    name = str(config.pose_initializer)
    return backbone(backbone_config(name, num_joints=config.num_joints, width=config.width, features=config.features))


def feature_encoder(config: VideoConfig) -> nn.Module:
    """The network of that name, `Adapted` where it has another number of features: [B, 3, H, W] -> [B, D, H/4, W/4]."""
    network = backbone_config(config.feature_encoder, num_joints=None, width=config.width, features=config.features)
    if network.features == config.features:
        return backbone(network)
    return Adapted(backbone(network), network.features, config.features)


class Adapted(nn.Module):
    """A network, and a 1x1 convolution, BatchNorm and ReLU from its channels to D features."""

    def __init__(self, network: nn.Module, features_in: int, features: int):
        super().__init__()
        self.network = network
        self.conv = nn.Conv2d(features_in, features, 1, bias=False)
        self.bn = nn.BatchNorm2d(features)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(self.network(images))))
