"""Who is in a video, and where in each frame: one person who is followed or given, or several with their tracks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.video import Frame
from kimnet_jax.inference.tracking import Tracker, TrackerConfig, check_boxes, whole_image

ONLY = 1  # the number of a person who is alone


class Look(NamedTuple):
    """Where to look for a person in a frame.

    Attributes:
        person: a number of their own in the video.
        box: float32 [4], pixels of the frame.
        restart: whether the recursion begins anew.
        lost: whether this is a search.
    """

    person: int
    box: np.ndarray
    restart: bool
    lost: bool = False


@dataclasses.dataclass(frozen=True)
class FramePose:
    """The pose of a person in one frame.

    Attributes:
        frame: index of the frame, from 0.
        joints: float32 [J, 2], pixels of the frame.
        scores: float32 [J], each heatmap's value at its peak.
        box: float32 [4], where the person was looked for, pixels of the frame.
        lost: whether that was a search, or the last poses in the given boxes were unsure.
        id: the person's number in the video.
        time: of the frame, seconds after the first.
        damaged: whether the frame is not as it was filmed, its file being damaged there.
        interpolated: whether the network did not see the frame, and the pose lies between those of two others.
        probabilities: float64 [J], of lying near the true joint (`core.calibration`); None where the scores are not calibrated.
    """

    frame: int
    joints: np.ndarray
    scores: np.ndarray
    box: np.ndarray
    lost: bool
    id: int = ONLY
    time: float = 0.0
    damaged: bool = False
    interpolated: bool = False
    probabilities: np.ndarray | None = None

    @property
    def score(self) -> float:
        """Mean of the joints' scores."""
        return float(self.scores.mean())


class People(Protocol):
    """The people of a video, frame after frame."""

    def look(self, index: int, frame: Frame) -> Sequence[Look]:
        """Where they are in the next frame that the network sees. Raises `InputError`."""

    def update(self, poses: Sequence[FramePose]) -> None:
        """Takes in their poses there."""

    def finish(self, frames: int) -> None:
        """After the last of the video's frames. Raises `InputError` where they do not fit what was given."""


class OnePerson:
    """A person, alone: followed from a box in the first frame, or looked for in a given box in every frame."""

    def __init__(self, boxes: np.ndarray | None = None, source: str = 'boxes', config: TrackerConfig | None = None):
        """Takes what is known of the person.

        Args:
            boxes: float32 [N, 4]; one box is the first frame's, and the following ones come from the poses; several are one a
                frame. None: the whole first frame.
            source: what errors about the boxes name.
            config: how the box follows the pose, and when the person is lost.
        """
        self._boxes, self._source, self._config = boxes, source, config
        self._given = boxes if boxes is not None and len(boxes) > 1 else None
        self._tracker: Tracker | None = None
        self._begun = False

    def look(self, index: int, frame: Frame) -> Sequence[Look]:
        """The person's box."""
        size = frame.image.shape[:2]
        if self._tracker is None:
            start = whole_image(size)[None] if self._boxes is None else self._boxes
            check_boxes(start, size, self._source)
            self._tracker = Tracker(start[0], size, self._config)
        if self._given is None:
            return [Look(ONLY, self._tracker.box, self._tracker.restart, self._tracker.lost)]
        if index >= len(self._given):
            return []  # the number of frames is told once it is known
        restart, self._begun = not self._begun, True
        return [Look(ONLY, self._given[index], restart, self._tracker.lost)]

    def update(self, poses: Sequence[FramePose]) -> None:
        """Follows the pose, or judges whether it is there."""
        for pose in poses:
            if self._tracker is not None:
                self._tracker.update(pose.joints, pose.scores)

    def finish(self, frames: int) -> None:
        """Raises `InputError` unless there are as many boxes as frames."""
        if self._given is not None and frames != len(self._given):
            raise InputError(
                f'{self._source}: {len(self._given)} boxes, and the video has {frames} frames; '
                'give one box (the first frame) or one for each frame'
            )


class TrackedPeople:
    """Several people, in given boxes; each frame may have others. Where a box jumps, its recursion begins anew."""

    def __init__(self, boxes: Mapping[int, Mapping[int, np.ndarray]], source: str, config: TrackerConfig | None = None):
        """`boxes`: by the index of the frame, and there by the person's number: float32 [4]; `source` is named in errors."""
        self._boxes, self._source, self._config = boxes, source, config or TrackerConfig()
        self._judges: dict[int, Tracker] = {}
        self._last: Mapping[int, np.ndarray] = {}

    def look(self, index: int, frame: Frame) -> Sequence[Look]:
        """The boxes of this frame; one who was away begins anew."""
        boxes, size = self._boxes.get(index, {}), frame.image.shape[:2]
        for person, box in boxes.items():
            check_boxes(box[None], size, f'{self._source}: frame {index}, id {person}')
        self._judges = {
            person: self._judges[person] if person in self._last else Tracker(box, size, self._config)
            for person, box in boxes.items()
        }
        looks = [
            Look(
                person,
                box,
                person not in self._last or self._judges[person].in_another_view(box, self._last[person]),
                self._judges[person].lost,
            )
            for person, box in boxes.items()
        ]
        self._last = boxes
        return looks

    def update(self, poses: Sequence[FramePose]) -> None:
        """Judges whether each is there."""
        for pose in poses:
            self._judges[pose.id].update(pose.joints, pose.scores)

    def finish(self, frames: int) -> None:
        """Raises `InputError` where there are boxes of frames beyond the last."""
        last = max(self._boxes, default=0)
        if last >= frames:
            raise InputError(
                f'{self._source}: has boxes of frame {last} (counted from 0), and the video has {frames} frames; '
                + ('count frames from 0' if last == frames and 0 not in self._boxes else 'give the tracks of this video')
            )
