"""KIMNet and its parts in PyTorch; no weights were ever released, so the keys are our own."""

import dataclasses

import torch
from torch import Tensor, nn

from kimnet_jax.interop.torch_models.pose_resnet import PoseResNet
from kimnet_jax.models.kimnet import KIMNetConfig
from kimnet_jax.models.pose_resnet import PoseResNetConfig


class KMM(nn.Module):
    """(features of t, features of t+1, heatmaps of t) -> (heatmaps of t+1 [B, J, h, w], correlation W_r [B, J, J]), Eq. 6-10."""

    def __init__(self, num_joints: int, features: int, variant: str = 'full'):
        super().__init__()
        self.variant = variant
        channels = num_joints if variant == 'heatmap' else features
        self.conv_q = nn.Conv2d(channels, num_joints, 1)
        if variant != 'share_qk':
            self.conv_k = nn.Conv2d(channels, num_joints, 1)
        if variant == 'heatmap':
            self.conv_p = nn.Conv2d(features, num_joints, 1)

    def forward(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        if self.variant == 'heatmap':
            features, next_features = heatmaps, self.conv_p(next_features)
        q = torch.relu(self.conv_q(features)).flatten(2)
        k = torch.relu((self.conv_q if self.variant == 'share_qk' else self.conv_k)(next_features)).flatten(2)
        similarity = k @ q.mT
        if self.variant != 'no_scale':
            similarity = similarity / q.shape[-1] ** 0.5
        correlation = torch.softmax(similarity, dim=-1)
        predicted = (correlation @ heatmaps.flatten(2)).view_as(heatmaps)
        return predicted + heatmaps if self.variant == 'residual' else predicted, correlation


class Fusion(nn.Module):
    """Predicted heatmaps and features to heatmaps, Eq. 4."""

    def __init__(self, num_joints: int, features: int, norm: bool = True):
        super().__init__()
        self.conv_g = nn.Conv2d(num_joints + features, features, 3, 1, 1)
        self.bn_g = nn.BatchNorm2d(features) if norm else None
        self.conv_d = nn.Conv2d(features, num_joints, 1)

    def forward(self, predicted: Tensor, features: Tensor) -> Tensor:
        coarse = self.conv_g(torch.cat([predicted, features], 1))
        return self.conv_d(coarse if self.bn_g is None else torch.relu(self.bn_g(coarse)))


class RelationDecoder(nn.Module):
    """RPSTN's joint relation extractor and the BatchNorm after it; variants as in `kimnet_jax.models.relation_decoder`."""

    def __init__(self, num_joints: int, variant: str = 'intended'):
        super().__init__()
        self.variant = variant
        self.conv_g = nn.Conv2d(num_joints, num_joints, 1)
        self.conv_w = nn.Conv2d(num_joints, num_joints, 1)
        self.bn_w = nn.BatchNorm2d(num_joints)
        self.bn_u = nn.BatchNorm2d(num_joints)
        nn.init.zeros_(self.bn_w.weight)

    def forward(self, heatmaps: Tensor) -> Tensor:
        x = heatmaps.flatten(2)
        attention = torch.softmax(x @ x.mT, dim=1 if self.variant == 'released' else -1)
        y = attention @ self.conv_g(heatmaps).flatten(2)
        if self.variant != 'intended':
            y = y.mT.contiguous()
        return self.bn_u(heatmaps + self.bn_w(self.conv_w(y.view_as(heatmaps))))


class KIMNet(nn.Module):
    """Images [B, T, 3, H, W] -> heatmaps [B, T, J, H/4, W/4]."""

    def __init__(self, config: KIMNetConfig):
        super().__init__()
        joints, features = config.num_joints, config.features
        encoder = PoseResNetConfig(config.encoder_depth, None, config.width, features)
        initializer = dataclasses.replace(encoder, depth=config.initializer_depth, num_joints=joints)
        self.feature_encoder = PoseResNet(encoder)
        self.from_features = not config.initializer_depth
        self.pose_initializer = nn.Conv2d(features, joints, 1) if self.from_features else PoseResNet(initializer)
        self.kmm = KMM(joints, features, config.kmm_variant)
        self.fusion = Fusion(joints, features, config.fusion_norm)
        self.relation_decoder = RelationDecoder(joints, config.decoder_variant)

    def forward(self, frames: Tensor) -> Tensor:
        features = self.feature_encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        first = self.pose_initializer(features[:, 0] if self.from_features else frames[:, 0])
        heatmaps = [self.relation_decoder(first)]
        for t in range(1, frames.shape[1]):
            predicted, _ = self.kmm(features[:, t - 1], features[:, t], heatmaps[-1])
            heatmaps.append(self.relation_decoder(self.fusion(predicted, features[:, t])))
        return torch.stack(heatmaps, 1)
