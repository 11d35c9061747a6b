"""What `kimnet doctor` says of a download of PoseTrack18, by the rules of its builder."""

import pathlib

from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import inspect_clips
from kimnet_jax.data_pipelines.builders.posetrack.annotations import read_posetrack
from kimnet_jax.data_pipelines.builders.posetrack.layout import Layout
from kimnet_jax.data_pipelines.findings import Check, Report


def inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one clip."""
    data, counts = read_posetrack(Layout(root, scratch))
    return inspect_clips(data, root, counts, pixels)
