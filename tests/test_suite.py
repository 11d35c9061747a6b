"""How the tests are run: what fails a run does so with workers and without, and every test finds the compilation it asks for."""

import os
import pathlib
import shutil
import subprocess
import sys
import textwrap

import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = {
    'skips': """
        import pytest

        def test_left_out():
            pytest.skip('not today')

        def test_expected():
            pytest.skip('the CUDA plugin of JAX is not installed')
        """,
    'module': """
        import pytest

        pytest.importorskip('no_such_module')

        def test_never():
            pass
        """,
    'warns': """
        import warnings

        def test_careless():
            warnings.warn('careless')
        """,
    'cache': """
        import os, pathlib

        def test_write():
            folder = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
            assert folder.is_dir()
            (pathlib.Path(__file__).parents[1] / 'cache.txt').write_text(str(folder))
        """,
    'shares': 'def test_shares(whole_run):\n    pass\n',
    'passes': 'def test_nothing():\n    pass\n',
}


@pytest.fixture
def suite(tmp_path):
    """Runs pytest with this suite's settings on some of FILES."""

    def run(*arguments: str, files: tuple[str, ...], **variables: str) -> subprocess.CompletedProcess:
        (tmp_path / 'tests').mkdir()
        shutil.copy(ROOT / 'pyproject.toml', tmp_path)
        shutil.copy(ROOT / 'tests/conftest.py', tmp_path / 'tests')
        for name in files:
            (tmp_path / f'tests/test_{name}.py').write_text(textwrap.dedent(FILES[name]))
        environment = {key: value for key, value in os.environ.items() if key != 'CI' and not key.startswith('PYTEST_')}
        environment['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'  # those of other libraries, which take longer than the tests
        command = [sys.executable, '-m', 'pytest', '-p', 'xdist', *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment | variables, capture_output=True, text=True, check=False)

    return run


WORKERS = pytest.mark.parametrize('workers', ['-n0', '-n2'])


@WORKERS
def test_a_skip_that_nobody_expects_fails_ci(suite, workers):
    done = suite(workers, files=('skips', 'module', 'passes'), CI='true')
    told = [line for line in done.stdout.splitlines() if line.startswith('unexpected skip in CI: ')]
    assert sorted(told) == [
        "unexpected skip in CI: tests/test_module.py: could not import 'no_such_module': No module named 'no_such_module'",
        'unexpected skip in CI: tests/test_skips.py::test_left_out: not today',
    ]
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


@WORKERS
def test_a_warning_is_an_error(suite, workers):
    done = suite(workers, files=('warns', 'passes'))
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert 'UserWarning: careless' in done.stdout
    assert '1 failed, 1 passed' in done.stdout


def test_one_file_is_not_kept_waiting_for_workers(suite):
    done = suite('tests/test_passes.py::test_nothing', files=('passes', 'cache'))
    assert (done.returncode, 'bringing up nodes' in done.stdout) == (0, False)


def test_several_files_share_the_cores(suite):
    """And outside CI a skip is no failure."""
    done = suite(files=('passes', 'skips', 'module'))
    assert (done.returncode, 'bringing up nodes' in done.stdout) == (0, len(os.sched_getaffinity(0)) > 1)


def test_a_file_that_shares_the_training_has_to_be_listed(suite):
    done = suite('tests/test_shares.py', files=('shares',))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert 'ERROR: test_shares.py: uses whole_run; add it to WHOLE_RUN in tests/conftest.py' in done.stderr


@WORKERS
def test_the_cache_is_new_and_gone_afterwards(suite, workers, tmp_path):
    done = suite(workers, files=('cache', 'passes'), JAX_COMPILATION_CACHE_DIR=str(tmp_path / 'users'))
    assert done.returncode == 0, done.stdout
    used = pathlib.Path((tmp_path / 'cache.txt').read_text())
    assert not used.is_relative_to(tmp_path / 'users')
    assert not used.exists()
    assert not (tmp_path / 'users').exists()


@pytest.mark.quick_compilation
def test_quick_compilation_where_it_is_asked_for():
    assert jax.config.read('jax_disable_most_optimizations')
    assert os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] == '1'


def test_full_compilation_elsewhere():
    assert not jax.config.read('jax_disable_most_optimizations')
    assert 'JAX_DISABLE_MOST_OPTIMIZATIONS' not in os.environ
