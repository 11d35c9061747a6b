"""PoseResNet: a ResNet and three transposed convolutions (Xiao et al., Simple Baselines, ECCV 2018).

Attribute names are those of the released PyTorch checkpoints.
"""

import dataclasses
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.models.layers import (
    CHANNELS,
    JOINTS,
    BatchNorm,
    Conv,
    ConvTranspose,
    kaiming_normal,
    max_pool,
    near_zero,
    recomputed,
)

Array = jax.Array
Depth: TypeAlias = Literal[18, 34, 50, 101, 152]

BLOCKS: dict[Depth, tuple[int, ...]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}


@dataclasses.dataclass(frozen=True)
class PoseResNetConfig:
    """Attributes:
    depth: 18, 34, 50, 101 or 152.
    num_joints: output channels of the last 1x1 convolution; None leaves it out (KIMNet's feature encoder).
    width: channels of the stem and of the first stage; 64 is the ResNet of the papers.
    features: D, channels of the transposed convolutions.
    remat: recompute the residual blocks in the backward pass instead of keeping their activations.
    """

    depth: Depth = 50
    num_joints: int | None = None
    width: int = 64
    features: int = 256
    remat: bool = False

    def __post_init__(self) -> None:
        check_ranges('model', self, num_joints=JOINTS, width=CHANNELS, features=CHANNELS)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and 34)."""

    expansion = 1

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        dtype: Dtype,
        rngs: nnx.Rngs,
        kernel_init: nnx.Initializer = kaiming_normal,
    ):
        self.conv1 = Conv(features_in, width, 3, stride=stride, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(width, width, 3, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.downsample = _downsample(features_in, width, stride, kernel_init, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (which has the stride), 1x1 to four times the width, and a shortcut (ResNet-50, 101 and 152)."""

    expansion = 4

    def __init__(
        self,
        features_in: int,
        width: int,
        stride: int,
        dtype: Dtype,
        rngs: nnx.Rngs,
        kernel_init: nnx.Initializer = kaiming_normal,
    ):
        self.conv1 = Conv(features_in, width, 1, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(width, width, 3, stride=stride, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv3 = Conv(width, 4 * width, 1, kernel_init=kernel_init, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(4 * width, dtype=dtype, rngs=rngs)
        self.downsample = _downsample(features_in, 4 * width, stride, kernel_init, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return nnx.relu(y + (x if self.downsample is None else self.downsample(x)))


def _downsample(
    features_in: int, features_out: int, stride: int, kernel_init: nnx.Initializer, dtype: Dtype, rngs: nnx.Rngs
) -> nnx.Sequential | None:
    if stride == 1 and features_in == features_out:
        return None
    return nnx.Sequential(
        Conv(features_in, features_out, 1, stride=stride, kernel_init=kernel_init, dtype=dtype, rngs=rngs),
        BatchNorm(features_out, dtype=dtype, rngs=rngs),
    )


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    count: int,
    features_in: int,
    width: int,
    stride: int,
    dtype: Dtype,
    rngs: nnx.Rngs,
) -> nnx.List:
    blocks = [block(features_in, width, stride, dtype, rngs)]
    blocks += [block(width * block.expansion, width, 1, dtype, rngs) for _ in range(count - 1)]
    return nnx.List(blocks)


class Upsample(nnx.Module):
    """Transposed convolution, BatchNorm, ReLU: twice the resolution."""

    def __init__(self, features_in: int, features_out: int, dtype: Dtype, rngs: nnx.Rngs):
        self.conv = ConvTranspose(features_in, features_out, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(features_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return nnx.relu(self.bn(self.conv(x)))


class PoseResNet(nnx.Module):
    """Images to heatmaps (or features) at a quarter of their resolution."""

    def __init__(self, config: PoseResNetConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """Raises ValueError on a depth that is none of `BLOCKS`."""
        if config.depth not in BLOCKS:
            raise ValueError(f'PoseResNet of depth {config.depth}: choose one of {", ".join(map(str, BLOCKS))}')
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if config.depth < 50 else Bottleneck
        counts, width, expansion = BLOCKS[config.depth], config.width, block.expansion
        self.remat = config.remat
        self.conv1 = Conv(3, width, 7, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.layer1 = _stage(block, counts[0], width, width, 1, dtype, rngs)
        self.layer2 = _stage(block, counts[1], width * expansion, 2 * width, 2, dtype, rngs)
        self.layer3 = _stage(block, counts[2], 2 * width * expansion, 4 * width, 2, dtype, rngs)
        self.layer4 = _stage(block, counts[3], 4 * width * expansion, 8 * width, 2, dtype, rngs)
        widths = (8 * width * expansion, config.features, config.features)
        self.deconv_layers = nnx.List([Upsample(features_in, config.features, dtype, rngs) for features_in in widths])
        self.final_layer = (
            Conv(config.features, config.num_joints, 1, use_bias=True, kernel_init=near_zero, dtype=dtype, rngs=rngs)
            if config.num_joints is not None
            else None
        )

    def outputs(self, images: Array) -> tuple[Array]:
        """All heatmaps that are trained: those of `__call__`."""
        return (self(images),)

    def __call__(self, images: Array) -> Array:
        """[B, H, W, 3] normalised images, H and W multiples of 32 -> [B, H/4, W/4, J] heatmaps, or D features after ReLU."""
        x = max_pool(nnx.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in stage:
                x = recomputed(block, x) if self.remat else block(x)
        for upsample in self.deconv_layers:
            x = upsample(x)
        return x if self.final_layer is None else self.final_layer(x)
