"""Built data sets in remote folders: copied once, compared with their checksums, and there when they are whole."""

import pathlib
import types

import pytest

from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines import build, checksums, remote_data

FILES = {'dataset_info.json': b'{}', 'metadata.json': b'{"a": 1}', 'x.array_record-00000-of-00001': b'records'}


@pytest.fixture
def built(tmp_path, monkeypatch) -> pathlib.Path:
    """Files with checksums, here."""
    monkeypatch.setenv('KIMNET_CACHE', str(tmp_path / 'cache'))
    folder = tmp_path / 'built'
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    checksums.write(folder)
    return folder


@pytest.fixture
def target(built, tmp_path) -> pathlib.Path:
    return paths.folder(f'memory://{tmp_path.name}/data') / 'name' / 'config' / '1.0.0'


def test_what_says_that_it_is_whole_comes_last_and_goes_first(built, target, monkeypatch):
    (target / 'left.array_record').write_bytes(b'of another one')
    (target / remote_data.MARK).write_bytes(b'{}')
    order = []
    upload, remove = paths.upload, paths.remove
    monkeypatch.setattr(paths, 'upload', lambda source, to: (order.append(to.name), upload(source, to)))
    monkeypatch.setattr(paths, 'remove', lambda path: (order.append(f'-{path.name}'), remove(path)))
    remote_data.publish(built, target)
    assert order[0] == f'-{remote_data.MARK}'
    assert order[-1] == remote_data.MARK
    assert set(paths.listed(target)) == {*FILES, checksums.FILE}


def test_damaged_files_are_not_published(built, target):
    (built / 'metadata.json').write_bytes(b'{"a": 2}')
    with pytest.raises(InputError, match=r'metadata\.json is damaged'):
        remote_data.publish(built, target)
    assert paths.listed(target) == {}


def test_a_copy_is_made_once(built, target, capsys):
    remote_data.publish(built, target)
    capsys.readouterr()
    place = remote_data.local_copy(target)
    told = capsys.readouterr().err
    assert told == f'copying {target} (0.0 MB) to {place}\n'
    assert {file.name: file.read_bytes() for file in place.iterdir() if file.name in FILES} == FILES
    assert place.parts[-3:] == target.parts[-3:]
    assert remote_data.local_copy(target) == place
    assert capsys.readouterr().err == ''
    assert {path.name for path in place.parent.iterdir()} == {place.name}

    (built / 'metadata.json').write_bytes(b'{"a": 3}')
    checksums.write(built)
    remote_data.publish(built, target)
    assert (remote_data.local_copy(target) / 'metadata.json').read_bytes() == b'{"a": 3}'


@pytest.mark.parametrize('data', [b'recordz', b'rec', None])
def test_a_copy_is_compared_with_the_checksums(built, target, data, tmp_path):
    remote_data.publish(built, target)
    file = target / 'x.array_record-00000-of-00001'
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(InputError) as error:
        remote_data.local_copy(target)
    assert str(error.value).startswith(f'{target}: {file.name} is ')
    assert not [path for path in (tmp_path / 'cache').rglob('*') if path.is_file()]


def test_what_a_killed_build_left_is_built_again(built, target):
    args = types.SimpleNamespace(debug=types.SimpleNamespace(overwrite=False, fail_if_exists=False))
    (target / 'metadata.json').write_bytes(b'{}')
    assert not build._is_built(target, args)
    remote_data.publish(built, target)
    assert build._is_built(target, args)
