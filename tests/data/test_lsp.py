"""The builder of LSP and LSP Extended: what it stores, how it splits, what it leaves out and counts, what it refuses."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import scipy.io
from fake_jhmdb import pack
from fake_lsp import COUNTS, HELD_OUT, OFF, SIZE, records, write_joints, write_lsp

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import LSP
from kimnet_jax.data_pipelines import build, doctor
from kimnet_jax.data_pipelines.builders.lsp import annotations
from kimnet_jax.data_pipelines.builders.lsp.layout import Extended, Original
from kimnet_jax.data_pipelines.clip_source import ClipSource, open_clips
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.findings import summarise
from kimnet_jax.data_pipelines.transforms import DataConfig, crop_window

SPLITS = {'extended': ('train', 'valid'), 'original': ('train', 'test')}
REAL = pathlib.Path(__file__).resolve().parents[3] / 'shared/data/lspet'


def build_config(root: pathlib.Path, data_dir: pathlib.Path, config: str = 'extended') -> None:
    build.main(['build', f'lsp/{config}', '--manual_dir', str(root), '--data_dir', str(data_dir)])


def sources(data_dir: pathlib.Path, config: str = 'extended') -> dict[str, ClipSource]:
    return {split: open_clips(data_dir, 'lsp', config, split) for split in SPLITS[config]}


def examples(data_dir: pathlib.Path, config: str = 'extended') -> dict[str, dict]:
    """Name -> example, of all splits."""
    found = [source[i] for source in sources(data_dir, config).values() for i in range(len(source))]
    return {example['clip']: example for example in found}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_lsp(tmp_path / 'download', 'extended')


@pytest.fixture(scope='module')
def original(tmp_path_factory) -> pathlib.Path:
    return write_lsp(tmp_path_factory.mktemp('lsp') / 'download', 'original')


def test_extended(root, tmp_path, capsys):
    build_config(root, tmp_path / 'built')
    assert 'a split of ours' in capsys.readouterr().err
    names = {split: source.names for split, source in sources(tmp_path / 'built').items()}
    assert names['valid'] == HELD_OUT
    assert names['train'] == [name for n in range(1, 13) if (name := f'im{n:05d}') not in HELD_OUT]
    joints = records('extended')
    for name, example in examples(tmp_path / 'built').items():
        number = int(name[2:])
        visible = ~np.isin(np.arange(14), OFF.get(number, ()))
        assert example['frames'] == [(root / f'images/{name}.jpg').read_bytes()]
        assert example['image_size'].tolist() == list(SIZE)
        np.testing.assert_array_equal(example['visible'][0], visible)
        np.testing.assert_array_equal(example['joints'][0], np.where(visible[:, None], joints[:, :2, number - 1], 0))


def test_in_the_original_flag_1_is_hidden_and_the_split_is_official(original, tmp_path):
    build_config(original, tmp_path / 'built', 'original')
    built = sources(tmp_path / 'built', 'original')
    assert built['train'].names == [f'im{n:04d}' for n in range(1, 1001)]
    assert built['test'].names == ['im1001', 'im1002']
    example = built['train'][2]  # has joints of flag 1
    assert example['visible'].all()
    np.testing.assert_array_equal(example['joints'][0], records('original')[:, :2, 2])


@pytest.mark.parametrize('config', SPLITS)
def test_both_orders_of_the_axes_are_read(config, root, original, tmp_path):
    download = tmp_path / 'swapped'
    shutil.copytree({'extended': root, 'original': original}[config], download)
    joints = scipy.io.loadmat(download / 'joints.mat')['joints']
    write_joints(download, joints.transpose(1, 0, 2))
    found = annotations.read_joints(download / 'joints.mat')
    np.testing.assert_array_equal(found, records(config).transpose(2, 0, 1))


def test_one_image_alone_has_both_orders_too(tmp_path):
    joints = records('extended')[..., :1]  # of which MATLAB drops the last axis
    for order in ((0, 1, 2), (1, 0, 2)):
        write_joints(tmp_path, joints.transpose(order)[..., 0])
        np.testing.assert_array_equal(annotations.read_joints(tmp_path / 'joints.mat'), joints.transpose(2, 0, 1))


def test_the_box_is_the_extent_of_the_annotated_joints_widened(root):
    joints = records('extended')
    joints[:, :2, 0] = [20, 30]
    joints[:2, :2, 0] = [[10, 12], [16, 32]]  # 10 wide and 20 high, so 1 pixel more on each side
    joints[5] = [[-40], [500], [0]]  # not annotated, so without a part in it
    write_joints(root, joints)
    splits, _ = annotations.read_persons(Extended(root, root))
    np.testing.assert_allclose(splits['train'][0].box, [9, 11, 21, 33], rtol=1e-6)


def test_a_person_becomes_a_window_of_one_frame(root, tmp_path):
    build_config(root, tmp_path / 'built')
    source = sources(tmp_path / 'built')['train']
    row = crop_window(source[0], Window(0, 0, 1), 1, DataConfig(frames=1, input_size=64), skeleton=LSP, folder=source.folder)
    points = records('extended')[:, :2, 0]
    side = 1.25 * 1.1 * 13 * 3.25  # the longer side is the height of 13 steps of 3.25 pixels
    expected = (points - (points[0] + points[-1]) / 2) * 64 / side + 31.5
    np.testing.assert_allclose(row['joints'][0], expected, atol=1e-3)
    assert (row['frames'] > 0).any()


@pytest.mark.parametrize('prefix', ['', 'lsp/'])
@pytest.mark.parametrize('suffix', ['.zip', '.tar.gz'])
def test_an_archive_builds_what_the_folder_builds(suffix, prefix, root, tmp_path):
    build_config(root, tmp_path / 'folder')
    packed = tmp_path / 'packed'
    packed.mkdir()
    if not prefix:  # as released: the images and joints.mat at the top
        shutil.make_archive(str(packed / 'lspet_dataset'), {'.zip': 'zip', '.tar.gz': 'gztar'}[suffix], root)
    else:
        pack(root, packed / f'lspet_dataset{suffix}', prefix)
    build_config(packed, tmp_path / 'archive')
    folder, archive = examples(tmp_path / 'folder'), examples(tmp_path / 'archive')
    assert folder.keys() == archive.keys()
    for name, example in folder.items():
        for key, value in example.items():
            np.testing.assert_array_equal(archive[name][key], value)
    assert not [path for path in (tmp_path / 'archive/lsp/extended/2.0.0').iterdir() if path.is_dir()]


def test_both_data_sets_may_lie_in_one_folder(root, original, tmp_path):
    both = tmp_path / 'both'
    shutil.copytree(root, both / 'lspet_dataset')
    shutil.copytree(original, both / 'a')
    assert Extended(both, tmp_path).locate('images') == both / 'lspet_dataset/images'
    assert Original(both, tmp_path).locate('images') == both / 'a/images'
    build_config(both, tmp_path / 'built')
    assert len(examples(tmp_path / 'built')) == COUNTS['extended']


def test_what_is_odd_is_counted(root, tmp_path, capsys):
    joints = records('extended')
    joints[:, 2, 0] = 0  # nothing is annotated
    joints[1:, 2, 2] = 0  # one joint
    joints[:, :2, 3] = [7, 8]  # all at one place
    joints[5:, 2, 4] = 0  # five joints
    joints[:2, :2, 6] = 0  # flag 1 at (0, 0)
    joints[0, :2, 7], joints[13, :2, 7] = [-7, 5], [SIZE[1], 3]  # outside of the image
    joints[0, :, 8] = [np.nan, np.inf, 0]  # not annotated
    write_joints(root, joints)
    build_config(root, tmp_path / 'built')
    told = capsys.readouterr().err
    for line in (
        f'3 {annotations.NO_BOX}: im00001, im00003, im00004',
        f'1 {annotations.FEW_JOINTS}: im00005',
        f'2 {annotations.AT_ORIGIN}: im00007',
        '2 joints lie outside of the image and are kept: im00008',
    ):
        assert f'note: {line}\n' in told
    found = examples(tmp_path / 'built')
    assert len(found) == COUNTS['extended'] - 3
    assert found['im00005']['visible'].sum() == 5
    assert found['im00007']['visible'][0].tolist() == [False] * 2 + [True] * 12
    np.testing.assert_array_equal(found['im00008']['joints'][0, 0], [-7, 5])
    assert found['im00008']['visible'].all()
    np.testing.assert_array_equal(found['im00009']['joints'][0, 0], [0, 0])


def with_joints(change):
    def do(root):
        joints = records('extended')
        write_joints(root, joints if (changed := change(joints)) is None else changed)

    return do


def put(name, content):
    def do(root):
        (root / name).write_bytes(content)

    return do


def cut(root):
    file = root / 'images/im00004.jpg'
    file.write_bytes(file.read_bytes()[:-200])


def lose_a_block(root):
    file = root / 'images/im00004.jpg'
    data = file.read_bytes()
    file.write_bytes(data[:-40] + data[-2:])


def set_record(joint, number, values):
    def change(joints):
        joints[joint, :, number - 1] = values

    return with_joints(change)


@pytest.mark.parametrize(
    ('harm', 'message'),
    [
        (lambda root: (root / 'images/im00004.jpg').unlink(), r'images: 1 images of annotated persons are missing: im00004\.jpg'),
        (put('images/im00013.jpg', b''), r'images: 1 files are no image that joints\.mat has joints of, among them im00013\.jpg'),
        (put('images/im00004.jpg', b'no image'), r'images/im00004\.jpg: not a readable image'),
        (cut, r'images/im00004\.jpg: .*'),
        (lose_a_block, r'images/im00004\.jpg: damaged \(.*\); replace the file'),
        (
            lambda root: (root / 'images').rename(root / 'x'),
            'no images there; expected the folder images with',
        ),
        (lambda root: (root / 'joints.mat').unlink(), r'joints\.mat: missing; expected the folder images'),
        (put('joints.mat', b'MATLAB?'), r'joints\.mat: not a readable MATLAB file'),
        (lambda root: scipy.io.savemat(root / 'joints.mat', {'x': 1}), r"joints\.mat: no field 'joints'; it has: x"),
        (with_joints(lambda joints: joints[:13]), r'joints\.mat: joints is float64 \[13, 3, 12\], expected numbers \[14, 3, N\]'),
        (with_joints(lambda joints: joints[:, :2]), r'joints is float64 \[14, 2, 12\], expected'),
        (with_joints(lambda joints: joints.transpose(2, 0, 1)), r'joints is float64 \[12, 14, 3\], expected'),
        (with_joints(lambda joints: joints[:, :2].transpose(1, 0, 2)), r'joints is float64 \[2, 14, 12\], expected'),
        (with_joints(lambda joints: joints[..., :9]), r'images: 3 files are no image that .*, among them im00010\.jpg'),
        (with_joints(lambda joints: joints.astype('U9')), 'expected numbers'),
        (set_record(3, 5, [np.nan, 2, 1]), r"joints\.mat: im00005\.jpg: 'l_hip' is not finite \(1 such joints\)"),
        (set_record(3, 5, [1e300, 2, 1]), r'joints\.mat: im00005\.jpg: joints are too large'),
        (set_record(3, 5, [1, 2, 0.5]), r'joints\.mat: im00005\.jpg: flags other than 0 and 1'),
        (set_record(3, 5, [1, 2, np.nan]), r'joints\.mat: im00005\.jpg: flags other than 0 and 1'),
    ],
)
def test_bad_input_is_explained_and_leaves_nothing(harm, message, root, tmp_path):
    harm(root)
    with pytest.raises(InputError, match=message):
        build_config(root, tmp_path / 'built')
    assert list((tmp_path / 'built').rglob('*.array_record*')) == []


def test_the_other_data_set_is_not_taken_for_this_one(root, original, tmp_path):
    for config, wrong in (('original', root), ('extended', original)):
        with pytest.raises(InputError, match=f'no images there; expected .* for lsp/{config} images/im0'):
            build_config(wrong, tmp_path / 'built', config)


def test_an_archive_without_joints_is_named(root, tmp_path):
    (root / 'joints.mat').unlink()
    (tmp_path / 'packed').mkdir()
    shutil.make_archive(str(tmp_path / 'packed/lspet_dataset'), 'zip', root)
    with pytest.raises(InputError, match=r'packed/lspet_dataset\.zip/joints\.mat: missing; expected'):
        build_config(tmp_path / 'packed', tmp_path / 'built')


def test_a_split_without_anybody_is_refused(root):
    shutil.rmtree(root / 'images')
    (root / 'images').mkdir()
    (root / 'images/im00001.jpg').write_bytes(b'')
    write_joints(root, records('extended')[..., :1])
    with pytest.raises(InputError, match=r"joints\.mat: joints of 1 images, and nobody for split 'valid'"):
        annotations.read_persons(Extended(root, root))


def test_the_doctor(root, original, tmp_path, capsys):
    (root / 'images/im00003.jpg').unlink()
    cut(root)
    found = tmp_path / 'found.json'
    assert doctor.main(['doctor', 'lsp', str(root), '--pixels', '--json', str(found)]) == 1
    told = capsys.readouterr().out
    assert 'im00003.jpg: missing, and it has annotated persons' in told
    assert 'error    ' in told
    assert 'im00004.jpg' in told
    counts = json.loads(found.read_text())['counts']
    assert counts == {
        'extended train persons': 11,
        'extended valid persons': 1,
        'images': 12,
        'annotated joints': 12 * 14 - len(OFF[3]),
    }
    assert doctor.main(['doctor', 'lsp', str(original)]) == 0
    assert 'original test persons 2 1,000' in ' '.join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match='nothing'):
        doctor.main(['doctor', 'lsp', str(tmp_path / 'nothing')])
    (tmp_path / 'empty').mkdir()
    assert doctor.main(['doctor', 'lsp', str(tmp_path / 'empty')]) == 1
    assert 'no images there; expected' in capsys.readouterr().out


@pytest.mark.skipif(not REAL.is_dir(), reason='needs LSP Extended in ../shared/data/lspet')
def test_the_release():
    splits, findings = annotations.read_persons(Extended(REAL, REAL))
    assert {split: len(persons) for split, persons in splits.items()} == {'train': 9037, 'valid': 963}
    few = 'im00632, im02486, im04683, im04985, im05018, im07419, im07450, im08424, im08616'
    assert summarise(findings) == [f'9 {annotations.FEW_JOINTS}: {few}']
    persons = [person for found in splits.values() for person in found]
    assert sum(int(person.visible.sum()) for person in persons) == 123_213
    sides = np.array([(person.box[2:] - person.box[:2]).max() for person in persons])
    assert 120 < np.median(sides) < 140  # "roughly 150 pixels in length"
    assert sides.min() > 30
