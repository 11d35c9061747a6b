"""An exported model gives the model's joints, in a process that has neither this package nor Flax."""

import errno
import json
import pathlib
import re
import subprocess
import sys

import golden
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.inference import artifact
from kimnet_jax.inference.predictor import PosePredictor
from kimnet_jax.models import KIMNet, KIMNetConfig
from kimnet_jax.training.state import split_model

pytestmark = pytest.mark.quick_compilation

SIZE, FRAMES = 64, 3
WITHOUT = """
import importlib.abc, sys
class Refused(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        assert name.partition('.')[0] not in ('kimnet_jax', 'flax', 'torch'), name
sys.meta_path.insert(0, Refused())
"""


@pytest.fixture(scope='module')
def model() -> artifact.Model:
    config = KIMNetConfig(JHMDB.num_joints, pose_initializer='none', feature_encoder='resnet18', width=3, features=5)
    network = golden.randomised(lambda: KIMNet(config, rngs=nnx.Rngs(0)))
    graph, weights = split_model(network, training=False)
    return artifact.Model(
        weights,
        init_state=lambda weights, frames: nnx.merge(graph, *weights).init_state(frames),
        step=lambda weights, state, frames: nnx.merge(graph, *weights).step(state, frames),
        forward=lambda weights, frames: nnx.merge(graph, *weights, copy=True)(frames)[0],
        skeleton=JHMDB,
        size=SIZE,
        stride=4,
        box_scale=1.25,
        decoding='dark',
    )


@pytest.fixture(scope='module')
def folder(model, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('artifact') / 'exported'
    artifact.export(model, folder, frames=FRAMES, platforms=['cpu', 'cuda', 'tpu'], about={'workdir': 'run', 'step': 7})
    return folder


@pytest.fixture(scope='module')
def exported(folder) -> artifact.Artifact:
    return artifact.Artifact(folder)


def crops(batch: int, frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, batch, SIZE, SIZE, 3), np.uint8)


def test_joints_are_those_of_the_predictor(model, exported):
    predictor = PosePredictor(model.weights, model.init_state, model.step, size=SIZE, stride=4, box_scale=1.25, decoding='dark')
    stream = crops(1, FRAMES)
    side = SIZE / 1.25 / 2  # the box whose crop is the frame itself
    middle = (SIZE - 1) / 2
    box = np.array([middle - side, middle - side, middle + side, middle + side])
    expected = [predictor(frame[0], box, restart=t == 0) for t, frame in enumerate(stream)]

    outputs = [exported.init_state(stream[0])]
    for frame in stream[1:]:
        outputs.append(exported.step(artifact.state_of(outputs[-1]), frame))
    clip = exported.clip(stream.swapaxes(0, 1))
    for t, (joints, scores) in enumerate(expected):
        np.testing.assert_allclose(outputs[t]['joints'][0], joints, atol=0.05)
        np.testing.assert_allclose(outputs[t]['scores'][0], scores, rtol=1e-4)
        np.testing.assert_allclose(clip['joints'][0, t], joints, atol=0.05)
    assert np.ptp(np.asarray(clip['joints']), axis=(0, 1)).max() > 1  # the frames differ


def test_any_batch_and_a_difference_is_seen(model, exported, monkeypatch):
    clip = exported.clip
    assert clip(crops(5, FRAMES).swapaxes(0, 1))['joints'].shape == (5, FRAMES, JHMDB.num_joints, 2)
    monkeypatch.setattr(exported, 'clip', lambda frames: {key: value + 0.25 for key, value in clip(frames).items()})
    difference = artifact.largest_difference(model, exported, crops(1, FRAMES).swapaxes(0, 1))
    assert difference == pytest.approx(0.25 * 2**0.5, rel=1e-3)  # of the clip alone: the stream's is 0


def test_the_documented_program_runs_without_this_package(folder):
    page = pathlib.Path(__file__).resolve().parents[2] / 'docs/deployment.md'
    (program,) = re.findall(r'```python\n(.*?)```', page.read_text(), re.DOTALL)
    program = program.replace("'exported'", repr(str(folder)))
    done = subprocess.run([sys.executable, '-c', WITHOUT + program], capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    assert set(eval(done.stdout)) == set(JHMDB.joints)


def test_nothing_is_overwritten_or_left_half_written(model, folder, tmp_path, monkeypatch):
    with pytest.raises(InputError, match='already exists'):
        artifact.export(model, folder, frames=FRAMES, platforms=['cpu'], about={})

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'disk full')

    monkeypatch.setattr(np, 'savez', full)
    with pytest.raises(OSError, match='disk full'):
        artifact.export(model, tmp_path / 'new', frames=FRAMES, platforms=['cpu'], about={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: (folder / 'step.stablehlo').unlink(), r'step\.stablehlo: no such file'),
        (lambda folder: (folder / 'clip.stablehlo').write_bytes(b'x' * 40), 'not a whole exported model'),
        (lambda folder: (folder / 'weights.npz').write_bytes(b'PK'), 'not a whole exported model'),
        (lambda folder: _describe(folder, format=2), 'this version reads format 1'),
        (lambda folder: _describe(folder, platforms=['tpu']), 'exported for tpu, and this is cpu'),
    ],
)
def test_a_damaged_artifact_is_explained(folder, tmp_path, damage, message):
    copy = tmp_path / 'copy'
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damage(copy)
    with pytest.raises(InputError, match=message):
        artifact.Artifact(copy)


def _describe(folder: pathlib.Path, **fields: object) -> None:
    file = folder / artifact.DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
