"""TFDS builder of one's own labelled videos and images, from COCO keypoints files or YOLO's."""

import functools
import pathlib
import re
from typing import Any

import tensorflow_datasets as tfds

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.skeleton import get_skeleton
from kimnet_jax.data_pipelines import clip_builder, schema
from kimnet_jax.data_pipelines.builders.coco_keypoints import layout
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import make_readers
from kimnet_jax.data_pipelines.builders.coco_keypoints.own_data import read_own_data


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
        data = read_own_data(pathlib.Path(dl_manager.manual_dir), self.builder_config.name)
        readers = make_readers(data)
        self.info._features = schema.features(data.skeleton, self.ACTIONS)  # TFDS asked for them before there was a folder
        self.info.metadata.update(skeleton=data.skeleton.described(), leak=data.leak)
        return readers


@functools.cache
def _config(name: str) -> clip_builder.ClipConfig:
    if not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name, re.ASCII) or len(name) > 100 or name == schema.SHARED:
        raise InputError(f'coco_keypoints/{name}: call your data set by letters, digits, _ and -, and not {schema.SHARED!r}')
    return clip_builder.ClipConfig(name=name, description=f'Your data, {name}.')
