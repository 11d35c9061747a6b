"""Faults of one's own data and around its builds: whatever happens, a whole data set or one line that says what is wrong."""

import copy
import json
import os
import pathlib
import signal
import subprocess
import sys

import fake_own_data
import hypothesis
import numpy as np
import pytest
import stopped
from fake_own_data import labels, write_json, write_own_data
from hypothesis import strategies as st
from stopped import wait_until

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import build, clip_source
from kimnet_jax.data_pipelines.builders.coco_keypoints import labelled_clips, own_data
from kimnet_jax.data_pipelines.builders.coco_keypoints.labelled_clips import read_clip
from kimnet_jax.data_pipelines.findings import Finding, attempt

ROOT = pathlib.Path(__file__).resolve().parents[2]
VIDEOS = {'gym': 3, 'hall': 2}
STOPPED = stopped.PROGRAM.format(module='coco_keypoints.labelled_clips', text='gym')

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 9),
    st.sampled_from([2**70, 10**300, 1e300, -1e38, 0.5, -0.0, 4000.0]),
    st.floats(-100, 100),
    st.sampled_from(
        ['', 'gym/000000.jpg', '../x.jpg', '/etc/passwd', 'a\0b', '\ud800', 'x' * 5000, 'nose', 'person', '1', 'a\nb']
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(['id', 'name', 'x']), inner, max_size=2)
)


def places(value, path=()) -> list[tuple]:
    """The paths of all that a JSON value holds."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inner for found in places(one, (*path, key)))]


def fields(names: list[str]) -> list[tuple]:
    """Those that an annotation may have besides."""
    return [('annotations', 0, name) for name in names] + [('images', 0, 'video_id'), ('images', 0, 'frame_id'), ('videos',)]


BASE = labels(VIDEOS)
SOUND = '0 0.5 0.5 0.4 0.4' + ' 0.4 0.5 2 0.6 0.6 1' * 2 + ' 0 0 0'  # a line of YOLO's labels, of 5 joints
PLACES = [path for path in places(BASE) if path and path[-1:] != ('info',)]
PLACES += fields(['track_id', 'attributes', 'segmentation']) * 8


def changed(data, path, value, how):
    """The data with the value at that path: set, removed, or twice in its list."""
    *parents, last = path
    place = data
    for key in parents:
        try:
            place = place[key]
        except (KeyError, IndexError, TypeError):  # removed before
            return
    if not isinstance(place, dict | list) or (isinstance(place, list) and not (isinstance(last, int) and last < len(place))):
        return
    if how == 'remove' and (isinstance(place, list) or last in place):
        del place[last]
    elif how == 'repeat' and isinstance(place, list):
        place.append(copy.deepcopy(place[last]))
    else:
        place[last] = value


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
    folder = write_own_data(tmp_path_factory.mktemp('own'))
    (folder / 'videos').mkdir()
    (folder / 'videos/gym.mp4').write_bytes(b'no video')
    return folder


RANDOM = hypothesis.settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=300,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)


def outcome(root: pathlib.Path) -> str:
    """Reads the data as the build and the doctor do, all pictures included: `clips`, or the one line that says what is wrong."""
    findings: list[Finding] = []
    attempt(findings, '', read_all, root)
    for finding in findings:
        assert '\n' not in finding.text
        assert str(root) in finding.text
    return 'error' if findings else 'clips'


def read_all(root: pathlib.Path) -> None:
    data = own_data.read_own_data(root, 'own')
    if data.problems:
        raise InputError(labelled_clips.shortened(data.problems))
    for clips in data.splits.values():
        assert clips
        for clip in clips:
            example = read_clip(clip, [data.frames[image.name] for image, _ in clip.frames], data.skeleton)
            assert np.isfinite(example['joints']).all()


@RANDOM
@hypothesis.given(
    changes=st.lists(
        st.tuples(st.sampled_from(PLACES), VALUES, st.sampled_from(['set', 'set', 'remove', 'repeat'])), min_size=1, max_size=4
    )
)
def test_any_annotation_file_becomes_clips_or_one_line(changes, root):
    data = copy.deepcopy(BASE)
    for path, value, how in changes:
        changed(data, path, value, how)
    write_json(root, data)
    hypothesis.event(outcome(root))


@RANDOM
@hypothesis.given(data=st.one_of(VALUES, st.fixed_dictionaries(dict.fromkeys(('images', 'annotations', 'categories'), VALUES))))
def test_any_json_becomes_clips_or_one_line(data, root):
    write_json(root, data)
    assert outcome(root) == 'error'


@pytest.mark.parametrize('text', [b'', b'{', b'[]', b'\xff\xfe', b'{"images": NaN}', b'{"a": 1, "a": 2}', b'[' * 5000])
def test_what_is_no_json_is_one_line(text, tmp_path):
    write_own_data(tmp_path)
    (tmp_path / 'annotations/labels.json').write_bytes(text)
    assert outcome(tmp_path) == 'error'


@RANDOM
@hypothesis.given(
    text=st.text(st.sampled_from('0123456789 .-einfa\n'), max_size=120),
    description=st.one_of(
        st.just(f'train: images\nkpt_shape: [5, 3]\nkpt_names: {fake_own_data.JOINTS}'),
        st.lists(
            st.tuples(st.sampled_from(['train', 'kpt_shape', 'kpt_names', 'flip_idx', 'names', 'val']), VALUES), max_size=5
        ).map(lambda pairs: json.dumps({'train': 'images', 'kpt_shape': [5, 3]} | dict(pairs))),
    ),
)
def test_any_yolo_data_become_clips_or_one_line(text, description, tmp_path):
    (tmp_path / 'labels').mkdir(exist_ok=True)
    for name, label in {'a': text, 'b': SOUND, 'c': SOUND}.items():
        fake_own_data.write_image(tmp_path / f'images/{name}.png', fake_own_data.picture(1))
        (tmp_path / f'labels/{name}.txt').write_text(label)
    (tmp_path / 'data.yaml').write_text(description, errors='replace')
    hypothesis.event(outcome(tmp_path))


def start(root: pathlib.Path, data_dir: pathlib.Path, name: str, gate: pathlib.Path | None = None) -> subprocess.Popen:
    program = ['-c', STOPPED] if gate else ['-m', 'data_pipelines.build']
    command = [sys.executable, *program, f'coco_keypoints/{name}', '--manual_dir', str(root), '--data_dir', str(data_dir)]
    environment = os.environ | {'GATE': str(gate)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_builds_one_is_killed_and_the_other_that_waits_completes_the_data_set(tmp_path):
    root, built, gate = write_own_data(tmp_path / 'own'), tmp_path / 'built', tmp_path / 'gate'
    processes = [start(root, built, 'mine', gate)]
    try:
        wait_until((tmp_path / 'gate.reached').exists)
        assert not (built / 'coco_keypoints/mine').exists()
        processes.append(start(root, built, 'mine'))
        told = next(line for line in processes[1].stderr if 'another process' in line)
        assert told == f'coco_keypoints/mine: another process is building it into {built}; waiting for it to finish\n'
        processes[0].send_signal(signal.SIGKILL)
        out, err = processes[1].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1].returncode == 0, err
    assert out.startswith('coco_keypoints/mine: train 4 clips, test 1 clips')
    assert {path.name for path in built.iterdir()} == {'coco_keypoints'}
    assert len(clip_source.open_clips(built, 'coco_keypoints', 'mine', 'train')) == 4


def test_a_flipped_bit_is_never_another_picture_or_another_skeleton(tmp_path):
    root = write_own_data(tmp_path / 'own')
    build.main(['build', 'coco_keypoints/mine', '--manual_dir', str(root), '--data_dir', str(tmp_path)])
    folder = tmp_path / 'coco_keypoints/mine/2.0.0'

    def read() -> list:
        clips = clip_source.open_clips(tmp_path, 'coco_keypoints', 'mine', 'test')
        frames = [[*clips[i]['frames']] for i in range(len(clips))]
        return [clips.skeleton, frames, [clips[i]['joints'].tolist() for i in range(len(clips))]]

    expected, rng, told = read(), np.random.default_rng(0), 0
    files = [file for file in folder.iterdir() if 'train' not in file.name]
    for _ in range(120):
        file = files[rng.integers(len(files))]
        data = file.read_bytes()
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        findings: list[Finding] = []
        found = attempt(findings, '', read)
        assert findings or found == expected, file.name
        for finding in findings:
            assert str(folder) in finding.text
            assert '\n' not in finding.text
        told += len(findings)
        file.write_bytes(data)
    assert told > 60
