"""What `kimnet doctor` says of one's own data, by the rules of its builder."""

import pathlib

from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import inspect_clips
from kimnet_jax.data_pipelines.builders.coco_keypoints.own_data import read_own_data
from kimnet_jax.data_pipelines.findings import Check, Report


def inspect(root: pathlib.Path, scratch: pathlib.Path, pixels: bool) -> tuple[Report, list[Check]]:
    """See `data_pipelines.findings`. A check is one clip."""
    data = read_own_data(root, 'own')
    counts = {'joints of a person': data.skeleton.num_joints, 'images without a person': data.unlabelled}
    return inspect_clips(data, root, counts, pixels)
