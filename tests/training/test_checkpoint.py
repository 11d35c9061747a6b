"""Checkpoints: which are kept, which is chosen, and what happens to damaged ones."""

import errno
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from tiny import first_state

from kimnet_jax import __version__
from kimnet_jax.core.errors import InputError
from kimnet_jax.training.checkpoint import Checkpoints, _writing
from kimnet_jax.training.state import TrainState


def state_of(step: int) -> TrainState:
    """A state whose every number names its step."""
    state = jax.tree.map(lambda leaf: np.full_like(leaf, step), first_state())
    return state._replace(average=jax.tree.map(lambda leaf: leaf + np.float32(0.5), state.average))


def write(workdir: pathlib.Path, scores: dict[int, float | None]) -> None:
    checkpoints = Checkpoints(workdir)
    for step, score in scores.items():
        checkpoints.save(step, state_of(step), {'evaluated': score is not None, 'window': {'loss': 0.1, 'steps': 2}}, score)
    checkpoints.close()


def steps(workdir: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir())


def largest_file(folder: pathlib.Path) -> pathlib.Path:
    return max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def equal(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.fixture(scope='module')
def written(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp('written')
    write(workdir, {3: None, 6: 0.7, 9: None, 12: 0.6, 15: None})
    return workdir


@pytest.fixture
def workdir(written, tmp_path) -> pathlib.Path:
    return shutil.copytree(written, tmp_path / 'run')


def test_newest_two_and_best_are_kept_and_come_back_whole(workdir):
    assert steps(workdir) == [6, 12, 15]
    state, meta = Checkpoints(workdir).restore_newest(state_of(0))
    assert equal(state, state_of(15))
    assert {key: meta[key] for key in ('step', 'evaluated', 'window')} == {
        'step': 15,
        'evaluated': False,
        'window': {'loss': 0.1, 'steps': 2},
    }
    shutil.rmtree(workdir / 'checkpoints' / '12')
    shutil.rmtree(workdir / 'checkpoints' / '15')
    state, _ = Checkpoints(workdir).restore_newest(state_of(0))
    assert equal(state, state_of(6))  # the best one has its optimizer too


def test_what_changes_while_it_is_being_written_is_not_in_it(tmp_path, monkeypatch):
    checkpoints, state, meta = Checkpoints(tmp_path), state_of(3), {'evaluated': False, 'window': {'loss': 0.1}}
    save = checkpoints._manager.save

    def late(*args, **kwargs):
        meta['window'].clear()
        for leaf in jax.tree.leaves(state):
            leaf.fill(4)
        return save(*args, **kwargs)

    monkeypatch.setattr(checkpoints._manager, 'save', late)
    checkpoints.save(3, state, meta)
    checkpoints.close()
    restored, record = Checkpoints(tmp_path).restore_newest(state_of(0))
    assert equal(restored, state_of(3))
    assert record['window'] == {'loss': 0.1}


@pytest.mark.parametrize(('which', 'step'), [('best', 6), ('last', 15), ('12', 12)])
def test_choice(workdir, which, step):
    weights, meta = Checkpoints(workdir, read_only=True).restore_weights(which, state_of(0).weights)
    assert meta['step'] == step
    assert equal(weights, state_of(step).average)


def test_weights_without_average(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1)._replace(average=None), {})
    checkpoints.close()
    weights, _ = Checkpoints(tmp_path, read_only=True).restore_weights('best', state_of(0).weights)
    assert equal(weights, state_of(1).weights)


@pytest.mark.parametrize('which', ['7', 'first', '-1'])
def test_no_such_choice(workdir, which):
    with pytest.raises(InputError, match=f"--checkpoint={which}: choose 'best', 'last' or one of the steps 6, 12, 15"):
        Checkpoints(workdir, read_only=True).restore_weights(which, state_of(0).weights)


def test_nothing_there(tmp_path):
    assert Checkpoints(tmp_path).restore_newest(state_of(0)) is None
    with pytest.raises(InputError, match='contains no checkpoint; train first'):
        Checkpoints(tmp_path, read_only=True).restore_weights('best', state_of(0).weights)
    with pytest.raises(InputError, match='contains no checkpoint; train first'):
        Checkpoints(tmp_path / 'absent', read_only=True).restore_weights('best', state_of(0).weights)
    assert not (tmp_path / 'absent').exists()


def cut_in_half(folder: pathlib.Path) -> None:
    file = largest_file(folder / 'weights')
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_bytes(folder: pathlib.Path) -> None:
    file = largest_file(folder / 'weights')
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(255 - byte for byte in data[middle : middle + 64])
    file.write_bytes(data)


def alter_meta(folder: pathlib.Path) -> None:
    file = folder / 'meta' / 'metadata'
    text = file.read_text()
    assert '"evaluated": false' in text
    file.write_text(text.replace('"evaluated": false', '"evaluated": true'))


def other_value_same_coding(folder: pathlib.Path) -> None:
    """Whole files of another step: nothing but the checksums can tell."""
    shutil.rmtree(folder / 'weights')
    shutil.copytree(folder.parent / '12' / 'weights', folder / 'weights')


def delete_files(folder: pathlib.Path) -> None:
    for file in [path for path in (folder / 'optimizer').rglob('*') if path.is_file()][::2]:
        file.unlink()


def empty_folder(folder: pathlib.Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize('damage', [cut_in_half, flip_bytes, alter_meta, other_value_same_coding, delete_files, empty_folder])
def test_damaged_checkpoint_is_set_aside(workdir, damage, capsys):
    damage(workdir / 'checkpoints' / '15')
    checkpoints = Checkpoints(workdir)
    state, meta = checkpoints.restore_newest(state_of(0))
    assert (meta['step'], equal(state, state_of(12))) == (12, True)
    moved = workdir / 'damaged_checkpoints' / '15'
    assert moved.is_dir()
    assert steps(workdir) == [6, 12]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('warning: checkpoint 15 is damaged (')
    assert line.endswith(f'): moved to {moved}')
    checkpoints.save(15, state_of(15), {}, None)  # the run goes on
    checkpoints.close()
    assert steps(workdir) == [6, 12, 15]


def test_damaged_again_gets_another_name(workdir, capsys):
    (workdir / 'damaged_checkpoints' / '15').mkdir(parents=True)
    cut_in_half(workdir / 'checkpoints' / '15')
    Checkpoints(workdir).restore_newest(state_of(0))
    assert (workdir / 'damaged_checkpoints' / '15.1' / 'weights').is_dir()


@pytest.mark.parametrize('text', ['{"scor', '{}', '[1]', '{"score": "x"}'])
def test_damaged_score_counts_as_none(workdir, text):
    (workdir / 'checkpoints' / '6' / 'metrics' / 'metrics').write_text(text)
    _, meta = Checkpoints(workdir, read_only=True).restore_weights('best', state_of(0).weights)
    assert meta['step'] == 12
    checkpoints = Checkpoints(workdir)
    assert checkpoints.restore_newest(state_of(0))[1]['step'] == 15
    checkpoints.save(18, state_of(18), {}, None)
    checkpoints.close()
    assert steps(workdir) == [12, 15, 18]


def test_read_only_takes_another_and_moves_nothing(workdir, capsys):
    flip_bytes_of = workdir / 'checkpoints' / '6'
    file = largest_file(flip_bytes_of / 'average')
    file.write_bytes(file.read_bytes()[:-100])
    _, meta = Checkpoints(workdir, read_only=True).restore_weights('best', state_of(0).weights)
    assert meta['step'] == 12  # the next best
    assert 'checkpoint 6 of' in capsys.readouterr().err
    assert steps(workdir) == [6, 12, 15]
    with pytest.raises(InputError, match="checkpoint '6' is damaged"):
        Checkpoints(workdir, read_only=True).restore_weights('6', state_of(0).weights)


def test_all_damaged(workdir):
    for step in steps(workdir):
        cut_in_half(workdir / 'checkpoints' / str(step))
    with pytest.raises(InputError, match='every checkpoint is damaged; start over with an empty --workdir'):
        Checkpoints(workdir).restore_newest(state_of(0))


def test_another_model(workdir):
    state = state_of(0)
    params = state.weights.params
    conv = params['conv']
    kernel = conv['kernel']
    kernel.set_value(np.zeros((5, 5, 3, 15), np.float32))
    with pytest.raises(InputError, match=r'made by another model or optimizer: .*kernel: shape \[3, 3, 3, 15\], the model has'):
        Checkpoints(workdir).restore_newest(state)
    assert steps(workdir) == [6, 12, 15]


def test_another_model_lists_keys(workdir):
    state = state_of(0)
    del state.weights.params['conv']['bias']
    with pytest.raises(InputError, match=r'unexpected .*conv/bias'):
        Checkpoints(workdir).restore_newest(state)


def test_checkpoint_without_average_is_not_taken_for_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state_of(1)._replace(average=None), {})
    checkpoints.close()
    with pytest.raises(InputError, match="made with other settings: it does not contain 'average'"):
        Checkpoints(tmp_path).restore_newest(state_of(0))
    assert steps(tmp_path) == [1]


def test_saving_a_step_again_gives_it_its_score(workdir):
    checkpoints = Checkpoints(workdir)
    checkpoints.save(15, state_of(15), {'evaluated': True}, 0.9)
    checkpoints.close()
    _, meta = Checkpoints(workdir, read_only=True).restore_weights('best', state_of(0).weights)
    assert (meta['step'], meta['evaluated']) == (15, True)
    assert steps(workdir) == [12, 15]
    assert sorted(path.name for path in workdir.iterdir()) == ['checkpoints']


def test_leftovers_of_a_killed_save_are_no_checkpoints(workdir):
    shutil.copytree(workdir / 'checkpoints' / '15', workdir / 'checkpoints' / '18.orbax-checkpoint-tmp')
    _, meta = Checkpoints(workdir, read_only=True).restore_weights('last', state_of(0).weights)
    assert meta['step'] == 15
    checkpoints = Checkpoints(workdir)
    assert checkpoints.restore_newest(state_of(0))[1]['step'] == 15
    checkpoints.save(18, state_of(18), {}, None)
    checkpoints.close()
    assert steps(workdir) == [6, 15, 18]


def test_failed_save_is_told_and_leaves_the_others_whole(workdir, monkeypatch):
    checkpoints = Checkpoints(workdir)
    rename = os.rename

    def full(source, target, **kwargs):
        if pathlib.Path(os.fspath(target)).name == '18':
            raise OSError(28, 'No space left on device', str(target))
        return rename(source, target, **kwargs)

    monkeypatch.setattr(os, 'rename', full)  # the last thing that Orbax does, in its background thread
    checkpoints.save(18, state_of(18), {}, None)
    with pytest.raises(InputError, match=r'could not be written .*No space left on device.*earlier ones are intact'):
        checkpoints.wait()
    monkeypatch.undo()
    state, meta = Checkpoints(workdir).restore_newest(state_of(0))
    assert (meta['step'], equal(state, state_of(15))) == (15, True)


def test_a_save_that_cannot_begin_is_told_once(workdir, monkeypatch):
    checkpoints = Checkpoints(workdir)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints._manager, 'save', full)
    checkpoints.save(18, state_of(18), {}, None)
    with pytest.raises(InputError) as caught:
        checkpoints.wait()
    assert str(caught.value).count('could not be written') == 1
    assert 'the disk is full: free some space' in str(caught.value)


def test_meta_holds_code_version(workdir):
    meta = json.loads((workdir / 'checkpoints' / '15' / 'meta' / 'metadata').read_text())
    assert meta['code_version'] == __version__


@pytest.mark.parametrize(
    ('error', 'way_out'),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 'the disk is full: free some space'),
        (ValueError('RESOURCE_EXHAUSTED: Error writing "x" [OS error 28: ENOSPC No space left on device]'), 'the disk is full'),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), 'this user may not write there'),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), 'another process has changed or deleted files there'),
        (
            ValueError('NOT_FOUND: Error opening "zarr": No such file or directory'),
            'another process has changed or deleted files',
        ),
        (RuntimeError('barrier timed out'), 'fix the cause and rerun the command'),
    ],
)
def test_the_way_out_is_that_of_the_cause(error, way_out, tmp_path):
    with pytest.raises(InputError) as caught, _writing(tmp_path):
        raise error
    assert way_out in str(caught.value)
    assert ('free some' in str(caught.value)) == ('disk is full' in way_out)
    assert len(str(caught.value).splitlines()) == 1
