"""HRNet (Sun et al., CVPR 2019), with the keys of the released `pose_hrnet` checkpoints."""

import torch
from torch import Tensor, nn

from kimnet_jax.interop.torch_models.pose_resnet import BasicBlock, Bottleneck
from kimnet_jax.models.hrnet import HRNetConfig


def _conv_norm(features_in: int, features_out: int, kernel: int, stride: int, *more: nn.Module) -> nn.Sequential:
    convolution = nn.Conv2d(features_in, features_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(features_out), *more)


class HighResolutionModule(nn.Module):
    """A list with the features of every branch -> the same for every output."""

    def __init__(self, config: HRNetConfig, branches: int, outputs: int):
        super().__init__()
        widths = [config.width << branch for branch in range(branches)]
        self.branches = nn.ModuleList(
            [nn.Sequential(*(BasicBlock(width, width, 1) for _ in range(config.blocks))) for width in widths]
        )

        def fuse(i: int, j: int) -> nn.Module:
            if j == i:
                return nn.Identity()
            if j > i:
                return _conv_norm(widths[j], widths[i], 1, 1, nn.Upsample(scale_factor=2 ** (j - i), mode='nearest'))
            way = [_conv_norm(widths[j], widths[j], 3, 2, nn.ReLU()) for _ in range(i - j - 1)]
            return nn.Sequential(*way, _conv_norm(widths[j], widths[i], 3, 2))

        self.fuse_layers = nn.ModuleList([nn.ModuleList([fuse(i, j) for j in range(branches)]) for i in range(outputs)])

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        xs = [branch(x) for branch, x in zip(self.branches, xs, strict=True)]
        outputs = []
        for row in self.fuse_layers:
            assert isinstance(row, nn.ModuleList)
            total = row[0](xs[0])
            for layer, x in zip(row[1:], xs[1:], strict=True):
                total = total + layer(x)
            outputs.append(torch.relu(total))
        return outputs


class HRNet(nn.Module):
    """[B, 3, H, W] -> heatmaps [B, J, H/4, W/4], or features [B, C, H/4, W/4] where `num_joints` is None."""

    def __init__(self, config: HRNetConfig):
        super().__init__()
        stem, width = config.stem, config.width
        self.conv1 = nn.Conv2d(3, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, stem, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem)
        first = 4 * stem
        self.layer1 = nn.Sequential(*(Bottleneck(first if number else stem, stem, 1) for number in range(config.blocks)))
        self.transition1 = nn.ModuleList(
            [_conv_norm(first, width, 3, 1, nn.ReLU()), nn.Sequential(_conv_norm(first, 2 * width, 3, 2, nn.ReLU()))]
        )
        self.transition2 = _transition(2, width)
        self.transition3 = _transition(3, width)
        self.stage2, self.stage3, self.stage4 = (
            nn.ModuleList([HighResolutionModule(config, branches, branches) for _ in range(count - 1)])
            for branches, count in zip((2, 3, 4), config.modules, strict=True)
        )
        for stage, branches, outputs in ((self.stage2, 2, 2), (self.stage3, 3, 3), (self.stage4, 4, 1)):
            stage.append(HighResolutionModule(config, branches, outputs))
        self.final_layer = nn.Identity() if config.num_joints is None else nn.Conv2d(width, config.num_joints, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        xs = [transition(x) for transition in self.transition1]
        for stage, transition in ((self.stage2, self.transition2), (self.stage3, self.transition3), (self.stage4, None)):
            for module in stage:
                xs = module(xs)
            if transition is not None:
                xs = [*xs, transition[-1](xs[-1])]
        return self.final_layer(xs[0])


def _transition(branches: int, width: int) -> nn.ModuleList:
    """The branches there are stay as they are; a new one comes from the last of them."""
    new = _conv_norm(width << (branches - 1), width << branches, 3, 2, nn.ReLU())
    return nn.ModuleList([*(nn.Identity() for _ in range(branches)), nn.Sequential(new)])
