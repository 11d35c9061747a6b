"""Ctrl-C and SIGTERM: one line, 128 + the number, nothing half-written, also where the main thread is inside of a library."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = """
import ctypes, pathlib, sys, time
from kimnet_jax.core.command import run_command
from kimnet_jax.core.files import work_folder

def main():
    with work_folder(pathlib.Path(sys.argv[1]), 'out') as folder:
        (folder / 'half').write_text('written')
        print('at work', flush=True)
        {work}

run_command(main)
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_with_one_line_and_leaves_nothing(number, tmp_path):
    command = [sys.executable, '-c', PROGRAM.format(work='time.sleep(60)'), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert errors == f'stopped by {number.name}; no partial files are left\n'
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_does_not_return_is_not_waited_for(tmp_path):
    """The main thread is in C and takes no signal, as in a compiler."""
    mask = "ctypes.create_string_buffer(b'\\xff' * 128)"
    work = f'libc = ctypes.CDLL(None); libc.pthread_sigmask(0, {mask}, None); libc.sleep(60)'
    command = [sys.executable, '-c', PROGRAM.format(work=work), str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        time.sleep(0.5)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)  # which another thread takes
        _, errors = process.communicate(timeout=20)
    assert time.monotonic() - began < 10
    assert process.returncode == 143
    assert errors == 'stopped by SIGTERM inside a library call; finished files are kept\n'


@pytest.mark.parametrize('command', [('-m', 'kimnet_jax.predict'), ('-m', 'data_pipelines.build'), ('-m', 'kimnet_jax', 'train')])
def test_ctrl_c_while_a_command_imports_its_modules(command, tmp_path):
    (tmp_path / 'numpy.py').write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    line = [sys.executable, *command, '--help']
    environment = {**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}
    with subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == 'stopped by SIGINT; no partial files are left\n'
