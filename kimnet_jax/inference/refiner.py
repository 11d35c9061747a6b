"""A trained network that refines poses: on whole sequences, and on a stream with a fixed look-ahead."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from kimnet_jax.core.pose_windows import WindowConfig, causal_spans, combine, in_batches, refine, refine_span
from kimnet_jax.core.types import Array
from kimnet_jax.inference.predictor import FramePose

Weights = Any  # a pytree of arrays
_BATCH = 64  # windows of a sequence side by side


class PoseRefiner:
    """HANet, or another network of windows of poses, as its weights and a pure function of them."""

    def __init__(self, weights: Weights, network: Callable[[Weights, Array, Array], Array], windows: WindowConfig):
        """`network`: (weights, normalised poses [B, L, C], mask bool [B, L]) -> poses; `windows` as in training."""
        compiled, weights = jax.jit(network), jax.device_put(weights)
        self.windows = windows
        self._many = in_batches(lambda poses, mask: compiled(weights, poses, mask), _BATCH)
        self.one = in_batches(lambda poses, mask: compiled(weights, poses, mask), 1)

    def __call__(self, joints: Array, boxes: Array, image_size: Array) -> np.ndarray:
        """Refines a sequence: joints [T, J, 2] (NaN: missing), boxes [T, 4] pixels, (rows, columns) -> float32 [T, J, 2]."""
        return refine(self._many, joints, boxes, image_size, self.windows)


class RefinementStream:
    """Refines frame after frame; each is given out as soon as `look_ahead` more have come (`pose_windows.refine_causally`)."""

    def __init__(self, refiner: PoseRefiner, image_size: Array, look_ahead: int):
        """`image_size`: (rows, columns)."""
        self._refiner, self._image_size, self._look_ahead = refiner, image_size, look_ahead
        self._recent: collections.deque[FramePose] = collections.deque(maxlen=refiner.windows.length + look_ahead)
        self._windows: dict[tuple[int, int], np.ndarray] = {}  # those that are still needed, by their spans
        self._seen = self._given = 0

    def push(self, pose: FramePose) -> Iterator[FramePose]:
        """Takes the next pose; yields the refined one of `look_ahead` frames before, once there is one."""
        self._recent.append(pose)
        self._seen += 1
        if self._seen > self._look_ahead:
            yield self._next()

    def flush(self) -> Iterator[FramePose]:
        """The refined poses of the last frames."""
        while self._given < self._seen:
            yield self._next()

    def _next(self) -> FramePose:
        t, oldest = self._given, self._seen - len(self._recent)
        spans = causal_spans(t, self._seen, self._refiner.windows.length, self._look_ahead)
        self._windows = {span: self._windows[span] if span in self._windows else self._run(span) for span in spans}
        self._given += 1
        parts = {t - first: window[t - first] for (first, _), window in self._windows.items()}
        return dataclasses.replace(self._recent[t - oldest], joints=combine(parts, self._refiner.windows.length))

    def _run(self, span: tuple[int, int]) -> np.ndarray:
        oldest = self._seen - len(self._recent)
        poses = [self._recent[t - oldest] for t in range(*span)]
        joints, boxes = np.stack([pose.joints for pose in poses]), np.stack([pose.box for pose in poses])
        return refine_span(self._refiner.one, joints, boxes, self._image_size, self._refiner.windows)


def refine_video(
    refiner: PoseRefiner,
    poses: Iterable[tuple[np.ndarray, FramePose]],
    read_again: Callable[[], Iterable[np.ndarray]],
    look_ahead: int | None,
) -> Iterator[tuple[np.ndarray, FramePose]]:
    """Every frame of a video with its refined pose.

    Args:
        refiner: the network.
        poses: of `predict_poses`: frames uint8 [H, W, 3] and their poses.
        read_again: begins to read the frames anew, where the whole video has to be seen first.
        look_ahead: frames that a refined pose may wait for; None: the whole video.
    """
    if look_ahead is None:
        found, size = [], (0, 0)
        for frame, pose in poses:
            found.append(pose)
            size = frame.shape[:2]
        if found:
            joints = refiner(np.stack([pose.joints for pose in found]), np.stack([pose.box for pose in found]), size)
            for frame, pose, refined in zip(read_again(), found, joints, strict=True):
                yield frame, dataclasses.replace(pose, joints=refined)
        return
    stream: RefinementStream | None = None
    waiting: collections.deque[np.ndarray] = collections.deque()
    for frame, pose in poses:
        stream = stream or RefinementStream(refiner, frame.shape[:2], look_ahead)
        waiting.append(frame)
        for refined in stream.push(pose):
            yield waiting.popleft(), refined
    for refined in stream.flush() if stream else ():
        yield waiting.popleft(), refined
