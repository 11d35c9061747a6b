"""Weights that a run begins with: from runs and from files, whole or nothing, and what is left out is said."""

import functools
import json

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from kimnet_jax.configs import kinetic_puppets
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB, LSP, Skeleton
from kimnet_jax.interop.weight_files import read_weights, write_weights
from kimnet_jax.models import PerFrame, abstract_model
from kimnet_jax.models.layers import BatchNorm, Conv
from kimnet_jax.models.weights import assign, flatten, initialise, part_of
from kimnet_jax.tasks import heatmaps
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.initial import InitConfig, initialise_parts
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.state import create_state, split_model
from kimnet_jax.training.workdir import write_config

pytestmark = pytest.mark.quick_compilation

WIDE = {'width': 4, 'features': 8}
POSE_RESNET = {'name': 'pose_resnet', 'depth': 18, **WIDE}
KIMNET = {'pose_initializer': 'resnet18', 'feature_encoder': 'resnet18', **WIDE}


def variables(module: nnx.Module) -> dict[str, np.ndarray]:
    found = flatten(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    return {path: np.asarray(variable[...]) for path, variable in found.items()}


def make(fields, num_joints: int, seed: int = 1) -> nnx.Module:
    """A model with random weights; its own initial values would be compiled one by one."""
    model, rng = abstract_model(fields, num_joints=num_joints), np.random.default_rng(seed)
    shapes = flatten(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    assign(model, {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in shapes.items()})
    return model


def begin(module: nnx.Module, **sources) -> list[str]:
    init = InitConfig(**{key: value if key == 'partial' else str(value) for key, value in sources.items()})
    return initialise_parts(module, init, initialise, read_weights, part_of)


@pytest.fixture(scope='module')
def source() -> dict[str, np.ndarray]:
    """Weights of a PoseResNet of 16 joints."""
    return variables(make(POSE_RESNET, 16).network)


@pytest.fixture(params=['npz', 'safetensors'])
def file(request, source, tmp_path):
    path = tmp_path / f'weights.{request.param}'
    write_weights(path, source, {})
    return path


def kimnet(num_joints: int) -> nnx.Module:
    return make(KIMNET, num_joints, seed=3)


def split(arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
    last = {path: array for path, array in arrays.items() if path.startswith('final_layer.')}
    return last, {path: array for path, array in arrays.items() if path not in last}


def assert_equal(arrays: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(arrays) == set(expected)
    for path, array in expected.items():
        np.testing.assert_array_equal(array, arrays[path])


def test_both_parts_of_as_many_joints(file, source):
    model = kimnet(16)
    transition = variables(model.transition)
    lines = begin(model, pose_initializer=file, feature_encoder=file)
    assert_equal(variables(model.pose_initializer), source)
    assert_equal(variables(model.feature_encoder), split(source)[1])
    assert_equal(variables(model.transition), transition)
    assert lines == [
        f'pose_initializer: weights of {file}',
        f'feature_encoder: weights of {file}',
        'feature_encoder: final_layer left out: not in this network',
    ]


def test_last_layer_of_other_joints_stays_random(source, tmp_path):
    write_weights(tmp_path / 'a.npz', source, {})
    model = kimnet(13)
    random, _ = split(variables(model.pose_initializer))
    lines = begin(model, pose_initializer=tmp_path / 'a.npz')
    assert_equal(variables(model.pose_initializer), random | split(source)[1])
    assert lines[1:] == ['pose_initializer: final_layer left out, so random: 16 joints in the source, 13 here']


def test_an_hourglass_goes_into_an_initializer_of_other_joints_and_into_an_encoder_with_an_adapter(tmp_path):
    stacks = make({'name': 'hourglass', 'num_stacks': 2, 'features': 16}, 16).network
    write_weights(tmp_path / 'a.npz', given := variables(stacks), {})
    fields = {'pose_initializer': 'hourglass2', 'feature_encoder': 'hourglass2', **WIDE}
    model = make(fields, 13, seed=3)
    before = variables(model)
    lines = begin(model, pose_initializer=tmp_path / 'a.npz', feature_encoder=tmp_path / 'a.npz')
    assert [line for line in lines if 'weights of' not in line] == [
        'pose_initializer: merge_score, score left out, so random: 16 joints in the source, 13 here',
        'feature_encoder: merge_score, score left out: not in this network',
    ]
    after, heads = variables(model), {path for path in given if 'score' in path}
    assert len(heads) == 6
    for part in ('pose_initializer', 'feature_encoder.network'):
        assert_equal({path: after[f'{part}.{path}'] for path in given if path not in heads}, split_off(given, heads))
    kept = [f'pose_initializer.{path}' for path in heads] + [path for path in before if path.startswith('feature_encoder.conv.')]
    assert_equal({path: after[path] for path in kept}, {path: before[path] for path in kept})


def split_off(arrays: dict[str, np.ndarray], paths: set[str]) -> dict[str, np.ndarray]:
    return {path: array for path, array in arrays.items() if path not in paths}


def test_a_run_gives_the_average_of_its_best_checkpoint(source, tmp_path):
    model = make(POSE_RESNET, 16, seed=5)
    _, weights = split_model(model, training=True)
    config = OptimizerConfig(schedule='constant')
    adam = make_optimizer(config, make_schedule(config, steps=9, steps_per_epoch=1))
    state = create_state(weights, adam, average=True)
    initialise(model.network, source)
    best = state._replace(average=split_model(model, training=True)[1])
    checkpoints = Checkpoints(tmp_path)
    for step, saved, score in ((1, best, 0.9), (2, state, 0.1), (3, state, 0.2)):
        checkpoints.save(step, saved, {}, score)
    checkpoints.close()

    target = make(POSE_RESNET, 16, seed=6)
    assert begin(target, model=tmp_path) == [f'model: weights of {tmp_path}, checkpoint of step 1']
    assert_equal(variables(target.network), source)
    target = kimnet(16)
    begin(target, feature_encoder=tmp_path)
    assert_equal(variables(target.feature_encoder), split(source)[1])


def begin_named(fields, skeleton: Skeleton, **sources) -> tuple[nnx.Module, list[str]]:
    """As a training on a data set of that skeleton begins."""
    model, larger = make(fields, skeleton.num_joints, seed=3), lambda: abstract_model(fields, num_joints=skeleton.num_joints + 1)
    init = InitConfig(**{key: str(value) for key, value in sources.items()})
    return model, initialise_parts(model, init, functools.partial(initialise, skeleton=skeleton), read_weights, part_of, larger)


def assert_named(after: nnx.Module, given: dict[str, np.ndarray], before: nnx.Module) -> None:
    """`final_layer` is LSP's for the joints that LSP has and random for the others, and all else is LSP's."""
    (last, rest), (source, source_rest), (random, _) = (split(arrays) for arrays in (variables(after), given, variables(before)))
    assert_equal(rest, source_rest)
    for path, array in last.items():
        for index, joint in enumerate(JHMDB.joints):
            known = joint in LSP.joints
            expected = source[path][..., LSP.joints.index(joint)] if known else random[path][..., index]
            np.testing.assert_array_equal(array[..., index], expected)


def test_joints_of_a_run_are_carried_over_by_name(tmp_path):
    """A PoseResNet of LSP's 14 joints begins both parts of a KIMNet of JHMDB's 15, and a PoseResNet of them."""
    model = make(POSE_RESNET, 14)
    _, weights = split_model(model, training=True)
    adam = make_optimizer(config := OptimizerConfig(schedule='constant'), make_schedule(config, steps=9, steps_per_epoch=1))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, create_state(weights, adam, average=False), {}, 0.5)
    checkpoints.close()
    write_config(tmp_path, {'model': POSE_RESNET}, 'lsp')
    given = variables(model.network)
    chain, lines = begin_named(KIMNET, JHMDB, pose_initializer=tmp_path, feature_encoder=tmp_path)
    names = 'neck, r_shoulder, l_shoulder, r_hip, l_hip, r_elbow, l_elbow, r_knee, l_knee, r_wrist, l_wrist, r_ankle, l_ankle'
    carried = f'joints of lsp matched by name: {names}; new, so random: belly, face; left out: head_top'
    assert lines == [
        f'pose_initializer: weights of {tmp_path}, checkpoint of step 1',
        f'pose_initializer: {carried}',
        f'feature_encoder: weights of {tmp_path}, checkpoint of step 1',
        'feature_encoder: final_layer left out: not in this network',
    ]
    assert_named(chain.pose_initializer, given, make(KIMNET, 15, seed=3).pose_initializer)
    assert_equal(variables(chain.feature_encoder), split(given)[1])
    alone, lines = begin_named(POSE_RESNET, JHMDB, model=tmp_path)
    assert lines[1:] == [f'model: {carried}']
    assert_named(alone.network, given, make(POSE_RESNET, 15, seed=3).network)


@pytest.mark.parametrize('name', ['a.npz', 'a.safetensors'])
def test_joints_of_a_file_are_carried_over_where_it_names_its_skeleton(name, tmp_path):
    given = variables(make(POSE_RESNET, 14).network)
    write_weights(tmp_path / name, given, {'skeleton': 'lsp'})
    model, lines = begin_named(KIMNET, JHMDB, pose_initializer=tmp_path / name)
    assert 'matched by name: neck, r_shoulder' in lines[1]
    assert_named(model.pose_initializer, given, make(KIMNET, 15, seed=3).pose_initializer)
    write_weights(tmp_path / name, given, {})
    _, lines = begin_named(KIMNET, JHMDB, pose_initializer=tmp_path / name)
    assert lines[1:] == [
        'pose_initializer: the joints of these weights are unknown and not matched by name',
        'pose_initializer: final_layer left out, so random: 14 joints in the source, 15 here',
    ]
    write_weights(tmp_path / name, given, {'skeleton': 'cocoa'})
    with pytest.raises(InputError, match=rf"config\.init\.model=.*{name}: unknown skeleton 'cocoa'"):
        begin_named(POSE_RESNET, JHMDB, model=tmp_path / name)


def test_the_same_skeleton_needs_no_word(tmp_path):
    given = variables(make(POSE_RESNET, 15).network)
    write_weights(tmp_path / 'a.npz', given, {'skeleton': 'jhmdb'})
    model, lines = begin_named(POSE_RESNET, JHMDB, model=tmp_path / 'a.npz')
    assert lines == [f'model: weights of {tmp_path}/a.npz']
    assert_equal(variables(model.network), given)


def test_a_whole_kimnet_of_other_joints(tmp_path):
    given = variables(make(KIMNET, 14))
    write_weights(tmp_path / 'a.npz', given, {'skeleton': 'lsp'})
    model, lines = begin_named(KIMNET, JHMDB, model=tmp_path / 'a.npz')
    assert 'new, so random: belly, face' in lines[1]
    after, before = variables(model), variables(make(KIMNET, 15, seed=3))
    path, (neck, face) = 'transition.relation_decoder.conv_g.kernel', (JHMDB.joints.index(joint) for joint in ('neck', 'face'))
    there = LSP.joints.index('neck')
    assert after[path][0, 0, neck, neck] == given[path][0, 0, there, there]
    np.testing.assert_array_equal(after[path][..., face], before[path][..., face])
    np.testing.assert_array_equal(after[path][:, :, face], before[path][:, :, face])


def test_a_whole_kimnet_and_then_another_part(source, tmp_path):
    write_weights(tmp_path / 'kimnet.npz', variables(kimnet(16)), {})
    write_weights(tmp_path / 'part.npz', source, {})
    model = make(KIMNET, 16, seed=4)
    begin(model, model=tmp_path / 'kimnet.npz', pose_initializer=tmp_path / 'part.npz')
    assert_equal(variables(model.pose_initializer), source)
    assert_equal(variables(model.transition), variables(kimnet(16).transition))


def test_all_that_does_not_fit_is_listed_and_nothing_is_changed(source, tmp_path):
    wrong = dict(source) | {'bn1.scale': np.zeros(5, np.float32), 'fc.kernel': np.zeros((2, 2), np.float32)}
    del wrong['layer1.0.conv1.kernel'], wrong['final_layer.bias']
    write_weights(tmp_path / 'wrong.npz', wrong, {})
    model = kimnet(16)
    before = variables(model)
    with pytest.raises(InputError) as raised:
        begin(model, pose_initializer=tmp_path / 'wrong.npz')
    first, *problems = str(raised.value).splitlines()
    assert first == f'config.init.pose_initializer={tmp_path}/wrong.npz: these weights do not fit the model:'
    assert sorted(problems) == [
        'bn1.scale: (5,) in the weights, (4,) in the model',
        'fc.kernel: not in the model',
        'final_layer.bias: missing in the weights',
        'layer1.0.conv1.kernel: missing in the weights',
    ]
    assert_equal(variables(model), before)


def test_a_backbone_without_upsampling_is_taken_when_asked_for(source, tmp_path):
    backbone = {path: array for path, array in source.items() if not path.startswith(('deconv_layers.', 'final_layer.'))}
    write_weights(tmp_path / 'backbone.npz', backbone, {})
    model = make(POSE_RESNET, 16, seed=2)
    random = variables(model.network)
    with pytest.raises(InputError, match=r'deconv_layers\.0\.conv\.kernel: missing in the weights'):
        begin(model, model=tmp_path / 'backbone.npz')
    lines = begin(model, model=tmp_path / 'backbone.npz', partial=True)
    assert lines[1:] == ['model: not in the weights, so random: deconv_layers, final_layer']
    assert_equal(variables(model.network), random | backbone)

    del backbone['layer4.1.bn2.scale']  # a hole is no missing part
    write_weights(tmp_path / 'hole.npz', backbone, {})
    with pytest.raises(InputError, match=r'layer4\.1\.bn2\.scale: missing in the weights$'):
        begin(model, model=tmp_path / 'hole.npz', partial=True)


def test_a_part_that_is_not_there(source, tmp_path):
    write_weights(tmp_path / 'a.npz', source, {})
    with pytest.raises(InputError, match=r'config\.init\.feature_encoder=.*: PerFrame has no such part'):
        begin(abstract_model(POSE_RESNET, num_joints=16), feature_encoder=tmp_path / 'a.npz')
    with pytest.raises(InputError, match=r'conv1\.kernel: not in the model'):  # a 1x1 convolution
        begin(abstract_model(KIMNET | {'pose_initializer': 'none'}, num_joints=16), pose_initializer=tmp_path / 'a.npz')


@pytest.mark.parametrize('name', ['a.npz', 'a.safetensors'])
def test_damaged_files(name, tmp_path):
    (tmp_path / name).write_bytes(b'no weights')
    with pytest.raises(InputError, match=rf'config\.init\.model=.*{name}: cannot be read'):
        begin(abstract_model(KIMNET, num_joints=5), model=tmp_path / name)


class Part(nnx.Module):
    """Images to heatmaps; compiles at once."""

    def __init__(self, num_joints, *, dtype, rngs):
        self.conv1 = Conv(3, 2, 3, stride=4, rngs=rngs)
        self.bn1 = BatchNorm(2, rngs=rngs)
        self.final_layer = Conv(2, num_joints, 1, rngs=rngs)

    def __call__(self, images):
        return self.final_layer(self.bn1(self.conv1(images)))

    def outputs(self, images):
        return (self(images),)


class Chain(PerFrame):
    """A video model with a part of that name."""

    def __init__(self, num_joints, *, rngs):
        self.dtype = 'float32'
        self.pose_initializer = Part(num_joints, dtype=None, rngs=rngs)

    @property
    def network(self):
        return self.pose_initializer


def test_a_run_begins_with_another_and_goes_on_without_it(data_dir, tmp_path, capsys, monkeypatch):
    """A network of images alone, then a video model from it, which is started again when the first run is gone."""
    models = {'pose_resnet': functools.partial(PerFrame, Part), 'kimnet': Chain}
    for name in ('build_model', 'abstract_model'):
        monkeypatch.setattr(heatmaps, name, lambda fields, num_joints, **_: models[fields['name']](num_joints, rngs=nnx.Rngs(0)))

    def settings(model: str) -> ConfigDict:
        config = kinetic_puppets.get_config(f'preset=tiny,model={model}')
        config.dataset.update(config='mini', data_dir=str(data_dir), eval_split='test[:1]')
        config.data.update(frames=1, input_size=32)
        config.train.update(batch_size=jax.device_count(), steps=1)
        config.eval.update(batch_size=jax.device_count(), segment=1)
        config.loader.threads = 1
        return config

    assert heatmaps.train(settings('pose_resnet').to_dict(), tmp_path / 'alone') == 0
    assert json.loads((tmp_path / 'alone/config.json').read_text())['initial_weights'] == []
    config = settings('kimnet')
    config.init.pose_initializer = str(tmp_path / 'alone')
    capsys.readouterr()
    assert heatmaps.train(config.to_dict(), tmp_path / 'chain') == 0
    told = [f'pose_initializer: weights of {tmp_path}/alone, checkpoint of step 1']
    assert told[0] in capsys.readouterr().out
    record = json.loads((tmp_path / 'chain/config.json').read_text())
    assert record['initial_weights'] == told
    assert record['config']['init']['pose_initializer'] == str(tmp_path / 'alone')

    (tmp_path / 'alone').rename(tmp_path / 'gone')
    assert heatmaps.train(config.to_dict(), tmp_path / 'chain') == 0
    shown = capsys.readouterr().out
    assert 'resuming after step 1' in shown
    assert 'weights of' not in shown
    assert json.loads((tmp_path / 'chain/config.json').read_text())['initial_weights'] == told
