"""The downloads of LSP and LSP Extended: folders, or the archives they come in."""

import pathlib
import re
from typing import ClassVar

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import download
from kimnet_jax.data_pipelines.persons import IMAGES

JOINTS = 'joints.mat'
INSTRUCTIONS = (
    f'the folder {IMAGES} with {JOINTS} beside it, or the archive of both: for lsp/extended {IMAGES}/im00001.jpg ... or '
    f'lspet_dataset.zip, for lsp/original {IMAGES}/im0001.jpg ... or lsp_dataset.zip; from http://sam.johnson.io/research'
)


class Layout(download.Download):
    """The images and their joints. Both data sets have the same folders: the names of the images tell which one it is."""

    DIGITS: ClassVar[int]  # of the number in the name of an image
    PARENTS = '*'
    INSTRUCTIONS = INSTRUCTIONS

    def find(self, part: str) -> pathlib.Path | None:
        """The folder of a part, or else its archive; other than the images of this data set do not count."""
        own = re.compile(rf'im\d{{{self.DIGITS}}}\.jpg')
        for source in self.candidates(part):
            if any(own.fullmatch(str(inner)) for inner in download.names(source, part)):
                return source
        return None

    def joints_file(self) -> pathlib.Path:
        """The annotations. Raises `InputError` where they are missing."""
        return self.beside(IMAGES, JOINTS)

    def images(self, count: int) -> list[str]:
        """Names of the images, as many as there are annotations. Raises `InputError` where there are others beside them."""
        expected = [f'im{number:0{self.DIGITS}d}.jpg' for number in range(1, count + 1)]
        source = self.locate(IMAGES)
        more = {str(inner) for inner in download.names(source, IMAGES)} - set(expected)
        if more:
            raise InputError(f'{source}: {len(more)} files are no image that {JOINTS} has joints of, among them {min(more)}')
        return expected


class Extended(Layout):
    """LSP Extended."""

    DIGITS = 5
    ARCHIVES = {IMAGES: ('lspet_dataset',)}  # noqa: RUF012


class Original(Layout):
    """The original LSP; the larger images have an archive of their own."""

    DIGITS = 4
    ARCHIVES = {IMAGES: ('lsp_dataset', 'lsp_dataset_original')}  # noqa: RUF012


LAYOUTS: dict[str, type[Layout]] = {'extended': Extended, 'original': Original}
