"""TFDS builder of MPII: every annotated person a clip of one frame, the image as it came."""

import pathlib
import sys

from kimnet_jax.core.skeleton import MPII
from kimnet_jax.data_pipelines import schema
from kimnet_jax.data_pipelines.builders.mpii import annotations, layout
from kimnet_jax.data_pipelines.builders.mpii.layout import Layout
from kimnet_jax.data_pipelines.clip_builder import ClipConfig
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.person_builder import PersonBuilder
from kimnet_jax.data_pipelines.persons import Splits

SIMPLE_BASELINE, HELD_OUT = 'simple_baseline', 'held_out'
OUR_SPLIT = (
    'every tenth video of the images with joints is held out as `valid`: a split of ours, no other result compares with it'
)


class Builder(PersonBuilder):
    """MPII from the images and SimpleBaseline's JSON files or the official MATLAB file, folders or archives."""

    VERSION = schema.VERSION
    RELEASE_NOTES = schema.RELEASE_NOTES
    BUILDER_CONFIGS = [  # noqa: RUF012
        ClipConfig(name=SIMPLE_BASELINE, description='The split of SimpleBaseline and HRNet.'),
        ClipConfig(name=HELD_OUT, description=f'From {layout.MAT} alone: {OUR_SPLIT}.'),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    HOMEPAGE = 'http://human-pose.mpi-inf.mpg.de'
    SKELETON = MPII

    def _source(self, root: pathlib.Path) -> Layout:
        return Layout(root, self.scratch)

    def _persons(self, source: Layout) -> tuple[Splits, list[Finding]]:
        if self.builder_config.name == SIMPLE_BASELINE:
            return annotations.read_json(source.json_files())
        print(f'note: {OUR_SPLIT}', file=sys.stderr)
        return annotations.read_mat(source.mat_file())
