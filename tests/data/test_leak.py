"""Clips in two splits: refused when a data set is built and when a network is trained, unless it is meant."""

import pathlib
import shutil

import pytest
from fake_jhmdb import LABELS, LENGTHS, write_jhmdb

from kimnet_jax.configs import sub_jhmdb
from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import build, clip_source
from kimnet_jax.data_pipelines.builders.sub_jhmdb import layout
from kimnet_jax.tasks import heatmaps


def run(root: pathlib.Path, data_dir: pathlib.Path, dataset: str) -> None:
    build.main(['build', dataset, '--manual_dir', str(root), '--data_dir', str(data_dir)])


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> pathlib.Path:
    return write_jhmdb(tmp_path_factory.mktemp('download'))


@pytest.fixture(scope='module')
def built(root, tmp_path_factory) -> pathlib.Path:
    data_dir = tmp_path_factory.mktemp('built')
    run(root, data_dir, 'sub_jhmdb/fold1')
    run(root, data_dir, 'sub_jhmdb/folds_concatenated')
    return data_dir


def test_a_build_names_the_clips_that_are_in_two_splits_or_twice_in_one(root, tmp_path, monkeypatch):
    a, b, c, d = (layout.Clip(*name.split('/')) for name in LENGTHS)
    monkeypatch.setattr(layout, 'read_folds', lambda folder: {1: {'train': [a, b, c, c], 'test': [b, d, a]}})
    with pytest.raises(InputError) as caught:
        run(root, tmp_path / 'built', 'sub_jhmdb/fold1')
    assert str(caught.value).startswith(
        "clips that occur more than once: 'catch/Ball_catch_0' in 'train' and 'test', "
        "'catch/Ball_catch_1' in 'train' and 'test', 'golf/Golf_swing_0' in 'train' and 'train'; "
    )
    assert not list((tmp_path / 'built').iterdir())


def test_the_same_pictures_under_two_names_are_told(tmp_path, capsys):
    root = write_jhmdb(tmp_path / 'download')
    for part in ('joint_positions', 'puppet_mask'):
        shutil.copytree(root / part / 'catch/Ball_catch_0', root / part / 'catch/Ball_catch_1', dirs_exist_ok=True)
    videos = root / 'ReCompress_Videos/catch'
    shutil.copy(videos / 'Ball_catch_0.avi', videos / 'Ball_catch_1.avi')
    run(root, tmp_path / 'built', 'sub_jhmdb/fold1')  # Ball_catch_0 is in train, the other in test
    assert capsys.readouterr().err == (
        "note: 1 clips of split 'test' of fold1 have the same pictures as one of split 'train': catch/Ball_catch_1 = "
        'catch/Ball_catch_0\n'
        "note: 1 clips of split 'test' of fold2 have the same pictures as one of split 'train': catch/Ball_catch_0 = "
        'catch/Ball_catch_1\n'
        "note: 1 clips of split 'test' of fold3 have the same pictures as one of split 'train': catch/Ball_catch_1 = "
        'catch/Ball_catch_0\n'
    )


def test_the_concatenated_folds_say_what_they_are(root, tmp_path, capsys):
    run(root, tmp_path, 'sub_jhmdb/folds_concatenated')
    assert 'note: sub_jhmdb/folds_concatenated: the three folds are concatenated' in capsys.readouterr().err
    clips = {split: clip_source.open_clips(tmp_path, 'sub_jhmdb', 'folds_concatenated', split) for split in ('train', 'test')}
    assert clips['train'].names == [
        *('fold1/catch/Ball_catch_0', 'fold1/golf/Golf_swing_0'),
        *('fold2/catch/Ball_catch_1', 'fold2/golf/Golf_swing_0'),
        *('fold3/catch/Ball_catch_0', 'fold3/golf/Golf_swing_1'),
    ]
    assert len(set(clips['train'].names) | set(clips['test'].names)) == 3 * len(LENGTHS)
    assert clips['test'][5]['clip'] == 'fold3/golf/Golf_swing_0'
    (note,) = clip_source.report_notes(clips['train'], clips['test'])
    assert note.startswith(
        'No result on unseen clips: the three folds are concatenated, as in the releases of DeciWatch and HANet'
    )


def test_the_folds_are_splits_of_clips_that_are_stored_once(root, tmp_path, capsys):
    run(root, tmp_path, 'sub_jhmdb')
    assert capsys.readouterr().err == ''  # the concatenated folds are not asked for
    assert sorted(path.name for path in (tmp_path / 'sub_jhmdb').iterdir()) == ['.config', 'clips']
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*')}
    for config in ('fold2', 'fold3_development', 'folds_concatenated'):
        run(root, tmp_path, f'sub_jhmdb/{config}')
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*') if path.name[0] != '.'} == {
        path: time for path, time in changed.items() if path.name[0] != '.'
    }
    every = clip_source.open_clips(tmp_path, 'sub_jhmdb', 'clips', 'clips')
    assert (every.names, every.lengths) == (list(LENGTHS), list(LENGTHS.values()))
    for fold, labels in LABELS.items():
        for split, wanted in (('train', 1), ('test', 2)):
            clips = clip_source.open_clips(tmp_path, 'sub_jhmdb', f'fold{fold}', split)
            assert clips.names == [clip for clip, label in zip(LENGTHS, labels, strict=True) if label == wanted]
            for i, name in enumerate(clips.names):
                assert clips[i]['frames'] == list(every[every.names.index(name)]['frames'])
    with pytest.raises(InputError, match='--config_idx 3: sub_jhmdb has configs 0 to 2'):
        build.main(['build', 'sub_jhmdb', '--config_idx=3', '--manual_dir', str(root), '--data_dir', str(tmp_path)])


def refusal(built: pathlib.Path, folder: pathlib.Path, **dataset: object) -> str:
    """What `train` says to these splits. A setting that is looked at later is wrong, so that it never begins."""
    config = sub_jhmdb.get_config('preset=tiny')
    config.dataset.update(data_dir=str(built), **dataset)
    config.eval.select = 'nothing'
    with pytest.raises(InputError) as caught:
        heatmaps.train(config.to_dict(), folder)
    assert not any(folder.iterdir())
    return str(caught.value)


def test_training_refuses_splits_that_share_clips_unless_it_is_meant(built, tmp_path):
    shared = {'train_split': 'train+test', 'eval_split': 'test'}
    assert refusal(built, tmp_path, **shared) == (
        f"{built}/sub_jhmdb/clips/2.0.0: splits 'train+test' and 'test' of fold1 share clips: catch/Ball_catch_1, "
        'golf/Golf_swing_1; a result on training clips says nothing about other clips: '
        'choose others or, if this is intended, set config.dataset.allow_overlap=True'
    )
    for dataset in (
        shared | {'allow_overlap': True},
        {'train_split': 'train[:1]', 'eval_split': 'train[1:]'},
        {'config': 'folds_concatenated'},
    ):
        assert refusal(built, tmp_path, **dataset).startswith("config.eval.select='nothing': no such metric")


def test_what_is_said_of_a_result_on_clips_that_were_trained_on(built):
    train_clips, test_clips = (clip_source.open_clips(built, 'sub_jhmdb', 'fold1', split) for split in ('train', 'test'))
    assert clip_source.report_notes(train_clips, test_clips) == []
    both = clip_source.open_clips(built, 'sub_jhmdb', 'fold1', 'train[1:]+test')
    assert clip_source.report_notes(train_clips, both) == [
        "No result on unseen clips: 1 of the 3 clips of 'train[1:]+test' are trained on."
    ]
