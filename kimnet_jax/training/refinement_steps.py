"""HANet's two programs, each compiled once, and its evaluation: refined poses in original pixels, metrics as sums."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kimnet_jax import losses
from kimnet_jax.core import smpl
from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.pose_windows import RefineFunction, WindowConfig, in_batches, refine
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Batch, Pairs
from kimnet_jax.metrics import PoseMetrics, SpatialMetrics
from kimnet_jax.training.sharding import MOST_CLIPS
from kimnet_jax.training.state import TrainState, Weights
from kimnet_jax.training.steps import Stepping, TrainStep

Array = jax.Array
Space: TypeAlias = Literal['poses', 'smpl_joints']
DEVICE_KEYS = ('estimated', 'poses', 'known', 'mask')  # what the train step reads


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """HANet's loss, see `losses.hanet_loss`. Raises `InputError` naming the field that is out of range.

    Attributes:
        final_weight: of the error of the final poses; the release has 5 in 2D, 1 in 3D.
        refined_weight: of the error of the refined poses, and of what the two learn from each other.
        mutual: `detached` or `released`.
        space: where errors are measured: `poses`, the coordinates or rotations as they are, or `smpl_joints`, the joints of
            SMPL's mean shape in metres.
    """

    final_weight: float = 5.0
    refined_weight: float = 1.0
    mutual: losses.Mutual = 'detached'
    space: Space = 'poses'

    def __post_init__(self) -> None:
        check_ranges('loss', self, final_weight=(0, 1e6), refined_weight=(0, 1e6))


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """How a split is evaluated. Raises `InputError` naming the field that is out of range.

    Attributes:
        batch_size: windows in a batch.
        step: frames from one window to the next.
        select: the metric by which the best checkpoint is chosen.
    """

    batch_size: int = 64
    step: int = 1
    select: str = 'torso/pck/0.05/mPCK'

    def __post_init__(self) -> None:
        check_ranges('eval', self, batch_size=(1, MOST_CLIPS), step=(1, 1_000_000))


def make_train_step(
    graph: nnx.GraphDef,
    stepping: Stepping,
    loss: LossConfig,
    *,
    body: smpl.Body | None = None,
    interval: int,
    seed: int,
) -> TrainStep:
    """One optimisation step of a network that refines windows of poses.

    Args:
        graph: HANet's structure in train mode.
        stepping: how gradients become steps.
        loss: its settings.
        body: for errors of SMPL's joints; None: of the poses as they are.
        interval: N of the network.
        seed: of dropout, with the number of the step.

    Returns:
        A jitted function; its metrics are float32 scalars: `loss`, `final_error` and `refined_error` (mean distances of
        coordinates, normalised units, summed over channels), and those of `Stepping.advance`.
    """

    settings = {key: value for key, value in dataclasses.asdict(loss).items() if key != 'space'}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        dropout = jax.random.fold_in(jax.random.key(seed), state.step)

        def objective(params: nnx.State) -> tuple[Array, dict[str, Array]]:
            model = nnx.merge(graph, params, state.weights.batch_stats, copy=True)
            final, refined = model(batch['estimated'], batch['mask'], rngs=nnx.Rngs(dropout=dropout))
            truth = {key: batch[key] for key in ('poses', 'known', 'mask')}
            if body is not None:
                final, refined, truth['poses'] = _smpl_joints(body, jnp.stack([final, refined, truth['poses']]))
                truth['known'] = truth['known'].all(-1, keepdims=True)
            return losses.hanet_loss(final, refined, truth, interval=interval, **settings)

        (value, parts), gradient = jax.value_and_grad(objective, has_aux=True)(state.weights.params)
        state, told = stepping.advance(state, gradient, state.weights.batch_stats)
        errors = {key: parts[key] for key in ('final_error', 'refined_error')}
        return state, {'loss': value, **errors, **told}

    return stepping.compiled(step)


class RefinementEvaluator:
    """A network, pairs of poses, how to cut them; compiled once. Every process evaluates all of it, on one device of its own."""

    def __init__(self, graph: nnx.GraphDef, pairs: Pairs, windows: WindowConfig, *, batch_size: int):
        """`graph`: HANet's structure in eval mode; `batch_size`: windows side by side."""
        self._pairs, self._windows, self._batch_size = pairs, windows, batch_size
        self._apply = jax.jit(lambda weights, poses, mask: nnx.merge(graph, *weights, copy=True)(poses, mask))

    def function(self, weights: Weights, output: str = 'final') -> RefineFunction:
        """The network on any number of windows: its `final` poses or its `refined` ones (meant at the sampled frames only)."""
        weights = jax.tree.map(lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, weights)
        return in_batches(lambda poses, mask: getattr(self._apply(weights, poses, mask), output), self._batch_size)

    def predict(self, weights: Weights, check: Callable[[], None] = lambda: None) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (clip, refined joints float32 [T, J, D]) for each clip; calls `check` before each."""
        function = self.function(weights)
        for clip in range(len(self._pairs)):
            check()
            estimates = self._pairs(clip).estimates
            yield clip, refine(function, estimates.joints, estimates.boxes, estimates.image_size, self._windows)

    def __call__(self, weights: Weights, check: Callable[[], None] = lambda: None) -> PoseMetrics | SpatialMetrics:
        """The metrics of the refined poses."""
        return measure(self._pairs, self.predict(weights, check))


def measure(pairs: Pairs, predictions: Iterable[tuple[int, np.ndarray]]) -> PoseMetrics | SpatialMetrics:
    """The metrics of poses [T, J, D] of each clip against the truth: `PoseMetrics` in 2D, `SpatialMetrics` in 3D.

    Rotations are measured as the joints that they give the body.
    """
    metrics: Any = None
    for clip, joints in predictions:
        pair = pairs(clip)
        truth, visible = pair.joints, pair.visible
        metrics = metrics or metrics_of(pairs.skeleton, len(pairs), plane=joints.shape[-1] == 2)
        if pairs.body is not None:
            joints = smpl.joint_positions(pairs.body, joints, pair.estimates.shape)
            truth = smpl.joint_positions(pairs.body, truth, pair.shape)
            visible = np.broadcast_to(visible.all(-1, keepdims=True), visible.shape)
        metrics.update(clip, joints, truth, visible, pair.boxes)
    return metrics


def metrics_of(skeleton: Skeleton, clips: int, *, plane: bool) -> PoseMetrics | SpatialMetrics:
    """Empty metrics for poses in 2D, or else in 3D."""
    return PoseMetrics(skeleton, clips) if plane else SpatialMetrics(skeleton, clips)


def _smpl_joints(body: smpl.Body, poses: Array) -> Array:
    """Rotations [..., 24 * 6] -> joints [..., 24 * 3]; as in the release, of the mean shape."""
    joints = smpl.joint_positions(body, poses.reshape(*poses.shape[:-1], smpl.NUM_JOINTS, 6), xp=jnp)
    return joints.reshape(*poses.shape[:-1], -1)
