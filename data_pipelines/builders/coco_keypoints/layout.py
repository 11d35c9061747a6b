"""The folder of one's own data: where its annotation files, images and videos lie."""

import collections
import dataclasses
import functools
import os
import pathlib
import re

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.video import IMAGE_SUFFIXES
from kimnet_jax.data_pipelines.builders.coco_keypoints.coco import is_coco
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled import Image

ANNOTATIONS = 'annotations'
VIDEO_SUFFIXES = ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg')
YOLO_FILES = ('data.yaml', 'data.yml', 'dataset.yaml')
INSTRUCTIONS = (
    'a COCO keypoints JSON, in it or in a folder annotations, and images or videos in any folders; '
    'or data.yaml, images and labels of YOLO pose; or labeled-data of DeepLabCut'
)


@dataclasses.dataclass(frozen=True)
class Frame:
    """Where the picture of an image is.

    Attributes:
        file: an image, or a video.
        number: of the frame in a video, from 0; None: `file` is an image.
    """

    file: pathlib.Path
    number: int | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Attributes:
    root: the folder, given as --manual_dir.
    first_frame: what annotations call the first frame of a video.
    """

    root: pathlib.Path
    first_frame: int = 0

    def annotation_files(self) -> list[pathlib.Path]:
        """The JSON files in `annotations`; without that folder, all COCO files in `root`. Raises `InputError` on none."""
        folder = self.root / ANNOTATIONS
        if folder.is_dir():
            files = sorted(file for file in folder.glob('*.json') if not file.name.startswith('.'))
            if not files:
                raise InputError(f'{folder}: no .json file in it; expected {INSTRUCTIONS}')
            return files
        files = [file for file in self._files if file.suffix == '.json']
        found = [file for file in files if len(files) == 1 or is_coco(read_json(file, 'annotation file'))]
        if not found:
            archives = [file.name for file in self._files if file.suffix in ('.zip', '.tar', '.gz', '.tgz')]
            unpack = f'; unpack {some_of(archives)} first' if archives else ''
            raise InputError(f'{self.root}: no annotation file there{unpack}; expected {INSTRUCTIONS}')
        return found

    def deeplabcut_files(self) -> list[pathlib.Path]:
        """The tables of labels of a project of DeepLabCut. Raises `InputError` where they are HDF5 alone."""
        found = [file for file in self._files if file.name.startswith('CollectedData') and file.suffix in ('.csv', '.h5')]
        tables = [file for file in found if file.suffix == '.csv']
        alone = [file for file in found if file.suffix == '.h5' and file.with_suffix('.csv') not in tables]
        if alone:
            raise InputError(f'{alone[0]}: its labels are read from {alone[0].stem}.csv, which is not there; export it anew')
        return tables

    def yolo_file(self) -> pathlib.Path | None:
        """The description of a YOLO data set, where there is one."""
        return next((self.root / name for name in YOLO_FILES if (self.root / name).is_file()), None)

    def locate(self, image: Image) -> Frame:
        """The picture of an image: a file, in `images`, beside its annotations or anywhere, or else a frame of a video.

        Raises `InputError` where there is none, or several.
        """
        parts = pathlib.PurePosixPath(image.name).parts
        for first in range(len(parts)):  # a tool may name images by a longer path than they have here
            for folder in (self.root / 'images', image.source.parent, self.root):
                if (folder.joinpath(*parts[first:])).is_file():
                    return Frame(folder.joinpath(*parts[first:]))
        found = [file for file in self._by_name.get(parts[-1], ()) if file.parts[-len(parts) :] == parts]
        if len(found) > 1:
            raise InputError(f'{image.source}: {image.name!r} may be {some_of(found)}; name it by its path')
        if found:
            return Frame(found[0])
        video = self._video_of(image)
        if video is None:
            raise InputError(f'{image.source}: {image.name!r}: no such image below {self.root}')
        number = image.number if image.number is not None else number_of(image.name)
        if number is None or number < self.first_frame:
            raise InputError(
                f'{image.source}: {image.name!r}: no such image, and no number of a frame of {video.name} in its name'
            )
        return Frame(video, number - self.first_frame)

    def _video_of(self, image: Image) -> pathlib.Path | None:
        videos = [file for file in self._files if file.suffix.lower() in VIDEO_SUFFIXES]
        path = pathlib.PurePosixPath(image.name)
        names = [name for name in (image.video, str(path.parent), stem_of(image.name)[0].strip('/')) if name not in ('', '.')]
        for name in names:
            last = pathlib.PurePosixPath(name).name
            found = [file for file in videos if last in (file.stem, file.name)]
            if len(found) == 1:
                return found[0]
        return videos[0] if len(videos) == 1 and not image.video and path.parent == pathlib.PurePosixPath('.') else None

    @functools.cached_property
    def _files(self) -> list[pathlib.Path]:
        found = []
        for folder, folders, files in os.walk(self.root, followlinks=False):
            folders[:] = sorted(name for name in folders if not name.startswith('.'))
            found += [pathlib.Path(folder, name) for name in sorted(files) if not name.startswith('.')]
        return found

    @functools.cached_property
    def _by_name(self) -> dict[str, list[pathlib.Path]]:
        found = collections.defaultdict(list)
        for file in self._files:
            if file.suffix.lower() in IMAGE_SUFFIXES:
                found[file.name].append(file)
        return dict(found)


_ROBOFLOW = re.compile(r'(_(?:jpe?g|png|webp|bmp))?\.rf\.[0-9A-Za-z]+$')


def stem_of(name: str) -> tuple[str, int | None]:
    """The path of an image without suffix and without the number at its end, and that number; Roboflow's additions count not."""
    path = pathlib.PurePosixPath(name)
    stem = _ROBOFLOW.sub('', path.stem)
    match = re.fullmatch(r'(.*?)[-_. ]*?([0-9]{1,9})', stem, re.DOTALL | re.ASCII)
    folder = '' if path.parent == pathlib.PurePosixPath('.') else f'{path.parent}/'
    return (folder + match[1].rstrip('-_. '), int(match[2])) if match else (folder + stem, None)


def number_of(name: str) -> int | None:
    """The number at the end of the name of an image."""
    return stem_of(name)[1]
