"""The relation decoder in PyTorch, with keys of our own."""

import torch
from torch import Tensor, nn


class RelationDecoder(nn.Module):
    """RPSTN's joint relation extractor and the BatchNorm after it; variants as in `kimnet_jax.models.relation_decoder`."""

    def __init__(self, num_joints: int, variant: str = 'intended', first_statistics: str = 'shared'):
        super().__init__()
        self.variant = variant
        self.conv_g = nn.Conv2d(num_joints, num_joints, 1)
        self.conv_w = nn.Conv2d(num_joints, num_joints, 1)
        self.bn_w = nn.BatchNorm2d(num_joints)
        self.bn_u = nn.BatchNorm2d(num_joints)
        nn.init.zeros_(self.bn_w.weight)
        own = first_statistics == 'own'
        self.first_bn_w = nn.BatchNorm2d(num_joints, affine=False) if own else None
        self.first_bn_u = nn.BatchNorm2d(num_joints, affine=False) if own else None

    def forward(self, heatmaps: Tensor, first: bool = False) -> Tensor:
        x = heatmaps.flatten(2)
        attention = torch.softmax(x @ x.mT, dim=1 if self.variant == 'released' else -1)
        y = attention @ self.conv_g(heatmaps).flatten(2)
        if self.variant != 'intended':
            y = y.mT.contiguous()
        related = normalised(self.conv_w(y.view_as(heatmaps)), self.bn_w, self.first_bn_w if first else None)
        return normalised(heatmaps + related, self.bn_u, self.first_bn_u if first else None)


def normalised(x: Tensor, norm: nn.BatchNorm2d, statistics: nn.BatchNorm2d | None) -> Tensor:
    """`norm(x)`, with the running statistics of another BatchNorm, which has no weights, where one is given."""
    if statistics is None:
        return norm(x)
    return statistics(x) * norm.weight[:, None, None] + norm.bias[:, None, None]
