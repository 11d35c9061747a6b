"""What `kimnet doctor` says of one's own data, by the rules of its builder."""

import functools
import pathlib
from collections.abc import Sequence

from kimnet_jax.core.geometry import inside
from kimnet_jax.data_pipelines.builders.coco_keypoints.clips import Clip
from kimnet_jax.data_pipelines.builders.coco_keypoints.coco_keypoints_dataset_builder import read_pictures
from kimnet_jax.data_pipelines.builders.coco_keypoints.layout import Frame
from kimnet_jax.data_pipelines.builders.coco_keypoints.own_data import read_own_data
from kimnet_jax.data_pipelines.findings import Check, Finding, Report, attempt
from kimnet_jax.data_pipelines.persons import OUTSIDE


def inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one clip."""
    data = read_own_data(root, 'own')
    findings = [*data.findings, *(Finding('error', str(root), problem) for problem in data.problems)]
    if data.leak:
        findings.append(Finding('warning', str(root), f'reason why no result is one on unseen clips: {data.leak}'))
    counts = {f'{split} clips': len(clips) for split, clips in data.splits.items()}
    counts |= {'joints of a person': data.skeleton.num_joints, 'images without a person': data.unlabelled}
    checks: list[Check] = []
    for clip in [clip for clips in data.splits.values() for clip in clips]:
        places = [data.frames[image.name] for image, _ in clip.frames if image.name in data.frames]
        checks.append(functools.partial(_check, clip, places, pixels and len(places) == len(clip.frames)))
    return Report(findings, counts), checks


def _check(clip: Clip, places: Sequence[Frame], pixels: bool) -> Report:
    findings: list[Finding] = []
    read = attempt(findings, clip.name, read_pictures, clip, places) if pixels else None
    if read:
        outside = sum(int((person.visible & ~inside(person.joints, read[1])).sum()) for _, person in clip.frames)
        findings += [Finding('warning', clip.name, OUTSIDE, outside)] if outside else []
    joints = sum(int(person.visible.sum()) for _, person in clip.frames)
    return Report(findings, {'labelled persons': len(clip.frames), 'labelled joints': joints})
