"""Files that are none, or larger than they look: an error of one line, at once and in little memory."""

import io
import os
import pathlib
import pickle
import resource
import subprocess
import sys
import zipfile
import zlib

import av
import numpy as np
import pytest
import scipy.io
from array_bombs import png_of, zip_of_zeros

from kimnet_jax.core import files
from kimnet_jax.core.array_files import read_npz, read_pickle
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.core.video import read_frames, stated_frame_count
from kimnet_jax.data_pipelines import matlab, pose_tables
from kimnet_jax.data_pipelines.pose_records import read_pose_csv, read_pose_json
from kimnet_jax.data_pipelines.smpl_files import read_body
from kimnet_jax.inference.tracking import read_boxes
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.training import loop, workdir

ROOT = pathlib.Path(__file__).resolve().parents[1]
READERS = {
    'video.mp4': lambda path: list(read_frames(path)),
    'boxes.csv': read_boxes,
    'boxes.json': read_boxes,
    'poses.json': read_pose_json,
    'poses.csv': read_pose_csv,
    'poses.trc': pose_tables.read_trc,
    'poses.dlc.csv': pose_tables.read_dlc_csv,
    'poses.h5': pose_tables.read_dlc_h5,
    'arrays.npz': read_npz,
    'body.pkl': read_body,
    'body.npz': read_body,
    'joints.mat': lambda path: matlab.read_fields(path, ('pos_img',)),
    'weights.npz': read_weights,
    'weights.safetensors': read_weights,
    'weights.pth': read_weights,
    'config.json': lambda path: workdir.read_config(path.parent),
}


def _pipe(path: pathlib.Path) -> None:
    os.mkfifo(path)


def _link(path: pathlib.Path) -> None:
    path.symlink_to('nowhere')


def _loop(path: pathlib.Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('make', [_pipe, _link, _loop, pathlib.Path.mkdir])
def test_what_is_no_file_is_one_line_at_once(name, make, tmp_path):
    path = tmp_path / name
    make(path)
    with pytest.raises(InputError, match=str(tmp_path)) as caught:
        READERS[name](path)
    assert len(str(caught.value).splitlines()) == 1
    assert stated_frame_count(path) in (None, 0)


@pytest.mark.parametrize('make', [_pipe, _link, _loop])
def test_an_image_of_a_folder_that_is_none_is_named(make, tmp_path):
    make(tmp_path / 'x.jpg')
    with pytest.raises(InputError, match=f'{tmp_path}/x.jpg: '):
        list(read_frames(tmp_path))


def test_the_limit_of_pixels_can_be_changed(monkeypatch):
    image = png_of(100)
    assert decode_image(image, 'x.png').shape == (100, 100, 3)
    monkeypatch.setenv('KIMNET_MAX_PIXELS', '9999')
    with pytest.raises(InputError, match=r'x.png: 100x100 pixels, more than 9,999 in all; .* set KIMNET_MAX_PIXELS'):
        decode_image(image, 'x.png')
    for text in ('0', '-1', 'many', '1e9', ''):
        monkeypatch.setenv('KIMNET_MAX_PIXELS', text)
        with pytest.raises(InputError, match=f'KIMNET_MAX_PIXELS={text}: must be a positive whole number'):
            decode_image(image, 'x.png')


def test_a_video_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'clip.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, 'yuv420p'
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode())
    monkeypatch.setenv('KIMNET_MAX_PIXELS', '4000')
    with pytest.raises(InputError, match=r'clip.mp4: 64x64 pixels, more than 4,000'):
        list(read_frames(path))


def test_an_image_of_too_many_pixels_is_refused_before_there_is_room_for_it(tmp_path):
    """In a process of its own: OpenCV takes the limit when it is loaded."""
    program = """
import re, sys
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.video import read_frames
for folder in sys.argv[1:]:
    try:
        print(len(list(read_frames(folder))))
    except InputError as error:
        print(error)
print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])  # ru_maxrss knows the parent's, too
"""
    sides = {'bomb': 30_000, 'larger': 60_000, 'fine': 20}
    for name, side in sides.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / '0.png').write_bytes(png_of(side))
    command = [sys.executable, '-c', program, *(str(tmp_path / name) for name in sides)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *lines, memory = done.stdout.splitlines()
    assert lines[:2] == [
        f'{tmp_path}/{name}/0.png: more than 100,000,000 pixels; scale it down, or set KIMNET_MAX_PIXELS'
        for name in ('bomb', 'larger')
    ]
    assert lines[2] == '1'
    assert int(memory) < 300_000  # KiB


def test_arrays_that_unpack_to_more_than_the_limit_are_refused(tmp_path):
    path = tmp_path / 'bomb.npz'
    path.write_bytes(zip_of_zeros(3 << 30))
    assert path.stat().st_size < 20_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_npz, read_weights, read_body):
        with pytest.raises(InputError, match=f'{path}: .* 2,147,483,648; .* set KIMNET_MAX_BYTES'):
            read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize('read', [read_npz, read_weights])
def test_a_shape_that_the_bytes_do_not_fill_is_refused(read, tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {'descr': '<f8', 'fortran_order': False, 'shape': (1 << 40,)})
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
        archive.writestr('a.npy', header.getvalue() + bytes(64))
    with pytest.raises(InputError, match=r'x.npz: .*shape \[1099511627776\]'):
        read(tmp_path / 'x.npz')


def test_a_mat_that_unpacks_to_more_than_the_limit_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'bomb.mat'
    scipy.io.savemat(path, {'pos_img': np.zeros((1000, 1000))}, do_compression=True)
    assert matlab.read_fields(path, ('pos_img',))['pos_img'].shape == (1000, 1000)
    monkeypatch.setenv('KIMNET_MAX_BYTES', '4000000')
    with pytest.raises(InputError, match=r'bomb.mat: .*more than 1,000,000 bytes when unpacked'):
        matlab.read_fields(path, ('pos_img',))


def test_a_mat_of_many_gigabytes_takes_little_memory(tmp_path):
    path = tmp_path / 'bomb.mat'
    content = (14).to_bytes(4, 'little') + ((3 << 30) - 8).to_bytes(4, 'little')
    packer = zlib.compressobj()
    packed = packer.compress(content) + b''.join(packer.compress(bytes(1 << 24)) for _ in range(64)) + packer.flush()
    scipy.io.savemat(path, {'x': np.zeros(1)})
    path.write_bytes(path.read_bytes()[:128] + (15).to_bytes(4, 'little') + len(packed).to_bytes(4, 'little') + packed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r'bomb.mat: .*more than 536,870,912 bytes when unpacked'):
        matlab.read_fields(path, ('x',))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000


def test_a_pickle_of_a_sparse_matrix_beyond_all_memory_is_refused(tmp_path):
    from scipy.sparse import csc_matrix

    fields = {name: np.zeros((2, 3)) for name in ('v_template', 'shapedirs', 'kintree_table')}
    fields['J_regressor'] = csc_matrix((2, 2))
    fields['J_regressor']._shape = (1 << 30, 1 << 30)
    (tmp_path / 'body.pkl').write_bytes(pickle.dumps(fields))
    with pytest.raises(InputError, match='J_regressor cannot be read'):
        read_body(tmp_path / 'body.pkl')


@pytest.mark.parametrize('name', ['poses.json', 'boxes.json', 'config.json'])
def test_text_of_more_than_the_limit_or_of_any_depth_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / name).write_text('[' * 200_000)
    with pytest.raises(InputError, match=f'{tmp_path}/{name}: '):
        READERS[name](tmp_path / name)
    monkeypatch.setenv(files.MAX_BYTES, '100000')
    with pytest.raises(InputError, match=f'{tmp_path}/{name}: 200,000 bytes, more than 100,000'):
        READERS[name](tmp_path / name)


def test_steps_to_save_after_are_computed_when_asked():
    plan = loop.make_plan(10, loop.TrainConfig(0, 2_000_000_000, 4, eval_every=0.7, save_every=0.3))
    assert all(step in plan.save for step in (1, 2, 1_999_999_999, 2_000_000_000))  # every 0.75 steps: after each
    near = range(1_999_999_990, 2_000_000_000)
    assert [step in plan.evaluate for step in near] == [
        step in {round(i * 1.75) for i in range(1_142_857_000, 1_142_857_200)} for step in near
    ]
    assert (0 in plan.save, 2_000_000_001 in plan.save, 1.0 in plan.save) == (False, False, False)
    for every in (0.3, 0.7, 1, 3.3):
        steps = loop.make_plan(10, loop.TrainConfig(40, 0, 4, eval_every=every, save_every=100)).evaluate
        interval = max(every * 2.5, 1)
        assert set(steps) == {round(i * interval) for i in range(1, int(100 / interval) + 1)} | {100}


def test_a_damaged_array_of_objects_is_not_unpickled(tmp_path):
    """NumPy may end the process on such a pickle; the archive's checksum tells of the damage before."""
    arrays = np.empty(2, object)
    arrays[:] = [np.arange(5.0), np.arange(7.0)]
    np.savez(tmp_path / 'good.npz', joints=arrays)
    data = bytearray((tmp_path / 'good.npz').read_bytes())
    data[data.index(b'_reconstruct') + 40] ^= 1
    (tmp_path / 'bad.npz').write_bytes(data)
    with pytest.raises(InputError, match=r'bad\.npz: cannot be read: .*CRC'):
        read_npz(tmp_path / 'bad.npz')
    assert len(read_npz(tmp_path / 'good.npz')['joints']) == 2


class _Made:
    """Pickles as NumPy's arrays do, with a state that NumPy would believe."""

    def __init__(self, state: tuple, kind: tuple = ('f8', False, True)):
        self.state, self.kind = state, kind

    def __reduce__(self):
        shape, dtype_state, data = self.state
        return np._core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), (1, shape, _Kind(self.kind, dtype_state), False, data)


class _Kind:
    def __init__(self, arguments: tuple, state: tuple):
        self.arguments, self.state = arguments, state

    def __reduce__(self):
        return np.dtype, self.arguments, self.state


LITTLE = (3, '<', None, None, None, -1, -1, 0)


@pytest.mark.parametrize(
    'made',
    [
        _Made(((10**9,), LITTLE, b'\0' * 8)),
        _Made(((-1,), LITTLE, b'\0' * 8)),
        _Made(((1,) * 40, LITTLE, b'\0' * 8)),
        _Made(((2**62, 4), LITTLE, b'')),
        _Made(((2,), (3, '|', None, None, None, -1, -1, 63), [1]), ('O8', False, True)),
        _Made(((1,), LITTLE, [1.0])),
        _Made(((1,), (3, 5), b'\0' * 8)),
        _Made(((1,), LITTLE, b'\0' * 8), ('V8', False, True)),
    ],
    ids=['short', 'negative', 'axes', 'overflow', 'objects', 'list', 'order', 'void'],
)
def test_arrays_whose_pickle_lies_do_not_end_the_process(tmp_path, made):
    path = tmp_path / 'body.pkl'
    path.write_bytes(pickle.dumps({'weights': made}))
    with pytest.raises(InputError, match='not a readable pickle of arrays'):
        read_pickle(path)


def test_of_a_pickled_dtype_only_kind_and_order_count(tmp_path):
    made = _Made(((1,), (3, '>', None, ('a',), {'a': 1}, 8, 1, 16), b'\x3f\xf0' + b'\0' * 6))
    (tmp_path / 'body.pkl').write_bytes(pickle.dumps(made))
    found = read_pickle(tmp_path / 'body.pkl')
    assert (type(found), found.dtype, found.tolist()) == (np.ndarray, np.float64, [1.0])


def test_arrays_come_out_of_a_pickle_as_they_went_in(tmp_path):
    objects = np.empty(2, object)
    objects[:] = [np.arange(6, dtype='>i4').reshape(2, 3), {'x': np.float32(3)}]
    arrays = {
        'objects': objects,
        'columns': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        'text': np.array(['ab', 'c']),
        'bytes': np.array([b'xy']),
        'complex': np.arange(3) + 1j,
        'empty': np.zeros((0, 3), np.float32),
        'scalar': np.array(2.5),
    }
    for protocol in (2, 4):
        (tmp_path / 'body.pkl').write_bytes(pickle.dumps(arrays, protocol=protocol))
        found = read_pickle(tmp_path / 'body.pkl')
        assert found.keys() == arrays.keys()
        for name in arrays.keys() - {'objects'}:
            np.testing.assert_array_equal(found[name], arrays[name])
            assert (type(found[name]), found[name].dtype) == (np.ndarray, arrays[name].dtype)
        np.testing.assert_array_equal(found['objects'][0], objects[0])
        assert type(found['objects'][0]) is np.ndarray
        assert found['objects'][1] == {'x': 3}
