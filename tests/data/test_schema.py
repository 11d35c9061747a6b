"""The example schema: what is refused before it is written, and reading it back."""

import pathlib
import pickle
import shutil

import numpy as np
import pytest
from fake_jhmdb import LENGTHS, write_jhmdb

from data_pipelines import build
from data_pipelines.clip_builder import _read_ahead
from data_pipelines.schema import checked_example, open_clips
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB, PENN_ACTION

T, J = 3, JHMDB.num_joints


def example(**changes: object) -> dict:
    """A good example of 3 frames, with changes."""
    good = {
        'clip': 'walk/a',
        'action': 'walk',
        'frames': [b'1', b'2', b'3'],
        'joints': np.arange(T * J * 2.0).reshape(T, J, 2),
        'visible': np.ones((T, J)),
        'boxes': [[0, 0, 5, 7]] * T,
        'image_size': (48, 64),
    }
    return good | changes


def test_a_good_example_gets_the_dtypes_of_the_schema():
    checked = checked_example(example(), JHMDB, 'x.mat')
    assert {key: checked[key].dtype.name for key in ('joints', 'visible', 'boxes', 'image_size')} == {
        'joints': 'float32',
        'visible': 'bool',
        'boxes': 'float32',
        'image_size': 'int32',
    }
    assert checked['frames'] == [b'1', b'2', b'3']
    assert checked['clip'] == 'walk/a'


def test_a_joint_that_is_not_visible_need_not_be_finite():
    joints, visible = np.ones((T, J, 2)), np.ones((T, J), bool)
    joints[1, 2], visible[1, 2] = np.nan, False
    checked = checked_example(example(joints=joints, visible=visible), JHMDB, 'x.mat')
    np.testing.assert_array_equal(checked['joints'][1, 2], [0, 0])
    assert not checked['visible'][1, 2]


def _with(shape: tuple[int, ...], at: tuple[int, ...], value: float) -> np.ndarray:
    array = np.ones(shape)
    array[at] = value
    return array


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'frames': []}, 'x.mat: no frames'),
        ({'joints': np.ones((T, 13, 2))}, r'x.mat: joints of shape \[3, 13, 2\], expected \[3, 15, 2\] \(3 frames\)'),
        ({'joints': np.ones((2, J, 2))}, r'x.mat: joints of shape \[2, 15, 2\], expected \[3, 15, 2\]'),
        ({'visible': np.ones(J)}, r'x.mat: visible of shape \[15\], expected \[3, 15\]'),
        ({'boxes': [[0, 0, 5, 7]] * 2}, r'x.mat: boxes of shape \[2, 4\], expected \[3, 4\]'),
        (
            {'boxes': [[0, 0, 5, 7], [5, 0, 5, 7], [0, 0, 1, 1]]},
            r'x.mat: the box of frame 1 is empty or not finite: \[5.0, 0.0, 5.0, 7.0\]',
        ),
        ({'boxes': [[0, 0, 5, 7]] * 2 + [[0, 0, np.nan, 1]]}, 'x.mat: the box of frame 2 is empty or not finite'),
        (
            {'joints': _with((T, J, 2), (2, 4, 1), np.nan)},
            r"x.mat: joints of 'l_shoulder' in frame 2 are not finite \(1 such joints\)",
        ),
        ({'joints': _with((T, J, 2), (0, 0, 0), np.inf)}, "x.mat: joints of 'neck' in frame 0 are not finite"),
    ],
)
def test_a_bad_field_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        checked_example(example(**changes), JHMDB, 'x.mat')


def test_the_input_is_left_as_it_was():
    given = example(joints=np.ones((T, 13, 2)), visible=np.zeros((T, 13)))
    before = given['joints'].copy()
    checked_example(given, PENN_ACTION, 'x.mat')['joints'][:] = 7
    np.testing.assert_array_equal(given['joints'], before)
    assert given['visible'].dtype == np.float64


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> pathlib.Path:
    data_dir = tmp_path_factory.mktemp('built')
    root = write_jhmdb(tmp_path_factory.mktemp('download'))
    build.main(['build', 'sub_jhmdb/fold1', '--manual_dir', str(root), '--data_dir', str(data_dir)])
    return data_dir


def test_clips_are_read_at_random_after_pickling_and_frames_stay_encoded(built):
    clips = pickle.loads(pickle.dumps(open_clips(str(built), 'sub_jhmdb', 'fold1', 'train')))
    assert (len(clips), clips.skeleton, clips.split) == (2, JHMDB, 'train')
    last, first = clips[1], clips[0]
    assert (first['clip'], first['action'], last['clip']) == ('catch/Ball_catch_0', 'catch', 'golf/Golf_swing_0')
    assert [type(frame) for frame in first['frames']] == [bytes] * LENGTHS['catch/Ball_catch_0']
    assert first['frames'][0].startswith(b'\x89PNG')
    assert first['joints'].dtype == np.float32
    reopened = pickle.loads(pickle.dumps(clips))  # once more, with its files open
    np.testing.assert_array_equal(reopened[1]['joints'], last['joints'])


def test_a_slice_of_a_split_opens(built):
    clips = open_clips(built, 'sub_jhmdb', 'fold1', 'train[1:]')
    assert len(clips) == 1
    assert clips[0]['clip'] == 'golf/Golf_swing_0'


@pytest.mark.parametrize(
    ('place', 'split', 'message'),
    [
        (('sub_jhmdb', 'fold2'), 'train', r'build it with `python -m data_pipelines.build sub_jhmdb/fold2 --data_dir'),
        (('penn_action', 'full'), 'train', 'no built data set there'),
        (('sub_jhmdb', 'fold1'), 'val', "no split 'val'; it has test, train"),
        (('sub_jhmdb', 'fold1'), 'train[1', 'no split'),
        (('sub_jhmdb', 'fold1'), 'train[2:2]', 'has no clips'),
    ],
)
def test_what_cannot_be_opened_is_named(place, split, message, built):
    with pytest.raises(InputError, match=message):
        open_clips(built, *place, split)


def test_frames_are_read_one_by_one_and_only_when_asked_for(built, tmp_path):
    folder = tmp_path / 'sub_jhmdb/fold1/1.0.0'
    shutil.copytree(built / 'sub_jhmdb/fold1/1.0.0', folder)
    clips, expected = (open_clips(path, 'sub_jhmdb', 'fold1', 'train')[1] for path in (tmp_path, built))
    frames = list(expected['frames'])
    assert clips['frames'] == frames
    assert clips['frames'][-1] == frames[3]
    assert clips['frames'][1:3] == frames[1:3]
    with pytest.raises(IndexError):
        clips['frames'][4]
    (file,) = folder.glob('train_frames*')
    file.unlink()
    source = open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'train')
    np.testing.assert_array_equal(source[1]['joints'], expected['joints'])
    with pytest.raises(InputError, match=f"{folder}: clip 1 of 'train' cannot be read .*build it again with --overwrite"):
        source[1]['frames'][0]


def test_names_and_lengths_are_known_without_reading_a_clip(built, tmp_path):
    folder = tmp_path / 'sub_jhmdb/fold1/1.0.0'
    shutil.copytree(built / 'sub_jhmdb/fold1/1.0.0', folder)
    for file in folder.glob('*array_record*'):
        file.unlink()
    clips = open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'test[1:]+train')
    assert clips.names == ['golf/Golf_swing_1', 'catch/Ball_catch_0', 'golf/Golf_swing_0']
    assert clips.lengths == [LENGTHS[name] for name in clips.names]
    (folder / 'metadata.json').write_text('{"skeleton": "jhmdb"}')
    with pytest.raises(InputError, match=r'built by an earlier version, .* build it again with --overwrite'):
        open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'train')


def read_all(data_dir: pathlib.Path) -> list[dict]:
    clips = open_clips(data_dir, 'sub_jhmdb', 'fold1', 'train')
    return [clips[index] | {'frames': list(clips[index]['frames'])} for index in range(len(clips))]


@pytest.mark.parametrize('damage', ['cut short', 'altered', 'missing', 'frames cut short', 'no info', 'no features'])
def test_a_damaged_data_set_is_named(damage, built, tmp_path):
    folder = tmp_path / 'sub_jhmdb/fold1/1.0.0'
    folder.mkdir(parents=True)
    for file in (built / 'sub_jhmdb/fold1/1.0.0').iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (shard,) = folder.glob('*train.array_record*')
    data = shard.read_bytes()
    if damage == 'cut short':
        shard.write_bytes(data[: len(data) // 2])
    elif damage == 'altered':
        shard.write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
    elif damage == 'missing':
        shard.unlink()
    elif damage == 'frames cut short':
        (frames,) = folder.glob('train_frames*')
        frames.write_bytes(frames.read_bytes()[:1000])
    elif damage == 'no info':
        (folder / 'dataset_info.json').write_text('{')
    else:
        (folder / 'features.json').unlink()
    with pytest.raises(InputError, match=f'{folder}: .*build it again with --overwrite'):
        read_all(tmp_path)


def test_reading_ahead_keeps_the_order_and_the_error():
    def fail() -> dict:
        raise InputError('clip 5')

    readers = [lambda number=number: {'clip': number} for number in range(50)]
    assert [clip['clip'] for clip in _read_ahead(readers)] == list(range(50))
    read = []
    with pytest.raises(InputError, match='clip 5'):
        read.extend(clip['clip'] for clip in _read_ahead([*readers[:5], fail, *readers[6:]]))
