"""The builder of Sub-JHMDB: what it stores, from every form of the download, and how it refuses bad input."""

import pathlib
import shutil

import fake_jhmdb
import numpy as np
import pytest
import scipy.io
from fake_jhmdb import LENGTHS, pack, write_images, write_jhmdb, write_joints, write_masks, write_video

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.core.video import read_frames
from kimnet_jax.data_pipelines import build
from kimnet_jax.data_pipelines.builders.sub_jhmdb import clips, layout
from kimnet_jax.data_pipelines.builders.sub_jhmdb.layout import Clip
from kimnet_jax.data_pipelines.clip_source import open_clips

CLIP = 'catch/Ball_catch_0'  # 5 frames
VIDEO = f'ReCompress_Videos/{CLIP}.avi'
JOINTS = f'joint_positions/{CLIP}/joint_positions.mat'
MASKS = f'puppet_mask/{CLIP}/puppet_mask.mat'


def build_fold(root: pathlib.Path, data_dir: pathlib.Path, fold: int = 1) -> None:
    build.main(['build', f'sub_jhmdb/fold{fold}', '--manual_dir', str(root), '--data_dir', str(data_dir)])


def examples(data_dir: pathlib.Path, fold: int = 1) -> dict[str, dict]:
    """Clip name -> example, of both splits."""
    found = {}
    for split in ('train', 'test'):
        source = open_clips(data_dir, 'sub_jhmdb', f'fold{fold}', split)
        found |= {source[i]['clip']: source[i] for i in range(len(source))}
    return found


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_jhmdb(tmp_path / 'download')


def test_videos_are_stored_lossless_with_zero_based_joints_and_the_extent_of_the_mask(root, tmp_path):
    build_fold(root, tmp_path / 'built', fold=2)
    built = examples(tmp_path / 'built', fold=2)
    assert sorted(built) == sorted(LENGTHS)
    train = open_clips(tmp_path / 'built', 'sub_jhmdb', 'fold2', 'train')
    assert [train[i]['clip'] for i in range(len(train))] == ['catch/Ball_catch_1', 'golf/Golf_swing_0']  # fold 2: labels 2 1 1 2
    for clip, example in built.items():
        frames = [frame.image for frame in read_frames(root / f'ReCompress_Videos/{clip}.avi')]
        assert example['action'] == clip.split('/')[0]
        assert example['image_size'].tolist() == [48, 64]
        np.testing.assert_array_equal([decode_image(f, clip) for f in example['frames']], frames)
        np.testing.assert_allclose(example['joints'], fake_jhmdb.joints_of(clip), atol=1e-5)
        assert example['visible'].shape == (len(frames), 15)
        assert example['visible'].all()
        np.testing.assert_array_equal(example['boxes'], [fake_jhmdb.box_of(t) for t in range(len(frames))])


def test_images_win_over_videos_and_keep_their_bytes(tmp_path):
    root = write_jhmdb(tmp_path / 'download', images=True)
    build_fold(root, tmp_path / 'built')
    for clip, example in examples(tmp_path / 'built').items():
        assert example['frames'] == [file.read_bytes() for file in sorted((root / 'Rename_Images' / clip).iterdir())]


@pytest.mark.parametrize(
    ('archives', 'prefix'),
    [
        (('JHMDB_video.zip', 'joint_positions.zip', 'puppet_mask.zip', 'sub_splits.zip'), ''),
        (('Rename_Images.tar.gz', 'joint_positions.tar', 'puppet_mask.tgz', 'sub_splits.tar.gz'), 'JHMDB/release 1/'),
    ],
)
def test_archives_build_what_folders_build_and_nothing_stays_unpacked(archives, prefix, tmp_path):
    images = 'Rename_Images.tar.gz' in archives
    root = write_jhmdb(tmp_path / 'download', images=images, videos=not images)
    build_fold(root, tmp_path / 'folders')
    for archive in archives:
        stem = archive.split('.')[0]
        pack(root / {'JHMDB_video': 'ReCompress_Videos'}.get(stem, stem), root / archive, prefix)
    build_fold(root, tmp_path / 'archives')
    folders, built = examples(tmp_path / 'folders'), examples(tmp_path / 'archives')
    for clip, example in folders.items():
        for key, value in example.items():
            np.testing.assert_array_equal(built[clip][key], value)
    config = tmp_path / 'archives/sub_jhmdb/clips/2.0.0'
    assert not [path for path in config.iterdir() if path.is_dir()]
    assert {p.name for p in (tmp_path / 'archives').iterdir()} == {'sub_jhmdb'}


def test_a_folder_one_level_down_is_found(root, tmp_path):
    (root / 'JHMDB_video').mkdir()
    (root / 'ReCompress_Videos').rename(root / 'JHMDB_video/ReCompress_Videos')
    assert layout.Layout(root, tmp_path).frames_part() == 'ReCompress_Videos'
    assert layout.Layout(root, tmp_path).folder('ReCompress_Videos') == root / 'JHMDB_video/ReCompress_Videos'


def test_an_empty_mask_falls_back_to_the_extent_of_the_joints_and_is_counted(root, tmp_path, capsys):
    masks = np.zeros((48, 64, 5), np.uint8)
    masks[7:10, 20:30, :4] = 1
    write_masks(root / MASKS, masks)
    build_fold(root, tmp_path / 'built')
    boxes = examples(tmp_path / 'built')[CLIP]['boxes']
    np.testing.assert_array_equal(boxes[:4], [[20, 7, 29, 9]] * 4)
    joints = fake_jhmdb.joints_of(CLIP)[4]
    np.testing.assert_allclose(boxes[4], [*joints.min(0), *joints.max(0)], atol=1e-5)
    assert f'note: 1 {layout.EMPTY_MASK}: {CLIP}\n' in capsys.readouterr().err


def test_a_clip_of_one_frame_is_read_though_matlab_drops_its_last_axis(tmp_path):
    scipy.io.savemat(tmp_path / 'j.mat', {'pos_img': np.full((2, 15), 3.0)})
    scipy.io.savemat(tmp_path / 'm.mat', {'part_mask': np.eye(6, 7)})
    joints = clips.read_joints(tmp_path / 'j.mat')
    np.testing.assert_array_equal(joints, np.full((1, 15, 2), 2.0))
    boxes, empty = clips.read_boxes(tmp_path / 'm.mat', joints, (6, 7))
    np.testing.assert_array_equal(boxes, [[0, 0, 5, 5]])
    assert empty == 0


def _truncate(path: pathlib.Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _edit_joints(root, change):
    joints = fake_jhmdb.joints_of(CLIP)
    write_joints(root / JOINTS, change(joints))


def _nan(joints):
    joints[2, 4, 1] = np.nan
    return joints


def _split(root, text, name='catch_test_split_1.txt'):
    (root / 'sub_splits' / name).write_text(text)


def _damaged_archive(root, name, share=0.5):
    pack(root / 'puppet_mask', root / name)
    _truncate(root / name, share)


def _archive_of_something_else(root, part):
    (root / part).rename(root / 'something')
    pack(root / 'something', root / f'{part}.zip')


BAD_INPUT = {  # what is done to the download -> what the message must say, in order
    'no annotations': (lambda r: shutil.rmtree(r / 'joint_positions'), ['no joint_positions there', 'joint_positions.zip']),
    'no frames': (lambda r: shutil.rmtree(r / 'ReCompress_Videos'), ['no Rename_Images or ReCompress_Videos there']),
    'several parts': (
        lambda r: [shutil.rmtree(r / part) for part in ('sub_splits', 'puppet_mask')],
        ['no sub_splits, no puppet_mask there'],
    ),
    'zip cut short': (lambda r: _damaged_archive(r, 'puppet_mask.zip'), ['puppet_mask.zip: damaged']),
    'tar.gz cut short': (lambda r: _damaged_archive(r, 'puppet_mask.tar.gz'), ['puppet_mask.tar.gz: damaged']),
    'tar cut short': (lambda r: _damaged_archive(r, 'puppet_mask.tar', 0.3), ['puppet_mask.tar']),
    'archive of something else': (
        lambda r: _archive_of_something_else(r, 'sub_splits'),
        ["sub_splits.zip: no folder 'sub_splits' in it"],
    ),
    'video missing': (lambda r: (r / VIDEO).unlink(), ['1 files of clips', 'missing', 'Ball_catch_0.avi']),
    'mask missing': (lambda r: (r / MASKS).unlink(), ['1 files of clips', 'Ball_catch_0/puppet_mask.mat']),
    'video shorter': (lambda r: write_video(r / VIDEO, fake_jhmdb.frames_of(CLIP)[:4]), ['Ball_catch_0.avi: 4 frames', 'has 5']),
    'video longer': (
        lambda r: write_video(r / VIDEO, np.concatenate([fake_jhmdb.frames_of(CLIP)] * 2)),
        ['Ball_catch_0.avi: 10 frames', 'has 5'],
    ),
    'video cut short': (lambda r: _truncate(r / VIDEO), ['Ball_catch_0.avi: ']),
    'video empty': (lambda r: (r / VIDEO).write_bytes(b''), ['Ball_catch_0.avi: not a readable video']),
    'video is text': (lambda r: (r / VIDEO).write_text('not found' * 99), ['Ball_catch_0.avi: not a readable video']),
    'joints not finite': (
        lambda r: _edit_joints(r, _nan),
        ['joint_positions.mat: pos_img of ', "'l_shoulder' in frame 3 is not finite (1 such joints)"],
    ),
    'joints of other length': (lambda r: _edit_joints(r, lambda j: j[:3]), ['Ball_catch_0.avi: 5 frames', 'pos_img', 'has 3']),
    'joints of no frame': (lambda r: _edit_joints(r, lambda j: j[:0]), ['joint_positions.mat: pos_img has 0 frames']),
    'joints of 41 frames': (lambda r: _edit_joints(r, lambda j: j[[0] * 41]), ['joint_positions.mat: pos_img has 41 frames']),
    'joints of 13': (
        lambda r: _edit_joints(r, lambda j: j[:, :13]),
        ['joint_positions.mat: pos_img is', '[2, 13, 5]', '[2, 15, T]'],
    ),
    'joints under another name': (
        lambda r: scipy.io.savemat(r / JOINTS, {'joints': np.ones((2, 15, 5))}),
        ["joint_positions.mat: no field 'pos_img'; it has: joints"],
    ),
    'joints are text': (lambda r: scipy.io.savemat(r / JOINTS, {'pos_img': 'abc'}), ['joint_positions.mat: pos_img is']),
    'joints file cut short': (lambda r: _truncate(r / JOINTS), ['joint_positions.mat: not a readable MATLAB file']),
    'joints file empty': (lambda r: (r / JOINTS).write_bytes(b''), ['joint_positions.mat: not a readable MATLAB file']),
    'mask of other length': (
        lambda r: write_masks(r / MASKS, np.ones((48, 64, 4), np.uint8)),
        ['puppet_mask.mat: part_mask has 4 frames', 'has 5'],
    ),
    'mask of other size': (
        lambda r: write_masks(r / MASKS, np.ones((64, 48, 5), np.uint8)),
        ['puppet_mask.mat: part_mask is uint8 [64, 48, 5], expected numbers [48, 64, T]'],
    ),
    'mask of one pixel': (
        lambda r: write_masks(
            r / MASKS, np.eye(48, 64, dtype=np.uint8)[..., None] * (np.arange(48)[:, None, None] == 9).repeat(5, 2)
        ),
        ['puppet_mask.mat: the box of frame 0 is empty'],
    ),
    'mask file cut short': (lambda r: _truncate(r / MASKS), ['puppet_mask.mat: not a readable MATLAB file']),
    'split file empty': (lambda r: _split(r, ' \n'), ['catch_test_split_1.txt: empty']),
    'split file missing': (lambda r: (r / 'sub_splits/golf_test_split_1.txt').unlink(), ['golf_test_split_1.txt: missing']),
    'no split file': (
        lambda r: [file.unlink() for file in (r / 'sub_splits').iterdir()],
        ['sub_splits: no file named <action>_test_split_<fold>.txt'],
    ),
    'no file of this fold': (
        lambda r: [file.unlink() for file in (r / 'sub_splits').glob('*_1.txt')],
        ['sub_splits has no fold 1; it has 2, 3'],
    ),
    'split label': (lambda r: _split(r, 'Ball_catch_0.avi 1\nBall_catch_1.avi 0\n'), ["_1.txt: line 2 is 'Ball_catch_1.avi 0'"]),
    'split line': (lambda r: _split(r, 'Ball_catch_0 1\n'), ["catch_test_split_1.txt: line 1 is 'Ball_catch_0 1'"]),
    'clip in train and test': (
        lambda r: _split(r, 'Ball_catch_0.avi 1\nBall_catch_0.avi 2\n'),
        ['catch_test_split_1.txt: line 2: catch/Ball_catch_0 is both in train and in test'],
    ),
    'clip twice': (
        lambda r: _split(r, 'Ball_catch_0.avi 1\nBall_catch_0.avi 1\n'),
        ['catch_test_split_1.txt: line 2: catch/Ball_catch_0 is listed twice'],
    ),
    'clip unknown': (
        lambda r: _split(r, 'Ball_catch_0.avi 1\nOther.avi 2\n'),
        ['3 files of clips', 'missing', 'catch/Other.avi'],
    ),
    'no test clip': (
        lambda r: [
            _split(r, f'{a}.avi 1\n', f'{n}_test_split_1.txt') for a, n in (('Ball_catch_0', 'catch'), ('Golf_swing_0', 'golf'))
        ],
        ['the files of fold 1 name no test clip'],
    ),
}


@pytest.mark.parametrize('case', BAD_INPUT)
def test_bad_input_is_named_and_leaves_nothing_behind(case, root, tmp_path):
    change, expected = BAD_INPUT[case]
    change(root)
    with pytest.raises(InputError) as caught:
        build_fold(root, tmp_path / 'built')
    message = str(caught.value)
    assert str(root) in message  # the file as the user knows it, never an unpacked copy
    assert '.building-' not in message
    assert '\n' not in message
    position = 0
    for part in expected:
        assert part in message[position:], f'{part!r} not in {message!r}'
        position = message.index(part, position)
    assert not list((tmp_path / 'built').iterdir())


def _swap(folder: pathlib.Path) -> None:
    (folder / '00002.png').rename(folder / '00007.png')


BAD_IMAGES = {
    'one missing': (lambda f: (f / '00003.png').unlink(), ['4 images', 'has 5 frames', '00003.png is missing']),
    'one too many': (
        lambda f: shutil.copy(f / '00001.png', f / '00006.png'),
        ['6 images', 'has 5 frames', '00006.png has no joints'],
    ),
    'misnumbered': (_swap, ['5 images', 'has 5 frames', '00002.png is missing']),
    'cut short': (lambda f: _truncate(f / '00002.png', 0.2), ['00002.png: not a readable image']),
    'empty file': (lambda f: (f / '00002.png').write_bytes(b''), ['00002.png: not a readable image']),
    'other size': (
        lambda f: write_images(f, np.zeros((1, 20, 30, 3), np.uint8)),
        ['00002.png: 64x48 pixels, the first frame has 30x20'],
    ),
}


@pytest.mark.parametrize('case', BAD_IMAGES)
def test_bad_images_are_named(case, tmp_path):
    write_images(tmp_path, fake_jhmdb.frames_of(CLIP))
    change, expected = BAD_IMAGES[case]
    change(tmp_path)
    with pytest.raises(InputError) as caught:
        clips.read_images(tmp_path, 5)
    assert all(part in str(caught.value) for part in (str(tmp_path), *expected)), str(caught.value)


def test_a_bad_file_in_an_archive_is_named_by_archive_and_member(root, tmp_path):
    _truncate(root / VIDEO)
    pack(root / 'ReCompress_Videos', root / 'JHMDB_video.zip')
    with pytest.raises(InputError, match='Ball_catch_0') as caught:
        build_fold(root, tmp_path / 'built')
    assert str(root / 'JHMDB_video.zip' / VIDEO) in str(caught.value)


def test_only_the_clips_asked_for_are_unpacked(root, tmp_path):
    pack(root / 'ReCompress_Videos', root / 'JHMDB_video.zip')
    folder = layout.Layout(root, tmp_path).folder(
        'ReCompress_Videos', lambda inner: layout.clip_of(inner) == Clip('golf', 'Golf_swing_1')
    )
    assert [file.relative_to(folder).as_posix() for file in folder.rglob('*.avi')] == ['golf/Golf_swing_1.avi']


def test_real_clips_build_from_a_small_split(shared_dir, tmp_path):
    real, root = shared_dir / 'data/jhmdb', tmp_path / 'download'
    (root / 'sub_splits').mkdir(parents=True)
    for part in ('ReCompress_Videos', 'joint_positions', 'puppet_mask'):
        (root / part).symlink_to(real / part)
    lines = (real / 'sub_splits/catch_test_split_1.txt').read_text().splitlines()
    chosen = [next(line for line in lines if line.endswith(label)) for label in '12']
    (root / 'sub_splits/catch_test_split_1.txt').write_text('\n'.join(chosen))
    build_fold(root, tmp_path / 'built')
    built = examples(tmp_path / 'built')
    assert sorted(built) == sorted(f'catch/{line.split(".avi")[0]}' for line in chosen)
    for clip, example in built.items():
        pos_img = scipy.io.loadmat(real / f'joint_positions/{clip}/joint_positions.mat')['pos_img']
        mask = scipy.io.loadmat(real / f'puppet_mask/{clip}/puppet_mask.mat')['part_mask']
        assert len(example['frames']) == pos_img.shape[2]
        assert example['image_size'].tolist() == [240, 320]
        np.testing.assert_allclose(example['joints'][-1, 3], pos_img[:, 3, -1] - 1, atol=1e-4)
        rows, columns = np.nonzero(mask[..., 2])
        np.testing.assert_array_equal(example['boxes'][2], [columns.min(), rows.min(), columns.max(), rows.max()])
        *_, last = read_frames(real / f'ReCompress_Videos/{clip}.avi')
        np.testing.assert_array_equal(decode_image(example['frames'][-1], clip), last.image)


def test_every_real_clip_is_in_one_split_of_each_fold(shared_dir):
    folds = layout.read_folds(shared_dir / 'data/jhmdb/sub_splits')
    assert {fold: (len(splits['train']), len(splits['test'])) for fold, splits in folds.items()} == {
        1: (167, 87),
        2: (175, 79),
        3: (171, 83),
    }
    assert len({clip for splits in folds.values() for names in splits.values() for clip in names}) == 254
