"""The builder of MPII: what it stores from both kinds of annotations, what it leaves out and counts, what it refuses."""

import contextlib
import json
import pathlib

import numpy as np
import pytest
import scipy.io
from fake_jhmdb import pack
from fake_mpii import (
    MAT,
    MISSING,
    SIZE,
    annotated,
    entry,
    joints_of,
    position_of,
    rect,
    structs,
    write_json,
    write_mat,
    write_mpii,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import square_of_box
from kimnet_jax.core.skeleton import MPII
from kimnet_jax.data_pipelines import build, doctor
from kimnet_jax.data_pipelines.builders.mpii import annotations
from kimnet_jax.data_pipelines.builders.mpii.annotations import read_json, read_mat
from kimnet_jax.data_pipelines.clip_source import open_clips
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.findings import summarise
from kimnet_jax.data_pipelines.transforms import DataConfig, crop_window

CONFIGS = ('simple_baseline', 'held_out')
PERSONS = {'train': ['a/1', 'a/2', 'b/1', 'b/2', 'c/1'], 'valid': ['d/1', 'd/2']}


def build_config(root: pathlib.Path, data_dir: pathlib.Path, config: str) -> None:
    build.main(['build', f'mpii/{config}', '--manual_dir', str(root), '--data_dir', str(data_dir)])


def examples(data_dir: pathlib.Path, config: str) -> dict[str, list[dict]]:
    sources = {split: open_clips(data_dir, 'mpii', config, split) for split in PERSONS}
    return {split: [source[i] for i in range(len(source))] for split, source in sources.items()}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_mpii(tmp_path / 'download')


@pytest.mark.parametrize('config', CONFIGS)
def test_both_annotations_give_the_same_persons(config, root, tmp_path, capsys):
    build_config(root, tmp_path / 'built', config)
    assert ('a split of ours' in capsys.readouterr().err) == (config == 'held_out')
    built = examples(tmp_path / 'built', config)
    assert {split: [example['clip'] for example in found] for split, found in built.items()} == PERSONS
    for example in built['train'] + built['valid']:
        stem, number = example['clip'].split('/')
        image, person = f'{stem}.jpg', int(number) - 1
        assert example['frames'] == [(root / 'images' / image).read_bytes()]
        assert example['image_size'].tolist() == list(SIZE)
        expected, visible = joints_of(image, person), np.ones(16, bool)
        if not person:
            expected[MISSING], visible[MISSING] = 0, False
        np.testing.assert_allclose(example['joints'][0], expected, atol=1e-5)
        np.testing.assert_array_equal(example['visible'][0], visible)


def test_the_crop_is_that_of_simple_baseline(root):
    splits, _ = read_json({split: root / f'annot/{split}.json' for split in ('train', 'valid')})
    for person in splits['train'] + splits['valid']:
        centre, scale = position_of(person.image, int(person.name.rpartition('/')[2]) - 1)
        middle, side = square_of_box(person.box, 1.25)
        np.testing.assert_allclose(middle, centre + np.array([0, 15 * scale]), atol=1e-5)
        assert side == pytest.approx(200 * scale * 1.25, rel=1e-6)


def test_a_person_becomes_a_window_of_one_frame(root, tmp_path):
    build_config(root, tmp_path / 'built', 'simple_baseline')
    source = open_clips(tmp_path / 'built', 'mpii', 'simple_baseline', 'valid')
    config = DataConfig(frames=1, input_size=64)
    row = crop_window(source[1], Window(1, 0, 1), 1, config, skeleton=MPII, folder=source.folder)
    centre, scale = position_of('d.jpg', 1)
    # 64 pixels are 200 * 0.3 * 1.25 = 75; the middle of the crop is (63 / 2, 63 / 2)
    expected = (joints_of('d.jpg', 1) - centre - [0, 15 * scale]) * 64 / 75 + 31.5
    np.testing.assert_allclose(row['joints'][0], expected, atol=1e-3)
    assert (row['frames'] > 0).any()


@pytest.mark.parametrize('prefix', ['', 'data/mpii/'])
def test_archives_build_what_folders_build(prefix, root, tmp_path):
    for config in CONFIGS:
        build_config(root, tmp_path / 'folders', config)
    folder = root / 'mpii_human_pose_v1_u12_2'
    folder.mkdir()
    (root / MAT).rename(folder / MAT)
    pack(folder, root / 'mpii_human_pose_v1_u12_2.zip', prefix)
    pack(root / 'images', root / 'mpii_human_pose_v1.tar.gz', prefix)
    for config in CONFIGS:
        build_config(root, tmp_path / 'archives', config)
        for split, found in examples(tmp_path / 'folders', config).items():
            for one, other in zip(found, examples(tmp_path / 'archives', config)[split], strict=True):
                for key, value in one.items():
                    np.testing.assert_array_equal(other[key], value)
        assert not [path for path in (tmp_path / f'archives/mpii/{config}/2.0.0').iterdir() if path.is_dir()]


def test_folders_one_level_down_are_found(root, tmp_path):
    (root / 'mpii').mkdir()
    for name in ('images', 'annot', MAT):
        (root / name).rename(root / 'mpii' / name)
    for config in CONFIGS:
        build_config(root, tmp_path / 'built', config)
        assert len(examples(tmp_path / 'built', config)['train']) == 5


def test_what_is_missing_in_the_json_is_left_out_and_counted(root, tmp_path, capsys):
    train = [entry('a', 0), entry('a', 1), entry('b', 0), entry('d', 0)]
    train[0]['joints_vis'] = [0] * 16
    train[1] |= {'center': [-1.0, -1.0], 'scale': -1.0}
    write_json(root, {'train': train, 'valid': [entry('d', 1)]})
    build_config(root, tmp_path / 'built', 'simple_baseline')
    told = capsys.readouterr().err
    assert 'note: 1 persons have no joints and are left out: a.jpg\n' in told
    assert 'note: 1 persons have no scale or no position, so no box, and are left out: a.jpg\n' in told
    assert 'note: 1 persons of train are in an image of valid and are left out: d.jpg\n' in told
    found = examples(tmp_path / 'built', 'simple_baseline')
    assert [e['clip'] for e in found['train']] == ['b/1']


def test_what_is_missing_in_the_mat_is_left_out_and_counted(tmp_path):
    twice = rect('b.jpg', 1)
    twice['annopoints']['point'] = np.concatenate(
        [twice['annopoints']['point'], structs([{'x': 1.0, 'y': 1.0, 'id': 3, 'is_visible': 1}])], 1
    )
    images = [
        annotated('a.jpg', [rect('a.jpg', 0, annopoints=None), rect('a.jpg', 1, scale=None), rect('a.jpg', 1, objpos=None)]),
        annotated('b.jpg', [twice]),
        annotated('c.jpg', [{'scale': 1.0}]),  # a struct without further fields
        annotated('c.jpg', []),
        annotated('d.jpg', [rect('d.jpg', 0)]),
        annotated('x.jpg', [rect('a.jpg', 0)]),
    ]
    write_mat(tmp_path / MAT, images, [1, 1, 1, 1, 1, 0])
    splits, findings = read_mat(tmp_path / MAT)
    assert {split: [person.name for person in persons] for split, persons in splits.items()} == {
        'train': ['b/1'],
        'valid': ['d/1'],
    }
    np.testing.assert_allclose(splits['train'][0].joints, joints_of('b.jpg', 1), atol=1e-5)
    assert summarise(findings) == [
        f'2 {annotations.NO_JOINTS}: a.jpg, c.jpg',
        f'2 {annotations.NO_SCALE}: a.jpg',
        f'1 {annotations.TWICE}: b.jpg',
    ]


def test_no_video_is_in_both_splits(tmp_path):
    images = [annotated(f'{i:03d}.jpg', [rect('a.jpg', 1)], vididx=float(i // 4)) for i in range(400)]
    write_mat(tmp_path / MAT, images)
    splits, _ = read_mat(tmp_path / MAT)
    videos = {split: {int(person.image[:3]) // 4 for person in persons} for split, persons in splits.items()}
    assert not videos['train'] & videos['valid']
    assert 3 <= len(videos['valid']) <= 20  # of 100
    write_mat(tmp_path / MAT, [image | {'vididx': np.zeros((0, 0))} for image in images])  # then by the name of the image
    splits, _ = read_mat(tmp_path / MAT)
    assert 20 <= len(splits['valid']) <= 60


def test_joints_outside_of_the_image_are_kept_and_counted(root, tmp_path, capsys):
    odd = entry('d', 0)
    odd['joints'][0] = [-7.0, 5.0]
    write_json(root, {'train': [entry('a', 0)], 'valid': [odd]})
    build_config(root, tmp_path / 'built', 'simple_baseline')
    assert 'note: 1 joints lie outside of the image and are kept: d/1\n' in capsys.readouterr().err
    (example,) = examples(tmp_path / 'built', 'simple_baseline')['valid']
    np.testing.assert_array_equal(example['joints'][0, 0], [-8, 4])
    assert example['visible'][0, 0]


def change(**fields):
    def do(root):
        write_json(root, {'train': [entry('a', 0) | fields]})

    return do


def put(name, content):
    def do(root):
        (root / name).write_bytes(content)

    return do


@pytest.mark.parametrize(
    ('harm', 'config', 'message'),
    [
        (put('annot/train.json', b'[{'), 'simple_baseline', r'annot/train\.json: not valid JSON'),
        (put('annot/train.json', b'{"a": 1}'), 'simple_baseline', r'annot/train\.json: expected a list of persons'),
        (put('annot/train.json', b'[3]'), 'simple_baseline', r'train\.json: entry 0: expected a person with image, center'),
        (put('annot/train.json', b'[]'), 'simple_baseline', r"no person with joints, scale and position for split 'train'"),
        (change(image='../a.jpg'), 'simple_baseline', r"entry 0: image is '\.\./a\.jpg', expected the name of a file"),
        (change(joints=[[1, 2]] * 15), 'simple_baseline', r'entry 0: joints of shape \[15, 2\], expected \[16, 2\]'),
        (change(joints=None), 'simple_baseline', r'entry 0: joints of shape \[\], expected'),
        (change(scale='big'), 'simple_baseline', 'entry 0: scale is not made of numbers'),
        (change(joints_vis=[2] * 16), 'simple_baseline', 'entry 0: joints_vis has values other than 0 and 1'),
        (change(joints=[[float('nan'), 2]] * 16), 'simple_baseline', 'NaN is no number that JSON knows'),
        (change(scale=1e300), 'simple_baseline', 'entry 0: scale, position or joints are too large'),
        (lambda root: (root / 'annot/valid.json').unlink(), 'simple_baseline', r'annot/valid\.json: missing; expected'),
        (
            lambda root: (root / 'annot').rename(root / 'x'),
            'simple_baseline',
            'with mpii_human_pose_v1_u12_1.mat build mpii/held_out',
        ),
        (lambda root: (root / MAT).unlink(), 'held_out', r'no mpii_human_pose_v1_u12_1\.mat there.*build mpii/simple_baseline'),
        (put(MAT, b'MATLAB?'), 'held_out', rf'{MAT}: not a readable MATLAB file'),
        (lambda root: scipy.io.savemat(root / MAT, {'other': 1}), 'held_out', "no field 'RELEASE'; it has: other"),
        (lambda root: scipy.io.savemat(root / MAT, {'RELEASE': 1.0}), 'held_out', 'RELEASE is not made as in the official file'),
        (lambda root: (root / 'images/b.jpg').unlink(), 'held_out', r'images: 1 images of annotated persons are missing: b\.jpg'),
        (put('images/b.jpg', b'no image'), 'held_out', r'images/b\.jpg: not a readable image'),
        (lambda root: (root / 'images').rename(root / 'x'), 'held_out', 'no images there; expected the images'),
    ],
)
def test_bad_input_is_explained_and_leaves_nothing(harm, config, message, root, tmp_path):
    harm(root)
    with pytest.raises(InputError, match=message):
        build_config(root, tmp_path / 'built', config)
    assert list((tmp_path / 'built').rglob('*.array_record*')) == []


def test_bad_records_of_the_mat_are_named(tmp_path):
    point = {'x': 1.0, 'y': 2.0, 'id': 16, 'is_visible': 1}
    for image, message in [
        (
            annotated('a.jpg', [rect('a.jpg', 0, annopoints={'point': structs([point])})]),
            r'annolist\(1\), a\.jpg, annorect\(1\): joint id is 16',
        ),
        (annotated('a.jpg', [rect('a.jpg', 0)], image=3.0), r'annolist\(1\) is not made as in the release'),
        (
            annotated('a.jpg', [rect('a.jpg', 0, annopoints={'point': structs([point | {'id': 2, 'x': np.inf}])})]),
            "'r_hip' is not finite",
        ),
    ]:
        write_mat(tmp_path / MAT, [image])
        with pytest.raises(InputError, match=message):
            read_mat(tmp_path / MAT)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(['image', 'scale', 'x']), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(['image', 'center', 'scale', 'joints', 'joints_vis']), VALUES, max_size=3))
def test_any_json_is_read_or_refused(tmp_path_factory, fields):
    root = tmp_path_factory.mktemp('any')
    write_json(root, {'train': [entry('a', 0) | fields, entry('b', 0)], 'valid': [entry('d', 0)]})
    with contextlib.suppress(InputError):  # nothing else
        splits, _ = read_json({split: root / f'annot/{split}.json' for split in ('train', 'valid')})
        assert [person.name for person in splits['train']][-1] == 'b/1'


def test_the_doctor(root, tmp_path, capsys):
    (root / 'images/b.jpg').unlink()
    (root / 'images/d.jpg').write_bytes(b'no image')
    found = tmp_path / 'found.json'
    status = doctor.main(['doctor', 'mpii', str(root), '--pixels', '--json', str(found)])
    assert status == 1
    told = capsys.readouterr().out
    assert 'b.jpg: missing, and it has annotated persons' in told
    assert 'd.jpg: not a readable image' in told
    counts = json.loads(found.read_text())['counts']
    assert (counts['train persons'], counts['valid persons'], counts['images'], counts['annotated joints']) == (
        5,
        2,
        4,
        7 * 16 - 4,
    )
