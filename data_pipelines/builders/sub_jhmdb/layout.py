"""JHMDB's official download: the folders, or the archives they come in, and the split files of Sub-JHMDB."""

import dataclasses
import pathlib
import re
import zlib
from collections.abc import Mapping

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import download

IMAGES, VIDEOS, JOINTS, MASKS, SPLITS = 'Rename_Images', 'ReCompress_Videos', 'joint_positions', 'puppet_mask', 'sub_splits'
HELD_OUT = 5  # one of so many source videos, where settings are chosen
EMPTY_MASK = 'frames with an empty puppet mask, whose box is the extent of the joints'  # to be read after a number
ARCHIVES = {  # the folder -> the names its archive goes by, without suffix; the official one first
    IMAGES: ('Rename_Images',),
    VIDEOS: ('JHMDB_video', 'ReCompress_Videos'),
    JOINTS: ('joint_positions',),
    MASKS: ('puppet_mask',),
    SPLITS: ('sub_splits',),
}
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

    @property
    def view(self) -> str:
        """The side of the person that the camera sees, which HMDB51 writes into names: `..._np1_fr_...`; '' where it does not."""
        found = re.search(r'_np\d+_(fr|ba|le|ri)_', self.name)
        return {'fr': 'front', 'ba': 'back', 'le': 'left', 'ri': 'right'}[found[1]] if found else ''


@dataclasses.dataclass(frozen=True)
class Layout(download.Download):
    """The parts of the data set, wherever they lie."""

    ARCHIVES = ARCHIVES
    PARENTS = '*'
    INSTRUCTIONS = INSTRUCTIONS

    def frames_part(self) -> str:
        """`IMAGES` or `VIDEOS`, whichever is there; images win. Raises `InputError` that lists every part that is missing."""
        missing = [part for part in (SPLITS, JOINTS, MASKS) if not self.find(part)]
        frames = [part for part in (IMAGES, VIDEOS) if self.find(part)]
        if not frames:
            missing.append(f'{IMAGES} or {VIDEOS}')
        if missing:
            raise InputError(f'{self.root}: no {", no ".join(missing)} there; expected {INSTRUCTIONS}')
        return frames[0]


def clip_of(inner: pathlib.PurePosixPath) -> Clip | None:
    """The clip that a file belongs to, by its path in its part."""
    return Clip(inner.parts[0], inner.parts[1].removesuffix('.avi')) if len(inner.parts) > 1 else None


def files_of(parts: Mapping[str, pathlib.Path], clip: Clip) -> dict[str, pathlib.Path]:
    """Part -> the file of a clip, or the folder of its images; `parts`: the folder of each part."""
    inner = {
        IMAGES: f'{clip}',
        VIDEOS: f'{clip}.avi',
        JOINTS: f'{clip}/joint_positions.mat',
        MASKS: f'{clip}/puppet_mask.mat',
    }
    return {part: folder / inner[part] for part, folder in parts.items()}


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


def video_of(clip: Clip) -> str:
    """The source video of a clip: its name up to the action and what was noted of the clip."""
    return re.sub(rf'_{re.escape(clip.action)}_[^_]+_[^_]+_np\d+_[^_]+_[^_]+_\d+$', '', clip.name)


def held_out(clips: list[Clip]) -> dict[str, list[Clip]]:
    """`train`, `test` -> clips; all clips of one in `HELD_OUT` source videos, by a checksum of its name, are `test`."""
    splits: dict[str, list[Clip]] = {'train': [], 'test': []}
    for clip in clips:
        splits['test' if zlib.crc32(video_of(clip).encode()) % HELD_OUT == 0 else 'train'].append(clip)
    return splits


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
