"""Writes data sets in the layout of Penn Action's download: small synthetic clips, and drawn frames for real labels.

The frames of Penn Action are not at hand. Those here are drawn to the size that a label states, flat with a gradient, so that
they decode fast; they show nobody.
"""

import argparse
import pathlib
import tarfile
from collections.abc import Iterable

import cv2
import numpy as np
import scipy.io

SIZE = (36, 52)  # rows, columns
LENGTHS = {'0001': 4, '0002': 3, '0003': 5, '0004': 2}
SPLITS = {'0001': -1, '0002': 1, '0003': 1, '0004': -1}  # 1 train, -1 test
ACTIONS = {'0001': 'bowl', '0002': 'bowl', '0003': 'golf_swing', '0004': 'tennis_serve'}


def fields_of(clip: str) -> dict[str, object]:
    """The fields of a sound label: all joints visible and inside, on the diagonal of a box that moves; 1-based."""
    T = LENGTHS[clip]
    start = np.arange(T)[:, None]
    return {
        'action': ACTIONS[clip],
        'pose': 'left',
        'train': SPLITS[clip],
        'nframes': T,
        'dimensions': np.array([[*SIZE, T]], np.uint16),
        'x': start + 11 + 2.0 * np.arange(13),
        'y': start + 5 + 2.0 * np.arange(13),
        'visibility': np.ones((T, 13), np.uint8),
        'bbox': start + np.array([[8.5, 3.5, 39, 31]]),
    }


def write_penn_action(root: pathlib.Path, clips: Iterable[str] = tuple(LENGTHS)) -> pathlib.Path:
    """Writes the synthetic clips into `root`/Penn_Action and returns `root`."""
    for clip in clips:
        write_label(root, clip)
        write_frames(root / 'Penn_Action/frames' / clip, SIZE, LENGTHS[clip], shade=50 * int(clip))
    return root


def write_label(root: pathlib.Path, clip: str, **changes: object) -> None:
    """Writes the label of a synthetic clip, some of its fields replaced; None leaves a field out."""
    path = root / 'Penn_Action/labels' / f'{clip}.mat'
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = fields_of(clip) | changes
    scipy.io.savemat(path, {name: value for name, value in fields.items() if value is not None}, do_compression=True)


def write_frames(folder: pathlib.Path, size: tuple[int, int], count: int, shade: int = 0) -> None:
    """Draws 000001.jpg, 000002.jpg, ... of (rows, columns) pixels, no two alike, nor those of two shades."""
    folder.mkdir(parents=True, exist_ok=True)
    ground = np.broadcast_to(np.linspace(0, 90, size[1], dtype=np.uint8)[None, :, None], (*size, 3)).copy()
    ground[: size[0] // 2] += np.uint8(shade % 120)
    ground[:8, :8] = shade // 120 * 12 % 256
    for number in range(1, count + 1):
        ground[-8:, :8] = number % 256
        ground[-8:, 8:16] = number // 256 * 60
        assert cv2.imwrite(str(folder / f'{number:06d}.jpg'), ground)


def draw_for_labels(labels: pathlib.Path, root: pathlib.Path, clips: Iterable[str] | None = None) -> pathlib.Path:
    """Links the real labels (all, or those of `clips`) into `root`/Penn_Action, draws frames for them, and returns `root`."""
    (root / 'Penn_Action/labels').mkdir(parents=True)
    for file in sorted(labels.glob('*.mat')) if clips is None else [labels / f'{clip}.mat' for clip in clips]:
        (root / 'Penn_Action/labels' / file.name).symlink_to(file)
        rows, columns, count = (int(number) for number in scipy.io.loadmat(file)['dimensions'].ravel())
        write_frames(root / 'Penn_Action/frames' / file.stem, (rows, columns), count, shade=int(file.stem))
    return root


def pack(root: pathlib.Path, name: str = 'Penn_Action.tar.gz', prefix: str = '') -> pathlib.Path:
    """Moves `root`/Penn_Action into an archive there, frames first, as the release has it; returns the archive."""
    with tarfile.open(root / name, 'w:gz' if name.endswith('gz') else 'w', dereference=True) as out:
        for part in ('frames', 'labels'):
            out.add(root / 'Penn_Action' / part, f'{prefix}Penn_Action/{part}')
    (root / 'Penn_Action').rename(root / 'Penn_Action (packed)')
    return root / name


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Draws frames for the real labels in LABELS, in the layout of the download.')
    parser.add_argument('labels', type=pathlib.Path)
    parser.add_argument('root', type=pathlib.Path)
    parser.add_argument('--pack', action='store_true', help='leave an archive instead of the folder')
    flags = parser.parse_args()
    draw_for_labels(flags.labels, flags.root)
    if flags.pack:
        pack(flags.root)
