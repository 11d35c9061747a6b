"""JHMDB's official download: the folders, or the archives they come in, and the split files of Sub-JHMDB."""

import dataclasses
import pathlib
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO

from kimnet_jax.core.errors import InputError

IMAGES, VIDEOS, JOINTS, MASKS, SPLITS = 'Rename_Images', 'ReCompress_Videos', 'joint_positions', 'puppet_mask', 'sub_splits'
ARCHIVES = {  # the folder -> the names its archive goes by, without suffix; the official one first
    IMAGES: ('Rename_Images',),
    VIDEOS: ('JHMDB_video', 'ReCompress_Videos'),
    JOINTS: ('joint_positions',),
    MASKS: ('puppet_mask',),
    SPLITS: ('sub_splits',),
}
ARCHIVE_SUFFIXES = ('.zip', '.tar', '.tar.gz', '.tgz')
INSTRUCTIONS = (
    'the folders joint_positions, puppet_mask and sub_splits, and either Rename_Images or ReCompress_Videos, or their archives '
    '(joint_positions.zip, puppet_mask.zip, sub_splits.zip, Rename_Images.tar.gz, JHMDB_video.zip), from http://jhmdb.is.tue.mpg.de'
)


@dataclasses.dataclass(frozen=True, order=True)
class Clip:
    """One clip, by the names of its folders."""

    action: str
    name: str

    def __str__(self) -> str:
        return f'{self.action}/{self.name}'


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of the data set, wherever they lie.

    Attributes:
        root: the folder that holds the folders or the archives.
        scratch: an existing folder for what has to be unpacked; the owner removes it.
    """

    root: pathlib.Path
    scratch: pathlib.Path

    def frames_part(self) -> str:
        """`IMAGES` or `VIDEOS`, whichever is there; images win. Raises `InputError` that lists every part that is missing."""
        missing = [part for part in (SPLITS, JOINTS, MASKS) if not self._find(part)]
        frames = [part for part in (IMAGES, VIDEOS) if self._find(part)]
        if not frames:
            missing.append(f'{IMAGES} or {VIDEOS}')
        if missing:
            raise InputError(f'{self.root}: no {", no ".join(missing)} there; expected {INSTRUCTIONS}')
        return frames[0]

    def folder(self, part: str, clips: Collection[Clip] | None = None) -> pathlib.Path:
        """The folder of a part; of an archive, `clips` (default: all) are unpacked. Raises `InputError` naming the archive."""
        source = self._find(part)
        if source is None:
            raise InputError(f'{self.root}: no {part} there; expected {INSTRUCTIONS}')
        if source.is_dir():
            return source
        target = self.scratch / source.name
        try:
            _unpack(source, part, clips, target)
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError) as error:
            raise InputError(f'{source}: damaged, or not what its suffix says ({error}); download it again') from error
        if not target.is_dir():
            raise InputError(f'{source}: no folder {part!r} in it')
        return target

    def public(self, message: str) -> str:
        """The message with the names of unpacked files as the user knows them: `<root>/<archive>/<path in the part>`."""
        return message.replace(str(self.scratch), str(self.root))

    def _find(self, part: str) -> pathlib.Path | None:
        folders = [self.root / part, *sorted(self.root.glob(f'*/{part}'))]
        archives = [self.root / f'{stem}{suffix}' for stem in ARCHIVES[part] for suffix in ARCHIVE_SUFFIXES]
        found = [p for p in folders if p.is_dir()] + [p for p in archives if p.is_file()]
        return found[0] if found else None


def _unpack(archive: pathlib.Path, part: str, clips: Collection[Clip] | None, target: pathlib.Path) -> None:
    """Writes what lies in a folder `part` of the archive, at any depth, under `target`, in one pass."""
    for name, content in _members(archive):
        parts = pathlib.PurePosixPath(name).parts
        if part not in parts[:-1]:
            continue
        target.mkdir(exist_ok=True)
        inner = parts[len(parts) - parts[::-1].index(part) :]
        if '__MACOSX' in parts or any(p.startswith('.') for p in inner):
            continue
        if clips is not None and (len(inner) < 2 or Clip(inner[0], inner[1].removesuffix('.avi')) not in clips):
            continue
        path = target.joinpath(*inner)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open('wb') as out:
            shutil.copyfileobj(content, out)


def _members(archive: pathlib.Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file of an archive, in its order; a tar is read as a stream, once."""
    if archive.suffix == '.zip':
        with zipfile.ZipFile(archive) as files:
            for info in files.infolist():
                if not info.is_dir():
                    with files.open(info) as file:
                        yield info.filename, file
        return
    with tarfile.open(archive, 'r|*') as members:
        for member in members:
            if member.isfile():
                content = members.extractfile(member)
                assert content is not None
                yield member.name, content


def read_folds(folder: pathlib.Path) -> dict[int, dict[str, list[Clip]]]:
    """Reads `<action>_test_split_<fold>.txt` of every action and fold.

    Returns:
        fold -> `train`, `test` -> the clips, sorted.

    Raises:
        InputError: a file is missing, is empty, or has a line that is no clip; a clip is listed twice or is in train and test.
    """
    matches = [re.fullmatch(r'([^.].*)_test_split_(\d+)\.txt', path.name) for path in folder.iterdir()]
    names = [(match[1], int(match[2])) for match in matches if match]
    if not names:
        raise InputError(f'{folder}: no file named <action>_test_split_<fold>.txt')
    folds: dict[int, dict[str, list[Clip]]] = {}
    for fold in sorted({fold for _, fold in names}):
        labels: dict[Clip, str] = {}
        for action in sorted({action for action, _ in names}):
            _read_split(folder / f'{action}_test_split_{fold}.txt', action, labels)
        folds[fold] = {split: sorted(clip for clip, label in labels.items() if label == split) for split in ('train', 'test')}
        for split, clips in folds[fold].items():
            if not clips:
                raise InputError(f'{folder}: the files of fold {fold} name no {split} clip')
    return folds


def _read_split(path: pathlib.Path, action: str, labels: dict[Clip, str]) -> None:
    if not path.is_file():
        raise InputError(f'{path}: missing, and other files of {action!r} or of this fold are there')
    lines = path.read_text(encoding='utf-8', errors='replace').splitlines()
    if not any(line.strip() for line in lines):
        raise InputError(f'{path}: empty')
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r'\s*([^/]+)\.avi\s+([12])\s*', line)
        if not match:
            raise InputError(f'{path}: line {number} is {line!r}, expected "<clip>.avi 1" (train) or "<clip>.avi 2" (test)')
        clip, split = Clip(action, match[1]), {'1': 'train', '2': 'test'}[match[2]]
        if clip in labels:
            what = 'listed twice' if labels[clip] == split else 'both in train and in test'
            raise InputError(f'{path}: line {number}: {clip} is {what}')
        labels[clip] = split
