"""TFDS builder of one's own labelled videos and images, from COCO keypoints files or YOLO's."""

import functools
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.geometry import inside
from kimnet_jax.core.image import decode_image, encode_png
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.skeleton import Skeleton, get_skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.core.video import read_frames
from kimnet_jax.data_pipelines import clip_builder, schema
from kimnet_jax.data_pipelines.builders.coco_keypoints import layout
from kimnet_jax.data_pipelines.builders.coco_keypoints.clips import Clip
from kimnet_jax.data_pipelines.builders.coco_keypoints.layout import Frame
from kimnet_jax.data_pipelines.builders.coco_keypoints.own_data import read_own_data, shortened
from kimnet_jax.data_pipelines.findings import Finding, summarise
from kimnet_jax.data_pipelines.images import read_image
from kimnet_jax.data_pipelines.persons import OUTSIDE

_STORED = (b'\xff\xd8', b'\x89PNG', b'RIFF')  # JPEG, PNG, WebP; other images are stored as PNG


class Builder(clip_builder.ClipBuilder):
    """Any number of data sets, each a config of a name that the user gives."""

    VERSION = schema.VERSION
    RELEASE_NOTES = schema.RELEASE_NOTES
    BUILDER_CONFIGS = [clip_builder.ClipConfig(name='own', description='Your data, where you give it no name.')]  # noqa: RUF012
    ANY_CONFIG = True
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    HOMEPAGE = 'http://cocodataset.org'
    SKELETON = get_skeleton('points0')  # until the annotations are read

    @classmethod
    def get_builder_config(cls, name: str, version: Any = None) -> tfds.core.BuilderConfig:
        """A config of any name. Raises `InputError` where it cannot be that of a folder."""
        return super().get_builder_config(name, version) or _config(name)

    def _info(self) -> tfds.core.DatasetInfo:
        built = pathlib.Path(self.data_path, 'metadata.json')
        stored: dict[str, Any] = read_json(built) if built.exists() else {'skeleton': self.SKELETON.described(), 'leak': ''}
        skeleton = get_skeleton(stored['skeleton'])
        return schema.dataset_info(self, skeleton, self.ACTIONS, homepage=self.HOMEPAGE, leak=stored['leak'])

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[clip_builder.ClipReader]]:
        root = pathlib.Path(dl_manager.manual_dir)
        data = read_own_data(root, self.builder_config.name)
        if data.problems:
            raise InputError(shortened(data.problems))
        for line in (*data.notes, *summarise(data.findings), *([f'No result on unseen clips: {data.leak}'] if data.leak else [])):
            print(f'note: {line}', file=sys.stderr)
        self.info._features = schema.features(data.skeleton, self.ACTIONS)  # TFDS asked for them before there was a folder
        self.info.metadata.update(skeleton=data.skeleton.described(), leak=data.leak)
        return {
            split: [
                functools.partial(read_clip, clip, [data.frames[image.name] for image, _ in clip.frames], data.skeleton)
                for clip in clips
            ]
            for split, clips in data.splits.items()
        }


@functools.cache
def _config(name: str) -> clip_builder.ClipConfig:
    if not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name, re.ASCII) or len(name) > 100 or name == schema.SHARED:
        raise InputError(f'coco_keypoints/{name}: call your data set by letters, digits, _ and -, and not {schema.SHARED!r}')
    return clip_builder.ClipConfig(name=name, description=f'Your data, {name}.')


def read_clip(clip: Clip, places: Sequence[Frame], skeleton: Skeleton) -> Example:
    """The example of a clip; the frame of each image is in one of `places`."""
    frames, image_size = read_pictures(clip, places)
    persons = [person for _, person in clip.frames]
    joints, visible = (np.stack([getattr(person, field) for person in persons]) for field in ('joints', 'visible'))
    outside = int((visible & ~inside(joints, image_size)).sum())
    example = {
        'clip': clip.name,
        'action': '',
        'frames': frames,
        'joints': joints,
        'visible': visible,
        'boxes': np.stack([person.box for person in persons]),
        'image_size': image_size,
        'findings': [Finding('warning', clip.name, OUTSIDE, outside)] if outside else [],
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
