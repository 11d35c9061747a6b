"""Building on Apache Beam: the same files as without it."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from fake_jhmdb import write_jhmdb
from fake_penn_action import write_penn_action
from tensorflow_datasets.core import writer

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import build, clip_builder
from kimnet_jax.data_pipelines.clip_source import open_clips

LOCAL = '--beam_pipeline_options=runner=FnApiRunner'
WRITE = {'sub_jhmdb/fold1': write_jhmdb, 'sub_jhmdb/folds_concatenated': write_jhmdb, 'penn_action': write_penn_action}


def run(dataset: str, root: pathlib.Path, data_dir: pathlib.Path, *flags: str) -> None:
    build.main(['build', dataset, '--manual_dir', str(root), '--data_dir', str(data_dir), *flags])


def files(data_dir: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(data_dir)): file.read_bytes() for file in data_dir.rglob('*') if file.is_file()}


@pytest.mark.parametrize('dataset', WRITE)
def test_the_files_are_those_of_a_plain_build(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(clip_builder, 'CLIPS_PER_SHARD', 1)
    root = WRITE[dataset](tmp_path / 'download')
    on_beam = []
    write = writer.ShardWriter.write_with_beam
    monkeypatch.setattr(writer.ShardWriter, 'write_with_beam', lambda self, **kw: on_beam.append(kw['path']) or write(self, **kw))
    run(dataset, root, tmp_path / 'plain')
    assert not on_beam
    run(dataset, root, tmp_path / 'beam', LOCAL)
    assert len(on_beam) == len(list((tmp_path / 'beam').rglob('*.array_record*'))) >= 4
    assert files(tmp_path / 'beam') == files(tmp_path / 'plain')


def test_worker_processes_write_the_same_files(tmp_path):
    root = write_jhmdb(tmp_path / 'download')
    run('sub_jhmdb/fold2', root, tmp_path / 'plain')
    command = [
        sys.executable,
        '-m',
        'data_pipelines.build',
        'sub_jhmdb/fold2',
        f'--manual_dir={root}',
        f'--data_dir={tmp_path}/beam',
    ]
    flags = [f'{LOCAL},direct_num_workers=2,direct_running_mode=multi_processing']
    cwd = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run([*command, *flags], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('sub_jhmdb/fold2: train 2 clips, test 2 clips')
    beam, plain = files(tmp_path / 'beam'), files(tmp_path / 'plain')
    assert beam.keys() == plain.keys()
    # the fields of a protocol buffer may stand in another order in each process
    varying = ('sub_jhmdb-', 'checksums.json')
    assert [name for name in plain if beam[name] != plain[name] and not any(part in name for part in varying)] == []
    for split in ('train', 'test'):
        ours, theirs = (open_clips(tmp_path / name, 'sub_jhmdb', 'fold2', split) for name in ('beam', 'plain'))
        assert ours.clips == theirs.clips
        for clip in range(len(ours)):
            assert ours[clip].keys() == theirs[clip].keys()
            for key, value in theirs[clip].items():
                np.testing.assert_array_equal(ours[clip][key], value, err_msg=key)


def test_what_is_wrong_in_a_worker_is_told_as_without_beam(tmp_path):
    root = write_jhmdb(tmp_path / 'download')
    file = root / 'joint_positions/golf/Golf_swing_0/joint_positions.mat'
    file.write_bytes(b'damaged')
    told = []
    for flags in ((), (LOCAL,)):
        with pytest.raises(InputError) as caught:
            run('sub_jhmdb/fold1', root, tmp_path / 'built', *flags)
        told.append(str(caught.value))
        assert not list((tmp_path / 'built').iterdir())
    assert told[0] == told[1]
    assert told[0].startswith(f'{file}: not a readable MATLAB file')


def test_a_runner_must_be_named_and_beam_be_there(tmp_path, monkeypatch):
    root = write_jhmdb(tmp_path / 'download')
    with pytest.raises(InputError, match='--beam_pipeline_options: name a runner'):
        run('sub_jhmdb/fold1', root, tmp_path / 'built', '--beam_pipeline_options=job_name=a')
    monkeypatch.setitem(sys.modules, 'apache_beam', None)
    with pytest.raises(InputError, match=r"needs Apache Beam; pip install 'kimnet-jax\[beam\]'"):
        run('sub_jhmdb/fold1', root, tmp_path / 'built', LOCAL)
