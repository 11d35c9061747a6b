"""JRPSP, RPSTN's propagator of pose semantics: dynamic kernels, then the relation of the joints (Dang et al., TIP 2022)."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.dkd import DKD, DKDVariant
from kimnet_jax.models.relation_decoder import DecoderVariant, FirstStatistics, RelationDecoder
from kimnet_jax.models.temporal import TemporalModule

Array = jax.Array


class JRPSP(TemporalModule):
    """`DKD` whose heatmaps go through a relation decoder.

    The released variants normalise the heatmaps before the relation decoder too, by that decoder's own last BatchNorm.
    """

    gives: ClassVar[str] = 'kernels'

    def __init__(
        self,
        num_joints: int,
        features: int,
        *,
        variant: DKDVariant = 'intended',
        decoder_variant: DecoderVariant = 'intended',
        output_scale: float = 1.0,
        first_statistics: FirstStatistics = 'shared',
        dtype: Dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`variant`: see `DKD`; `decoder_variant` and those after it: see `RelationDecoder`. `dtype`: of the convolutions."""
        self.variant = variant
        self.dkd = DKD(num_joints, features, variant=variant, dtype=dtype, rngs=rngs)
        self.relation_decoder = RelationDecoder(
            num_joints, variant=decoder_variant, output_scale=output_scale, first_statistics=first_statistics, rngs=rngs
        )

    def propagate(self, queries: Array, keys: Array, heatmaps: Array) -> tuple[Array, Array]:
        """As that of `DKD`."""
        predicted, kernels, _ = self.projecting(queries, keys, heatmaps)
        return predicted, kernels

    def projecting(self, features: Array, next_features: Array, heatmaps: Array) -> tuple[Array, Array, Array]:
        """As a call, with the projection of the next frame's features (see `DKD.projecting`)."""
        predicted, kernels, projected = self.dkd.projecting(features, next_features, heatmaps)
        if self.variant != 'intended':
            predicted = self.relation_decoder.bn_u(predicted)
        return self.relation_decoder(predicted), kernels, projected
