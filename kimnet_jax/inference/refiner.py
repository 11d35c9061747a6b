"""A trained network that refines poses: on whole sequences, and on a stream with a fixed look-ahead."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from kimnet_jax.core.filters import Filter, FilterStream
from kimnet_jax.core.pose_windows import WindowConfig, causal_spans, combine, in_batches, refine, refine_span
from kimnet_jax.core.types import Array
from kimnet_jax.core.video import Frame
from kimnet_jax.inference.people import FramePose

Weights = Any  # a pytree of arrays
_BATCH = 64  # windows of a sequence side by side
GAP = 8  # frames
_AWAY = -1


class PoseRefiner:
    """HANet, or another network of windows of poses, as its weights and a pure function of them."""

    def __init__(self, weights: Weights, network: Callable[[Weights, Array, Array], Array], windows: WindowConfig):
        """`network`: (weights, normalised poses [B, L, C], mask bool [B, L]) -> poses; `windows` as in training."""
        compiled, weights = jax.jit(network), jax.device_put(weights)
        self.windows = windows
        self._many = in_batches(lambda poses, mask: compiled(weights, poses, mask), _BATCH)
        self.one = in_batches(lambda poses, mask: compiled(weights, poses, mask), 1)

    def __call__(self, joints: Array, boxes: Array, image_size: Array, times: Array | None = None) -> np.ndarray:
        """Refines a sequence (`Refiner`): float32 [T, J, 2]. The network knows frames, and nothing of the time between them."""
        return refine(self._many, joints, boxes, image_size, self.windows)

    def stream(self, image_size: tuple[int, int], look_ahead: int) -> 'RefinementStream':
        """Refines pose after pose."""
        return RefinementStream(self, image_size, look_ahead)


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


class Refiner(Protocol):
    """What changes poses by those before and after: a network or a filter."""

    def __call__(self, joints: np.ndarray, boxes: np.ndarray, image_size: tuple[int, int], times: np.ndarray) -> np.ndarray:
        """A sequence of a person: joints [T, J, 2] (NaN: missing), boxes [T, 4], (rows, columns), seconds [T]."""

    def stream(self, image_size: tuple[int, int], look_ahead: int) -> 'PoseStream':
        """One that gives each pose out when `look_ahead` more have come."""


class PoseStream(Protocol):
    """A sequence of a person, pose after pose."""

    def push(self, pose: FramePose) -> Iterator[FramePose]:
        """Takes the next pose (NaN: missing); yields what is ready."""

    def flush(self) -> Iterator[FramePose]:
        """The last poses."""


class PoseFilter:
    """A filter in the place of a network (`core.filters`); in a stream it sees the past alone, and nothing waits."""

    def __init__(self, smooth: Filter):
        """Takes the filter."""
        self._filter = smooth

    def __call__(self, joints: Array, boxes: Array, image_size: Array, times: Array) -> np.ndarray:
        """Smooths a sequence (`Refiner`); float32 [T, J, 2]."""
        return self._filter(joints, boxes, times).astype(np.float32)

    def stream(self, image_size: tuple[int, int], look_ahead: int) -> '_FilterStream':
        """Smooths pose after pose."""
        return _FilterStream(self._filter.stream())


class _FilterStream:
    def __init__(self, stream: FilterStream):
        self._stream = stream

    def push(self, pose: FramePose) -> Iterator[FramePose]:
        joints = self._stream.push(pose.joints, pose.box, pose.time)
        yield dataclasses.replace(pose, joints=joints.astype(np.float32))

    def flush(self) -> Iterator[FramePose]:
        return iter(())


Poses = Iterable[tuple[Frame, list[FramePose]]]


def refine_video(
    refiner: Refiner, poses: Poses, read_again: Callable[[], Iterable[Frame]], look_ahead: int | None
) -> Iterator[tuple[Frame, list[FramePose]]]:
    """Every frame of a video with the refined poses of its people, each person's for themselves.

    A person who is away for up to `GAP` frames is thought to go on in between; after a longer absence it is another sequence.

    Args:
        refiner: the network or filter.
        poses: of `predict_poses`.
        read_again: begins to read the frames anew, where the whole video has to be seen first.
        look_ahead: frames that a refined pose may wait for; None: the whole video.
    """
    if look_ahead is not None:
        yield from _refine_stream(refiner, poses, look_ahead)
        return
    found, size = [], (0, 0)
    people: dict[int, list[FramePose]] = {}
    for frame, of_frame in poses:
        found.append(of_frame)
        size = (frame.image.shape[0], frame.image.shape[1])
        for pose in of_frame:
            people.setdefault(pose.id, []).append(pose)
    refined = {
        (pose.id, pose.frame): pose
        for sequence in people.values()
        for part in _parts(sequence)
        for pose in _refine_part(refiner, part, size)
    }
    for frame, of_frame in zip(read_again() if found else (), found, strict=True):
        yield frame, [refined[pose.id, pose.frame] for pose in of_frame]


def _parts(sequence: list[FramePose]) -> Iterator[list[FramePose]]:
    start = 0
    for i in range(1, len(sequence) + 1):
        if i == len(sequence) or sequence[i].frame - sequence[i - 1].frame > GAP + 1:
            yield sequence[start:i]
            start = i


def _refine_part(refiner: Refiner, poses: list[FramePose], image_size: tuple[int, int]) -> list[FramePose]:
    there = np.array([pose.frame for pose in poses])
    frames = np.arange(there[0], there[-1] + 1)
    known = np.stack([[*pose.box, pose.time] for pose in poses])
    *boxes, times = (np.interp(frames, there, column) for column in known.T)
    joints = np.full((len(frames), *poses[0].joints.shape), np.nan, np.float32)
    joints[there - there[0]] = [pose.joints for pose in poses]
    refined = refiner(joints, np.stack(boxes, -1).astype(np.float32), image_size, times)[there - there[0]]
    return [dataclasses.replace(pose, joints=one) for pose, one in zip(poses, refined, strict=True)]


class _Stream(NamedTuple):
    poses: PoseStream
    last: FramePose
    away: int  # frames since


def _refine_stream(refiner: Refiner, poses: Poses, look_ahead: int) -> Iterator[tuple[Frame, list[FramePose]]]:
    streams: dict[int, _Stream] = {}
    waiting: collections.deque[tuple[Frame, list[FramePose]]] = collections.deque()
    done: dict[tuple[int, int], FramePose] = {}

    def keep(ready: Iterable[FramePose]) -> None:
        done.update({(pose.id, pose.frame): pose for pose in ready if pose.frame != _AWAY})

    def ready() -> Iterator[tuple[Frame, list[FramePose]]]:
        while waiting and all((pose.id, pose.frame) in done for pose in waiting[0][1]):
            frame, of_frame = waiting.popleft()
            yield frame, [done.pop((pose.id, pose.frame)) for pose in of_frame]

    for frame, of_frame in poses:
        waiting.append((frame, of_frame))
        here = {pose.id: pose for pose in of_frame}
        for person, (stream, last, away) in list(streams.items()):
            if person in here:
                continue
            if away == GAP:
                keep(streams.pop(person).poses.flush())
                continue
            gap = np.full_like(last.joints, np.nan)
            keep(stream.push(dataclasses.replace(last, frame=_AWAY, joints=gap, time=frame.time)))
            streams[person] = _Stream(stream, last, away + 1)
        for person, pose in here.items():
            size = (frame.image.shape[0], frame.image.shape[1])
            stream = streams[person].poses if person in streams else refiner.stream(size, look_ahead)
            streams[person] = _Stream(stream, pose, 0)
            keep(stream.push(pose))
        yield from ready()
    for one in streams.values():
        keep(one.poses.flush())
    yield from ready()
