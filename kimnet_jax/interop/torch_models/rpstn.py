"""RPSTN and its parts in PyTorch, with the keys of its released checkpoints."""

from typing import Any

import torch
from torch import Tensor, nn

from kimnet_jax.interop.torch_models.backbones import feature_encoder, pose_initializer
from kimnet_jax.interop.torch_models.dkd import DKD
from kimnet_jax.interop.torch_models.dkd_net import DKDNet
from kimnet_jax.interop.torch_models.relation_decoder import RelationDecoder, normalised
from kimnet_jax.models.dkd_net import DKDNetConfig
from kimnet_jax.models.rpstn import RPSTNConfig


class JRE(nn.Module):
    """The joint relation extractor, variants as in `kimnet_jax.models.relation_decoder`; the released have two idle layers."""

    def __init__(self, num_joints: int, variant: str = 'intended'):
        super().__init__()
        self.variant = variant
        self.g = nn.Conv2d(num_joints, num_joints, 1)
        self.W = nn.Sequential(nn.Conv2d(num_joints, num_joints, 1), nn.BatchNorm2d(num_joints))
        nn.init.zeros_(self.W[1].weight)  # type: ignore[arg-type]
        if variant != 'intended':
            self.theta = nn.Conv2d(num_joints, num_joints, 1)
            self.phi = nn.Conv2d(num_joints, num_joints, 1)

    def forward(self, heatmaps: Tensor, statistics: nn.BatchNorm2d | None = None) -> Tensor:
        x = heatmaps.flatten(2)
        y = torch.softmax(x @ x.mT, dim=1 if self.variant == 'released' else -1) @ self.g(heatmaps).flatten(2)
        if self.variant != 'intended':
            y = y.mT.contiguous()
        conv, norm = self.W
        return heatmaps + normalised(conv(y.view_as(heatmaps)), norm, statistics)  # type: ignore[arg-type]


class JRPSP(DKD):
    """`DKD` and the relation of the joints after it."""

    def __init__(
        self,
        num_joints: int,
        features: int,
        variant: str = 'intended',
        decoder_variant: str = 'intended',
        first_statistics: str = 'shared',
    ):
        super().__init__(num_joints, features, variant)
        self.bn_u = nn.BatchNorm2d(num_joints)
        self.non_local_conv2d = JRE(num_joints, decoder_variant)
        own = first_statistics == 'own'
        self.first_bn_w = nn.BatchNorm2d(num_joints, affine=False) if own else None
        self.first_bn_u = nn.BatchNorm2d(num_joints, affine=False) if own else None

    def relate(self, heatmaps: Tensor, first: bool = False) -> Tensor:
        related = self.non_local_conv2d(heatmaps, self.first_bn_w if first else None)
        return normalised(related, self.bn_u, self.first_bn_u if first else None)

    def propagate(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heatmaps, kernels, projected = super().propagate(features, next_features, heatmaps)
        return self.relate(heatmaps if self.variant == 'intended' else self.bn_u(heatmaps)), kernels, projected

    def chain(self, initial: Tensor, features: Tensor) -> Tensor:
        """Initial heatmaps [B, J, h, w] of the first frame and features [B, T, D, h, w] of all -> heatmaps [B, T, J, h, w]."""
        heatmaps, carried = [self.relate(initial, first=True)], features[:, 0]
        for following in features[:, 1:].unbind(1):
            predicted, _, projected = self.propagate(carried, following, heatmaps[-1])
            heatmaps.append(predicted)
            carried = following if self.variant == 'intended' else projected
        return torch.stack(heatmaps, 1)


def RPSTN(config: RPSTNConfig) -> nn.Module:  # noqa: N802 - called as the classes of the other twins are
    """The network of `config.temporal`: images [B, T, 3, H, W] -> heatmaps [B, T, J, H/4, W/4]."""
    return (ReleasedRPSTN if config.temporal == 'jrpsp' else KMMRPSTN)(config)


class ReleasedRPSTN(JRPSP):
    """The release's network."""

    def __init__(self, config: RPSTNConfig):
        super().__init__(config.num_joints, config.features, config.variant, config.decoder_variant, config.first_statistics)
        self.pose_net = pose_initializer(config)
        net: Any = feature_encoder(config)
        stages = (net.layer1, net.layer2, net.layer3, net.layer4)
        self.fea_ext = nn.Sequential(net.conv1, net.bn1, nn.ReLU(), net.maxpool, *stages, net.deconv_layers)

    def forward(self, frames: Tensor) -> Tensor:  # type: ignore[override]
        if self.variant == 'intended':
            features = self.fea_ext(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        else:  # in train mode with a frame's statistics each
            features = torch.stack([self.fea_ext(frame) for frame in frames.unbind(1)], 1)
        return self.chain(self.pose_net(frames[:, 0]), features)


class KMMRPSTN(DKDNet):
    """The network with KMM; no weights were ever released, so the keys are our own."""

    def __init__(self, config: RPSTNConfig):
        networks = (config.pose_initializer, config.feature_encoder)
        super().__init__(DKDNetConfig(config.num_joints, *networks, config.width, config.features, 'kmm'))
        self.relation_decoder = RelationDecoder(config.num_joints, config.decoder_variant, config.first_statistics)

    def relate(self, heatmaps: Tensor, first: bool = False) -> Tensor:
        return self.relation_decoder(heatmaps, first)
