"""The two programs of a run, each compiled once: (state, batch) -> (state, metrics) and (weights, batch, chain) -> joints."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from kimnet_jax import losses, metrics
from kimnet_jax.core import geometry, heatmap
from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.image import normalise
from kimnet_jax.core.platform import Spread, compiled_for, spread_over
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Batch, Centre, Decoding, Outside
from kimnet_jax.training import sharding
from kimnet_jax.training.state import TrainState, Weights

Array = jax.Array
Chain = Any  # the state that a model carries from frame to frame
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]


@dataclasses.dataclass(frozen=True)
class TargetConfig:
    """What the network is to predict. Raises `InputError` naming the field that is out of range.

    Attributes:
        sigma: standard deviation of the target Gaussians, heatmap cells.
        centre: their centre: the joint itself (`subpixel`), or the middle of its `cell`.
        visibility_weighting: leave invisible joints out of the loss.
        outside: of joints outside of the crop: `zeros` are their target, or they are `ignored`.
    """

    sigma: float = heatmap.SIGMA
    centre: Centre = heatmap.CENTRE
    visibility_weighting: bool = False
    outside: Outside = 'zeros'

    def __post_init__(self) -> None:
        check_ranges('target', self, sigma=(0.1, 1000))


class Stepping(NamedTuple):
    """How gradients become steps, whatever the network and its loss.

    Attributes:
        optimizer: of the parameters.
        schedule: learning rate by the number of updates, for the metrics.
        accumulate: batches an update takes (the optimizer's own setting).
        average_decay: of the moving average of the weights, reached after a warm-up.
        mesh: of the devices.
        sharing: how many of them share the statistics of a BatchNorm; 0: all of them.
        float32_sums: whether they sum gradients in float32.
    """

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    accumulate: int
    average_decay: float
    mesh: Mesh
    sharing: int = 0
    float32_sums: bool = True

    @property
    def spread(self) -> Spread:
        """Over the devices."""
        return Spread(self.mesh.size, self.sharing or self.mesh.size, self.float32_sums)

    def advance(self, state: TrainState, gradient: nnx.State, batch_stats: nnx.State) -> tuple[TrainState, dict[str, Array]]:
        """The state after a gradient and new statistics, and what every step tells, float32 scalars: `gradient_norm`,
        `parameter_norm` (after the update: not finite as soon as one parameter is not) and `learning_rate`.

        Each device updates its part of the parameters (`sharding.shared_out`), and then they exchange these.
        """
        everywhere = sharding.replicated(self.mesh)
        gradient = jax.lax.with_sharding_constraint(gradient, everywhere)  # or the parts would spread into the backward pass
        gradient, params = self._parts(gradient), self._parts(state.weights.params)
        updates, optimizer_state = self.optimizer.update(gradient, state.optimizer, params)
        params = self._parts(optax.apply_updates(params, updates))
        now = state.step + 1
        average = moving_average(state.average, Weights(params, batch_stats), now, self.accumulate, self.average_decay)
        told = {
            'gradient_norm': optax.tree.norm(gradient),
            'parameter_norm': optax.tree.norm(params),
            'learning_rate': jnp.asarray(self.schedule(state.step // self.accumulate), jnp.float32),
        }
        weights = jax.lax.with_sharding_constraint(Weights(params, batch_stats), everywhere)
        return TrainState(now, weights, self._parts(optimizer_state), self._parts(average)), told

    def _parts(self, tree: Any) -> Any:
        return jax.lax.with_sharding_constraint(tree, sharding.shared_out(tree, self.mesh))

    def compiled(self, step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]) -> TrainStep:
        """A step for the devices, jitted: the rows of the batch are split over them; the state, which `state.placed` has put on
        them, is consumed.
        """
        everywhere, rows = sharding.replicated(self.mesh), sharding.split(self.mesh)
        return jax.jit(step, in_shardings=(None, rows), out_shardings=(None, everywhere), donate_argnums=0)


def make_train_step(
    graph: nnx.GraphDef, stepping: Stepping, target: TargetConfig, *, skeleton: Skeleton, stride: int
) -> TrainStep:
    """One optimisation step of a network of videos.

    Args:
        graph: its structure in train mode. The losses of its `auxiliary` heatmaps, [B, t, h, w, J] of the first t frames, are
            added to that of its `heatmaps`.
        stepping: how gradients become steps.
        target: what the network is to predict.
        skeleton: of the joints.
        stride: pixels of the crop in a cell of the heatmaps.

    Returns:
        A jitted function; its metrics are float32 scalars: `loss`, `pck` (share of visible joints of the batch within 0.2 torso
        lengths of the truth) and those of `Stepping.advance`.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        def objective(params: nnx.State) -> tuple[Array, tuple[nnx.State, Array]]:
            model = nnx.merge(graph, params, state.weights.batch_stats, copy=True)
            with compiled_for(sharding.platform(stepping.mesh)), spread_over(stepping.spread):
                output = model(normalise(batch['frames'], jnp))
            parts = [_loss(maps, batch, stride, target) for maps in (output.heatmaps, *output.auxiliary)]
            loss = jnp.sum(jnp.stack(parts))
            return loss, (nnx.state(model, nnx.BatchStat), output.heatmaps)

        (loss, (batch_stats, heatmaps)), gradient = jax.value_and_grad(objective, has_aux=True)(state.weights.params)
        state, told = stepping.advance(state, gradient, batch_stats)
        positions, _ = heatmap.decode(jax.lax.stop_gradient(heatmaps), 'argmax', jnp)
        pck = _batch_pck(heatmap.cells_to_pixels(positions, stride), batch, skeleton)
        return state, {'loss': loss, 'pck': pck, **told}

    return stepping.compiled(step)


def _loss(heatmaps: Array, batch: Batch, stride: int, target: TargetConfig) -> Array:
    """Of heatmaps [B, t, h, w, J] of the first t frames of the batch."""
    return losses.heatmap_loss(
        heatmaps,
        {key: batch[key][:, : heatmaps.shape[1]] for key in ('joints', 'visible', 'mask')},
        stride=stride,
        sigma=target.sigma,
        centre=target.centre,
        visibility_weighting=target.visibility_weighting,
        outside=target.outside,
    )


def moving_average(average: Weights | None, weights: Weights, step: Array, accumulate: int, decay: float) -> Weights | None:
    """The moving average of the weights after `step` batches; it follows them faster in the beginning. None stays None."""
    if average is None:
        return None
    count = step // accumulate
    share = jnp.minimum(decay, (1 + count) / (10 + count))
    share = jnp.where(step % accumulate == 0, share, 1.0)
    return jax.tree.map(lambda old, new: share * old + (1 - share) * new, average, weights)


def _batch_pck(positions: Array, batch: Batch, skeleton: Skeleton) -> Array:
    """Share of the batch's visible joints within 0.2 torso lengths; positions [B, T, J, 2] crop pixels."""
    visible = batch['visible'] & batch['mask'][..., None]
    torso = metrics.torso_length(batch['joints'], batch['visible'], skeleton, jnp)
    hits = metrics.pck_state(positions, batch['joints'], visible, torso, (0.2,), jnp)
    return jnp.nan_to_num(hits.pool((0, 1, 2)).compute(jnp))


def make_eval_step(
    graph: nnx.GraphDef, *, stride: int, decoding: Decoding, mesh: Mesh, sigma: float = heatmap.SIGMA
) -> Callable[[Weights, Batch, Chain], tuple[Array, Array, Chain]]:
    """Joints of a batch of windows whose chains go on from window to window.

    Returns:
        A jitted function (weights, batch, chain) -> (joints [B, T, J, 2] pixels of the original frames, scores [B, T, J], chain).
    """

    def step(weights: Weights, batch: Batch, chain: Chain) -> tuple[Array, Array, Chain]:
        model = nnx.merge(graph, *weights, copy=True)
        with compiled_for(sharding.platform(mesh)):
            output = model(normalise(batch['frames'], jnp), chain, batch['start'])
        positions, scores = heatmap.decode(output.heatmaps, decoding, jnp, sigma=sigma)
        positions = heatmap.cells_to_pixels(positions, stride)
        joints = geometry.apply_affine(batch['to_image'], positions, jnp)
        return joints, scores, output.state

    everywhere, rows = sharding.replicated(mesh), sharding.split(mesh)
    return jax.jit(step, in_shardings=(everywhere, rows, rows), out_shardings=(rows, rows, rows))


def empty_chain(graph: nnx.GraphDef, weights: Weights, batch: Batch, mesh: Mesh) -> Chain:
    """Zeros in the shape of the chain that a batch of windows leaves; every row's first window has `start`."""

    def first(weights: Weights, frames: Array) -> Chain:
        return nnx.merge(graph, *weights, copy=True).init_state(frames)[1]

    frames = batch['frames'][:, 0]
    shapes = jax.eval_shape(first, weights, jax.ShapeDtypeStruct(frames.shape, jnp.float32))
    zeros = jax.jit(lambda: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes), out_shardings=sharding.split(mesh))
    return zeros()
