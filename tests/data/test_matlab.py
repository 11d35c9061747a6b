"""Damaged MATLAB files: SciPy may end the process on them, so their structure is checked before."""

import pathlib
import struct

import numpy as np
import pytest
import scipy.io

from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines.matlab import read_fields

CONTENT = {
    'x': np.arange(12.0).reshape(3, 4),
    'cells': np.array(['a', 1, np.arange(3)], object),
    'fields': {'a': 1, 'b': 'text'},
    'z': np.array([1 + 2j]),
    'flags': np.array([True, False]),
}
FLAGS, SHAPE, NAME, NUMBERS = 128 + 8, 128 + 24, 128 + 40, 128 + 48  # of the first matrix


@pytest.fixture
def file(tmp_path) -> pathlib.Path:
    scipy.io.savemat(tmp_path / 'x.mat', CONTENT)
    return tmp_path / 'x.mat'


@pytest.mark.parametrize('compressed', [False, True])
def test_what_matlab_has_is_read(compressed, tmp_path):
    scipy.io.savemat(tmp_path / 'x.mat', CONTENT, do_compression=compressed)
    fields = read_fields(tmp_path / 'x.mat', tuple(CONTENT))
    np.testing.assert_array_equal(fields['x'], CONTENT['x'])
    np.testing.assert_array_equal(fields['z'], [[1 + 2j]])
    assert fields['cells'].shape == (1, 3)
    assert fields['fields']['b'].item().item() == 'text'


@pytest.mark.parametrize(
    ('place', 'value', 'told'),
    [
        (0, b'\0', 'not of MAT-file format 5'),
        (126, b'XX', 'not of MAT-file format 5'),
        (128, struct.pack('<I', 9), 'a part of type 9'),
        (132, struct.pack('<I', 1 << 30), 'cut short'),
        (FLAGS, struct.pack('<I', 1), 'a matrix without its class'),
        (FLAGS + 8, struct.pack('<I', 5), 'a matrix of class 5'),
        (FLAGS + 8, struct.pack('<I', 1), 'a cell or field without a matrix'),
        (FLAGS + 8, struct.pack('<I', 2), 'cut short'),
        (FLAGS + 8, struct.pack('<I', 6 | 0x800), 'cut short'),
        (SHAPE, struct.pack('<I', 9), 'a matrix without its shape'),
        (SHAPE + 8, struct.pack('<i', -3), 'a matrix of shape'),
        (SHAPE + 8, struct.pack('<i', 1 << 30), 'bytes of numbers for the shape'),
        (NAME, struct.pack('<HH', 6, 1), 'a matrix without its name'),
        (NUMBERS, struct.pack('<I', 15), 'numbers of type 15'),
        (NUMBERS + 4, struct.pack('<I', 88), 'bytes of numbers for the shape'),
    ],
)
def test_what_does_not_fill_its_shape_is_refused(place, value, told, file):
    data = bytearray(file.read_bytes())
    data[place : place + len(value)] = value
    file.write_bytes(data)
    with pytest.raises(InputError, match=f'{file}: not a readable MATLAB file .*{told}'):
        read_fields(file, ('x',))


def test_cells_within_each_other_have_an_end(tmp_path):
    cells = np.zeros(1)
    for _ in range(40):
        one = np.empty(1, object)
        one[0] = cells
        cells = one
    scipy.io.savemat(tmp_path / 'x.mat', {'x': cells})
    with pytest.raises(InputError, match='more than 30 deep'):
        read_fields(tmp_path / 'x.mat', ('x',))
