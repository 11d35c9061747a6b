"""The relation decoder in PyTorch, with keys of our own."""

import torch
from torch import Tensor, nn


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
