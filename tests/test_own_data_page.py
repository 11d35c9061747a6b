"""The commands of docs/own_data.md, one after the other, on five short clips and with the smallest network."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import tomllib

import av
import fake_own_data
import forked
import pytest

from kimnet_jax.__main__ import COMMANDS
from kimnet_jax.core.image import decode_image
from kimnet_jax.core.skeleton import get_skeleton
from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import SKELETON_FIELDS, read_settings
from kimnet_jax.data_pipelines.pose_files import open_pose_file
from kimnet_jax.inference.video_writer import VideoWriter
from kimnet_jax.tasks.trained import load_network, open_trained, pack

pytestmark = pytest.mark.quick_compilation
ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = [
    *('--config.train.steps=2', '--config.train.batch_size=2', '--config.eval.batch_size=2'),
    *('--config.loader.threads=1', '--config.train.average_decay=0.0'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> pathlib.Path:
    """The user's folder, with labelled clips and a new video."""
    folder = tmp_path_factory.mktemp('page')
    fake_own_data.write_puppets(folder / 'my_data', clips=5, frames=3)
    frames = sorted((folder / 'my_data/images/clip01').iterdir())
    with (folder / 'video.mp4').open('wb') as file:
        writer = VideoWriter(file, 25.0)
        for i, frame in enumerate(frames):
            writer.write(decode_image(frame.read_bytes(), ''), i / 25)
        writer.finish()
    (folder / 'configs').symlink_to(ROOT / 'configs')
    return folder


def commands() -> list[list[str]]:
    """Those of the page as `python -m` takes them: module and arguments; the training is made a short one."""
    blocks = re.findall(r'^```bash\n(.*?)^```', (ROOT / 'docs/own_data.md').read_text(), re.MULTILINE | re.DOTALL)
    found = []
    for line in ''.join(blocks).replace('\\\n', ' ').splitlines():
        words = shlex.split(line)
        argv = [COMMANDS[words[1]].module, *words[2:]] if words[0] == 'kimnet' else words[2:]
        if argv[0] == 'kimnet_jax.train':
            argv = [word.replace('data=my_data', 'data=my_data,start=none,preset=tiny') for word in argv] + TINY
        found.append(argv)
    return found


@pytest.fixture(scope='module')
def printed(folder) -> dict[str, str]:
    """Module -> what it printed."""
    said, environment = {}, os.environ | {'PYTHONPATH': str(ROOT)}
    for module, *argv in commands():
        done = forked.run(['-m', module, *argv], cwd=folder, env=environment, timeout=400)
        assert done.returncode == 0, f'{done.args}: {done.stdout}{done.stderr}'
        said[module.rpartition('.')[2]] = done.stdout + done.stderr
    return said


def test_the_page_goes_from_labels_to_poses(printed, folder):
    assert [*printed] == ['doctor', 'build', 'train', 'evaluate', 'predict']
    assert 'coco_keypoints in my_data: sound\n' in printed['doctor']
    assert 'coco_keypoints/my_data: train 4 clips, test 1 clips' in printed['build']
    assert 'note: The images of a folder are a clip\n' in printed['build']
    assert '## Person size (longer side of the box)' in printed['evaluate']
    assert 'video.mp4: 3 frames -> runs/my_data/predictions/video' in printed['predict']
    with av.open(str(folder / 'runs/my_data/predictions/video.overlay.mp4')) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3


def test_the_settings_that_the_page_shows_are_known(tmp_path):
    (block,) = re.findall(r'^```toml\n(.*?)^```', (ROOT / 'docs/own_data.md').read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / 'dataset.toml').write_text(block)
    found = read_settings(tmp_path)
    assert {field.name for field in dataclasses.fields(found)} == set(tomllib.loads(block))
    assert set(found.skeleton) | {'joints'} == set(SKELETON_FIELDS)


def test_the_skeleton_is_in_the_run_and_in_the_poses(printed, folder):
    """As the user named its joints, so that it can be drawn, refined and trained on."""
    skeleton = open_trained(folder / 'runs/my_data').skeleton
    assert skeleton.joints[:3] == ('head', 'right_shoulder', 'left_shoulder')
    assert get_skeleton(json.loads((folder / 'runs/my_data/config.json').read_text())['skeleton']) == skeleton
    pack(open_trained(folder / 'runs/my_data'), folder / 'packed.safetensors')
    assert open_trained(folder / 'packed.safetensors').skeleton == skeleton
    assert load_network(folder / 'packed.safetensors')
    poses = folder / 'runs/my_data/predictions/video.json'
    assert get_skeleton(json.loads(poses.read_text())['about']['skeleton']) == skeleton
    assert get_skeleton(open_pose_file(poses).skeleton) == skeleton
