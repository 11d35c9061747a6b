"""The builder of Penn Action: what it stores from every form of the download, what it mends and counts, what it refuses.

The labels of the release are read where they are at hand; frames are always drawn (`fake_penn_action`).
"""

import collections
import pathlib
import tarfile

import fake_penn_action
import numpy as np
import pytest
import scipy.io
from fake_penn_action import LENGTHS, draw_for_labels, fields_of, pack, write_frames, write_label, write_penn_action

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.data_pipelines import build, sides
from kimnet_jax.data_pipelines.builders.penn_action import labels, layout, penn_action_dataset_builder
from kimnet_jax.data_pipelines.builders.penn_action.labels import read_label
from kimnet_jax.data_pipelines.clip_source import open_clips
from kimnet_jax.metrics import torso_length

CLIP = '0001'  # 4 frames of 36x52


def build_all(root: pathlib.Path, data_dir: pathlib.Path, *flags: str) -> None:
    build.main(['build', 'penn_action', '--manual_dir', str(root), '--data_dir', str(data_dir), *flags])


def examples(data_dir: pathlib.Path) -> dict[str, dict]:
    """Clip name -> example, of both splits."""
    sources = [open_clips(data_dir, 'penn_action', 'official', split) for split in ('train', 'test')]
    return {example['clip']: example for source in sources for example in (source[i] for i in range(len(source)))}


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_penn_action(tmp_path / 'download')


def test_frames_keep_their_bytes_and_annotations_become_zero_based(root, tmp_path):
    build_all(root, tmp_path / 'built')
    test = open_clips(tmp_path / 'built', 'penn_action', 'official', 'test')
    assert [test[i]['clip'] for i in range(len(test))] == ['0001', '0004']  # train is -1
    built = examples(tmp_path / 'built')
    assert sorted(built) == sorted(LENGTHS)
    for clip, example in built.items():
        files = sorted((root / 'Penn_Action/frames' / clip).iterdir())
        assert example['frames'] == [file.read_bytes() for file in files]
        assert example['action'] == fake_penn_action.ACTIONS[clip]
        assert example['image_size'].tolist() == [36, 52]
        assert example['visible'].all()
    # frame 2 of the file: head at (11 + 2, 5 + 2), r_ankle 24 further, box (8.5, 3.5, 39, 31) + 2; all minus 1
    np.testing.assert_array_equal(built['0003']['joints'][2, [0, 12]], [[12, 6], [36, 30]])
    np.testing.assert_array_equal(built['0003']['boxes'][2], [9.5, 4.5, 40, 32])


def unpacked_content(root: pathlib.Path) -> None:
    for part in ('frames', 'labels'):
        (root / 'Penn_Action' / part).rename(root / part)


@pytest.mark.parametrize(
    'arrange',
    [pack, lambda root: pack(root, 'Penn_Action.tar', 'some/where/'), unpacked_content],
    ids=['tar.gz', 'tar below other folders', 'content of the folder'],
)
def test_every_form_of_the_download_builds_the_same_and_nothing_stays_unpacked(arrange, root, tmp_path):
    build_all(root, tmp_path / 'folder')
    arrange(root)

    build_all(root, tmp_path / 'other')
    folder, other = examples(tmp_path / 'folder'), examples(tmp_path / 'other')
    assert folder.keys() == other.keys()
    for clip, example in folder.items():
        for key, value in example.items():
            np.testing.assert_array_equal(other[clip][key], value)
    version = tmp_path / 'other/penn_action/official/2.0.0'
    assert not [path for path in version.iterdir() if path.is_dir()]
    assert {path.name for path in (tmp_path / 'other').iterdir()} == {'penn_action'}


def test_frames_of_an_archive_are_removed_once_they_are_read(root, tmp_path):
    source = layout.Layout(root, tmp_path)
    folder, label = (root / 'Penn_Action' / part for part in (f'frames/{CLIP}', f'labels/{CLIP}.mat'))
    penn_action_dataset_builder._read(source, label, folder, used_up=False)
    assert len(list(folder.iterdir())) == 4
    penn_action_dataset_builder._read(source, label, folder, used_up=True)
    assert not folder.exists()


def read(root: pathlib.Path, **changes: object) -> labels.Label:
    write_label(root, CLIP, **changes)
    return read_label(root / f'Penn_Action/labels/{CLIP}.mat')


def test_joints_that_were_never_annotated_lie_at_zero_whatever_the_scale_of_their_clip(tmp_path):
    fields = fields_of(CLIP)
    x, y, visibility = fields['x'].copy(), fields['y'].copy(), fields['visibility'].copy()
    for frame, marker in enumerate((1, 0.75, 0)):
        x[frame, 2] = y[frame, 2] = marker  # the person's left shoulder, of the torso
        visibility[frame, 2] = 0
    x[3, 2], y[3, 2], visibility[3, 2] = 1, 0.75, 0  # no marker: hidden, at the border
    x[0, 1] = y[0, 1] = 1  # visible: a place
    visibility[1, 3] = 0  # hidden
    label = read(tmp_path, x=x, y=y, visibility=visibility)
    np.testing.assert_array_equal(label.joints[:, 2], [[0, 0], [0, 0], [0, 0], [0, -0.25]])
    np.testing.assert_array_equal(label.joints[1, 3], [17, 11])
    assert label.visible.sum() == 4 * 13 - 5
    assert label.mended == {labels.NOT_ANNOTATED: 3}
    length = torso_length(label.joints, label.visible, penn_action_dataset_builder.PENN_ACTION)
    assert np.isnan(length).tolist() == [True, True, True, False]


def test_empty_and_missing_boxes_take_the_nearest_frame_s_and_hold_the_visible_joints(tmp_path):
    fields = fields_of(CLIP)
    visibility = fields['visibility'].copy()
    visibility[1, 1:] = 0  # the head alone, at (12, 6)
    boxes = np.array([[20, 11, 30, 21], [9, 9, 9, 9], [21, 12, 31, 22]])
    x = fields['x'].copy()
    x[3] = 5 + np.arange(13)
    x[3, 12] = 54  # right of the frame: 52 columns
    visibility[3] = 0
    visibility[3, 12] = 1
    label = read(tmp_path, x=x, visibility=visibility, bbox=boxes)
    expected = [
        [19, 10, 29, 20],
        [11, 5, 29, 20],  # frame 0's, with the head at (12, 6) - 1
        [20, 11, 30, 21],
        [20, 11, 53, 31],  # frame 2's, with the ankle at (54, 5 + 3 + 24) - 1
    ]
    np.testing.assert_array_equal(label.boxes, expected)
    assert label.mended == {labels.NO_ROW: 1, labels.EMPTY_BOX: 1, labels.OUTSIDE: 1}
    label = read(tmp_path, visibility=np.zeros((4, 13)), bbox=boxes.repeat([1, 1, 2], 0))
    np.testing.assert_array_equal(label.boxes[1], label.boxes[0])
    assert label.mended == {labels.EMPTY_BOX: 1, labels.NONE_VISIBLE: 4}


def test_what_was_mended_is_said_after_the_build(root, tmp_path, capsys):
    for clip in ('0002', '0003'):
        write_label(root, clip, bbox=fields_of(clip)['bbox'][:-1])
    build_all(root, tmp_path / 'built')
    assert capsys.readouterr().err.splitlines() == [
        f'note: left and right joints of all 4 clips: {penn_action_dataset_builder.SIDES}',
        f'note: 4 clips in {root}, the release has 2326',
        f'note: 2 {labels.NO_ROW}: 0002, 0003',
    ]


NAN_X = np.where(np.eye(4, 13) > 0, np.nan, fields_of(CLIP)['x'])
BAD_LABELS = {
    'no field': ({'bbox': None}, "no field 'bbox'; it has: action, pose, train, nframes, dimensions, x, y, visibility"),
    'action': ({'action': 'bowling'}, "action is 'bowling', known are baseball_pitch, "),
    'pose': ({'pose': 'above'}, "pose is 'above', known are front, back, left, right$"),
    'action a number': ({'action': 3}, r'action is \[\[3\]\], known are'),
    'train': ({'train': 0}, r'train is 0, expected 1 \(train\) or -1 \(test\)'),
    'train missing': ({'train': np.zeros((0, 0))}, r'train is float64 \[0, 0\], expected 1 whole number$'),
    'nframes': ({'nframes': 4.5}, r'nframes is float64 \[1, 1\], expected 1 whole number$'),
    'nframes nan': ({'nframes': np.nan}, 'nframes is float64'),
    'dimensions': (
        {'dimensions': [36, 52, 5]},
        r'dimensions are \[36, 52, 5\], expected \[rows, columns, nframes\], nframes is 4',
    ),
    'two dimensions': ({'dimensions': [36, 52]}, 'dimensions is int64 .*, expected 3 whole numbers'),
    'negative size': ({'dimensions': [-36, 52, 4]}, r'dimensions are \[-36, 52, 4\]'),
    'joints': ({'x': np.ones((4, 12))}, r'x is float64 \[4, 12\], expected numbers \[4, 13\] \(frames, joints\)'),
    'frames': ({'y': np.ones((3, 13))}, r'y is float64 \[3, 13\], expected numbers \[4, 13\]'),
    'visibility': ({'visibility': np.full((4, 13), 2)}, 'visibility has values other than 0 and 1'),
    'not finite': ({'x': NAN_X}, r"x or y of 'head' in frame 1 is not finite \(4 such joints\)"),
    'boxes': ({'bbox': np.ones((5, 4))}, 'bbox has 5 rows, but nframes is 4'),
    'box columns': ({'bbox': np.ones((4, 3))}, r'bbox is float64 \[4, 3\], expected numbers \[T, 4\]'),
    'all boxes empty': ({'bbox': np.ones((4, 4))}, 'bbox has no box that is not empty'),
    'no boxes': ({'bbox': np.zeros((0, 4))}, 'bbox has no box that is not empty'),
    'text': ({'x': 'abc'}, r'x is <U3 \[1\], expected numbers'),
}


@pytest.mark.parametrize('case', BAD_LABELS)
def test_bad_labels_are_named(case, tmp_path):
    changes, message = BAD_LABELS[case]
    with pytest.raises(InputError, match=rf'^{tmp_path}/Penn_Action/labels/0001\.mat: .*{message}'):
        read(tmp_path, **changes)


def truncate(path: pathlib.Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


FRAMES, LABEL = f'Penn_Action/frames/{CLIP}', f'Penn_Action/labels/{CLIP}.mat'
BAD_DOWNLOADS = {
    'frame missing': (
        lambda r: (r / FRAMES / '000003.jpg').unlink(),
        f'{FRAMES}: 3 images, but nframes of 0001.mat has 4 frames; 000003.jpg is missing',
    ),
    'frame too many': (
        lambda r: write_frames(r / FRAMES, (36, 52), 5),
        f'{FRAMES}: 5 images, but nframes of 0001.mat has 4 frames; 000005.jpg has no joints',
    ),
    'frame cut short': (lambda r: truncate(r / FRAMES / '000002.jpg'), f'{FRAMES}/000002.jpg: not a readable image'),
    'frame empty': (lambda r: (r / FRAMES / '000002.jpg').write_bytes(b''), f'{FRAMES}/000002.jpg: not a readable image (0'),
    'frame of another size': (
        lambda r: write_frames(r / FRAMES, (52, 36), 4),
        f'{FRAMES}/000001.jpg: 36x52 pixels, dimensions of its label say 52x36',
    ),
    'label cut short': (lambda r: truncate(r / LABEL), f'{LABEL}: not a readable MATLAB file'),
    'label is text': (lambda r: (r / LABEL).write_text('not found'), f'{LABEL}: not a readable MATLAB file'),
    'label missing': (lambda r: (r / LABEL).unlink(), ': no file labels/0001.mat'),
    'frames missing': (lambda r: [file.unlink() for file in (r / FRAMES).iterdir()], ': no images in frames/0001'),
    'no labels': (lambda r: (r / 'Penn_Action/labels').rename(r / 'else'), ': no labels there; expected Penn_Action.tar.gz, or'),
    'archive cut short': (lambda r: truncate(pack(r)), 'Penn_Action.tar.gz: damaged, or not what its suffix says'),
    'archive is text': (
        lambda r: pack(r).write_text('<html>quota exceeded</html>'),
        'Penn_Action.tar.gz: damaged, or not what its suffix says',
    ),
    'archive of something else': (lambda r: _write_tar(r, 'other/readme.txt'), "Penn_Action.tar.gz: no folder 'labels' in it"),
    'archive that leaves its folder': (
        lambda r: _write_tar(r, 'Penn_Action/labels/../../../../evil.mat'),
        "Penn_Action.tar.gz: 'Penn_Action/labels/../../../../evil.mat' would be written outside of its folder",
    ),
    'a file where a folder is': (
        lambda r: _write_tar(r, 'Penn_Action/labels/a', 'Penn_Action/labels/a/b.mat'),
        'Penn_Action.tar.gz: a name in it is both a file and a folder',
    ),
}


def _write_tar(root: pathlib.Path, *names: str) -> None:
    (root / 'Penn_Action').rename(root / 'other')
    with tarfile.open(root / 'Penn_Action.tar.gz', 'w:gz') as out:
        link = tarfile.TarInfo('Penn_Action/labels/link.mat')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        out.addfile(link)
        for name in names:
            out.addfile(tarfile.TarInfo(name))


@pytest.mark.parametrize('case', BAD_DOWNLOADS)
def test_a_bad_download_is_named_and_leaves_nothing_behind(case, root, tmp_path):
    change, message = BAD_DOWNLOADS[case]
    change(root)
    with pytest.raises(InputError) as caught:
        build_all(root, tmp_path / 'built')
    assert str(caught.value).startswith(str(root))
    assert message in str(caught.value)
    assert '.building-' not in str(caught.value)
    assert '\n' not in str(caught.value)
    assert not list((tmp_path / 'built').iterdir())
    assert not list(tmp_path.rglob('evil.mat'))


def test_a_bad_frame_of_an_archive_is_named_by_archive_and_member(root, tmp_path):
    truncate(root / FRAMES / '000002.jpg')
    archive = pack(root)
    with pytest.raises(InputError, match=rf'^{archive}/frames/0001/000002\.jpg: not a readable image'):
        build_all(root, tmp_path / 'built')


def test_all_real_labels_are_read_and_counted(shared_dir):
    counts, mended, clips_of = collections.Counter(), collections.Counter(), collections.defaultdict(list)
    lengths, actions, sides_shown = [], set(), collections.Counter()
    for file in sorted((shared_dir / 'data/penn_action/labels').glob('*.mat')):
        label = read_label(file)
        T = len(label.joints)
        counts.update({'clips': 1, f'{label.split} clips': 1, 'frames': T, 'visible joints': int(label.visible.sum())})
        mended.update(label.mended)
        for what in label.mended:
            clips_of[what].append(file.stem)
        sides_shown.update(sides.count_sides(label.view, label.joints, label.visible, PENN_ACTION))
        lengths.append(T)
        actions.add(label.action)
        assert (label.boxes[:, 2:] > label.boxes[:, :2]).all()
        assert label.boxes.shape == (T, 4)
    assert counts == layout.OFFICIAL
    # of 567 clips from the front and 598 from behind that show both shoulders
    assert sides_shown == {sides.NAMED: 541 + 454, sides.EXCHANGED: 26 + 144}
    assert actions == set(labels.ACTIONS)
    assert len(actions) == 15
    assert (min(lengths), max(lengths)) == (18, 663)
    assert mended == {
        labels.NOT_ANNOTATED: 169_781,
        labels.NO_ROW: 2,
        labels.EMPTY_BOX: 185,
        labels.OUTSIDE: 1_007,
        labels.NONE_VISIBLE: 177,
    }
    assert clips_of[labels.NO_ROW] == ['1154', '1865']
    assert clips_of[labels.EMPTY_BOX] == ['0038', '0374', '0525', '0541', '0600', '0623', '0645', '0700', '1825', '2173']
    assert clips_of[labels.OUTSIDE] == ['0979', '1021', '1024', '1032']
    assert len(clips_of[labels.NOT_ANNOTATED]) == 682


def test_real_labels_build_with_drawn_frames(shared_dir, tmp_path):
    real = shared_dir / 'data/penn_action/labels'
    chosen = [*('0525', '0541', '0600', '0979', '1032', '1114', '1117', '1154', '1269', '1865', '1925', '1959'), '2317', '2318']
    root = draw_for_labels(real, tmp_path / 'download', chosen)
    build_all(root, tmp_path / 'built')
    built = examples(tmp_path / 'built')
    assert sorted(built) == chosen
    for clip, example in built.items():
        fields = scipy.io.loadmat(real / f'{clip}.mat')
        assert len(example['frames']) == len(example['joints']) == len(example['boxes']) == fields['nframes'].item()
        assert [*example['image_size'], len(example['frames'])] == fields['dimensions'].ravel().tolist()
        visible = fields['visibility'] == 1
        np.testing.assert_array_equal(example['visible'], visible)
        np.testing.assert_allclose(example['joints'][visible][:, 0], fields['x'][visible] - 1.0, atol=1e-4)
        assert (example['joints'][~visible & (fields['x'] == fields['y']) & (fields['x'] <= 1)] == 0).all()
    np.testing.assert_array_equal(built['1154']['boxes'][-1], built['1154']['boxes'][-2])
