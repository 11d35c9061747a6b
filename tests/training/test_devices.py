"""One device, eight devices, two processes: the same training."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from test_resume import arrays

ROOT = pathlib.Path(__file__).resolve().parents[2]

DEVICES = pathlib.Path(__file__).with_name('devices.py')
RESUME = '; restart all processes with the same command to resume from the last checkpoint'
FEW_STEPS = {'train.steps': 3, 'train.batch_size': 4, 'eval.batch_size': 4, 'train.eval_every': 99.0, 'train.save_every': 99.0}


def virtual(count: int) -> dict[str, str]:
    return {'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={count}'}


@pytest.mark.quick_compilation
def test_eight_devices_equal_one(run, tmp_path):
    for count in (1, 8):
        done = run(DEVICES, count, tmp_path, **virtual(count))
        assert done.returncode == 0, done.stderr
    one, eight = (dict(np.load(tmp_path / f'{count}.npz')) for count in (1, 8))
    assert one.keys() == eight.keys()
    for key, expected in one.items():
        found, part = eight[key], key.split("'")[1]
        if part == 'moments':  # gradients, summed in another order; where they cancel, 1e-9 of the norm (50) is left
            np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max() + 1e-8, err_msg=key)
        elif part == 'params':  # Adam's first step is the rate times the gradient's sign, so noise comes through where it is 0
            real = np.abs(one[key.replace('params', 'moments', 1)]) > 1e-6
            np.testing.assert_allclose(found[real], expected[real], atol=1e-6, err_msg=key)
            np.testing.assert_allclose(found, expected, atol=2e-3, err_msg=key)
        else:  # loss, norms, BatchNorm statistics, evaluated joints (pixels, up to 128) and scores
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3 if 'joints' in key else 1e-6, err_msg=key)


def results(workdir: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        return f'localhost:{probe.getsockname()[1]}'


def start(flags: list[str], environment: dict[str, str], count: int = 2, command: str = 'train') -> list[subprocess.Popen]:
    together = environment | {'JAX_COORDINATOR_ADDRESS': free_address(), 'JAX_NUM_PROCESSES': str(count)}
    return [
        subprocess.Popen(
            [sys.executable, '-u', '-m', f'kimnet_jax.{command}', *flags],
            cwd=ROOT,
            env=together | {'JAX_PROCESS_ID': str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


@pytest.mark.slow
def test_two_processes_equal_one(command, environment, run, tmp_path):
    # with seed 0 a rounding carries a value across a ReLU's zero: same loss, another gradient norm by 1e-4
    settings = FEW_STEPS | {'seed': 2}
    done = run('-m', 'kimnet_jax.train', *command(tmp_path / 'one', settings), **virtual(4))
    assert done.returncode == 0, done.stderr
    processes = start(command(tmp_path / 'two', settings, '--distributed'), environment | virtual(2))
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert '4 cpu device(s)' in outputs[0][0]
    said = [line for line in outputs[1][0].splitlines() if line and not re.search(r'^\[Gloo\]|peer ranks', line)]
    assert said == []  # the first speaks for both; a line of Gloo's may be broken in two
    one, two = results(tmp_path / 'one'), results(tmp_path / 'two')
    kinds = [('train', 1), ('train', 2), ('train', 3), ('eval', 3), ('goodput', 3)]
    assert [(record['kind'], record['step']) for record in two] == kinds
    for a, b in zip(one[:3], two[:3], strict=True):
        for key in ('loss', 'parameter_norm', 'pck', 'gradient_norm'):
            np.testing.assert_allclose(b[key], a[key], rtol=1e-5, err_msg=f'{key}, step {a["step"]}')
    assert two[3]['frames'] == one[3]['frames']
    assert two[3]['clips'] == 3
    np.testing.assert_allclose(two[3]['person/auc/mPCK'], one[3]['person/auc/mPCK'], atol=0.02)

    flags = [f'--workdir={tmp_path / "two"}', '--batch_size=4', '--occlusion=2', '--seed=1']
    done = run('-m', 'kimnet_jax.evaluate', *flags, f'--out={tmp_path / "alone"}', **virtual(4))
    assert done.returncode == 0, done.stderr
    together = [*flags, f'--out={tmp_path / "together"}', f'--predictions={tmp_path / "poses.npz"}', '--distributed']
    processes = start(together, environment | virtual(2), command='evaluate')
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert 'written:' in outputs[0][0]
    assert not [line for line in outputs[1][0].splitlines() if line and not re.search(r'^\[Gloo\]|peer ranks', line)]
    assert (tmp_path / 'poses.npz').exists()
    files = sorted(path.name for path in (tmp_path / 'alone').iterdir())
    assert files == sorted(path.name for path in (tmp_path / 'together').iterdir())
    (report,) = [name for name in files if name.endswith('.json')]
    rows = [json.loads((tmp_path / place / report).read_text())['rows'] for place in ('alone', 'together')]
    expected, found = ({jax.tree_util.keystr(k): v for k, v in jax.tree.leaves_with_path(part)} for part in rows)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value, abs=0.02) if isinstance(value, float) else value), key


@pytest.mark.slow
def test_a_process_that_is_lost_in_an_evaluation(command, environment, run, tmp_path):
    done = run('-m', 'kimnet_jax.train', *command(tmp_path / 'run', {'train.steps': 1, 'train.eval_every': 99.0}))
    assert done.returncode == 0, done.stderr
    flags = [f'--workdir={tmp_path / "run"}', '--checkpoint=last', f'--out={tmp_path / "out"}', '--distributed']
    uncached = environment | {'JAX_ENABLE_COMPILATION_CACHE': '0'}  # long enough to be caught in it
    processes = start(flags, uncached, command='evaluate')
    while '[Gloo]' not in processes[1].stdout.readline():
        assert processes[1].poll() is None, processes[1].communicate()
    lose(processes, 1, signal.SIGKILL, '; restart all processes with the same command')
    assert not (tmp_path / 'out').exists()


def compiling(command, environment: dict[str, str], folder: pathlib.Path) -> list[subprocess.Popen]:
    """Two processes in the middle of a compilation that takes long."""
    larger = {'model.feature_encoder': 'resnet50', 'model.pose_initializer': 'resnet50'}
    uncached = environment | {'JAX_ENABLE_COMPILATION_CACHE': '0'}
    processes = start(command(folder / 'run', larger, '--distributed'), uncached)
    while 'parameters' not in processes[0].stdout.readline():
        assert processes[0].poll() is None
    time.sleep(8)
    return processes


@pytest.mark.slow
def test_two_processes_end_within_seconds_while_they_compile(command, environment, tmp_path):
    """JAX's own handler only notes SIGTERM, and has nobody to tell before the first step."""
    processes = compiling(command, environment, tmp_path)
    began = time.monotonic()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=60) for process in processes]
    assert time.monotonic() - began < 12
    assert [process.returncode for process in processes] == [143, 143], outputs
    assert all(errors.splitlines()[-1].startswith('stopped by SIGTERM') for _, errors in outputs)


@pytest.mark.slow
def test_one_signal_stops_both_at_the_same_step(command, environment, tmp_path):
    processes = start(command(tmp_path / 'run', {'train.steps': 2000}, '--distributed'), environment)
    while not (tmp_path / 'run/metrics.jsonl').exists():
        assert processes[0].poll() is None
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=100) for process in processes]
    assert [process.returncode for process in processes] == [143, 143], outputs
    (step,) = re.findall(r'stopped by SIGTERM after step (\d+)', outputs[0][0])
    assert (tmp_path / 'run/checkpoints' / step).is_dir()


def lose(processes: list[subprocess.Popen], number: int, how: signal.Signals, advice: str = RESUME) -> None:
    """Ends or stops one of the processes, and checks how the others end."""
    gone, began = processes[number], time.monotonic()
    gone.send_signal(how)
    others = [process for process in processes if process is not gone]
    outputs = [process.communicate(timeout=60) for process in others]
    assert time.monotonic() - began < 60
    gone.kill()
    gone.communicate()
    assert [process.returncode for process in others] == [75] * len(others), outputs
    for _, errors in outputs:
        (line,) = errors.splitlines()
        assert line.startswith(f'error: process {number} of {len(processes)} (')
        assert f'process id {gone.pid}) is gone: ' in line
        assert line.endswith(advice)


@pytest.mark.slow
@pytest.mark.parametrize(('how', 'number', 'count'), [('SIGKILL', 1, 4), ('SIGSTOP', 0, 2), ('SIGSTOP', 3, 4)])
def test_a_process_that_is_lost_is_named_by_all_others(how, number, count, command, environment, tmp_path):
    settings = {'train.steps': 2000, 'train.batch_size': 4, 'eval.batch_size': 4, 'train.eval_every': 400.0}
    processes = start(command(tmp_path / 'run', settings, '--distributed'), environment | {'KIMNET_SILENT_SECONDS': '10'}, count)
    while not (tmp_path / 'run/metrics.jsonl').exists():
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.2)
    lose(processes, number, signal.Signals[how])


@pytest.mark.slow
@pytest.mark.parametrize('number', [0, 1])
def test_a_process_that_is_lost_while_all_compile(number, command, environment, tmp_path):
    lose(compiling(command, environment, tmp_path), number, signal.SIGKILL)


@pytest.mark.slow
def test_a_run_that_lost_a_process_goes_on_to_the_same_bits(command, environment, run, tmp_path):
    settings = {'train.batch_size': 4, 'eval.batch_size': 4}
    processes = start(command(tmp_path / 'whole', settings, '--distributed'), environment)
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    processes = start(command(tmp_path / 'run', settings, '--distributed'), environment)
    while not (tmp_path / 'run/checkpoints/3').exists():
        assert processes[0].poll() is None, processes[0].communicate()
        time.sleep(0.05)
    lose(processes, 0, signal.SIGKILL)
    shutil.copytree(tmp_path / 'run', tmp_path / 'alone')
    processes = start(command(tmp_path / 'run', settings, '--distributed'), environment)
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert 'resuming after step' in outputs[0][0]
    expected, found = arrays(tmp_path / 'whole', 12), arrays(tmp_path / 'run', 12)
    assert expected.keys() == found.keys()
    assert [key for key in expected if expected[key].tobytes() != found[key].tobytes()] == []

    alone = run('-m', 'kimnet_jax.train', *command(tmp_path / 'alone', settings), **virtual(4))
    assert alone.returncode == 0, alone.stderr
    (note,) = [line for line in alone.stdout.splitlines() if line.startswith('note: the last digits')]
    assert 'processes: 2 there, 1 now' in note
    assert arrays(tmp_path / 'alone', 12).keys() == expected.keys()


def test_distributed_without_the_others(command, run, tmp_path):
    done = run('-m', 'kimnet_jax.train', *command(tmp_path / 'run', {}, '--distributed'))
    assert done.returncode == 2
    assert done.stderr.startswith('error: --distributed: ')
    assert 'JAX_COORDINATOR_ADDRESS' in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ('process', 'told'),
    [('1', 'nothing was listening at JAX_COORDINATOR_ADDRESS='), ('0', 'not all processes joined within 3 s')],
)
def test_others_that_are_not_there_are_one_line_in_time(process, told, command, run, tmp_path):
    numbers = {'JAX_COORDINATOR_ADDRESS': free_address(), 'JAX_NUM_PROCESSES': '2', 'JAX_PROCESS_ID': process}
    done = run('-m', 'kimnet_jax.train', *command(tmp_path / 'run', {}, '--distributed'), **numbers, KIMNET_JOIN_SECONDS='3')
    assert done.returncode == 75
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr
    assert 'KIMNET_JOIN_SECONDS' in done.stderr
