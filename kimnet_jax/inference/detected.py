"""People whom a detector finds: followed by their poses, and known again by their number."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kimnet_jax.core.video import Frame
from kimnet_jax.inference.detection import Detector
from kimnet_jax.inference.people import FramePose, Look
from kimnet_jax.inference.tracking import Tracker, TrackerConfig, overlap


@dataclasses.dataclass(frozen=True)
class AssociationConfig:
    """Which detection is of whom.

    Attributes:
        every: frames that the network sees from one look of the detector to the next; in between, boxes follow the poses.
        same_person: overlap (intersection over union) from which a detection is of the person in a box.
        twice: overlap of two people's boxes from which they are one, and the one of the higher number goes.
        memory: seconds for which one who was lost is known again where the last box was.
    """

    every: int = 5
    same_person: float = 0.3
    twice: float = 0.8
    memory: float = 1.0


@dataclasses.dataclass
class _Lost:
    box: np.ndarray
    time: float


class DetectedPeople:
    """The people whom a detector finds (`people.People`).

    A person's box follows the pose. Where the pose is lost, the person goes; where a detection is of nobody, it is someone new,
    or one who went a moment ago.
    """

    def __init__(self, detector: Detector, tracking: TrackerConfig | None = None, config: AssociationConfig | None = None):
        """Takes what finds people, and how they are followed and told apart."""
        self._detector, self._tracking, self._config = detector, tracking or TrackerConfig(), config or AssociationConfig()
        self._here: dict[int, Tracker] = {}
        self._lost: dict[int, _Lost] = {}
        self._frames = self._people = 0
        self._time = 0.0

    def look(self, index: int, frame: Frame) -> Sequence[Look]:
        """Where the pose of the frame before was, or where the detector finds someone."""
        size, self._time = (frame.image.shape[0], frame.image.shape[1]), frame.time
        if self._frames % self._config.every == 0:
            self._lost = {i: one for i, one in self._lost.items() if self._time - one.time <= self._config.memory}
            found = list(self._detector(frame.image).boxes)
            taken = self._match(found, {i: tracker.box for i, tracker in self._here.items()})
            free = [box for i, box in enumerate(found) if i not in taken]
            known = self._match(free, {i: one.box for i, one in self._lost.items()})
            for i, box in enumerate(free):
                if i not in known:
                    self._people += 1
                person = known.get(i, self._people)
                self._lost.pop(person, None)
                self._here[person] = Tracker(box, size, self._tracking)
        self._frames += 1
        return [Look(person, tracker.box, tracker.restart) for person, tracker in sorted(self._here.items())]

    def update(self, poses: Sequence[FramePose]) -> None:
        """Follows them; who is lost goes, and of two in one place the later."""
        for pose in poses:
            tracker = self._here[pose.id]
            before = tracker.box
            tracker.update(pose.joints, pose.scores)
            if tracker.lost:
                del self._here[pose.id]
                self._lost[pose.id] = _Lost(before, self._time)
        stay: dict[int, Tracker] = {}
        for person, tracker in sorted(self._here.items()):
            if all(overlap(tracker.box, other.box) < self._config.twice for other in stay.values()):
                stay[person] = tracker
        self._here = stay

    def finish(self, frames: int) -> None:
        """Any number of frames fits."""

    def _match(self, found: Sequence[np.ndarray], people: dict[int, np.ndarray]) -> dict[int, int]:
        """Which person [their number] a detection [its index] is: the assignment of the largest overlaps altogether."""
        from scipy.optimize import linear_sum_assignment  # slow to import

        if not len(found) or not people:
            return {}
        numbers = list(people)
        shared = np.array([[overlap(box, people[person]) for person in numbers] for box in found])
        pairs = zip(*linear_sum_assignment(shared, maximize=True), strict=True)
        return {int(i): numbers[j] for i, j in pairs if shared[i, j] >= self._config.same_person}
