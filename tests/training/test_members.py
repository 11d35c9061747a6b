"""Processes of a run that lose one of them; these have nothing else to do, and no JAX."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.training import processes
from kimnet_jax.training.members import SILENT_SECONDS, seconds_of
from kimnet_jax.training.sentinel import split_address

ROOT = pathlib.Path(__file__).resolve().parents[2]

PROCESS = """
import sys, time
from kimnet_jax.core.command import run_command
from kimnet_jax.training.members import RESTART, AbsentError, Members

def work():
    number, count, address, last = sys.argv[1:]
    try:
        others = Members(int(number), int(count), address, '[::]:' + address.rpartition(':')[2], 'start all again')
    except AbsentError as error:
        print(error, file=sys.stderr)
        return RESTART
    print('joined', flush=True)
    sys.stdin.readline()
    status, _, told = last.partition(':')
    others.leave(int(status or 0), told)
    return int(status or 0)

run_command(work)
"""
SECONDS = {'KIMNET_JOIN_SECONDS': '20', 'KIMNET_SILENT_SECONDS': '4'}


def address() -> str:
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        return f'localhost:{probe.getsockname()[1]}'


@pytest.fixture
def start():
    """Starts process NUMBER of COUNT, which ends as `last` (status:words) says once something is written to it."""
    processes = []

    def begin(number: int, count: int, at: str, last: str = '', **environ: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, '-c', PROCESS, str(number), str(count), at, last],
            env={**os.environ, 'PYTHONPATH': str(ROOT), **SECONDS, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run_of(start):
    """Starts COUNT processes and waits until they have met."""

    def begin(count: int, last: dict[int, str] | None = None, **environ: str) -> list[subprocess.Popen]:
        at = address()
        processes = [start(number, count, at, (last or {}).get(number, ''), **environ) for number in range(count)]
        for process in processes:
            assert process.stdout.readline() == 'joined\n', process.communicate()
        return processes

    return begin


def ended(process: subprocess.Popen, seconds: float = 15) -> tuple[int, str]:
    """(status, stderr)"""
    return process.wait(seconds), process.stderr.read()


def line_of(gone: subprocess.Popen, number: int, count: int, why: str) -> str:
    host = socket.gethostname()
    return f'error: process {number} of {count} ({host}, process id {gone.pid}) is gone: {why}; start all again\n'


@pytest.mark.parametrize('number', [0, pytest.param(2, marks=pytest.mark.slow)])
def test_all_name_the_process_that_was_killed(number, run_of, tmp_path_factory):
    temporary = tmp_path_factory.mktemp('t')
    processes = run_of(4, TMPDIR=str(temporary))
    gone = processes.pop(number)
    gone.kill()
    began = time.monotonic()
    assert [ended(process) for process in processes] == [(75, line_of(gone, number, 4, 'it was killed, or it crashed'))] * 3
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 10
    while any(temporary.iterdir()) and time.monotonic() < deadline:  # the sentinels end last
        time.sleep(0.1)
    assert not any(temporary.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('number', [0, 1])
def test_a_process_that_was_stopped_is_gone_after_a_while(number, run_of):
    processes = run_of(3)
    gone = processes.pop(number)
    gone.send_signal(signal.SIGSTOP)
    assert [ended(process) for process in processes] == [(75, line_of(gone, number, 3, 'it has not answered for 4 s'))] * 2
    gone.send_signal(signal.SIGCONT)
    assert ended(gone)[0] == 75


@pytest.mark.slow
def test_a_pause_is_no_end(run_of):
    processes = run_of(2, KIMNET_SILENT_SECONDS='6')
    processes[1].send_signal(signal.SIGSTOP)
    time.sleep(3)
    processes[1].send_signal(signal.SIGCONT)
    time.sleep(5)
    assert [process.poll() for process in processes] == [None, None]
    for process in processes:
        process.stdin.write('\n')
        process.stdin.flush()
    assert [ended(process) for process in processes] == [(0, '')] * 2


@pytest.mark.slow
@pytest.mark.parametrize('number', [0, 1])
def test_the_others_end_as_the_one_with_an_error(number, run_of):
    processes = run_of(3, {number: '2:no such file: a.json'})
    ends = processes.pop(number)
    ends.stdin.write('\n')
    ends.stdin.flush()
    told = f'error: process {number} of 3 ({socket.gethostname()}, process id {ends.pid}) has ended: no such file: a.json; '
    assert [ended(process) for process in processes] == [(2, f'{told}start all again\n')] * 2


@pytest.mark.slow
def test_the_process_that_watches_may_not_be_killed_unnoticed(run_of):
    processes = run_of(2)
    sentinels = subprocess.run(['pgrep', '-P', str(processes[1].pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(sentinels), signal.SIGKILL)
    assert ended(processes[1]) == (75, 'error: the process that watches the others is gone; start all again\n')
    assert ended(processes[0]) == (75, line_of(processes[1], 1, 2, 'its connection is closed'))


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_job_reaches_only_the_main_ones(run_of):
    processes = run_of(2)
    for process in processes:
        sentinel = subprocess.run(['pgrep', '-P', str(process.pid)], capture_output=True, text=True, check=True).stdout
        os.kill(int(sentinel), signal.SIGTERM)
    time.sleep(1)
    assert [process.poll() for process in processes] == [None, None]


def refusal(process: subprocess.Popen, expected: int = 2) -> str:
    status, errors = ended(process, 30)
    assert status == expected
    assert len(errors.splitlines()) == 1
    return errors


def test_a_port_that_is_taken(start):
    with socket.create_server(('', 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]
        processes = [start(number, 2, f'localhost:{port}', KIMNET_JOIN_SECONDS='2') for number in range(2)]
        assert f'port {port} of this machine is in use by another program' in refusal(processes[0])
        assert f'what listens at JAX_COORDINATOR_ADDRESS=localhost:{port} is not process 0' in refusal(processes[1])


def test_those_that_are_missing_are_named(start):
    at = address()
    processes = [start(number, 4, at, KIMNET_JOIN_SECONDS='3') for number in (0, 2)]
    told = 'not all processes joined within 3 s: of 4, numbers 1, 3 are missing; start them all, or increase KIMNET_JOIN_SECONDS'
    for process in processes:
        assert told in refusal(process, 75)


def test_no_process_0(start):
    at = address()
    told = f'nothing was listening at JAX_COORDINATOR_ADDRESS={at} for 2 s (Connection refused); start process 0 there'
    assert told in refusal(start(1, 2, at, KIMNET_JOIN_SECONDS='2'), 75)


@pytest.mark.slow
def test_numbers_that_do_not_fit_together(start):
    at = address()
    first = start(0, 2, at)
    assert 'this is process 1 of 3, and process 0 is one of 2: correct JAX_NUM_PROCESSES' in refusal(start(1, 3, at))
    second = start(1, 2, at)
    assert [process.stdout.readline() for process in (first, second)] == ['joined\n'] * 2
    assert 'there is another process 1 of 2 (' in refusal(start(1, 2, at, KIMNET_JOIN_SECONDS='2'))
    assert [process.poll() for process in (first, second)] == [None, None]


@pytest.mark.slow
def test_a_process_may_be_started_anew_before_all_are_there(start):
    at = address()
    first, second = start(0, 3, at), start(1, 3, at)
    time.sleep(2)
    second.kill()
    processes = [first, *(start(number, 3, at) for number in (1, 2))]
    assert [process.stdout.readline() for process in processes] == ['joined\n'] * 3


@pytest.mark.slow
def test_strangers_at_the_port_do_no_harm(run_of):
    processes = run_of(2)
    port = int(processes[0].args[-2].rpartition(':')[2])
    for words in (b'', b'GET / HTTP/1.1\r\n\r\n', b'{"number": "x"}\n', b'\0' * 5000):
        with socket.create_connection(('localhost', port)) as stranger:
            stranger.sendall(words)
    time.sleep(1)
    assert [process.poll() for process in processes] == [None, None]


def test_seconds_that_are_none(monkeypatch):
    for given in ('soon', '0', '-1', 'nan', 'inf'):
        monkeypatch.setenv(SILENT_SECONDS, given)
        with pytest.raises(InputError, match=f'KIMNET_SILENT_SECONDS={given}: must be a positive number'):
            seconds_of(SILENT_SECONDS, 30)
    monkeypatch.setenv(SILENT_SECONDS, '')
    assert seconds_of(SILENT_SECONDS, 30) == 30


@pytest.mark.parametrize(
    ('error', 'broken'),
    [
        (ValueError('UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:6470'), True),
        (jax.errors.JaxRuntimeError('INTERNAL: NCCL operation ncclAllReduce failed: remote process exited'), True),
        (jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1024 bytes'), False),
        (InputError('config.seed: must be a number'), False),
        (OSError('UNKNOWN: Gloo'), False),
    ],
)
def test_errors_of_an_exchange_are_told_from_others(error, broken):
    assert processes._is_broken_exchange(error) == broken


def test_slurm_names_the_processes(monkeypatch):
    for name in ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID'):
        monkeypatch.delenv(name, raising=False)
    job = {
        'JOB_ID': '5000',
        'STEP_NODELIST': 'host[07-10]',
        'NTASKS': '32',
        'PROCID': '9',
        'LOCALID': '1',
        'STEP_NUM_TASKS': '32',
    }
    for name, value in job.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    address, count, number = processes._place(None, 1)
    assert (address.partition(':')[0], count, number) == ('host07', 32, 9)
    assert split_address(address)[1] > 1024
