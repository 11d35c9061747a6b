"""The chain over the frames of a clip: one scan, whatever network steps through it."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from kimnet_jax.models.layers import Statistics, platform
from kimnet_jax.models.outputs import VideoOutput

Array = jax.Array
UNROLLED = 8  # steps of a chain in one piece of a training program for accelerators
State = TypeVar('State', bound=tuple)  # a NamedTuple of arrays [B, h, w, ...] with the field `heatmaps`


class ChainState(NamedTuple):
    """What most chains carry from frame to frame.

    Attributes:
        heatmaps: [B, h, w, J] float32, of the last frame.
        queries: what the temporal module reads of the last frame's features (`TemporalModule.queries`): with KMM [B, h, w, J],
            with dynamic kernels the features [B, h, w, D] themselves; None where it reads nothing.
    """

    heatmaps: Array
    queries: Any


class ChainTransition(nnx.Module):
    """One step of a chain: (state of frame t, what `prepare` makes of frame t+1) -> (state of frame t+1, evidence by name)."""

    def prepare(self, features: Array) -> Any:
        """What does not depend on the frame before, for any frames at once: features [N, h, w, D] -> arrays [N, ...]."""
        return features

    def __call__(self, state: Any, prepared: Any) -> tuple[Any, dict[str, Array]]:
        """`prepared`: of the next frame."""
        raise NotImplementedError


class ChainNetwork(nnx.Module):
    """A network of videos whose heatmaps of a frame depend on the state that the frame before left.

    A subclass makes `feature_encoder`, [B, H, W, 3] -> [B, h, w, D], and `transition`, and says how a chain begins: `begin`.

    `model.train()` and `model.eval()` choose between batch and running statistics, as everywhere in NNX.
    """

    stride: ClassVar[int] = 4  # crop pixels per heatmap cell
    reads_past: bool = True  # whether heatmaps depend on frames before their own
    feature_encoder: nnx.Module
    transition: ChainTransition

    def __init__(self, *, dtype: Dtype):
        self.dtype = dtype
        self.deterministic = False  # set by `train` and `eval`

    def begin(self, *args: Any, **inputs: Any) -> tuple[Any, tuple[Array, ...]]:
        """The beginning of a chain.

        Args:
            args: first frames [B, H, W, 3] and their features [B, h, w, D].
            inputs: what else the network takes.

        Returns:
            (state, more heatmaps [B, t, h, w, J] that are trained).
        """
        raise NotImplementedError

    def encode(self, frames: Array) -> Array:
        """Features [B, T, h, w, D] of frames [B, T, H, W, 3]."""
        return encode_clip(self.feature_encoder, frames)

    def __call__(self, frames: Array, state: Any = None, start: Array | None = None, **inputs: Array) -> VideoOutput:
        """Heatmaps of T frames.

        Args:
            frames: [B, T, H, W, 3] normalised float images, H and W multiples of 32 (with an hourglass, of 64).
            state: where an earlier call on the frames before ended; None: the chain begins with these frames.
            start: bool [B], with `state`: True where the chain begins anew. In eval mode the first frames' network runs only
                if one does, and there are no `auxiliary` heatmaps.
            inputs: of `begin`.
        """
        features = self.encode(frames)

        def begin() -> tuple[Any, tuple[Array, ...]]:
            return self.begin(frames[:, 0], features[:, 0], **inputs)

        auxiliary: tuple[Array, ...] = ()
        if state is not None and start is not None and self.deterministic:  # most windows go on with their chains
            first = jax.lax.cond(start.any(), lambda: begin()[0], lambda: state)
        else:
            first, auxiliary = begin()
        output = run_chain(self.transition, first, features, state, start, training=not self.deterministic)
        return output._replace(auxiliary=auxiliary)

    def init_state(self, frames: Array, **inputs: Array) -> tuple[Array, Any]:
        """Begins a stream: first frames [B, H, W, 3] -> (heatmaps [B, h, w, J], state)."""
        state, _ = self.begin(frames, self.feature_encoder(frames), **inputs)
        return state.heatmaps, state

    def step(self, state: Any, frames: Array) -> tuple[Array, Any]:
        """Goes on with a stream: the next frames [B, H, W, 3] -> (heatmaps [B, h, w, J], state)."""
        heatmaps, state, _ = self.step_with_evidence(state, frames)
        return heatmaps, state

    def step_with_evidence(self, state: Any, frames: Array) -> tuple[Array, Any, dict[str, Array]]:
        """`step`, and what the temporal module predicted with, by name, [B, ...] (`VideoOutput.evidence`)."""
        state, evidence = self.transition(state, self.transition.prepare(self.feature_encoder(frames)))
        return state.heatmaps, state, evidence


def encode_clip(encoder: nnx.Module, frames: Array, *, frame_by_frame: bool = False) -> Array:
    """Features [B, T, h, w, D] of frames [B, T, H, W, 3].

    In train mode BatchNorm sees all frames at once or, `frame_by_frame`, one after the other.
    """
    if frame_by_frame:
        _, features = _scan(encoder, lambda encoder, _, frame: (None, encoder(frame)), None, frames, training=True)
        return jnp.moveaxis(features, 0, 1)
    b, t = frames.shape[:2]
    features = encoder(frames.reshape(b * t, *frames.shape[2:]))
    return features.reshape(b, t, *features.shape[1:])


def run_chain(
    transition: ChainTransition,
    first: State,
    features: Array,
    state: State | None = None,
    start: Array | None = None,
    *,
    training: bool,
) -> VideoOutput:
    """Heatmaps of T frames.

    Args:
        transition: of the network.
        first: the state of the first frame where the chain begins with it.
        features: [B, T, h, w, D] of all frames.
        state: where an earlier call on the frames before ended; None: every chain begins with these frames.
        start: bool [B], with `state`: True where the chain begins anew.
        training: whether gradients are to be taken.
    """
    following = features if state is not None else features[:, 1:]
    b, t = following.shape[:2]
    prepared = transition.prepare(following.reshape(b * t, *following.shape[2:]))
    prepared = jax.tree.map(lambda x: x.reshape(b, t, *x.shape[1:]), prepared)
    if state is not None:
        assert start is not None
        going_on, _ = transition(state, jax.tree.map(lambda x: x[:, 0], prepared))
        prepared = jax.tree.map(lambda x: x[:, 1:], prepared)
        fresh = start[:, None, None, None]
        first = jax.tree.map(lambda anew, on: jnp.where(fresh, anew, on), first, going_on)

    def step(transition: Any, state: State, following: Any) -> tuple[State, Any]:
        state, evidence = transition(state, following)
        return state, (state.heatmaps, evidence)  # type: ignore[attr-defined]

    last, (heatmaps, evidence) = _scan(transition, step, first, prepared, training=training)
    heatmaps = jnp.concatenate([first.heatmaps[None], heatmaps])  # type: ignore[attr-defined]
    evidence = {key: jnp.moveaxis(value, 0, 1) for key, value in evidence.items()}
    return VideoOutput(jnp.moveaxis(heatmaps, 0, 1), last, evidence)


def _scan(module: nnx.Module, step: Callable[..., tuple[Any, Any]], first: Any, sequence: Any, *, training: bool) -> Any:
    """`jax.lax.scan` of `step(module, carry, x)` over axis 1 of the sequences; statistics that the module moves go with it.

    Those that stay as they are are written nowhere, so that in eval mode a call has no effect that `jax.jit` would refuse.
    """
    moving: Any = nnx.BatchStat if any(_moves(part) for _, part in nnx.iter_modules(module)) else nnx.Nothing()
    graph, stats, rest = nnx.split(module, moving, ...)  # type: ignore[misc]

    def body(carry: tuple[Any, nnx.State], x: Any) -> tuple[Any, Any]:
        inner = nnx.merge(graph, carry[1], rest, copy=True)
        last, y = step(inner, carry[0], x)
        return (last, nnx.state(inner, moving)), y

    # the same program without a loop, in which XLA:CPU's gradients of convolutions are some 70 times slower; XLA:TPU stores what
    # its steps need again as it is, float32 and masks, and estimates 8 % more cycles for a training step of the small network
    sequence = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), sequence)
    length = len(jax.tree.leaves(sequence)[0])
    unroll = max(1, length if platform() == 'cpu' else min(length, UNROLLED)) if training else 1
    (last, stats), ys = jax.lax.scan(body, (first, stats), sequence, unroll=unroll)
    nnx.update(module, stats)
    return last, ys


def _moves(module: nnx.Module) -> bool:
    return isinstance(module, Statistics) and not module.use_running_average
