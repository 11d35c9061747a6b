"""The wheel is complete without the clone: its files, its command, and two steps of training from an empty folder."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

pytestmark = pytest.mark.quick_compilation

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ('kimnet_jax', 'data_pipelines', 'configs', 'pyproject.toml', 'README.md', 'LICENSE')
# the puppets config of the data set, made small before the build
BUILD = """
import sys
from kimnet_jax.data_pipelines import build
from kimnet_jax.data_pipelines.builders import import_builder

config = import_builder('kinetic_puppets').BUILDER_CONFIGS[0]
config.train_clips, config.test_clips = 2, 1
build.main(['build', 'kinetic_puppets/joints15', '--data_dir', 'data'])
"""


def pip(*argv: object) -> None:
    command = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check', *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope='module')
def wheel(tmp_path_factory) -> pathlib.Path:
    """Built from a copy, so that nothing is left in the checkout."""
    copy, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copy(ROOT / name, copy)
    pip('wheel', '--no-deps', '--wheel-dir', out, copy)
    (file,) = out.glob('kimnet_jax-*.whl')
    return file


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('installed')
    pip('install', '--no-deps', '--target', folder, wheel)
    return folder


def run(installed: pathlib.Path, cwd: pathlib.Path, *argv: object) -> str:
    """Runs Python with the installed wheel and the libraries, and without the checkout."""
    environment = {key: value for key, value in os.environ.items() if key not in ('PYTHONPATH', 'XLA_FLAGS')}
    environment |= {'PYTHONPATH': str(installed), 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(wheel):
    expected = {
        str(path.relative_to(ROOT))
        for package in ('kimnet_jax', 'data_pipelines', 'configs')
        for path in (ROOT / package).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {'configs/kinetic_puppets.py', 'data_pipelines/builders/sub_jhmdb/README.md'} <= expected <= names
    assert any(name.endswith('licenses/LICENSE') for name in names)
    assert not any(name.startswith(('tests/', 'benchmarks/')) for name in names)


def test_the_modules_are_the_wheels(installed, tmp_path):
    code = 'import kimnet_jax, data_pipelines, configs; print(kimnet_jax.__file__, data_pipelines.__file__, configs.__file__)'
    for file in run(installed, tmp_path, '-c', code).split():
        assert pathlib.Path(file).is_relative_to(installed)


def test_trains_two_steps_from_an_empty_folder(installed, tmp_path):
    run(installed, tmp_path, '-c', BUILD)
    flags = ['--config=configs/kinetic_puppets.py:preset=tiny', '--workdir=run', '--config.train.steps=2']
    flags += ['--config.train.batch_size=1', '--config.eval.batch_size=1', '--config.model.pose_initializer=none']
    run(installed, tmp_path, '-m', 'kimnet_jax.train', *flags)
    assert json.loads((tmp_path / 'run/config.json').read_text())['config']['train']['steps'] == 2
    assert (tmp_path / 'run/checkpoints/2').is_dir()


def test_the_console_script(installed, tmp_path):
    command = [sys.executable, str(installed / 'bin/kimnet')]
    environment = {**os.environ, 'PYTHONPATH': str(installed), 'JAX_PLATFORMS': 'cpu'}
    for argv, status, text in [
        (['train', '--help'], 1, '--workdir: Folder for the run'),  # absl's status for help
        (['predict'], 2, 'error: no video given'),
        (['models'], 0, 'kimnet-s-jhmdb'),
        (['models', 'poseresnet-s-lsp'], 0, '## Trained on'),
        (['trains'], 2, 'usage: kimnet {convert,'),
    ]:
        done = subprocess.run([*command, *argv], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert (done.returncode, text in done.stdout + done.stderr) == (status, True)
