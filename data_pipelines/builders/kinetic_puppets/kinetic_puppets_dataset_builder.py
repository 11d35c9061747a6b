"""Kinetic Puppets: procedural people in motion, with exact truth; made on the spot, no download."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import encode_jpeg
from kimnet_jax.core.skeleton import JHMDB, PENN_ACTION, Skeleton, get_skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import schema
from kimnet_jax.data_pipelines.builders.kinetic_puppets.clip import make_clip
from kimnet_jax.data_pipelines.builders.kinetic_puppets.figure import JOINTS
from kimnet_jax.data_pipelines.builders.kinetic_puppets.motion import ACTIONS
from kimnet_jax.data_pipelines.clip_builder import ClipBuilder, ClipReader

SPLITS = ('train', 'test')
_JPEG_QUALITY = 90


@dataclasses.dataclass(eq=False)
class PuppetsConfig(tfds.core.BuilderConfig):
    """Which joints, how many clips, from which seed.

    Attributes:
        skeleton: name in `kimnet_jax.core.skeleton.SKELETONS`.
        seed: another seed gives other people, motions and places.
        train_clips: size of split `train`.
        test_clips: size of split `test`.
    """

    skeleton: str = JHMDB.name
    seed: int = 0
    train_clips: int = 64
    test_clips: int = 16

    def __post_init__(self) -> None:
        for name, low, high in (('seed', 0, 2**32 - 1), ('train_clips', 1, 1_000_000), ('test_clips', 1, 1_000_000)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f'PuppetsConfig.{name}={getattr(self, name)}: must be {low} to {high}')


def make_example(skeleton: Skeleton, seed: int, split: str, index: int) -> Example:
    """Clip `index` of a split in the project's schema (`kimnet_jax.core.types`)."""
    clip = make_clip(seed, SPLITS.index(split), index)
    order = [JOINTS.index(joint) for joint in skeleton.joints]
    name = f'puppet_{split}_{index:04}'
    example = {
        'clip': name,
        'action': clip.action,
        'frames': [encode_jpeg(frame, _JPEG_QUALITY) for frame in clip.frames],
        'joints': clip.joints[:, order],
        'visible': clip.visible[:, order],
        'boxes': clip.boxes,
        'image_size': np.asarray(clip.frames.shape[1:3], np.int32),
    }
    return schema.checked_example(example, skeleton, name)


class Builder(ClipBuilder):
    """Builder of `kinetic_puppets`; threads make the clips, which depend on nothing but seed, split and index."""

    ACTIONS = ACTIONS
    VERSION = schema.VERSION
    RELEASE_NOTES = schema.RELEASE_NOTES
    BUILDER_CONFIGS = [  # noqa: RUF012
        PuppetsConfig(name='joints15', description='The 15 joints of JHMDB.', skeleton=JHMDB.name),
        PuppetsConfig(name='joints13', description='The 13 joints of Penn Action.', skeleton=PENN_ACTION.name),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return schema.dataset_info(self, get_skeleton(self.builder_config.skeleton), self.ACTIONS)

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[ClipReader]]:
        config = self.builder_config
        skeleton = get_skeleton(config.skeleton)
        return {
            split: [functools.partial(make_example, skeleton, config.seed, split, index) for index in range(clips)]
            for split, clips in zip(SPLITS, (config.train_clips, config.test_clips), strict=True)
        }
