"""A small network with one of every operation that a port gets wrong, in PyTorch and in ours, where each can be got wrong."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch.nn import functional

from kimnet_jax.interop.networks import Network
from kimnet_jax.interop.translation import BATCH_NORM, CONV, CONV_TRANSPOSE, LAYER_NORM, LINEAR, Rule
from kimnet_jax.models import layers

WIDTH = 6


@dataclasses.dataclass(frozen=True)
class ZooConfig:
    """What ours does; the defaults are right."""

    conv_padding: Any = ((1, 1), (1, 1))
    norm: Callable[..., nnx.Module] = layers.BatchNorm
    pool: Callable[[jax.Array], jax.Array] = layers.max_pool
    upsample: Callable[..., nnx.Module] = layers.ConvTranspose
    approximate: bool = False
    antialias: bool = False
    method: str = 'linear'
    epsilon: float = 1e-5
    extra: Callable[[jax.Array], jax.Array] = lambda x: x


class TwinOfZoo(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, WIDTH, 3, 2, 1)
        self.bn = torch.nn.BatchNorm2d(WIDTH)
        self.up = torch.nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1, bias=False)
        self.mix = torch.nn.Conv2d(WIDTH, WIDTH, 1)
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, 4)

    def forward(self, images):
        x = functional.max_pool2d(self.bn(self.stem(images)), 3, 2, 1)  # of either sign
        x = self.mix(functional.gelu(self.up(x)))
        x = functional.interpolate(x, scale_factor=0.5, mode='bilinear', align_corners=False)
        return self.head(self.norm(x.flatten(2).mT))


class Zoo(nnx.Module):
    """[B, H, W, 3] -> tokens [B, H W / 16, 4]."""

    def __init__(self, config, *, rngs):
        self.config = config
        self.stem = nnx.Conv(3, WIDTH, (3, 3), (2, 2), padding=config.conv_padding, rngs=rngs)
        self.bn = config.norm(WIDTH, rngs=rngs)
        self.up = config.upsample(WIDTH, WIDTH, rngs=rngs)
        self.mix = layers.Conv(WIDTH, WIDTH, 1, use_bias=True, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, epsilon=config.epsilon, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 4, rngs=rngs)

    def __call__(self, images):
        x = self.config.extra(self.config.pool(self.bn(self.stem(images))))
        x = self.mix(nnx.gelu(self.up(x), approximate=self.config.approximate))
        b, h, w, c = x.shape
        x = jax.image.resize(x, (b, h // 2, w // 2, c), self.config.method, antialias=self.config.antialias)
        return self.head(self.norm(x.reshape(b, -1, c)))


NETWORK = Network(
    module=Zoo,
    twin='TwinOfZoo',
    table=(
        Rule('stem|mix', r'\g<0>', CONV),
        Rule('bn', 'bn', BATCH_NORM),
        Rule('up', 'up', CONV_TRANSPOSE),
        Rule('norm', 'norm', LAYER_NORM),
        Rule('head', 'head', LINEAR),
    ),
    read_config=lambda shapes: ZooConfig(),
    presets={'tiny': ZooConfig()},
    inputs=lambda config: ((2, 16, 24, 3),),
)


class FlippedConvTranspose(layers.ConvTranspose):
    def __call__(self, x):
        kernel = self.kernel[...][::-1, ::-1]
        return layers._conv_transpose(x, kernel)


class ShiftedConvTranspose(layers.ConvTranspose):
    """The crop of the whole output begins a pixel early."""

    def __call__(self, x):
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        dilated = {'padding': ((3, 1), (3, 1)), 'lhs_dilation': (2, 2), 'dimension_numbers': dimensions}
        return jax.lax.conv_general_dilated(x, self.kernel[...][::-1, ::-1], (1, 1), **dilated)


class PlainBatchNorm(nnx.BatchNorm):
    """Flax's running variance is biased."""

    def __init__(self, features, *, momentum=0.9, epsilon=1e-5, rngs):
        super().__init__(features, momentum=momentum, epsilon=epsilon, use_fast_variance=False, rngs=rngs)


def zero_padded_pool(x):
    return nnx.max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2))


def same_pool(x):
    return nnx.max_pool(x, (3, 3), (2, 2), 'SAME')
