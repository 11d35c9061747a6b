"""Small valid files of every kind that the commands read, and networks that answer at once."""

import contextlib
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import cv2
import fake_mpii
import fake_penn_action
import jax
import numpy as np
import optax
import sequences

from kimnet_jax.core.config import plain
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.data_pipelines.builders.kinetic_puppets.kinetic_puppets_dataset_builder import Builder, PuppetsConfig
from kimnet_jax.data_pipelines.pose_files import write_predictions
from kimnet_jax.data_pipelines.pose_formats import write_poses
from kimnet_jax.data_pipelines.poses import Estimates
from kimnet_jax.inference.predictor import PosePredictor
from kimnet_jax.inference.refiner import PoseRefiner
from kimnet_jax.inference.video_writer import VideoWriter
from kimnet_jax.models import abstract_model, abstract_refiner, model_fields
from kimnet_jax.tasks import heatmaps, refinement, videos
from kimnet_jax.tasks.trained import Trained, open_trained, pack
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.state import TrainState, split_model
from kimnet_jax.training.workdir import write_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
FRAMES, SIDE, J = 3, 64, JHMDB.num_joints
JOINTS = np.random.default_rng(0).uniform(5, SIDE - 5, (FRAMES, J, 2)).astype(np.float32)
DATASET = 'kinetic_puppets/mini/2.0.0'


def write_world(root: pathlib.Path) -> None:
    """Writes the files."""
    frames = [np.random.default_rng(i).integers(0, 256, (SIDE, SIDE, 3), np.uint8) for i in range(FRAMES)]
    for suffix in ('jpg', 'png', 'webp', 'bmp', 'tif'):
        (root / suffix).mkdir()
        for i, frame in enumerate(frames):
            cv2.imwrite(str(root / suffix / f'{i}.{suffix}'), frame)
    with (root / 'video.mp4').open('wb') as file:
        writer = VideoWriter(file, 25)
        for frame in frames:
            writer.write(frame)
        writer.finish()
    boxes = np.tile([5.0, 5.0, 55.0, 60.0], (FRAMES, 1))
    (root / 'boxes.json').write_text(json.dumps({'boxes': boxes.tolist()}))
    (root / 'boxes.csv').write_text('x0,y0,x1,y1\n' + '\n'.join(','.join(map(str, box)) for box in boxes) + '\n')
    tracks = [(t, person, *boxes[t]) for t in range(FRAMES) for person in (1, 2)]
    rows = [f'{t + 1},{person},{x0 + 1},{y0 + 1},{x1 - x0 + 1},{y1 - y0 + 1},1,-1,-1,-1' for t, person, x0, y0, x1, y1 in tracks]
    (root / 'tracks.txt').write_text('\n'.join(rows) + '\n')
    found = [{'image_id': t, 'track_id': i, 'bbox': [x0, y0, x1 - x0, y1 - y0]} for t, i, x0, y0, x1, y1 in tracks]
    (root / 'tracks.json').write_text(json.dumps(found))
    about = {'video': 'v.mp4', 'width': SIDE, 'height': SIDE, 'skeleton': 'jhmdb', 'joints': JHMDB.joints}
    rows = [{'frame': i, 'box': boxes[i].tolist(), 'joints': JOINTS[i].tolist(), 'scores': [0.5] * J} for i in range(FRAMES)]
    (root / 'poses.json').write_text(json.dumps({'about': about, 'frames': rows}))
    scores = np.full((FRAMES, J), 0.5, np.float32)
    estimates = [Estimates(name, JOINTS, scores, boxes, np.array([SIDE, SIDE])) for name in ('a', 'b')]
    write_predictions(root / 'predictions.npz', estimates, JHMDB, {'model': 'kimnet'})
    about = {'video': 'v.mp4', 'model': 'm'}
    for kind, ending in (('csv', '.csv'), ('trc', '.trc'), ('dlc', '.dlc.csv'), ('dlc_h5', '.h5'), ('openpose', '_openpose')):
        write_poses(root / f'poses{ending}', kind, estimates[:1], JHMDB, about)
    (root / 'sequences').mkdir()
    sequences.joint_files(root / 'sequences')
    sequences.body_file(root)
    fake_penn_action.write_penn_action(root / 'penn_action')
    fake_mpii.write_mpii(root / 'mpii')
    config = PuppetsConfig(name='mini', description='For tests.', train_clips=1, test_clips=1, seed=3)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        Builder(config=config, data_dir=root / 'data', file_format='array_record').download_and_prepare()
    _write_runs(root)


def _write_runs(root: pathlib.Path) -> None:
    fields = model_fields('kimnet', 'tiny') | {'pose_initializer': 'none'}
    of_videos = plain(heatmaps.Settings(model=fields))
    of_videos['data'] |= {'input_size': 64}
    of_poses = plain(refinement.Settings(model={**model_fields('hanet', 'tiny')}))
    networks = {
        'run': (of_videos, abstract_model(fields, num_joints=J)),
        'hanet': (of_poses, abstract_refiner(of_poses['model'], channels=2 * J)),
    }
    for name, (config, model) in networks.items():
        config['dataset'] |= {'name': 'kinetic_puppets', 'config': 'mini', 'data_dir': str(root / 'data')}
        write_config(root / name, config, 'jhmdb')
        checkpoints = Checkpoints(root / name)
        weights = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.1, leaf.dtype), split_model(model, training=True)[1])
        checkpoints.save(1, TrainState(np.int32(1), weights, optax.EmptyState(), None), {}, 0.5)
        checkpoints.close()
        trained = open_trained(root / name)
        for suffix in ('safetensors', 'npz'):
            pack(trained, root / f'{name}.{suffix}')


@contextlib.contextmanager
def quick_networks(valid: pathlib.Path) -> Iterator[None]:
    """Inside, networks answer without a computation, for which they would be compiled; those in `valid` are loaded once."""
    joints, scores = JOINTS[0], np.full(J, 0.5, np.float32)
    opened: dict[tuple[str, str], Trained] = {}
    loaded: dict[int, Any] = {}

    def open_once(reference: str, checkpoint: str = 'best') -> Trained:
        if not str(reference).startswith(f'{valid}/'):
            return open_trained(reference, checkpoint)
        if (reference, checkpoint) not in opened:
            opened[reference, checkpoint] = open_trained(reference, checkpoint)
        return opened[reference, checkpoint]

    def once(load: Callable[[Trained], Any]) -> Callable[[Trained], Any]:
        def load_once(found: Trained) -> Any:
            if not any(found is one for one in opened.values()):
                return load(found)
            if id(found) not in loaded:
                loaded[id(found)] = load(found)
            return loaded[id(found)]

        return load_once

    with (
        mock.patch('kimnet_jax.tasks.trained.open_trained', open_once),
        mock.patch('kimnet_jax.tasks.videos.load', once(videos.load)),
        mock.patch('kimnet_jax.tasks.refinement.load', once(refinement.load)),
        mock.patch.object(PosePredictor, 'people', lambda self, frame, looks: [(joints, scores)] * len(looks)),
        mock.patch.object(PoseRefiner, '__call__', lambda self, joints, *_: np.nan_to_num(joints)),
    ):
        yield


def copy(source: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """A fresh copy of a file or folder."""
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    return pathlib.Path(shutil.copytree(source, target, symlinks=True) if source.is_dir() else shutil.copy(source, target))
