"""PoseTrack18's download, unpacked: where its images and its annotation files lie."""

import pathlib

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import download

IMAGES, ANNOTATIONS = 'images', 'annotations'
PARTS = {'train': 'train', 'valid': 'val'}  # split -> the folder of its files; those of `test` are not public
INSTRUCTIONS = (
    'the folders images (with train and val in it, a folder of frames for each video) and annotations (with train and val in it, '
    'a JSON file for each video), unpacked; from https://posetrack.net'
)


class Layout(download.Download):
    """The images and the annotations, in folders of the root or of one in it, such as `posetrack_data`."""

    ARCHIVES = {IMAGES: (), ANNOTATIONS: ()}  # noqa: RUF012
    PARENTS = '*'
    INSTRUCTIONS = INSTRUCTIONS

    def annotation_files(self, split: str) -> list[pathlib.Path]:
        """The JSON files of a split, one for each of its videos. Raises `InputError` where there are none."""
        folder = self.folder(ANNOTATIONS) / PARTS[split]
        files = sorted(folder.glob('*.json')) if folder.is_dir() else []
        if not files:
            raise InputError(f'{folder}: no JSON files there; expected {INSTRUCTIONS}')
        return files

    def image(self, name: str) -> pathlib.Path:
        """The image that annotations call `images/...`."""
        return self.folder(IMAGES).parent / name
