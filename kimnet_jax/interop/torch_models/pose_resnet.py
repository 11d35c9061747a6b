"""PoseResNet of SimpleBaseline (Xiao et al., ECCV 2018), with the keys of its released checkpoints."""

import torch
from torch import Tensor, nn

from kimnet_jax.models.pose_resnet import PoseResNetConfig

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

    def __init__(self, config: PoseResNetConfig):
        super().__init__()
        width, features, num_joints = config.width, config.features, config.num_joints
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if config.depth < 50 else Bottleneck
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        features_in, stages = width, []
        for index, count in enumerate(_BLOCKS[config.depth]):
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
