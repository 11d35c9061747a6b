"""TFDS builder of LSP and LSP Extended: every image a clip of one frame."""

import pathlib
import sys

from kimnet_jax.core.skeleton import LSP
from kimnet_jax.data_pipelines import schema
from kimnet_jax.data_pipelines.builders.lsp import annotations, layout
from kimnet_jax.data_pipelines.builders.lsp.layout import Layout
from kimnet_jax.data_pipelines.clip_builder import ClipConfig
from kimnet_jax.data_pipelines.findings import Finding
from kimnet_jax.data_pipelines.person_builder import PersonBuilder
from kimnet_jax.data_pipelines.persons import Splits

OUR_SPLIT = 'one of ten images is held out as `valid`: a split of ours, no other result compares with it'


class Builder(PersonBuilder):
    """LSP Extended or LSP from their images and `joints.mat`, in a folder or an archive."""

    VERSION = schema.VERSION
    RELEASE_NOTES = schema.RELEASE_NOTES
    BUILDER_CONFIGS = [  # noqa: RUF012
        ClipConfig(name='extended', description=f'LSP Extended, 10,000 images: {OUR_SPLIT}.'),
        ClipConfig(name='original', description='LSP, 2,000 images, in its official split.'),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = layout.INSTRUCTIONS
    HOMEPAGE = 'http://sam.johnson.io/research'
    SKELETON = LSP

    def _source(self, root: pathlib.Path) -> Layout:
        return layout.LAYOUTS[self.builder_config.name](root, self.scratch)

    def _persons(self, source: Layout) -> tuple[Splits, list[Finding]]:
        if self.builder_config.name == 'extended':
            print(f'note: {OUR_SPLIT}', file=sys.stderr)
        return annotations.read_persons(source)
