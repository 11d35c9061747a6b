"""Weights as other code wraps, nests and names them, against the weights themselves."""

import argparse
import collections
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from absl import flags

from kimnet_jax import convert
from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.interop.convert import from_torch
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.prefixes import fitted, prefixes_told
from kimnet_jax.interop.weight_files import read_weights


def entries_of(name: str = 'pose_resnet') -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    twin = NETWORKS[name].make_twin(NETWORKS[name].presets['tiny'])
    return {key: torch.rand(tensor.shape) if tensor.is_floating_point() else tensor for key, tensor in twin.state_dict().items()}


@pytest.fixture(scope='module')
def entries():
    return entries_of()


def prefixed(entries, prefix):
    return {prefix + key: tensor for key, tensor in entries.items()}


def mmpose(entries, head='keypoint_head'):
    ends = ('final_layer', 'deconv_layers')
    return {f'{head if key.startswith(ends) else "backbone"}.{key}': tensor for key, tensor in entries.items()}


def wrapped_inside(entries, wrapper):
    """As where the parts of a network were wrapped one by one."""
    return {key.replace('.', f'.{wrapper}.', 1): tensor for key, tensor in entries.items()}


def assert_read(file, entries, name='pose_resnet', entry=None):
    read = read_weights(file, entry)
    found, notes = fitted(name, read.arrays)
    arrays = from_torch(name, found)[0].arrays
    expected = from_torch(name, {key: tensor.numpy() for key, tensor in entries.items()})[0].arrays
    assert arrays.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(arrays[key], array, err_msg=key)
    return [*read.notes, *notes]


PREFIXES = [
    '_orig_mod.',
    'module.',
    'model.',
    'net.',
    'pose_estimator.',
    'module._orig_mod.',
    '_orig_mod.module.',
    'model._orig_mod.',
    '_orig_mod.model.net.',
    'model.module.net.',
    '_fsdp_wrapped_module.model.',
    'anything.at.all.',
]


@pytest.mark.parametrize('prefix', PREFIXES)
@pytest.mark.parametrize('layout', ['plain', 'mmpose', 'mmpose 1'])
def test_prefixes(prefix, layout, entries, tmp_path):
    stored = {'plain': entries, 'mmpose': mmpose(entries), 'mmpose 1': mmpose(entries, 'head')}[layout]
    torch.save({'state_dict': prefixed(stored, prefix)}, tmp_path / 'a.pth')
    notes = assert_read(tmp_path / 'a.pth', entries)
    for part in prefix.split('.')[:-1]:
        assert any(f"'{part}.' taken" in note for note in notes)


@pytest.mark.parametrize('name', ['pose_resnet', 'hrnet'])
@pytest.mark.parametrize('head', ['keypoint_head', 'head'])
def test_estimators_of_mmpose(name, head, tmp_path):
    entries = entries_of(name)
    checkpoint = {
        'meta': {'mmpose_version': '1.3', 'epoch': 210, 'CLASSES': None},
        'state_dict': mmpose(entries, head),
        'optimizer': {},
    }
    torch.save(checkpoint, tmp_path / 'a.pth')
    assert "MMPose's backbone and head joined" in assert_read(tmp_path / 'a.pth', entries, name)


@pytest.mark.parametrize('wrapper', ['module', '_orig_mod'])
def test_parts_that_were_wrapped_one_by_one(wrapper, entries, tmp_path):
    torch.save(wrapped_inside(mmpose(entries), wrapper), tmp_path / 'a.pth')
    assert_read(tmp_path / 'a.pth', entries)


def test_a_network_that_shares_a_prefix_keeps_it():
    entries = {key: tensor.numpy() for key, tensor in entries_of('hanet').items()}
    assert all(key.startswith('transformer.') for key in entries)
    found, notes = fitted('hanet', entries)
    assert (list(found), notes) == (list(entries), [])
    found, notes = fitted('hanet', prefixed(entries, 'model.'))
    assert (list(found), notes) == (list(entries), ["prefix 'model.' taken off"])


def test_a_part_of_a_network_is_not_taken_for_the_whole():
    entries = {key: tensor.numpy() for key, tensor in entries_of('kimnet').items()}
    found, _ = fitted('pose_resnet', entries)
    with pytest.raises(InputError) as error:
        from_torch('pose_resnet', found)
    (line,) = str(error.value).splitlines()
    assert "not the weights of 'pose_resnet'" in line
    assert 'the names begin with pose_initializer. (' in line
    assert 'feature_encoder. (' in line
    assert '--part=' in line


def test_what_lies_beside_a_network(entries, tmp_path):
    """Entries of a loss, as in a module of Lightning's: they are not lost without a word, and the rest is found."""
    torch.save({'state_dict': prefixed(entries, 'model.') | {'loss.weight': torch.zeros(5)}}, tmp_path / 'a.pth')
    found, _ = fitted('pose_resnet', read_weights(tmp_path / 'a.pth').arrays)
    with pytest.raises(InputError, match=r'loss\.weight: taken by 0 rules'):
        from_torch('pose_resnet', found)
    _, notes, unfilled = from_torch('pose_resnet', found, partial=True)
    assert unfilled == []
    assert 'left out: loss.weight: taken by 0 rules' in notes


@pytest.mark.parametrize('zipped', [True, False])
def test_a_checkpoint_of_lightning(zipped, entries, tmp_path, monkeypatch):
    name = 'lightning.fabric.utilities.data'
    modules = ['.'.join(name.split('.')[: n + 1]) for n in range(4)]
    for module in modules:
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    attributes = type('AttributeDict', (dict,), {'__module__': name})  # a class that is not there when the file is read
    sys.modules[name].AttributeDict = attributes
    checkpoint = {
        'epoch': 9,
        'pytorch-lightning_version': '2.4.0',
        'state_dict': collections.OrderedDict(prefixed(entries, 'model.')),
        'loops': {'fit_loop': {'state_dict': {}, 'epoch_progress': {'total': {'ready': 1}}}},
        'callbacks': {"ModelCheckpoint{'monitor': 'val'}": {'best_model_score': torch.tensor(0.5), 'dirpath': pathlib.Path('a')}},
        'optimizer_states': [{'state': {0: {'exp_avg': torch.zeros(2)}}, 'param_groups': [{'lr': 0.1, 'betas': (0.9, 0.99)}]}],
        'lr_schedulers': [{'milestones': collections.Counter([3])}],
        'hparams_name': 'kwargs',
        'hyper_parameters': attributes(
            lr=np.float64(0.1), args=argparse.Namespace(a=1), groups=collections.defaultdict(list, {'a': [1]})
        ),
        'datamodule': {'split': np.arange(3), 'name': np.str_('penn')},
    }
    torch.save(checkpoint, tmp_path / 'last.pt', _use_new_zipfile_serialization=zipped)
    for module in modules:
        monkeypatch.delitem(sys.modules, module)
    notes = assert_read(tmp_path / 'last.pt', entries)
    assert notes[0].startswith('taken: state_dict; left out: epoch, pytorch-lightning_version, loops, callbacks')


@pytest.mark.parametrize('zipped', [True, False])
def test_numpy_beside_tensors(zipped, entries, tmp_path):
    """Buffers stored as arrays or scalars count; scores and the like beside the entries do not."""
    stored = {
        key: tensor.numpy().astype(np.float64) if 'running' in key else np.int64(7) if key.endswith('tracked') else tensor
        for key, tensor in entries.items()
    }
    stored |= {'final_layer.bias': np.asfortranarray(entries['final_layer.bias'].numpy())}
    for name, checkpoint in (
        ('a.pth', stored),
        ('b.pth', {'model': stored, 'best': np.float32(0.5), 'history': np.ones((3, 2))}),
    ):
        torch.save(checkpoint | {'epoch': 3, 'score': np.float64(0.7)}, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert_read(tmp_path / name, entries)
    assert read_weights(tmp_path / 'a.pth').arrays['bn1.num_batches_tracked'] == 7


def test_an_array_that_lies_about_its_size(tmp_path):
    """NumPy believes what a pickle says of an array, and reads beyond its end."""

    class Lying:
        def __reduce__(self):
            rebuild, arguments, state = np.zeros(2).__reduce__()
            return rebuild, arguments, (state[0], (10**6,), *state[2:])

    torch.save({'conv.weight': torch.zeros(2), 'conv.bias': Lying()}, tmp_path / 'a.pth')
    with pytest.raises(InputError, match=r'cannot be read.*shape and data do not go together'):
        read_weights(tmp_path / 'a.pth')


AVERAGED = [
    ('state_dict_ema', lambda entries: entries),
    ('ema_state_dict', lambda entries: prefixed(entries, 'module.') | {'steps': torch.tensor(9)}),
    ('model_ema', lambda entries: entries),
    ('ema', lambda entries: {'module': entries, 'updates': 9}),
    ('ema', lambda entries: {'decay': 0.99, 'state_dict': prefixed(entries, 'module.')}),
    ('ema', lambda entries: {key: tensor.double() for key, tensor in entries.items()}),
    ('params_ema', lambda entries: entries),
    ('swa_state_dict', lambda entries: prefixed(entries, 'module.') | {'n_averaged': torch.tensor(4)}),
]


@pytest.mark.parametrize(('name', 'stored'), AVERAGED)
def test_averaged_weights(name, stored, entries, tmp_path):
    """Alone they are taken; beside others they are named, and taken when asked for."""
    file = tmp_path / 'a.pth'
    averaged = {key: tensor + 1 if tensor.is_floating_point() else tensor for key, tensor in entries.items()}
    torch.save({'epoch': 3, name: stored(averaged)}, file)
    (told, *_) = assert_read(file, averaged)
    assert told.startswith(f'taken: {name}')
    assert 'averaged weights, as there are no others; left out: epoch' in told
    torch.save({'model': entries, name: stored(averaged)}, file)
    (told, *_) = assert_read(file, entries)
    assert told.startswith(f'taken: model; other weights, for --entry: {name}')
    for entry in (name, 'ema'):
        (told, *_) = assert_read(file, averaged, entry=entry)
        assert 'other weights, for --entry: model' in told
    assert_read(file, entries, entry='model')
    with pytest.raises(InputError, match=f'--entry=best: no such weights; there are model, {name}'):
        read_weights(file, 'best')


def test_which_of_several(entries, tmp_path):
    file = tmp_path / 'a.pth'
    torch.save({'student': entries, 'teacher': entries}, file)
    with pytest.raises(InputError, match='several weights in it; choose one with --entry: student, teacher'):
        read_weights(file)
    assert_read(file, entries, entry='teacher')
    torch.save({'ema': {'fast': entries, 'slow': entries}}, file)
    with pytest.raises(InputError, match=r'--entry=ema: several: ema\.fast, ema\.slow in'):
        read_weights(file, 'ema')
    torch.save(entries, file)
    with pytest.raises(InputError, match='is a single state_dict; leave the flag out'):
        read_weights(file, 'ema')
    np.savez(tmp_path / 'a.npz', x=np.zeros(2))
    with pytest.raises(InputError, match='only a PyTorch checkpoint can hold several weights'):
        read_weights(tmp_path / 'a.npz', 'ema')


def test_names_that_would_collide_stay(tmp_path):
    torch.save({'a._orig_mod.weight': torch.zeros(1), 'a.weight': torch.ones(1)}, tmp_path / 'a.pth')
    assert list(read_weights(tmp_path / 'a.pth').arrays) == ['a._orig_mod.weight', 'a.weight']


def test_what_the_message_says():
    assert prefixes_told(['a.weight', 'b.weight']) == 'there are a.weight, b.weight'
    names = ['net.a.weight', 'net.b.weight', 'loss.c.weight']
    told = 'the names begin with net. (2), loss. (1), as net.a.weight, net.b.weight, loss.c.weight do; '
    assert prefixes_told(names) == told + 'if the network is one of these parts, name it, as in --part=net'


def run(tmp_path, *arguments):
    values = flags.FlagValues()
    convert.define_flags(values)
    given = [f'--{name}={tmp_path / value}' if name in ('source', 'target') else f'--{name}={value}' for name, value in arguments]
    with pytest.raises(SystemExit) as caught:
        run_command(convert.run, values(['convert', *given])[:1], [], values)
    return caught.value.code


def test_command(entries, tmp_path, capsys):
    large = {key: tensor + 1 if tensor.is_floating_point() else tensor for key, tensor in entries.items()}
    torch.save({'state_dict': mmpose(entries), 'state_dict_ema': mmpose(large)}, tmp_path / 'a.pth')
    options = (('model', 'pose_resnet'), ('source', 'a.pth'), ('verify', 'true'))
    assert run(tmp_path, *options, ('target', 'a.npz')) == 0
    told = capsys.readouterr().out
    assert 'taken: state_dict; other weights, for --entry: state_dict_ema' in told
    assert run(tmp_path, *options, ('target', 'ema.npz'), ('entry', 'ema')) == 0
    first, second = (read_weights(tmp_path / name).arrays for name in ('a.npz', 'ema.npz'))
    for key, array in first.items():
        np.testing.assert_array_equal(second[key], array + np.float32(1))
    assert run(tmp_path, ('model', 'kmm'), ('source', 'a.pth'), ('target', 'b.npz')) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert 'there is no conv_q.weight; the names begin with backbone. (' in line
    assert 'keypoint_head. (' in line
    assert run(tmp_path, ('source', 'run'), ('target', 'b.npz'), ('entry', 'ema')) == 2


def test_weights_whose_outputs_overflow(entries, tmp_path, capsys):
    """They cannot be compared, here or there; that is said, and no reason not to convert them."""
    torch.save({key: tensor * 1e6 if tensor.ndim > 1 else tensor for key, tensor in entries.items()}, tmp_path / 'a.pth')
    assert run(tmp_path, ('model', 'pose_resnet'), ('source', 'a.pth'), ('target', 'a.npz')) == 0
    assert 'not compared: on random inputs the outputs of these weights overflow' in capsys.readouterr().out
