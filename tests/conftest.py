"""How the tests are run, and fixtures shared by all of them."""

import gc
import importlib.util
import mmap
import os
import pathlib
import shutil
import signal
import sys
import tempfile

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

ROOT = pathlib.Path(__file__).resolve().parents[1]
MAX_WORKERS = 4  # about 2 GB of memory each
QUICK = 'quick_compilation'
# XLA's former code generator for CPUs compiles our networks in a third of the time
QUICK_FLAGS = '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
WHOLE_RUN = (  # files that share the training of this name
    'test_resume',
    'test_conditions',
    'test_bad_settings',
    'test_released_protocol',
    'test_refinement',
    'test_correlation',
    'test_occlusion_command',
    'test_report',
    'test_visualize',
    'test_temporal_control',
    'test_calibration_command',
    'test_remote',
)
LONGEST = (  # files, the longest first
    *WHOLE_RUN,
    'test_family',
    'test_benchmarks',
    'test_full_size',
    'test_gpu_scripts',
    'test_pose_resnet',
    'test_first_run',
    'test_configs',
    'test_rpstn',
    'test_parity',
    'test_wheel',
    'test_folding',
    'test_torch_parity',
)
ALLOWED_SKIPS: tuple[str, ...] = (
    'the CUDA plugin of JAX is not installed',
    'libtpu is not installed',
    'OpenSim is not installed',  # readers of other tools, of gigabytes
    'Pose2Sim is not installed',
    'movement is not installed',
    'no Chromium',
)  # beginnings of the reasons for which a test may be skipped in CI


def pytest_configure(config: pytest.Config) -> None:
    """A fresh cache of compiled programs: commands that tests run share it, and leave the user's alone.

    Each worker has its own, since JAX does not write a program's file in one piece: another process could read half of it.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script; what tests start would ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = hasattr(config, 'workerinput')
    outer = os.environ['JAX_COMPILATION_CACHE_DIR'] if worker else None  # which its starter removes
    programs = tempfile.mkdtemp(prefix='kimnet_programs_', dir=outer)
    config.add_cleanup(lambda: shutil.rmtree(programs, ignore_errors=True))
    os.environ['JAX_ENABLE_COMPILATION_CACHE'] = '1'
    os.environ['JAX_COMPILATION_CACHE_DIR'] = programs
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    if _known(QUICK_FLAGS):
        os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {QUICK_FLAGS}'.strip()
    if worker:  # PyTorch's threads wait for each other where others need the cores
        os.environ.setdefault('OMP_NUM_THREADS', '1')


def _known(xla_flags: str) -> bool:
    """Whether the installed jaxlib has these flags of XLA: it ends the process where it does not know one."""
    names = [flag.partition('=')[0].removeprefix('--').encode() for flag in xla_flags.split()]
    package = importlib.util.find_spec('jaxlib')
    for library in pathlib.Path(package.submodule_search_locations[0]).glob('libjax_common*'):
        with library.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(content.find(name) >= 0 for name in names)
    return False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One file runs in the process at hand: no workers to wait for. More run in one worker for each core, and one more: it works
    while others wait for the disk, or for a command to end.
    """
    cwd = config.invocation_params.dir
    files = {cwd / argument.partition('::')[0] for argument in config.args}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if cores == 1 or (len(files) == 1 and files.pop().is_file()):
        return 0
    return min(cores + 1, MAX_WORKERS)


class FilesTogether(LoadFileScheduling):
    """A worker takes whole files, and those of WHOLE_RUN together: what they share is made once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return 'whole run' if pathlib.Path(file).stem in WHOLE_RUN else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesTogether:
    return FilesTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that the workers end together; then by how they compile, to switch seldom."""
    alone = {
        item.path.name for item in items if 'whole_run' in getattr(item, 'fixturenames', ()) and item.path.stem not in WHOLE_RUN
    }
    if alone:
        raise pytest.UsageError(f'{", ".join(sorted(alone))}: uses whole_run; add it to WHOLE_RUN in tests/conftest.py')
    order = {name: place for place, name in enumerate(LONGEST)}
    quick = {item.path for item in items if item.get_closest_marker(QUICK)}
    items.sort(key=lambda item: (order.get(item.path.stem, len(order)), item.path not in quick))


def pytest_collection_finish() -> None:
    """The libraries' million objects stay: the garbage collector need not look through them again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The switch of quick compilation: for the test's fixtures and the commands that it starts, too."""
    quick = item.get_closest_marker(QUICK) is not None
    if quick == ('JAX_DISABLE_MOST_OPTIMIZATIONS' in os.environ):
        return
    if quick:
        os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
    else:
        del os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS']
    if jax := sys.modules.get('jax'):
        jax.config.update('jax_disable_most_optimizations', quick)
        jax.clear_caches()  # a jitted function may have been compiled the other way


@pytest.fixture(scope='session')
def shared_dir() -> pathlib.Path:
    """The folder with the real data (`data/jhmdb`, ...); the test is skipped where it is absent."""
    folder = pathlib.Path(os.environ.get('KIMNET_SHARED', ROOT.parent / 'shared'))
    if not (folder / 'data').is_dir():
        pytest.skip(f'needs the real clips, and {folder / "data"} is not there')
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reason in _unexpected_skips(terminalreporter):
        terminalreporter.write_line(f'unexpected skip in CI: {reason}', red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI everything runs: a skip that is not expected fails the run. Workers have no reporter; their reports come here."""
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if reporter and _unexpected_skips(reporter) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unexpected_skips(reporter: pytest.TerminalReporter) -> list[str]:
    if not os.environ.get('CI'):
        return []
    reports = reporter.stats.get('skipped', [])
    reasons = [(report.nodeid, report.longrepr[2].removeprefix('Skipped: ')) for report in reports]
    return [f'{test}: {reason}' for test, reason in reasons if not reason.startswith(ALLOWED_SKIPS)]
