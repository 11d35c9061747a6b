"""HANet on joints in 3D and on SMPL's rotations, from files in DeciWatch's layout to refined files."""

import contextlib
import io
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sequences import body_file, joint_files, rotation_files
from test_refinement import evaluate_run

from kimnet_jax.configs import hanet
from kimnet_jax.core import smpl
from kimnet_jax.core.array_files import read_npz
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import get_skeleton
from kimnet_jax.data_pipelines.smpl_files import read_body
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.metrics import SpatialMetrics
from kimnet_jax.tasks import refinement
from kimnet_jax.tasks.trained import open_trained, pack

pytestmark = pytest.mark.quick_compilation

JOINTS = 17
TINY = {'interval': 2, 'window': 2, 'width': 8, 'levels': 1}


def config_of(arg: str, files, test_files, **fields) -> dict:
    config = hanet.get_config(f'{arg},source=sequences')
    config.model.update(TINY)
    config.poses.update(train=str(files[0]), train_truth=str(files[1]), eval=str(test_files[0]), eval_truth=str(test_files[1]))
    config.train.update(steps=2, batch_size=2, eval_every=1.0, save_every=1.0, log_every=1)
    config.eval.batch_size = 16
    for key, value in fields.items():
        section, _, field = key.partition('__')
        config[section][field] = value
    return config.to_dict()


class Run(NamedTuple):
    folder: pathlib.Path
    trained: refinement.TrainedRefiner
    detected: pathlib.Path
    true: list[np.ndarray]
    predictions: pathlib.Path
    printed: str


@pytest.fixture(scope='module')
def spatial(tmp_path_factory) -> Run:
    """A run in 3D and its evaluation."""
    folder = tmp_path_factory.mktemp('spatial')
    files = joint_files(folder, dims=3, joints=JOINTS)
    detected, truth, true = joint_files(folder, dims=3, joints=JOINTS, lengths=(7, 3), prefix='test')
    run, predictions = folder / 'run', folder / 'predictions.npz'
    assert (
        refinement.train(
            config_of('preset=h36m_3d', files, (detected, truth), poses__normalise='none', optimizer__amsgrad=True), run
        )
        == 0
    )
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluate_run(run, checkpoint='last', predictions=predictions)
    return Run(run, refinement.load(open_trained(run, 'last')), detected, true, predictions, printed.getvalue())


def test_a_packed_network_knows_its_channels(spatial, tmp_path):
    found = open_trained(spatial.folder, 'last')
    channels = 3 * found.skeleton.num_joints
    assert found.weights.config.channels == channels
    pack(found, tmp_path / 'packed.safetensors')
    metadata = read_weights(tmp_path / 'packed.safetensors').metadata
    assert json.loads(metadata['config'])['channels'] == channels


def test_evaluation_in_3d(spatial):
    assert 'relative to the mean of the joints 0' in spatial.printed
    rows = json.loads((spatial.folder / 'evaluation/eval_step2.json').read_text())['rows']
    filters = ['raw input', 'One-Euro', 'Savitzky-Golay', 'Gaussian', 'lines, every 2nd frame']
    assert list(rows) == ['HANet (ours)', *filters]
    assert rows['raw input']['mpjpe'] == pytest.approx(0, abs=1e-4)  # 1 off everywhere, the root too
    found, metrics = read_npz(spatial.predictions), SpatialMetrics(get_skeleton(f'points{JOINTS}'), 2)
    for i, joints in enumerate(np.split(found['joints'], [7])):
        true = spatial.true[i] - spatial.true[i][:, :1]
        metrics.update(i, joints, true, np.ones(joints.shape[:2], bool))
    for key in ('mpjpe', 'pa_mpjpe', 'acceleration', 'jitter'):
        assert rows['HANet (ours)'][key] == pytest.approx(metrics.compute()[key], rel=1e-4)
    with pytest.raises(InputError, match='--protocol released: this run refines poses in 3D'):
        evaluate_run(spatial.folder, checkpoint='last', protocol='released')


def test_files_in_3d(spatial, tmp_path):
    """The layouts are refined alike, around where the root was."""
    raw = [pose.reshape(len(pose), JOINTS, 3) for pose in read_npz(spatial.detected)['joints_3d']]
    rows = [{'frame': i, 'joints': pose.tolist(), 'mark': 5} for i, pose in enumerate(raw[0])]
    (tmp_path / 'a.json').write_text(json.dumps({'about': {'skeleton': 'points17', 'unit': 'mm'}, 'frames': rows}))
    sources = {'b.json': tmp_path / 'a.json', 'b.npz': spatial.detected, 'c.npz': spatial.predictions}
    assert refinement.refine_files(spatial.trained, [(source, tmp_path / target) for target, source in sources.items()]) == 0
    data = json.loads((tmp_path / 'b.json').read_text())
    joints = np.array([row['joints'] for row in data['frames']])
    assert data['about']['unit'] == 'mm'
    assert data['about']['refined']['step'] == 2
    assert {row['mark'] for row in data['frames']} == {5}
    np.testing.assert_allclose(read_npz(tmp_path / 'b.npz')['joints_3d'][0].reshape(joints.shape), joints, atol=1e-4)
    relative = read_npz(spatial.predictions)['joints'][:7]
    np.testing.assert_allclose(joints, relative + raw[0][:, :1], atol=1e-3)
    assert json.loads(str(read_npz(tmp_path / 'c.npz')['about']))['refined']['step'] == 2


def test_files_that_do_not_fit(spatial, tmp_path, capsys):
    flat, *_ = joint_files(tmp_path)
    (tmp_path / 'c.json').write_text(
        json.dumps(
            {
                'about': {'skeleton': 'points17', 'width': 9, 'height': 9},
                'frames': [{'joints': [[1, 2]] * 17, 'box': [0, 0, 9, 9]}],
            }
        )
    )
    (tmp_path / 'd.json').write_text(
        json.dumps({'about': {'skeleton': 'points17'}, 'frames': [{'frame': t, 'joints': [[1, 2, 3]] * 17} for t in (2, 0)]})
    )
    (tmp_path / 'e.txt').write_text('')
    pairs = ((flat, 'x.npz'), (tmp_path / 'c.json', 'x.json'), (tmp_path / 'd.json', 'x.json'), (tmp_path / 'e.txt', 'x.txt'))
    messages = (
        "no array 'joints_3d'; it has imgname, joints_2d; its poses are of config.poses.kind=2d",
        '17 joints of 2 numbers each',
        'frame 0 comes after frame 2; give the frames in their order',
        'poses come in .json',
    )
    for (source, target), message in zip(pairs, messages, strict=True):
        assert refinement.refine_files(spatial.trained, [(source, tmp_path / target)]) == 2
        assert message in capsys.readouterr().err
    assert refinement.refine_files(spatial.trained, [(spatial.detected, tmp_path / 'x.json')]) == 2
    assert "let its name end in '.npz', too" in capsys.readouterr().err
    assert not list(tmp_path.glob('x.*'))


def test_rotations(tmp_path, capsys):
    files = rotation_files(tmp_path)
    detected, truth = rotation_files(tmp_path, lengths=(5, 4, 3), prefix='test')
    space = {'poses__smpl_file': str(body_file(tmp_path)), 'loss__space': 'smpl_joints'}
    config = config_of('preset=aist_smpl', files, (detected, truth), **space)
    assert refinement.train(config, tmp_path / 'run') == 0
    evaluate_run(tmp_path / 'run', checkpoint='last')
    assert 'in metres from the pelvis' in capsys.readouterr().out
    rows = json.loads((tmp_path / 'run/evaluation/eval_step2.json').read_text())['rows']
    body, metrics = read_body(body_file(tmp_path)), SpatialMetrics(get_skeleton('smpl'), 3)
    pairs = refinement.open_split(config, 'eval').pairs
    for i in range(3):
        pair = pairs(i)
        points = [smpl.joint_positions(body, poses, pair.shape) for poses in (pair.estimates.joints, pair.joints)]
        metrics.update(i, *points, np.ones(points[0].shape[:2], bool))
    assert rows['raw input']['mpjpe'] == pytest.approx(metrics.compute()['mpjpe'], rel=1e-5)
    assert rows['raw input']['mpjpe'] > 0.01
    config['poses']['smpl_file'] = str(tmp_path / 'none.pkl')
    with pytest.raises(InputError, match=r'config\.poses\.smpl_file: .*none\.pkl: no such file'):
        refinement.train(config, tmp_path / 'other')
    body_file(tmp_path).unlink()
    trained = refinement.load(open_trained(tmp_path / 'run', 'last'))  # needs no body
    assert refinement.refine_files(trained, [(detected, tmp_path / 'refined.npz')]) == 0
    poses = read_npz(tmp_path / 'refined.npz')['pose']
    assert [pose.shape for pose in poses] == [(5, 72), (4, 72), (3, 72)]
    assert np.isfinite(np.concatenate(poses)).all()


def test_settings_that_do_not_fit(tmp_path):
    files = joint_files(tmp_path, dims=3, joints=3)[:2]
    with pytest.raises(InputError, match=r"config\.loss\.space='smpl_joints': only poses of config\.poses\.kind='smpl'"):
        refinement.train(
            config_of('preset=pw3d', files, files, loss__space='smpl_joints', dataset__allow_overlap=True), tmp_path / 'run'
        )
    with pytest.raises(InputError, match=r"config\.loss\.space='joints': choose one of poses, smpl_joints"):
        refinement.train(config_of('preset=pw3d', files, files, loss__space='joints'), tmp_path / 'run')
    with pytest.raises(InputError, match=r'config\.eval\.select=.*known: .*negative_mpjpe'):
        refinement.train(
            config_of('preset=tiny,kind=3d', files, files, eval__select='torso/auc/mPCK', dataset__allow_overlap=True),
            tmp_path / 'run',
        )
    with pytest.raises(ValueError, match="kind '4d': choose 2d, 3d, smpl"):
        hanet.get_config('kind=4d')
    assert not (tmp_path / 'run').exists()


def test_gradients_through_the_joints_are_finite(tmp_path):
    """Also at rotations that are none: padding and outputs at frames that were not sampled may be anything."""
    body = read_body(body_file(tmp_path))
    poses = jnp.zeros((2, 24, 6)).at[0, 1:].set(jnp.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0]))  # columns zero, and parallel
    gradient = jax.jit(jax.grad(lambda x: (smpl.joint_positions(body, x, xp=jnp) ** 2).sum()))(poses)
    assert jnp.isfinite(gradient).all()
    turned = jnp.asarray(np.random.default_rng(0).normal(size=(24, 6)), jnp.float32)
    np.testing.assert_allclose(
        jax.jit(lambda x: smpl.joint_positions(body, x, xp=jnp))(turned),
        smpl.joint_positions(body, np.asarray(turned)),
        atol=1e-5,
    )
