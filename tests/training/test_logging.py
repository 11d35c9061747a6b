"""TensorBoard's event files, read back record by record; the lines of a run without a terminal."""

import pathlib
import struct

import jax
import pytest
from tensorboardX.proto import event_pb2

from kimnet_jax.training.goodput import Goodput
from kimnet_jax.training.logging import RunLog
from kimnet_jax.training.writers import open_writers


def events(folder: pathlib.Path) -> list:
    """A record is its length (8 bytes), a checksum (4), the event, a checksum (4)."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack('<Q', data[:8])
            found.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def scalars(folder: pathlib.Path) -> list[tuple[int, str, float]]:
    return [(event.step, value.tag, value.simple_value) for event in events(folder) for value in event.summary.value]


def log(workdir: pathlib.Path, step: int, window: dict[str, float]) -> RunLog:
    writers = open_writers(['tensorboard'], workdir, step=step, evaluated=False, config={})
    return RunLog(writers, Goodput(), step=step, window=window, total=8, every=2)


def test_records_are_means_since_the_one_before(tmp_path):
    run = log(tmp_path, 0, {})
    for step, loss in ((1, 1.0), (2, 2.0), (3, 4.0)):
        run.train(step, step / 2, {'loss': loss, 'pck': 0.5}, 10)
    run.evaluation(3, 1.5, {'auc': 0.25, 'nothing': float('nan')})
    run.close()
    assert run.window == {'loss': 4.0, 'pck': 0.5, 'steps': 1}  # what a checkpoint of step 3 takes along
    found = {(step, tag): value for step, tag, value in scalars(tmp_path / 'tensorboard')}
    assert found.keys() == {*((2, f'train/{key}') for key in ('loss', 'pck', 'frames_per_second', 'data_wait')), (3, 'eval/auc')}
    assert (found[2, 'train/loss'], found[3, 'eval/auc']) == (1.5, 0.25)


def test_resumed_run_goes_on_and_purges_what_it_repeats(tmp_path):
    first = log(tmp_path, 0, {})
    for step in range(1, 7):
        first.train(step, step / 2, {'loss': 1.0, 'pck': 0.5}, 10)
    first.close()
    second = log(tmp_path, 3, {'loss': 4.0, 'pck': 0.5, 'steps': 1})
    second.train(4, 2.0, {'loss': 2.0, 'pck': 0.5}, 10)
    second.close()
    assert (4, 'train/loss', 3.0) in scalars(tmp_path / 'tensorboard')  # (4 + 2) / 2
    starts = [event.step for event in events(tmp_path / 'tensorboard') if event.session_log.status == event_pb2.SessionLog.START]
    assert starts == [1, 4]  # TensorBoard drops events of these steps and later that came before


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_tell_means_speed_and_time_left(capsys):
    clock = Clock()
    goodput = Goodput(clock)
    run = RunLog([], goodput, step=10, window={}, total=110, every=1000, interval=30)

    def train(step: int, loss: float, waited: float = 0.0) -> str:
        with goodput.during('data_wait'):
            clock.now += waited
        with goodput.during('steps'):
            clock.now += 5 - waited
        run.train(step, step / 10, {'loss': loss, 'learning_rate': 1.0}, 20)
        return capsys.readouterr().out

    assert train(11, 9.0) == ''  # it compiled: no measure of speed
    assert train(12, 2.0) == 'step 12/110: loss 2.00e+00, 4 frames/s, 0 % waiting for data, 08:10 left\n'
    for step in range(13, 17):
        assert train(step, 1.0, waited=1.0) == ''
    with goodput.during('evaluation'):  # no part of the speed, but of the time that is left: 5 of 6 steps' time
        clock.now += 5
    assert train(17, 6.0, waited=1.0) == (
        'step 17/110: loss 2.00e+00, 4 frames/s, 20 % waiting for data, 09:02 left\n'
    )  # loss (4 * 1 + 6) / 5; 93 steps of (6 * 5 + 5) / 6 seconds
    assert train(18, 1.0) == ''


def test_only_the_first_process_tells(capsys, monkeypatch):
    monkeypatch.setattr(jax, 'process_index', lambda: 1)
    clock = Clock()
    run = RunLog([], Goodput(clock), step=0, window={}, total=9, every=1, interval=0)
    with run.compiling('training step'):
        for step in (1, 2, 3):
            clock.now += 1
            run.train(step, step / 3, {'loss': 1.0}, 4)
    run.images(3, lambda: pytest.fail('drawn'))
    run.summary()
    run.close()
    assert capsys.readouterr() == ('', '')
