"""Fixtures shared by all tests."""

import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope='session')
def shared_dir() -> pathlib.Path:
    """The folder with the real data (`data/jhmdb`, ...); the test is skipped where it is absent."""
    folder = pathlib.Path(os.environ.get('KIMNET_SHARED', ROOT.parent / 'shared'))
    if not (folder / 'data').is_dir():
        pytest.skip(f'needs the real clips, and {folder / "data"} is not there')
    return folder
