"""The first run by its commands: build, train, evaluate, export, predict, without TensorFlow, torch or network."""

import json
import os
import pathlib
import subprocess

import av
import forked
import pytest

pytestmark = pytest.mark.quick_compilation

# Runs a command as `python -m` does, as if TensorFlow and torch were not installed, and no address but this machine's answers.
# The data set gets few clips: what is shown is that the commands fit together.
GUARD = """
import runpy, socket, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition('.')[0] in ('tensorflow', 'torch') else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

def connect(self, address):
    assert self.family == socket.AF_UNIX or address[0] in ('127.0.0.1', '::1', 'localhost'), f'connects to {address}'
    return original(self, address)

sys.meta_path[:] = map(Without, sys.meta_path)
original, socket.socket.connect = socket.socket.connect, connect

if sys.argv[1] == 'data_pipelines.build':
    from kimnet_jax.data_pipelines.builders import import_builder
    config = import_builder('kinetic_puppets').BUILDER_CONFIGS[0]
    config.train_clips, config.test_clips = 4, 2
module = sys.argv.pop(1)
runpy.run_module(module, run_name='__main__', alter_sys=True)
"""
TINY = [
    '--config=configs/kinetic_puppets.py:preset=tiny',
    '--config.train.steps=3',
    '--config.train.batch_size=2',
    '--config.loader.threads=1',
    '--config.eval.batch_size=2',
]


def guarded(code: str, *argv: object, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != 'XLA_FLAGS'}
    root = pathlib.Path(__file__).resolve().parents[1]
    environment |= {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(root)}
    return forked.run(['-c', code, *map(str, argv)], cwd=cwd, env=environment, timeout=400)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp('first_run')


def run(folder: pathlib.Path, module: str, *argv: object) -> str:
    done = guarded(GUARD, module, *argv, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def trained(folder) -> pathlib.Path:
    built = run(folder, 'data_pipelines.build', 'kinetic_puppets/joints15', '--data_dir', 'data')
    assert 'train 4 clips, test 2 clips' in built
    run(folder, 'kimnet_jax.train', *TINY, '--workdir=run')
    return folder / 'run'


def test_the_guard_refuses(tmp_path):
    for code, error in [
        ('import torch', "No module named 'torch'"),
        ('import tensorflow', "No module named 'tensorflow'"),
        ('socket.create_connection(("192.0.2.1", 80))', "connects to ('192.0.2.1', 80)"),
    ]:
        done = guarded(GUARD.replace('runpy.run_module', f'{code}\nrunpy.run_module'), 'json.tool', '--help', cwd=tmp_path)
        assert done.returncode == 1
        assert error in done.stderr.splitlines()[-1]


def test_train_leaves_checkpoints_and_curves(trained):
    assert json.loads((trained / 'config.json').read_text())['config']['train']['steps'] == 3
    assert [path.name for path in (trained / 'checkpoints').iterdir() if path.name.isdigit()] == ['3']
    assert (trained / 'metrics.jsonl').read_text().count('torso/pck/0.2/mPCK') == 1
    assert any((trained / 'tensorboard').iterdir())


def test_train_again_has_nothing_to_do(trained, folder):
    before = (trained / 'metrics.jsonl').read_text()
    run(folder, 'kimnet_jax.train', *TINY, '--workdir=run')
    assert (trained / 'metrics.jsonl').read_text() == before


def test_evaluate_writes_the_table(trained, folder):
    printed = run(folder, 'kimnet_jax.evaluate', '--workdir=run')
    (report,) = (trained / 'evaluation').glob('*.json')
    rows = json.loads(report.read_text())['rows']
    person = [rows[name]['values']['person']['pck']['0.2']['mPCK'] for name in ('random', 'mean pose')]
    assert 0 < 2 * person[0] < person[1]  # each row is its own
    for row in ('KIMNet (ours)', 'mean pose', 'random'):
        assert row in printed.lower() or row in printed
        assert row.lower() in report.read_text().lower()


def test_predict_follows_an_exported_clip(trained, folder):
    run(folder, 'data_pipelines.export', 'kinetic_puppets/joints15', '--data_dir', 'data', '--clip', '0', '--out', 'clip')
    boxes = json.loads((folder / 'clip/boxes.json').read_text())['boxes']
    frames = len(list((folder / 'clip').glob('*.jpg')))
    assert len(boxes) == frames >= 30
    box = ','.join(map(str, boxes[0]))
    run(folder, 'kimnet_jax.predict', '--workdir=run', '--checkpoint=last', f'--box={box}', '--out=poses', 'clip')
    poses = json.loads((folder / 'poses/clip.json').read_text())
    assert len(poses['frames']) == frames
    with av.open(str(folder / 'poses/clip.overlay.mp4')) as video:
        assert sum(1 for _ in video.decode(video=0)) == frames


def test_predict_takes_the_boxes_of_every_frame(trained, folder):
    run(folder, 'data_pipelines.export', 'kinetic_puppets/joints15', '--data_dir', 'data', '--clip', '1', '--out', 'other')
    run(folder, 'kimnet_jax.predict', '--workdir=run', '--boxes=other/boxes.json', '--outputs=csv', '--out=poses', 'other')
    assert (folder / 'poses/other.csv').stat().st_size > 0


def test_export_checks_what_it_wrote(trained, folder):
    printed = run(folder, 'kimnet_jax.export', '--workdir=run', '--out=exported', '--frames=2')
    assert 'joints within' in printed
    assert (folder / 'exported/step.stablehlo').stat().st_size > 0
    again = guarded(GUARD, 'kimnet_jax.export', '--workdir=run', '--out=exported', cwd=folder)
    assert again.returncode == 2
    assert again.stderr.strip() == 'error: exported: already exists; choose another folder or remove it'


def test_data_that_is_not_built_is_explained(folder):
    done = guarded(GUARD, 'kimnet_jax.train', *TINY, '--workdir=none', '--config.dataset.data_dir=nowhere', cwd=folder)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith('error: nowhere/kinetic_puppets/joints15: no built data set there')
    assert not (folder / 'none').exists()
