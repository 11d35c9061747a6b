"""TFDS builder of Penn Action: its clips in the official split, frames as they came."""

import functools
import pathlib
import shutil
import sys
from typing import Any

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import clip_builder, schema
from kimnet_jax.data_pipelines.builders.penn_action import layout
from kimnet_jax.data_pipelines.builders.penn_action.labels import ACTIONS, read_label
from kimnet_jax.data_pipelines.builders.penn_action.layout import Layout
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.images import read_image

SIDES = "named by the person's own left and right; the release names them as the observer sees somebody who faces the camera"


class Builder(clip_builder.ClipBuilder):
    """Penn Action from the official archive, or from the folder that is in it."""

    VERSION = schema.VERSION
    RELEASE_NOTES = schema.RELEASE_NOTES
    BUILDER_CONFIGS = [clip_builder.ClipConfig(name='official', description='The split of the release.')]  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    HOMEPAGE = 'http://dreamdragon.github.io/PennAction'
    SKELETON = PENN_ACTION
    ACTIONS = ACTIONS

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[clip_builder.ClipReader]]:
        source = Layout(pathlib.Path(dl_manager.manual_dir), self.scratch)
        readers: dict[str, list[clip_builder.ClipReader]] = {'train': [], 'test': []}
        with source.explained():
            files = source.labels()
            labels = {clip: read_label(file) for clip, file in files.items()}
            frames = source.folder(layout.FRAMES)
            images = layout.image_names(frames)
            wrong = list(layout.unmatched(labels, images).values())
            if wrong:
                raise InputError(f'{source.root}: {some_of(wrong)}')
            used_up = frames.is_relative_to(source.scratch) and not self.on_beam  # a worker of Beam may have to read a clip again
            for clip, label in labels.items():
                layout.require_frames(str(frames / clip), images[clip], len(label.joints))
                readers[label.split].append(functools.partial(_read, source, files[clip], frames / clip, used_up))
        print(f'note: left and right joints of all {len(files)} clips: {SIDES}', file=sys.stderr)
        if len(files) != layout.OFFICIAL['clips']:
            print(f'note: {len(files)} clips in {source.root}, the release has {layout.OFFICIAL["clips"]}', file=sys.stderr)
        return readers


def _read(source: Layout, label_file: pathlib.Path, folder: pathlib.Path, used_up: bool) -> Example:
    """The example of a clip; its frames are removed after that where they are `used_up`, so that they are never there twice."""
    with source.explained():
        label = read_label(label_file)
        files = [folder / name for name in layout.frame_names(len(label.joints))]
        example = {
            'clip': folder.name,
            'action': label.action,
            'frames': [read_image(file, label.image_size, layout.SIZE_SOURCE)[0] for file in files],
            'joints': label.joints,
            'visible': label.visible,
            'boxes': label.boxes,
            'image_size': label.image_size,
            'findings': [Finding('warning', folder.name, what, count) for what, count in label.mended.items()],
        }
        example = schema.checked_example(example, PENN_ACTION, str(label_file))
    if used_up:
        shutil.rmtree(folder)
    return example
