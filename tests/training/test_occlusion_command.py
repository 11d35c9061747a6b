"""`kimnet_jax.occlusion` on a run and on a file of its weights."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from absl import flags

from kimnet_jax import evaluate, occlusion
from kimnet_jax.core.command import run_command
from kimnet_jax.core.config import plain
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.occlusion import Occlusion
from kimnet_jax.interop.weight_files import read_weights, write_weights
from kimnet_jax.models import model_fields
from kimnet_jax.tasks import refinement, trained
from kimnet_jax.tasks.occlusion import names_of, predictor
from kimnet_jax.training.checkpoint import Checkpoints

pytestmark = pytest.mark.quick_compilation


@pytest.fixture(scope='module')
def workdir(whole_run, tmp_path_factory) -> pathlib.Path:
    return shutil.copytree(whole_run[0], tmp_path_factory.mktemp('occlusion') / 'run')


@pytest.fixture(scope='module')
def clips(data_dir):
    return clip_source.open_clips(data_dir, 'kinetic_puppets', 'mini', 'test')


@pytest.fixture(scope='module')
def weights_file(workdir, tmp_path_factory) -> pathlib.Path:
    file = tmp_path_factory.mktemp('weights') / 'copy.safetensors'
    trained.pack(trained.open_trained(workdir), file, dtype='float32')
    return file


def command(*argv: object) -> int:
    """Runs the command with flags of its own; gives the exit status."""
    values = flags.FlagValues()
    occlusion.define_flags(values)
    with pytest.raises(SystemExit) as caught:
        run_command(occlusion.run, values(['occlusion', *map(str, argv)]), values)
    return caught.value.code


def changed(workdir: pathlib.Path, target: pathlib.Path, **fields) -> pathlib.Path:
    """A run with nothing but a config, of which some fields are others."""
    record = json.loads((workdir / 'config.json').read_text())
    for key, value in fields.items():
        section, _, field = key.partition('__')
        (record['config'][section] if field else record)[field or section] = value
    target.mkdir()
    (target / 'config.json').write_text(json.dumps(record))
    return target


@pytest.fixture(scope='module')
def report(workdir, weights_file, clips):
    """(JSON, Markdown) of a run beside a file of its weights."""
    assert command(f'--workdir={workdir},{weights_file}', '--counts=3,0,1', '--seed=4', '--side=0.3') == 0
    (file,) = (workdir / 'evaluation').glob('occlusion_joints_test_run_step*_seed4.json')
    return json.loads(file.read_text()), file.with_suffix('.md').read_text()


def value(row, count, group='all', key='torso'):
    return row[str(count)][group][key]['value']


def test_a_run_beside_its_own_weights(report, workdir, clips):
    found, text = report
    names = ['run', 'copy', 'run, last seen', 'copy, last seen', 'mean pose']
    assert list(found['rows']) == names
    assert list(found['differences']) == ['run - copy', 'run - run, last seen']
    assert all(list(row) == ['0', '1', '3'] for row in found['rows'].values())
    assert (found['clips'], found['frames']) == (len(clips), sum(clips.lengths))
    assert found['rows']['run'] == found['rows']['copy']
    same = [part for groups in found['differences']['run - copy'].values() for part in groups.values() if part]
    assert all(part[key] == {'value': 0.0, 'interval': [0.0, 0.0]} for part in same for key in ('torso', 'person'))
    for part in ('Occlusion `joints`: kinetic_puppets/mini, split test', 'squares of 0.3 of', 'seed 4', 'decoding `dark`'):
        assert part in text


def test_without_masks_it_is_the_evaluation(report, workdir):
    values = flags.FlagValues()
    evaluate.define_flags(values)
    evaluate.run(values(['evaluate', f'--workdir={workdir}']), values)
    (file,) = (workdir / 'evaluation').glob('test_step*.json')
    expected = json.loads(file.read_text())['rows']
    for ours, theirs in (('run', 'KIMNet (ours)'), ('mean pose', 'mean pose')):
        for key in ('torso', 'person'):
            part = report[0]['rows'][ours]['0']['all'][key]
            assert part['value'] == pytest.approx(expected[theirs]['values'][key]['pck']['0.2']['mPCK'], abs=1e-3)
            assert part['interval'] == pytest.approx(expected[theirs]['intervals'][key]['pck']['0.2']['mPCK'], abs=5e-3)


def test_numbers_are_of_poses_on_masked_frames(report, workdir, clips):
    """The table's numbers from the poses themselves."""
    found = trained.open_trained(workdir)
    predict = predictor(found.load(), found.config, clips, 3)
    part = Occlusion('joints', 3, seed=4, side=0.3)
    masked, plain = predict(part), predict(None)
    hits, counts = {'occluded': 0, 'visible': 0, 'unmasked': 0}, {'occluded': 0, 'visible': 0, 'unmasked': 0}
    for i, (with_masks, without) in enumerate(zip(masked, plain, strict=True)):
        example = clips[i]
        np.testing.assert_allclose(with_masks[0], without[0], atol=0.01)  # the first frame has none
        assert np.abs(with_masks[1:] - without[1:]).max() > 1
        hidden = part.place(example).occluded
        length = (example['boxes'][:, 2:] - example['boxes'][:, :2]).max(-1)[:, None]
        for group, poses, chosen in (
            ('occluded', with_masks, hidden),
            ('unmasked', without, hidden),
            ('visible', with_masks, ~hidden),
        ):
            near = np.linalg.norm(poses - example['joints'], axis=-1) <= 0.2 * length
            counted = chosen & example['visible']
            hits[group], counts[group] = hits[group] + (near & counted).sum(), counts[group] + counted.sum()
    assert counts['occluded'] == report[0]['occluded']['3']['joints'] > 0
    for group, count in counts.items():
        assert value(report[0]['rows']['run'], 3, group, 'person') == pytest.approx(hits[group] / count, abs=2 / count)


def test_length_leaves_short_clips_out_when_told(workdir, clips, tmp_path, capsys):
    longest = max(clips.lengths)
    shorter = sum(length < longest for length in clips.lengths)
    assert 0 < shorter < len(clips)
    argv = [f'--workdir={workdir}', '--study=length', f'--counts=1,{longest - 1}', f'--out={tmp_path}']
    assert command(*argv) == 2
    error = capsys.readouterr().err
    assert f"{shorter} of the {len(clips)} clips of 'test' have fewer than the {longest} frames" in error
    assert '--skip_short' in error
    assert not list(tmp_path.iterdir())
    assert command(*argv, '--skip_short') == 0
    (file,) = tmp_path.glob('*.json')
    found = json.loads(file.read_text())
    assert found['clips'] == len(clips) - shorter
    long = (clips[i] for i, length in enumerate(clips.lengths) if length == longest)
    occluded = [Occlusion('length', longest - 1).place(example).occluded for example in long]
    assert found['occluded'][str(longest - 1)]['frames'] == sum(part.any(-1).sum() for part in occluded)
    assert any('Left out' in note for note in found['notes'])


def evaluation(*argv: object) -> int:
    values = flags.FlagValues()
    evaluate.define_flags(values)
    with pytest.raises(SystemExit) as caught:
        run_command(evaluate.run, values(['evaluate', '--calibration_clips=0', *map(str, argv)]), values)
    return caught.value.code


def test_a_row_of_the_evaluation(workdir, tmp_path):
    """The numbers of the study of the same joints, in the table of `evaluate`."""
    study, plain = tmp_path / 'study', tmp_path / 'plain'
    assert command(f'--workdir={workdir}', '--counts=3', '--seed=4', f'--out={study}') == 0
    assert evaluation(f'--workdir={workdir}', '--occlusion=3', '--seed=4', f'--out={plain}') == 0
    expected, found = (json.loads(next(folder.glob('*.json')).read_text()) for folder in (study, plain))
    name = 'KIMNet (ours), 3 joints occluded'
    assert list(found['rows']) == ['KIMNet (ours)', name, 'mean pose', 'random']
    for key in ('torso', 'person'):
        hidden, whole = (found['rows'][row]['values'][key]['pck']['0.2']['mPCK'] for row in (name, 'KIMNet (ours)'))
        assert hidden == pytest.approx(value(expected['rows']['run'], 3, 'all', key), abs=1e-3)
        difference = found['differences'][f'{name} - KIMNet (ours)']['values'][key]['pck']['0.2']['mPCK']
        assert difference == pytest.approx(hidden - whole)
    assert any('Occluded: squares of 0.15 of' in note and 'seed 4' in note for note in found['notes'])


@pytest.mark.parametrize(
    ('argv', 'told'),
    [
        (['--workdir=RUN', '--occlusion=16'], 'occlusion of 16 joints: jhmdb has 15'),
        (['--workdir=RUN', '--occlusion=3', '--protocol=released'], '--occlusion belongs to --protocol full'),
        (['--workdir=RUN', '--occlusion=3', '--temporal_control'], '--occlusion and --temporal_control: give one of them'),
        (['--model=hanet-s-jhmdb', '--occlusion=3'], '--occlusion: hanet-s-jhmdb is HANet'),
    ],
)
def test_bad_input_of_that_row(workdir, argv, told, capsys):
    assert evaluation(*(part.replace('RUN', str(workdir)) for part in argv)) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ('argv', 'told'),
    [
        ([], '--model is needed'),
        (['--workdir=RUN', '--model=FILE'], 'give one of them'),
        (['--model=RUN,poseresnet-s-lsp'], 'poseresnet-s-lsp: skeleton lsp, but jhmdb of'),
        (['--workdir=RUN', 'more'], "unexpected argument 'more'"),
        (['--workdir=RUN,RUN'], 'the same network twice'),
        (['--workdir=nowhere'], 'nowhere: not the folder of a run, a weight file'),
        (['--workdir=nowhere.safetensors'], 'nowhere.safetensors: not the folder of a run, a weight file'),
        (['--workdir=RUN', '--counts=1,x'], '--counts 1,x: give whole numbers'),
        (['--workdir=RUN', '--counts=1,-2'], '--counts 1,-2: give whole numbers'),
        (['--workdir=RUN', '--counts='], '--counts : give whole numbers'),
        (['--workdir=RUN', '--counts=0'], '--counts 0: give another number'),
        (['--workdir=RUN', '--counts=1,16'], '--counts 16: jhmdb has 15 joints'),
        (['--workdir=RUN', '--study=spatial', '--counts=16'], '--counts 16: jhmdb has 15 joints'),
        (['--workdir=RUN', '--study=length', '--counts=100000'], 'the 100001 frames that it takes'),
        (['--workdir=RUN', '--study=length', '--counts=100000', '--skip_short'], "no clip of 'test' has the 100001 frames"),
        (['--workdir=RUN', '--side=0'], 'side 0.0'),
        (['--workdir=RUN', '--split=third'], "no split 'third'"),
        (['--workdir=RUN', '--data_dir=nowhere'], 'no built data set there'),
        (['--workdir=RUN', '--batch_size=0'], 'batch_size=0: must be 1 to'),
        (['--workdir=RUN', '--checkpoint=7'], "choose 'best', 'last' or one of the steps"),
        (['--workdir=RUN,,FILE'], 'one of these names is empty'),
    ],
)
def test_bad_input(workdir, weights_file, argv, told, capsys):
    before = sorted(workdir.rglob('*'))
    argv = [part.replace('RUN', str(workdir)).replace('FILE', str(weights_file)) for part in argv]
    assert command(*argv) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('error: ')
    assert told in line
    assert sorted(workdir.rglob('*')) == before


def test_runs_that_do_not_compare(workdir, tmp_path, monkeypatch, capsys):
    arrays = trained.open_trained(workdir).arrays
    monkeypatch.setattr(Checkpoints, 'read_weights', lambda self, which: (arrays, {'step': 1}))
    others = {
        'skeleton': {'skeleton': 'penn_action'},
        'data set kinetic_puppets/joints15': {'dataset__config': 'joints15'},
        'split train': {'dataset__eval_split': 'train'},
    }
    for i, (told, fields) in enumerate(others.items()):
        other = changed(workdir, tmp_path / str(i), **fields)
        assert command(f'--workdir={workdir},{other}') == 2
        assert f'{other}: {told}' in capsys.readouterr().err


def test_a_run_of_hanet_sees_no_frames(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Checkpoints, 'read_weights', lambda self, which: ({'x': np.zeros(1)}, {'step': 1}))
    data = json.loads((workdir / 'config.json').read_text())['config']['dataset']
    config = plain(refinement.Settings()) | {'model': model_fields('hanet'), 'dataset': data}
    other = changed(workdir, tmp_path / 'hanet', config=config)
    for argument in (f'--workdir={other}', f'--model={other},{workdir}'):
        assert command(argument) == 2
        assert f"{other}: 'hanet' refines poses and reads no video" in capsys.readouterr().err


def test_weights_that_are_of_another_network(workdir, weights_file, tmp_path, capsys):
    arrays, metadata, _ = read_weights(weights_file)
    arrays.pop(next(iter(arrays)))
    write_weights(tmp_path / 'w.safetensors', arrays, metadata)
    assert command(f'--workdir={workdir},{tmp_path / "w.safetensors"}', '--seed=9') == 2
    assert 'missing in the weights' in capsys.readouterr().err
    assert not list((workdir / 'evaluation').glob('*seed9*'))


def test_names_tell_networks_apart(tmp_path, monkeypatch):
    for path in ('a/run', 'b/run', 'c/other', 'mean pose'):
        (tmp_path / path).mkdir(parents=True)
    names = {
        'a/run,c/other/': ['run', 'other'],
        'a/run,w/file.safetensors,kimnet-s-jhmdb': ['run', 'file', 'kimnet-s-jhmdb'],
        'a/run,b/run': ['a/run', 'b/run'],
        'a/run,mean pose': ['a/run', 'mean pose'],
    }
    monkeypatch.chdir(tmp_path)
    for references, expected in names.items():
        assert names_of(references.split(',')) == expected


def test_as_a_command(workdir, run, tmp_path):
    done = run(
        '-m', 'kimnet_jax', 'occlusion', f'--workdir={workdir}', '--study=temporal', f'--out={tmp_path}', '--fill=background'
    )
    assert done.returncode == 0, done.stderr
    assert 'Occlusion `temporal`' in done.stdout
    (file,) = tmp_path.glob('occlusion_temporal_test_*.json')
    found = json.loads(file.read_text())
    assert (list(found['rows']['run']), found['fill']) == (['0', '2'], 'background')
    assert found['occluded']['2']['frames'] == found['clips']
    assert file.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
