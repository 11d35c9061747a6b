"""How commands end where the system refuses a path."""

import errno
import os
import pathlib
import subprocess
import sys
import types

import pytest

from kimnet_jax.core import files
from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def ending(capsys, monkeypatch):
    """The line with which a command ends that does something."""
    monkeypatch.setattr(sys, 'argv', ['command'])

    def line(work) -> str:
        with pytest.raises(SystemExit) as ended:
            run_command(work)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix('error: ')

    return line


@pytest.mark.parametrize(
    ('work', 'told'),
    [
        (lambda folder: (folder / 'none').read_text(), '{folder}/none: there is no such file or folder'),
        (lambda folder: folder.read_text(), '{folder}: a folder is in the place of a file'),
        (lambda folder: (folder / 'file/x').read_text(), '{folder}/file/x: a file is in the place of a folder'),
        (lambda folder: (folder / 'loop').read_text(), '{folder}/loop: a loop of links'),
        (lambda folder: (folder / 'loop/x').resolve(), 'a loop of links'),
        (lambda folder: (folder / ('n' * 300)).exists(), '{folder}/nnn'),
        (lambda folder: (folder / 'a\0b').read_text(), 'a path has a NUL character in it'),
        (lambda folder: (folder / 'a\ud800b').read_text(), 'not valid Unicode; rename it'),
        (lambda folder: pathlib.Path('~nobody_of_that_name/x').expanduser(), 'a path begins with `~` and a user who has no home'),
        (lambda folder: folder.rmdir(), '{folder}: a folder with something in it is in the way'),
        (lambda folder: os.link(folder / 'file', folder / 'file'), '{folder}/file: something is there already'),
    ],
)
def test_what_the_system_refuses_is_one_line(ending, work, told, tmp_path):
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'loop').symlink_to('loop')
    assert told.format(folder=tmp_path) in ending(lambda: work(tmp_path))


@pytest.mark.parametrize('any_names', [False, True])
def test_names_that_are_not_valid_unicode_are_refused_unless_a_command_takes_them(monkeypatch, capsys, any_names):
    monkeypatch.setattr(sys, 'argv', ['command', 'caf\udce9.mp4'])
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: 0, any_names=any_names)
    assert ended.value.code == (0 if any_names else 2)
    assert ('not valid Unicode; rename it' in capsys.readouterr().err) is not any_names


@pytest.mark.parametrize(
    ('number', 'told'),
    [
        (errno.ENOSPC, 'the disk is full at {file}: free some space'),
        (errno.EFBIG, '{file}: larger than files may become here'),
        (errno.EACCES, 'no permission to write or read {file}'),
        (errno.EIO, '{file}: Input/output error; choose another path'),
    ],
)
def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(number, told, tmp_path):
    file = tmp_path / 'x.txt'
    file.write_text('old')

    def write():
        with files.draft_of(file) as draft:
            draft.write_text('half')
            raise OSError(number, os.strerror(number))

    with pytest.raises(InputError) as caught:
        write()
    assert told.format(file=file) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ['x.txt']
    assert file.read_text() == 'old'


def test_a_limit_of_sizes_is_one_line_and_leaves_the_old_file(tmp_path):
    """In a process of its own, which gets the limit."""
    file = tmp_path / 'x.txt'
    file.write_text('old')
    program = f"""
import pathlib, resource
from kimnet_jax.core.command import run_command
from kimnet_jax.core.files import write_text
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
run_command(write_text, pathlib.Path({str(file)!r}), 'x' * 100_000)
"""
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f'error: {file}: larger than files may become here; raise the limit (`ulimit -f`) or choose another folder'
    ]
    assert [path.name for path in tmp_path.iterdir()] == ['x.txt']
    assert file.read_text() == 'old'


@pytest.mark.parametrize(('device', 'status', 'lines'), [('/dev/full', 2, 1), (None, 128 + 13, 0)])
def test_an_output_that_takes_no_more(device, status, lines):
    """On a full disk, and where whoever reads it has gone."""
    program = 'from kimnet_jax.core.command import run_command; run_command(print, "x" * 100_000)'
    reader, writer = os.pipe()
    os.close(reader)
    out = os.open(device, os.O_WRONLY) if device else writer
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)
    for descriptor in {out, writer}:
        os.close(descriptor)
    assert done.returncode == status
    assert len(done.stderr.splitlines()) == lines


def test_a_device_is_not_replaced_by_a_file(tmp_path):
    with pytest.raises(InputError, match='/dev/null: a pipe, a socket or a device'):
        files.write_text(pathlib.Path('/dev/null'), 'x')
    os.mkfifo(tmp_path / 'pipe')
    with pytest.raises(InputError, match='pipe: a pipe, a socket or a device'):
        files.write_text(tmp_path / 'pipe', 'x')


def test_errors_of_ours_keep_their_traceback():
    with pytest.raises(ValueError, match='a mistake'):
        run_command(_mistake)


def _mistake() -> None:
    raise ValueError('a mistake')


def test_a_list_of_what_is_wrong_is_one_line(ending):
    def wrong() -> None:
        raise InputError('\n'.join(['these weights do not fit:', *(f'layer{i}: missing' for i in range(20))]))

    line = ending(wrong)
    assert line.startswith('these weights do not fit: layer0: missing; layer1: missing; ')
    assert line.endswith('; layer7: missing; and 12 more')


@pytest.mark.parametrize('error', [RuntimeError("Unable to initialize backend 'cuda'"), AssertionError()])
def test_a_device_that_jax_cannot_start_is_one_line(error, monkeypatch, capsys):
    def devices():
        raise error

    def run():
        return devices()

    monkeypatch.setitem(sys.modules, 'jax', types.SimpleNamespace(devices=devices))
    with pytest.raises(SystemExit) as caught:
        run_command(run)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith('error: JAX cannot start on the device')
    monkeypatch.setitem(sys.modules, 'jax', types.SimpleNamespace(devices=lambda: ['cpu']))
    with pytest.raises(type(error)):  # of another kind: a fault of ours, to be seen
        run_command(run)
