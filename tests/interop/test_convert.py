import dataclasses
import json
import re
import sys

import golden
import jax
import numpy as np
import optax
import pytest
import torch
from absl import flags
from flax import nnx

from kimnet_jax import convert
from kimnet_jax.core.command import run_command
from kimnet_jax.core.config import plain
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import get_skeleton
from kimnet_jax.interop.convert import check_complete, describe, described, forward_error, from_torch, make_config, to_torch
from kimnet_jax.interop.networks import NETWORKS, JRPSPSizes, RelationDecoderSizes
from kimnet_jax.interop.pixels import RELEASED as RELEASED_PIXELS
from kimnet_jax.interop.pixels import fold_pixels
from kimnet_jax.interop.weight_files import read_weights, write_weights
from kimnet_jax.models import KIMNet, KIMNetConfig, PerFrame, PoseResNetConfig, abstract_model
from kimnet_jax.models.dkd_net import DKDNetConfig
from kimnet_jax.models.hourglass import HourglassConfig
from kimnet_jax.models.lstm_pm import LSTMPMConfig
from kimnet_jax.models.rpstn import RPSTNConfig
from kimnet_jax.models.weights import assign, initialise, part_of
from kimnet_jax.tasks.heatmaps import Settings
from kimnet_jax.tasks.trained import load_network
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.initial import InitConfig, initialise_parts
from kimnet_jax.training.state import TrainState, split_model
from kimnet_jax.training.workdir import write_config

RELEASED = {'source': 'released.pth.tar', 'target': 'x.npz', 'model': 'pose_resnet'}


def state_dict(name, config=None):
    """Weights of the twin by the recipe; counters of batches are not 0."""
    twin = NETWORKS[name].make_twin(config or NETWORKS[name].presets['tiny'])
    entries = golden.state_dict({key: tensor.shape for key, tensor in twin.state_dict().items()}, 0)
    return {key: np.array(9) if key.endswith('tracked') else array for key, array in entries.items()}


def assert_equal(arrays, expected):
    assert arrays.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays[key], array, err_msg=key, strict=True)


@pytest.mark.parametrize('name', NETWORKS)
def test_round_trips_are_bit_equal(name):
    source = state_dict(name)
    weights, _, unfilled = from_torch(name, source, config=NETWORKS[name].presets['tiny'])
    assert unfilled == []
    back, _ = to_torch(weights, source)
    assert list(back) == list(source)
    assert_equal(back, source)

    fresh, _ = to_torch(weights)  # with the twin's keys
    assert list(fresh) == list(source)
    NETWORKS[name].make_twin(weights.config).load_state_dict({key: torch.from_numpy(np.array(a)) for key, a in fresh.items()})
    again, _, _ = from_torch(name, fresh, config=weights.config)
    assert_equal(again.arrays, weights.arrays)
    assert from_torch(name, fresh)[0].config == from_torch(name, source)[0].config


def test_kimnet_at_full_size():
    network, config = NETWORKS['kimnet'], NETWORKS['kimnet'].presets['full']
    with torch.device('meta'):
        twin = network.make_twin(config).state_dict()
    weights, _, unfilled = from_torch('kimnet', {key: np.broadcast_to(np.float32(0), t.shape) for key, t in twin.items()})
    assert weights.config == config
    assert unfilled == []
    back, _ = to_torch(weights, {key: np.broadcast_to(np.float32(0), t.shape) for key, t in twin.items()})
    assert {key: array.shape for key, array in back.items()} == {key: tuple(tensor.shape) for key, tensor in twin.items()}


NETWORK_OF = {'simplebaseline': 'pose_resnet', 'lstm': 'lstm_pm'}
STATE_DICTS = golden.FOLDER / 'state_dicts'
RELEASES = [file.stem for file in sorted(STATE_DICTS.glob('*.json')) if not re.match('rpstn_(core|jre)', file.stem)]


@pytest.mark.parametrize('release', RELEASES)
def test_sizes_are_read_off_a_release(release):
    entries = json.loads((STATE_DICTS / f'{release}.json').read_text())['entries']
    shapes = {entry['key']: tuple(entry['shape']) for entry in entries}
    first = release.partition('_')[0]
    network = NETWORKS[NETWORK_OF.get(first, first)]
    config = network.read_config(shapes)
    with torch.device('meta'):
        twin = network.make_twin(config).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in twin.items()} == shapes
    if release == 'simplebaseline_resnet101':
        assert config == PoseResNetConfig(101, 13)


@pytest.mark.parametrize(
    ('name', 'config'),
    [
        ('kimnet', KIMNetConfig(5, 'hrnet_tiny', 'hourglass1', width=4, features=7)),
        ('kimnet', KIMNetConfig(5, 'none', 'hourglass2', width=4, features=16, temporal='dkd')),
        ('kimnet', KIMNetConfig(5, 'resnet34', 'hrnet_tiny', width=4, features=2, temporal='jrpsp')),
        ('kimnet', KIMNetConfig(5, 'none', 'resnet50', width=4, features=7, temporal='none')),
        ('rpstn', RPSTNConfig(5, 'resnet34', 'resnet18', width=4, features=7, temporal='kmm')),
        ('dkd', DKDNetConfig(5, 'resnet18', 'hrnet_tiny', width=4, features=7)),
        ('dkd', DKDNetConfig(5, 'hourglass1', 'resnet18', width=4, features=7, temporal='kmm')),
        ('lstm_pm', LSTMPMConfig(5, width=4, features=3, temporal='kmm')),
    ],
)
def test_backbones_and_temporal_module_are_read_off(name, config):
    source = state_dict(name, config)
    weights, _, unfilled = from_torch(name, source)
    assert weights.config == config
    assert unfilled == []
    back, _ = to_torch(weights)
    assert_equal(back, {key: np.array(0) if key.endswith('tracked') else array for key, array in source.items()})


@pytest.mark.parametrize('stacks', [2, 3])
def test_what_is_none_of_the_backbones(stacks):
    """Two residual blocks in a row, or three stacks."""
    entries = state_dict('hourglass', HourglassConfig(stacks, num_blocks=4 - stacks, features=16))
    source = {f'feature_encoder.{key}': array for key, array in entries.items()}
    source['fusion.conv_d.weight'] = np.zeros((5, 16, 1, 1), np.float32)
    with pytest.raises(InputError, match='is none of the backbones resnet18'):
        from_torch('kimnet', source)


@pytest.mark.parametrize('variant', ['full', 'share_qk', 'heatmap'])
def test_variants_that_the_entries_tell(variant):
    config = KIMNetConfig(5, 'none', 'resnet18', width=4, features=7, kmm_variant=variant, fusion_norm=False)
    shapes = {key: array.shape for key, array in state_dict('kimnet', config).items()}
    assert NETWORKS['kimnet'].read_config(shapes) == config


def test_one_error_lists_all_that_does_not_fit():
    source = state_dict('pose_resnet')
    source['layer1.0.conv2.weight'] = source['layer1.0.conv2.weight'][:, :3]
    source['layer4.1.conv1.weight'] = np.zeros(3, np.float32)
    source['bn1.bias'] = source['bn1.bias'].astype(np.int32)
    source['extra.weight'] = np.zeros(2, np.float32)
    source['layer1.1.conv3.weight'] = np.zeros((16, 4, 1, 1), np.float32)
    del source['layer2.0.bn1.running_mean'], source['final_layer.bias']
    with pytest.raises(InputError) as error:
        from_torch('pose_resnet', source)
    first, *lines = str(error.value).splitlines()
    assert first.startswith("not the weights of 'pose_resnet', PoseResNetConfig(depth=18, num_joints=5")
    assert sorted(lines) == [
        'bn1.bias: of type int32',
        'extra.weight: taken by 0 rules',
        'final_layer.bias: nothing fills it',
        'layer1.0.conv2.weight: (4, 3, 3, 3) there, (3, 3, 4, 4) in our order of axes here',
        'layer1.1.conv3.weight: the network has no layer1.1.conv3.kernel',
        'layer2.0.bn1.mean: nothing fills it',
        'layer4.1.conv1.weight: (3,) there, (3, 3, 32, 32) in our order of axes here',
    ]


@pytest.mark.parametrize(
    ('name', 'entries', 'message'),
    [
        ('pose_resnet', {'x.weight': (2, 2)}, '0, 0, 0, 0 basic blocks in layer1 to layer4'),
        ('kmm', {'x.weight': (2, 2)}, 'there is no conv_q.weight; there are x.weight'),
        ('kmm', {'conv_q.weight': (5,), 'conv_k.weight': (5,)}, "not the weights of 'kmm'"),
    ],
)
def test_weights_of_something_else(name, entries, message):
    with pytest.raises(InputError, match=message):
        from_torch(name, {key: np.zeros(shape, np.float32) for key, shape in entries.items()})


def test_backbone_of_imagenet():
    source = {key: a for key, a in state_dict('pose_resnet').items() if not key.startswith(('deconv', 'final'))}
    source |= {'fc.weight': np.zeros((10, 32), np.float32), 'fc.bias': np.zeros(10, np.float32)}
    with pytest.raises(InputError, match=r'fc\.weight: taken by 0 rules(.|\n)*deconv_layers\.2\.bn\.var: nothing fills it'):
        from_torch('pose_resnet', source)
    weights, notes, unfilled = from_torch('pose_resnet', source, partial=True)
    assert [note for note in notes if 'fc' in note] == [f'left out: fc.{leaf}: taken by 0 rules' for leaf in ('weight', 'bias')]
    leaves = ('bn.bias', 'bn.mean', 'bn.scale', 'bn.var', 'conv.kernel')
    assert sorted(unfilled) == [f'deconv_layers.{i}.{leaf}' for i in range(3) for leaf in leaves]
    assert weights.config == PoseResNetConfig(18, None, width=4)
    with pytest.raises(InputError, match=r'deconv_layers\.0\.bn\.bias: missing'):
        check_complete(weights)


def test_outputs_are_compared():
    source = state_dict('kmm')
    weights, _, _ = from_torch('kmm', source)
    assert forward_error(weights, source) < 1e-6
    other = weights.arrays | {'conv_q.bias': weights.arrays['conv_q.bias'] + 1}
    with pytest.raises(InputError, match='the outputs differ from those of PyTorch: relative error'):
        forward_error(weights._replace(arrays=other), source)
    with pytest.raises(InputError, match=r'Missing key\(s\) in state_dict: "conv_q.bias"'):
        forward_error(weights, {key: array for key, array in source.items() if key != 'conv_q.bias'})


@pytest.mark.quick_compilation
@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('kimnet', {'pose_initializer': 'none', 'kmm_activation': 'sigmoid', 'kmm_weights': 'ratio', 'biases': False}),
        ('kmm', {'activation': 'none', 'weights': 'ratio', 'use_bias': False}),
        ('jrpsp', {'variant': 'released_penn', 'decoder_variant': 'released'}),
    ],
)
def test_the_outputs_agree(name, changes):
    """Of a network of videos, whose outputs were compared with its state before; of what the paper leaves open; of a part."""
    config = dataclasses.replace(NETWORKS[name].presets['tiny'], **changes)
    source = state_dict(name, config)
    assert forward_error(from_torch(name, source, config=config)[0], source) < 1e-5


@pytest.fixture
def command(tmp_path):
    """Runs the command in `tmp_path`; gives the exit status."""

    def run(*argv):
        values = flags.FlagValues()
        convert.define_flags(values)
        settings = [f'--{key}={value}' for key, value in argv if key.startswith('config.')]
        given = [
            f'--{key}={tmp_path / value}' if key in ('source', 'target', 'template') else f'--{key}={value}'
            for key, value in argv
            if not key.startswith('config.')
        ]
        with pytest.raises(SystemExit) as caught:
            run_command(convert.run, values(['convert', *given])[:1], settings, values)
        return caught.value.code

    return lambda **options: run(*options.items())


@pytest.fixture
def released(tmp_path):
    """A PyTorch file as training scripts write it; gives its entries."""
    entries = state_dict('pose_resnet')
    tensors = {f'module.{key}': torch.from_numpy(array) for key, array in entries.items()}
    torch.save({'epoch': 3, 'state_dict': tensors}, tmp_path / 'released.pth.tar')
    return entries


def test_command_there_and_back(command, released, tmp_path, capsys):
    assert command(model='pose_resnet', source='released.pth.tar', target='ours.npz') == 0
    told = capsys.readouterr().out
    assert 'taken: state_dict; left out: epoch' in told
    assert 'PoseResNetConfig(depth=18, num_joints=5, width=4, features=7' in told
    assert 'the outputs agree with PyTorch: relative error' in told
    assert command(source='ours.npz', target='ours.safetensors', to='flax') == 0
    ours, copy = (read_weights(tmp_path / name) for name in ('ours.npz', 'ours.safetensors'))
    assert copy.metadata == ours.metadata
    assert_equal(copy.arrays, ours.arrays)
    assert command(source='ours.safetensors', target='back.pth', template='released.pth.tar', verify=False) == 0
    assert_equal(torch.load(tmp_path / 'back.pth'), {key: torch.from_numpy(array) for key, array in released.items()})
    assert 'from the template: num_batches_tracked of 23 BatchNorms' in capsys.readouterr().out


def test_target_is_replaced_only_when_asked(command, released, tmp_path, capsys):
    (tmp_path / 'ours.npz').write_text('mine')
    assert command(model='pose_resnet', source='released.pth.tar', target='ours.npz') == 2
    assert 'ours.npz already exists' in capsys.readouterr().err
    assert (tmp_path / 'ours.npz').read_text() == 'mine'
    assert command(model='pose_resnet', source='released.pth.tar', target='ours.npz', overwrite=True, verify=False) == 0
    assert read_weights(tmp_path / 'ours.npz').metadata['network'] == 'pose_resnet'


def test_part_of_a_larger_network(command, tmp_path):
    entries = state_dict('kimnet')
    write_weights(tmp_path / 'kimnet.safetensors', entries, {})
    options = {'source': 'kimnet.safetensors', 'verify': False}
    assert command(model='pose_resnet', part='pose_initializer', target='p.npz', **options) == 0
    part = {key.removeprefix('pose_initializer.'): a for key, a in entries.items() if key.startswith('pose_initializer.')}
    assert_equal(read_weights(tmp_path / 'p.npz').arrays, from_torch('pose_resnet', part)[0].arrays)


def test_a_part_begins_a_training(command, released, tmp_path):
    assert command(model='pose_resnet', source='released.pth.tar', target='ours.npz', verify=False) == 0
    model = nnx.eval_shape(lambda: KIMNet(KIMNetConfig(5, 'resnet18', 'resnet18', width=4, features=7), rngs=nnx.Rngs(0)))
    init = InitConfig(pose_initializer=str(tmp_path / 'ours.npz'))
    initialise_parts(model, init, initialise, read_weights, part_of)
    kernel = np.asarray(model.pose_initializer.conv1.kernel[...])
    np.testing.assert_array_equal(kernel, released['conv1.weight'].transpose(2, 3, 1, 0))


def test_the_skeleton_goes_along(command, tmp_path, capsys):
    config = PoseResNetConfig(depth=18, num_joints=15, width=4, features=7)
    write_weights(tmp_path / 'a.safetensors', state_dict('pose_resnet', config), {})
    options = {'verify': False, 'overwrite': True}
    assert command(model='pose_resnet', source='a.safetensors', target='a.npz', skeleton='jhmdb', **options) == 0
    assert read_weights(tmp_path / 'a.npz').metadata['skeleton'] == 'jhmdb'
    assert command(source='a.npz', target='b.npz', to='flax', **options) == 0
    assert read_weights(tmp_path / 'b.npz').metadata['skeleton'] == 'jhmdb'
    assert command(source='a.npz', target='b.npz', to='flax', skeleton='lsp', **options) == 2
    assert "a.npz are those of 'jhmdb'" in capsys.readouterr().err
    assert command(model='pose_resnet', source='a.safetensors', target='b.npz', **options) == 0
    assert 'skeleton' not in read_weights(tmp_path / 'b.npz').metadata
    write_weights(
        tmp_path / 'b.npz', *[read_weights(tmp_path / 'a.npz')[i] | ({'skeleton': 'cocoa'} if i else {}) for i in (0, 1)]
    )
    assert command(source='b.npz', target='c.npz', to='flax', **options) == 2
    assert "b.npz: metadata of another program or version: unknown skeleton 'cocoa'" in capsys.readouterr().err


def test_weights_of_ones_own_joints(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = PoseResNetConfig(depth=18, num_joints=3, width=4, features=7)
    write_weights(tmp_path / 'a.safetensors', state_dict('pose_resnet', config), {})
    (tmp_path / 'hand.toml').write_text('joints = ["left_tip", "wrist", "right_tip"]\nlimbs = [["left_tip", "wrist"]]\n')
    (tmp_path / 'hand2.toml').write_text('joints = ["left_tip", "wrist", "thumb"]\n')
    (tmp_path / 'bad.toml').write_text('names = ["a", "b"]\n')
    given = {'model': 'pose_resnet', 'source': 'a.safetensors', 'target': 'a.npz', 'verify': False, 'overwrite': True}
    assert command(**given, skeleton='hand.toml') == 0
    skeleton = get_skeleton(read_weights(tmp_path / 'a.npz').metadata['skeleton'])
    assert (skeleton.name, skeleton.joints, skeleton.flip_pairs) == ('hand', ('left_tip', 'wrist', 'right_tip'), ((0, 2),))
    assert command(source='a.npz', target='b.npz', to='flax', skeleton='hand.toml') == 0
    for text, message in (
        (
            'hand2.toml',
            "a.npz are those of 'hand' (3 joints, among them right_tip), not of 'hand2' (3 joints, among them thumb)",
        ),
        ('jhmdb', "a.npz are those of 'hand' (3 joints, among them left_tip, wrist, right_tip), not of 'jhmdb' (15 joints, "),
        ('foot', '--skeleton=foot: choose one of coco, jhmdb'),
        ('foot.toml', 'foot.toml: no such file'),
        ('bad.toml', "bad.toml: 'names' is no field of a skeleton"),
    ):
        capsys.readouterr()
        assert command(source='a.npz', target='c.npz', to='flax', skeleton=text) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize('name', ['kimnet', 'pose_resnet'])
def test_run_of_ours(name, command, tmp_path):
    fields = {'pose_initializer': 'none', 'feature_encoder': 'resnet18'} if name == 'kimnet' else {'depth': 18}
    fields |= {'width': 4, 'features': 7}
    config = make_config(name, {'num_joints': 15, **fields})
    entries = state_dict(name, config)
    model = abstract_model({'name': name, **fields}, num_joints=15)
    assign(getattr(model, 'network', model), from_torch(name, entries)[0].arrays)
    write_config(tmp_path / 'run', plain(Settings(model={'name': name, **fields})), 'jhmdb')
    _, weights = split_model(model, training=True)
    checkpoints = Checkpoints(tmp_path / 'run')
    for step, score in ((2, 0.5), (4, 0.25)):
        state = TrainState(np.int32(step), weights, optax.EmptyState(), None)
        checkpoints.save(step, state, {}, score)
        weights = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, weights)
    checkpoints.close()

    options = {'source': 'run', 'verify': False}
    assert command(target='best.npz', to='flax', **options) == 0
    best = read_weights(tmp_path / 'best.npz')
    assert described(best.metadata, best.arrays, '').config == config
    assert best.metadata['skeleton'] == 'jhmdb'
    assert_equal(best.arrays, from_torch(name, entries)[0].arrays)
    assert command(target='best.pth', **options | {'verify': name == 'kimnet'}) == 0
    assert command(target='last.pth', checkpoint='last', **options) == 0
    twin = NETWORKS[name].make_twin(config)
    for file, added in (('best.pth', 0), ('last.pth', 1)):
        twin.load_state_dict(torch.load(tmp_path / file))
        for key, parameter in twin.named_parameters():
            np.testing.assert_array_equal(parameter.detach().numpy(), entries[key] + np.float32(added), err_msg=key)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'target': 'x.npz'}, '--source and --target are needed'),
        ({'source': 'released.pth.tar', 'target': 'x.npz'}, '--model is needed: one of pose_resnet, kimnet'),
        (
            {**RELEASED, 'model': 'kmm'},
            "not the weights of 'kmm': there is no conv_q.weight",
        ),
        ({**RELEASED, 'target': 'x.pth'}, 'for PyTorch, pass --to=torch'),
        ({**RELEASED, 'target': 'x.bin'}, 'the name must end in one of'),
        (
            {**RELEASED, 'part': 'net'},
            'no such part; there are conv1, ',
        ),
        (
            {**RELEASED, 'template': 'a'},
            '--template is for converting our weights',
        ),
        (
            {**RELEASED, 'checkpoint': '3'},
            '--checkpoint is for the folder',
        ),
        (
            {**RELEASED, 'model': 'hourglass', 'pixels': 'bearpaw'},
            "not the weights of 'hourglass': there is no fc.0.0.weight",
        ),
        (
            {**RELEASED, 'model': 'kmm', 'pixels': 'rpstn'},
            '--pixels is for',
        ),
        ({'source': 'ours.npz', 'target': 'x.pth', 'model': 'kimnet'}, '--model=kimnet: .*ours.npz contains a pose_resnet'),
        ({**RELEASED, 'skeleton': 'lsp'}, '--skeleton=lsp: it has 14 joints, these weights have 5'),
        ({'source': 'ours.npz', 'target': 'x.pth', 'partial': True}, '--partial is for'),
        ({'source': 'ours.npz', 'target': 'x.npz', 'to': 'flax', 'part': 'conv1'}, '--model is needed'),
        ({'source': 'anonymous.npz', 'target': 'x.pth'}, 'our keys and no metadata'),
        ({'source': 'other.npz', 'target': 'x.pth'}, "metadata of another program or version: there is no network 'vit'"),
        ({'source': 'older.npz', 'target': 'x.pth'}, 'config.model.colour: no such field; known: num_joints, features, variant'),
        ({'source': 'listed.npz', 'target': 'x.pth'}, 'metadata of another program or version: config is no object'),
        ({'source': 'impossible.npz', 'target': 'x.pth'}, 'config.model.depth=19: choose one of 18, 34, 50, 101, 152'),
        ({'source': 'empty', 'target': 'x.pth'}, 'not a run'),
    ],
)
def test_bad_requests_end_in_one_line(options, message, command, released, tmp_path, capsys):
    kernel = {'conv_q.kernel': np.zeros((1, 1, 7, 5), np.float32)}
    metadata = {
        'ours': {'network': 'pose_resnet', 'config': '{"num_joints": 5, "depth": 18, "width": 4, "features": 7}'},
        'anonymous': {},
        'other': {'network': 'vit', 'config': '{}'},
        'older': {'network': 'kmm', 'config': '{"num_joints": 5, "features": 7, "colour": 1}'},
        'listed': {'network': 'kmm', 'config': '[5, 7]'},
        'impossible': {'network': 'pose_resnet', 'config': '{"depth": 19}'},
    }
    for name, given in metadata.items():
        write_weights(tmp_path / f'{name}.npz', kernel, given)
    (tmp_path / 'empty').mkdir()
    before = sorted(tmp_path.iterdir())
    assert command(**options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f'error: .*{message}', line)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors', '.npz'])
@pytest.mark.parametrize(
    ('name', 'changes'),
    [
        ('kimnet', {'kmm_variant': 'no_scale', 'kmm_weights': 'ratio', 'decoder_variant': 'released', 'fusion_norm': False}),
        ('hanet', {'interval': 3, 'window': 4, 'heads': 2}),
    ],
)
def test_what_the_keys_do_not_tell_goes_along(name, changes, suffix, command, tmp_path):
    """Before, `no_scale` came back as `full`, and a window of 4 as one of 2."""
    config = dataclasses.replace(NETWORKS[name].presets['tiny'], **changes)
    weights = from_torch(name, state_dict(name, config), config=config)[0]
    write_weights(tmp_path / 'ours.npz', weights.arrays, describe(weights))
    assert command(source='ours.npz', target=f'theirs{suffix}', to='torch', verify=False) == 0
    assert command(source=f'theirs{suffix}', target='back.npz', verify=False) == 0
    back = read_weights(tmp_path / 'back.npz')
    assert described(back.metadata, back.arrays, '').config == config
    assert_equal(back.arrays, weights.arrays)
    if suffix == '.pth':  # for PyTorch it is a state_dict as any other
        loaded = torch.load(tmp_path / 'theirs.pth', weights_only=True)
        NETWORKS[name].make_twin(config).load_state_dict(loaded, strict=True)


def test_weights_of_others_are_asked_about(command, tmp_path, capsys):
    config = dataclasses.replace(NETWORKS['kimnet'].presets['tiny'], kmm_variant='no_scale')
    write_weights(tmp_path / 'theirs.pth', state_dict('kimnet', config), {})
    options = {'source': 'theirs.pth', 'target': 'ours.npz', 'model': 'kimnet', 'verify': False, 'overwrite': True}
    assert command(**options) == 0
    told = capsys.readouterr().out
    assert "assumed, as the weights do not tell: kmm_variant='full', kmm_activation='relu', kmm_weights='softmax', " in told
    assert 'if it is otherwise, give --config.model.kmm_variant, ' in told
    assert command(**options, **{'config.model.kmm_variant': 'no_scale'}) == 0
    assert "kmm_variant='full'" not in capsys.readouterr().out
    ours = read_weights(tmp_path / 'ours.npz')
    assert described(ours.metadata, ours.arrays, '').config == config
    assert command(**options, **{'config.model.colour': 'red'}) == 2
    assert 'config.model.colour: weights tell it, or no network has it; fields that can be given: ' in capsys.readouterr().err
    assert command(**options, **{'config.model.kmm_variant': 'half'}) == 2
    assert "config.model.kmm_variant='half': choose one of full, share_qk" in capsys.readouterr().err
    assert command(**options, **{'config.model.window': '2'}) == 2
    assert 'config.model.window: no such field; known: num_joints, ' in capsys.readouterr().err


@pytest.mark.parametrize('part', [{}, {'part': 'non_local_conv2d'}])
def test_the_relation_extractor_of_rpstn(part, command, tmp_path, capsys):
    write_weights(tmp_path / 'rpstn.safetensors', state_dict('jrpsp', JRPSPSizes(5, 7, 'released_penn', 'released')), {})
    options = {'source': 'rpstn.safetensors', 'target': 'ours.npz', 'model': 'relation_decoder', 'partial': True, **part}
    assert command(**options, verify=False) == 0
    assert "variant='released'; if it is otherwise, give --config.model.variant" in capsys.readouterr().out
    ours, theirs = read_weights(tmp_path / 'ours.npz'), read_weights(tmp_path / 'rpstn.safetensors')
    assert described(ours.metadata, ours.arrays, '').config == RelationDecoderSizes(5, 'released')
    np.testing.assert_array_equal(ours.arrays['conv_g.kernel'][0, 0].T, theirs.arrays['non_local_conv2d.g.weight'][..., 0, 0])
    assert ('bn_u.scale' in ours.arrays) == (not part)


def test_a_converted_file_is_a_network_in_one_line(command, released, tmp_path):
    assert command(model='pose_resnet', source='released.pth.tar', target='ours.npz', verify=False) == 0
    model = load_network(tmp_path / 'ours.npz')
    assert isinstance(model, PerFrame)
    np.testing.assert_array_equal(model.network.conv1.kernel[...], released['conv1.weight'].transpose(2, 3, 1, 0))
    with pytest.raises(InputError, match='PyTorch weights; turn them into ours'):
        load_network(tmp_path / 'released.pth.tar')


def test_without_torch(command, released, tmp_path, monkeypatch, capsys):
    write_weights(tmp_path / 'released.npz', released, {})
    monkeypatch.setitem(sys.modules, 'torch', None)
    assert command(model='pose_resnet', source='released.npz', target='ours.safetensors') == 0
    assert 'outputs' not in capsys.readouterr().out
    assert command(source='ours.safetensors', target='back.npz', template='released.npz') == 0
    assert_equal(read_weights(tmp_path / 'back.npz').arrays, released)
    for options in ({'source': 'ours.safetensors', 'target': 'b.npz'}, {'source': 'released.pth.tar', 'target': 'b.npz'}):
        assert command(**options) == 2
        assert 'pip install "kimnet-jax[torch]"' in capsys.readouterr().err


def test_pixels_and_backbone_by_command(command, released, tmp_path, capsys):
    options = {'model': 'pose_resnet', 'verify': False}
    assert command(source='released.pth.tar', target='rgb.npz', pixels='simplebaseline', **options) == 0
    assert 'now accepts our images' in capsys.readouterr().out
    folded = fold_pixels(released, 'pose_resnet', RELEASED_PIXELS['simplebaseline'])
    assert_equal(read_weights(tmp_path / 'rgb.npz').arrays, from_torch('pose_resnet', folded)[0].arrays)
    backbone = {key: array for key, array in released.items() if not key.startswith(('deconv', 'final'))}
    write_weights(tmp_path / 'resnet18.pth', backbone, {})
    assert command(source='resnet18.pth', target='backbone.npz', partial=True, **options) == 0
    assert 'stays unfilled: deconv_layers.0.conv.kernel' in capsys.readouterr().out
    assert 'deconv_layers.0.conv.kernel' not in read_weights(tmp_path / 'backbone.npz').arrays


def test_list(command, capsys):
    assert command(list=True) == 0
    told = capsys.readouterr().out
    assert all(re.search(rf'^{name} +\S', told, re.MULTILINE) for name in NETWORKS)
    assert '.pth.tar' in told
