"""A clip of a built data set or a video, and what a network makes of its frames."""

import contextlib
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.core.video import DEFAULT_RATE, Frame, read_frames
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.export import find_clip
from kimnet_jax.inference.people import FramePose, Look, OnePerson
from kimnet_jax.inference.predictor import Pose, PosePredictor, predict_poses
from kimnet_jax.tasks import videos
from kimnet_jax.tasks.occlusion import names_of
from kimnet_jax.tasks.trained import Trained

MOST = 50  # frames of a picture


@dataclasses.dataclass(frozen=True)
class Footage:
    """A clip or a video.

    Attributes:
        name: of the clip, or of the video without its suffix.
        read: begins to read its frames.
        timed: whether the times of its frames are those at which it was filmed; of a clip or of images nobody knows them.
        boxes: [T, 4] of the person in every frame of a clip; of a video [1, 4] in the first frame, or None: the whole frame.
        boxes_source: what errors about the boxes name.
        example: the clip, with the truth; None of a video.
        skeleton: of the truth; None of a video.
    """

    name: str
    read: Callable[[], Generator[Frame, None, None]]
    timed: bool
    boxes: np.ndarray | None
    boxes_source: str
    example: Example | None = None
    skeleton: Skeleton | None = None


class Frames(NamedTuple):
    """Which frames to show: those of `range(first, end, every)`; `end` None: up to the last."""

    first: int = 0
    end: int | None = None
    every: int = 1

    def __str__(self) -> str:
        bounds = f'{self.first}:{"" if self.end is None else self.end}'
        return f'--frames {bounds}' + (f':{self.every}' if self.every != 1 else '')


def open_clip(
    found: Trained, clip: str, *, dataset: str | None = None, data_dir: str | None = None, split: str | None = None
) -> Footage:
    """A clip of a built data set.

    Args:
        found: the network, whose data set and split are the defaults.
        clip: its index or name.
        dataset: NAME/CONFIG.
        data_dir: the folder that it was built in.
        split: of the data set.

    Raises:
        InputError: there is no such data set or clip.
    """
    own = found.section(clip_source.DatasetConfig, 'dataset')
    if dataset is not None:
        name, _, config = dataset.partition('/')
        if not (name and config):
            raise InputError(f'--dataset {dataset}: give NAME/CONFIG, such as sub_jhmdb/fold1')
        own = clip_source.DatasetConfig(name=name, config=config, data_dir=own.data_dir)
    source = own.open('eval', data_dir, split)
    example = find_clip(source, clip)

    def read() -> Generator[Frame, None, None]:
        for i, frame in enumerate(example['frames']):
            yield Frame(decode_image(frame, f'{source.folder}: clip {example["clip"]!r}, frame {i}'), i / DEFAULT_RATE)

    return Footage(example['clip'], read, False, example['boxes'], str(source.folder), example, source.skeleton)


def open_video(path: pathlib.Path, box: np.ndarray | None = None) -> Footage:
    """A video file or a folder of images; `box` [1, 4] of the person in the first frame. Raises `InputError`."""
    told = False

    def read() -> Generator[Frame, None, None]:
        nonlocal told
        for number, frame in enumerate(read_frames(path, tolerant=True)):
            if frame.damaged and not told:
                told = True
                print(f'warning: {path}: damaged from frame {number} on; poses there are unreliable', file=sys.stderr)
            yield frame

    name = path.name if path.is_dir() else path.stem
    return Footage(name, read, not path.is_dir(), box, 'the whole frame' if box is None else '--box')


class Seen(NamedTuple):
    """What a network made of a frame.

    Attributes:
        pose: in pixels of the frame.
        begins: whether a chain begins with it; it has no evidence then.
        heatmaps: [h, w, J]; None where they were not asked for.
        evidence: by name.
    """

    pose: FramePose
    begins: bool
    heatmaps: np.ndarray | None = None
    evidence: Mapping[str, np.ndarray] = {}


class _Watch:
    """A predictor that begins a new chain after some frames, and says when one begins."""

    def __init__(self, predictor: PosePredictor, chain_length: int):
        self._predictor, self._chain_length, self._count = predictor, chain_length, 0
        self.begins = True

    def people(self, frame: np.ndarray, looks: Sequence[Look]) -> list[Pose]:
        self.begins = any(look.restart for look in looks) or bool(self._chain_length and self._count % self._chain_length == 0)
        self._count += 1
        return self._predictor.people(frame, [look._replace(restart=self.begins) for look in looks])


@dataclasses.dataclass(frozen=True)
class Watched:
    """A network on footage, from its first frame to the last that is shown.

    Attributes:
        found: the network.
        predictor: the same, ready for videos.
        seen: of every frame up to the last that is shown.
        shown: numbers of the frames to show.
        frames: the frames to show, by their numbers, where they were asked for.
    """

    found: Trained
    predictor: PosePredictor
    seen: Sequence[Seen]
    shown: range
    frames: Mapping[int, np.ndarray]

    @property
    def joints(self) -> np.ndarray:
        """float32 [T, J, 2] of the frames to show, pixels."""
        return np.stack([self.seen[t].pose.joints for t in self.shown])


def watch(
    found: Trained, footage: Footage, asked: Frames | None, most: int | None, *, keep: bool = True, maps: bool = False
) -> Watched:
    """Runs a network on footage, as `predict` runs it on videos; a clip with the true boxes, as `evaluate`.

    Args:
        found: the network.
        footage: the clip or video.
        asked: the frames to show; None: the first ones.
        most: frames to show where none are asked for; None: all.
        keep: keep the frames to show.
        maps: keep heatmaps and evidence of the frames to show.

    Raises:
        InputError: there are fewer frames than asked for, more to keep than `MOST`, or the footage cannot be read.
    """
    frames = asked or Frames(end=most)
    if footage.skeleton is not None:
        found.require_skeleton(footage.skeleton, f'clip {footage.name!r}')
    predictor = videos.load(found, watch=True).predictor
    watched = _Watch(predictor, found.config['eval'].get('chain_length', 0) if footage.example is not None else 0)
    boxes = footage.boxes
    if footage.example is not None:
        boxes = footage.example['boxes'][: frames.end]
        if len(boxes) == 1:  # given for every frame, not to be followed
            watched = _Watch(predictor, 1)
    seen, kept = [], {}
    with contextlib.closing(footage.read()) as stream:
        poses = predict_poses(watched, itertools.islice(stream, frames.end), OnePerson(boxes, footage.boxes_source))
        for frame, (pose,) in tqdm(poses, desc=names_of([found.name])[0], unit='frame', disable=None, leave=False):
            shown = pose.frame >= frames.first and (pose.frame - frames.first) % frames.every == 0
            if shown and keep:
                kept[pose.frame] = frame.image
            if len(kept) > MOST:  # of more, Matplotlib could make no image
                raise InputError(f'{frames}: a picture shows at most {MOST} frames; show fewer, or every n-th with A:B:STEP')
            if shown and maps:
                state = jax.device_get((predictor.state.heatmaps, predictor.state.evidence))
                seen.append(Seen(pose, watched.begins, state[0][0], {key: value[0] for key, value in state[1].items()}))
            else:
                seen.append(Seen(pose, watched.begins))
    if asked is not None and (len(seen) <= frames.first or (frames.end is not None and len(seen) < frames.end)):
        raise InputError(f'{asked}: {footage.name} has only {len(seen)} frames')
    return Watched(found, predictor, seen, range(frames.first, len(seen), frames.every), kept)
