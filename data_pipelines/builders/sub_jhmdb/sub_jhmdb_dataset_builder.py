"""TFDS builder of Sub-JHMDB: three folds of JHMDB's clips that show the whole body."""

import functools
import pathlib
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import clip_builder, schema
from kimnet_jax.data_pipelines.builders.sub_jhmdb import clips, layout
from kimnet_jax.data_pipelines.builders.sub_jhmdb.layout import Clip, Layout
from kimnet_jax.data_pipelines.findings import Finding

FOLDS = (1, 2, 3)
ACTIONS = (
    *('catch', 'climb_stairs', 'golf', 'jump', 'kick_ball', 'pick', 'pullup', 'push', 'run', 'shoot_ball', 'swing_baseball'),
    'walk',
)
CONCATENATED = 'folds_concatenated'
DEVELOPMENT = '_development'
LEAK = (
    'the three folds are concatenated, as in the releases of DeciWatch and HANet (687 and 261 sequences of 316 clips): '
    'a clip that is held out in one fold is trained on in another'
)


class Builder(clip_builder.ClipBuilder):
    """Sub-JHMDB from the official download, videos or images, folders or archives."""

    VERSION = schema.VERSION
    RELEASE_NOTES = schema.RELEASE_NOTES
    BUILDER_CONFIGS = [  # noqa: RUF012
        clip_builder.ClipConfig(name=schema.SHARED, description='The clips of all folds; the metadata have the splits.')
    ]
    VIEWS = (
        *(clip_builder.ClipConfig(name=f'fold{fold}', description=f'Train and test split {fold} of 3.') for fold in FOLDS),
        *(
            clip_builder.ClipConfig(
                name=f'fold{fold}{DEVELOPMENT}',
                description=f'The training clips of fold {fold} alone, to choose settings by: the clips of one in '
                f'{layout.HELD_OUT} source videos are its test split.',
                on_request=True,
            )
            for fold in FOLDS
        ),
        clip_builder.ClipConfig(name=CONCATENATED, description=f'Train and test share clips: {LEAK}.', leak=LEAK),
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    HOMEPAGE = 'http://jhmdb.is.tue.mpg.de'
    SKELETON = JHMDB
    ACTIONS = ACTIONS

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[clip_builder.ClipReader]]:
        source = Layout(pathlib.Path(dl_manager.manual_dir), self.scratch)
        frames_part = source.frames_part()
        folds = layout.read_folds(source.folder(layout.SPLITS))
        for config in self.asked_for:
            for fold in FOLDS if config == CONCATENATED else [fold for fold in FOLDS if config.startswith(f'fold{fold}')]:
                if fold not in folds:
                    raise InputError(f'{source.root}: {layout.SPLITS} has no fold {fold}; it has {", ".join(map(str, folds))}')
        self._folds = {
            fold: {split: clips[: self.limit] for split, clips in splits.items()}
            for fold, splits in folds.items()
            if fold in FOLDS
        }
        chosen = sorted({clip for splits in self._folds.values() for split in splits.values() for clip in split})
        wanted = set(chosen)
        parts = {
            part: source.folder(part, lambda inner: layout.clip_of(inner) in wanted)
            for part in (frames_part, layout.JOINTS, layout.MASKS)
        }
        _require_files(source, parts, chosen)
        return {schema.SHARED: [functools.partial(_read, source, parts, clip) for clip in chosen]}

    def _views(self) -> clip_builder.Views:
        views: clip_builder.Views = {CONCATENATED: {'train': [], 'test': []}}
        for fold, splits in self._folds.items():
            development = layout.held_out(splits['train'])
            for name, parts in ((f'fold{fold}', splits), (f'fold{fold}{DEVELOPMENT}', development)):
                views[name] = {split: [(str(clip), str(clip)) for clip in chosen] for split, chosen in parts.items()}
            for split, chosen in splits.items():
                views[CONCATENATED][split] += [(f'fold{fold}/{clip}', str(clip)) for clip in chosen]
        return views if len(self._folds) == len(FOLDS) else {name: view for name, view in views.items() if name != CONCATENATED}


def _read(source: Layout, parts: dict[str, pathlib.Path], clip: Clip) -> Example:
    """The example of a clip."""
    name, files = str(clip), layout.files_of(parts, clip)
    with source.explained():
        joints = clips.read_joints(files[layout.JOINTS])
        if layout.IMAGES in files:
            frames, image_size = clips.read_images(files[layout.IMAGES], len(joints))
        else:
            frames, image_size = clips.read_video(files[layout.VIDEOS], len(joints))
        boxes, empty = clips.read_boxes(files[layout.MASKS], joints, image_size)
        example = {
            'clip': name,
            'action': clip.action,
            'frames': frames,
            'joints': joints,
            'visible': np.ones(joints.shape[:2], bool),
            'boxes': boxes,
            'image_size': image_size,
            'findings': [Finding('warning', name, layout.EMPTY_MASK, empty)] if empty else [],
        }
        return schema.checked_example(example, JHMDB, str(files[layout.MASKS]))


def _require_files(source: Layout, parts: dict[str, pathlib.Path], chosen: list[Clip]) -> None:
    missing = [file for clip in chosen for file in layout.files_of(parts, clip).values() if not file.exists()]
    if missing:
        with source.explained():
            names = ', '.join(map(str, missing[:5])) + (', ...' if len(missing) > 5 else '')
            raise InputError(f'{len(missing)} files of clips that {layout.SPLITS} names are missing: {names}')
