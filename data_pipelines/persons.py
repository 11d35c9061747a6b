"""Data sets of single images: their annotated persons, and what a doctor finds in their images."""

import collections
import dataclasses
import functools
import pathlib
import zlib

import numpy as np

from kimnet_jax.core.geometry import box_of_points, inside
from kimnet_jax.data_pipelines import download
from kimnet_jax.data_pipelines.findings import Check, Finding, Report, attempt
from kimnet_jax.data_pipelines.images import read_image

IMAGES = 'images'  # the folder of the images in every such data set
WIDENING = 0.05  # of a box made from joints, on each side, by this share of its longer side
HELD_OUT = 10  # one of so many, where a data set has no validation split
OUTSIDE = 'joints lie outside of the image and are kept'  # to be read after a number


@dataclasses.dataclass(frozen=True)
class Person:
    """One annotated person; pixels are 0-based.

    Attributes:
        image: name of the image file.
        name: unique in the data set.
        joints: float32 [J, 2]; (0, 0) where not annotated.
        visible: bool [J]: annotated. Whether a joint is hidden, which some data sets tell, plays no part.
        box: float32 [4].
    """

    image: str
    name: str
    joints: np.ndarray
    visible: np.ndarray
    box: np.ndarray


Splits = dict[str, list[Person]]


def held_out(key: str) -> bool:
    """Whether what has this name (an image, a video) is held out of training: one of ten, by a checksum."""
    return zlib.crc32(key.encode()) % HELD_OUT == 0


def box_around(joints: np.ndarray, visible: np.ndarray) -> np.ndarray | None:
    """The extent of the annotated joints, [J, 2] float32 and [J] bool, widened: float32 [4]; None where no two lie apart."""
    extent = box_of_points(joints, visible)
    margin = np.float32(WIDENING) * (extent[2:] - extent[:2]).max()
    return extent + margin * np.array([-1, -1, 1, 1], np.float32) if visible.any() and margin > 0 else None


def find_outside(name: str, joints: np.ndarray, visible: np.ndarray, image_size: tuple[int, int]) -> list[Finding]:
    """A warning where annotated joints, [..., J, 2] pixels and [..., J], lie outside of images of (rows, columns)."""
    outside = int((visible & ~inside(joints, image_size)).sum())
    return [Finding('warning', name, OUTSIDE, outside)] if outside else []


def make_checks(source: download.Download, splits: Splits, pixels: bool) -> list[Check]:
    """A check for each image with its persons. Raises `InputError` where there are no images, or their archive is damaged."""
    persons = collections.defaultdict(list)
    for person in [person for split in splits.values() for person in split]:
        persons[person.image].append(person)
    images = source.folder(IMAGES, lambda inner: inner.name in persons) if pixels else source.locate(IMAGES)
    names = {inner.name for inner in download.names(images, IMAGES)}
    folder = images if images.is_dir() else images / IMAGES
    return [functools.partial(_check, folder / image, image in names, found, pixels) for image, found in persons.items()]


def _check(file: pathlib.Path, there: bool, persons: list[Person], pixels: bool) -> Report:
    findings: list[Finding] = []
    joints = sum(int(person.visible.sum()) for person in persons)
    if not there:
        findings.append(Finding('error', file.name, f'{file}: missing, and it has annotated persons'))
    elif pixels and (image := attempt(findings, file.name, read_image, file)):
        for person in persons:
            findings += find_outside(person.name, person.joints, person.visible, image[1])
    return Report(findings, {'images': 1, 'annotated joints': joints})
