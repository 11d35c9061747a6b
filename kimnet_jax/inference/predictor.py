"""Poses frame by frame: crop, network and decoder on one frame, the recursion's state kept in between."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from kimnet_jax.core import geometry, heatmap, image
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Array, Decoding
from kimnet_jax.inference.tracking import Tracker, TrackerConfig, check_boxes, whole_image

Weights = Any  # a pytree of arrays
State = Any  # a pytree of arrays, the recursion's
FirstFunction = Callable[[Weights, Array], tuple[Array, State]]  # (weights, normalised frames) -> (heatmaps, state)
StepFunction = Callable[[Weights, State, Array], tuple[Array, State]]  # (weights, state, normalised frames) -> (heatmaps, state)


@dataclasses.dataclass(frozen=True)
class FramePose:
    """The pose in one frame.

    Attributes:
        frame: index of the frame, from 0.
        joints: float32 [J, 2], pixels of the original frame.
        scores: float32 [J], each heatmap's value at its peak.
        box: float32 [4], where the person was looked for, pixels of the original frame.
        lost: whether that was a search, the person being lost.
        damaged: whether the frame is not as it was filmed, its file being damaged there.
        probabilities: float64 [J], of lying near the true joint (`core.calibration`); None where the scores are not calibrated.
    """

    frame: int
    joints: np.ndarray
    scores: np.ndarray
    box: np.ndarray
    lost: bool
    damaged: bool = False
    probabilities: np.ndarray | None = None

    @property
    def score(self) -> float:
        """Mean of the joints' scores."""
        return float(self.scores.mean())


class PosePredictor:
    """A trained model on one video at a time; batch size 1, each of its two functions compiled once.

    The host crops; normalisation, network and decoding are one call on the device, from which only the joints return.

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
            init_state: (weights, frames float32 [1, H, W, 3] normalised) -> (heatmaps float32 [1, h, w, J], state).
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

        def decoded(heatmaps: Array, state: State) -> tuple[Array, Array, State]:
            cells, scores = heatmap.decode(heatmaps[0], decoding, jnp, sigma=sigma)
            return cells, scores, state

        @jax.jit
        def first(leaves: list[Array], crop: Array) -> tuple[Array, Array, State]:
            return decoded(*init_state(jax.tree.unflatten(tree, leaves), image.normalise(crop, jnp)))

        @jax.jit
        def following(leaves: list[Array], state: State, crop: Array) -> tuple[Array, Array, State]:
            return decoded(*step(jax.tree.unflatten(tree, leaves), state, image.normalise(crop, jnp)))

        self._first, self._following = first, following

    def __call__(self, frame: np.ndarray, box: Array, *, restart: bool) -> tuple[np.ndarray, np.ndarray]:
        """The pose in the next frame.

        Args:
            frame: uint8 [H, W, 3] RGB, of any size.
            box: [4] of the person, pixels of the frame.
            restart: begin the recursion anew with this frame; always so in a video's first.

        Returns:
            (joints float32 [J, 2] in pixels of the frame, scores float32 [J]).
        """
        to_crop = self.to_crop(box)
        crop = image.warp(frame, to_crop, self.size)[None]
        if restart:
            *pose, self.state = self._first(self._weights, crop)
        else:
            *pose, self.state = self._following(self._weights, self.state, crop)
        cells, scores = jax.device_get(pose)
        return geometry.apply_affine(geometry.invert_affine(to_crop), heatmap.cells_to_pixels(cells, self.stride)), scores

    def to_crop(self, box: Array, size: int | None = None) -> np.ndarray:
        """The affine map [2, 3] from pixels of the frame to those of the crop; `size` for the same view at another scale."""
        return geometry.crop_matrix(*geometry.square_of_box(box, self._box_scale), size or self.size)


class FramePredictor(Protocol):
    """What `PosePredictor` is to `predict_poses`."""

    def __call__(self, frame: np.ndarray, box: Array, *, restart: bool) -> tuple[np.ndarray, np.ndarray]: ...


def predict_poses(
    predictor: FramePredictor,
    frames: Iterable[np.ndarray],
    boxes: np.ndarray | None = None,
    *,
    boxes_source: str = 'boxes',
    config: TrackerConfig | None = None,
) -> Iterator[tuple[np.ndarray, FramePose]]:
    """Every frame of a video with its pose, one at a time.

    Args:
        predictor: the model.
        frames: uint8 [H, W, 3] RGB.
        boxes: float32 [N, 4]; one box is the first frame's, and the following ones come from the poses; several are one a frame.
            None: the whole first frame.
        boxes_source: what errors about the boxes name.
        config: how the box follows the pose.

    Raises:
        InputError: a box outside the image, not as many boxes as frames, or heatmaps that are not finite.
    """
    frames = iter(frames)
    given = boxes if boxes is not None and len(boxes) > 1 else None
    tracker: Tracker | None = None
    count = 0
    for count, frame in enumerate(frames, 1):
        index, size = count - 1, frame.shape[:2]
        if tracker is None:
            start = whole_image(size)[None] if boxes is None else boxes
            check_boxes(start, size, boxes_source)
            tracker = Tracker(start[0], size, config)
        if given is None:
            box, restart, lost = tracker.box, tracker.restart, tracker.lost
        elif index < len(given):
            box, restart, lost = given[index], index == 0, False
        else:
            raise InputError(_mismatch(boxes_source, len(given), count + sum(1 for _ in frames)))
        joints, scores = predictor(frame, box, restart=restart)
        if not np.isfinite(scores).all():
            raise InputError(
                f"frame {index}: the model's heatmaps are not finite; this checkpoint cannot be used, take another one"
            )
        yield frame, FramePose(index, joints, scores, box, lost)
        tracker.update(joints, scores)
    if given is not None and count != len(given):
        raise InputError(_mismatch(boxes_source, len(given), count))


def _mismatch(source: str, boxes: int, frames: int) -> str:
    return f'{source}: {boxes} boxes, and the video has {frames} frames; give one box (the first frame) or one for each frame'
