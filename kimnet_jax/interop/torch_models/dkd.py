"""Dynamic kernels in PyTorch, with the keys of RPSTN's released checkpoints."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def dynamic_conv(x: Tensor, kernels: Tensor) -> Tensor:
    """[B, C, h, w] and a kernel for every sample and channel [B, C, k, l] -> [B, C, h, w]."""
    k, l = kernels.shape[2:]  # noqa: E741
    x = functional.pad(x, (l // 2, l - 1 - l // 2, k // 2, k - 1 - k // 2))
    y = functional.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1)[:, None], groups=x.shape[0] * x.shape[1])
    return y[0].unflatten(0, x.shape[:2])


class DKD(nn.Module):
    """(features of t, features of t+1, heatmaps of t) -> (heatmaps of t+1, kernels [B, D, k, l]); see `kimnet_jax.models.dkd`."""

    def __init__(self, num_joints: int, features: int, variant: str = 'intended'):
        super().__init__()
        self.variant = variant
        self.conv1x1_reduce_dim = nn.Conv2d(num_joints + features, features, 1)
        self.pose_conv1x1_V = nn.Conv2d(features, features, 1)
        self.pose_conv1x1_U = nn.Conv2d(features, num_joints, 1)
        self.bn: nn.Module = nn.BatchNorm2d(features)
        if variant == 'intended':
            self.bn = nn.ModuleList([nn.BatchNorm2d(features) for _ in range(3)])
        generator: list[nn.Module] = []
        for index in range(4):
            generator += [nn.Conv2d(features, features, 3, 1, 1 if index else 0), nn.BatchNorm2d(features)]
            generator += [nn.ReLU(), nn.MaxPool2d(2, 2)] if index < 3 else []
        self.dkd_param_adapter = nn.Sequential(*generator)

    def forward(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps, kernels, _ = self.propagate(features, next_features, heatmaps)
        return heatmaps, kernels

    def propagate(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        bn = list(self.bn) if isinstance(self.bn, nn.ModuleList) else 3 * [self.bn]
        projected = bn[0](self.pose_conv1x1_V(next_features))
        kernels = self.dkd_param_adapter(bn[1](self.conv1x1_reduce_dim(torch.cat([heatmaps, features], 1))))
        filtered = dynamic_conv(projected, kernels)
        if self.variant != 'released_penn':
            filtered = bn[2](filtered)
        return self.pose_conv1x1_U(filtered), kernels, projected
