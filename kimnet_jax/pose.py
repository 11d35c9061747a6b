"""Poses of the people in videos, in a few lines: `Pose.load()(video)` (docs/python.md)."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from kimnet_jax import pretrained
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.sources import open_source
from kimnet_jax.core.video import DEFAULT_RATE, Frame
from kimnet_jax.inference.detected import AssociationConfig, DetectedPeople
from kimnet_jax.inference.detection import Detector, open_detector
from kimnet_jax.inference.people import FramePose, OnePerson, People, TrackedPeople
from kimnet_jax.inference.predictor import predict_poses
from kimnet_jax.inference.refiner import refine_video
from kimnet_jax.inference.tracking import TrackerConfig, read_boxes
from kimnet_jax.inference.tracks import read_tracks
from kimnet_jax.inference.video import draw_poses
from kimnet_jax.tasks import videos
from kimnet_jax.tasks.trained import open_trained

Path = str | pathlib.Path


@dataclasses.dataclass(frozen=True)
class PosedFrame:
    """A frame and the people in it.

    Attributes:
        index: of the frame, from 0.
        time: seconds at which it is shown, after the first.
        image: uint8 [H, W, 3] RGB, as players show it.
        persons: their poses; coordinates are pixels of the image.
    """

    index: int
    time: float
    image: np.ndarray
    persons: Sequence[FramePose]


@dataclasses.dataclass(frozen=True)
class Pose:
    """A trained network that finds poses in videos.

    Attributes:
        model: the network, ready for videos.
    """

    model: videos.VideoPoses

    @classmethod
    def load(cls, model: Path = pretrained.DEFAULT, *, checkpoint: str = 'best', refine: Path | None = None) -> 'Pose':
        """Opens a network.

        Args:
            model: the name of a pretrained network (`kimnet models` lists them), the folder of a run, or a file of weights.
            checkpoint: of a run: `best`, `last` or a step.
            refine: a HANet that refines the poses, named likewise.

        Raises:
            InputError: there is no such network, or it is none of videos.
        """
        found = videos.load(open_trained(str(model), checkpoint))
        if refine is not None:
            from kimnet_jax.tasks import refinement  # with what it needs it takes longer to import than all the rest

            found = videos.with_refiner(found, refinement.load(open_trained(str(refine))), None)
        return cls(found)

    @property
    def skeleton(self) -> Skeleton:
        """Of the poses: `skeleton.joints` are the names of the joints."""
        return self.model.skeleton

    def __call__(
        self,
        video: Path | Iterable[np.ndarray],
        *,
        box: Sequence[float] | None = None,
        boxes: np.ndarray | Path | None = None,
        tracks: Mapping[int, Mapping[int, np.ndarray]] | Path | None = None,
        detect: str | Detector | None = None,
        detect_every: int = AssociationConfig.every,
        every: int = 1,
        smooth: str | None = None,
        rate: float = DEFAULT_RATE,
        look_ahead: int | None = None,
    ) -> Iterator[PosedFrame]:
        """The frames of a video with the poses of its people, one at a time.

        Of `box`, `boxes`, `tracks` and `detect` at most one says where the people are; without any it is one person, who fills
        much of the first frame.

        Args:
            video: a video file, a folder of images, a webcam (`'0'`), an address, or images uint8 [H, W, 3] RGB of one size.
            box: [4] of the only person in the first frame, x0, y0, x1, y1 in pixels.
            boxes: [T, 4] in every frame, or a file of them.
            tracks: of several people: by the index of the frame, and there by a number of each person, their box [4]; or a file
                of them (`inference.tracks.read_tracks`).
            detect: finds the people: `'hog'`, an ONNX file of a detector, or a function (`inference.detection.Detector`).
            detect_every: look for new people in every so many of the frames that the network sees.
            every: run the network on every so many frames; poses in between lie on lines.
            smooth: a filter, as `'one_euro'` or `'savgol:window=0.4,order=2'` (`core.filters.parse_filter`).
            rate: frames a second of `video`, where it is images.
            look_ahead: with a refiner or filter: how many frames a pose may wait for, of a filter 0; None: the whole video, which
                is read twice then, and images that come one by one cannot be.

        Raises:
            InputError: the video cannot be read, or what is known of the people does not fit it.
        """
        people = _people(box, boxes, tracks, detect, detect_every)
        model = self.model
        if smooth is not None:
            if model.refiner is not None:
                raise InputError('smooth: this Pose has a network that refines; use one of them')
            model = videos.with_filter(model, smooth, look_ahead is not None)
        if isinstance(video, str | pathlib.Path):
            source = open_source(str(video))
            read, again = functools.partial(source.frames, True), source.readable_again
        else:
            again = isinstance(video, Sequence)
            read = functools.partial(_filmed, video if again else iter(video), rate)
        if model.refiner is not None and look_ahead is None and not again:
            raise InputError('frames that come once cannot be refined as a whole; give look_ahead, how many a pose may wait for')
        poses = predict_poses(model.predictor, read(), people, every=every)
        if model.refiner is not None:
            poses = refine_video(model.refiner, poses, read, look_ahead)
        for index, (frame, found) in enumerate(poses):
            yield PosedFrame(index, frame.time, frame.image, [model.calibrated(pose) for pose in found])

    def draw(self, frame: PosedFrame) -> np.ndarray:
        """The image uint8 [H, W, 3] RGB with the people drawn onto it, as in the overlays of `predict`."""
        return draw_poses(frame.image, frame.persons, self.skeleton, TrackerConfig.joint_score)


def _filmed(images: Iterable[np.ndarray], rate: float) -> Iterator[Frame]:
    size = None
    for number, image in enumerate(images):
        if getattr(image, 'dtype', None) != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            what = f'{image.dtype} {list(image.shape)}' if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f'image {number}: {what}; images are uint8 [H, W, 3], RGB')
        size = size or image.shape
        if image.shape != size:
            raise InputError(f'image {number}: {list(image.shape)}, the first is {list(size)}; images of a video are of one size')
        yield Frame(image, number / rate)


def _people(
    box: Sequence[float] | None,
    boxes: np.ndarray | Path | None,
    tracks: Mapping[int, Mapping[int, np.ndarray]] | Path | None,
    detect: str | Detector | None,
    detect_every: int,
) -> People:
    known = {'box': box, 'boxes': boxes, 'tracks': tracks, 'detect': detect}
    given = [name for name, value in known.items() if value is not None]
    if len(given) > 1:
        raise InputError(f'{given[0]} and {given[1]}: give one of them')
    if detect is not None:
        detector = open_detector(detect) if isinstance(detect, str) else detect
        return DetectedPeople(detector, config=AssociationConfig(every=detect_every))
    if tracks is not None:
        if isinstance(tracks, str | pathlib.Path):
            return TrackedPeople(read_tracks(tracks), str(tracks))
        arrays = {t: {person: np.asarray(row, np.float32) for person, row in people.items()} for t, people in tracks.items()}
        return TrackedPeople(arrays, 'tracks')
    if boxes is not None and isinstance(boxes, str | pathlib.Path):
        return OnePerson(read_boxes(boxes), str(boxes))
    rows = None if box is None and boxes is None else np.atleast_2d(np.asarray(boxes if box is None else box, np.float32))
    if rows is not None and rows.shape[-1] != 4:
        raise InputError(f'{given[0]}: of shape {list(rows.shape)}, expected four numbers x0, y0, x1, y1 each')
    return OnePerson(rows, given[0] if given else 'the whole frame')
