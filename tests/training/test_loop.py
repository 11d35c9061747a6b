"""The loop with a training step that only counts: when it evaluates, saves, stops and refuses to go on."""

import json
import os
import re
import signal
import time

import jax
import numpy as np
import pytest
from tiny import first_state

from kimnet_jax.core.errors import InputError
from kimnet_jax.training import loop
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.goodput import PARTS, Goodput
from kimnet_jax.training.logging import RunLog
from kimnet_jax.training.profiling import Profiler
from kimnet_jax.training.writers import open_writers

SCORE = 'torso/pck/0.2/mPCK'
PACE = ('frames_per_second', 'data_wait')


@pytest.mark.parametrize(
    ('settings', 'steps', 'evaluate', 'save'),
    [
        # 10 clips in batches of 4: an epoch is 2.5 steps
        ({'epochs': 4, 'eval_every': 2, 'save_every': 1}, 10, {5, 10}, {2, 5, 8, 10}),
        ({'epochs': 3, 'eval_every': 2, 'save_every': 99}, 8, {5, 8}, {5, 8}),  # 7.5 steps are 8; the end is always saved
        ({'steps': 3, 'epochs': 100, 'eval_every': 10, 'save_every': 2}, 3, {3}, {3}),  # steps win; fewer than any interval
        ({'epochs': 1.2, 'eval_every': 1e-9, 'save_every': 0.1}, 3, {1, 2, 3}, {1, 2, 3}),
        ({'epochs': 0, 'eval_every': 2, 'save_every': 1}, 0, {0}, {0}),  # weights brought from elsewhere become a run
    ],
)
def test_plan(settings, steps, evaluate, save):
    plan = loop.make_plan(10, loop.TrainConfig(batch_size=4, **settings))
    assert (plan.steps, plan.evaluate, plan.save, plan.steps_per_epoch) == (steps, evaluate, save, 2.5)


@pytest.mark.parametrize(
    ('field', 'value'), [('eval_every', 0.0), ('save_every', -1.0), ('eval_every', float('nan')), ('steps', -3), ('epochs', 0.1)]
)
def test_bad_plan(field, value):
    settings = {'epochs': 4.0, 'steps': 0, 'eval_every': 2.0, 'save_every': 1.0} | {field: value}
    with pytest.raises(InputError, match=f'config.train.{field}='):
        loop.make_plan(10, loop.TrainConfig(batch_size=4, **settings))


class Run:
    """A run of 12 steps that saves after every third and evaluates after every sixth."""

    def __init__(self, workdir, *, steps: int = 12, interval: float = 1e9, profile: str = ''):
        self.workdir, self.evaluated, self.seen, self.closed = workdir, [], [], False
        self.values, self.interval = {'loss': 0.5, 'pck': 0.25}, interval
        self.on_step = lambda step: None
        self.on_evaluation = lambda step: None
        every = {'eval_every': 6.0, 'save_every': 3.0}
        self.plan = loop.make_plan(4, loop.TrainConfig(epochs=float(steps), batch_size=4, profile=profile, **every))

    def batches(self, step: int):
        def stream():
            try:
                for number in range(step, 10**6):
                    yield {'clip': np.array([number, 7]), 'mask': np.ones((2, 3), bool)}, {}
            finally:
                self.closed = True

        return stream()

    def train_step(self, state, on_device):
        self.seen.append(int(state.step))
        self.on_step(int(state.step) + 1)
        values = jax.device_put({key: np.float32(value) for key, value in self.values.items()})  # no other transfer is allowed
        return state._replace(step=np.asarray(state.step + 1, np.int32)), values

    def evaluate(self, weights, check):
        self.evaluated.append(self.seen[-1] + 1 if self.seen else None)
        self.on_evaluation(self.evaluated[-1])
        check()
        return {SCORE: 0.5, 'other': float('nan')}

    def __call__(self):
        checkpoints = Checkpoints(self.workdir)
        state = first_state()
        state, meta = checkpoints.restore_newest(state) or (state, {})
        step = int(state.step)
        evaluated, window = meta.get('evaluated', False), meta.get('window', {})
        writers = open_writers((), self.workdir, step=step, evaluated=evaluated, config={})
        with Goodput() as goodput:
            log = RunLog(writers, goodput, step=step, window=window, total=self.plan.steps, every=2, interval=self.interval)
            try:
                with Profiler(self.workdir, self.plan.profile, log.say) as profiler:
                    return loop.fit(
                        state,
                        meta,
                        train_step=self.train_step,
                        batches=self.batches,
                        evaluate=self.evaluate,
                        score=SCORE,
                        draw=dict,
                        clip_name=lambda clip: f'clip{clip}',
                        checkpoints=checkpoints,
                        log=log,
                        profiler=profiler,
                        plan=self.plan,
                    )
            finally:
                log.summary()
                log.close()
                checkpoints.close()

    def saved(self) -> list[int]:
        return sorted(int(path.name) for path in (self.workdir / 'checkpoints').iterdir())

    def records(self, *kinds: str) -> list[dict]:
        records = [json.loads(line) for line in (self.workdir / 'metrics.jsonl').read_text().splitlines()]
        return [record for record in records if record['kind'] in (kinds or ('train', 'eval'))]


def test_whole_run(tmp_path):
    run = Run(tmp_path)
    assert int(run().step) == 12
    assert run.seen == list(range(12))
    assert run.evaluated == [6, 12]
    assert run.saved() == [9, 12]  # equal scores: the later one is the best
    assert [(r['kind'], r['step']) for r in run.records()] == [
        *[('train', step) for step in (2, 4, 6)],
        ('eval', 6),
        *[('train', step) for step in (8, 10, 12)],
        ('eval', 12),
    ]
    assert run.records()[0]['loss'] == 0.5
    assert run.records()[3] == {'kind': 'eval', 'step': 6, 'epoch': 6.0, SCORE: 0.5, 'other': None}
    assert run.closed


def test_finished_run_does_nothing(tmp_path, capsys):
    Run(tmp_path)()
    capsys.readouterr()
    again = Run(tmp_path)
    assert int(again().step) == 12
    assert (again.seen, again.evaluated) == ([], [])
    assert len(again.records('goodput')) == 1
    assert capsys.readouterr().out == ''


def test_where_the_time_went(tmp_path, capsys):
    run, batches = Run(tmp_path), Run.batches

    def slow(step):
        for batch in batches(run, step):
            time.sleep(0.05)
            yield batch

    run.batches = slow
    run.on_evaluation = lambda step: time.sleep(0.2)
    run()
    (record,) = run.records('goodput')
    assert record['step'] == 12
    assert sum(record[part] for part in PARTS) == pytest.approx(1)
    assert all(0 <= record[part] <= 1 for part in PARTS)
    assert record['data_wait'] * record['seconds'] >= 12 * 0.05 - 0.1  # steps that are at work for a moment
    assert record['evaluation'] * record['seconds'] >= 2 * 0.2
    assert all(record[part] > 0 for part in ('steps', 'checkpoints', 'other'))
    assert all(record['data_wait'] > 0.5 for record in run.records('train'))
    told = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r'time: 00:\d\d', told[-7])
    assert [line[9:] for line in told[-6:]] == ['steps', 'compilation', 'data wait', 'evaluation', 'checkpoints', 'other']
    assert sum(float(line[:6]) for line in told[-6:]) == pytest.approx(100, abs=0.3)


def test_lines_without_a_terminal(tmp_path, capsys):
    Run(tmp_path, interval=0)()
    told = [re.sub(r'\d+ frames/s, \d+ %|\d\d:\d\d left|\d+\.\d s$', '#', line) for line in capsys.readouterr().out.splitlines()]
    steps = [f'step {step}/12: loss 5.00e-01, pck 0.250, # waiting for data, #' for step in range(2, 13)]
    evaluations = [f'step {step}, epoch {step}.0: {SCORE} 0.5000' for step in (6, 12)]
    assert told[:-7] == [
        'compiling the training step ...',
        'compiled the training step in #',
        *steps[:5],
        'compiling the evaluation ...',
        'compiled the evaluation in #',
        evaluations[0],
        *steps[5:],
        evaluations[1],
    ]


def test_profile(tmp_path):
    run = Run(tmp_path, profile='3:2')
    run.on_step = lambda step: os.kill(os.getpid(), signal.SIGUSR1) if step == 7 else None
    run()
    assert {path.name for path in (tmp_path / 'profile').iterdir()} == {'step3', 'step8'}
    assert len(list((tmp_path / 'profile').rglob('*.xplane.pb'))) == 2
    assert run.seen == list(range(12))


def test_stop_before_the_first_step(tmp_path):
    run = Run(tmp_path)
    request = loop.StopRequest()
    before = signal.getsignal(signal.SIGTERM)
    with request as stop:
        stop.check(0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(loop.StoppedError, match='stopped by SIGTERM after step 0') as stopped:
            stop.check(0)
    assert stopped.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    run.on_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 1 else None
    with pytest.raises(loop.StoppedError, match='after step 1'):
        run()
    assert run.saved() == [1]


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_stop_in_training_saves_and_goes_on(tmp_path, number):
    first = Run(tmp_path)
    first.on_step = lambda step: os.kill(os.getpid(), number) if step == 5 else None
    with pytest.raises(loop.StoppedError) as stopped:
        first()
    assert stopped.value.signal == number
    assert first.saved() == [3, 5]
    assert first.closed
    second = Run(tmp_path)
    second()
    assert second.seen == list(range(5, 12))
    whole = Run(tmp_path / 'whole')
    whole()

    def told(run: Run) -> list[dict]:
        return [{key: value for key, value in record.items() if key not in PACE} for record in run.records()]

    assert told(second) == told(whole)


def test_stop_in_an_evaluation_repeats_it(tmp_path):
    first = Run(tmp_path)
    first.on_evaluation = lambda step: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(loop.StoppedError, match='after step 6'):
        first()
    assert first.saved() == [3, 6]
    assert [record['kind'] for record in first.records()] == ['train'] * 3
    second = Run(tmp_path)
    second()
    assert len(second.evaluated) == 2
    assert second.seen == list(range(6, 12))
    _, meta = Checkpoints(tmp_path, read_only=True).restore_weights('best', first_state().weights)
    assert meta['evaluated']


@pytest.mark.parametrize(('value', 'shown'), [(float('nan'), 'nan'), (float('inf'), 'inf')])
def test_metric_that_is_not_finite_stops_the_run_unsaved(tmp_path, value, shown):
    run = Run(tmp_path)

    def spoil(step):
        if step == 6:  # it would be saved after this step
            run.values['pck'] = value

    run.on_step = spoil
    with pytest.raises(InputError, match=f'^pck is {shown} at step 6, on the clips clip5, clip7; .* not saved'):
        run()
    assert run.saved() == [3]
    assert run.evaluated == []
    assert max(record['step'] for record in run.records()) == 4


def test_metric_that_is_not_finite_where_the_run_is_stopped(tmp_path):
    run = Run(tmp_path)

    def spoil(step):
        if step == 5:
            run.values['loss'] = float('nan')
            os.kill(os.getpid(), signal.SIGTERM)

    run.on_step = spoil
    with pytest.raises(InputError, match='loss is nan at step 5'):
        run()
    assert run.saved() == [3]


def test_evaluation_without_a_value_is_no_best(tmp_path):
    run = Run(tmp_path)
    run.evaluate = lambda weights, check: {SCORE: float('nan')}
    run()
    assert run.saved() == [9, 12]
    assert not (tmp_path / 'checkpoints' / '12' / 'metrics').exists()


def test_full_disk_ends_the_run_with_a_clear_error(tmp_path, monkeypatch):
    run, rename = Run(tmp_path), os.rename

    def full(source, target, **kwargs):
        if os.path.basename(os.fspath(target)) == '9':
            raise OSError(28, 'No space left on device', str(target))
        return rename(source, target, **kwargs)

    monkeypatch.setattr(os, 'rename', full)
    with pytest.raises(InputError, match='No space left on device'):
        run()
    monkeypatch.undo()
    again = Run(tmp_path)
    again()
    assert again.seen == list(range(6, 12))


def test_records_after_the_checkpoint_are_dropped(tmp_path):
    lines = [{'kind': 'train', 'step': step} for step in (2, 4)] + [{'kind': kind, 'step': 6} for kind in ('train', 'eval')]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    for step, evaluated, kept in ((6, True, 4), (6, False, 3), (5, True, 2), (0, False, 0)):
        (tmp_path / 'metrics.jsonl').write_text(text + '{"kind": "train", "st')  # a kill cut the last line
        open_writers((), tmp_path, step=step, evaluated=evaluated, config={})
        assert (tmp_path / 'metrics.jsonl').read_text() == ''.join(json.dumps(line) + '\n' for line in lines[:kept])


@pytest.mark.parametrize(
    ('text', 'devices', 'sharing'), [('global', 6, 0), ('device', 6, 1), ('group:3', 6, 3), ('group:1', 1, 1)]
)
def test_devices_that_share_statistics(text, devices, sharing):
    assert loop.sharing_devices(text, devices) == sharing


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        *(
            (text, 'global, device, or group:N')
            for text in ('', 'Global', 'group', 'group:', 'group:0', 'group:-2', 'group:x', 'group:²')
        ),
        ('group:4', r'6 device\(s\) cannot be split into groups of 4'),
    ],
)
def test_statistics_that_cannot_be_shared(text, told):
    with pytest.raises(InputError, match=rf'^config\.train\.batch_norm={re.escape(repr(text))}: {told}'):
        loop.sharing_devices(text, 6)
