"""Stacked hourglass (Newell et al., ECCV 2016), with the keys of the two releases: bearpaw's and princeton-vl's."""

import abc

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d

from kimnet_jax.models.hourglass import LEVELS, HourglassConfig


def Hourglass(config: HourglassConfig) -> 'StackedHourglass':  # noqa: N802 - called as the classes of the other twins are
    """The network of `config.variant`."""
    return (Bearpaw if config.variant == 'bearpaw' else Princeton)(config)


class StackedHourglass(nn.Module, abc.ABC):
    """[B, 3, H, W] -> heatmaps [B, J, H/4, W/4] of the last stack, or features [B, D, H/4, W/4] where `num_joints` is None."""

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs(images)[-1]

    @abc.abstractmethod
    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """What every stack gives."""


class Bottleneck(nn.Module):
    """Bearpaw's residual block."""

    def __init__(self, features_in: int, features_out: int):
        super().__init__()
        width = features_out // 2
        self.bn1 = nn.BatchNorm2d(features_in)
        self.conv1 = nn.Conv2d(features_in, width, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, features_out, 1)
        self.downsample = None if features_in == features_out else nn.Sequential(nn.Conv2d(features_in, features_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        y = self.conv3(torch.relu(self.bn3(y)))
        return y + (x if self.downsample is None else self.downsample(x))


def _bottlenecks(config: HourglassConfig) -> nn.Sequential:
    return nn.Sequential(*(Bottleneck(config.features, config.features) for _ in range(config.num_blocks)))


class BearpawHourglass(nn.Module):
    """Levels are numbered from the lowest resolution; that one has a fourth entry, its middle."""

    def __init__(self, config: HourglassConfig):
        super().__init__()
        self.hg = nn.ModuleList(
            [nn.ModuleList([_bottlenecks(config) for _ in range(3 if level else 4)]) for level in range(LEVELS)]
        )

    def forward(self, x: Tensor, level: int = LEVELS - 1) -> Tensor:
        parts = self.hg[level]
        assert isinstance(parts, nn.ModuleList)
        low = parts[1](max_pool2d(x, 2))
        low = self(low, level - 1) if level else parts[3](low)
        return parts[0](x) + interpolate(parts[2](low), scale_factor=2, mode='nearest')


class Bearpaw(StackedHourglass):
    """bearpaw/pytorch-pose, `pose/models/hourglass.py`."""

    def __init__(self, config: HourglassConfig):
        super().__init__()
        d, joints, stacks = config.features, config.num_joints, config.num_stacks
        self.conv1 = nn.Conv2d(3, d // 4, 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(d // 4)
        self.layer1 = nn.Sequential(Bottleneck(d // 4, d // 2))
        self.layer2 = nn.Sequential(Bottleneck(d // 2, d))
        self.layer3 = nn.Sequential(Bottleneck(d, d))
        self.hg = nn.ModuleList([BearpawHourglass(config) for _ in range(stacks)])
        self.res = nn.ModuleList([_bottlenecks(config) for _ in range(stacks)])
        self.fc = nn.ModuleList([nn.Sequential(nn.Conv2d(d, d, 1), nn.BatchNorm2d(d), nn.ReLU()) for _ in range(stacks)])
        self.fc_ = nn.ModuleList([nn.Conv2d(d, d, 1) for _ in range(stacks - 1)])
        self.score = None if joints is None else nn.ModuleList([nn.Conv2d(d, joints, 1) for _ in range(stacks)])
        self.score_ = None if joints is None else nn.ModuleList([nn.Conv2d(joints, d, 1) for _ in range(stacks - 1)])

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.layer1(torch.relu(self.bn1(self.conv1(images))))
        x = self.layer3(self.layer2(max_pool2d(x, 2)))
        outputs = []
        for stack, hourglass in enumerate(self.hg):
            features = self.fc[stack](self.res[stack](hourglass(x)))
            outputs.append(features if self.score is None else self.score[stack](features))
            if stack < len(self.fc_):
                x = x + self.fc_[stack](features)
                if self.score_ is not None:
                    x = x + self.score_[stack](outputs[-1])
        return tuple(outputs)


class Conv(nn.Module):
    """Princeton's convolution: with bias, and with BatchNorm and ReLU where `norm`."""

    def __init__(self, features_in: int, features_out: int, kernel: int = 1, stride: int = 1, norm: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(features_in, features_out, kernel, stride, kernel // 2)
        self.bn = nn.BatchNorm2d(features_out) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if self.bn is None else torch.relu(self.bn(x))


class Residual(nn.Module):
    """Princeton's residual block; `skip_layer` is always there and used only where the channels change."""

    def __init__(self, features_in: int, features_out: int):
        super().__init__()
        width = features_out // 2
        self.bn1 = nn.BatchNorm2d(features_in)
        self.conv1 = Conv(features_in, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = Conv(width, width, 3)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = Conv(width, features_out)
        self.skip_layer = Conv(features_in, features_out)
        self.need_skip = features_in != features_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.bn1(x)))
        y = self.conv2(torch.relu(self.bn2(y)))
        y = self.conv3(torch.relu(self.bn3(y)))
        return y + (self.skip_layer(x) if self.need_skip else x)


class PrincetonHourglass(nn.Module):
    def __init__(self, level: int, features: int):
        super().__init__()
        self.up1 = Residual(features, features)
        self.low1 = Residual(features, features)
        self.low2 = PrincetonHourglass(level - 1, features) if level > 1 else Residual(features, features)
        self.low3 = Residual(features, features)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low3(self.low2(self.low1(max_pool2d(x, 2))))
        return self.up1(x) + interpolate(low, scale_factor=2, mode='nearest')


class Merge(nn.Module):
    """A 1x1 convolution on the way into the next stack."""

    def __init__(self, features_in: int, features_out: int):
        super().__init__()
        self.conv = Conv(features_in, features_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Princeton(StackedHourglass):
    """princeton-vl/pytorch_stacked_hourglass, `models/posenet.py`; images as everywhere here, where its own are channels last."""

    def __init__(self, config: HourglassConfig):
        super().__init__()
        d, joints, stacks = config.features, config.num_joints, config.num_stacks
        self.pre = nn.Sequential(
            Conv(3, d // 4, 7, 2, norm=True),
            Residual(d // 4, d // 2),
            nn.MaxPool2d(2, 2),
            Residual(d // 2, d // 2),
            Residual(d // 2, d),
        )
        self.hgs = nn.ModuleList([nn.Sequential(PrincetonHourglass(LEVELS, d)) for _ in range(stacks)])
        self.features = nn.ModuleList([nn.Sequential(Residual(d, d), Conv(d, d, norm=True)) for _ in range(stacks)])
        self.merge_features = nn.ModuleList([Merge(d, d) for _ in range(stacks - 1)])
        self.outs = None if joints is None else nn.ModuleList([Conv(d, joints) for _ in range(stacks)])
        self.merge_preds = None if joints is None else nn.ModuleList([Merge(joints, d) for _ in range(stacks - 1)])

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.pre(images)
        outputs = []
        for stack, hourglass in enumerate(self.hgs):
            features = self.features[stack](hourglass(x))
            outputs.append(features if self.outs is None else self.outs[stack](features))
            if stack < len(self.merge_features):
                merged = self.merge_features[stack](features)
                x = x + (merged if self.merge_preds is None else self.merge_preds[stack](outputs[-1]) + merged)
        return tuple(outputs)
