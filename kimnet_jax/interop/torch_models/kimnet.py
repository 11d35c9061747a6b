"""KIMNet in PyTorch; no weights were ever released, so the keys are our own."""

import torch
from torch import Tensor, nn

from kimnet_jax.interop.torch_models.backbones import feature_encoder, pose_initializer
from kimnet_jax.interop.torch_models.dkd import DKD
from kimnet_jax.interop.torch_models.kmm import KMM
from kimnet_jax.interop.torch_models.relation_decoder import RelationDecoder
from kimnet_jax.interop.torch_models.rpstn import JRPSP
from kimnet_jax.models.kimnet import KIMNetConfig


class Fusion(nn.Module):
    """Heatmaps from the predicted ones (`predicted` of them, J or 0) and features, Eq. 4."""

    def __init__(self, predicted: int, num_joints: int, features: int, norm: bool = True, bias: bool = True):
        super().__init__()
        self.conv_g = nn.Conv2d(predicted + features, features, 3, 1, 1, bias=bias)
        self.bn_g = nn.BatchNorm2d(features) if norm else None
        self.conv_d = nn.Conv2d(features, num_joints, 1, bias=bias)

    def forward(self, predicted: Tensor | None, features: Tensor) -> Tensor:
        coarse = self.conv_g(features if predicted is None else torch.cat([predicted, features], 1))
        return self.conv_d(coarse if self.bn_g is None else torch.relu(self.bn_g(coarse)))


class KIMNet(nn.Module):
    """Images [B, T, 3, H, W] -> heatmaps [B, T, J, H/4, W/4]."""

    def __init__(self, config: KIMNetConfig):
        super().__init__()
        joints, features = config.num_joints, config.features
        self.feature_encoder = feature_encoder(config)
        self.from_features = config.pose_initializer == 'none'
        self.pose_initializer = nn.Conv2d(features, joints, 1) if self.from_features else pose_initializer(config)
        self.temporal = config.temporal  # whose module has that name
        match config.temporal:
            case 'kmm':
                options = config.kmm_variant, config.kmm_activation, config.kmm_weights, config.biases
                self.kmm = KMM(joints, features, *options)
            case 'dkd':
                self.dkd = DKD(joints, features)
            case 'jrpsp':
                self.jrpsp = JRPSP(joints, features)
        predicted = 0 if config.temporal == 'none' else joints
        self.fusion = Fusion(predicted, joints, features, config.fusion_norm, config.biases)
        self.relation_decoder = RelationDecoder(joints, config.decoder_variant, config.first_statistics)

    def forward(self, frames: Tensor) -> Tensor:
        features = self.feature_encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        first = self.pose_initializer(features[:, 0] if self.from_features else frames[:, 0])
        heatmaps, predicted = [self.relation_decoder(first, first=True)], None
        for t in range(1, frames.shape[1]):
            if self.temporal != 'none':
                predicted, _ = getattr(self, self.temporal)(features[:, t - 1], features[:, t], heatmaps[-1])
            heatmaps.append(self.relation_decoder(self.fusion(predicted, features[:, t])))
        return torch.stack(heatmaps, 1)
