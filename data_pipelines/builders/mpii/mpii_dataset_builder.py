"""TFDS builder of MPII: every annotated person a clip of one frame, the image as it came."""

import functools
import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import clip_builder, schema
from data_pipelines.builders.mpii import annotations, layout
from data_pipelines.builders.mpii.annotations import OUTSIDE, Person
from data_pipelines.builders.mpii.layout import Layout
from data_pipelines.findings import Finding, summarise
from data_pipelines.images import read_image
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import inside
from kimnet_jax.core.skeleton import MPII
from kimnet_jax.core.types import Example

SIMPLE_BASELINE, HELD_OUT = 'simple_baseline', 'held_out'
OUR_SPLIT = (
    'every tenth video of the images with joints is held out as `valid`: a split of ours, no other result compares with it'
)


class Builder(clip_builder.ClipBuilder):
    """MPII from the images and SimpleBaseline's JSON files or the official MATLAB file, folders or archives."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012 (read by TFDS)
    BUILDER_CONFIGS = [  # noqa: RUF012
        clip_builder.ClipConfig(name=SIMPLE_BASELINE, description='The split of SimpleBaseline and HRNet.'),
        clip_builder.ClipConfig(name=HELD_OUT, description=f'From {layout.MAT} alone: {OUR_SPLIT}.'),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    SKELETON = MPII

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[clip_builder.ClipReader]]:
        source = Layout(pathlib.Path(dl_manager.manual_dir), self.scratch)
        with source.explained():
            if self.builder_config.name == SIMPLE_BASELINE:
                splits, findings = annotations.read_json(source.json_files())
            else:
                splits, findings = annotations.read_mat(source.mat_file())
                print(f'note: {OUR_SPLIT}', file=sys.stderr)
            wanted = {person.image for persons in splits.values() for person in persons}
            images = source.folder(layout.IMAGES, lambda inner: inner.name in wanted)
            missing = sorted(wanted - {file.name for file in images.iterdir()})
            if missing:
                raise InputError(f'{images}: {len(missing)} images of annotated persons are missing: {schema.some_of(missing)}')
        for line in summarise(findings):
            print(f'note: {line}', file=sys.stderr)
        return {
            split: [functools.partial(_read, source, images, person) for person in persons] for split, persons in splits.items()
        }


def _read(source: Layout, images: pathlib.Path, person: Person) -> Example:
    """The example of a person."""
    with source.explained():
        file = images / person.image
        data, image_size = read_image(file)
        outside = int((person.visible & ~inside(person.joints, image_size)).sum())
        example = {
            'clip': person.name,
            'action': '',
            'frames': [data],
            'joints': person.joints[None],
            'visible': person.visible[None],
            'boxes': person.box[None],
            'image_size': np.array(image_size),
            'findings': [Finding('warning', person.name, OUTSIDE, outside)] if outside else [],
        }
        return schema.checked_example(example, MPII, str(file))
