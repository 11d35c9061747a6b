"""KMM, the kinematics modeling module (KIMNet Sec. III-C, Eq. 6-10)."""

from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.layers import conv

Array = jax.Array
KMMVariant = Literal['full', 'share_qk', 'no_scale', 'residual', 'heatmap']
KMMActivation = Literal['relu', 'sigmoid', 'none']
KMMWeights = Literal['softmax', 'ratio']
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'relu': nnx.relu, 'sigmoid': nnx.sigmoid, 'none': lambda x: x}


class KMM(nnx.Module):
    """Temporal correlation of every joint with all joints of the frame before, and the pose it predicts.

    Usable in any network that has features and heatmaps of two consecutive frames at one resolution.

    The variants are those of Table V. `share_qk`: one convolution gives q and k. `no_scale`: no division by sqrt(h w) in Eq. 8.
    `residual`: the heatmaps of frame t are added to the prediction. `heatmap`: q and k come from the heatmaps of frame t and
    from those that a 1x1 convolution, `conv_p`, predicts from the features of frame t+1.

    What the paper leaves open: `activation` is the sigma of Eq. 6 and 7. `weights` are those of Eq. 9: a `softmax`, as the text
    says, or the `ratio` to the sum, as it is printed. `use_bias`: whether the convolutions have biases.
    """

    gives: ClassVar[str] = 'correlation'  # name of the second result in a network's evidence

    def __init__(
        self,
        num_joints: int,
        features: int,
        *,
        variant: KMMVariant = 'full',
        activation: KMMActivation = 'relu',
        weights: KMMWeights = 'softmax',
        use_bias: bool = True,
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`features`: D; `dtype`: of the convolutions; softmax and products stay float32."""
        self.variant, self.activation, self.weights = variant, activation, weights
        channels = num_joints if variant == 'heatmap' else features
        self.conv_q = conv(channels, num_joints, 1, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.conv_k = None if variant == 'share_qk' else conv(channels, num_joints, 1, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.conv_p = conv(features, num_joints, 1, use_bias=use_bias, dtype=dtype, rngs=rngs) if variant == 'heatmap' else None

    def __call__(self, features: Array, next_features: Array, heatmaps: Array) -> tuple[Array, Array]:
        """Predicts the heatmaps of frame t+1 from frame t.

        Args:
            features: [B, h, w, D], of frame t.
            next_features: [B, h, w, D], of frame t+1.
            heatmaps: [B, h, w, J], of frame t.

        Returns:
            (heatmaps [B, h, w, J] float32 predicted for frame t+1; correlation W_r [B, J, J] float32: row j holds the weights of
            the joints of frame t in joint j of frame t+1 and sums to 1; to 0 in a `ratio` of zeros).
        """
        b, h, w, joints = heatmaps.shape
        if self.conv_p is not None:
            features, next_features = heatmaps, self.conv_p(next_features)
        activation = _ACTIVATIONS[self.activation]
        q = activation(self.conv_q(features)).reshape(b, h * w, joints)
        k = activation((self.conv_k or self.conv_q)(next_features)).reshape(b, h * w, joints)
        similarity = jnp.einsum('bnj,bni->bji', k, q, preferred_element_type=jnp.float32)  # Eq. 8
        if self.variant != 'no_scale':
            similarity /= (h * w) ** 0.5
        correlation = jax.nn.softmax(similarity, axis=-1) if self.weights == 'softmax' else _ratio(similarity)  # Eq. 9
        maps = heatmaps.astype(jnp.float32)
        predicted = jnp.einsum('bji,bni->bnj', correlation, maps.reshape(b, h * w, joints)).reshape(maps.shape)  # Eq. 10
        return predicted + maps if self.variant == 'residual' else predicted, correlation


def _ratio(similarity: Array) -> Array:
    """Shares of the sum over the last axis; zeros where that is 0."""
    total = similarity.sum(-1, keepdims=True)
    return similarity / jnp.where(total == 0, 1.0, total)
