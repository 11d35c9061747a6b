"""KMM, the kinematics modeling module (KIMNet Sec. III-C, Eq. 6-10)."""

from collections.abc import Callable
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.layers import Conv
from kimnet_jax.models.temporal import TemporalModule

Array = jax.Array
KMMVariant = Literal['full', 'share_qk', 'no_scale', 'residual', 'heatmap']
KMMActivation = Literal['relu', 'sigmoid', 'none']
KMMWeights = Literal['softmax', 'ratio']
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {'relu': nnx.relu, 'sigmoid': nnx.sigmoid, 'none': lambda x: x}


class KMM(TemporalModule):
    """Temporal correlation of every joint with all joints of the frame before, and the pose it predicts.

    Usable in any network that has features and heatmaps of two consecutive frames at one resolution.

    The variants are those of Table V. `share_qk`: one convolution gives q and k. `no_scale`: no division by sqrt(h w) in Eq. 8.
    `residual`: the heatmaps of frame t are added to the prediction. `heatmap`: q and k come from the heatmaps of frame t and
    from those that a 1x1 convolution, `conv_p`, predicts from the features of frame t+1.

    What the paper leaves open: `activation` is the sigma of Eq. 6 and 7. `weights` are those of Eq. 9: a `softmax`, as the text
    says, or the `ratio` to the sum, as it is printed. `use_bias`: whether the convolutions have biases.
    """

    gives: ClassVar[str] = 'correlation'

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
        self.conv_q = Conv(channels, num_joints, 1, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.conv_k = None if variant == 'share_qk' else Conv(channels, num_joints, 1, use_bias=use_bias, dtype=dtype, rngs=rngs)
        self.conv_p = Conv(features, num_joints, 1, use_bias=use_bias, dtype=dtype, rngs=rngs) if variant == 'heatmap' else None

    def queries(self, features: Array) -> Array | None:
        """Q of Eq. 6, [N, h, w, J]; None in the variant `heatmap`, which makes them of heatmaps."""
        return None if self.conv_p is not None else self._activated(self.conv_q(features))

    def keys(self, features: Array) -> Array:
        """K of Eq. 7, [N, h, w, J]."""
        if self.conv_p is not None:
            features = self.conv_p(features)
        return self._activated((self.conv_k or self.conv_q)(features))

    def propagate(self, queries: Array | None, keys: Array, heatmaps: Array) -> tuple[Array, Array]:
        """Predicts the heatmaps of frame t+1.

        Args:
            queries: [B, h, w, J] of frame t, or None.
            keys: [B, h, w, J] of frame t+1.
            heatmaps: [B, h, w, J] of frame t.

        Returns:
            (heatmaps [B, h, w, J] float32 predicted for frame t+1; correlation W_r [B, J, J] float32: row j holds the weights of
            the joints of frame t in joint j of frame t+1 and sums to 1; to 0 in a `ratio` of zeros).
        """
        b, h, w, joints = heatmaps.shape
        if queries is None:
            queries = self._activated(self.conv_q(heatmaps))
        q, k = (part.reshape(b, h * w, joints) for part in (queries, keys))
        similarity = jnp.einsum('bnj,bni->bji', k, q, preferred_element_type=jnp.float32)  # Eq. 8
        if self.variant != 'no_scale':
            similarity /= (h * w) ** 0.5
        correlation = jax.nn.softmax(similarity, axis=-1) if self.weights == 'softmax' else _ratio(similarity)  # Eq. 9
        maps = heatmaps.astype(jnp.float32)
        predicted = jnp.einsum('bji,bni->bnj', correlation, maps.reshape(b, h * w, joints)).reshape(maps.shape)  # Eq. 10
        return predicted + maps if self.variant == 'residual' else predicted, correlation

    def _activated(self, x: Array) -> Array:
        return _ACTIVATIONS[self.activation](x)


def _ratio(similarity: Array) -> Array:
    """Shares of the sum over the last axis; zeros where that is 0."""
    total = similarity.sum(-1, keepdims=True)
    return similarity / jnp.where(total == 0, 1.0, total)
