"""KMM, the kinematics modeling module (KIMNet Sec. III-C, Eq. 6-10)."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.layers import conv

Array = jax.Array


class KMM(nnx.Module):
    """Temporal correlation of every joint with all joints of the frame before, and the pose it predicts.

    Usable in any network that has features and heatmaps of two consecutive frames at one resolution.
    """

    def __init__(self, num_joints: int, features: int, *, dtype: Dtype = jnp.float32, rngs: nnx.Rngs):
        self.conv_q = conv(features, num_joints, 1, use_bias=True, dtype=dtype, rngs=rngs)
        self.conv_k = conv(features, num_joints, 1, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, features: Array, next_features: Array, heatmaps: Array) -> tuple[Array, Array]:
        """Predicts the heatmaps of frame t+1 from frame t.

        Args:
            features: [B, h, w, D], of frame t.
            next_features: [B, h, w, D], of frame t+1.
            heatmaps: [B, h, w, J], of frame t.

        Returns:
            (heatmaps [B, h, w, J] float32 predicted for frame t+1; correlation W_r [B, J, J] float32: row j holds the weights of
            the joints of frame t in joint j of frame t+1 and sums to 1).
        """
        b, h, w, joints = heatmaps.shape
        q = nnx.relu(self.conv_q(features)).reshape(b, h * w, joints)
        k = nnx.relu(self.conv_k(next_features)).reshape(b, h * w, joints)
        similarity = jnp.einsum('bnj,bni->bji', k, q, preferred_element_type=jnp.float32) / (h * w) ** 0.5  # Eq. 8
        correlation = jax.nn.softmax(similarity, axis=-1)  # Eq. 9
        predicted = jnp.einsum('bji,bni->bnj', correlation, heatmaps.reshape(b, h * w, joints).astype(jnp.float32))  # Eq. 10
        return predicted.reshape(b, h, w, joints), correlation
