"""Labelled images to clips: one person in consecutive frames of one video, or one person in one image."""

import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled import Image, Person
from kimnet_jax.data_pipelines.builders.coco_keypoints.layout import number_of, stem_of
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import FILE, Rule
from kimnet_jax.data_pipelines.findings import Finding

# To be read after a number.
GAPS = 'tracks have gaps and become several clips'
NO_TRACKS = 'videos show several persons without track_id, so each person in each frame is a clip of its own'
WORDS = {
    'video_id': 'Images with the same video_id are a clip',
    'folder': 'The images of a folder are a clip',
    'number': f"Images whose names differ by their number alone are a clip; if they are unrelated, set clips = 'none' in {FILE}",
    'none': 'Every image is a clip of its own',
}
_NO_VIDEOS = ('', 'images', 'train', 'val', 'valid', 'test', 'train2017', 'val2017')  # folders of images that are no videos


@dataclasses.dataclass(frozen=True)
class Clip:
    """Attributes:
    name: unique in the data set.
    group: the video that it is of, or the image; clips of a group are never in two splits.
    frames: the images and the person in each, in order.
    """

    name: str
    group: str
    frames: tuple[tuple[Image, Person], ...]


def make_clips(
    images: Sequence[Image], wanted: Rule, part_of: Callable[[Image], str] = lambda image: ''
) -> tuple[list[Clip], str, list[Finding]]:
    """The clips of images with persons, the sentence that says by which rule, and what was found.

    Images of different parts (`part_of`) are never in one clip.

    Raises:
        InputError: an image does not tell what the rule needs, or two images have one place in a video.
    """
    rule = _chosen(images) if wanted == 'auto' else wanted
    groups: dict[tuple[str, str], list[tuple[int, Image]]] = collections.defaultdict(list)
    ambiguous = {stem for stem, count in collections.Counter(_stem(image) for image in images).items() if count > 1}
    for place, image in enumerate(images):
        if rule == 'none':
            groups[part_of(image), image.name if _stem(image) in ambiguous else _stem(image)].append((0, image))
        else:
            group, number = _GROUPING[rule](image)
            groups[part_of(image), group].append((place if number is None else number, image))
    clips: list[Clip] = []
    findings: list[Finding] = []
    for (_, group), members in groups.items():
        numbers = [number for number, _ in members]
        repeated = [number for number, count in collections.Counter(numbers).items() if count > 1]
        if repeated:
            two = [repr(image.name) for number, image in members if number == repeated[0]][:2]
            raise InputError(
                f'{members[0][1].source}: {" and ".join(two)} are both frame {repeated[0]} of {group!r}; '
                f"if they are no frames of one video, set clips = 'none' in {FILE}"
            )
        members.sort(key=lambda member: member[0])
        clips += _of_group(group, members, findings)
    return clips, WORDS[rule], findings


def _chosen(images: Sequence[Image]) -> Rule:
    if images and all(image.video for image in images):
        return 'video_id'
    if not images or any(number_of(image.name) is None for image in images):
        return 'none'
    folders = collections.Counter(str(pathlib.PurePosixPath(image.name).parent) for image in images)
    plain = any(pathlib.PurePosixPath(folder).name in _NO_VIDEOS for folder in folders)
    if not plain and max(folders.values()) > 1 and _all_apart(map(_by_folder, images)):
        return 'folder'
    prefixes = collections.Counter(stem_of(image.name)[0] for image in images)
    named = all(prefix and not prefix.endswith('/') for prefix in prefixes)
    return 'number' if named and max(prefixes.values()) > 1 and _all_apart(map(_by_number, images)) else 'none'


def _all_apart(places: Iterable[tuple[str, int | None]]) -> bool:
    """Whether no two images have one number in one clip, as versions of an image that an export made have."""
    places = [*places]
    return len(set(places)) == len(places)


def _by_video(image: Image) -> tuple[str, int | None]:
    if not image.video:
        raise InputError(f"{image.source}: {image.name!r} has no video_id, and {FILE} says clips = 'video_id'")
    return image.video, image.number if image.number is not None else number_of(image.name)


def _by_folder(image: Image) -> tuple[str, int | None]:
    folder = str(pathlib.PurePosixPath(image.name).parent)
    if folder == '.':
        raise InputError(f"{image.source}: {image.name!r} lies in no folder, and {FILE} says clips = 'folder'")
    return folder, number_of(image.name)


def _by_number(image: Image) -> tuple[str, int | None]:
    group, number = stem_of(image.name)
    if number is None:
        raise InputError(f"{image.source}: {image.name!r} has no number at its end, and {FILE} says clips = 'number'")
    return group or 'clip', number


_GROUPING: dict[str, Callable[[Image], tuple[str, int | None]]] = {
    'video_id': _by_video,
    'folder': _by_folder,
    'number': _by_number,
}


def _stem(image: Image) -> str:
    return str(pathlib.PurePosixPath(image.name).with_suffix(''))


def _of_group(group: str, members: list[tuple[int, Image]], findings: list[Finding]) -> Iterator[Clip]:
    """The clips of a video, or of a single image. Frames are consecutive where their numbers differ by the smallest step of two
    that show anybody: tools list the frames between labelled ones as well."""
    several = any(len(image.persons) > 1 for _, image in members)
    tracks: dict[str, list[tuple[int, Image, Person]]] = collections.defaultdict(list)
    for number, image in members:
        for person in image.persons:
            tracks[person.track].append((number, image, person))
    untracked = several and '' in tracks
    if untracked and len(members) > 1:
        findings.append(Finding('warning', group, NO_TRACKS))
    labelled = [number for number, image in members if image.persons]
    step = min((b - a for a, b in itertools.pairwise(labelled)), default=1)
    for track, found in tracks.items():
        if not track and untracked:
            place = {id(person): i for _, image, _ in found for i, person in enumerate(image.persons)}
            for number, image, person in found:
                alone = group if len(members) == 1 else f'{group}/{number}'
                name = alone if len(image.persons) == 1 else f'{alone}/person{place[id(person)]}'
                yield Clip(name, group, ((image, person),))
            continue
        twice = [image for (a, image, _), (b, _, _) in itertools.pairwise(found) if a == b]
        if twice:
            raise InputError(f'{twice[0].source}: {twice[0].name!r} has track_id {track!r} twice')
        starts = [0, *(i for i, ((a, *_), (b, *_)) in enumerate(itertools.pairwise(found), 1) if b - a > step), len(found)]
        if len(starts) > 2:
            findings.append(Finding('warning', group, GAPS))
        for begin, end in itertools.pairwise(starts):
            name = f'{group}/{track}' if track else group
            name += f'/from{found[begin][0]}' if begin else ''
            yield Clip(name, group, tuple((image, person) for _, image, person in found[begin:end]))
