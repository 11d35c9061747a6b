"""One folder, one training: the lock, whom it names, and that no dead process keeps it."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.training import workdir

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_the_lock_names_who_has_it_and_is_free_afterwards(tmp_path):
    with workdir.alone(tmp_path / 'run'), pytest.raises(InputError) as caught, workdir.alone(tmp_path / 'run'):
        raise AssertionError
    who = f'process {os.getpid()} on {socket.gethostname()}'
    assert str(caught.value) == (
        f'{tmp_path}/run: another training is using this folder ({who}); wait for it, stop it, or choose another --workdir'
    )
    with workdir.alone(tmp_path / 'run'):
        pass
    assert list((tmp_path / 'run').iterdir()) == []


def test_a_killed_process_does_not_keep_the_lock(tmp_path):
    program = f"""
import pathlib
from kimnet_jax.training import workdir
with workdir.alone(pathlib.Path({str(tmp_path)!r})):
    print(flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as other:
        other.stdout.readline()
        with pytest.raises(InputError, match=f'process {other.pid} on'), workdir.alone(tmp_path):
            raise AssertionError
        other.send_signal(signal.SIGKILL)
    with workdir.alone(tmp_path):
        assert (tmp_path / '.lock').read_text().startswith(f'process {os.getpid()} on')


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / 'run').write_text('')
    for path in (tmp_path / 'run', tmp_path / 'run/inside'):
        with pytest.raises(InputError, match='a file is in the way'), workdir.alone(path):
            raise AssertionError


def test_a_second_training_in_the_folder_is_refused_and_the_first_one_goes_on(command, environment, tmp_path):
    line = [sys.executable, '-m', 'kimnet_jax.train', *command(tmp_path / 'run')]
    options = {'cwd': ROOT, 'env': environment, 'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    with subprocess.Popen(line, **options) as first:
        wait_for(tmp_path / 'run/config.json', first)
        first.send_signal(signal.SIGSTOP)  # it might be done before the second one has begun
        second = subprocess.run(line, **options, timeout=300)
        first.send_signal(signal.SIGCONT)
        assert (second.returncode, second.stdout) == (2, '')
        expected = rf'error: {tmp_path}/run: another training is using this folder \(process {first.pid} on .*\); .*\n'
        assert re.fullmatch(expected, second.stderr), second.stderr
        _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    steps = [int(path.name) for path in (tmp_path / 'run/checkpoints').iterdir() if path.name.isdecimal()]
    assert 12 in steps


def wait_for(path: pathlib.Path, process: subprocess.Popen) -> None:
    """Until the process has made the file."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
