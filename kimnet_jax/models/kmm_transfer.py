"""KMM in the place of dynamic kernels, in networks built around them (KIMNet Table IV)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.kmm import KMM
from kimnet_jax.models.layers import BatchNorm, Conv, torch_conv
from kimnet_jax.models.temporal import TemporalModule

Array = jax.Array


class KMMTransfer(TemporalModule):
    """`DKD` without its kernels: what it makes of pose and features is read from frame t+1, with the pose that KMM predicts.

    The paper does not say how KMM is put into DKD and RPSTN; this keeps DKD's layers around it:
    the 1x1 convolution that joins heatmaps and features (`conv_reduce`) and the one to heatmaps (`conv_u`).
    """

    gives: ClassVar[str] = 'correlation'

    def __init__(self, num_joints: int, features: int, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        """`dtype`: of the convolutions."""
        self.kmm = KMM(num_joints, features, dtype=dtype, rngs=rngs)
        self.conv_reduce = Conv(num_joints + features, features, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.bn = BatchNorm(features, dtype=dtype, rngs=rngs)
        self.conv_u = torch_conv(features, num_joints, 1, dtype=dtype, rngs=rngs)

    def queries(self, features: Array) -> Array | None:
        """Those of `KMM`."""
        return self.kmm.queries(features)

    def keys(self, features: Array) -> tuple[Array, Array]:
        """Those of `KMM`, and the features [N, h, w, D]."""
        return self.kmm.keys(features), features

    def propagate(self, queries: Array | None, keys: tuple[Array, Array], heatmaps: Array) -> tuple[Array, Array]:
        """Results as those of `KMM`."""
        of_kmm, next_features = keys
        predicted, correlation = self.kmm.propagate(queries, of_kmm, heatmaps)
        joined = jnp.concatenate([predicted.astype(next_features.dtype), next_features], -1)
        return self.conv_u(nnx.relu(self.bn(self.conv_reduce(joined)))).astype(jnp.float32), correlation
