"""`evaluate --temporal_control` on a run."""

import json
import pathlib
import shutil

import pytest
from absl import flags

from kimnet_jax import evaluate
from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.models import VIDEO_MODELS, abstract_model, model_fields, network_name
from kimnet_jax.tasks import temporal_control

pytestmark = pytest.mark.quick_compilation

ROWS = list(temporal_control.ROWS.values())


@pytest.fixture(scope='module')
def workdir(whole_run, tmp_path_factory) -> pathlib.Path:
    return shutil.copytree(whole_run[0], tmp_path_factory.mktemp('control') / 'run')


def command(*argv: object) -> int:
    """Runs the command with flags of its own; gives the exit status."""
    values = flags.FlagValues()
    evaluate.define_flags(values)
    with pytest.raises(SystemExit) as caught:
        run_command(evaluate.run, values(['evaluate', *map(str, argv)]), values)
    return caught.value.code


def table_of(folder: pathlib.Path, pattern: str) -> dict:
    (file,) = folder.glob(pattern)
    return json.loads(file.read_text())


@pytest.fixture(scope='module')
def report(workdir) -> tuple[dict, str]:
    assert command(f'--workdir={workdir}', '--temporal_control', '--seed=5') == 0
    folder = workdir / 'evaluation'
    (text,) = folder.glob('*_temporal_control_seed5.md')
    return table_of(folder, '*_temporal_control_seed5.json'), text.read_text()


def scores(row: dict) -> dict[str, float]:
    return {
        f'{key} {alpha}': row['values'][key]['pck'][alpha]['mPCK'] for key in ('torso', 'person') for alpha in ('0.2', '0.05')
    }


def test_rows_and_paired_differences(report):
    found, text = report
    assert list(found['rows']) == [*ROWS, 'mean pose', 'random']
    assert list(found['differences']) == [f'{row} - true past' for row in ROWS[1:]]
    for row in ROWS[1:]:
        difference, true = found['differences'][f'{row} - true past'], scores(found['rows']['true past'])
        for key, value in scores(found['rows'][row]).items():
            assert scores(difference)[key] == pytest.approx(value - true[key])
        low, high = difference['intervals']['torso']['pck']['0.2']['mPCK']
        assert low <= scores(difference)['torso 0.2'] <= high
    smoothness = [found['rows'][row]['values']['jitter']['mean'] for row in ROWS]
    assert len({round(value, 6) for value in smoothness}) == len(ROWS)  # four different sets of poses
    for part in (
        'Does time help? KIMNet (ours), kinetic_puppets/mini, split test',
        'drawn with seed 5',
        '| frozen past - true past',
    ):
        assert part in text


def test_its_rows_are_evaluations(report, workdir, tmp_path):
    """The true past is the plain evaluation, and restarting is chains of one frame."""
    for row, chain in (('true past', []), ('restarted at every frame', ['--chain_length=1'])):
        out = tmp_path / row
        assert command(f'--workdir={workdir}', f'--out={out}', *chain) == 0
        expected = table_of(out, '*.json')['rows']
        assert scores(report[0]['rows'][row]) == pytest.approx(scores(expected['KIMNet (ours)']), abs=1e-3)
        assert scores(report[0]['rows']['mean pose']) == scores(expected['mean pose'])


def test_of_short_chains(workdir, tmp_path):
    assert command(f'--workdir={workdir}', '--temporal_control', '--chain_length=2', f'--out={tmp_path}') == 0
    found = table_of(tmp_path, '*_chain2_temporal_control_seed0.json')
    assert any('chains of 2 frames' in note for note in found['notes'])


@pytest.mark.parametrize(
    ('argv', 'told'),
    [
        (['--model=poseresnet-s-lsp'], 'poseresnet-s-lsp (PoseResNet) finds joints in every frame by itself; it has no past'),
        (['--model=hanet-s-jhmdb'], '--temporal_control: hanet-s-jhmdb is HANet, which reads poses'),
        (['--workdir=RUN', '--chain_length=1'], 'in chains of 1 frame no frame has a past'),
        (['--workdir=RUN', '--protocol=released'], '--temporal_control belongs to --protocol full'),
        (['--workdir=RUN', '--predictions=p.npz'], '--predictions and --temporal_control: give one of them'),
        (['--workdir=RUN', '--split=test[:1]'], 'has a single clip; the past of another one takes two'),
    ],
)
def test_bad_input(workdir, argv, told, capsys):
    before = sorted(workdir.rglob('*'))
    assert command('--temporal_control', *(part.replace('RUN', str(workdir)) for part in argv)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('error: ')
    assert told in line
    assert sorted(workdir.rglob('*')) == before


@pytest.mark.parametrize('name', VIDEO_MODELS)
def test_which_networks_read_the_past(name):
    model = abstract_model(model_fields(name, 'tiny'), num_joints=15)
    if name in ('pose_resnet', 'hourglass', 'hrnet'):
        with pytest.raises(
            InputError, match=rf'^--temporal_control: runs/a \({network_name(model)}\) finds joints in every frame'
        ):
            temporal_control.check(model, 'runs/a', 0)
    else:
        temporal_control.check(model, 'runs/a', 0)


def test_without_a_temporal_module_there_is_nothing_to_control():
    model = abstract_model(model_fields('kimnet', 'tiny') | {'temporal': 'none'}, num_joints=15)
    with pytest.raises(InputError, match='it has no past to control'):
        temporal_control.check(model, 'runs/none', 0)
