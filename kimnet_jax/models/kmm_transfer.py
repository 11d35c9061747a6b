"""KMM in the place of dynamic kernels, in networks built around them (KIMNet Table IV)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.kmm import KMM
from kimnet_jax.models.layers import BatchNorm, conv, torch_conv

Array = jax.Array


class KMMTransfer(nnx.Module):
    """`DKD` without its kernels: what it makes of pose and features is read from frame t+1, with the pose that KMM predicts.

    Called as `KMM` and `DKD` are. The paper does not say how KMM is put into DKD and RPSTN; this keeps DKD's layers around it:
    the 1x1 convolution that joins heatmaps and features (`conv_reduce`) and the one to heatmaps (`conv_u`).
    """

    gives: ClassVar[str] = 'correlation'  # name of the second result in a network's evidence

    def __init__(self, num_joints: int, features: int, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions."""
        self.kmm = KMM(num_joints, features, dtype=dtype, rngs=rngs)
        self.conv_reduce = conv(num_joints + features, features, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(features, dtype=dtype, rngs=rngs)
        self.conv_u = torch_conv(features, num_joints, 1, dtype=dtype, rngs=rngs)

    def __call__(self, features: Array, next_features: Array, heatmaps: Array) -> tuple[Array, Array]:
        """Predicts the heatmaps of frame t+1: arguments and results as those of `KMM`."""
        predicted, correlation = self.kmm(features, next_features, heatmaps)
        joined = jnp.concatenate([predicted.astype(next_features.dtype), next_features], -1)
        return self.conv_u(nnx.relu(self.bn(self.conv_reduce(joined)))).astype(jnp.float32), correlation
