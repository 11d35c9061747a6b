"""Relation decoder: the spatial correlation of the joints of one frame (RPSTN's joint relation extractor, KIMNet Eq. 5)."""

from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from kimnet_jax.models.layers import BatchNorm, Conv, Statistics

Array = jax.Array
DecoderVariant = Literal['intended', 'released', 'released_2021']
FirstStatistics = Literal['own', 'shared']


class RelationDecoder(nnx.Module):
    """Mixes the heatmaps of a frame by their similarity, adds them to the input, normalises. Computes in float32.

    `intended`: softmax over the last axis, so that every output joint is a convex combination of all joints.
    `released`: RPSTN's last revision, for its weights: softmax over the first joint axis, and a reshape that exchanges joints and
    pixels. `released_2021`: its first revision: softmax over the last axis and the same reshape.

    The heatmaps of a chain's first frame come from another network than the later ones, and may be a hundred times larger or
    smaller. Batch statistics take care of that; running ones, shared by both, fit neither, so that in eval mode the first frame
    comes out too faint. With `first_statistics='own'` both BatchNorms keep running statistics of the first frames apart (and
    share their weights); `shared` is the paper's text and the releases.
    """

    def __init__(
        self,
        num_joints: int,
        *,
        variant: DecoderVariant = 'intended',
        output_scale: float = 1.0,
        first_statistics: FirstStatistics = 'shared',
        rngs: nnx.Rngs,
    ):
        """`output_scale`: initial scale of the last BatchNorm. Raises ValueError on an unknown variant."""
        if first_statistics not in get_args(FirstStatistics):
            raise ValueError(f"first_statistics {first_statistics!r}: choose 'own' or 'shared'")
        if variant not in ('intended', 'released', 'released_2021'):
            raise ValueError(f"relation decoder variant {variant!r}: choose 'intended', 'released' or 'released_2021'")
        self.variant = variant
        self.conv_g = Conv(num_joints, num_joints, 1, use_bias=True, rngs=rngs)
        self.conv_w = Conv(num_joints, num_joints, 1, use_bias=True, rngs=rngs)
        self.bn_w = BatchNorm(num_joints, scale_init=0.0, rngs=rngs)  # the module starts as the identity
        self.bn_u = BatchNorm(num_joints, scale_init=output_scale, rngs=rngs)
        own = first_statistics == 'own'
        self.first_bn_w = Statistics(num_joints) if own else None
        self.first_bn_u = Statistics(num_joints) if own else None

    def __call__(self, heatmaps: Array, *, first: bool = False) -> Array:
        """[B, h, w, J] -> float32 [B, h, w, J]. `first`: these are of the first frame of a chain."""
        return _normalised(self.relate(heatmaps, first=first), self.bn_u, self.first_bn_u if first else None)

    def relate(self, heatmaps: Array, *, first: bool = False) -> Array:
        """The joint relation extractor alone, before the last BatchNorm: [B, h, w, J] -> float32 [B, h, w, J]."""
        x = heatmaps.astype(jnp.float32)
        b, h, w, joints = x.shape
        vectors = x.reshape(b, h * w, joints)
        attention = jax.nn.softmax(jnp.einsum('bni,bnj->bij', vectors, vectors), axis=1 if self.variant == 'released' else -1)
        g = self.conv_g(x).reshape(b, h * w, joints)
        y = jnp.einsum('bij,bnj->bni', attention, g)
        # the release reads a [pixels, joints] buffer as [joints, rows, columns]
        y = y.reshape(x.shape) if self.variant == 'intended' else y.reshape(b, joints, h, w).transpose(0, 2, 3, 1)
        return x + _normalised(self.conv_w(y), self.bn_w, self.first_bn_w if first else None)


def _normalised(x: Array, norm: BatchNorm, statistics: Statistics | None) -> Array:
    """`norm(x)`, by other statistics where such are given."""
    if statistics is None:
        return norm(x)
    scale, bias = cast(nnx.Param, norm.scale), cast(nnx.Param, norm.bias)
    return statistics(x) * scale[...] + bias[...]
