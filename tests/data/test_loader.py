import contextlib
import itertools
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time
from collections import Counter

import jax
import numpy as np
import pytest
from memory_clips import make_clips

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import apply_affine
from kimnet_jax.data_pipelines.loader import (
    DataConfig,
    LoaderConfig,
    eval_batches,
    num_eval_batches,
    prefetch_to_device,
    to_device,
    train_batches,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = DataConfig(frames=5, input_size=32)
LENGTHS = [3, 7, 11, 5, 13, 1, 6]


@pytest.fixture
def source():
    return make_clips(LENGTHS)


def train(source, count, data=DATA, **arguments):
    with contextlib.closing(train_batches(source, data, **({'batch_size': 4, 'seed': 3} | arguments))) as batches:
        return list(itertools.islice(batches, count))


def assert_equal(got, expected):
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert type(a[key]) is np.ndarray
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_shapes_and_types(source):
    (batch,) = train(source, 1)
    assert {key: (value.shape, str(value.dtype)) for key, value in batch.items()} == {
        'frames': ((4, 5, 32, 32, 3), 'uint8'),
        'joints': ((4, 5, 13, 2), 'float32'),
        'visible': ((4, 5, 13), 'bool'),
        'mask': ((4, 5), 'bool'),
        'clip': ((4,), 'int32'),
    }


def test_every_epoch_visits_every_clip_once_in_a_new_order(source):
    clips = np.concatenate([batch['clip'] for batch in train(source, 7)]).reshape(4, 7)  # 28 rows: four epochs of seven clips
    assert (np.sort(clips) == np.arange(7)).all()
    assert len({tuple(epoch) for epoch in clips.tolist()}) == 4
    assert clips.tolist() != np.concatenate([batch['clip'] for batch in train(source, 7, seed=4)]).reshape(4, 7).tolist()


def test_windows_are_contiguous_with_one_mask(source):
    off = {f'augment_{name}': 0.0 for name in ('rotation', 'shift', 'colour', 'closeup', 'background')}
    still = DataConfig(frames=5, input_size=32, augment_scale=(1.0, 1.0), **off)
    starts = set()
    for batch in train(source, 20, still):
        for clip, mask, frames in zip(batch['clip'], batch['mask'], batch['frames'], strict=True):
            numbers = frames[:, 16, 16, 1].astype(int)  # a frame's colour is its number, and its clip's
            assert (frames[:, 16, 16, 0] == clip).all()
            count = min(5, LENGTHS[clip])
            assert mask.tolist() == [True] * count + [False] * (5 - count)
            assert (numbers == numbers[0] + np.minimum(np.arange(5), count - 1)).all()
            starts.add((clip, numbers[0]))
    assert len([s for s in starts if s[0] == 1]) == 3  # 7 frames: windows start at 0, 1, 2


def test_one_draw_for_a_window_and_another_for_the_next_epoch():
    source = make_clips([5])
    for key in ('joints', 'boxes', 'visible'):
        source.examples[0][key][:] = source.examples[0][key][0]
    batches = train(source, 6, batch_size=1)
    for batch in batches:
        np.testing.assert_array_equal(batch['joints'], np.broadcast_to(batch['joints'][:, :1], batch['joints'].shape))
    assert len({batch['joints'].tobytes() for batch in batches}) == 6


@pytest.mark.parametrize('start', [1, 5, 1_000_003])
def test_resuming_is_skipping(source, start):
    if start < 10:
        assert_equal(train(source, 3, start_step=start), train(source, start + 3)[start:])
    else:  # a million batches cost nothing
        assert_equal(train(source, 2, start_step=start)[1:], train(source, 1, start_step=start + 1))


def test_the_skipped_are_not_read(source):
    first = train(source, 1, batch_size=7)[0]['clip']
    second = train(source, 2, batch_size=1, start_step=7)
    source.examples[second[0]['clip'][0]]['frames'] = [b''] * 20
    assert sorted(first) == list(range(7))
    with pytest.raises(InputError):
        train(source, 7, batch_size=1)
    with pytest.raises(InputError):
        train(source, 1, batch_size=1, start_step=7)
    train(source, 1, batch_size=1, start_step=8, loader=LoaderConfig(threads=1, prefetch=1))


@pytest.mark.parametrize('count', [2, 4])
def test_rows_of_the_processes_make_up_the_batch_of_one(source, count):
    parts = [train(source, 3, process_index=i, process_count=count, start_step=1) for i in range(count)]
    whole = [{key: np.concatenate([part[key] for part in parts_k]) for key in parts_k[0]} for parts_k in zip(*parts, strict=True)]
    assert_equal(whole, train(source, 3, start_step=1))


def test_threads_and_prefetch_change_nothing(source):
    assert_equal(train(source, 6, loader=LoaderConfig(threads=4, prefetch=1)), train(source, 6, loader=LoaderConfig(threads=1)))


@pytest.mark.parametrize('workers', [1, 2])
def test_workers_change_nothing_and_leave_when_told(source, workers):
    loader = LoaderConfig(workers=workers, prefetch=3)
    assert_equal(train(source, 5, start_step=2, loader=loader), train(source, 5, start_step=2))
    assert not multiprocessing.active_children()
    evaluation = {'batch_size': 2, 'segment': 4, 'chain_length': None}
    assert_equal(list(eval_batches(source, DATA, loader=loader, **evaluation)), list(eval_batches(source, DATA, **evaluation)))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize('workers', [0, 2])
def test_a_damaged_frame_is_named(source, workers):
    source.examples[2]['frames'][7] = b'damaged'
    with pytest.raises(InputError, match=r"memory/clips/1\.0\.0: clip 'clip2', frame 7: not a readable image"):
        list(eval_batches(source, DATA, batch_size=2, segment=4, chain_length=None, loader=LoaderConfig(workers=workers)))
    assert not multiprocessing.active_children()


ABANDONED = """
from memory_clips import make_clips
from kimnet_jax.data_pipelines.loader import DataConfig, LoaderConfig, train_batches

if __name__ == '__main__':
    batches = train_batches(make_clips([7, 3]), DataConfig(input_size=32), batch_size=2, seed=0, loader=LoaderConfig(workers=2))
    batch = next(batches)
    print(batch['frames'].shape)
"""


def test_workers_end_quietly_with_a_program_that_does_not_close(tmp_path):
    (tmp_path / 'program.py').write_text(ABANDONED)
    env = os.environ | {'PYTHONPATH': os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, tmp_path / 'program.py'], env=env, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, '(2, 5, 32, 32, 3)\n', '')


def evaluate(source, segment, chain_length, batch_size, count):
    settings = {'batch_size': batch_size, 'segment': segment, 'chain_length': chain_length}
    streams = [list(eval_batches(source, DATA, process_index=i, process_count=count, **settings)) for i in range(count)]
    assert {len(stream) for stream in streams} == {num_eval_batches(source, **settings)}
    return streams


@pytest.mark.parametrize(
    ('batch_size', 'segment', 'chain_length', 'count'),
    [(1, 4, None, 1), (3, 5, None, 1), (2, 3, 5, 2), (4, 20, None, 4), (12, 2, 1, 3), (4, 4, 8, 2), (2, 7, 3, 1)],
)
def test_every_frame_is_evaluated_once_and_in_order(source, batch_size, segment, chain_length, count):
    seen, starts = Counter(), set()
    for stream in evaluate(source, segment, chain_length, batch_size, count):
        for row in range(batch_size // count):
            last = None  # (clip, frame) that the recursion of this row has seen last
            for batch in stream:
                clip, mask, frame = int(batch['clip'][row]), batch['mask'][row], batch['frame'][row].tolist()
                if clip < 0:
                    assert not mask.any()
                    assert batch['start'][row]
                    continue
                assert mask[0]
                if batch['start'][row]:
                    starts.add((clip, frame[0]))
                else:
                    assert (clip, frame[0] - 1) == last
                for t in np.flatnonzero(mask):
                    seen[clip, frame[t]] += 1
                    assert frame[t] == frame[0] + t
                    last = (clip, frame[t])
    assert seen == Counter({(clip, t): 1 for clip, length in enumerate(LENGTHS) for t in range(length)})
    assert starts == {(clip, t) for clip, length in enumerate(LENGTHS) for t in range(0, length, chain_length or length)}


def test_evaluation_batches_are_short_on_padding(source):
    # 46 frames in segments of 4: 1+2+3+2+4+1+2 = 15 windows in 4 slots, and no slot can have fewer than 4.
    assert num_eval_batches(source, batch_size=4, segment=4, chain_length=None) == 4


def test_evaluation_shapes_and_padding(source):
    ((*_, batch),) = evaluate(make_clips([5, 2]), 4, None, 3, 1)
    assert {key: (value.shape, str(value.dtype)) for key, value in batch.items()} == {
        'frames': ((3, 4, 32, 32, 3), 'uint8'),
        'joints': ((3, 4, 13, 2), 'float32'),
        'visible': ((3, 4, 13), 'bool'),
        'mask': ((3, 4), 'bool'),
        'frame': ((3, 4), 'int32'),
        'to_image': ((3, 4, 2, 3), 'float32'),
        'clip': ((3,), 'int32'),
        'start': ((3,), 'bool'),
    }
    assert batch['clip'].tolist() == [0, -1, -1]
    assert batch['mask'].tolist() == [[True, False, False, False], [False] * 4, [False] * 4]
    assert batch['frame'].tolist() == [[4] * 4, [0] * 4, [0] * 4]
    assert batch['start'].tolist() == [False, True, True]


def test_to_image_leads_back_to_the_annotation():
    source = make_clips(LENGTHS, size=(241, 397))
    compared = 0
    for batch in itertools.chain(*evaluate(source, 4, None, 2, 1)):
        original = apply_affine(batch['to_image'], batch['joints'])
        for row, t in np.argwhere(batch['mask']):
            example = source[batch['clip'][row]]
            frame = batch['frame'][row, t]
            np.testing.assert_allclose(original[row, t], example['joints'][frame], atol=0.01)
            np.testing.assert_array_equal(batch['visible'][row, t], example['visible'][frame])
            compared += 1
    assert compared == sum(LENGTHS)


def test_batches_reach_the_devices_unchanged_and_in_order(source):
    mesh = jax.make_mesh((len(jax.devices()),), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    batch_size = 2 * len(jax.devices())
    expected = train(source, 3, batch_size=batch_size)
    batches = train_batches(source, DATA, batch_size=batch_size, seed=3)
    pairs = prefetch_to_device(batches, sharding, ('frames', 'mask'))
    for batch, (host, device) in zip(expected, itertools.islice(pairs, 3), strict=True):
        assert_equal([host], [batch])
        assert_equal(
            [{key: np.asarray(value) for key, value in device.items()}], [{key: batch[key] for key in ('frames', 'mask')}]
        )
        assert device['frames'].sharding == sharding
    pairs.close()
    with pytest.raises(StopIteration):
        next(batches)
    evaluated = list(eval_batches(source, DATA, batch_size=batch_size, segment=4, chain_length=None))
    assert len(list(prefetch_to_device(evaluated, sharding, ('clip',)))) == len(evaluated)
    assert to_device({'clip': expected[0]['clip']}, sharding)['clip'].shape == (batch_size,)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'batch_size': 3, 'process_count': 2}, 'batch size 3 .* 2 processes'),
        ({'batch_size': 0}, 'batch size 0'),
        ({'seed': -1}, r'config\.seed is -1'),
    ],
)
def test_settings_are_checked_at_once(source, arguments, message):
    with pytest.raises(InputError, match=message):
        train_batches(source, DATA, **({'batch_size': 4, 'seed': 3} | arguments))


def test_evaluation_settings_are_checked_at_once(source):
    for segment, chain_length in [(0, None), (4, 0)]:
        with pytest.raises(InputError, match='at least 1'):
            eval_batches(source, DATA, batch_size=2, segment=segment, chain_length=chain_length)


@pytest.mark.parametrize(('field', 'value'), [('threads', 0), ('workers', -1), ('prefetch', 0)])
def test_loader_settings_out_of_range_are_named(field, value):
    with pytest.raises(InputError, match=rf'config\.loader\.{field}'):
        LoaderConfig(**{field: value})


def test_workers_end_with_the_process_that_started_them_however_it_ends():
    program = """
import multiprocessing, sys, time
sys.path.insert(0, 'tests/data')
from test_loader import make_clips
from kimnet_jax.data_pipelines.loader import LoaderConfig, train_batches
from kimnet_jax.data_pipelines.transforms import DataConfig
if __name__ == '__main__':
    batches = train_batches(make_clips([7, 3]), DataConfig(input_size=32), batch_size=2, seed=0, loader=LoaderConfig(workers=2))
    next(batches)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(100)
"""
    parent = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    assert all(pathlib.Path(f'/proc/{pid}').exists() for pid in workers)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(_is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.1)


def _is_running(pid: int) -> bool:
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False
