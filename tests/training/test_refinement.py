"""HANet's steps, runs and evaluation, on noise made from a tiny data set."""

import itertools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import torch
from absl import flags
from tiny import host, one_device

from kimnet_jax import evaluate
from kimnet_jax.configs import hanet
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.pose_windows import WindowConfig
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.data_pipelines.clip_source import open_clips
from kimnet_jax.data_pipelines.pose_files import read_predictions, write_predictions
from kimnet_jax.data_pipelines.poses import Estimates, NoiseConfig, NoisyPairs, PoseConfig, pair_with_truth, train_batches
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.models import abstract_refiner, build_refiner
from kimnet_jax.tasks import refinement
from kimnet_jax.tasks.conversion import ConversionRequest, convert
from kimnet_jax.tasks.trained import open_trained
from kimnet_jax.training import loop
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.refinement_steps import DEVICE_KEYS, LossConfig, make_train_step, measure
from kimnet_jax.training.state import create_state, split_model
from kimnet_jax.training.steps import Stepping

pytestmark = pytest.mark.quick_compilation

FIELDS = {'interval': 2, 'window': 2, 'width': 8, 'levels': 1, 'heads': 4, 'activation': 'relu', 'pre_norm': False}


def tiny_config(data_dir, **fields):
    config = hanet.get_config('preset=tiny')
    config.dataset.update(config='mini', data_dir=str(data_dir))
    config.train.update(steps=4, batch_size=2, eval_every=0.8, save_every=0.8, log_every=1)  # 5 clips: after steps 2 and 4
    config.eval.update(batch_size=16)
    for key, value in fields.items():
        section, _, field = key.partition('__')
        config[section][field] = value
    return config.to_dict()


@pytest.fixture(scope='module')
def hanet_run(data_dir, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('hanet') / 'run'
    assert refinement.train(tiny_config(data_dir), folder) == 0
    return folder


def evaluate_run(folder: pathlib.Path, **values) -> None:
    """The command, with flags of its own."""
    found = flags.FlagValues()
    evaluate.define_flags(found)
    evaluate.run(found(['evaluate', f'--workdir={folder}', *(f'--{key}={value}' for key, value in values.items())]), found)


@pytest.fixture(scope='module')
def parts():
    """(train step, first state on the host, a batch)."""
    model = build_refiner(FIELDS | {'dropout': 0.1, 'memory_mask': 'masked'}, channels=30)
    graph, weights = split_model(model, training=True)
    config = OptimizerConfig(schedule='constant', learning_rate=3e-3, weight_decay=0.01)
    schedule = make_schedule(config, steps=100, steps_per_epoch=10)
    optimizer = make_optimizer(config, schedule)
    step = make_train_step(graph, Stepping(optimizer, schedule, 1, 0.9, one_device()), LossConfig(), interval=2, seed=3)
    rng = np.random.default_rng(0)
    poses = rng.normal(0, 0.3, (6, 5, 30)).astype(np.float32)
    batch = {'estimated': poses + 0.05, 'poses': poses, 'known': np.ones(poses.shape, bool), 'mask': np.ones((6, 5), bool)}
    assert set(batch) == set(DEVICE_KEYS)
    return step, host(create_state(weights, optimizer, average=True)), batch


def test_a_batch_is_learnt(parts):
    step, start, batch = parts
    state = jax.device_put(start)
    errors = []
    for _ in range(60):
        state, values = step(state, batch)
        errors.append(float(values['final_error']))
    assert np.mean(errors[-5:]) < 0.4 * errors[0]
    assert set(values) == {'loss', 'final_error', 'refined_error', 'gradient_norm', 'parameter_norm', 'learning_rate'}


def test_dropout_depends_on_the_step_alone(parts):
    step, start, batch = parts
    (_, first), (_, again) = step(jax.device_put(start), batch), step(jax.device_put(start), batch)
    assert float(first['loss']) == float(again['loss'])
    _, later = step(jax.device_put(start._replace(step=np.int32(1))), batch)
    assert float(later['loss']) != float(first['loss'])


def test_weight_decay_is_decoupled():
    config = OptimizerConfig(schedule='constant', learning_rate=0.1, weight_decay=0.5, clip_norm=0.0)
    optimizer = make_optimizer(config, lambda count: 0.1)
    weights = np.array([2.0, -4.0])
    updates, _ = optimizer.update(np.zeros(2), optimizer.init(weights), weights)
    np.testing.assert_allclose(updates, -0.1 * 0.5 * weights, rtol=1e-6)


def test_the_released_schedule_ends_at_a_hundredth():
    config = OptimizerConfig(learning_rate=1e-3, warmup_epochs=5.0, final_rate=0.01)
    schedule = make_schedule(config, steps=700, steps_per_epoch=10)
    assert [float(schedule(step)) for step in (0, 50, 700)] == pytest.approx([0, 1e-3, 1e-5], rel=1e-5)


def test_a_stopped_run_goes_on_as_if_it_had_not(hanet_run, data_dir, tmp_path, monkeypatch):
    fit = loop.fit

    def stopping(state, meta, *, train_step, **others):
        calls = itertools.count()

        def step(state, batch):
            if next(calls) == 3:
                raise KeyboardInterrupt
            return train_step(state, batch)

        return fit(state, meta, train_step=step, **others)

    config, folder = tiny_config(data_dir), tmp_path / 'stopped'
    with monkeypatch.context() as patch:
        patch.setattr(loop, 'fit', stopping)
        with pytest.raises(KeyboardInterrupt):
            refinement.train(config, folder)
    assert Checkpoints(folder, read_only=True).steps() == [2]
    assert refinement.train(config, folder) == 0
    expected, found = (Checkpoints(run, read_only=True).read_weights('last')[0] for run in (hanet_run, folder))
    assert expected.keys() == found.keys()
    for key in expected:
        np.testing.assert_array_equal(found[key], expected[key])


def test_evaluation_has_every_row(hanet_run, capsys):
    evaluate_run(hanet_run, checkpoint='last')
    text = capsys.readouterr().out
    report = json.loads((hanet_run / 'evaluation/test_step4.json').read_text())
    filters = ['raw input', 'One-Euro', 'Savitzky-Golay', 'Gaussian', 'lines, every 2nd frame']
    assert list(report['rows']) == ['HANet (ours)', *filters, 'mean pose', 'random']
    assert 'poses of the truth with noise' in text


def test_a_run_becomes_weights_of_pytorch(hanet_run, tmp_path, capsys):
    convert(ConversionRequest(hanet_run, tmp_path / 'hanet.pth', checkpoint='last'))
    assert 'agree with PyTorch' in capsys.readouterr().out
    found = open_trained(hanet_run, 'last').weights
    NETWORKS['hanet'].make_twin(found.config).load_state_dict(torch.load(tmp_path / 'hanet.pth'))
    assert (found.config.channels, found.skeleton) == (30, 'jhmdb')


def test_a_loaded_run_refines_as_its_evaluation(hanet_run, data_dir, tmp_path):
    evaluate_run(hanet_run, checkpoint='last', predictions=tmp_path / 'refined.npz')
    trained = refinement.load(open_trained(hanet_run, 'last'))
    assert (trained.skeleton, trained.about['model'], trained.about['step']) == ('jhmdb', 'hanet', 4)
    pairs = refinement.open_split(tiny_config(data_dir), 'eval').pairs
    for i, one in enumerate(read_predictions(str(tmp_path / 'refined.npz'), 'jhmdb')):
        estimates = pairs(i).estimates
        found = trained.refiner(estimates.joints, estimates.boxes, estimates.image_size)
        np.testing.assert_allclose(found, one.joints, atol=1e-3)  # pixels
    with pytest.raises(InputError, match='not a run'):
        refinement.load(open_trained(tmp_path))


def test_released_protocol(hanet_run, capsys):
    evaluate_run(hanet_run, checkpoint='last', protocol='released')
    assert "HANet's released evaluation" in capsys.readouterr().out
    report = json.loads((hanet_run / 'evaluation/test_step4_released.json').read_text())
    rows = report['rows']
    for threshold in ('0.05', '0.1', '0.2'):
        gain = rows['output'][threshold] - rows['input'][threshold]
        assert rows['improvement'][threshold] == pytest.approx(gain, abs=1e-6)
    assert 0.5 < rows['input']['0.2'] <= 1


def predictions_of(data_dir, split: str, path: pathlib.Path) -> None:
    """Predictions that are the truth, 1 pixel off."""
    clips = open_clips(data_dir, 'kinetic_puppets', 'mini', split)
    found = []
    for example in (clips[i] for i in range(len(clips))):
        joints = example['joints'] + 1
        found.append(Estimates(example['clip'], joints, np.ones(joints.shape[:2]), example['boxes'], example['image_size']))
    write_predictions(path, found, clips.skeleton, {})


def test_training_on_predictions(data_dir, tmp_path, capsys):
    for split in ('train', 'test'):
        predictions_of(data_dir, split, tmp_path / f'{split}.npz')
    files = {'poses__train': str(tmp_path / 'train.npz'), 'poses__eval': str(tmp_path / 'test.npz')}
    config = tiny_config(data_dir, poses__source='predictions', train__steps=1, **files)
    assert refinement.train(config, tmp_path / 'run') == 0
    evaluate_run(tmp_path / 'run', checkpoint='last')
    rows = json.loads((tmp_path / 'run/evaluation/test_step1.json').read_text())['rows']
    assert rows['raw input']['values']['person']['pck']['0.2']['mPCK'] == 1
    assert rows['raw input']['values']['acceleration']['mean'] == pytest.approx(0, abs=1e-4)
    config['poses']['eval'] = str(tmp_path / 'train.npz')
    with pytest.raises(InputError, match=r"config\.poses\.eval=.*is not in split 'test'"):
        refinement.train(config, tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


def test_clips_in_both_splits_are_refused(data_dir, tmp_path):
    config = tiny_config(data_dir, dataset__eval_split='train')
    with pytest.raises(InputError, match=r'5 of 5 clips are trained on: .* set config\.dataset\.allow_overlap=True'):
        refinement.train(config, tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'model__heads': 3}, r'config\.model: HANet width 8'),
        ({'model__depth': 3}, r'config\.model\.depth: no such field'),
        ({'loss__mutual': 'both'}, r"config\.loss\.mutual='both'"),
        ({'loss__final_weight': -1.0}, r'config\.loss\.final_weight=-1'),
        ({'eval__select': 'mpjpe'}, r"config\.eval\.select='mpjpe': no such metric; known: .*torso/pck/0\.05/mPCK"),
        ({'eval__step': 9}, r'config\.eval\.step=9: must be 1 to 5'),
        ({'optimizer__final_rate': 2.0}, r'config\.optimizer\.final_rate=2'),
        ({'optimizer__weight_decay': -1.0}, r'config\.optimizer\.weight_decay=-1'),
        ({'train__log_every': 0}, r'config\.train\.log_every=0'),
        ({'noise__swaps': 2.0}, r'config\.noise\.swaps=2'),
    ],
)
def test_bad_settings_leave_no_run(data_dir, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        refinement.train(tiny_config(data_dir, **fields), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_video_flags_are_refused(hanet_run):
    with pytest.raises(InputError, match=r'--decoding: .* is HANet, which reads poses'):
        evaluate_run(hanet_run, decoding='dark')


@pytest.mark.parametrize(
    'arg', [None, *(f'preset={preset}' for preset in hanet.PRESETS), 'recipe=released', 'source=predictions']
)
def test_configs(arg):
    config = hanet.get_config(arg)
    dims = 3 if arg in ('preset=h36m_3d', 'preset=pw3d') else 2
    model = abstract_refiner(config.model.to_dict(), channels=15 * dims)
    assert refinement.windows_of(config.to_dict()).length == model.config.length
    assert json.loads(json.dumps(config.to_dict()))['model']['name'] == 'hanet'


def test_wrong_config_arguments():
    for arg, message in (('preset=big', 'choose small, tiny'), ('recipe=mine', "choose 'ours' or 'released'")):
        with pytest.raises(ValueError, match=message):
            hanet.get_config(arg)


def test_noisy_batches_train_on_whole_clips(data_dir):
    clips = open_clips(data_dir, 'kinetic_puppets', 'mini', 'train')
    stream = train_batches(NoisyPairs(clips, NoiseConfig(), 0), PoseConfig(), WindowConfig(11), batch_size=3, seed=0)
    assert next(stream)['estimated'].shape == (3, 11, 2 * JHMDB.num_joints)


def test_predictions_of_a_run_of_kimnet(whole_run, run, data_dir, tmp_path):
    """What `evaluate --predictions` stores are the poses that its report is of."""
    folder = tmp_path / 'run'
    shutil.copytree(whole_run[0], folder)
    done = run('-m', 'kimnet_jax.evaluate', '--workdir', folder, '--predictions', tmp_path / 'p.npz')
    assert done.returncode == 0, done.stderr
    clips = open_clips(data_dir, 'kinetic_puppets', 'mini', 'test')
    pairs = pair_with_truth(read_predictions(str(tmp_path / 'p.npz'), 'jhmdb'), clips, 'p.npz')
    found = measure(pairs, ((i, pairs(i).estimates.joints) for i in range(len(pairs)))).compute()
    (written,) = folder.glob('evaluation/*.json')
    report = json.loads(written.read_text())
    ours = report['rows']['KIMNet (ours)']['values']
    for key in ('torso', 'person'):
        assert found[key]['pck'] == ours[key]['pck']
    assert found['acceleration']['mean'] == pytest.approx(ours['acceleration']['mean'])
