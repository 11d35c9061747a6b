"""A tiny data set on disk, and training runs on it."""

import contextlib
import io
import os
import pathlib
import pty
import subprocess
import sys
import termios
import threading

import forked
import pytest

from kimnet_jax.data_pipelines.builders.kinetic_puppets.kinetic_puppets_dataset_builder import Builder, PuppetsConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
QUICK = 'JAX_DISABLE_MOST_OPTIMIZATIONS'  # set in tests that are marked quick_compilation
SETTINGS = {  # 5 clips in batches of 2: 12 steps are 4.8 epochs
    'dataset.config': 'mini',
    'model.pose_initializer': 'none',
    'train.steps': 12,
    'train.batch_size': 2,
    'train.eval_every': 2.4,  # after steps 6 and 12
    'train.save_every': 1.2,  # after steps 3, 6, 9 and 12
    'train.log_every': 1,
    'eval.batch_size': 2,
    'loader.threads': 1,
}


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('data')
    config = PuppetsConfig(name='mini', description='For tests.', train_clips=5, test_clips=3, seed=3)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        Builder(config=config, data_dir=folder, file_format='array_record').download_and_prepare()
    return folder


@pytest.fixture(scope='session')
def environment() -> dict[str, str]:
    """Of the commands; whichever test asks first, they compile quickly."""
    return {**os.environ, QUICK: '1', 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}


@pytest.fixture(scope='session')
def command(data_dir):
    """The command line of a training on the tiny data set; settings are config fields."""

    def line(workdir: pathlib.Path, settings: dict[str, object] | None = None, *flags: str) -> list[str]:
        fields = SETTINGS | {'dataset.data_dir': data_dir} | (settings or {})
        config = [
            '--config=configs/kinetic_puppets.py:preset=tiny',
            *(f'--config.{key}={value}' for key, value in fields.items()),
        ]
        return [*config, f'--workdir={workdir}', *flags]

    return line


@pytest.fixture(scope='session')
def run(environment):
    """Runs `python ARGUMENTS...` in the checkout."""

    def finish(*arguments: object, **environ: str) -> subprocess.CompletedProcess:
        return forked.run([*map(str, arguments)], cwd=ROOT, env=environment | environ, timeout=400)

    return finish


@pytest.fixture(scope='session')
def whole_run(command, environment, tmp_path_factory) -> tuple[pathlib.Path, str]:
    """(folder, what the terminal showed) of a run that nothing disturbed; not to be written to."""
    workdir = tmp_path_factory.mktemp('whole') / 'run'
    shown: list[bytes] = []
    terminal, inner = pty.openpty()
    termios.tcsetwinsize(inner, (24, 160))

    def read() -> None:
        with contextlib.suppress(OSError):  # how a terminal ends
            while data := os.read(terminal, 4096):
                shown.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    line = [sys.executable, '-m', 'kimnet_jax.train', *command(workdir)]
    done = subprocess.run(line, cwd=ROOT, env=environment, stdout=inner, stderr=inner, timeout=400)
    os.close(inner)
    reader.join()
    os.close(terminal)
    text = b''.join(shown).decode()
    assert done.returncode == 0, text
    return workdir, text
