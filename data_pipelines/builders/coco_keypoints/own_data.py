"""All that a folder of one's own data holds: its skeleton, its clips in their splits, and where their pictures are."""

import dataclasses
import pathlib

from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.data_pipelines.builders.coco_keypoints import coco, deeplabcut, labelled, splits, yolo
from kimnet_jax.data_pipelines.builders.coco_keypoints.clips import make_clips
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import LabelledClips, shortened
from kimnet_jax.data_pipelines.builders.coco_keypoints.layout import Frame, Layout
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import read_settings


def read_own_data(root: pathlib.Path, name: str) -> LabelledClips:
    """Reads the annotations in `root`, and looks for the images; no picture is decoded.

    Args:
        root: the folder.
        name: of the skeleton, where it is none that is known.

    Raises:
        InputError: naming file and field, where the annotations are no basis for clips.
    """
    settings = read_settings(root)
    layout = Layout(root, settings.first_frame)
    yolo_file = layout.yolo_file()
    if yolo_file is not None:
        found = yolo.read_yolo(yolo_file, settings, name)
    elif tables := layout.deeplabcut_files():
        found = labelled.joined(deeplabcut.read_deeplabcut(file, settings, name) for file in tables)
    else:
        found = labelled.joined(coco.read_coco(file, settings, name) for file in layout.annotation_files())
    problems = [*found.problems]
    if problems and not any(image.persons for image in found.images):
        raise InputError(shortened(problems))
    try:
        clips, rule, findings = make_clips(
            found.images, settings.clips, lambda image: '' if settings.splits else splits.of_file(image.source, root)
        )
        chosen, way, left_out = splits.choose(clips, settings.splits, root)
    except InputError as error:  # it may follow from what is wrong with single annotations
        raise InputError(shortened([*problems, str(error)])) from error
    frames: dict[str, Frame] = {}
    for image in {image.name: image for clips in chosen.values() for clip in clips for image, _ in clip.frames}.values():
        try:
            frames[image.name] = layout.locate(image)
        except InputError as error:
            problems.append(str(error))
    in_splits = {split: {clip.group for clip in clips} for split, clips in chosen.items()}
    shared = sorted({group for a in in_splits for b in in_splits if a < b for group in in_splits[a] & in_splits[b]})
    leak = f'frames of the same video are in two splits: {some_of(shared)}' if shared else ''
    if shared:
        chosen = {
            split: [dataclasses.replace(one, name=f'{split}/{one.name}') if one.group in shared else one for one in clips]
            for split, clips in chosen.items()
        }
    return LabelledClips(
        found.skeleton,
        chosen,
        frames,
        [*found.findings, *findings, *left_out],
        [rule, way, *_of_skeleton(found.skeleton)],
        problems,
        leak,
        sum(not image.persons for image in found.images),
    )


def _of_skeleton(skeleton: Skeleton) -> list[str]:
    notes = []
    if not skeleton.has_torso:
        notes.append('No torso: no joints are called left shoulder and right hip, so PCK is measured by person size alone')
    if not skeleton.flip_pairs and skeleton.num_joints > 1:
        notes.append('No flip pairs: no joints are called left and right, so mirrored images swap no joints')
    return notes
