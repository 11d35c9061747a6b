import collections
import io
import os
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file as save_torch_file

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop.weight_files import read_weights, write_weights

ARRAYS = {
    'conv.weight': np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2).transpose(1, 0, 3, 2),  # not contiguous
    'bn.num_batches_tracked': np.array(7),
}
TENSORS = {key: torch.from_numpy(np.array(array)) for key, array in ARRAYS.items()}


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def assert_arrays(arrays):
    assert arrays.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[key], array)
        assert (arrays[key].dtype, arrays[key].shape) == (array.dtype, array.shape)


def assert_refused(file, message):
    with pytest.raises(InputError, match=message) as error:
        read_weights(file)
    assert str(error.value).startswith(str(file))
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('name', ['a.pth', 'a.pt', 'a.pth.tar', 'a.safetensors', 'a.npz'])
def test_round_trip(name, tmp_path):
    file = tmp_path / 'new' / name
    write_weights(file, ARRAYS, {})
    assert_arrays(read_weights(file).arrays)
    assert [entry.name for entry in file.parent.iterdir()] == [name]


@pytest.mark.parametrize('name', ['a.safetensors', 'a.npz'])
def test_metadata(name, tmp_path):
    metadata = {'network': 'pose_resnet', 'config': '{"depth": 18, "name": "Köpfe"}'}
    write_weights(tmp_path / name, ARRAYS, metadata)
    file = read_weights(tmp_path / name)
    assert file.metadata == metadata
    assert_arrays(file.arrays)


def test_numpy_sees_the_arrays_alone(tmp_path):
    write_weights(tmp_path / 'a.npz', ARRAYS, {'network': 'kmm'})
    with np.load(tmp_path / 'a.npz') as arrays:
        assert_arrays(dict(arrays))


def test_torch_reads_what_is_written(tmp_path):
    write_weights(tmp_path / 'a.pth', ARRAYS, {})
    loaded = torch.load(tmp_path / 'a.pth', weights_only=True)
    assert_arrays({key: tensor.numpy() for key, tensor in loaded.items()})


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('name', ['state_dict', 'model_state_dict', 'model', 'net'])
def test_nested_with_prefix(name, zipped, tmp_path):
    file = tmp_path / 'checkpoint.pth.tar'
    entries = collections.OrderedDict((f'module.{key}', tensor) for key, tensor in TENSORS.items())
    optimizer = {'state': {0: {'exp_avg': torch.zeros(2)}}, 'milestones': collections.Counter([3, 5])}
    checkpoint = {'epoch': 3, 'optimizer': optimizer, 'performance': np.float64(0.5), 'best': np.float32(1)}
    torch.save({**checkpoint, name: entries}, file, _use_new_zipfile_serialization=zipped)
    read = read_weights(file)
    assert_arrays(read.arrays)
    assert read.notes == [f'taken: {name}; left out: epoch, optimizer, performance, best', "prefix 'module.' taken off"]


def test_prefix_that_not_all_share_stays(tmp_path):
    torch.save({'module.a': torch.zeros(1), 'b': torch.zeros(1)}, tmp_path / 'a.pth')
    assert list(read_weights(tmp_path / 'a.pth').arrays) == ['module.a', 'b']


@pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_become_float32(kind, tmp_path):
    tensors = {'x': torch.tensor([0.5, -3.0], dtype=kind)}
    torch.save(tensors, tmp_path / 'a.pth')
    save_torch_file(tensors, tmp_path / 'a.safetensors')
    for name in ('a.pth', 'a.safetensors'):
        file = read_weights(tmp_path / name)
        np.testing.assert_array_equal(file.arrays['x'], [0.5, -3.0])
        assert file.arrays['x'].dtype == np.float32
        assert file.notes == [f'{str(kind).removeprefix("torch.")} to float32']


@pytest.mark.parametrize('zipped', [True, False])
def test_hostile_pickle_is_not_executed(zipped, tmp_path):
    made = tmp_path / 'made'
    torch.save({'state_dict': TENSORS, 'x': Hostile(made)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    assert_refused(tmp_path / 'a.pth', r'refused: it holds \w+\.mkdir.*none was run')
    (tmp_path / 'b.pth').write_bytes(pickle.dumps(Hostile(made), 2))
    assert_refused(tmp_path / 'b.pth', r'refused: it holds \w+\.mkdir')
    np.savez(tmp_path / 'c.npz', x=np.array([Hostile(made)], object))
    assert_refused(tmp_path / 'c.npz', 'refused: it holds Python objects')
    assert not made.exists()
    pickle.loads(pickle.dumps(Hostile(made)))  # it would have
    assert made.exists()


def test_whole_model(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'a.pth')
    assert_refused(tmp_path / 'a.pth', r'torch\.nn\.modules\.linear\.Linear.*save its state_dict\(\) instead')


@pytest.mark.parametrize('name', ['a.pth', 'legacy.pth', 'a.safetensors', 'a.npz'])
@pytest.mark.parametrize('share', [0, 0.02, 0.5, 0.97])
def test_cut_short(name, share, tmp_path):
    file = tmp_path / name
    if name == 'legacy.pth':
        torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    else:
        write_weights(file, ARRAYS, {})
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    assert_refused(file, 'cannot be read: cut short, or no|refused')  # the name of a harmless class can be cut, too


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'a.npz'])
def test_not_weights(name, tmp_path):
    (tmp_path / name).write_text('these are words, not weights\n' * 9)
    assert_refused(tmp_path / name, 'cannot be read')


def test_damaged_array(tmp_path):
    file = tmp_path / 'a.npz'
    write_weights(file, {'x': np.arange(1000, dtype=np.float32)}, {})
    data = bytearray(file.read_bytes())
    data[2000] ^= 1
    file.write_bytes(data)
    assert_refused(file, 'cannot be read.*CRC')


def test_format_of_before_2017(tmp_path):
    with tarfile.open(tmp_path / 'a.pth', 'w') as archive:
        for name in ('sys_info', 'pickle', 'tensors', 'storages'):
            member = tarfile.TarInfo(name)
            member.size = 2
            archive.addfile(member, io.BytesIO(b'ab'))
    assert_refused(tmp_path / 'a.pth', 'save it again')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'epoch': 3, 'lr': 0.1}, 'no state_dict in it, nor under state_dict.*it holds epoch, lr'),
        ([torch.zeros(2)], 'holds a list, not a state_dict'),
        ({}, 'no state_dict in it'),
        ({'x': torch.tensor([1.0, torch.nan])}, 'not finite: x'),
    ],
)
def test_pytorch_file_without_weights(content, message, tmp_path):
    torch.save(content, tmp_path / 'a.pth')
    assert_refused(tmp_path / 'a.pth', message)


def test_names(tmp_path):
    assert_refused(tmp_path / 'a.pth', 'no such file')
    (tmp_path / 'a.h5').touch()
    assert_refused(tmp_path / 'a.h5', r'must end in one of \.pth\.tar, \.pth, \.pt, \.safetensors, \.npz')


@pytest.mark.parametrize('name', ['a.pth', 'a.npz', 'a.safetensors'])
def test_a_write_that_fails_leaves_what_was_there(name, tmp_path, monkeypatch):
    file = tmp_path / name
    write_weights(file, ARRAYS, {})

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(InputError, match=f'the disk is full at {file}: free some space'):
        write_weights(file, {'x': np.zeros(1, np.float32)}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    assert_arrays(read_weights(file).arrays)


def test_target_that_cannot_be(tmp_path):
    (tmp_path / 'a.npz').mkdir()
    with pytest.raises(InputError, match='a folder is in the way'):
        write_weights(tmp_path / 'a.npz', ARRAYS, {})
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match='a file is in the way'):
        write_weights(tmp_path / 'file' / 'a.npz', ARRAYS, {})


def test_without_torch(tmp_path, monkeypatch):
    torch.save(TENSORS, tmp_path / 'a.pth')
    monkeypatch.setitem(sys.modules, 'torch', None)
    for name in ('a.npz', 'a.safetensors'):
        write_weights(tmp_path / name, ARRAYS, {})
        assert_arrays(read_weights(tmp_path / name).arrays)
    for act in (lambda: read_weights(tmp_path / 'a.pth'), lambda: write_weights(tmp_path / 'b.pth', ARRAYS, {})):
        with pytest.raises(InputError, match=r'pip install "kimnet-jax\[torch\]"'):
            act()


def test_comment_of_another_program(tmp_path):
    write_weights(tmp_path / 'a.npz', ARRAYS, {})
    with zipfile.ZipFile(tmp_path / 'a.npz', 'a') as archive:
        archive.comment = b'made by something else'
    assert read_weights(tmp_path / 'a.npz').metadata == {}
