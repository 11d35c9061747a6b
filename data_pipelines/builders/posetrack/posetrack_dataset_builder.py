"""TFDS builder of PoseTrack18: every person in consecutive labelled frames of a video is a clip."""

import pathlib
from typing import Any

from kimnet_jax.core.skeleton import POSETRACK
from kimnet_jax.data_pipelines import clip_builder, schema
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import make_readers
from kimnet_jax.data_pipelines.builders.posetrack import annotations, layout


class Builder(clip_builder.ClipBuilder):
    """PoseTrack18 from its unpacked images and annotation files."""

    VERSION = schema.VERSION
    RELEASE_NOTES = schema.RELEASE_NOTES
    BUILDER_CONFIGS = [  # noqa: RUF012
        clip_builder.ClipConfig(name='posetrack18', description='The training and validation videos of PoseTrack18.')
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    HOMEPAGE = 'https://posetrack.net'
    SKELETON = POSETRACK

    def _clip_readers(self, dl_manager: Any) -> dict[str, list[clip_builder.ClipReader]]:
        data, _ = annotations.read_posetrack(layout.Layout(pathlib.Path(dl_manager.manual_dir), self.scratch))
        return make_readers(data)
