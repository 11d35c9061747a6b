"""A run that is killed again and again ends bit-equal to one that never was."""

import json
import pathlib
import re

import jax
import numpy as np
import orbax.checkpoint as ocp

INTERRUPTED = pathlib.Path(__file__).with_name('interrupted_train.py')


def steps(workdir: pathlib.Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / 'checkpoints').iterdir() if path.name.isdigit())


def arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    folder = workdir / 'checkpoints' / str(step)
    with ocp.StandardCheckpointer() as reader:
        trees = {name: reader.restore(folder / name) for name in ('weights', 'average', 'optimizer')}
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(trees)}


def records(workdir: pathlib.Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    told = [line for line in lines if line['kind'] != 'goodput']  # once for every start
    return [{key: value for key, value in line.items() if key not in ('frames_per_second', 'data_wait')} for line in told]


def test_killed_run_ends_bit_equal_to_an_undisturbed_one(whole_run, command, run, tmp_path):
    whole, killed = whole_run[0], tmp_path / 'killed'
    stages = [  # moment, which of them, signal, exit status, checkpoints there afterwards
        ('record', 2, 'SIGKILL', -9, []),  # after a step, before the first checkpoint
        ('write', 3, 'SIGKILL', -9, []),  # while the first checkpoint is written
        ('commit', 2, 'SIGKILL', -9, [3]),  # the second one lacks nothing but its name
        ('evaluation', 3, 'SIGTERM', 143, [3, 6]),  # saved without a score
        ('evaluation', 5, 'SIGKILL', -9, [3, 6]),
        ('record', 2, 'SIGTERM', 143, [6, 7]),  # the record of the evaluation is the first
    ]
    for moment, number, signal, status, left in stages:
        done = run(INTERRUPTED, moment, number, signal, *command(killed))
        assert done.returncode == status, (moment, done.stdout, done.stderr)
        assert steps(killed) == left, (moment, done.stdout, done.stderr)
        assert 'damaged' not in done.stderr
        if signal == 'SIGTERM':
            assert f'stopped by SIGTERM after step {left[-1]}; rerun the same command to resume' in done.stdout
    done = run('-m', 'kimnet_jax.train', *command(killed))
    assert done.returncode == 0, done.stderr
    assert 'resuming after step 7' in done.stdout

    assert steps(killed) == steps(whole)
    for step in steps(whole):
        expected, found = arrays(whole, step), arrays(killed, step)
        assert expected.keys() == found.keys()
        assert [key for key in expected if expected[key].tobytes() != found[key].tobytes()] == []
    assert records(killed) == records(whole)
    assert [record['step'] for record in records(whole) if record['kind'] == 'train'] == list(range(1, 13))
    assert [record['step'] for record in records(whole) if record['kind'] == 'eval'] == [6, 12]
    leftovers = {path.name for path in (*killed.iterdir(), *(killed / 'checkpoints').iterdir())}
    assert leftovers == {'checkpoints', 'config.json', 'metrics.jsonl', 'tensorboard', *map(str, steps(whole))}


def test_finished_run_returns_at_once(whole_run, command, run):
    folder = whole_run[0]
    before = {path: path.stat().st_mtime_ns for path in (folder / 'checkpoints').rglob('*')}
    done = run('-m', 'kimnet_jax.train', *command(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'done: {folder}'
    assert {path: path.stat().st_mtime_ns for path in (folder / 'checkpoints').rglob('*')} == before


def test_terminal_shows_progress(whole_run):
    shown = whole_run[1]
    bar = next(part for part in reversed(shown.split('\r')) if ' 12/12 ' in part)
    assert re.search(r'\[\d\d:\d\d<\d\d:\d\d,.*frames_per_s=\d+, loss=\d\.\d+e-\d\d, pck=0\.\d{3}', bar)  # passed<left
    assert 'evaluating: ' in shown
    assert 'compiling the training step ...' in shown
    assert ' left' not in shown  # the lines of a run without a terminal
