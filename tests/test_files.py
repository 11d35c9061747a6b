"""Work folders that killed processes leave, and files that get their names together."""

import os
import signal
import subprocess
import sys

import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import place_together, shortened, work_folder


def test_work_folders_of_killed_processes_are_removed_and_of_others_not(tmp_path):
    program = f"""
import pathlib
from kimnet_jax.core.files import work_folder
with work_folder(pathlib.Path({str(tmp_path)!r}), 'clip') as folder:
    (folder / 'half').write_text('written')
    print(folder, flush=True)
    input()
"""
    others = [
        subprocess.Popen([sys.executable, '-c', program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in '12'
    ]
    killed, alive = others
    dead, living = (other.stdout.readline().strip() for other in others)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert os.path.exists(dead)
    with work_folder(tmp_path, 'clip') as mine:
        assert {str(path) for path in tmp_path.iterdir()} == {str(mine), living}
    alive.communicate('\n', timeout=20)
    assert list(tmp_path.iterdir()) == []


def drafts(folder) -> dict:
    (folder / 'drafts').mkdir()
    for name in ('a', 'b', 'c'):
        (folder / 'drafts' / name).write_text('new')
    return {folder / 'drafts' / name: folder / name for name in ('a', 'b', 'c')}


@pytest.mark.parametrize('label', ['é' * 127, '\udcff' * 255, '人' * 85, 'x' * 255])
def test_a_work_folder_for_a_file_of_any_name(tmp_path, label):
    with work_folder(tmp_path, label) as folder:
        assert folder.is_dir()
    assert shortened('é' * 127, 101) == 'é' * 50
    assert shortened('é' * 10, 100) == 'é' * 10


def test_files_are_placed_together(tmp_path):
    (tmp_path / 'b').write_text('old')
    place_together(drafts(tmp_path))
    assert [(tmp_path / name).read_text() for name in ('a', 'b', 'c')] == ['new'] * 3
    assert list((tmp_path / 'drafts').iterdir()) == []


def test_a_folder_in_the_way_of_one_leaves_all_as_they_were(tmp_path):
    (tmp_path / 'a').write_text('old')
    (tmp_path / 'c').mkdir()
    with pytest.raises(InputError, match=f'{tmp_path}/c: a folder is in the way'):
        place_together(drafts(tmp_path))
    assert (tmp_path / 'a').read_text() == 'old'
    assert not (tmp_path / 'b').exists()


def test_where_one_cannot_be_placed_the_others_are_taken_back(tmp_path, monkeypatch):
    (tmp_path / 'a').write_text('old')
    pairs, replace = drafts(tmp_path), os.replace

    def fails_at_the_last(source, target):
        if source == tmp_path / 'drafts/c':
            raise OSError('no room')
        replace(source, target)

    monkeypatch.setattr(os, 'replace', fails_at_the_last)
    with pytest.raises(OSError, match='no room'):
        place_together(pairs)
    assert (tmp_path / 'a').read_text() == 'old'
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ['a']
