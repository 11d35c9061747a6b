"""`evaluate` calibrates the scores of a run, and `predict` writes probabilities."""

import csv
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
from absl import flags

from kimnet_jax import evaluate, predict
from kimnet_jax.core.command import run_command
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.pose_files import read_predictions
from kimnet_jax.reporting.calibration import Outcomes
from kimnet_jax.tasks import calibration, trained, videos
from kimnet_jax.tasks.calibration import fitting_clips

pytestmark = pytest.mark.quick_compilation


@pytest.fixture(scope='module')
def workdir(whole_run, tmp_path_factory) -> pathlib.Path:
    return shutil.copytree(whole_run[0], tmp_path_factory.mktemp('calibration') / 'run')


def call(command, *argv: object) -> int:
    """Runs a command with flags of its own; gives the exit status."""
    values = flags.FlagValues()
    command.define_flags(values)
    with pytest.raises(SystemExit) as caught:
        run_command(command.run, values(['command', *map(str, argv)]), values)
    return caught.value.code


def report_of(folder: pathlib.Path) -> dict:
    (file,) = folder.glob('*.json')
    return json.loads(file.read_text())


def split(data_dir: pathlib.Path, name: str) -> clip_source.ClipSource:
    return clip_source.open_clips(data_dir, 'kinetic_puppets', 'mini', name)


@pytest.fixture(scope='module')
def calibrated(workdir) -> trained.Trained:
    assert call(evaluate, f'--workdir={workdir}', '--calibration_clips=3') == 0
    return trained.open_trained(workdir)


def test_the_curve_is_stored_with_the_checkpoint(calibrated, workdir):
    (file,) = (workdir / 'calibration').iterdir()
    assert file.name == f'step_{calibrated.step}.json'
    curve = calibrated.calibration()
    expected = {'data': 'kinetic_puppets/mini', 'split': 'train', 'clips': 3, 'step': calibrated.step, 'weights': None}
    assert curve.about == expected
    assert (np.diff(curve.probabilities) >= 0).all()
    others = [step for step in (3, 6, 9, 12) if step != calibrated.step]
    kept = [trained.open_trained(workdir, str(step)) for step in others if (workdir / f'checkpoints/{step}').exists()]
    assert all(other.calibration() is None for other in kept)


def test_it_is_judged_on_the_clips_that_are_evaluated(calibrated, workdir, data_dir, tmp_path):
    poses = tmp_path / 'poses.npz'
    assert call(evaluate, f'--workdir={workdir}', '--calibration_clips=0', f'--predictions={poses}', f'--out={tmp_path}') == 0
    found, clips = report_of(tmp_path)['calibration'], split(data_dir, 'test')
    curve = calibrated.calibration()
    assert found['curve'] == {'scores': curve.scores.tolist(), 'probabilities': curve.probabilities.tolist()}
    parts = [
        Outcomes.of(clips[i], one.joints, one.scores, clips.skeleton)
        for i, one in enumerate(read_predictions(str(poses), clips.skeleton.name))
    ]
    scores, hits = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    assert found['joints'] == len(scores) == sum(entry['joints'] for entry in found['probability']['bins'])
    for key, confidence in (('score', np.clip(scores, 0, 1)), ('probability', curve(scores))):
        assert found[key]['brier'] == pytest.approx(((confidence - hits) ** 2).mean(), abs=1e-6)
        total = sum(entry['joints'] * entry['hits'] for entry in found[key]['bins'] if entry['joints'])
        assert total == pytest.approx(hits.sum())
    assert [path.suffix for path in sorted(tmp_path.glob('*_calibration.*'))] == ['.png']
    (text,) = tmp_path.glob('*.md')
    assert '## Calibration of the scores' in text.read_text()


def test_predict_writes_the_probabilities(calibrated, workdir, write_clip, tmp_path):
    assert call(predict, f'--workdir={workdir}', f'--out={tmp_path}', '--outputs=json,csv', write_clip) == 0
    data = json.loads((tmp_path / f'{write_clip.name}.json').read_text())
    curve = calibrated.calibration()
    for frame in data['frames']:
        np.testing.assert_allclose(frame['probabilities'], curve(frame['scores']), atol=0.02)  # scores are rounded
    assert data['about']['probabilities_within'] == '0.2 torso lengths'
    rows = list(csv.DictReader((tmp_path / f'{write_clip.name}.csv').read_text().splitlines()))
    assert [float(row['r_wrist_probability']) for row in rows] == [
        frame['probabilities'][calibrated.skeleton.joints.index('r_wrist')] for frame in data['frames']
    ]


@pytest.fixture
def write_clip(data_dir, tmp_path) -> pathlib.Path:
    folder = tmp_path / 'a_clip'
    folder.mkdir()
    for i, frame in enumerate(split(data_dir, 'test')[0]['frames'][:3]):
        (folder / f'{i}.jpg').write_bytes(frame)
    return folder


def test_without_a_calibration_there_are_none(calibrated, write_clip, tmp_path):
    file = tmp_path / 'w.safetensors'
    trained.pack(calibrated, file)
    assert call(predict, f'--model={file}', f'--out={tmp_path}', '--outputs=json,csv', write_clip) == 0
    data = json.loads((tmp_path / f'{write_clip.name}.json').read_text())
    assert 'probabilities' not in data['frames'][0]
    assert 'probabilities_within' not in data['about']
    assert 'probability' not in (tmp_path / f'{write_clip.name}.csv').read_text()


def test_a_file_of_weights_has_its_curve_beside_it(calibrated, tmp_path, data_dir, capsys):
    file = tmp_path / 'w.safetensors'
    trained.pack(calibrated, file)
    assert call(evaluate, f'--model={file}', f'--out={tmp_path / "out"}', '--calibration_clips=2') == 0
    found = trained.open_trained(file)
    assert found.calibration().about['weights'] == found.digest
    assert videos.load(found).calibration.about['clips'] == 2
    trained.pack(calibrated, file, dtype='float32')  # other weights in its place
    capsys.readouterr()
    assert trained.open_trained(file).calibration() is None
    assert 'belongs to other weights, so it is not used' in capsys.readouterr().err


def test_a_damaged_curve(calibrated, write_clip, tmp_path, capsys):
    file = tmp_path / 'w.safetensors'
    trained.pack(calibrated, file)
    (tmp_path / 'w.calibration.json').write_text('{')
    assert call(predict, f'--model={file}', f'--out={tmp_path / "out"}', write_clip) == 2
    assert 'w.calibration.json: not valid JSON' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('argv', 'told'),
    [
        (['--decoding=argmax'], '--decoding is not that of the run'),
        (['--chain_length=2'], '--chain_length is not that of the run'),
        (['--split=train'], 'all training clips are among those that are evaluated'),
    ],
)
def test_where_scores_are_not_calibrated(calibrated, workdir, tmp_path, argv, told):
    before = calibrated.calibration_file.read_bytes()
    assert call(evaluate, f'--workdir={workdir}', f'--out={tmp_path}', *argv) == 0
    found = report_of(tmp_path)
    assert 'calibration' not in found
    assert any(told in note for note in found['notes'])
    assert calibrated.calibration_file.read_bytes() == before


def test_clips_to_fit_on_are_never_those_of_the_evaluation(data_dir):
    training = split(data_dir, 'train')
    for part in ('test', 'train[:2]', 'train[3:]'):
        evaluated = split(data_dir, part)
        fitting = fitting_clips(training, evaluated, 50)
        names = [fitting[i]['clip'] for i in range(len(fitting))]
        assert names == [name for name in training.names if name not in evaluated.names]
    assert len(fitting_clips(training, split(data_dir, 'test'), 2)) == 2
    assert fitting_clips(training, training, 50) is None


def test_without_matplotlib_there_is_no_diagram_and_a_hint(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert call(evaluate, f'--workdir={workdir}', f'--out={tmp_path}', '--calibration_clips=1') == 0
    assert "no plot: it takes Matplotlib (pip install 'kimnet-jax[report]')" in capsys.readouterr().err
    assert {path.suffix for path in tmp_path.iterdir()} == {'.md', '.json'}


def test_a_run_that_cannot_be_written_to_is_evaluated_all_the_same(workdir, tmp_path, monkeypatch, capsys):
    copy = shutil.copytree(workdir, tmp_path / 'run', ignore=shutil.ignore_patterns('calibration', 'evaluation'))

    def refuse(path, text):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr(calibration, 'write_text', refuse)
    assert call(evaluate, f'--workdir={copy}', f'--out={tmp_path / "out"}') == 0
    assert 'not written (Permission denied), so predict gives no probabilities' in capsys.readouterr().err
    assert report_of(tmp_path / 'out')['calibration']['joints'] > 0
