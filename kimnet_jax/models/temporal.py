"""What predicts the heatmaps of a frame from the frame before: the face that `KMM`, `DKD` and their kin share."""

from typing import Any, ClassVar

import jax
from flax import nnx

Array = jax.Array


class TemporalModule(nnx.Module):
    """(features of frame t, features of frame t+1, heatmaps of frame t) -> (heatmaps predicted for frame t+1, what it used).

    A subclass has `propagate`. What it makes of the features alone it makes in `queries` and `keys`, so that a chain does that
    for all frames at once, and only `propagate` waits for the frame before.
    """

    gives: ClassVar[str]  # name of the second result in a network's evidence

    def queries(self, features: Array) -> Any:
        """What the prediction for the frame after reads of features [N, h, w, D]: a pytree of arrays [N, ...]."""
        return features

    def keys(self, features: Array) -> Any:
        """What the prediction for these frames themselves reads of features [N, h, w, D]: a pytree of arrays [N, ...]."""
        return features

    def propagate(self, queries: Any, keys: Any, heatmaps: Array) -> tuple[Array, Array]:
        """The module's results, from the `queries` of frame t, the `keys` of frame t+1 and the heatmaps of frame t."""
        raise NotImplementedError

    def __call__(self, features: Array, next_features: Array, heatmaps: Array) -> tuple[Array, Array]:
        """Predicts the heatmaps of frame t+1.

        Args:
            features: [B, h, w, D], of frame t.
            next_features: [B, h, w, D], of frame t+1.
            heatmaps: [B, h, w, J], of frame t.

        Returns:
            (heatmaps [B, h, w, J] float32 predicted for frame t+1; what `gives` names, float32 but for kernels, which have the
            type of the features).
        """
        return self.propagate(self.queries(features), self.keys(next_features), heatmaps)
