"""HRNet for pose: branches of four resolutions that exchange features (Sun et al., CVPR 2019, `pose_hrnet`).

Attribute names are those of the released PyTorch checkpoints.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.core.config import check_ranges
from kimnet_jax.models.layers import CHANNELS, JOINTS, BatchNorm, Conv, near_zero, recomputed, upsample_nearest
from kimnet_jax.models.pose_resnet import BasicBlock, Bottleneck

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class HRNetConfig:
    """Attributes:
    width: C, channels of the branch of the highest resolution; every further branch has twice as many. 32 or 48 in the release.
    num_joints: output channels of the last 1x1 convolution; None leaves it out.
    stem: channels of the two first convolutions; 64 in the release.
    blocks: residual blocks of the first stage and of each branch of a module; 4 in the release.
    modules: number of modules with two, three and four branches.
    remat: recompute the residual blocks in the backward pass instead of keeping their activations.
    """

    width: int = 32
    num_joints: int | None = None
    stem: int = 64
    blocks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    remat: bool = False

    def __post_init__(self) -> None:
        check_ranges('model', self, num_joints=JOINTS, width=CHANNELS, stem=CHANNELS, blocks=(1, 64), modules=(1, 64))

    @property
    def features(self) -> int:
        """Channels of the features."""
        return self.width


TINY = HRNetConfig(4, stem=8, blocks=1, modules=(1, 1, 1))  # for tests


class ConvNorm(nnx.Module):
    """Convolution without bias, and BatchNorm."""

    def __init__(self, features_in: int, features_out: int, kernel: int, stride: int, dtype: Dtype, rngs: nnx.Rngs):
        self.conv = Conv(features_in, features_out, kernel, stride=stride, kernel_init=near_zero, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(features_out, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.bn(self.conv(x))


class HighResolutionModule(nnx.Module):
    """Residual blocks on every branch, then each branch becomes the sum of all, brought to its resolution and channels.

    `fuse_layers[i][j]` leads from branch j to branch i: up by a 1x1 convolution, down by one strided convolution an octave.
    """

    def __init__(self, config: HRNetConfig, branches: int, outputs: int, dtype: Dtype, rngs: nnx.Rngs):
        widths = [config.width << branch for branch in range(branches)]
        self.remat = config.remat
        self.branches = nnx.List(
            [nnx.List([BasicBlock(width, width, 1, dtype, rngs, near_zero) for _ in range(config.blocks)]) for width in widths]
        )

        def fuse(i: int, j: int) -> nnx.List:
            if j > i:
                return nnx.List([ConvNorm(widths[j], widths[i], 1, 1, dtype, rngs)])
            targets = [widths[j]] * (i - j - 1) + [widths[i]]  # only the last one of the way down changes the width
            return nnx.List([ConvNorm(widths[j], target, 3, 2, dtype, rngs) for target in targets[: i - j]])

        self.fuse_layers = nnx.List([nnx.List([fuse(i, j) for j in range(branches)]) for i in range(outputs)])

    def __call__(self, xs: list[Array]) -> list[Array]:
        """[B, h / 2**j, w / 2**j, C * 2**j] for each branch j -> the same for each output."""
        xs = [_run(blocks, x, self.remat) for blocks, x in zip(self.branches, xs, strict=True)]
        outputs = []
        for i, row in enumerate(self.fuse_layers):
            terms = []
            for j, (layers, x) in enumerate(zip(row, xs, strict=True)):
                for number, layer in enumerate(layers):
                    x = layer(nnx.relu(x) if number else x)
                terms.append(upsample_nearest(x, 2 ** (j - i)) if j > i else x)
            outputs.append(nnx.relu(sum(terms[1:], terms[0])))
        return outputs


class HRNet(nnx.Module):
    """Images to heatmaps (or features) at a quarter of their resolution."""

    def __init__(self, config: HRNetConfig, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        stem, width = config.stem, config.width
        self.remat = config.remat
        self.conv1 = Conv(3, stem, 3, stride=2, kernel_init=near_zero, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(stem, dtype=dtype, rngs=rngs)
        self.conv2 = Conv(stem, stem, 3, stride=2, kernel_init=near_zero, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(stem, dtype=dtype, rngs=rngs)
        first = 4 * stem
        inputs = [stem] + [first] * (config.blocks - 1)
        self.layer1 = nnx.List([Bottleneck(features_in, stem, 1, dtype, rngs, near_zero) for features_in in inputs])
        # a transition brings in one branch more, from the lowest resolution there is
        self.transition1 = nnx.List([ConvNorm(first, width << i, 3, 1 + i, dtype, rngs) for i in range(2)])
        self.transition2 = ConvNorm(2 * width, 4 * width, 3, 2, dtype, rngs)
        self.transition3 = ConvNorm(4 * width, 8 * width, 3, 2, dtype, rngs)

        def stage(branches: int, count: int, last_outputs: int) -> nnx.List:
            outputs = [branches] * (count - 1) + [last_outputs]
            return nnx.List([HighResolutionModule(config, branches, number, dtype, rngs) for number in outputs])

        self.stage2 = stage(2, config.modules[0], 2)
        self.stage3 = stage(3, config.modules[1], 3)
        self.stage4 = stage(4, config.modules[2], 1)
        self.final_layer = (
            Conv(width, config.num_joints, 1, use_bias=True, kernel_init=near_zero, dtype=dtype, rngs=rngs)
            if config.num_joints is not None
            else None
        )

    def outputs(self, images: Array) -> tuple[Array]:
        """All heatmaps that are trained: those of `__call__`."""
        return (self(images),)

    def __call__(self, images: Array) -> Array:
        """[B, H, W, 3] normalised images, H and W multiples of 32 -> [B, H/4, W/4, J] heatmaps, or, as features, the C channels
        after ReLU of the branch of that resolution. Raises ValueError on images of another size."""
        if images.shape[1] % 32 or images.shape[2] % 32:
            raise ValueError(f'images of {images.shape[1]}x{images.shape[2]}: HRNet takes multiples of 32')
        x = nnx.relu(self.bn1(self.conv1(images)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        x = _run(self.layer1, x, self.remat)
        xs = [nnx.relu(transition(x)) for transition in self.transition1]
        for stage, transition in ((self.stage2, self.transition2), (self.stage3, self.transition3), (self.stage4, None)):
            for module in stage:
                xs = module(xs)
            if transition is not None:
                xs = [*xs, nnx.relu(transition(xs[-1]))]
        return xs[0] if self.final_layer is None else self.final_layer(xs[0])


def _run(blocks: nnx.List, x: Array, remat: bool) -> Array:
    for block in blocks:
        x = recomputed(block, x) if remat else block(x)
    return x
