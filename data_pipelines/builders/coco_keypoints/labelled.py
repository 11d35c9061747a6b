"""Labelled images and video frames, whatever format they came in."""

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.persons import box_around

LARGEST = 1e6  # pixels; a place beyond is a mistake
# What is left out or mended, as it is counted; to be read after a number.
CROWD = 'annotations of crowds are left out'
NO_JOINTS = 'persons have no annotated joint and are left out'
NO_BOX = 'persons have no box and no two annotated joints apart, and are left out'
EMPTY_BOX = 'persons have an empty box and get one around their joints'
OTHER = 'annotations of other categories are left out'
NO_KEYPOINTS = 'annotations have no keypoints and are left out'
MASKS = 'RLE masks are ignored; only keypoints and boxes are read'


@dataclasses.dataclass(frozen=True)
class Person:
    """One labelled person in one image; pixels are 0-based, centres at integers.

    Attributes:
        track: the same for a person in all images of a video; '' where it is not told.
        joints: float32 [J, 2]; (0, 0) where not annotated.
        visible: bool [J]: annotated, be it hidden in the image or not.
        box: float32 [4].
    """

    track: str
    joints: np.ndarray
    visible: np.ndarray
    box: np.ndarray


@dataclasses.dataclass
class Image:
    """One image that annotations name.

    Attributes:
        name: as they call it, a relative path with `/`.
        source: the annotation file.
        persons: in its order.
        size: (rows, columns) that they state; None: they state none.
        video: its video by the annotations, without suffix; '': they name none.
        number: of the frame in its video; None: they tell none.
    """

    name: str
    source: pathlib.Path
    persons: list[Person] = dataclasses.field(default_factory=list)
    size: tuple[int, int] | None = None
    video: str = ''
    number: int | None = None


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What annotation files hold.

    Attributes:
        skeleton: of all persons.
        images: in the order of the files.
        findings: what was left out or mended.
        problems: what a build refuses, one line each.
    """

    skeleton: Skeleton
    images: Sequence[Image]
    findings: Sequence[Finding]
    problems: Sequence[str]


def make_person(points: np.ndarray, visible: np.ndarray, box: np.ndarray | None, track: str = '') -> Person | str:
    """A person, or why there is none (to be counted).

    Args:
        points: float64 [J, 2].
        visible: bool [J].
        box: float64 [4], x0, y0, x1, y1; None: it is made from the joints.
        track: see `Person`.

    Raises:
        InputError: a number is not finite or beyond any image.
    """
    if not visible.any():
        return NO_JOINTS
    places = points[visible] if box is None else np.concatenate([points[visible], box.reshape(2, 2)])
    if not (np.abs(places) <= LARGEST).all():  # NaN, too
        raise InputError('a joint or the box is not finite or lies far outside of any image')
    joints = np.where(visible[:, None], points, 0).astype(np.float32)
    if box is None:
        box = box_around(joints, visible)
    box = None if box is None else box.astype(np.float32)
    return NO_BOX if box is None or (box[2:] <= box[:2]).any() else Person(track, joints, visible, box)


def checked_name(name: object) -> str:
    """The name of an image as a relative path with `/`. Raises `InputError` where it is none, or leads out of its folder."""
    if not isinstance(name, str) or not name.strip():
        raise InputError(f'the name of an image is {name!r}, expected a text')
    path = pathlib.PurePosixPath(name.replace('\\', '/'))
    parts = [part for part in path.parts if part != '.']
    if path.is_absolute() or '..' in parts or not parts or ':' in parts[0] or '\0' in name:
        raise InputError(f'{name!r} does not lie in the folder of the data; name images by relative paths')
    if len(name) > 4000 or any(ord(letter) < 32 or 0xD800 <= ord(letter) < 0xE000 for letter in name):
        raise InputError(f'{name[:60]!a}: no name that a file can have')
    return '/'.join(parts)


def joined(parts: Iterable[Labelled]) -> Labelled:
    """The images of several files. Raises `InputError` where their skeletons differ; an image in two files is a problem."""
    parts = [*parts]
    first = parts[0]
    problems = [problem for part in parts for problem in part.problems]
    seen: dict[str, pathlib.Path] = {}
    for part in parts:
        if part.skeleton != first.skeleton:
            ours, theirs = ([*one.skeleton.joints] for one in (first, part))
            raise InputError(
                f'{part.images[0].source if part.images else "an annotation file"}: its joints are {some_of(theirs)}; '
                f'another file has {some_of(ours)}, or other limbs; build them as data sets of their own'
            )
        for image in part.images:
            other = seen.setdefault(image.name, image.source)
            if other != image.source and image.persons:
                problems.append(f'{image.source}: {image.name!r} is in {other.name}, too; leave it out of one of them')
    return Labelled(
        first.skeleton,
        [image for part in parts for image in part.images],
        [finding for part in parts for finding in part.findings],
        problems,
    )
