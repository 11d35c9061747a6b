"""Paths as users give them: of this machine, and URLs."""

import builtins
import pathlib
import pickle
import sys

import numpy as np
import pytest

from kimnet_jax.core import array_files, files, paths
from kimnet_jax.core.errors import InputError


@pytest.fixture
def remote(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setenv('KIMNET_CACHE', str(tmp_path / 'cache'))
    return paths.folder(f'memory://{tmp_path.name}/run')


def test_a_path_of_this_machine_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert paths.folder('runs/a') == pathlib.Path('runs/a')
    assert paths.folder('~/a') == tmp_path / 'a'
    assert paths.folder(f'file://{tmp_path}/a') == tmp_path / 'a'
    assert paths.folder('C:') == pathlib.Path('C:')
    assert not any(map(paths.is_remote, ('gs://a', tmp_path, paths.folder('runs/a'))))
    (tmp_path / 'gs:').mkdir()
    assert paths.folder('gs:/') == pathlib.Path('gs:/')  # which is there


def test_a_url_is_a_remote_path(remote):
    assert paths.is_remote(remote)
    assert str(remote / 'a') == f'{remote}/a'
    assert paths.folder(remote) is remote
    assert pickle.loads(pickle.dumps(remote)) == remote


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('gs:/bucket/run', 'did you mean gs://bucket/run?'),
        ('s3:/bucket', 'did you mean s3://bucket?'),
        ('memory:///a', 'did you mean memory://a?'),
        ('gs://', 'names no bucket'),
        ('nowhere://bucket/run', 'of no file system that fsspec knows'),
        ('https://host/run', 'has no folders that can be written to'),
    ],
)
def test_a_url_that_cannot_be(text, told):
    with pytest.raises(InputError) as error:
        paths.folder(text, '--workdir')
    assert str(error.value).startswith(f'--workdir {text}: ')
    assert told in str(error.value)


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, 's3fs', None)
    with pytest.raises(InputError, match=r"s3:// needs a library that is not installed: pip install 'kimnet-jax\[s3\]'"):
        paths.folder('s3://bucket/run')

    found = builtins.__import__

    def without_upath(name, *rest, **options):
        if name == 'upath':
            raise ImportError(name)
        return found(name, *rest, **options)

    monkeypatch.setattr(builtins, '__import__', without_upath)
    with pytest.raises(InputError, match=r"gs:// needs a library that is not installed: pip install 'kimnet-jax\[gcs\]'"):
        paths.folder('gs://bucket/run')


@pytest.mark.parametrize(
    ('error', 'told'),
    [
        (
            OSError('Forbidden: b/bucket/o\nbob does not have storage.objects.list access'),
            'permission denied (Forbidden: b/bucket/o',
        ),
        (PermissionError('Access Denied'), 'permission denied'),
        (FileNotFoundError('b/bucket/o'), 'there is no such bucket or file (bucket)'),
        (RuntimeError('Your default credentials were not found'), 'run `gcloud auth application-default login`'),
        (ConnectionError('Cannot connect to host'), 'cannot be reached'),
        (ImportError('Install gcsfs'), "pip install 'kimnet-jax[gcs]'"),
        (ValueError('odd'), 'ValueError: odd'),
    ],
)
def test_what_libraries_raise_becomes_a_line(error, told):
    with pytest.raises(InputError) as raised, paths.explained('gs://bucket/run'):
        raise error
    assert str(raised.value).startswith('gs://bucket/run: ')
    assert told in str(raised.value)
    assert '\n' not in str(raised.value)


def test_an_error_is_known_by_where_it_comes_from(remote):
    with pytest.raises(FileNotFoundError) as error:
        (remote / 'none').read_bytes()
    assert 'no such bucket or file' in files.explain(error.value)
    assert paths.explain(ValueError('ours')) is None


def half_write(path: pathlib.Path) -> None:
    with files.draft_of(path) as draft:
        draft.write_text('half')
        raise ZeroDivisionError


def test_files_are_written_here_and_appear_there(remote, tmp_path):
    files.write_text(remote / 'a.txt', 'é')
    assert files.read_text(remote / 'a.txt') == 'é'
    with files.drafts_in(remote / 'deep') as drafts:
        (drafts / 'b').write_bytes(b'b')
        (drafts / 'c').write_bytes(b'c')
        assert paths.listed(remote / 'deep') == {}
    assert paths.listed(remote) == {'a.txt': 2, 'deep/b': 1, 'deep/c': 1}
    array_files.write_npz(remote / 'x.npz', {'x': np.arange(3)})
    np.testing.assert_array_equal(array_files.read_npz(remote / 'x.npz')['x'], np.arange(3))
    with pytest.raises(ZeroDivisionError):
        half_write(remote / 'd')
    assert not (remote / 'd').exists()
    assert [*(tmp_path / 'cache' / 'work').iterdir()] == []
    with pytest.raises(InputError, match='no such file'):
        files.read_file(remote / 'd')


@pytest.mark.parametrize('text', ['gs://bucket/run', 'gs:/bucket', 's3://bucket'])
def test_no_local_folder_is_named_like_a_url(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (pathlib.Path(text), pathlib.Path(text).resolve()):
        for write in (lambda path: files.write_text(path / 'a', ''), files.make_folder, files.require_file):
            with pytest.raises(InputError, match='looks like a URL'):
                write(path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        (['--out', 'gs://b/x'], '--out gs://b/x'),
        (['--out=gs://b/x'], '--out gs://b/x'),
        (['--out=a, s3:/b'], '--out a, s3:/b'),
        (['-out=gs://b/x'], '--out gs://b/x'),
        (['--config.init.model=gs://b/x'], '--config.init.model gs://b/x'),
        (['gs://b/x'], 'gs://b/x'),
        (['--workdir', 'gs://b/x', '--overwrite', 'gs://b/y'], '--overwrite gs://b/y'),
    ],
)
def test_urls_are_refused_where_they_cannot_be(arguments, told):
    with pytest.raises(InputError) as error:
        paths.refuse_urls(['program', *arguments], ('workdir',))
    assert str(error.value).startswith(f'{told}: only paths of this machine')


def test_urls_are_taken_where_they_can_be():
    paths.refuse_urls(['program', '--workdir', 'gs://b/x', '--workdir=gs://b/x,gs://b/y', '--text', 'a:b', '-'], ('workdir',))
    paths.refuse_urls(['program', '--evaluate', 'gs://b/x', 'rtsp://host', '--noevaluate', 'gs://b/y'], ('',), ('evaluate',))
    with pytest.raises(InputError, match='--detect yolox=gs://b/x: only paths of this machine'):
        paths.refuse_urls(['program', '--detect', 'yolox=gs://b/x'], ('',), ('evaluate',))
