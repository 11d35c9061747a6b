"""Penn Action's official download: one archive, or the folder that it holds."""

import collections
import pathlib
from collections.abc import Collection

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.video import IMAGE_SUFFIXES
from kimnet_jax.data_pipelines import download
from kimnet_jax.data_pipelines.images import require_names

LABELS, FRAMES = 'labels', 'frames'
SIZE_SOURCE = 'dimensions of its label say'
INSTRUCTIONS = 'Penn_Action.tar.gz, or the folder Penn_Action that is in it, from http://dreamdragon.github.io/PennAction'
OFFICIAL = {'clips': 2326, 'train clips': 1258, 'test clips': 1068, 'frames': 163_841, 'visible joints': 1_660_432}


class Layout(download.Download):
    """The labels and the frames, wherever they lie."""

    ARCHIVES = {LABELS: ('Penn_Action',), FRAMES: ('Penn_Action',)}  # noqa: RUF012
    PARENTS = 'Penn_Action'
    INSTRUCTIONS = INSTRUCTIONS

    def labels(self) -> dict[str, pathlib.Path]:
        """Clip -> its label file, sorted. Raises `InputError` where there is none."""
        folder = self.folder(LABELS)
        files = sorted(file for file in folder.glob('*.mat') if not file.name.startswith('.'))
        if not files:
            raise InputError(f'{folder}: no .mat file in it; expected {INSTRUCTIONS}')
        return {file.stem: file for file in files}


def image_names(frames: pathlib.Path) -> dict[str, list[str]]:
    """Clip -> the names of its images, from the folder of the frames or the archive."""
    images: dict[str, list[str]] = collections.defaultdict(list)
    for inner in download.names(frames, FRAMES):
        if len(inner.parts) == 2 and inner.suffix.lower() in IMAGE_SUFFIXES:
            images[inner.parts[0]].append(inner.name)
    return dict(images)


def unmatched(labels: Collection[str], images: Collection[str]) -> dict[str, str]:
    """What is wrong with each clip that has a label but no images, or images but no label."""
    wrong = {clip: f'no images in {FRAMES}/{clip}' for clip in set(labels) - set(images)}
    wrong |= {clip: f'no file {LABELS}/{clip}.mat' for clip in set(images) - set(labels)}
    return dict(sorted(wrong.items()))


def frame_names(count: int) -> list[str]:
    """The names of a clip's frames."""
    return [f'{number:06d}.jpg' for number in range(1, count + 1)]


def require_frames(place: str, names: Collection[str], count: int) -> None:
    """Raises `InputError` unless the images of the clip in `place` are 000001.jpg, ..., as many as its label says."""
    require_names(place, names, frame_names(count), f'nframes of {pathlib.PurePath(place).name}.mat')
