"""The writers besides metrics.jsonl; Weights & Biases as a module that only notes what it is told."""

import json
import subprocess
import sys
import types

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.training.loop import TrainConfig
from kimnet_jax.training.writers import JsonLines, TensorBoard, check_installed, open_writers, parse_writers


@pytest.fixture
def wandb(monkeypatch) -> types.ModuleType:
    module = types.ModuleType('wandb')
    module.begun, module.logged, module.ended = [], [], 0

    class Run:
        def define_metric(self, name: str, step_metric: str) -> None:
            assert (name, step_metric) == ('*', 'step')

        def log(self, values: dict) -> None:
            module.logged.append(values)

        def finish(self) -> None:
            module.ended += 1

    def init(**settings) -> Run:
        module.begun.append(settings)
        return Run()

    module.init = init
    module.Settings = lambda **settings: settings
    module.Image = lambda image: ('image', image.shape)
    monkeypatch.setitem(sys.modules, 'wandb', module)
    monkeypatch.delenv('WANDB_MODE', raising=False)
    return module


def test_names():
    assert parse_writers('') == ()
    assert parse_writers('tensorboard') == parse_writers('tensorboard,tensorboard') == ('tensorboard',)
    assert parse_writers('wandb, tensorboard') == ('wandb', 'tensorboard')
    for text in ('tensorboards', 'wandb,', 'wandb tensorboard', 'wandb,tensorboard,mlflow'):
        with pytest.raises(InputError, match=r'^config\.train\.writers=.*known: tensorboard, wandb, separated by commas'):
            TrainConfig(writers=text)


def test_what_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)  # how Python says that it cannot be imported
    with pytest.raises(InputError, match=r'^config\.train\.writers: wandb cannot .*: pip install "kimnet-jax\[wandb\]"$'):
        check_installed(['tensorboard', 'wandb'])
    check_installed(['tensorboard'])


def test_jsonl_is_always_there(tmp_path):
    given = {'step': 0, 'evaluated': False, 'config': {}}
    assert [type(writer) for writer in open_writers((), tmp_path, **given)] == [JsonLines]
    assert [type(writer) for writer in open_writers(['tensorboard'], tmp_path, **given)] == [JsonLines, TensorBoard]


def test_one_record_reaches_all(tmp_path, wandb):
    writers = open_writers(['wandb'], tmp_path, step=0, evaluated=False, config={'seed': 3})
    for writer in writers:
        writer.scalars('eval', 6, 1.5, {'auc': 0.25, 'nothing': float('nan')})
        writer.images(6, {'eval/clip': np.zeros((4, 5, 3), np.uint8)})
        writer.text('config', 'text')
        writer.close()
    assert json.loads((tmp_path / 'metrics.jsonl').read_text()) == {
        'kind': 'eval',
        'step': 6,
        'epoch': 1.5,
        'auc': 0.25,
        'nothing': None,
    }
    assert wandb.logged == [
        {'step': 6, 'epoch': 1.5, 'eval/auc': 0.25},
        {'step': 6, 'eval/clip': ('image', (4, 5, 3))},
    ]
    assert wandb.ended == 1


def test_wandb_is_offline_and_a_resumed_run_the_same_one(tmp_path, wandb, monkeypatch):
    for step in (0, 6):
        open_writers(['wandb'], tmp_path, step=step, evaluated=False, config={'seed': 3})
    first, second = wandb.begun
    assert (first['mode'], first['config'], first['resume']) == ('offline', {'seed': 3}, 'allow')
    assert first['dir'] == tmp_path
    assert first == second
    monkeypatch.setenv('WANDB_MODE', 'online')
    other = tmp_path / 'other'
    other.mkdir()
    open_writers(['wandb'], other, step=0, evaluated=False, config={})
    assert wandb.begun[2]['mode'] == 'online'
    assert wandb.begun[2]['id'] != first['id']


def test_tensorboard_does_without_torch():
    """Which tensorboardX would import, where it is installed."""
    code = (
        'import sys; from kimnet_jax.training.writers import check_installed; check_installed(["tensorboard"]); '
        'assert "tensorboardX" in sys.modules and "torch" not in sys.modules; import torch'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
