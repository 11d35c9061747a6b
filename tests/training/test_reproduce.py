"""The tables' runs with a training that is played, and one with a real one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
from absl import flags

from kimnet_jax import reproduce
from kimnet_jax.configs import common
from kimnet_jax.configs.models import ROWS
from kimnet_jax.core.errors import InputError
from kimnet_jax.reporting.paper import ABLATIONS, Ablation, AblationRow
from kimnet_jax.tasks import reproduction
from kimnet_jax.training import sweep

ROOT = pathlib.Path(__file__).resolve().parents[2]

METRIC = 'torso/pck/0.2/mPCK'
# what a row does is in the file PLAY; each start leaves a line in the file CALLS
FAKE = """
import json, os, pathlib, signal, sys, time

given = dict(part.removeprefix('--').split('=', 1) for part in sys.argv[1:])
folder, row, seed = pathlib.Path(given['workdir']), given['config'].rpartition('row=')[2], int(given['config.seed'])
with open(os.environ['CALLS'], 'a') as file:
    file.write(json.dumps([row, seed, os.environ.get('CUDA_VISIBLE_DEVICES'), given]) + chr(10))
play = json.loads(pathlib.Path(os.environ['PLAY']).read_text()).get(row)

def end(number, frame):
    (folder / 'saved').touch()
    if play == 'wait':
        sys.exit(128 + number)

def wait(reason):
    deadline = time.monotonic() + 60
    while not reason():
        assert time.monotonic() < deadline
        time.sleep(0.01)

if play == 'error':
    sys.exit('a warning' + chr(10) + 'error: the loss is nan; lower the rate')  # status 1
if play == 'no data':
    print('error: nothing is built there; build it', file=sys.stderr)
    sys.exit(2)
dataset = {'name': 'kinetic_puppets', 'config': 'mini', 'data_dir': os.environ['DATA']}
dataset |= {'train_split': 'train', 'eval_split': 'test'}
(folder / 'config.json').write_text(json.dumps({'config': {'dataset': dataset}, 'skeleton': 'jhmdb'}))
if play == 'nan':
    print('error: loss is nan at step 3', file=sys.stderr)
    sys.exit(2)
if play == 'meet':  # goes on when the other one is at work, too
    (folder / 'here').touch()
    wait(lambda: len(list(folder.parent.parent.glob('*/seed0/here'))) > 1)
if play in ('wait', 'deaf') and not (folder / 'saved').exists():
    signal.signal(signal.SIGTERM, end)
    (folder / 'at work').touch()
    time.sleep(60)
    time.sleep(60)
last = {'kind': 'eval', 'step': 2, 'clips': 3, 'frames': 30, 'METRIC': SCORES[row] + seed / 100}
records = [{'kind': 'train', 'step': 2}, last, {'kind': 'goodput', 'step': 2, 'seconds': 1.0}]
(folder / 'metrics.jsonl').write_text(''.join(json.dumps(record) + chr(10) for record in records))
"""
SCORES = dict.fromkeys(ROWS, 0.5) | {'kimnet': 0.6, 'kimnet_dkd': 0.58}


class Fake:
    """A folder for runs; its trainings are played."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self._play, self._calls = folder, folder / 'play.json', folder / 'calls.txt'
        self.play()

    def play(self, **rows: str) -> None:
        self._play.write_text(json.dumps(rows))

    def __call__(self, *argv: str, settings: tuple[str, ...] = ()) -> int:
        values = flags.FlagValues()
        reproduce.define_flags(values)
        rest = values(['reproduce', f'--workdir={self.folder / "runs"}', *argv])
        return reproduce.run(rest, settings, values)

    def calls(self) -> list[list]:
        """[row, seed, GPU, flags] of the starts since the last time."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def started(self) -> list[tuple[str, int]]:
        return [(row, seed) for row, seed, *_ in self.calls()]

    def run(self, row: str, preset: str = 'tiny') -> pathlib.Path:
        return self.folder / 'runs/kinetic_puppets' / preset / row / 'seed0'

    def report(self, table: str, preset: str = 'tiny') -> dict:
        report = json.loads((self.folder / 'runs/kinetic_puppets' / preset / f'{table}.json').read_text())
        return {row['row']: row for row in report['rows']} | {'notes': report['notes']}

    def interrupt(self, *files: pathlib.Path) -> threading.Thread:
        """Ctrl-C as soon as each of the files is there."""

        def wait() -> None:
            for file in files:
                deadline = time.monotonic() + 60
                while not file.exists() and time.monotonic() < deadline:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread


def devices(monkeypatch, backend: str, count: int) -> None:
    monkeypatch.setattr(sweep, 'DEVICES', (sys.executable, '-c', f'print("{backend}", {count})'))


@pytest.fixture
def fake(tmp_path, monkeypatch, data_dir) -> Fake:
    script = tmp_path / 'fake_train.py'
    script.write_text(FAKE.replace('METRIC', METRIC).replace('SCORES', repr(SCORES)))
    monkeypatch.setattr(reproduction, 'TRAIN', (sys.executable, str(script)))
    for name, value in {'PLAY': 'play.json', 'CALLS': 'calls.txt'}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv('DATA', str(data_dir))
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    devices(monkeypatch, 'cpu', 1)
    return Fake(tmp_path)


def test_rows_that_tables_share_run_once_and_not_again(fake, capsys):
    assert fake('table5', 'table6', '--seeds=2') == 0
    calls = fake.calls()
    rows = ['kmm_share_qk', 'kmm_no_scale', 'kmm_residual', 'kmm_heatmap', 'kimnet', 'kimnet_dkd', 'kimnet_jrpsp', 'kimnet_none']
    assert [(row, seed) for row, seed, *_ in calls] == [(row, seed) for seed in (0, 1) for row in rows]
    given = calls[0][3]
    assert given['config'] == 'configs/kinetic_puppets.py:preset=tiny,row=kmm_share_qk'
    assert given['config.train.steps'] == str(reproduce.STEPS['tiny'])
    shown = capsys.readouterr().out
    assert ' 1/16 kmm_share_qk' in shown
    assert f'{METRIC} 0.5000' in shown
    # seeds 0 and 1: kimnet 60 and 61, kimnet_dkd 58 and 59: 2 below in both
    assert fake.report('table5')['kimnet']['ours']['mean'] == pytest.approx(60.5)
    gap = fake.report('table6')['kimnet_dkd']['gap']
    assert (gap['mean'], gap['deviation']) == pytest.approx((-2, 0))
    assert '| KIMNet-DKD' in shown
    assert '-2.0 ± 0.0' in shown

    assert fake('table6', '--seeds=3') == 0
    assert fake.started() == [(row, 2) for row in rows[5:6] + rows[6:7] + rows[4:5] + rows[7:]]


def test_a_row_that_is_another_one_in_a_preset_runs_once(fake):
    assert fake('table3', 'table6', '--preset=full', '--seeds=1') == 0
    calls = fake.calls()
    assert [row for row, *_ in calls].count('kimnet') == 1
    assert 'encoder_resnet50' not in [row for row, *_ in calls]
    assert 'config.train.steps' not in calls[0][3]
    assert fake.report('table3', 'full')['encoder_resnet50']['ours']['mean'] == pytest.approx(60)


def test_same_is_what_the_configs_say():
    for preset, same in reproduction.SAME.items():
        models = {}
        for row in ROWS:
            config = common.base()
            common.set_model(config, '', row, preset)
            models[row] = config.to_dict()
        assert same == {row: 'kimnet' for row in ROWS if row != 'kimnet' and models[row] == models['kimnet']}
        different = [models[row] for row in ROWS if row not in same]
        assert all(model not in different[:i] for i, model in enumerate(different))


def test_every_row_is_in_a_table():
    assert {row.name for table in ABLATIONS.values() for row in table.rows} == set(ROWS)


def test_a_failed_row_is_told_and_the_others_go_on(fake, capsys):
    fake.play(kimnet_jrpsp='error', kimnet_none='nan')
    assert fake('table6', '--seeds=1') == 1
    assert len(fake.started()) == 4
    shown = capsys.readouterr().out
    log = fake.run('kimnet_jrpsp') / 'log.txt'
    assert f'failed (status 1, {log}): error: the loss is nan; lower the rate\n' in shown
    report = fake.report('table6')
    assert report['kimnet_jrpsp']['ours'] is None
    assert report['kimnet']['ours']['mean'] == pytest.approx(60)
    assert [note.partition(', failed')[0] for note in report['notes'][-2:]] == [
        'Missing: `kimnet_jrpsp` of seed 0',
        'Missing: `kimnet_none` of seed 0',
    ]
    fake.play()
    assert fake('table6', '--seeds=1') == 0
    assert fake.started() == [('kimnet_jrpsp', 0), ('kimnet_none', 0)]


def test_an_error_before_the_first_run_begins_ends_it_all(fake):
    fake.play(kimnet_dkd='no data')
    with pytest.raises(InputError, match=r'^nothing is built there; build it$'):
        fake('table6')
    assert fake.started() == [('kimnet_dkd', 0)]
    fake.play()
    assert fake('table6', '--seeds=1', '--steps=4') == 0  # what did not begin binds to nothing
    assert {given['config.train.steps'] for *_, given in fake.calls()} == {'4'}


def test_interrupted_runs_save_and_the_same_command_goes_on(fake, capsys):
    fake.play(kimnet_jrpsp='wait')
    before = signal.getsignal(signal.SIGINT)
    thread = fake.interrupt(fake.run('kimnet_jrpsp') / 'at work')
    assert fake('table6', '--seeds=1') == 130
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert fake.started() == [('kimnet_dkd', 0), ('kimnet_jrpsp', 0)]
    assert (fake.run('kimnet_jrpsp') / 'saved').exists()
    shown = capsys.readouterr().out
    assert 'stopped by SIGINT; rerun the same command to resume' in shown
    assert 'failed' not in shown

    assert fake('table6', '--seeds=1') == 0
    assert fake.started() == [('kimnet_jrpsp', 0), ('kimnet', 0), ('kimnet_none', 0)]


def test_the_second_interrupt_kills(fake):
    fake.play(kimnet_dkd='deaf')
    folder = fake.run('kimnet_dkd')
    thread = fake.interrupt(folder / 'at work', folder / 'saved')
    assert fake('table6') == 130
    thread.join()
    assert fake.started() == [('kimnet_dkd', 0)]
    assert not (folder / 'result.json').exists()


def test_a_killed_reproduce_leaves_no_run_at_work(tmp_path):
    (tmp_path / 'parent.py').write_text(f"""
import pathlib, signal, sys, time
from kimnet_jax.training import sweep
folder = pathlib.Path({str(tmp_path)!r})
child = (
    'import pathlib, signal, sys, time;'
    'signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path(sys.argv[1], "saved").touch(), sys.exit()));'
    'pathlib.Path(sys.argv[1], "at work").touch(); time.sleep(60)'
)
with (folder / '.lock').open('w') as lock:
    sweep._start(sweep.Run('kimnet', 0, folder), [sys.executable, '-c', child, str(folder)], {{}}, lock)
    time.sleep(60)
""")

    def wait_for(name: str) -> None:
        deadline = time.monotonic() + 30
        while not (tmp_path / name).exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with subprocess.Popen([sys.executable, 'parent.py'], cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(ROOT)}) as parent:
        wait_for('at work')
        parent.kill()
    wait_for('saved')


def test_a_run_on_each_gpu(fake, monkeypatch):
    devices(monkeypatch, 'gpu', 2)
    fake.play(kimnet_dkd='meet', kimnet_jrpsp='meet')
    assert fake('table6', '--seeds=1') == 0
    calls = fake.calls()
    assert {row: gpu for row, _, gpu, _ in calls[:2]} == {'kimnet_dkd': '0', 'kimnet_jrpsp': '1'}
    assert {gpu for _, _, gpu, _ in calls} == {'0', '1'}


def test_slots():
    def gpus(slots: list[dict[str, str]]) -> list[str]:
        return [slot['CUDA_VISIBLE_DEVICES'] for slot in slots]

    assert gpus(sweep.make_slots('gpu', 3, None, {})) == ['0', '1', '2']
    assert gpus(sweep.make_slots('gpu', 3, 2, {})) == ['0', '1']
    assert gpus(sweep.make_slots('gpu', 2, None, {'CUDA_VISIBLE_DEVICES': '3,5'})) == ['3', '5']
    crowded = sweep.make_slots('gpu', 1, 2, {})
    assert gpus(crowded) == ['0', '0']
    assert all(slot['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false' for slot in crowded)
    assert sweep.make_slots('cpu', 1, None, {}) == sweep.make_slots('tpu', 8, None, {}) == [{}]
    assert sweep.make_slots('cpu', 1, 2, {}) == [{}, {}]
    with pytest.raises(InputError, match=r'--jobs 2: the TPU'):
        sweep.make_slots('tpu', 8, 2, {})


def test_no_device_is_explained(fake, monkeypatch):
    monkeypatch.setattr(sweep, 'DEVICES', (sys.executable, '-c', 'raise RuntimeError("no driver")'))
    with pytest.raises(InputError, match='JAX finds no device: RuntimeError: no driver'):
        fake('table6')


def test_one_command_at_a_time_in_a_folder(fake):
    with sweep.alone(fake.run('').parents[0]), pytest.raises(InputError, match='other runs are using this folder'):
        fake('table6')


def test_other_settings_need_another_folder(fake):
    assert fake('table6', '--seeds=1', '--epochs=0.5', settings=('--config.loader.threads=1',)) == 0
    assert {given['config.train.epochs'] for *_, given in fake.calls()} == {'0.5'}
    assert fake('table6', '--seeds=1', '--epochs=0.5') == 0  # loader fields change no number
    with pytest.raises(InputError, match=r'there --config.train.epochs=0.5 --config.train.steps=0; now --config.train.steps=9\)'):
        fake('table6', '--seeds=1', '--steps=9')
    assert fake('table6', '--seeds=1', '--steps=9', '--config=configs/kinetic_puppets.py:joints=13') == 0
    assert (fake.folder / 'runs/kinetic_puppets_joints13/tiny/table6.md').exists()


@pytest.mark.parametrize(
    ('argv', 'settings', 'message'),
    [
        ([], [], 'no table is named: say one or more of table3, table4, table5, table6, or all'),
        (['table3', 'table7'], [], "'table7' is no table"),
        (['all', '--steps=3', '--epochs=1'], [], 'give one of them'),
        (['all', '--epochs=inf'], [], '--epochs=inf: give a number'),
        (['all', '--epochs=nan'], [], '--epochs=nan: give a number'),
        (['all'], ['--config.train.steps=3'], '--config.train.steps=3: use --seeds, --steps or --epochs'),
        (['all'], ['--config.dtype'], 'give it as --config.dtype=VALUE'),
        (['all', '--config=configs/sub_jhmdb.py:fold=2,preset=full'], [], 'leave preset=full out'),
    ],
)
def test_what_cannot_be_done_is_explained(fake, argv, settings, message):
    with pytest.raises(InputError, match=message):
        fake(*argv, settings=settings)
    assert fake.started() == []


def test_a_real_row(tmp_path, monkeypatch, capsys, command, environment):
    """Without the pose initializer and with the settings of other tests, whose compiled programs it shares."""
    row = AblationRow('without_p', 'w/o-P', 96.3, None)
    monkeypatch.setitem(ABLATIONS, 'table3', Ablation('III', 'one row', 'itself', (row,)))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    values = flags.FlagValues()
    reproduce.define_flags(values)
    rest = values(['reproduce', 'table3', '--seeds=1', '--steps=12', f'--workdir={tmp_path}'])
    given = [part for part in command(tmp_path) if part.startswith('--config.')]
    settings = [part for part in given if not part.startswith(('--config.model.', '--config.train.steps='))]
    assert reproduce.run(rest, settings, values) == 0, (tmp_path / 'kinetic_puppets/tiny/without_p/seed0/log.txt').read_text()
    folder = tmp_path / 'kinetic_puppets/tiny'
    last = json.loads((folder / 'without_p/seed0/metrics.jsonl').read_text().splitlines()[-2])  # the last one is of time
    assert (last['kind'], last['step']) == ('eval', 12)
    (told,) = json.loads((folder / 'table3.json').read_text())['rows']
    assert told['ours']['seeds'] == {'0': pytest.approx(100 * last[METRIC])}
    shown = capsys.readouterr().out
    assert 'kinetic_puppets/mini, split test: 3 clips' in shown
    assert '1/1 without_p         seed 0  0:0' in shown
