"""TFDS builder of Sub-JHMDB: three folds of JHMDB's clips that show the whole body."""

import functools
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines import clip_builder, schema
from data_pipelines.builders.sub_jhmdb import clips, layout
from data_pipelines.builders.sub_jhmdb.layout import Clip, Layout
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.core.types import Example


class Builder(clip_builder.ClipBuilder):
    """Sub-JHMDB from the official download, videos or images, folders or archives."""

    VERSION = tfds.core.Version('1.0.0')
    RELEASE_NOTES = {'1.0.0': 'First version.'}  # noqa: RUF012 (read by TFDS)
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=f'fold{fold}', description=f'Train and test split {fold} of 3.') for fold in (1, 2, 3)
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    SKELETON = JHMDB

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        self._empty_masks: dict[Clip, int] = {}
        with tempfile.TemporaryDirectory(dir=self.data_path, prefix='unpacked') as scratch:
            self._scratch = pathlib.Path(scratch)
            super()._download_and_prepare(dl_manager, download_config)
        if self._empty_masks:
            frames, which = sum(self._empty_masks.values()), ', '.join(map(str, sorted(self._empty_masks)))
            print(
                f'note: {frames} frames have an empty puppet mask, their box is the extent of the joints: {which}',
                file=sys.stderr,
            )

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[clip_builder.ClipReader]]:
        source = Layout(pathlib.Path(dl_manager.manual_dir), self._scratch)
        frames_part = source.frames_part()
        folds = layout.read_folds(source.folder(layout.SPLITS))
        fold = int(self.builder_config.name.removeprefix('fold'))
        if fold not in folds:
            raise InputError(f'{source.root}: {layout.SPLITS} has no fold {fold}; it has {", ".join(map(str, folds))}')
        chosen = {clip for split in folds[fold].values() for clip in split}
        parts = {part: source.folder(part, chosen) for part in (frames_part, layout.JOINTS, layout.MASKS)}
        _require_files(source, parts, sorted(chosen))
        return {
            split: [functools.partial(self._read, source, parts, clip) for clip in names] for split, names in folds[fold].items()
        }

    def _read(self, source: Layout, parts: dict[str, pathlib.Path], clip: Clip) -> Example:
        files = _files(parts, clip)
        try:
            joints = clips.read_joints(files[layout.JOINTS])
            if layout.IMAGES in files:
                frames, image_size = clips.read_images(files[layout.IMAGES], len(joints))
            else:
                frames, image_size = clips.read_video(files[layout.VIDEOS], len(joints))
            boxes, empty = clips.read_boxes(files[layout.MASKS], joints, image_size)
            if empty:
                self._empty_masks[clip] = empty
            example = {
                'clip': str(clip),
                'action': clip.action,
                'frames': frames,
                'joints': joints,
                'visible': np.ones(joints.shape[:2], bool),
                'boxes': boxes,
                'image_size': image_size,
            }
            return schema.checked_example(example, JHMDB, str(files[layout.MASKS]))
        except InputError as error:
            raise InputError(source.public(str(error))) from error


def _files(parts: dict[str, pathlib.Path], clip: Clip) -> dict[str, pathlib.Path]:
    inner = {
        layout.IMAGES: f'{clip}',
        layout.VIDEOS: f'{clip}.avi',
        layout.JOINTS: f'{clip}/joint_positions.mat',
        layout.MASKS: f'{clip}/puppet_mask.mat',
    }
    return {part: folder / inner[part] for part, folder in parts.items()}


def _require_files(source: Layout, parts: dict[str, pathlib.Path], chosen: list[Clip]) -> None:
    missing = [file for clip in chosen for file in _files(parts, clip).values() if not file.exists()]
    if missing:
        names = source.public(', '.join(map(str, missing[:5])) + (', ...' if len(missing) > 5 else ''))
        raise InputError(f'{len(missing)} files of clips that {layout.SPLITS} names are missing: {names}')
