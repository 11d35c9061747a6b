"""The networks of `kimnet_jax.models` in PyTorch: what parity tests and benchmarks compare with, and KIMNet for users of PyTorch.

Layout is PyTorch's: images [B, T, C, H, W], heatmaps [B, T, J, h, w]. PoseResNet has the keys of the released checkpoints of
SimpleBaseline; initial values are PyTorch's own, as these networks always get their weights from elsewhere.
"""

import torch
from torch import Tensor, nn

from kimnet_jax.models.kimnet import KIMNetConfig

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, features_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(features_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, features_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(features_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _downsample(features_in, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(features_in: int, features_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and features_in == features_out:
        return None
    return nn.Sequential(nn.Conv2d(features_in, features_out, 1, stride, bias=False), nn.BatchNorm2d(features_out))


class PoseResNet(nn.Module):
    """[B, 3, H, W] -> heatmaps [B, J, H/4, W/4], or features [B, D, H/4, W/4] where `num_joints` is None."""

    def __init__(self, depth: int, num_joints: int | None, width: int = 64, features: int = 256):
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        features_in, stages = width, []
        for index, count in enumerate(_BLOCKS[depth]):
            blocks = []
            for position in range(count):
                blocks.append(block(features_in, width << index, 2 if index and not position else 1))
                features_in = (width << index) * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        head: list[nn.Module] = []
        for channels in (features_in, features, features):
            head += [nn.ConvTranspose2d(channels, features, 4, 2, 1, bias=False), nn.BatchNorm2d(features), nn.ReLU()]
        self.deconv_layers = nn.Sequential(*head)
        self.final_layer = nn.Conv2d(features, num_joints, 1) if num_joints is not None else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.final_layer(self.deconv_layers(x))


class KMM(nn.Module):
    """(features of t, features of t+1, heatmaps of t) -> (heatmaps of t+1 [B, J, h, w], correlation W_r [B, J, J]), Eq. 6-10."""

    def __init__(self, num_joints: int, features: int):
        super().__init__()
        self.conv_q = nn.Conv2d(features, num_joints, 1)
        self.conv_k = nn.Conv2d(features, num_joints, 1)

    def forward(self, features: Tensor, next_features: Tensor, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        q = torch.relu(self.conv_q(features)).flatten(2)
        k = torch.relu(self.conv_k(next_features)).flatten(2)
        correlation = torch.softmax(k @ q.mT / q.shape[-1] ** 0.5, dim=-1)
        return (correlation @ heatmaps.flatten(2)).view_as(heatmaps), correlation


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
        self.feature_encoder = PoseResNet(config.encoder_depth, None, config.width, features)
        self.from_features = not config.initializer_depth
        self.pose_initializer = (
            nn.Conv2d(features, joints, 1)
            if self.from_features
            else PoseResNet(config.initializer_depth, joints, config.width, features)
        )
        self.kmm = KMM(joints, features)
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
