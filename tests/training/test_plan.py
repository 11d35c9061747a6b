"""`kimnet plan`: what a training will need, told by compilers of devices that are not there."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import sys
import types

import jax
import pytest
from absl import flags
from jax.experimental import topologies

from kimnet_jax import plan as command_plan
from kimnet_jax.command_line import parse_flags
from kimnet_jax.configs import hanet, own_data, penn_action, sub_jhmdb
from kimnet_jax.core.command import run_command
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.data_pipelines.loader import train_batches
from kimnet_jax.models import VIDEO_MODELS
from kimnet_jax.reporting.plan import page, render
from kimnet_jax.tasks import ahead_of_time, fit, heatmaps, plan
from kimnet_jax.training import chips, hlo, loop, session, sharding
from kimnet_jax.training.state import placed

ROOT = pathlib.Path(__file__).resolve().parents[2]

TINY = 'preset=tiny'
QUICKEST = f'{TINY},model=pose_resnet'


@pytest.fixture
def keeps_config():
    """The settings of JAX that planning changes."""
    names = ('jax_platforms', 'jax_enable_compilation_cache', 'jax_traceback_in_locations_limit')
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def on_this_cpu(monkeypatch, keeps_config):
    """One device of this machine stands for a chip of a kind."""
    jax.config.update('jax_traceback_in_locations_limit', -1)
    monkeypatch.setattr(ahead_of_time, 'devices_of', lambda topology: jax.devices()[:1])
    monkeypatch.setattr(ahead_of_time, 'compile_apart', lambda *of: ahead_of_time.compile_step(*of))  # here, where it is patched
    monkeypatch.setattr(ahead_of_time, 'COMPILERS', {'tpu': 'flax', 'gpu': 'flax'})  # a package that is installed

    def topology(**changes):
        return chips.Topology('v5e:1x1', dataclasses.replace(chips.CHIPS['v5e'], **changes), (1, 1))

    return topology


@pytest.mark.parametrize(
    ('text', 'label', 'shape'),
    [
        ('v5e:16x16', 'TPU v5e', (16, 16)),
        ('v6e:2x4', 'TPU v6e', (2, 4)),
        ('v4:2x2x1', 'TPU v4', (2, 2, 1)),
        ('v5p:4x4x8', 'TPU v5p', (4, 4, 8)),
        ('h100x8', 'H100 SXM', (8,)),
        ('h100x64', 'H100 SXM', (64,)),
    ],
)
def test_topologies_are_read(text, label, shape):
    found = chips.parse_topology(text)
    assert (found.chip.label, found.shape) == (label, shape)


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('', 'unknown; known chips: v4, v5e, v5p, v6e, h100'),
        ('v9:2x2', '--topology=v9:2x2: unknown; known chips'),
        ('v5e', 'unknown'),
        ('v5e:2', 'unknown'),
        ('v5e:2xx4', 'unknown'),
        ('h100', 'unknown'),
        ('h100:8', 'unknown'),
        ('v5ex8', 'unknown'),
        ('v5e:2x2x2', 'a TPU v5e slice has 2 axes'),
        ('v5p:2x2', 'a TPU v5p slice has 3 axes'),
        ('v5e:0x4', '0 chips'),
        ('v5e:512x512', '262144 chips'),
        ('h100x12', 'must be a multiple of 8'),
    ],
)
def test_what_is_no_topology_is_told(text, told):
    with pytest.raises(InputError, match=told):
        chips.parse_topology(text)


@pytest.mark.parametrize(
    ('chip', 'number', 'microseconds'),
    [
        ('v5e', 8, 2 * (1 + 3)),  # 2 x 4, lines: to the end and back
        ('v5e', 64, 2 * (7 + 7)),
        ('v5e', 256, 2 * (8 + 8)),  # rings: half of the way around in both directions
        ('v5p', 8, 2 * (1 + 1 + 1)),
        ('v5p', 64, 2 * (2 + 2 + 2)),  # 4 x 4 x 4
        ('v5p', 256, 2 * (2 + 4 + 4)),  # 4 x 8 x 8
        ('v5p', 32, 2 * (1 + 3 + 3)),  # 2 x 4 x 4: no whole cube, no ring
        ('v5e', 128, 2 * (7 + 8)),  # 8 x 16: one ring
        ('h100', 8, 6.8 + 2 * 7 * 0.6),
        ('h100', 64, 6.8 + 2 * (7 * 0.6 + 3 * 5)),
    ],
)
def test_latency(chip, number, microseconds):
    assert chips.CHIPS[chip].all_reduce(number, 0, waits=1) == pytest.approx(1e-6 * microseconds)
    assert chips.CHIPS[chip].all_reduce(number, 0, waits=3) == pytest.approx(3e-6 * microseconds)


def test_transfer():
    """A GB over 256 of v5e: each sends 255/256 of it twice, at 200 GB/s; over 8, without rings, 7/8 at half of that; over 128, at
    three quarters. Over 16 H100: 7/8 twice at 450 GB/s, then half of an eighth twice at 50 GB/s."""
    assert chips.CHIPS['v5e'].all_reduce(256, 10**9, waits=0) == pytest.approx(2 * 255 / 256 / 200)
    assert chips.CHIPS['v5e'].all_reduce(8, 10**9, waits=0) == pytest.approx(2 * 7 / 8 / 100)
    assert chips.CHIPS['v5e'].all_reduce(128, 10**9, waits=0) == pytest.approx(2 * 127 / 128 / 150)
    assert chips.CHIPS['h100'].all_reduce(16, 10**9, waits=0) == pytest.approx(2 * 7 / 8 / 450 + 2 / 8 / 2 / 50)
    assert chips.CHIPS['v5e'].all_reduce(1, 10**9, waits=9) == 0


@pytest.mark.parametrize('name', chips.CHIPS)
def test_clocks_are_those_at_which_the_peak_is_reached(name):
    chip = chips.CHIPS[name]
    operations = {'v5e': 2**17, 'v4': 2**18, 'v5p': 2**18, 'v6e': 2**19}
    assert (chip.clock is None) == (chip.platform == 'gpu')
    assert chip.clock is None or chip.clock * operations[name] == pytest.approx(chip.peak, rel=0.01)


@pytest.mark.parametrize(
    ('message', 'needed'),
    [
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (768.00G) exceeds '
            'available HBM (15.75G).',
            768 * 2**30,
        ),
        ('RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 20.50G of 15.75G hbm. Exceeded ...', 41 * 2**29),
        ('RESOURCE_EXHAUSTED: Used 512.00M of 256.00M', 2**29),
        ('RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem', None),
        ('INTERNAL: (1.00G) exceeds available HBM (15.75G)', None),
    ],
)
def test_what_the_compiler_says_of_memory(message, needed):
    assert ahead_of_time.needed_memory(message) == needed


def test_the_batch_is_what_the_loader_gives(data_dir):
    config = sub_jhmdb.get_config(TINY)
    config.dataset.update(name='kinetic_puppets', config='mini', data_dir=str(data_dir))
    settings = make(heatmaps.Settings, config.to_dict())
    clips = settings.dataset.open('train')
    batch = next(train_batches(clips, settings.data, batch_size=2, seed=0, start_step=0, loader=settings.loader))
    expected = {key: (batch[key].shape, batch[key].dtype) for key in loop.DEVICE_KEYS}
    shapes = ahead_of_time.batch_shapes(settings.data, 2, clips.skeleton.num_joints)
    assert {key: (value.shape, value.dtype) for key, value in shapes.items()} == expected


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'train.batch_norm': 'device', 'optimizer.accumulate': 2, 'train.average_decay': 0.0, 'train.gradient_dtype': 'bfloat16'},
    ],
)
def test_what_is_compiled_is_what_is_trained(changes, data_dir, monkeypatch, tmp_path):
    """The same program, character by character, as that of a training with this config."""
    config = sub_jhmdb.get_config(TINY)
    config.dataset.update(name='kinetic_puppets', config='mini', data_dir=str(data_dir))
    config.train.update(batch_size=4 * jax.device_count(), steps=40)
    config.optimizer.warmup_epochs = 50.0  # half of the steps, however many clips there are: a plan knows no number of clips
    config.update_from_flattened_dict(changes)
    trained = {}
    monkeypatch.setattr(session, 'run', lambda folder, config, **given: trained.update(given) or 0)
    heatmaps.train(config.to_dict(), tmp_path)
    settings = make(heatmaps.Settings, config.to_dict())
    average = settings.train.average_decay > 0
    state = placed(session.create_state(trained['weights'], trained['optimizer'], average=average), trained['mesh'])
    batch = ahead_of_time.batch_shapes(settings.data, settings.train.batch_size, JHMDB.num_joints)
    planned = ahead_of_time.trace_step(settings, JHMDB, sharding.make_mesh())
    assert planned.lower().as_text() == trained['train_step'].trace(state, batch).lower().as_text()


def test_the_schedule_is_made_in_one_place(monkeypatch):
    """A training and its plan get the same optimizer: whatever `make_stepping` gives."""
    settings = make(heatmaps.Settings, sub_jhmdb.get_config(TINY).to_dict())
    told = fit.make_stepping(settings, loop.make_plan(80, settings.train), sharding.make_mesh())
    assert told.accumulate == settings.optimizer.accumulate
    assert told.average_decay == settings.train.average_decay
    assert float(told.schedule(0)) == 0


@pytest.mark.quick_compilation
def test_a_plan(on_this_cpu):
    """Of a network that compiles quickly, for a CPU, whose compiler has no estimate."""
    config = sub_jhmdb.get_config(QUICKEST).to_dict() | {'dtype': 'float32'}
    result = plan.plan(config, on_this_cpu(), batch_per_chip=2)
    assert (result['network'], result['preset'], result['dtype']) == ('PoseResNet', 'tiny', 'float32')
    assert result['memory']['fits']
    assert result['memory']['needed'] == sum(result['memory']['parts'].values()) > 2**20
    assert result['cycles'] == result['collectives'] == {}
    assert result['here']['communication_ms'] == 0
    seconds = result['compute_ms'] / 1e3
    assert result['here']['frames_per_s_per_chip'] == pytest.approx(2 * 3 / seconds)
    assert result['roofline']['flops'] > 0
    assert 0 < result['roofline']['bytes'] < 2**30
    text = render(json.loads(json.dumps(result)))
    assert '# PoseResNet (tiny) on v5e:1x1: 1 x TPU v5e' in text
    assert 'The step fits.' in text


@pytest.mark.quick_compilation
def test_operations_go_to_their_parts(on_this_cpu):
    settings = make(heatmaps.Settings, {**sub_jhmdb.get_config(TINY).to_dict(), 'dtype': 'float32'})
    small = dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch_size=2))
    mesh = sharding.make_mesh(jax.devices()[:1])
    program = hlo.Program(ahead_of_time.trace_step(small, JHMDB, mesh).lower().compile().as_text())
    named = [plan.part(program, line) for lines in program.computations.values() for line in lines if line.op_name]
    found = {name.removesuffix(' (backward)') for name in named}
    assert {*plan._PARTS} - {'chain'} <= found | {'network'}
    assert named.count('rest of the program') < 0.1 * len(named)
    assert {'pose initializer (backward)', 'feature encoder (backward)', 'temporal module (backward)'} <= {*named}
    assert 'optimizer (backward)' not in named


@pytest.mark.quick_compilation
def test_too_little_memory_is_a_result(on_this_cpu):
    result = plan.plan(sub_jhmdb.get_config(QUICKEST).to_dict(), on_this_cpu(hbm=2**20), batch_per_chip=1)
    beyond = result['memory']['needed'] - 2**20
    assert beyond > 0
    assert not result['memory']['fits']
    text = render(result)
    assert f'The step does not fit, by {beyond / 2**20:.2f} MiB.' in text
    assert 'does not fit, by' in page([result])


def test_the_page_tells_batches_and_numbers_of_chips_apart():
    """The committed results of the paper's network; estimates of parts stand there once for each batch."""
    files = sorted((ROOT / 'benchmarks/results').glob('plan_full_v5e-*.json'))
    found = [json.loads(file.read_text()) for file in files]
    results = [result for result in found if result['batch_norm'] == 'global' and not result['remat']]
    text = page(results)
    assert text.count('### ') == 1
    for result in results:
        number = result['batch_per_chip']
        assert re.search(rf'^\| {result["topology"]} +\| +{number} \| .* GiB \|', text, re.MULTILINE)
        assert re.search(rf'^\| {result["topology"]} +\| +{number} \| .* %\) \|', text, re.MULTILINE)
    (head,) = (line for line in text.splitlines() if '4 clips' in line)
    assert {cell.strip() for cell in head.split('|')} == {'', 'v5e:2x4, 4 clips', 'v5e:2x4, 8 clips', 'v5e:2x4, 16 clips'}


def fake_steps(monkeypatch, needed, limit):
    """Compilations that need `needed(batch, remat)` bytes; returns those that were made."""
    made = []

    def compiled(settings, skeleton, topology):
        batch, remat = settings.train.batch_size, settings.model['remat']
        made.append((batch, remat))
        size = needed(batch, remat)
        memory = ahead_of_time.Memory(size, 0, 0, 0) if size <= limit else None
        return ahead_of_time.Step(1.0, 8, memory, size, {}, '')

    monkeypatch.setattr(ahead_of_time, 'compile_apart', compiled)
    return made


def test_the_largest_batch_lies_on_a_line(on_this_cpu, monkeypatch):
    """1000 + 100 a clip: 50 clips make 6000; with remat 1200 + 30 a clip: 160 clips make 6000."""
    made = fake_steps(monkeypatch, lambda batch, remat: 1200 + 30 * batch if remat else 1000 + 100 * batch, 6000)
    config, one = sub_jhmdb.get_config(TINY).to_dict(), on_this_cpu(hbm=6000)
    result = plan.plan(config, one, batch_per_chip=4, largest=True)
    assert made == [(4, False), (8, False), (4, True), (8, True)]
    assert {name: found['batch_per_chip'] for name, found in result['largest'].items()} == {'no remat': 50, 'remat': 160}
    assert result['largest']['remat']['compiled'] == {'4': 1320, '8': 1440}
    assert result['largest']['remat']['verified'] is None


def test_the_largest_batch_is_compiled_where_that_is_asked_for(on_this_cpu, monkeypatch):
    """What grows faster than the line is found out."""
    made = fake_steps(monkeypatch, lambda batch, remat: 1000 + 100 * batch + (5 if batch > 40 else 0), 6000)
    config, one = sub_jhmdb.get_config(TINY).to_dict(), on_this_cpu(hbm=6000)
    result = plan.plan(config, one, batch_per_chip=4, largest=True, verify=True)
    assert (50, False) in made
    assert result['largest']['no remat']['verified'] == {'fits': False, 'needed': 6005}


def test_the_largest_batch_below_one_that_hardly_fits(on_this_cpu, monkeypatch):
    """Twice as many clips do not fit: half as many are compiled instead."""
    made = fake_steps(monkeypatch, lambda batch, remat: 1000 + 100 * batch, 1500)
    result = plan.plan(sub_jhmdb.get_config(TINY).to_dict(), on_this_cpu(hbm=1500), batch_per_chip=4, largest=True)
    assert made[:3] == [(4, False), (8, False), (2, False)]
    assert result['largest']['no remat']['batch_per_chip'] == 5
    assert result['largest']['no remat']['compiled'] == {'2': 1200, '4': 1400}


@pytest.mark.parametrize(('limit', 'row'), [(1250, ('2', '1, 2')), (1150, ('1', '1')), (90, ('0', 'none that fits'))])
def test_the_largest_batch_below_one_that_does_not_fit(limit, row, on_this_cpu, monkeypatch):
    made = fake_steps(monkeypatch, lambda batch, remat: 1000 + 100 * batch, limit)
    result = plan.plan(sub_jhmdb.get_config(TINY).to_dict(), on_this_cpu(hbm=limit), batch_per_chip=8, largest=True)
    assert [clips for clips, remat in made if not remat] == [8, 16, 4, 2, 1]
    (line,) = [line for line in render(result).splitlines() if 'no remat' in line and line.startswith('|')]
    assert tuple(cell.strip() for cell in line.split('|')[2:4]) == row


def test_memory_that_does_not_grow_is_not_extrapolated(on_this_cpu, monkeypatch):
    fake_steps(monkeypatch, lambda batch, remat: 1000, 1500)
    result = plan.plan(sub_jhmdb.get_config(TINY).to_dict(), on_this_cpu(hbm=1500), batch_per_chip=4, largest=True)
    assert result['largest']['no remat']['batch_per_chip'] == 8


@pytest.mark.parametrize('model', VIDEO_MODELS)
def test_the_preset_of_a_network_is_found(model):
    assert plan._preset(sub_jhmdb.get_config(f'model={model},preset=small').model.to_dict()) == 'small'
    config = penn_action.get_config(f'model={model}')
    assert plan._preset(config.model.to_dict()) == 'full'


def test_a_network_of_ones_own():
    fields = sub_jhmdb.get_config(TINY).model.to_dict()
    assert plan._preset({**fields, 'remat': True}) == 'tiny'
    assert plan._preset({**fields, 'width': 5}) == 'own'


@pytest.fixture
def fails(capsys, monkeypatch):
    """Runs the command in this process; returns the line that it ends with."""

    def message(*arguments: str, config: str = f'configs/sub_jhmdb.py:{TINY}') -> str:
        monkeypatch.chdir(ROOT)
        values, argv = flags.FlagValues(), ['plan', f'--config={config}', *arguments]
        command_plan.define_flags(values)
        monkeypatch.setattr(sys, 'argv', argv)
        with pytest.raises(SystemExit) as ended:
            run_command(command_plan.run, parse_flags(values, argv), values)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix('error: ')

    return message


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        ((), '--config and --topology are needed'),
        (('--topology=v9:2x2',), '--topology=v9:2x2: unknown; known chips: v4, v5e, v5p, v6e, h100; give one as v5e:16x16'),
        (
            ('--topology=v5e:16x16',),
            'config.train.batch_size=8: not a multiple of the 256 chips of v5e:16x16; give --batch_per_chip',
        ),
        (('--topology=v5e:2x4', '--batch_per_chip=0'), '--batch_per_chip'),
        (('--topology=v5e:2x4', '--verify'), '--verify belongs to --largest_batch'),
        (('--topology=v5e:2x4', '--config.train.batch_norm=group:3'), "config.train.batch_norm='group:3': 8 device(s) cannot"),
        (('--topology=v5e:2x4', '--config.model.width=0'), 'config.model.width=0: must be'),
        (('--topology=v5e:2x4', '--json=tests'), '--json=tests: is a folder; give a file'),
        (('--topology=v5e:2x4', 'more'), "unexpected argument 'more'"),
    ],
)
def test_what_the_user_gets_wrong(fails, arguments, told, on_this_cpu):
    assert told in fails(*arguments)


def test_a_compiler_that_is_not_installed(fails, monkeypatch):
    monkeypatch.setattr(ahead_of_time, 'compile_apart', ahead_of_time.compile_step)
    monkeypatch.setitem(sys.modules, 'libtpu', None)
    monkeypatch.setitem(sys.modules, 'jax_cuda13_plugin', None)
    needed = "libtpu, the compiler for TPUs, is needed for v5e:2x4: pip install 'kimnet-jax[plan]'"
    assert fails('--topology=v5e:2x4') == needed
    assert "JAX's compiler for GPUs is needed for h100x8: pip install 'kimnet-jax[gpu]'" in fails('--topology=h100x8')


def test_devices_that_the_compiler_does_not_know(fails, monkeypatch, keeps_config):
    monkeypatch.setattr(ahead_of_time, 'compile_apart', ahead_of_time.compile_step)

    def refuse(**_):
        raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: not divisible\nand a stack')

    monkeypatch.setitem(sys.modules, 'libtpu', types.ModuleType('libtpu'))
    monkeypatch.setattr(topologies, 'get_topology_desc', refuse)
    for name in ahead_of_time._LIBTPU:
        monkeypatch.setenv(name, '')
    assert fails('--topology=v5e:2x4') == '--topology=v5e:2x4: INVALID_ARGUMENT: not divisible'


def test_a_compiler_that_fails(fails, monkeypatch, on_this_cpu):
    class Traced:
        jaxpr = types.SimpleNamespace(eqns=[])

        def lower(self):
            raise jax.errors.JaxRuntimeError('INTERNAL: a bug\nand a stack')

    monkeypatch.setattr(ahead_of_time, 'trace_step', lambda *_: Traced())
    assert fails('--topology=v5e:2x4') == 'the compiler failed: INTERNAL: a bug'


@pytest.mark.parametrize(
    ('said', 'told'),
    [
        (
            'E0000 00:00:1 3 common_lib.cc:554] noise\nF1128 09:47:14.284582   18403 tiling.cc:627] Check failed: a == b (64 vs. '
            '16) \n*** Check failure stack trace: ***\n    @ 0x7f',
            'tiling.cc:627] Check failed: a == b (64 vs. 16)',
        ),
        (
            'Traceback (most recent call last):\n  File "a.py"\njax.errors.JaxRuntimeError: INTERNAL: b\n',
            'jax.errors.JaxRuntimeError: INTERNAL: b',
        ),
        ('', 'its process ended with status -9'),
    ],
)
def test_what_a_compiler_said_that_ended_its_process(said, told):
    assert ahead_of_time.ending(said, -9) == told


def test_a_compiler_that_ends_its_process(monkeypatch):
    """The process that compiles is another one; what it does not send back is told as an error."""
    settings = make(heatmaps.Settings, sub_jhmdb.get_config(TINY).to_dict())
    monkeypatch.setattr(ahead_of_time, '_work', os._exit)  # called with a connection, which is no status
    with pytest.raises(InputError, match='the compiler failed: its process ended with status 1'):
        ahead_of_time.compile_apart(settings, JHMDB, chips.parse_topology('v5e:2x4'))


def test_networks_that_are_not_planned(fails):
    assert 'only networks of videos can be planned' in fails('--topology=v5e:2x4', config='configs/hanet.py')
    with pytest.raises(InputError, match='only networks of videos'):
        plan.plan(hanet.get_config().to_dict(), chips.parse_topology('v5e:2x4'))


def test_the_joints_of_ones_own_data_are_those_that_were_built(tmp_path):
    config = own_data.get_config('data=mine')
    config.dataset.data_dir = str(tmp_path)
    with pytest.raises(InputError, match='no built data set there; build it with'):
        plan.skeleton_of(make(heatmaps.Settings, config.to_dict()).dataset)


@pytest.mark.skipif(not importlib.util.find_spec('libtpu'), reason='libtpu is not installed')
def test_the_step_compiles_for_a_tpu(run, tmp_path):
    """Of the tiny network, without a TPU; the numbers are the compiler's."""
    file = tmp_path / 'plan.json'
    command = ['-m', 'kimnet_jax.plan', f'--config=configs/sub_jhmdb.py:{TINY}', '--topology=v5e:2x2', '--batch_per_chip=2']
    done = run(*command, f'--json={file}', JAX_DISABLE_MOST_OPTIMIZATIONS='0')
    assert (done.returncode, done.stderr) == (0, '')
    result = json.loads(file.read_text())
    assert done.stdout == f'{render(result)}written: {file}\n'
    assert (result['chips'], result['dtype'], result['preset']) == (4, 'bfloat16', 'tiny')
    assert result['memory']['fits']
    assert result['collectives']['all-reduce']['number'] >= result['dependent_collectives'] > 20  # a BatchNorm after the other
    parts = {name.removesuffix(' (backward)') for name in result['cycles']}
    assert {'pose initializer', 'feature encoder', 'temporal module', 'fusion', 'relation decoder', 'optimizer'} <= parts
    assert result['cycles'].get('rest of the program', 0) < 0.2 * sum(result['cycles'].values())
    assert result['compute_ms'] == pytest.approx(1e3 * sum(result['cycles'].values()) / 1.5e9)
    assert result['compute_ms'] > result['roofline']['compute_ms']
