"""Stacked hourglass (Newell et al., ECCV 2016) as its two PyTorch releases have it, bearpaw's and princeton-vl's.

They differ in the stem's channels and in the names of their entries; both tables are in `interop.keymaps`.
"""

import dataclasses
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.models.layers import CHANNELS, JOINTS, BatchNorm, max_pool_2x2, recomputed, torch_conv, upsample_nearest

Array = jax.Array
HourglassVariant = Literal['bearpaw', 'princeton']
LEVELS = 4  # poolings inside an hourglass


@dataclasses.dataclass(frozen=True)
class HourglassConfig:
    """Attributes:
    num_stacks: hourglasses in a row; 1, 2, 4 or 8 in the releases.
    num_joints: J, channels of every stack's heatmaps; None leaves them out, and with them their way into the next stack.
    num_blocks: residual blocks in a row at every place of an hourglass; princeton has 1.
    features: D, channels of the hourglasses and of the features, a multiple of 4; 256 in the releases.
    variant: between the stem's D/2 and the hourglasses' D channels, `bearpaw` has two blocks of D, `princeton` (and the paper)
        one of D/2 and one of D.
    remat: recompute the residual blocks in the backward pass instead of keeping their activations.
    """

    num_stacks: int = 8
    num_joints: int | None = None
    num_blocks: int = 1
    features: int = 256
    variant: HourglassVariant = 'bearpaw'
    remat: bool = False

    def __post_init__(self) -> None:
        check_ranges('model', self, num_joints=JOINTS, features=CHANNELS, num_stacks=(1, 64), num_blocks=(1, 64))


TINY = HourglassConfig(2, features=16)  # for tests


class Residual(nnx.Module):
    """BatchNorm, ReLU and convolution, three times (1x1 to half the output's channels, 3x3, 1x1), and a shortcut around them."""

    def __init__(self, features_in: int, features_out: int, dtype: Dtype, rngs: nnx.Rngs):
        width = features_out // 2
        self.bn1 = BatchNorm(features_in, dtype=dtype, rngs=rngs)
        self.conv1 = torch_conv(features_in, width, 1, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv2 = torch_conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(width, dtype=dtype, rngs=rngs)
        self.conv3 = torch_conv(width, features_out, 1, dtype=dtype, rngs=rngs)
        self.shortcut = None if features_in == features_out else torch_conv(features_in, features_out, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        y = self.conv1(nnx.relu(self.bn1(x)))
        y = self.conv2(nnx.relu(self.bn2(y)))
        y = self.conv3(nnx.relu(self.bn3(y)))
        return y + (x if self.shortcut is None else self.shortcut(x))


class Residuals(nnx.Module):
    """Residual blocks of constant width in a row."""

    def __init__(self, config: HourglassConfig, dtype: Dtype, rngs: nnx.Rngs):
        self.blocks = nnx.List([Residual(config.features, config.features, dtype, rngs) for _ in range(config.num_blocks)])
        self.remat = config.remat

    def __call__(self, x: Array) -> Array:
        for block in self.blocks:
            x = recomputed(block, x) if self.remat else block(x)
        return x


class Level(nnx.Module):
    """One level of an hourglass and, in `low2`, all below it: [B, h, w, D] -> the same, h and w multiples of 2**level."""

    def __init__(self, level: int, config: HourglassConfig, dtype: Dtype, rngs: nnx.Rngs):
        self.up1 = Residuals(config, dtype, rngs)
        self.low1 = Residuals(config, dtype, rngs)
        self.low2 = Level(level - 1, config, dtype, rngs) if level > 1 else Residuals(config, dtype, rngs)
        self.low3 = Residuals(config, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        low = self.low3(self.low2(self.low1(max_pool_2x2(x))))
        return self.up1(x) + upsample_nearest(low, 2)


class Stack(nnx.Module):
    """An hourglass, its features and heatmaps, and what of them (all but the last stack) goes into the next one."""

    def __init__(self, config: HourglassConfig, *, last: bool, dtype: Dtype, rngs: nnx.Rngs):
        features, joints = config.features, config.num_joints
        self.hourglass = Level(LEVELS, config, dtype, rngs)
        self.residuals = Residuals(config, dtype, rngs)
        self.conv = torch_conv(features, features, 1, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(features, dtype=dtype, rngs=rngs)
        self.score = None if joints is None else torch_conv(features, joints, 1, dtype=dtype, rngs=rngs)
        self.merge_features = None if last else torch_conv(features, features, 1, dtype=dtype, rngs=rngs)
        self.merge_score = None if last or joints is None else torch_conv(joints, features, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[B, h, w, D] -> (heatmaps [B, h, w, J], or features [B, h, w, D] where there are no joints; the next stack's input)."""
        features = nnx.relu(self.bn(self.conv(self.residuals(self.hourglass(x)))))
        output = features if self.score is None else self.score(features)
        if self.merge_features is not None:
            x = x + self.merge_features(features)
        if self.merge_score is not None:
            x = x + self.merge_score(output)
        return output, x


class Hourglass(nnx.Module):
    """Images to heatmaps (or features) at a quarter of their resolution."""

    def __init__(self, config: HourglassConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """Initial values are PyTorch's own, as in both releases. Raises ValueError on a bad field."""
        if config.variant not in get_args(HourglassVariant):
            raise ValueError(f'Hourglass of variant {config.variant!r}: choose one of {", ".join(get_args(HourglassVariant))}')
        if config.features % 4:
            raise ValueError(f'Hourglass of {config.features} features: choose a multiple of 4')
        if config.num_stacks < 1:
            raise ValueError(f'Hourglass of {config.num_stacks} stacks: choose one or more')
        d = config.features
        between = d if config.variant == 'bearpaw' else d // 2
        self.conv1 = torch_conv(3, d // 4, 7, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(d // 4, dtype=dtype, rngs=rngs)
        self.layer1 = Residual(d // 4, d // 2, dtype, rngs)
        self.layer2 = Residual(d // 2, between, dtype, rngs)
        self.layer3 = Residual(between, d, dtype, rngs)
        numbers = range(1, config.num_stacks + 1)
        self.stacks = nnx.List([Stack(config, last=n == config.num_stacks, dtype=dtype, rngs=rngs) for n in numbers])

    def __call__(self, images: Array) -> Array:
        """[B, H, W, 3] images, H and W multiples of 64 -> [B, H/4, W/4, J] heatmaps of the last stack, or its D features after
        ReLU. Raises ValueError on images of another size."""
        return self.outputs(images)[-1]

    def outputs(self, images: Array) -> tuple[Array, ...]:
        """What every stack gives, in order: for intermediate supervision. The releases sum (bearpaw) or average the losses."""
        if images.shape[1] % 64 or images.shape[2] % 64:
            raise ValueError(f'images of {images.shape[1]}x{images.shape[2]}: an hourglass takes multiples of 64')
        x = self.layer1(nnx.relu(self.bn1(self.conv1(images))))
        x = self.layer3(self.layer2(max_pool_2x2(x)))
        outputs = []
        for stack in self.stacks:
            output, x = stack(x)
            outputs.append(output)
        return tuple(outputs)
