"""Poses frame by frame: crop, network and decoder on the people of one frame, the recursion's state kept in between."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from kimnet_jax.core import geometry, heatmap, image
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Array, Decoding
from kimnet_jax.core.video import Frame
from kimnet_jax.inference.people import FramePose, Look, People

Weights = Any  # a pytree of arrays
State = Any  # a pytree of arrays [N, ...], the recursion's
FirstFunction = Callable[[Weights, Array], tuple[Array, State]]  # (weights, normalised frames) -> (heatmaps, state)
StepFunction = Callable[[Weights, State, Array], tuple[Array, State]]  # (weights, state, normalised frames) -> (heatmaps, state)
Pose = tuple[np.ndarray, np.ndarray]  # joints float32 [J, 2] in pixels of the frame, scores float32 [J]


class PosePredictor:
    """A trained model on one video at a time: the people of a frame in one call.

    The host crops; normalisation, network and decoding are one call on the device, from which only the joints return. The number
    of people is filled up to the next of a few (`padded`), and each of the two functions is compiled once for each of these.

    Attributes:
        state: the recursion's after the last frame, on the device; None before the first.
        size: H = W, pixels of the crop.
        stride: crop pixels per heatmap cell.
    """

    def __init__(
        self,
        weights: Weights,
        init_state: FirstFunction,
        step: StepFunction,
        *,
        size: int,
        stride: int,
        box_scale: float,
        decoding: Decoding,
        sigma: float = heatmap.SIGMA,
    ):
        """Takes a model as its weights and two pure functions of them.

        Args:
            weights: the model's arrays.
            init_state: (weights, frames float32 [N, H, W, 3] normalised) -> (heatmaps float32 [N, h, w, J], state).
            step: (weights, state, frames) -> (heatmaps, state).
            size: H = W, pixels of the crop.
            stride: crop pixels per heatmap cell.
            box_scale: side of the crop over the longer side of the box, as in training.
            decoding: how joints are read off the heatmaps.
            sigma: of the target maps in training.
        """
        self._weights, tree = jax.tree.flatten(jax.device_put(weights))  # a list: a tree would be walked at every call
        self.size, self.stride, self._box_scale = size, stride, box_scale
        self.state: State = None
        self._people: list[int] = []  # whose state it is, row by row

        def decoded(heatmaps: Array, state: State) -> tuple[Array, Array, State]:
            cells, scores = heatmap.decode(heatmaps, decoding, jnp, sigma=sigma)
            return cells, scores, state

        @jax.jit
        def first(leaves: list[Array], crops: Array) -> tuple[Array, Array, State]:
            return decoded(*init_state(jax.tree.unflatten(tree, leaves), image.normalise(crops, jnp)))

        @jax.jit
        def following(leaves: list[Array], state: State, crops: Array) -> tuple[Array, Array, State]:
            return decoded(*step(jax.tree.unflatten(tree, leaves), state, image.normalise(crops, jnp)))

        self._first, self._following = first, following

    def __call__(self, frame: np.ndarray, box: Array, *, restart: bool) -> Pose:
        """The pose of the only person in the next frame (see `people`).

        Args:
            frame: uint8 [H, W, 3] RGB, of any size.
            box: [4] of the person, pixels of the frame.
            restart: begin the recursion anew with this frame; always so in a video's first.
        """
        (pose,) = self.people(frame, [Look(0, np.asarray(box), restart)])
        return pose

    def people(self, frame: np.ndarray, looks: Sequence[Look]) -> list[Pose]:
        """The poses of the people in the next frame; of those who are not among them the recursion forgets all.

        Args:
            frame: uint8 [H, W, 3] RGB, of any size.
            looks: where each is; one who was not in the frame before begins anew in any case.
        """
        if not looks:
            self._people, self.state = [], None
            return []
        to_crop = [self.to_crop(look.box) for look in looks]
        fresh = [i for i, look in enumerate(looks) if look.restart or look.person not in self._people]
        known = [i for i in range(len(looks)) if i not in fresh]
        parts, states = [], []
        for part in (known, fresh):
            if not part:
                continue
            size = padded(len(part))
            crops = np.zeros((size, self.size, self.size, 3), np.uint8)
            for row, i in enumerate(part):
                crops[row] = image.warp(frame, to_crop[i], self.size)
            if part is fresh:
                *pose, state = self._first(self._weights, crops)
            else:
                people = [looks[i].person for i in part]
                if people != self._people:
                    self.state = _rows([self.state], [self._people.index(person) for person in people], size)
                *pose, state = self._following(self._weights, self.state, crops)
            parts.append(pose)
            states.append(state)
        order = known + fresh
        self._people = [looks[i].person for i in order]
        self.state = states[0]
        if len(states) > 1:
            of_fresh = padded(len(known))
            rows = [*range(len(known)), *range(of_fresh, of_fresh + len(fresh))]
            self.state = _rows(states, rows, padded(len(rows)))
        found = jax.device_get(parts)
        poses: list[Pose | None] = [None] * len(looks)
        for part, (cells, scores) in zip([part for part in (known, fresh) if part], found, strict=True):
            points = heatmap.cells_to_pixels(cells, self.stride)
            for row, i in enumerate(part):
                poses[i] = (geometry.apply_affine(geometry.invert_affine(to_crop[i]), points[row]), scores[row])
        return [pose for pose in poses if pose is not None]

    def to_crop(self, box: Array, size: int | None = None) -> np.ndarray:
        """The affine map [2, 3] from pixels of the frame to those of the crop; `size` for the same view at another scale."""
        return geometry.crop_matrix(*geometry.square_of_box(box, self._box_scale), size or self.size)


def padded(people: int) -> int:
    """How many are computed side by side: the next of 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    power = 1 << (people - 1).bit_length()
    return power * 3 // 4 if people <= power * 3 // 4 else power


def _rows(states: list[State], rows: list[int], size: int) -> State:
    """State [size, ...] of these rows of all `states` together; what fills it up is the first of them again."""
    chosen = np.array(rows + rows[:1] * (size - len(rows)))
    return _take(states, chosen)


@jax.jit
def _take(states: list[State], rows: Array) -> State:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[rows], *states)


class FramePredictor(Protocol):
    """What `PosePredictor` is to `predict_poses`."""

    def people(self, frame: np.ndarray, looks: Sequence[Look]) -> list[Pose]: ...


def predict_poses(
    predictor: FramePredictor, frames: Iterable[Frame], people: People, *, every: int = 1
) -> Iterator[tuple[Frame, list[FramePose]]]:
    """Every frame of a video with the poses of its people, one at a time.

    Args:
        predictor: the model.
        frames: of the video.
        people: who is in it, and where.
        every: run the model on every so many frames, and on the last; poses in between lie on lines, and frames wait for them.

    Raises:
        InputError: what `people` raises, or heatmaps that are not finite.
    """

    def look(index: int, frame: Frame) -> list[FramePose]:
        looks = people.look(index, frame)
        poses = []
        for one, (joints, scores) in zip(looks, predictor.people(frame.image, looks), strict=True):
            if not np.isfinite(scores).all():
                raise InputError(
                    f"frame {index}: the model's heatmaps are not finite; this checkpoint cannot be used, take another one"
                )
            poses.append(FramePose(index, joints, scores, one.box, one.lost, one.person, frame.time, frame.damaged))
        people.update(poses)
        return poses

    count = 0
    last: list[FramePose] = []
    waiting: list[Frame] = []
    for index, frame in enumerate(frames):
        count = index + 1
        if index % every:
            waiting.append(frame)
            continue
        poses = look(index, frame)
        yield from _between(last, waiting, poses)
        yield frame, poses
        last, waiting = poses, []
    if waiting:
        frame = waiting.pop()
        poses = look(count - 1, frame)
        yield from _between(last, waiting, poses)
        yield frame, poses
    people.finish(count)


def _between(before: list[FramePose], frames: list[Frame], after: list[FramePose]) -> Iterator[tuple[Frame, list[FramePose]]]:
    """Frames between two with poses: those who are in both, on lines."""
    ends = {pose.id: pose for pose in after}
    for i, frame in enumerate(frames):
        poses = []
        for start in before:
            if (end := ends.get(start.id)) is not None:
                span = end.time - start.time
                share = np.float32((frame.time - start.time) / span if span > 0 else (i + 1) / (len(frames) + 1))
                joints, scores, box = (
                    getattr(start, name) * (1 - share) + getattr(end, name) * share for name in ('joints', 'scores', 'box')
                )
                of = (start.frame + 1 + i, joints, scores, box, start.lost or end.lost, start.id, frame.time, frame.damaged)
                poses.append(FramePose(*of, interpolated=True))
        yield frame, poses
