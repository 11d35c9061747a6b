"""TensorBoard's event files, read back record by record."""

import pathlib
import struct

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
