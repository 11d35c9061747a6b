"""Clips of labelled images: what a builder stores of them, and what `kimnet doctor` finds in their pictures."""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.image import decode_image, encode_png
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.core.video import read_frames
from kimnet_jax.data_pipelines import schema
from kimnet_jax.data_pipelines.builders.coco_keypoints.clips import Clip
from kimnet_jax.data_pipelines.builders.coco_keypoints.layout import Frame
from kimnet_jax.data_pipelines.clip_builder import ClipReader
from kimnet_jax.data_pipelines.findings import Check, Finding, Report, attempt, summarise
from kimnet_jax.data_pipelines.images import read_image
from kimnet_jax.data_pipelines.persons import find_outside

_STORED = (b'\xff\xd8', b'\x89PNG', b'RIFF')  # JPEG, PNG, WebP; other images are stored as PNG


@dataclasses.dataclass(frozen=True)
class LabelledClips:
    """Attributes:
    skeleton: of all persons.
    splits: name -> its clips.
    frames: name of an image -> its picture; those that are missing are among the problems.
    findings: what was left out or mended.
    notes: sentences on the choices that were made.
    problems: what a build refuses, one line each.
    leak: why a result says nothing of unseen clips; '' where no video is in two splits.
    unlabelled: images that have no person.
    """

    skeleton: Skeleton
    splits: Mapping[str, Sequence[Clip]]
    frames: Mapping[str, Frame]
    findings: Sequence[Finding]
    notes: Sequence[str]
    problems: Sequence[str]
    leak: str
    unlabelled: int


def shortened(problems: Sequence[str]) -> str:
    """The first problem, and how many there are more."""
    more = f'; and {len(problems) - 1} more, which `kimnet doctor` lists' if len(problems) > 1 else ''
    return problems[0] + more


def make_readers(data: LabelledClips) -> dict[str, list[ClipReader]]:
    """For each split, what reads its clips; prints what was left out or mended. Raises `InputError` where there are problems."""
    if data.problems:
        raise InputError(shortened(data.problems))
    leak = [f'No result on unseen clips: {data.leak}'] if data.leak else []
    for line in (*data.notes, *summarise(data.findings), *leak):
        print(f'note: {line}', file=sys.stderr)
    return {
        split: [
            functools.partial(read_clip, clip, [data.frames[image.name] for image, _ in clip.frames], data.skeleton)
            for clip in clips
        ]
        for split, clips in data.splits.items()
    }


def inspect_clips(data: LabelledClips, root: pathlib.Path, counts: Mapping[str, int], pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one clip; `counts`: what there is to count besides clips."""
    findings = [*data.findings, *(Finding('error', str(root), problem) for problem in data.problems)]
    if data.leak:
        findings.append(Finding('warning', str(root), f'reason why no result is one on unseen clips: {data.leak}'))
    checks: list[Check] = []
    for clip in [clip for clips in data.splits.values() for clip in clips]:
        places = [data.frames[image.name] for image, _ in clip.frames if image.name in data.frames]
        checks.append(functools.partial(_check, clip, places, pixels and len(places) == len(clip.frames)))
    return Report(findings, {f'{split} clips': len(clips) for split, clips in data.splits.items()} | dict(counts)), checks


def _check(clip: Clip, places: Sequence[Frame], pixels: bool) -> Report:
    findings: list[Finding] = []
    read = attempt(findings, clip.name, read_pictures, clip, places) if pixels else None
    joints, visible = _labels_of(clip)
    if read:
        findings += find_outside(clip.name, joints, visible, read[1])
    return Report(findings, {'labelled persons': len(clip.frames), 'labelled joints': int(visible.sum())})


def _labels_of(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Joints [T, J, 2] and which are annotated [T, J]."""
    persons = [person for _, person in clip.frames]
    return np.stack([person.joints for person in persons]), np.stack([person.visible for person in persons])


def read_clip(clip: Clip, places: Sequence[Frame], skeleton: Skeleton) -> Example:
    """The example of a clip; the frame of each image is in one of `places`."""
    frames, image_size = read_pictures(clip, places)
    joints, visible = _labels_of(clip)
    example = {
        'clip': clip.name,
        'action': '',
        'frames': frames,
        'joints': joints,
        'visible': visible,
        'boxes': np.stack([person.box for _, person in clip.frames]),
        'image_size': image_size,
        'findings': find_outside(clip.name, joints, visible, image_size),
    }
    return schema.checked_example(example, skeleton, str(clip.frames[0][0].source))


def read_pictures(clip: Clip, places: Sequence[Frame]) -> tuple[list[bytes], tuple[int, int]]:
    """The encoded frames of a clip: images as they came, frames of videos as PNG; and their (rows, columns).

    Raises:
        InputError: one is missing, damaged, or of another size than the first one or than the annotations state.
    """
    wanted = {place.number for place in places if place.number is not None}
    of_video = _video_frames(places[0].file, wanted) if wanted else {}
    frames: list[bytes] = []
    first: tuple[int, int] | None = None
    for (image, _), place in zip(clip.frames, places, strict=True):
        if place.number is None:
            data, size = read_image(place.file)
            if not data.startswith(_STORED):
                data = encode_png(decode_image(data, str(place.file)))
        else:
            data, size = of_video[place.number]
        if image.size not in (None, size):
            assert image.size is not None
            raise InputError(
                f'{place.file}: {size[1]}x{size[0]} pixels, {image.source.name} says {image.size[1]}x{image.size[0]}'
            )
        first = first or size
        if size != first:
            raise InputError(
                f'{place.file}: {size[1]}x{size[0]} pixels, the first frame of clip {clip.name!r} has {first[1]}x{first[0]}'
            )
        frames.append(data)
    assert first is not None
    return frames, first


def _video_frames(file: pathlib.Path, wanted: set[int]) -> dict[int, tuple[bytes, tuple[int, int]]]:
    found: dict[int, tuple[bytes, tuple[int, int]]] = {}
    number = -1
    for number, (image, *_) in enumerate(read_frames(file)):
        if number in wanted:
            found[number] = (encode_png(image), (image.shape[0], image.shape[1]))
        if len(found) == len(wanted):
            return found
    raise DamagedError(f'{file}: {number + 1} frames, and frame {max(wanted)} has joints; replace the video, or see first_frame')
