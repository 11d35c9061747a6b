"""`kimnet posetrack POSES.npz --manual_dir posetrack18 --out FOLDER`: poses as PoseTrack's own evaluation reads them.

POSES.npz is what `kimnet evaluate --predictions` wrote for a whole split of posetrack/posetrack18. FOLDER gets a JSON file for
each video of the split, of the name and with the images of its annotation file. Boxes and tracks are the annotated ones, so of
what the evaluation computes, MOTA says nothing of tracking, and AP nothing of detection.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.files import drafts_in
from kimnet_jax.core.skeleton import POSETRACK
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import shortened
from kimnet_jax.data_pipelines.builders.posetrack.annotations import PERSON, Video, read_video
from kimnet_jax.data_pipelines.builders.posetrack.layout import PARTS, Layout
from kimnet_jax.data_pipelines.pose_files import read_predictions
from kimnet_jax.data_pipelines.poses import Estimates

_ANNOTATED = np.array([not joint.endswith('_ear') for joint in POSETRACK.joints])


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog='kimnet posetrack', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('poses', metavar='POSES.npz', help='the poses of all clips of the split')
    parser.add_argument(
        '--manual_dir', required=True, type=pathlib.Path, help='the folder that the data set was built from; for its annotations'
    )
    parser.add_argument('--split', default='valid', choices=PARTS, help='the split (default: valid)')
    parser.add_argument('--out', required=True, type=pathlib.Path, help='the folder to write into')
    return parser


def main(argv: Sequence[str]) -> None:
    """Writes what the command line (`argv[0]` is the program) asks for. Raises `InputError`."""
    args = make_parser().parse_args(argv[1:])
    root, out = args.manual_dir.expanduser(), args.out.expanduser()
    videos = []
    for file in Layout(root, root).annotation_files(args.split):
        videos.append((file.name, read_video(file)))
        if problems := videos[-1][1].found.problems:
            raise InputError(shortened(problems))
    files = official_files(dict(videos), read_predictions(args.poses, POSETRACK.text), args.poses)
    with drafts_in(out) as hidden:
        for name, data in files.items():
            (hidden / name).write_text(json.dumps(data), encoding='utf-8')
    print(f'{args.split}: {len(files)} videos in {out}')


def official_files(videos: dict[str, Video], estimates: Sequence[Estimates], source: str) -> dict[str, dict[str, Any]]:
    """The annotation files of a split with poses in the place of their annotations.

    Args:
        videos: name of the file -> what it holds.
        estimates: the poses of each clip of the split.
        source: of the poses, for errors.

    Raises:
        InputError: the clips of the poses are not those of the split, or their boxes are not the annotated ones.
    """
    wanted = {clip.name for video in videos.values() for clip in video.clips}
    found = {one.clip: one for one in estimates}
    missing, foreign = sorted(wanted - set(found)), sorted(set(found) - wanted)
    if missing:
        raise InputError(f'{source}: no poses of {len(missing)} clips of the split: {some_of(missing)}')
    if foreign or len(found) < len(estimates):
        raise InputError(f'{source}: {some_of(foreign)}: no clip of the split' if foreign else f'{source}: a clip is there twice')
    return {name: _with_poses(video, found, source) for name, video in videos.items()}


def _with_poses(video: Video, found: dict[str, Estimates], source: str) -> dict[str, Any]:
    images = video.data['images']
    ids = {image.name: record['id'] for image, record in zip(video.found.images, images, strict=True)}
    category = next(one['id'] for one in video.data['categories'] if one.get('keypoints') and one['name'] == PERSON)
    annotations: list[dict[str, Any]] = []
    for clip in video.clips:
        poses = found[clip.name]
        boxes = np.stack([person.box for _, person in clip.frames])
        if poses.boxes.shape != boxes.shape or not np.allclose(poses.boxes, boxes, atol=0.01):
            raise InputError(f'{source}: {clip.name}: not the annotated boxes; give poses in the pixels of the release')
        for (image, person), joints, scores in zip(clip.frames, poses.joints, poses.scores, strict=True):
            there = np.isfinite(joints).all(-1) & _ANNOTATED
            points = np.where(there[:, None], joints, 0).astype(np.float64)
            x0, y0, x1, y1 = person.box.astype(np.float64)
            annotation = {
                'id': len(annotations) + 1,
                'image_id': ids[image.name],
                'track_id': int(person.track),
                'category_id': category,
                'bbox': np.round([x0, y0, x1 - x0, y1 - y0], 2).tolist(),
                'keypoints': np.round(np.concatenate([points, there[:, None]], -1), 2).ravel().tolist(),
                'scores': np.round(np.where(there, scores, 0).astype(np.float64), 6).tolist(),
            }
            annotations.append(annotation)
    return {'images': images, 'annotations': annotations, 'categories': video.data['categories']}


if __name__ == '__main__':
    run_command(main, sys.argv)
