"""Faults around a build, and random annotations: whatever happens, a whole data set or a message that names the file."""

import contextlib
import io
import itertools
import os
import pathlib
import signal
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
import scipy.io
import stopped
from fake_penn_action import LENGTHS, fields_of, write_penn_action
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from stopped import wait_until

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB, PENN_ACTION
from kimnet_jax.data_pipelines import build, schema
from kimnet_jax.data_pipelines.builders.penn_action.labels import read_label
from kimnet_jax.data_pipelines.builders.sub_jhmdb import clips
from kimnet_jax.data_pipelines.clip_source import open_clips
from kimnet_jax.data_pipelines.findings import Finding, attempt
from kimnet_jax.data_pipelines.loader import DataConfig, LoaderConfig, eval_batches, train_batches

ROOT = pathlib.Path(__file__).resolve().parents[2]
FINAL = 'penn_action/official/2.0.0'
STOPPED = stopped.PROGRAM.format(module='penn_action.penn_action_dataset_builder', text='0002')


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_penn_action(tmp_path / 'download')


@pytest.fixture
def start(root, tmp_path):
    """Starts builds in processes of their own; what still runs at the end is killed."""
    with contextlib.ExitStack() as started:

        def run(*flags: str, gate: pathlib.Path | None = None) -> subprocess.Popen:
            program = ['-c', STOPPED] if gate else ['-m', 'data_pipelines.build']
            paths = ['--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')]
            process = subprocess.Popen(
                [sys.executable, *program, 'penn_action', *paths, *flags],
                cwd=ROOT,
                env=os.environ | {'GATE': str(gate)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.callback(process.communicate)
            started.callback(process.kill)
            return process

        yield run


def assert_whole(data_dir: pathlib.Path) -> None:
    assert {path.name for path in data_dir.iterdir()} == {'penn_action'}
    names = []
    for split in ('train', 'test'):
        source = open_clips(data_dir, 'penn_action', 'official', split)
        names += [source[i]['clip'] for i in range(len(source))]
    assert sorted(names) == sorted(LENGTHS)


def test_a_killed_build_leaves_no_data_set_and_a_restart_completes_it(start, tmp_path):
    process = start(gate=tmp_path / 'gate')
    wait_until((tmp_path / 'gate.reached').exists)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [path.name for path in (tmp_path / 'built').iterdir()]
    assert len(left) == 1
    assert left[0].startswith('.building-penn_action-official-')
    restarted = start()
    out, err = restarted.communicate(timeout=120)
    assert restarted.returncode == 0, err
    assert out.startswith('penn_action/official: train 2 clips, test 2 clips')
    assert_whole(tmp_path / 'built')


@pytest.mark.parametrize('first_is_killed', [False, True])
def test_a_second_build_waits_for_the_first_and_takes_over_only_if_that_died(first_is_killed, start, tmp_path):
    first = start(gate=tmp_path / 'gate')
    wait_until((tmp_path / 'gate.reached').exists)
    second = start()
    told = second.stderr.readline()
    assert told == f'penn_action/official: another process is building it into {tmp_path / "built"}; waiting for it to finish\n'
    assert not (tmp_path / 'built' / FINAL).exists()
    if first_is_killed:
        first.kill()
    else:
        (tmp_path / 'gate').touch()
        assert first.communicate(timeout=120)[0].startswith('penn_action/official: train 2 clips')
    out, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert out.startswith('penn_action/official: train' if first_is_killed else 'penn_action/official is already built;')
    assert_whole(tmp_path / 'built')


def test_a_second_build_that_overwrites_waits_too(start, tmp_path):
    first = start(gate=tmp_path / 'gate')
    wait_until((tmp_path / 'gate.reached').exists)
    second = start('--overwrite')
    second.stderr.readline()
    (tmp_path / 'gate').touch()
    for process in (first, second):
        assert process.communicate(timeout=120)[0].startswith('penn_action/official: train 2 clips')
        assert process.returncode == 0
    assert_whole(tmp_path / 'built')


def test_a_folder_that_no_one_may_write_to_is_named(root, tmp_path):
    """Where permissions do not bind (root), a file in the way does."""
    locked = tmp_path / 'locked'
    locked.mkdir(mode=0o500)
    (locked / 'built').touch() if os.access(locked, os.W_OK) else None
    with pytest.raises(InputError, match=rf'--data_dir {locked}/built: cannot be written to \(.+\); choose another folder'):
        build.main(['build', 'penn_action', '--manual_dir', str(root), '--data_dir', str(locked / 'built')])


def test_clips_shorter_than_the_window_train_and_are_evaluated_padded(root, tmp_path):
    build.main(['build', 'penn_action', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])
    train = open_clips(tmp_path / 'built', 'penn_action', 'official', 'train')  # clips of 3 and of 5 frames
    data = DataConfig(frames=7, input_size=16)
    with contextlib.closing(train_batches(train, data, batch_size=2, seed=0)) as batches:
        (batch,) = itertools.islice(batches, 1)
    assert batch['frames'].shape == (2, 7, 16, 16, 3)
    assert batch['mask'].sum(1).tolist() == [(3, 5)[clip] for clip in batch['clip']]
    np.testing.assert_array_equal(batch['frames'][:, -1], batch['frames'][[0, 1], batch['mask'].sum(1) - 1])
    evaluated = list(eval_batches(train, data, batch_size=2, segment=7, chain_length=None, loader=LoaderConfig()))
    assert sum(part['mask'].sum() for part in evaluated) == 8


# Random annotations. A field is left out, sound, or an array of any type and shape with any values in it.
DTYPES = st.sampled_from(['float64', 'float32', 'uint8', 'int16', 'uint16', 'int32', 'bool', 'complex64'])
FLOATS = st.one_of(st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0, 1e38, 1e300, -1e300]), st.floats(-50, 50))
T = LENGTHS['0001']


def random_array(shapes: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        arrays.arrays('float64', shapes, elements=FLOATS), DTYPES.flatmap(lambda dtype: arrays.arrays(dtype, shapes))
    )


def random_field(shape: tuple[int, ...]) -> st.SearchStrategy:
    """Mostly of the right shape, so that what follows the check of shapes is met too."""
    near = st.sampled_from([shape, shape, shape, shape[::-1], (shape[0] - 1, *shape[1:]), (*shape, 2)])
    odd = st.one_of(st.text('abc', max_size=3), st.just(np.array([['a', 1.5]], object)), st.just({'x': 1}), st.none())
    return st.one_of(
        random_array(near), random_array(near), random_array(arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)), odd
    )


def random_numbers(shape: tuple[int, ...]) -> st.SearchStrategy:
    return arrays.arrays('float64', shape, elements=st.floats(-9, 60))


LABEL_FIELDS = {
    'action': st.one_of(st.text(max_size=5), random_field((1, 1))),
    'train': st.one_of(st.integers(-2, 2), random_field((1, 1))),
    'nframes': st.one_of(st.integers(-2, 2**40), st.floats(), random_field((1, 1))),
    'dimensions': st.one_of(st.tuples(*[st.integers(-5, 2**40)] * 3), random_field((1, 3))),
    'x': st.one_of(random_numbers((T, 13)), random_field((T, 13))),
    'y': st.one_of(random_numbers((T, 13)), random_field((T, 13))),
    'visibility': st.one_of(arrays.arrays('uint8', (T, 13), elements=st.integers(0, 1)), random_field((T, 13))),
    'bbox': st.one_of(random_numbers((T, 4)), random_numbers((T - 1, 4)), random_field((T, 4))),
}
RANDOM = hypothesis.settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)


def checked(read, path: pathlib.Path) -> bool:
    """Whether `read` returned; else it raised an `InputError` of one line that names the file."""
    findings: list[Finding] = []
    attempt(findings, path.name, read)
    for finding in findings:
        assert finding.text.startswith(f'{path}: ')
        assert '\n' not in finding.text
    return not findings


@RANDOM
@hypothesis.given(names=st.sets(st.sampled_from(sorted(LABEL_FIELDS)), min_size=1, max_size=3), data=st.data())
def test_any_label_of_penn_action_is_an_example_or_an_error(names, data, tmp_path):
    path = tmp_path / '0001.mat'
    fields = fields_of('0001') | {name: data.draw(LABEL_FIELDS[name], name) for name in sorted(names)}
    scipy.io.savemat(path, {name: value for name, value in fields.items() if value is not None})

    def read() -> None:
        label = read_label(path)
        example = {
            'frames': [b''] * T,
            'joints': label.joints,
            'visible': label.visible,
            'boxes': label.boxes,
            'image_size': label.image_size,
        }
        example = schema.checked_example(example, PENN_ACTION, str(path))
        assert np.isfinite(example['joints']).all()

    hypothesis.event(f'an example: {checked(read, path)}')


@RANDOM
@hypothesis.given(
    joints=st.one_of(random_field((2, 15, 3)), random_field((2, 15))),
    masks=st.one_of(arrays.arrays('uint8', (6, 7, 3), elements=st.integers(0, 1)), random_field((6, 7, 3))),
)
def test_any_annotation_of_jhmdb_is_an_example_or_an_error(joints, masks, tmp_path):
    files = {tmp_path / 'joint_positions.mat': {'pos_img': joints}, tmp_path / 'puppet_mask.mat': {'part_mask': masks}}
    for path, fields in files.items():
        scipy.io.savemat(path, {name: value for name, value in fields.items() if value is not None})
    joint_file, mask_file = files
    sound = np.ones((3, 15, 2), np.float32) * np.arange(15)[:, None]
    for points in (clips.read_joints(joint_file) if checked(lambda: clips.read_joints(joint_file), joint_file) else sound, sound):

        def read(points=points) -> None:
            boxes, _ = clips.read_boxes(mask_file, points, (6, 7))
            example = {
                'frames': [b''] * len(points),
                'joints': points,
                'visible': np.ones(points.shape[:2], bool),
                'boxes': boxes,
                'image_size': (6, 7),
            }
            schema.checked_example(example, JHMDB, str(mask_file))

        hypothesis.event(f'an example: {checked(read, mask_file)}')


@RANDOM
@hypothesis.given(place=st.integers(0, 10_000), value=st.integers(0, 255), length=st.integers(0, 10_000))
def test_any_damage_to_a_label_file_is_an_example_or_an_error(place, value, length, tmp_path):
    path = tmp_path / '0001.mat'
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, fields_of('0001'), do_compression=True)  # as those of the releases are
    data = bytearray(buffer.getvalue())
    data[place % len(data)] = value
    path.write_bytes(data[: max(length, place + 1)])
    checked(lambda: read_label(path), path)
