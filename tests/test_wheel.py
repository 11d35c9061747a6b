"""The wheel is complete without the clone: its files, its command, and two steps of training in somebody's project."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import kimnet_jax

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
            shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
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


def test_every_file_of_the_package_is_in_the_wheel_and_nothing_beside_it(wheel):
    folders = {'kimnet_jax': 'kimnet_jax', 'data_pipelines': 'kimnet_jax/data_pipelines', 'configs': 'kimnet_jax/configs'}
    expected = {
        str(pathlib.PurePath(inside) / path.relative_to(ROOT / folder))
        for folder, inside in folders.items()
        for path in (ROOT / folder).rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    shown = {'kimnet_jax/configs/kinetic_puppets.py', 'kimnet_jax/data_pipelines/builders/sub_jhmdb/README.md'}
    assert shown <= expected <= names
    assert 'kimnet_jax/py.typed' in names
    assert any(name.endswith('licenses/LICENSE') for name in names)
    tops = {name.partition('/')[0] for name in names}
    assert {top for top in tops if not top.endswith('.dist-info')} == {'kimnet_jax'}


@pytest.fixture
def project(tmp_path) -> pathlib.Path:
    """A user's folder, with packages of their own of the names that ours have in the repository."""
    for name in ('configs', 'data_pipelines'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text("raise ImportError('the project of the user')")
    return tmp_path


def test_the_modules_are_the_wheels(installed, project):
    modules = ('kimnet_jax', 'kimnet_jax.data_pipelines.build', 'kimnet_jax.configs.common')
    code = f'import {", ".join(modules)}, sys; print(*(sys.modules[name].__file__ for name in {modules}))'
    for file in run(installed, project, '-c', code).split():
        assert pathlib.Path(file).is_relative_to(installed)


def test_trains_two_steps_in_a_project_with_packages_of_the_same_names(installed, project):
    run(installed, project, '-c', BUILD)
    flags = ['--config=configs/kinetic_puppets.py:preset=tiny', '--workdir=run', '--config.train.steps=2']
    flags += ['--config.train.batch_size=1', '--config.eval.batch_size=1', '--config.model.pose_initializer=none']
    run(installed, project, '-m', 'kimnet_jax.train', *flags)
    assert json.loads((project / 'run/config.json').read_text())['config']['train']['steps'] == 2
    assert (project / 'run/checkpoints/2').is_dir()


def test_the_console_script(installed, tmp_path):
    command = [sys.executable, str(installed / 'bin/kimnet')]
    environment = {**os.environ, 'PYTHONPATH': str(installed), 'JAX_PLATFORMS': 'cpu'}
    for argv, status, text in [
        (['--help'], 0, 'Estimate the poses in videos.'),
        (['--version'], 0, f'kimnet {kimnet_jax.__version__}'),
        (['train', '--help'], 0, '--workdir: Folder for the run'),
        (['predict'], 2, 'error: no video given'),
        (['models'], 0, 'kimnet-s-jhmdb'),
        (['models', 'poseresnet-s-lsp'], 0, '## Trained on'),
        (['trian'], 2, "error: 'trian' is not a command; did you mean train?"),
        ([], 2, 'error: no command given'),
    ]:
        done = subprocess.run([*command, *argv], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert (done.returncode, text in done.stdout + done.stderr) == (status, True)
