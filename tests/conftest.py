"""Fixtures shared by all tests."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
os.environ.setdefault('JAX_ENABLE_COMPILATION_CACHE', '0')  # commands that tests run leave the user's cache alone
ALLOWED_SKIPS: tuple[str, ...] = (
    'the CUDA plugin of JAX is not installed',
)  # beginnings of the reasons for which a test may be skipped in CI


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
    """In CI everything runs: a skip that is not expected fails the run."""
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if reporter and _unexpected_skips(reporter) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unexpected_skips(reporter: pytest.TerminalReporter) -> list[str]:
    if not os.environ.get('CI'):
        return []
    reports = reporter.stats.get('skipped', [])
    reasons = [(report.nodeid, report.longrepr[2].removeprefix('Skipped: ')) for report in reports]
    return [f'{test}: {reason}' for test, reason in reasons if not reason.startswith(ALLOWED_SKIPS)]
