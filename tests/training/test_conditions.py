"""What the bits of a run depend on is recorded, and told where it has changed."""

import json
import shutil

from kimnet_jax.training import conditions


def test_nothing_is_said_where_nothing_changed():
    assert conditions.difference(json.loads(json.dumps(conditions.conditions()))) == ''
    assert conditions.difference({}) == ''  # of a checkpoint of before


def test_what_changed_is_one_line():
    before = conditions.conditions() | {'visible CPUs': 96, 'version of jaxlib': '0.0.1'}
    line = conditions.difference(before)
    assert f'visible CPUs: 96 there, {conditions.conditions()["visible CPUs"]} now' in line
    assert 'version of jaxlib: 0.0.1 there' in line
    assert len(line.splitlines()) == 1


def test_going_on_with_another_number_of_cpus_says_so(whole_run, command, run, tmp_path):
    folder, shown = whole_run
    assert 'note: the last digits' not in shown
    shutil.copytree(folder, tmp_path / 'run')
    program = (
        'import os, runpy, sys; os.sched_getaffinity = lambda pid: range(77); sys.argv = sys.argv[1:]; '
        "runpy.run_module('kimnet_jax.train', run_name='__main__', alter_sys=True)"
    )
    second = run('-c', program, 'train', *command(tmp_path / 'run'))
    assert second.returncode == 0, second.stderr
    (said,) = [text for text in second.stdout.splitlines() if text.startswith('note: the last digits')]
    assert 'visible CPUs: ' in said
    assert ' there, 77 now' in said
