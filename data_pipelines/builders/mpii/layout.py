"""MPII's official download and SimpleBaseline's annotation files: folders, or the archives they come in."""

import pathlib

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import download
from kimnet_jax.data_pipelines.persons import IMAGES

ANNOT, RELEASE = 'annot', 'mpii_human_pose_v1_u12_2'
MAT = 'mpii_human_pose_v1_u12_1.mat'
SPLITS = ('train', 'valid')
INSTRUCTIONS = (
    'the images (the folder images or mpii_human_pose_v1.tar.gz) and the annotations of one config: for mpii/simple_baseline the '
    f'folder annot with train.json and valid.json, for mpii/held_out {MAT} or mpii_human_pose_v1_u12_2.zip; '
    'from http://human-pose.mpi-inf.mpg.de, the JSON files from the release of SimpleBaseline'
)


class Layout(download.Download):
    """The images and the annotations, wherever they lie."""

    ARCHIVES = {IMAGES: ('mpii_human_pose_v1',), ANNOT: ('annot',), RELEASE: (RELEASE,)}  # noqa: RUF012
    PARENTS = '*'
    INSTRUCTIONS = INSTRUCTIONS

    def has_json(self) -> bool:
        """Whether SimpleBaseline's annotations are there."""
        return self.find(ANNOT) is not None

    def json_files(self) -> dict[str, pathlib.Path]:
        """Split -> its JSON file. Raises `InputError` where one is missing."""
        if not self.has_json():
            raise InputError(f'{self.root}: no {ANNOT}/train.json and {ANNOT}/valid.json there; with {MAT} build mpii/held_out')
        folder = self.folder(ANNOT, lambda inner: inner.name in {f'{split}.json' for split in SPLITS})
        files = {split: folder / f'{split}.json' for split in SPLITS}
        missing = [file for file in files.values() if not file.is_file()]
        if missing:
            raise InputError(f'{missing[0]}: missing; expected {INSTRUCTIONS}')
        return files

    def has_mat(self) -> bool:
        """Whether the official annotations are there."""
        return self._mat_in_root() is not None or self.find(RELEASE) is not None

    def mat_file(self) -> pathlib.Path:
        """The official annotations. Raises `InputError` where they are missing."""
        file = self._mat_in_root()
        if file is None and self.find(RELEASE):
            file = self.folder(RELEASE, lambda inner: inner.name == MAT) / MAT
        if file is None or not file.is_file():
            way = f'; with {ANNOT}/train.json and {ANNOT}/valid.json build mpii/simple_baseline' if self.has_json() else ''
            raise InputError(f'{self.root}: no {MAT} there, and no {RELEASE}.zip with it{way}')
        return file

    def _mat_in_root(self) -> pathlib.Path | None:
        files = [self.root / MAT, *sorted(self.root.glob(f'*/{MAT}'))]
        return next((file for file in files if file.is_file()), None)
