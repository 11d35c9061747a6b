"""Writes a small synthetic data set in the layout of JHMDB's official download."""

import pathlib
import tarfile
import zipfile

import av
import cv2
import numpy as np
import scipy.io

from kimnet_jax.core.skeleton import JHMDB

SIZE = (48, 64)  # rows, columns; MPEG-4 wants even numbers
LENGTHS = {'catch/Ball_catch_0': 5, 'catch/Ball_catch_1': 3, 'golf/Golf_swing_0': 4, 'golf/Golf_swing_1': 2}
LABELS = {1: (1, 2, 1, 2), 2: (2, 1, 1, 2), 3: (1, 2, 2, 1)}  # fold -> 1 train, 2 test, in the order of LENGTHS


def box_of(frame: int) -> tuple[int, int, int, int]:
    """The person in that frame of every clip: x0, y0, x1, y1 of the outermost pixels of the mask."""
    return 10 + frame, 5, 40 + frame, 41


def frames_of(clip: str) -> np.ndarray:
    """uint8 [T, rows, columns, 3] RGB: a block in the person's box, on a ground that tells the clips apart."""
    frames = np.full((LENGTHS[clip], *SIZE, 3), 40 * sorted(LENGTHS).index(clip), np.uint8)
    for t, frame in enumerate(frames):
        x0, y0, x1, y1 = box_of(t)
        frame[y0 : y1 + 1, x0 : x1 + 1] = (200, 120, 60 + t)
    return frames


def joints_of(clip: str) -> np.ndarray:
    """float [T, 15, 2], 0-based pixels: the joints on the diagonal of the box."""
    boxes = np.array([box_of(t) for t in range(LENGTHS[clip])], float)
    share = np.linspace(0.1, 0.9, JHMDB.num_joints)[:, None]
    return boxes[:, None, :2] + share * (boxes[:, None, 2:] - boxes[:, None, :2])


def write_jhmdb(root: pathlib.Path, *, images: bool = False, videos: bool = True) -> pathlib.Path:
    """Writes the data set into `root` and returns it."""
    for clip in LENGTHS:
        frames = frames_of(clip)
        if videos:
            write_video(root / 'ReCompress_Videos' / f'{clip}.avi', frames)
        if images:
            write_images(root / 'Rename_Images' / clip, frames)
        write_joints(root / 'joint_positions' / clip / 'joint_positions.mat', joints_of(clip))
        masks = np.zeros((*SIZE, len(frames)), np.uint8)
        for t in range(len(frames)):
            x0, y0, x1, y1 = box_of(t)
            masks[y0 : y1 + 1, x0 : x1 + 1, t] = 1
        write_masks(root / 'puppet_mask' / clip / 'puppet_mask.mat', masks)
    (root / 'sub_splits').mkdir(parents=True, exist_ok=True)
    for fold, labels in LABELS.items():
        for action in ('catch', 'golf'):
            lines = [
                f'{clip.split("/")[1]}.avi {label}\n'
                for clip, label in zip(LENGTHS, labels, strict=True)
                if clip.startswith(action)
            ]
            (root / 'sub_splits' / f'{action}_test_split_{fold}.txt').write_text(''.join(lines))
    return root


def write_video(path: pathlib.Path, frames: np.ndarray) -> None:
    """Frames [T, rows, columns, 3] as an MPEG-4 .avi."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('mpeg4', rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *frames.shape[1:3], 'yuv420p', 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def write_images(folder: pathlib.Path, frames: np.ndarray) -> None:
    """Frames as 00001.png, 00002.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames, 1):
        assert cv2.imwrite(str(folder / f'{number:05d}.png'), frame[..., ::-1])


def write_joints(path: pathlib.Path, joints: np.ndarray) -> None:
    """Joints [T, 15, 2], 0-based, as a joint_positions.mat, 1-based."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pos_img = (joints + 1).transpose(2, 1, 0)
    scipy.io.savemat(path, {'pos_img': pos_img, 'pos_world': pos_img, 'scale': np.ones((1, len(joints)))}, do_compression=True)


def write_masks(path: pathlib.Path, masks: np.ndarray) -> None:
    """Masks [rows, columns, T] as a puppet_mask.mat."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {'part_mask': masks}, do_compression=True)


def pack(folder: pathlib.Path, archive: pathlib.Path, prefix: str = '') -> None:
    """Moves a folder into a .zip, .tar or .tar.gz, under `prefix`, with the litter that a Mac leaves."""
    files = sorted(file for file in folder.rglob('*') if file.is_file())
    names = [f'{prefix}{file.relative_to(folder.parent)}' for file in files]
    if archive.suffix == '.zip':
        with zipfile.ZipFile(archive, 'w') as out:
            for file, name in zip(files, names, strict=True):
                out.write(file, name)
            out.writestr(f'__MACOSX/{names[0]}', b'litter')
            out.writestr(f'{prefix}{folder.name}/.DS_Store', b'litter')
    else:
        with tarfile.open(archive, 'w:gz' if archive.name.endswith('gz') else 'w') as out:
            for file, name in zip(reversed(files), reversed(names), strict=True):
                out.add(file, name)
    folder.rename(folder.with_name(f'{folder.name} (packed)'))
