"""The base of TFDS builders of single images: every annotated person a clip of one frame, the image as it came."""

import abc
import functools
import pathlib
import sys
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import clip_builder, schema
from kimnet_jax.data_pipelines.download import Download
from kimnet_jax.data_pipelines.findings import Finding, summarise
from kimnet_jax.data_pipelines.images import read_image
from kimnet_jax.data_pipelines.persons import IMAGES, Person, Splits, find_outside


class PersonBuilder(clip_builder.ClipBuilder):
    """Writes persons in the order given."""

    @abc.abstractmethod
    def _source(self, root: pathlib.Path) -> Download:
        """The download in `root`; what is unpacked goes to `self.scratch`."""

    @abc.abstractmethod
    def _persons(self, source: Any) -> tuple[Splits, list[Finding]]:
        """The persons of each split of a download, and what was mended or left out. Raises `InputError`."""

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[clip_builder.ClipReader]]:
        source = self._source(pathlib.Path(dl_manager.manual_dir))
        with source.explained():
            splits, findings = self._persons(source)
            wanted = {person.image for persons in splits.values() for person in persons}
            images = source.folder(IMAGES, lambda inner: inner.name in wanted)
            missing = sorted(wanted - {file.name for file in images.iterdir()})
            if missing:
                raise InputError(f'{images}: {len(missing)} images of annotated persons are missing: {some_of(missing)}')
        for line in summarise(findings):
            print(f'note: {line}', file=sys.stderr)
        return {
            split: [functools.partial(_read, source, images, person, self.SKELETON) for person in persons]
            for split, persons in splits.items()
        }


def _read(source: Download, images: pathlib.Path, person: Person, skeleton: Skeleton) -> Example:
    """The example of a person."""
    with source.explained():
        file = images / person.image
        data, image_size = read_image(file)
        example = {
            'clip': person.name,
            'action': '',
            'frames': [data],
            'joints': person.joints[None],
            'visible': person.visible[None],
            'boxes': person.box[None],
            'image_size': np.array(image_size),
            'findings': find_outside(person.name, person.joints, person.visible, image_size),
        }
        return schema.checked_example(example, skeleton, str(file))
