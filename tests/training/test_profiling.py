"""Traces that jax.profiler writes, read back."""

import gzip
import json
import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import pytest

from kimnet_jax import command_line
from kimnet_jax import train as command
from kimnet_jax.core.errors import InputError
from kimnet_jax.training.loop import TrainConfig, make_plan
from kimnet_jax.training.profiling import ON_SIGNAL, Profiler, parse_window


def traced(folder: pathlib.Path) -> dict[str, list[int]]:
    """The steps that are marked in the traces of a folder, by the name of the trace."""
    found = {}
    for file in sorted(folder.glob('*/plugins/profile/*/*.trace.json.gz')):  # where TensorBoard looks for them
        events = json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
        assert (file.parent / file.name.replace('.trace.json.gz', '.xplane.pb')).stat().st_size
        steps = [int(event['args']['step_num']) for event in events if event.get('name') == 'train']
        found[file.relative_to(folder).parts[0]] = steps
    return found


def train(profiler: Profiler, steps: range, at: dict[int, int] | None = None) -> None:
    """Steps that do next to nothing; before those in `at` a signal comes."""
    add = jax.jit(lambda x: x + 1)
    value = add(jnp.zeros(()))
    with profiler:
        for step in steps:
            if at and step in at:
                os.kill(os.getpid(), at[step])
            with profiler.step(step, compiled=step > steps[0]):
                value = add(value)
            profiler.done(step, value)


def test_the_steps_that_were_asked_for(tmp_path):
    said: list[str] = []
    train(Profiler(tmp_path, parse_window('3:2'), said.append), range(1, 8))
    assert traced(tmp_path / 'profile') == {'step3': [3, 4]}
    assert said == [f'profile of steps 3 to 4: {tmp_path}/profile/step3']


def test_a_signal_asks_for_some_once_the_step_is_compiled(tmp_path):
    said: list[str] = []
    before = signal.getsignal(signal.SIGUSR1)
    train(Profiler(tmp_path, range(0), said.append), range(1, 12), {1: signal.SIGUSR1, 3: signal.SIGUSR1})
    assert traced(tmp_path / 'profile') == {f'step{first}': [*range(first, first + ON_SIGNAL)] for first in (2, 2 + ON_SIGNAL)}
    assert signal.getsignal(signal.SIGUSR1) == before


def test_the_end_of_the_run_ends_the_trace(tmp_path):
    said: list[str] = []
    train(Profiler(tmp_path, range(0), said.append), range(1, 4), {3: signal.SIGUSR1})
    assert traced(tmp_path / 'profile') == {'step3': [3]}
    assert len(said) == 1


def test_a_run_that_resumes_after_the_beginning_makes_none(tmp_path):
    train(Profiler(tmp_path, parse_window('3:2'), print), range(4, 8))
    assert not (tmp_path / 'profile').exists()


def test_a_trace_that_cannot_be_written_does_not_end_the_run(tmp_path):
    (tmp_path / 'profile').write_text('in the way')
    said: list[str] = []
    train(Profiler(tmp_path, parse_window('1:2'), said.append), range(1, 4))
    assert len(said) == 1
    assert said[0].startswith(f'warning: no profile in {tmp_path}/profile/step1: ')


def test_of_several_processes_the_first_one_does_what_is_planned(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 3)
    train(Profiler(tmp_path, parse_window('1:2'), print), range(1, 6), {4: signal.SIGUSR1})
    assert traced(tmp_path / 'profile/process3') == {'step4': [4, 5]}
    assert traced(tmp_path / 'profile') == {}


def test_the_signal_does_not_end_a_run_that_has_no_steps_yet(monkeypatch):
    before, met = signal.getsignal(signal.SIGUSR1), []

    def start(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)  # as while modules are imported and data sets are opened
        met.append(True)

    monkeypatch.setattr(command_line, 'start', start)
    monkeypatch.setattr('sys.argv', ['train'])
    try:
        command.cli()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert met == [True]


@pytest.mark.parametrize('text', ['5', '5:', ':5', '0:5', '5:0', '-1:5', '5:5:5', '1.5:2', 'a:b', '5 :5', '1:99999999999'])
def test_what_is_no_window_is_explained(text):
    with pytest.raises(InputError, match='must be START:STEPS') as refused:
        TrainConfig(profile=text)
    assert str(refused.value).startswith(f'config.train.profile={text!r}: ')


def test_a_window_beyond_the_end_is_explained():
    assert make_plan(8, TrainConfig(steps=10, profile='8:3')).profile == range(8, 11)
    with pytest.raises(InputError, match=r"^config\.train\.profile='9:3': the run has 10 steps$"):
        make_plan(8, TrainConfig(steps=10, profile='9:3'))
