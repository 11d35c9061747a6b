"""What a command pays before its first result: imports, and programs compiled anew."""

import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import pytest

from kimnet_jax.training.compilation import keep_compiled

SLOW = {'torch', 'tensorboardX', 'matplotlib', 'scipy'}


@pytest.mark.parametrize(
    ('modules', 'slow'),
    [
        (('predict', 'export', 'tasks.videos', 'tasks.export', 'tasks.trained'), {*SLOW, 'grain', 'tensorflow_datasets'}),
        (('train', 'evaluate', 'occlusion', 'tasks.reports', 'tasks.occlusion', 'tasks.trained'), SLOW),
        (('visualize', 'tasks.visualization'), SLOW),
    ],
)
def test_commands_import_nothing_slow_before_they_need_it(modules, slow):
    names = ', '.join(f'kimnet_jax.{module}' for module in modules)
    program = f'import sys, {names}; print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & slow == set()


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Iterator[pathlib.Path]:
    """The folder of a user who has none yet."""
    settings = {
        'jax_enable_compilation_cache': True,
        'jax_compilation_cache_dir': None,
        'jax_persistent_cache_min_compile_time_secs': 1.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    yield tmp_path / 'cache/kimnet_jax'
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache(cache):
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(cache)
    assert cache.is_dir()
    assert cache.stat().st_mode & 0o077 == 0


def test_without_xdg_it_is_in_the_home(cache, monkeypatch, tmp_path):
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'home/.cache/kimnet_jax')


def test_a_choice_of_the_user_stands(cache):
    jax.config.update('jax_compilation_cache_dir', 'elsewhere')
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir == 'elsewhere'
    jax.config.update('jax_compilation_cache_dir', None)
    jax.config.update('jax_enable_compilation_cache', False)
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    assert not cache.exists()


@pytest.mark.parametrize('mode', [0o770, 0o707, 0o777])
def test_programs_that_others_could_have_left_are_not_run(cache, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None


def test_where_the_folder_cannot_be_made_every_start_compiles(cache):
    cache.parent.write_text('a file in the way')
    keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
