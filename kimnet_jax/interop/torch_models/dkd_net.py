"""DKD's network in PyTorch; no weights were ever released, so the keys are our own, but for those of `DKD`."""

import torch
from torch import Tensor, nn

from kimnet_jax.interop.torch_models.backbones import feature_encoder, pose_initializer
from kimnet_jax.interop.torch_models.dkd import DKD
from kimnet_jax.interop.torch_models.kmm import KMMTransfer
from kimnet_jax.models.dkd_net import DKDNetConfig


class DKDNet(nn.Module):
    """Images [B, T, 3, H, W] -> heatmaps [B, T, J, H/4, W/4]."""

    def __init__(self, config: DKDNetConfig):
        super().__init__()
        self.pose_initializer = pose_initializer(config)
        self.feature_encoder = feature_encoder(config)
        self.temporal = 'dkd' if config.temporal == 'dkd' else 'kmm_transfer'  # whose module has that name
        if config.temporal == 'dkd':
            self.dkd = DKD(config.num_joints, config.features)
        else:
            self.kmm_transfer = KMMTransfer(config.num_joints, config.features)

    def relate(self, heatmaps: Tensor) -> Tensor:
        """What every frame's heatmaps go through at last."""
        return heatmaps

    def forward(self, frames: Tensor) -> Tensor:
        features = self.feature_encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        heatmaps = [self.relate(self.pose_initializer(frames[:, 0]))]
        for t in range(1, frames.shape[1]):
            predicted, _ = getattr(self, self.temporal)(features[:, t - 1], features[:, t], heatmaps[-1])
            heatmaps.append(self.relate(predicted))
        return torch.stack(heatmaps, 1)
