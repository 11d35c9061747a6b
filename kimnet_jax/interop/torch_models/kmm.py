"""KMM in PyTorch, alone and in the place of dynamic kernels."""

import torch
from torch import Tensor, nn


class KMM(nn.Module):
    """(features of t, features of t+1, heatmaps of t) -> (heatmaps of t+1 [B, J, h, w], correlation W_r [B, J, J]), Eq. 6-10."""

    def __init__(
        self,
        num_joints: int,
        features: int,
        variant: str = 'full',
        activation: str = 'relu',
        weights: str = 'softmax',
        bias: bool = True,
    ):
        super().__init__()
        self.variant, self.weights = variant, weights
        self.activation = {'relu': torch.relu, 'sigmoid': torch.sigmoid, 'none': lambda x: x}[activation]
        channels = num_joints if variant == 'heatmap' else features
        self.conv_q = nn.Conv2d(channels, num_joints, 1, bias=bias)
        if variant != 'share_qk':
            self.conv_k = nn.Conv2d(channels, num_joints, 1, bias=bias)
        if variant == 'heatmap':
            self.conv_p = nn.Conv2d(features, num_joints, 1, bias=bias)

    def forward(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        if self.variant == 'heatmap':
            features, next_features = heatmaps, self.conv_p(next_features)
        q = self.activation(self.conv_q(features)).flatten(2)
        k = self.activation((self.conv_q if self.variant == 'share_qk' else self.conv_k)(next_features)).flatten(2)
        similarity = k @ q.mT
        if self.variant != 'no_scale':
            similarity = similarity / q.shape[-1] ** 0.5
        if self.weights == 'softmax':
            correlation = torch.softmax(similarity, dim=-1)
        else:
            total = similarity.sum(-1, keepdim=True)
            correlation = similarity / torch.where(total == 0, 1.0, total)
        predicted = (correlation @ heatmaps.flatten(2)).view_as(heatmaps)
        return predicted + heatmaps if self.variant == 'residual' else predicted, correlation


class KMMTransfer(nn.Module):
    """Called as `KMM` is; see `kimnet_jax.models.kmm_transfer`."""

    def __init__(self, num_joints: int, features: int):
        super().__init__()
        self.kmm = KMM(num_joints, features)
        self.conv_reduce = nn.Conv2d(num_joints + features, features, 1)
        self.bn = nn.BatchNorm2d(features)
        self.conv_u = nn.Conv2d(features, num_joints, 1)

    def forward(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        predicted, correlation = self.kmm(features, next_features, heatmaps)
        return self.conv_u(torch.relu(self.bn(self.conv_reduce(torch.cat([predicted, next_features], 1))))), correlation
