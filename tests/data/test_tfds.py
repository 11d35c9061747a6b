"""The built data sets as TFDS sees them: images and labels in its features, the same however they are built, folds as splits."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_jhmdb import LENGTHS, write_jhmdb
from fake_lsp import write_lsp
from fake_mpii import write_mpii
from fake_own_data import write_own_data
from fake_penn_action import write_penn_action
from fake_posetrack import write_posetrack

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.data_pipelines import build, checksums, clip_source, doctor, schema
from kimnet_jax.data_pipelines.builders import BUILDERS, import_builder

ROOT = pathlib.Path(__file__).resolve().parents[2]
SETS = {  # name -> a config, and what writes a fake download
    'sub_jhmdb': ('clips', write_jhmdb),
    'penn_action': ('official', write_penn_action),
    'lsp': ('original', lambda root: write_lsp(root, 'original')),
    'mpii': ('simple_baseline', write_mpii),
    'coco_keypoints': ('mine', write_own_data),
    'posetrack': ('posetrack18', write_posetrack),
}
TFDS_BUILD = """
import sys
from tensorflow_datasets.scripts.cli import build, cli_utils  # what the program `tfds` imports besides needs TensorFlow
parser = cli_utils.ArgumentParser(allow_abbrev=False)
parser.add_arguments(build.Args, dest='args')
parser.parse_args(sys.argv[1:]).args.execute()
assert 'tensorflow' not in sys.modules
"""


@pytest.fixture(scope='module')
def downloads(tmp_path_factory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp('downloads')
    return {name: write(folder / name) for name, (_, write) in SETS.items()}


@pytest.fixture(scope='module')
def built(downloads, tmp_path_factory) -> pathlib.Path:
    data_dir = tmp_path_factory.mktemp('built')
    for name, (config, _) in SETS.items():
        build.main(['build', f'{name}/{config}', '--manual_dir', str(downloads[name]), '--data_dir', str(data_dir)])
    return data_dir


@pytest.mark.parametrize('name', SETS)
def test_tfds_gives_what_our_reader_gives(name, built):
    config = SETS[name][0]
    sources = tfds.data_source(f'{name}/{config}', data_dir=built)
    assert 'tensorflow' not in sys.modules
    for split, source in sources.items():
        clips = clip_source.open_clips(built, name, config, split)
        expected = [(clips[i], number) for i in range(len(clips)) for number in range(clips.lengths[i])]
        assert len(source) == len(expected) > 0
        features = source.dataset_info.features
        assert ('action' in features) == bool(import_builder(name).ACTIONS)
        for record, (example, number) in zip(source, expected, strict=True):
            assert (record['image'].dtype, record['image'].shape) == (np.uint8, (*example['image_size'], 3))
            np.testing.assert_array_equal(record['image'], decode_image(example['frames'][number], 'a frame'))
            for ours, theirs in (('joints', 'joints'), ('visible', 'visible'), ('boxes', 'box')):
                assert record[theirs].dtype == example[ours].dtype
                np.testing.assert_array_equal(record[theirs], example[ours][number])
            np.testing.assert_array_equal(record['image_size'], example['image_size'])
            assert (record['clip'].decode(), record['index']) == (example['clip'], number)
            if example['action']:
                assert features['action'].int2str(record['action']) == example['action']


@pytest.mark.parametrize('config', ['fold1', 'fold2', 'folds_concatenated'])
@pytest.mark.parametrize('split', ['train', 'test', 'test+train[1:]'])
def test_the_splits_of_a_fold_can_be_opened_with_tfds(config, split, built):
    clips = clip_source.open_clips(built, 'sub_jhmdb', config, split)
    source = tfds.data_source('sub_jhmdb', data_dir=built, split=clips.tfds_split)
    expected = [(clip.stored, number) for clip in clips.clips for number in range(clip.length)]
    assert [(record['clip'].decode(), record['index']) for record in source] == expected


def records(data_dir: pathlib.Path, dataset: str) -> dict[str, list[str]]:
    """Split -> what its records say, in a form in which the order of the fields plays no part."""
    encoded = tfds.decode.SkipDecoding()
    return {
        split: [repr(sorted((key, np.asarray(value).tolist()) for key, value in record.items())) for record in source]
        for split, source in tfds.data_source(dataset, data_dir=data_dir, decoders={'image': encoded}).items()
    }


def tfds_build(scripts: pathlib.Path, cwd: pathlib.Path, *args: str) -> None:
    """Runs `tfds build`, from a script, since that program is one: the working directory is no place to import from."""
    (scripts / 'tfds_build.py').write_text(TFDS_BUILD)
    command = [sys.executable, str(scripts / 'tfds_build.py'), *args]
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', SETS)
def test_the_build_of_tfds_writes_the_same(name, downloads, built, tmp_path):
    config = SETS[name][0]
    module = import_builder(name).__module__
    flags = [f'--manual_dir={downloads[name]}', '--file_format=array_record']
    runs = {
        'in its folder': (ROOT / 'data_pipelines/builders' / name, [f'--config={config}']),
        'with --imports': (tmp_path, [f'{name}/{config}', f'--imports={module}']),
    }
    for how, (cwd, args) in runs.items():
        tfds_build(tmp_path, cwd, *args, *flags, f'--data_dir={tmp_path / how}')
        assert records(tmp_path / how, f'{name}/{config}') == records(built, f'{name}/{config}')
        ours, theirs = (at / name / config / str(schema.VERSION) for at in (built, tmp_path / how))
        assert json.loads((ours / 'metadata.json').read_text()) == json.loads((theirs / 'metadata.json').read_text())
        assert doctor.main(['doctor', f'{name}/{config}', str(tmp_path / how), '--pixels']) == 0


def test_without_a_config_tfds_builds_the_clips_of_sub_jhmdb_once(downloads, tmp_path):
    flags = [f'--manual_dir={downloads["sub_jhmdb"]}', f'--data_dir={tmp_path}', '--file_format=array_record']
    tfds_build(tmp_path, ROOT / 'data_pipelines/builders/sub_jhmdb', *flags)
    assert {path.name for path in (tmp_path / 'sub_jhmdb').iterdir()} <= {'clips', '.config'}
    assert len(clip_source.open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'train')) == 2
    assert tfds.builder('sub_jhmdb', data_dir=tmp_path).info.splits['clips'].num_examples == sum(LENGTHS.values())


@pytest.mark.parametrize('name', BUILDERS)
def test_a_data_set_says_where_it_comes_from(name, tmp_path):
    info = import_builder(name)(data_dir=tmp_path).info
    assert len(info.description) > 100
    downloaded = name != 'kinetic_puppets'
    assert bool(info.citation) == downloaded == ('tensorflow.org' not in info.homepage)  # TFDS's own page, where none is given
    tags = (ROOT / f'data_pipelines/builders/{name}/TAGS.txt').read_text()
    assert tags.startswith('content.data-type.image' if name in ('lsp', 'mpii') else 'content.data-type.video')


@pytest.fixture
def folder(downloads, tmp_path) -> pathlib.Path:
    build.main(['build', 'penn_action', '--manual_dir', str(downloads['penn_action']), '--data_dir', str(tmp_path)])
    return tmp_path / 'penn_action/official/2.0.0'


def test_data_of_an_earlier_layout_are_one_line_that_tells_how_to_build_them_again(folder, tmp_path):
    metadata = json.loads((folder / 'metadata.json').read_text())
    del metadata['layout']
    (folder / 'metadata.json').write_text(json.dumps(metadata))
    checksums.write(folder)
    folder = folder.rename(folder.with_name('1.0.0'))
    with pytest.raises(InputError) as caught:
        clip_source.open_clips(tmp_path, 'penn_action', 'official', 'test')
    assert str(caught.value) == (
        f'{folder}: built by an earlier version, in another layout; build it again with '
        f'`kimnet build penn_action/official --data_dir {tmp_path}`'
    )


def test_folds_of_an_earlier_layout_give_way_to_the_clips(downloads, tmp_path):
    old = tmp_path / 'sub_jhmdb/fold1/1.0.0'
    old.mkdir(parents=True)
    (old / 'metadata.json').write_text(json.dumps({'skeleton': 'jhmdb', 'clips': {}, 'leak': ''}))
    for name in ('dataset_info.json', 'features.json'):
        (old / name).write_text('{}')
    checksums.write(old)
    with pytest.raises(InputError, match=f'`kimnet build sub_jhmdb/fold1 --data_dir {tmp_path}`$'):
        clip_source.open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'train')
    build.main(['build', 'sub_jhmdb/fold1', '--manual_dir', str(downloads['sub_jhmdb']), '--data_dir', str(tmp_path)])
    assert len(clip_source.open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'train')) == 2


def test_a_flipped_bit_is_never_another_picture_but_named_by_file_and_clip(folder, tmp_path):
    rng = np.random.default_rng(1)
    clips = clip_source.open_clips(tmp_path, 'penn_action', 'official', 'test')
    frames = [(i, number, clips[i]['frames'][number]) for i in range(len(clips)) for number in range(clips.lengths[i])]
    (file,) = folder.glob('*test.array_record*')
    data, told = file.read_bytes(), []
    for position in rng.choice(len(data), 200, replace=False):
        damaged = bytearray(data)
        damaged[position] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        clips = clip_source.open_clips(tmp_path, 'penn_action', 'official', 'test')
        for i, number, frame in frames:
            try:
                assert clips[i]['frames'][number] == frame, position
            except InputError as error:
                told.append((str(error), f"{folder}: clip {i} of 'test' ({clips.names[i]}) cannot be read"))
    assert told
    for message, expected in told:
        assert message.startswith(expected)
        assert file.name in message
        assert len(message.splitlines()) == 1


def test_the_doctor_compares_the_labels_with_the_records(folder, tmp_path, capsys):
    path = folder / schema.labels_file('test')
    labels = np.load(path)
    labels['joints'][3, 2] += 1
    np.save(path, labels)
    checksums.write(folder)
    assert doctor.main(['doctor', 'penn_action', str(tmp_path)]) == 1
    assert 'cannot be read (the record of frame 3 differs from test_labels.npy or metadata.json)' in capsys.readouterr().out


def test_an_action_that_the_data_set_does_not_have_is_named(downloads, tmp_path, monkeypatch):
    monkeypatch.setattr(import_builder('sub_jhmdb'), 'ACTIONS', ('catch',))
    with pytest.raises(InputError, match=r"golf/Golf_swing_0: action 'golf', known are catch$"):
        build.main(['build', 'sub_jhmdb', '--manual_dir', str(downloads['sub_jhmdb']), '--data_dir', str(tmp_path / 'built')])
    assert not list((tmp_path / 'built').iterdir())
