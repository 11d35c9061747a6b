"""Evaluation: every frame of every clip through the recursion, joints in original pixels, metrics as sums."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import jax
import numpy as np
import tqdm
from flax import nnx, traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from kimnet_jax.core import heatmap
from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Batch, Clips, Decoding, Prediction
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.training.sharding import MOST_CLIPS, local_rows
from kimnet_jax.training.state import Weights
from kimnet_jax.training.steps import empty_chain, make_eval_step


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """How a split is evaluated. Raises `InputError` naming the field that is out of range.

    Attributes:
        batch_size: clips side by side, on all devices together.
        segment: frames of a clip in one call of the network; changes no result.
        chain_length: frames after which the recursion begins anew; 0: the whole clip is one chain.
        decoding: heatmaps to joints: `argmax`, `quarter` or `dark` (`core.heatmap.decode`).
        select: the metric by which the best checkpoint is chosen.
    """

    batch_size: int = 8
    segment: int = 8
    chain_length: int = 0
    decoding: Decoding = 'dark'
    select: str = 'torso/pck/0.2/mPCK'

    def __post_init__(self) -> None:
        check_ranges('eval', self, batch_size=(1, MOST_CLIPS), segment=(1, 1_000_000), chain_length=(0, 1_000_000_000))

    @property
    def passes(self) -> dict[str, Any]:
        """The arguments of the loader's `eval_batches` and `num_eval_batches`."""
        return {'batch_size': self.batch_size, 'segment': self.segment, 'chain_length': self.chain_length or None}


PASTS = ('true', 'frozen', 'shuffled', 'restarted')  # of a frame: its own; itself, given twice; another clip's; none
DEVICE_KEYS = ('frames', 'start', 'to_image')  # what the step reads; the rest of a batch stays on the host


class Evaluator:
    """A model, a split and how to evaluate it; compiled once, used after any number of steps."""

    def __init__(
        self,
        graph: nnx.GraphDef,
        batches: Callable[[], Generator[tuple[Batch, Batch], None, None]],
        num_batches: int,
        truth: Clips,
        *,
        stride: int,
        decoding: Decoding,
        mesh: Mesh,
        sigma: float = heatmap.SIGMA,
    ):
        """Args:
        graph: the model's structure in eval mode.
        batches: begins a pass over the split: pairs of a batch on the host and its `DEVICE_KEYS` on the devices.
        num_batches: of a pass.
        truth: the split.
        stride: crop pixels per heatmap cell.
        decoding: see `core.heatmap.decode`.
        mesh: of the devices.
        sigma: of the target maps in training.
        """
        self._graph, self._batches, self._num_batches, self._truth, self._mesh = graph, batches, num_batches, truth, mesh
        self._step = make_eval_step(graph, stride=stride, decoding=decoding, mesh=mesh, sigma=sigma)
        self._empty: Any = None

    def on(
        self, batches: Callable[[], Generator[tuple[Batch, Batch], None, None]], num_batches: int, truth: Clips
    ) -> 'Evaluator':
        """The evaluation of other clips by the same compiled program; batches as those of `self`."""
        other = copy.copy(self)
        other._batches, other._num_batches, other._truth = batches, num_batches, truth
        return other

    def __call__(
        self,
        weights: Weights,
        check: Callable[[], None] = lambda: None,
        watch: Callable[[int, np.ndarray], None] = lambda clip, joints: None,
    ) -> PoseMetrics:
        """The metrics of the whole split, on every process.

        Calls `check` before each batch, which may raise to stop, and `watch` with each clip of this process and its joints.
        """

        def watched() -> Iterator[Prediction]:
            for prediction in self.predict(weights, check):
                watch(prediction[0], prediction[1])
                yield prediction

        result = measure(self._truth, watched())
        if jax.process_count() > 1:
            result.ratios, result.counts = jax.tree.map(_sum_over_processes, (result.ratios, result.counts))
        return result

    def predict(self, weights: Weights, check: Callable[[], None] = lambda: None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Yields (clip, joints float32 [T, J, 2] original pixels, scores float32 [T, J]) for each clip of this process."""
        with contextlib.closing(self._batches()) as batches:
            yield from _whole_clips(self._outputs(weights, batches, check))

    def predict_with_pasts(
        self, weights: Weights, others: Callable[[], Generator[tuple[Batch, Batch], None, None]]
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The poses of every frame after each of `PASTS`, in one pass; takes batches in segments of one frame.

        The first frame of a chain has no past and is the same after all of them.

        Args:
            weights: of the network.
            others: begins a pass over other clips, as `batches` in all but the pictures: the past that is `shuffled`.

        Yields:
            (clip, joints float32 [T, 4, J, 2] original pixels, scores float32 [T, 4, J]) for each clip of this process.
        """
        with contextlib.closing(self._batches()) as batches, contextlib.closing(others()) as strangers:
            yield from _whole_clips(self._outputs_with_pasts(weights, batches, strangers))

    def _outputs(
        self, weights: Weights, batches: Iterable[tuple[Batch, Batch]], check: Callable[[], None]
    ) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
        chain: Any = None
        ahead: list[tuple[Batch, jax.Array, jax.Array]] = []  # read one batch behind: the devices do not wait for the host
        for batch, on_device in self._progress(batches):
            check()
            joints, scores, chain = self._advance(weights, on_device, chain)
            ahead.append((batch, joints, scores))
            if len(ahead) > 1:
                yield _on_host(*ahead.pop(0))
        yield from (_on_host(*one) for one in ahead)

    def _outputs_with_pasts(
        self, weights: Weights, batches: Iterable[tuple[Batch, Batch]], others: Iterable[tuple[Batch, Batch]]
    ) -> Iterator[tuple[Batch, np.ndarray, np.ndarray]]:
        chain: Any = None
        strange: Any = None
        for (batch, frame), (_, other) in zip(self._progress(batches), others, strict=True):
            *restarted, own = self._advance(weights, {**frame, 'start': frame['start'] | True}, chain)
            *frozen, _ = self._advance(weights, frame, own)
            *shuffled, _ = self._advance(weights, frame, strange)
            *true, chain = self._advance(weights, frame, chain)
            strange = self._advance(weights, other, strange)[2]
            by_past = {'true': true, 'frozen': frozen, 'shuffled': shuffled, 'restarted': restarted}
            joints, scores = (np.stack([local_rows(by_past[past][i]) for past in PASTS], 2) for i in (0, 1))
            yield batch, joints, scores

    def _advance(self, weights: Weights, batch: Batch, chain: Any) -> tuple[jax.Array, jax.Array, Any]:
        if self._empty is None:  # made once: it would be a compilation every time
            self._empty = empty_chain(self._graph, weights, batch, self._mesh)
        return self._step(weights, batch, self._empty if chain is None else chain)

    def _progress(self, batches: Iterable[tuple[Batch, Batch]]) -> Iterable[tuple[Batch, Batch]]:
        hidden = jax.process_index() > 0 or None
        return tqdm.tqdm(batches, total=self._num_batches, desc='evaluating', unit='batch', leave=False, disable=hidden)


def _on_host(batch: Batch, joints: jax.Array, scores: jax.Array) -> tuple[Batch, np.ndarray, np.ndarray]:
    return batch, local_rows(joints), local_rows(scores)


def _whole_clips(outputs: Iterable[tuple[Batch, np.ndarray, np.ndarray]]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Windows to clips: (batch, joints [B, T, ...], scores [B, T, ...]) to (clip, joints [T, ...], scores [T, ...])."""
    parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    row_clips: dict[int, int] = {}  # row of the batch -> the clip that it streams
    for batch, joints, scores in outputs:
        for row, clip in enumerate(batch['clip'].tolist()):
            before = row_clips.get(row, -1)
            if before not in (clip, -1):
                yield before, *_joined(parts.pop(before))
            row_clips[row] = clip
            if clip >= 0:
                real = batch['mask'][row]
                parts.setdefault(clip, []).append((joints[row][real], scores[row][real]))
    for clip, pieces in parts.items():
        yield clip, *_joined(pieces)


def metric_names(skeleton: Skeleton) -> list[str]:
    """The keys of `scalars` of any evaluation."""
    return list(scalars(PoseMetrics(skeleton, 0).compute()))


def scalars(result: dict[str, Any]) -> dict[str, float]:
    """A nested dict of numbers as {'torso/pck/0.2/mPCK': 0.8, ...}."""
    return traverse_util.flatten_dict(result, sep='/')


def measure(truth: Clips, predictions: Iterable[Prediction]) -> PoseMetrics:
    """The metrics of predicted poses against the clips of a split."""
    metrics = PoseMetrics(truth.skeleton, len(truth))
    for clip, joints, _ in predictions:
        example = truth[clip]
        metrics.update(clip, joints, example['joints'], example['visible'], example['boxes'])
    return metrics


def _joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    joints, scores = zip(*pieces, strict=True)
    return np.concatenate(joints), np.concatenate(scores)


def _sum_over_processes(part: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(part).view(np.uint32)  # JAX would round 64-bit numbers
    return np.asarray(multihost_utils.process_allgather(bits)).view(part.dtype).sum(0)
