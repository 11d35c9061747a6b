"""The example schema: what is refused before it is written, and reading it back."""

import json
import pathlib
import pickle
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from array_record.python import array_record_module
from fake_jhmdb import LENGTHS, write_jhmdb

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB, PENN_ACTION
from kimnet_jax.data_pipelines import build, checksums, compact, doctor
from kimnet_jax.data_pipelines.clip_builder import _read_ahead
from kimnet_jax.data_pipelines.clip_source import open_clips, read_built
from kimnet_jax.data_pipelines.doctor import examine_built
from kimnet_jax.data_pipelines.schema import checked_example

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
        (('sub_jhmdb', 'fold4'), 'train', "no config 'fold4' of these clips, which have fold1, fold2, fold3, fold1_development"),
        (('penn_action', 'full'), 'train', r'no built data set there; build it with `kimnet build penn_action/full --data_dir'),
        (('sub_jhmdb', 'fold1'), 'val', "no split 'val'; it has test, train"),
        (('sub_jhmdb', 'fold1'), 'train[1', 'no split'),
        (('sub_jhmdb', 'fold1'), 'train[2:2]', 'has no clips'),
    ],
)
def test_what_cannot_be_opened_is_named(place, split, message, built):
    with pytest.raises(InputError, match=message):
        open_clips(built, *place, split)


def test_frames_are_read_one_by_one_and_only_when_asked_for(built, tmp_path):
    folder = tmp_path / 'sub_jhmdb/clips/2.0.0'
    shutil.copytree(built / 'sub_jhmdb/clips/2.0.0', folder)
    clips, expected = (open_clips(path, 'sub_jhmdb', 'fold1', 'train')[1] for path in (tmp_path, built))
    frames = list(expected['frames'])
    assert clips['frames'] == frames
    assert clips['frames'][-1] == frames[3]
    assert clips['frames'][1:3] == frames[1:3]
    with pytest.raises(IndexError):
        clips['frames'][4]
    (file,) = folder.glob('*.array_record*')
    source = open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'train')
    file.unlink()
    np.testing.assert_array_equal(source[1]['joints'], expected['joints'])
    with pytest.raises(
        InputError, match=rf"{folder}: clip 1 of 'train' \(golf/Golf_swing_0\) cannot be read .*rebuild it with --overwrite"
    ):
        source[1]['frames'][0]


def test_names_and_lengths_are_known_without_reading_a_clip(built, monkeypatch):
    def unread(path: str, options: str) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(array_record_module, 'ArrayRecordReader', unread)
    clips = open_clips(built, 'sub_jhmdb', 'fold1', 'test[1:]+train')
    assert clips.names == ['golf/Golf_swing_1', 'catch/Ball_catch_0', 'golf/Golf_swing_0']
    assert clips.lengths == [LENGTHS[name] for name in clips.names]


def test_a_data_set_of_an_earlier_version_is_named(copy):
    (copy / 'checksums.json').unlink()
    with pytest.raises(InputError, match=r'no checksums.json: built by an earlier version, .* rebuild it with --overwrite'):
        read_built(copy)


@pytest.fixture
def copy(built, tmp_path) -> pathlib.Path:
    """The folder of a copy of the built data set."""
    return pathlib.Path(shutil.copytree(built / 'sub_jhmdb/clips/2.0.0', tmp_path / 'sub_jhmdb/clips/2.0.0'))


def _features_json(folder: pathlib.Path, name: str) -> None:
    """Names a class at the top of features.json."""
    path = folder / 'features.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'pythonClassName': name}))


def _nested(folder: pathlib.Path, name: str) -> None:
    """Names a class inside of another."""
    path = folder / 'features.json'
    value = json.loads(path.read_text())
    value['featuresDict']['features']['joints'] |= {'pythonClassName': name}
    path.write_text(json.dumps(value))


def _in_sequence(folder: pathlib.Path, name: str) -> None:
    """Names a class inside of one of TFDS's that none of ours has."""
    path = folder / 'features.json'
    value = json.loads(path.read_text())
    inner = {'pythonClassName': name, 'text': {}}
    sequence = {'pythonClassName': 'tensorflow_datasets.core.features.sequence_feature.Sequence', 'sequence': {'feature': inner}}
    value['featuresDict']['features']['clip'] = sequence
    path.write_text(json.dumps(value))


def _legacy(folder: pathlib.Path, name: str) -> None:
    """The form of TFDS 4.2."""
    (folder / 'features.json').write_text(json.dumps({'type': name, 'content': {}}))


def _info_json(folder: pathlib.Path, name: str) -> None:
    """Features beside the splits, where TFDS prefers them."""
    path = folder / 'dataset_info.json'
    features = {'pythonClassName': name, 'featuresDict': {'features': {}}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {'features': features}))


@pytest.mark.parametrize('place', [_features_json, _nested, _in_sequence, _legacy, _info_json])
@pytest.mark.parametrize('renewed', [False, True])
def test_opening_a_data_set_runs_no_code_that_it_names(place, renewed, copy, tmp_path, monkeypatch):
    ran = tmp_path / 'ran'
    (tmp_path / 'hostile.py').write_text(f'open({str(ran)!r}, "w")')
    monkeypatch.syspath_prepend(str(tmp_path))
    place(copy, 'hostile.Feature')
    if renewed:
        checksums.write(copy)
    message = "names the class '.*', which no data set .* has; nothing of it was run" if renewed else 'is damaged or altered'
    commands = [
        lambda: open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'train'),
        lambda: compact.main(['compact', 'sub_jhmdb/fold1', '--data_dir', str(tmp_path), '--out', str(tmp_path / 'out')]),
        lambda: build.main(['build', 'sub_jhmdb/fold1', '--manual_dir', str(tmp_path), '--data_dir', str(tmp_path)]),
    ]
    for command in commands:
        with pytest.raises(InputError, match=message) as caught:
            command()
        assert len(str(caught.value).splitlines()) == 1
    assert not ran.exists()


def _change(copy: pathlib.Path, change: Callable[[dict], object]) -> None:
    """Changes metadata.json and its checksum, as one would who means it."""
    path = copy / 'metadata.json'
    metadata = json.loads(path.read_text())
    change(metadata)
    path.write_text(json.dumps(metadata))
    checksums.write(copy)


def _longer(metadata: dict) -> None:
    metadata['clips']['clips'][0][1] += 1


def _shifted(metadata: dict) -> None:
    first, second, *_ = metadata['clips']['clips']
    first[1], second[1] = second[1], first[1]


def _renamed(metadata: dict) -> None:
    metadata['clips']['clips'][1][0] = 'golf/other'


def _swapped(metadata: dict) -> None:
    metadata['clips']['clips'].reverse()


def _fewer(metadata: dict) -> None:
    del metadata['clips']['clips'][0]


def _twice(metadata: dict) -> None:
    metadata['clips']['clips'][0] = metadata['clips']['clips'][1]


def _no_split(metadata: dict) -> None:
    del metadata['clips']['clips']


def _other_skeleton(metadata: dict) -> None:
    metadata['skeleton'] = 'penn_action'


def _no_length(metadata: dict) -> None:
    metadata['clips']['clips'][0][1] = -4


def _no_such_clip(metadata: dict) -> None:
    metadata['views']['fold1']['splits']['test'][0][1] = 4


def _in_both(metadata: dict) -> None:
    splits = metadata['views']['fold1']['splits']
    splits['test'][0] = ['under another name', splits['train'][0][1]]


def _no_leak(metadata: dict) -> None:
    metadata['views']['folds_concatenated']['leak'] = ''


def _no_views(metadata: dict) -> None:
    del metadata['views']


@pytest.mark.parametrize(
    'change',
    [
        *(_longer, _shifted, _renamed, _swapped, _fewer, _twice, _no_split, _other_skeleton, _no_length),
        *(_no_such_clip, _in_both, _no_leak, _no_views),
    ],
)
def test_tables_that_do_not_fit_the_records_are_refused(change, copy, tmp_path):
    _change(copy, change)
    with pytest.raises(InputError, match=f'{copy}: .*rebuild it with --overwrite'):
        read_all(tmp_path)


@pytest.mark.parametrize(
    'text', ['', '[]', 'null', '{"clips": 3}', '[' * 100_000, '{"skeleton": "jhmdb", "clips": {}, "leak": 1}']
)
@pytest.mark.parametrize('name', ['metadata.json', 'dataset_info.json', 'features.json', 'checksums.json'])
def test_tables_of_anything_are_one_line(name, text, copy):
    (copy / name).write_text(text)
    if name != 'checksums.json':
        checksums.write(copy)
    if name == 'features.json' and text not in ('', '[' * 100_000):
        return  # JSON that names nothing, and is not read
    with pytest.raises(InputError, match=str(copy)) as caught:
        read_built(copy)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (
            lambda metadata: metadata['clips']['clips'][0].__setitem__(1, 10**18),
            "split 'clips' has 10{17}9 frames by metadata.json, 14 ",
        ),
        (lambda metadata: metadata.update(note=[1]), 'a note that is no text'),
        (lambda metadata: metadata.update(compact=[1]), 'settings of a compact copy that are none'),
    ],
)
def test_tables_that_claim_too_much_are_one_line(change, told, copy):
    _change(copy, change)
    with pytest.raises(InputError, match=told):
        read_built(copy)


def test_a_config_that_no_data_set_has_is_not_copied(built, tmp_path):
    shutil.copytree(built / 'sub_jhmdb/clips', tmp_path / 'sub_jhmdb/fold9')
    with pytest.raises(InputError, match="sub_jhmdb has no config 'fold9'; known: fold1, "):
        compact.main(['compact', 'sub_jhmdb/fold9', '--data_dir', str(tmp_path), '--out', str(tmp_path / 'out')])
    assert not (tmp_path / 'out').exists()


def test_what_the_doctor_says_of_a_built_data_set_is_written_as_json(built, tmp_path, capsys):
    file = tmp_path / 'report.json'
    assert doctor.main(['doctor', 'sub_jhmdb/fold1', str(built), '--json', str(file)]) == 0
    capsys.readouterr()
    assert json.loads(file.read_text())['counts']['frames'] > 0


def test_a_flipped_bit_anywhere_is_named_by_its_file(copy):
    rng = np.random.default_rng(0)
    files = sorted(path for path in copy.iterdir())
    assert len(files) == 7
    for path in files:
        data = path.read_bytes()
        for position in rng.integers(len(data), size=20):
            damaged = bytearray(data)
            damaged[position] ^= 1 << rng.integers(8)
            path.write_bytes(damaged)
            found = examine_built([copy], pixels=False).findings
            assert path.name in ' '.join(finding.text for finding in found if finding.level == 'error'), (path, position)
        path.write_bytes(data)
    assert not examine_built([copy], pixels=True).findings


def test_a_checksum_is_not_renewed_by_a_build_that_leaves_the_data_set_alone(copy, tmp_path):
    (frames,) = copy.glob('*.array_record*')
    data = bytearray(frames.read_bytes())
    data[-100_000] ^= 1
    frames.write_bytes(data)
    command = ['build', 'sub_jhmdb/fold1', '--manual_dir', str(tmp_path), '--data_dir', str(tmp_path)]
    build.main(command)
    with pytest.raises(InputError, match=f'{copy}: {frames.name} is damaged or altered'):
        build.main([*command, '--update_metadata_only'])


def read_all(data_dir: pathlib.Path) -> list[dict]:
    clips = open_clips(data_dir, 'sub_jhmdb', 'fold1', 'train+test')
    return [clips[index] | {'frames': list(clips[index]['frames'])} for index in range(len(clips))]


@pytest.mark.parametrize('damage', ['cut short', 'altered', 'missing', 'no labels', 'labels cut short', 'no info', 'no features'])
def test_a_damaged_data_set_is_named(damage, built, tmp_path):
    folder = tmp_path / 'sub_jhmdb/clips/2.0.0'
    folder.mkdir(parents=True)
    for file in (built / 'sub_jhmdb/clips/2.0.0').iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (shard,), (labels,) = folder.glob('*.array_record*'), folder.glob('*_labels.npy')
    data = shard.read_bytes()
    if damage == 'cut short':
        shard.write_bytes(data[: len(data) // 2])
    elif damage == 'altered':
        shard.write_bytes(data[:200] + bytes([data[200] ^ 255]) + data[201:])
    elif damage == 'missing':
        shard.unlink()
    elif damage == 'no labels':
        labels.unlink()
    elif damage == 'labels cut short':
        labels.write_bytes(labels.read_bytes()[:1000])
        checksums.write(folder)
    elif damage == 'no info':
        (folder / 'dataset_info.json').write_text('{')
    else:
        (folder / 'features.json').unlink()
    with pytest.raises(InputError, match=f'{folder}: .*rebuild it with --overwrite'):
        read_all(tmp_path)


def test_reading_ahead_keeps_the_order_and_the_error():
    def fail() -> dict:
        raise InputError('clip 5')

    readers = [lambda number=number: {'clip': number} for number in range(50)]
    assert [clip['clip'] for clip in _read_ahead(readers)] == list(range(50))
    read = []
    with pytest.raises(InputError, match='clip 5'):
        read.extend(clip['clip'] for clip in _read_ahead([*readers[:5], fail, *readers[6:]]))


def test_the_doctor_checks_what_is_built(copy, tmp_path, capsys):
    assert doctor.main(['doctor', 'sub_jhmdb/fold1', str(tmp_path), '--pixels']) == 0
    assert f'sub_jhmdb/fold1 in {tmp_path}: sound' in capsys.readouterr().out
    assert doctor.main(['doctor', 'sub_jhmdb', str(tmp_path)]) == 0
    (frames,) = copy.glob('*.array_record*')
    frames.write_bytes(frames.read_bytes()[:-1])
    assert doctor.main(['doctor', 'sub_jhmdb', str(tmp_path)]) == 1
    assert (
        f'error    {copy}: {frames.name} is damaged or altered (131071 bytes, 131072 when it was built)'
        in capsys.readouterr().out
    )
    with pytest.raises(InputError, match='no built data set sub_jhmdb/fold9 there'):
        doctor.main(['doctor', 'sub_jhmdb/fold9', str(tmp_path)])
