"""The build and export commands: where data sets appear, what the user is told, what is left behind when something goes wrong."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_jhmdb import write_jhmdb

from kimnet_jax.core import files
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import encode_jpeg
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.data_pipelines import build, clip_builder, compact, export
from kimnet_jax.data_pipelines.builders.sub_jhmdb import layout
from kimnet_jax.data_pipelines.clip_source import open_clips

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
    return write_jhmdb(tmp_path_factory.mktemp('download'))


@pytest.fixture
def data_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / 'built'


def run(root: pathlib.Path, data_dir: pathlib.Path, *flags: str, dataset: str = 'sub_jhmdb/fold1') -> None:
    build.main(['build', dataset, '--manual_dir', str(root), '--data_dir', str(data_dir), *flags])


def command(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, '-m', *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_all_folds_are_built_and_reported(root, data_dir, capsys):
    run(root, data_dir, dataset='sub_jhmdb')
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for fold, line in enumerate(lines, 1):
        assert line.startswith(f'sub_jhmdb/fold{fold}: train 2 clips, test 2 clips, 0.')
        assert line.endswith(f' MB in {data_dir}/sub_jhmdb/clips/2.0.0')
    assert sorted(path.name for path in data_dir.iterdir()) == ['sub_jhmdb']
    info = tfds.builder_from_directory(f'{data_dir}/sub_jhmdb/clips/2.0.0').info
    assert info.file_format.value == 'array_record'
    assert info.description.startswith('Sub-JHMDB: ')
    assert info.citation.startswith('@inproceedings{jhuang2013towards')


@pytest.mark.parametrize('flags', [('--config', 'fold2'), ('--config_idx', '1')])
def test_tfds_flags_choose_the_config(flags, root, data_dir, capsys):
    run(root, data_dir, *flags, dataset='sub_jhmdb')
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith('sub_jhmdb/fold2: ')


def test_tfds_flags_limit_clips_and_set_shards(root, data_dir):
    run(root, data_dir, '--max_examples_per_split=1', '--num_shards=1')
    assert len(open_clips(data_dir, 'sub_jhmdb', 'fold1', 'train')) == 1
    assert len(list(data_dir.rglob('*array_record*'))) == 1


def test_new_metadata_leave_the_list_of_the_clips(root, data_dir):
    run(root, data_dir)
    before = open_clips(data_dir, 'sub_jhmdb', 'fold1', 'train')
    run(root, data_dir, '--update_metadata_only')
    assert open_clips(data_dir, 'sub_jhmdb', 'fold1', 'train') == before


def test_shards_hold_the_clips_in_order(root, data_dir, monkeypatch):
    monkeypatch.setattr(clip_builder, 'CLIPS_PER_SHARD', 1)
    run(root, data_dir)
    clips = open_clips(data_dir, 'sub_jhmdb', 'fold1', 'test')
    assert [clips[i]['clip'] for i in range(len(clips))] == ['catch/Ball_catch_1', 'golf/Golf_swing_1']
    assert len(list(data_dir.rglob('*clips.array_record*-of-00004'))) == 4


def test_a_built_data_set_is_left_alone_unless_overwritten(root, data_dir, capsys):
    run(root, data_dir)
    info = data_dir / 'sub_jhmdb/clips/2.0.0/dataset_info.json'
    info.with_name('mark').touch()
    run(root, data_dir)
    assert 'sub_jhmdb/clips is already built' in capsys.readouterr().out
    assert info.with_name('mark').exists()
    with pytest.raises(InputError, match='already exists'):
        run(root, data_dir, '--fail_if_exists')
    run(root, data_dir, '--overwrite')
    assert not info.with_name('mark').exists()
    assert info.exists()
    info.unlink()
    with pytest.raises(InputError, match='already exists; --overwrite replaces it'):
        run(root, data_dir)
    run(root, data_dir, '--overwrite')
    assert info.exists()


def test_a_failed_overwrite_keeps_what_was_there(root, data_dir, monkeypatch):
    run(root, data_dir)
    monkeypatch.setattr(layout, 'read_folds', lambda folder: {1: {'train': [layout.Clip('golf', 'gone')], 'test': []}})
    with pytest.raises(InputError, match='gone'):
        run(root, data_dir, '--overwrite')
    assert len(open_clips(data_dir, 'sub_jhmdb', 'fold1', 'train')) == 2
    assert sorted(path.name for path in data_dir.iterdir()) == ['sub_jhmdb']


def test_what_a_killed_build_left_is_removed_and_what_a_living_one_writes_is_not(root, data_dir):
    (data_dir / '.building-dead/sub_jhmdb').mkdir(parents=True)
    (data_dir / '.building-alive').mkdir()
    with files.locked(data_dir / '.building-alive') as free:
        assert free
        run(root, data_dir)
    assert sorted(path.name for path in data_dir.iterdir()) == ['.building-alive', 'sub_jhmdb']


FULL = {
    'array_record': lambda: RuntimeError(f'write() failed: {os.strerror(errno.ENOSPC)}; writing x; Failed to close chunk_writer'),
    'system': lambda: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/x'),
    'quota': lambda: OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
}


@pytest.mark.parametrize('kind', FULL)
def test_a_full_disk_is_named_and_nothing_is_left(kind, root, data_dir, monkeypatch):
    def write(self, path, examples):
        pathlib.Path(path).write_bytes(b'half')
        raise FULL[kind]()

    monkeypatch.setattr('kimnet_jax.data_pipelines.schema.FrameWriter.write', write)
    with pytest.raises(InputError, match=f'{data_dir}: the disk is full'):
        run(root, data_dir)
    assert not list(data_dir.iterdir())


def test_splits_that_share_a_clip_are_refused(root, data_dir, monkeypatch):
    clip = layout.Clip('golf', 'Golf_swing_0')
    monkeypatch.setattr(layout, 'read_folds', lambda folder: {1: {'train': [clip], 'test': [clip]}})
    with pytest.raises(InputError, match="clips that occur more than once: 'golf/Golf_swing_0' in 'train' and 'test'; "):
        run(root, data_dir)
    assert not list(data_dir.iterdir())


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        ([], 'known: coco_keypoints, kinetic_puppets, lsp, mpii, penn_action, posetrack, sub_jhmdb'),
        (
            ['coco'],
            "unknown data set 'coco'; known: coco_keypoints, kinetic_puppets, lsp, mpii, penn_action, posetrack, sub_jhmdb",
        ),
        (['sub_jhmdb/fold4'], "sub_jhmdb has no config 'fold4'; known: fold1, fold2, fold3"),
        (['sub_jhmdb', '--config', 'fold4'], "sub_jhmdb has no config 'fold4'"),
        (['sub_jhmdb', '--config_idx', '3'], '--config_idx 3: sub_jhmdb has configs 0 to 2'),
        (['sub_jhmdb/fold1', '--file_format', 'tfrecord'], '--file_format tfrecord: only array_record is'),
        (['sub_jhmdb/fold1'], 'give --manual_dir, a folder with the folders joint_positions'),
        (['sub_jhmdb/fold1', '--manual_dir', '{tmp}/none'], '--manual_dir {tmp}/none: no such folder'),
        (
            ['sub_jhmdb/fold1', '--manual_dir', '{tmp}/empty'],
            '--manual_dir {tmp}/empty: empty; expected the folders joint_positions',
        ),
        (['sub_jhmdb/fold1', '--manual_dir', '{tmp}', '--data_dir', '{tmp}/file'], '--data_dir {tmp}/file: cannot be written to'),
        (['sub_jhmdb/fold1', '--manual_dir', '{tmp}', '--update_metadata_only'], 'not built yet'),
    ],
)
def test_bad_flags_are_named(args, message, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    args = [arg.format(tmp=tmp_path) for arg in args]
    args += [] if '--data_dir' in args else ['--data_dir', str(tmp_path / 'built')]
    with pytest.raises(InputError) as caught:
        build.main(['build', *args])
    assert message.format(tmp=tmp_path) in str(caught.value)
    assert not (tmp_path / 'built').exists()


def test_a_folder_without_write_permission_is_named(root, data_dir, monkeypatch):
    def mkdtemp(**kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(data_dir))

    monkeypatch.setattr(build.tempfile, 'mkdtemp', mkdtemp)
    with pytest.raises(InputError, match=rf'--data_dir {data_dir}: cannot be written to \(Permission denied\)'):
        run(root, data_dir)


def test_the_commands_end_with_one_line_and_status_2_or_with_a_folder_of_images(root, data_dir):
    failed = command('data_pipelines.build', 'sub_jhmdb/fold4', '--manual_dir', root, '--data_dir', data_dir)
    assert failed.returncode == 2
    known = 'fold1, fold2, fold3, fold1_development, fold2_development, fold3_development, folds_concatenated, clips'
    assert failed.stderr == f"error: sub_jhmdb has no config 'fold4'; known: {known}\n"
    built = command('data_pipelines.build', 'sub_jhmdb/fold1', '--manual_dir', root, '--data_dir', data_dir)
    assert (built.returncode, built.stderr) == (0, '')
    assert built.stdout.startswith('sub_jhmdb/fold1: train 2 clips, test 2 clips')
    done = command(
        'data_pipelines.export', 'sub_jhmdb/fold1', '--data_dir', data_dir, '--clip', 'golf/Golf_swing_1', '--out', data_dir / 'x'
    )
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout == f'golf/Golf_swing_1: 2 frames in {data_dir / "x"}\n'
    assert sorted(file.name for file in (data_dir / 'x').iterdir()) == ['000001.png', '000002.png', 'boxes.json', 'joints.json']


def test_export_writes_the_clip_as_it_is_stored(root, data_dir, tmp_path):
    run(root, data_dir)
    clips = open_clips(data_dir, 'sub_jhmdb', 'fold1', 'test')
    by_name, by_index = export.find_clip(clips, 'golf/Golf_swing_1'), export.find_clip(clips, '1')
    assert by_name['clip'] == by_index['clip'] == 'golf/Golf_swing_1'
    export.export_clip(by_name, clips.skeleton, tmp_path / 'out')
    assert [(tmp_path / f'out/{i:06d}.png').read_bytes() for i in (1, 2)] == by_name['frames']
    assert json.loads((tmp_path / 'out/boxes.json').read_text()) == {'boxes': [[10, 5, 40, 41], [11, 5, 41, 41]]}
    joints = json.loads((tmp_path / 'out/joints.json').read_text())
    assert joints['names'] == list(JHMDB.joints)
    np.testing.assert_array_equal(joints['joints'], by_name['joints'])
    assert np.array(joints['visible']).all()
    for missing in ('2', 'golf/Golf_swing_0'):
        with pytest.raises(InputError, match=f'--clip {missing}: '):
            export.find_clip(clips, missing)


def test_export_replaces_only_what_it_may(tmp_path):
    example = {
        'frames': [encode_jpeg(np.zeros((4, 6, 3), np.uint8))],
        'joints': np.zeros((1, 15, 2)),
        'visible': np.ones((1, 15), bool),
        'boxes': np.zeros((1, 4)),
    }
    out = tmp_path / 'out'
    out.mkdir()
    export.export_clip(example, JHMDB, out)
    assert sorted(file.name for file in out.iterdir()) == ['000001.jpg', 'boxes.json', 'joints.json']
    (out / 'mine').touch()
    with pytest.raises(InputError, match='already exists; choose another folder or give --overwrite'):
        export.export_clip(example, JHMDB, out)
    assert (out / 'mine').exists()
    with pytest.raises(InputError, match="contains 'mine', which this command did not write"):
        export.export_clip(example, JHMDB, out, overwrite=True)
    assert (out / 'mine').exists()
    (out / 'mine').unlink()
    (out / '000002.jpg').touch()  # of a longer clip
    export.export_clip(example, JHMDB, out, overwrite=True)
    assert sorted(file.name for file in out.iterdir()) == ['000001.jpg', 'boxes.json', 'joints.json']
    with pytest.raises(InputError, match='already exists'):
        export.export_clip(example, JHMDB, out / 'boxes.json', overwrite=True)
    with pytest.raises(TypeError):
        export.export_clip(example | {'joints': None, 'boxes': object()}, JHMDB, tmp_path / 'broken')
    assert [path.name for path in tmp_path.iterdir()] == ['out']


def test_export_needs_a_config(data_dir):
    with pytest.raises(InputError, match='give NAME/CONFIG'):
        export.main(['export', 'sub_jhmdb', '--data_dir', str(data_dir), '--clip', '0', '--out', 'x'])


@pytest.mark.parametrize(
    'flag',
    ['--max_examples_per_split=-3', '--max_examples_per_split=0', '--num_shards=-2', '--num_shards=0', '--num-processes=-1'],
)
def test_numbers_below_one_are_refused_before_anything_is_made(flag, root, data_dir):
    name, value = flag.split('=')
    with pytest.raises(InputError, match=f'^{name} {value}: must be 1 or more'):
        run(root, data_dir, flag)
    assert not data_dir.exists()


@pytest.mark.parametrize('flag', ['--max_mb=inf', '--max_mb=nan', '--max_mb=-1', '--pixels=0', '--pixels=99999999999999999999'])
def test_sizes_of_a_compact_copy_are_checked_before_anything_is_made(flag, tmp_path):
    with pytest.raises(InputError, match=f'^{flag.partition("=")[0]} .*: must be above 0'):
        compact.main(['compact', 'sub_jhmdb/fold1', '--data_dir', str(tmp_path), '--out', str(tmp_path / 'out'), flag])
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_what_it_wrote_and_nothing_else(root, data_dir, tmp_path):
    run(root, data_dir)
    command = ['export', 'sub_jhmdb/fold1', '--data_dir', str(data_dir), '--clip', '0', '--out', str(tmp_path / 'clip')]
    export.main(command)
    export.main([*command, '--overwrite'])
    (tmp_path / 'clip/thesis.tex').write_text('years of work')
    with pytest.raises(
        InputError, match=r"clip: contains 'thesis\.tex', which this command did not write; choose another folder"
    ):
        export.main([*command, '--overwrite'])
    (tmp_path / 'clip/thesis.tex').rename(tmp_path / 'thesis.tex')
    (tmp_path / 'clip/000009.png').mkdir()
    with pytest.raises(InputError, match=r"clip: contains '000009\.png'"):
        export.main([*command, '--overwrite'])


def test_a_build_leaves_nothing_in_the_folder_of_temporary_files(root, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    run(root, data_dir)
    assert not list((tmp_path / 'temporary').iterdir())
