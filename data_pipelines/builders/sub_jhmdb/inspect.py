"""What `kimnet doctor` says of a download of JHMDB, by the rules of the builder of Sub-JHMDB."""

import functools
import pathlib

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.core.video import image_files
from kimnet_jax.data_pipelines import sides
from kimnet_jax.data_pipelines.builders.sub_jhmdb import clips, layout
from kimnet_jax.data_pipelines.builders.sub_jhmdb.layout import Clip, Layout
from kimnet_jax.data_pipelines.findings import Check, Finding, Report, attempt

OFFICIAL = {'clips': 316} | {
    f'fold {fold} {split} clips': number
    for fold, numbers in {1: (227, 89), 2: (236, 80), 3: (224, 92)}.items()
    for split, number in zip(('train', 'test'), numbers, strict=True)
}


def inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one clip that the official lists name; JHMDB has others, which are left alone."""
    source = Layout(root, scratch)
    frames_part = source.frames_part()
    folds = layout.read_folds(source.folder(layout.SPLITS))
    chosen = {clip for splits in folds.values() for names in splits.values() for clip in names}
    parts = {
        part: source.folder(part, lambda inner: layout.clip_of(inner) in chosen)
        for part in (frames_part, layout.JOINTS, layout.MASKS)
    }
    counts = {f'fold {fold} {split} clips': len(names) for fold, splits in folds.items() for split, names in splits.items()}
    missing = [
        Finding('error', layout.SPLITS, f'{root}: {layout.SPLITS} has no fold {fold}') for fold in (1, 2, 3) if fold not in folds
    ]
    return Report(missing, counts, OFFICIAL), [functools.partial(_check, parts, clip, pixels) for clip in sorted(chosen)]


def _check(parts: dict[str, pathlib.Path], clip: Clip, pixels: bool) -> Report:
    findings: list[Finding] = []
    files = layout.files_of(parts, clip)
    frames = files[layout.IMAGES if layout.IMAGES in files else layout.VIDEOS]
    joints = attempt(findings, str(clip), clips.read_joints, files[layout.JOINTS])
    image_size = attempt(findings, str(clip), _check_frames, frames, joints, pixels)
    if joints is None:
        return Report(findings, {'clips': 1})
    boxes = attempt(findings, str(clip), clips.read_boxes, files[layout.MASKS], joints, image_size)
    if boxes and boxes[1]:
        findings.append(Finding('warning', str(clip), layout.EMPTY_MASK, boxes[1]))
    sides_shown = sides.count_sides(clip.view, joints, np.ones(joints.shape[:2], bool), JHMDB)
    return Report(findings, {'clips': 1, 'frames': len(joints)} | sides_shown)


def _check_frames(path: pathlib.Path, joints: np.ndarray | None, pixels: bool) -> tuple[int, int] | None:
    """(rows, columns) of the frames of a video or of a folder of images; None where they were not to be decoded."""
    if not path.exists():
        raise InputError(f'{path}: missing, and {layout.SPLITS} names its clip')
    if joints is None:
        return None
    if pixels:
        return (clips.read_images if path.is_dir() else clips.read_video)(path, len(joints))[1]
    if path.is_dir():
        clips.require_image_names(str(path), [file.name for file in image_files(path)], len(joints))
    return None
