"""PoseTrack18's annotation files: COCO keypoints JSON, one for each video, with ignore regions."""

import collections
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.skeleton import POSETRACK
from kimnet_jax.data_pipelines.builders.coco_keypoints import coco, labelled
from kimnet_jax.data_pipelines.builders.coco_keypoints.clips import Clip, make_clips
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled import Image, Labelled
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import LabelledClips, shortened
from kimnet_jax.data_pipelines.builders.coco_keypoints.layout import Frame, number_of
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import Settings
from kimnet_jax.data_pipelines.builders.posetrack.layout import IMAGES, PARTS, Layout
from kimnet_jax.data_pipelines.findings import Finding

LABELLED, REGIONS = 'labelled frames', 'frames with ignore regions'
PERSON = 'person'  # the category
_SETTINGS = Settings(clips='video_id', category=PERSON)


@dataclasses.dataclass(frozen=True)
class Video:
    """An annotation file.

    Attributes:
        data: its JSON, as poses are written in the place of its annotations.
        found: what it holds.
        clips: of its persons.
        counts: of `LABELLED` and `REGIONS`.
    """

    data: Mapping[str, Any]
    found: Labelled
    clips: Sequence[Clip]
    counts: Mapping[str, int]


def read_video(file: pathlib.Path) -> Video:
    """One annotation file. Raises `InputError` where it is none; what is wrong with single entries is in `found.problems`."""
    data = read_json(file, 'annotation file')
    coco.list_of(file, data, 'images')
    problems: list[str] = []
    images = []
    counts = collections.Counter({LABELLED: 0, REGIONS: 0})
    for place, record in enumerate(data['images']):
        try:
            images.append(_with_video(record, file.stem))
            counts[LABELLED] += record.get('is_labeled') is True
            counts[REGIONS] += _has_regions(record)
        except InputError as error:
            problems.append(f'{file}: images[{place}]: {error}')
    numbers = collections.Counter(image['frame_id'] for image in images)
    problems += [f'{file}: {count} images are frame {number}' for number, count in numbers.items() if count > 1]
    if problems:  # what refers to these images would be wrong for no other reason
        return Video(data, Labelled(POSETRACK, [], [], problems), [], counts)
    found = coco.parse_coco({**data, 'images': images}, file, _SETTINGS, file.stem)
    if found.skeleton != POSETRACK:
        raise InputError(f'{file}: its joints are {", ".join(found.skeleton.joints)}; expected {", ".join(POSETRACK.joints)}')
    odd = {person.track for image in found.images for person in image.persons if not person.track.isdecimal()}
    problems = [f'{file}: track_id is {track or None!r}, expected a whole number' for track in sorted(odd)]
    clips, _, findings = make_clips(found.images, _SETTINGS.clips)
    found = dataclasses.replace(found, findings=[*found.findings, *findings], problems=[*found.problems, *problems])
    return Video(data, found, clips, counts)


def _with_video(record: dict[str, Any], video: str) -> dict[str, Any]:
    """The image as COCO's files have it: PoseTrack's `frame_id` is the id, `vid_id` a number without the video's name."""
    name = labelled.checked_name(record.get('file_name'))
    if not name.startswith(f'{IMAGES}/'):
        raise InputError(f'{name!r} does not begin with {IMAGES}/')
    number = number_of(name)
    if number is None:
        raise InputError(f'{name!r} has no number at its end')
    return record | {'video_id': video, 'frame_id': number}


def _has_regions(record: dict[str, Any]) -> bool:
    both = [record.get(f'ignore_regions_{axis}') or [] for axis in 'xy']
    if not all(isinstance(polygons, list) and all(isinstance(polygon, list) for polygon in polygons) for polygons in both):
        raise InputError('ignore_regions_x and ignore_regions_y: expected lists of polygons')
    lengths = [[len(polygon) for polygon in polygons] for polygons in both]
    if lengths[0] != lengths[1]:
        raise InputError('ignore_regions_x and ignore_regions_y have not as many points')
    return bool(lengths[0])


def read_posetrack(layout: Layout) -> tuple[LabelledClips, dict[str, int]]:
    """The clips of both splits, and what there is to count; no picture is decoded.

    Raises:
        InputError: a part is missing, or no file can be read.
    """
    layout.folder(IMAGES)
    problems: list[str] = []
    findings: list[Finding] = []
    counts: collections.Counter[str] = collections.Counter()
    clips: dict[str, list[Clip]] = {}
    images: list[Image] = []
    for split in PARTS:
        files = layout.annotation_files(split)
        read = []
        for file in files:
            try:
                read.append(read_video(file))
            except InputError as error:
                problems.append(str(error))
        for video in read:
            counts.update({f'{split} {what}': count for what, count in video.counts.items()})
        counts[f'{split} videos'] = len(files)
        if read:
            found = labelled.joined(video.found for video in read)
            problems += found.problems
            findings += found.findings
            images += found.images
            clips[split] = [clip for video in read for clip in video.clips]
    for split, made in clips.items():
        if not made:
            problems.append(f'{layout.root}: no person with joints in any image of split {split!r}')
    twice = sorted({clip.group for clip in clips.get('train', ())} & {clip.group for clip in clips.get('valid', ())})
    problems += [f'{layout.root}: {video!r} is a video of both train and val' for video in twice]
    if problems and not any(clips.values()):
        raise InputError(shortened(problems))
    places: dict[str, Frame] = {}
    for image in {image.name: image for made in clips.values() for clip in made for image, _ in clip.frames}.values():
        path = layout.image(image.name)
        if path.is_file():
            places[image.name] = Frame(path)
        else:
            problems.append(f'{image.source}: {path}: no such image')
    regions = sum(counts[f'{split} {REGIONS}'] for split in PARTS)
    notes = [f'{regions} frames have ignore regions, in which nobody is annotated; they play no part in clips of single persons']
    empty = sum(not image.persons for image in images)
    return LabelledClips(POSETRACK, clips, places, findings, notes if regions else [], problems, '', empty), dict(counts)
