"""PoseTrack18: what its builder stores and refuses, what the doctor finds, and the files for PoseTrack's own evaluation."""

import dataclasses
import functools
import json
import pathlib

import fake_posetrack
import numpy as np
import pytest
from fake_own_data import SIZE
from fake_posetrack import CLIPS, EARS, TRACKS, annotation_file, annotations_of, box, pose, write_annotations, write_posetrack

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import COCO, POSETRACK
from kimnet_jax.data_pipelines import build, doctor, persons
from kimnet_jax.data_pipelines.builders.coco_keypoints import labelled
from kimnet_jax.data_pipelines.builders.posetrack import official
from kimnet_jax.data_pipelines.builders.posetrack.annotations import read_posetrack
from kimnet_jax.data_pipelines.builders.posetrack.layout import Layout
from kimnet_jax.data_pipelines.clip_source import ClipSource, open_clips
from kimnet_jax.data_pipelines.pose_files import write_predictions
from kimnet_jax.data_pipelines.poses import Estimates

TRAIN, VALID = '000001_bonn_train', '000342_mpii_test'


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_posetrack(tmp_path / 'download')


def run(root: pathlib.Path, data_dir: pathlib.Path) -> dict[str, ClipSource]:
    build.main(['build', 'posetrack/posetrack18', '--manual_dir', str(root), '--data_dir', str(data_dir)])
    return {split: open_clips(data_dir, 'posetrack', 'posetrack18', split) for split in CLIPS}


def errors(root: pathlib.Path, pixels: bool = False) -> list[str]:
    return [finding.text for finding in doctor.examine('posetrack', root, pixels).findings if finding.level == 'error']


def test_every_person_in_consecutive_labelled_frames_is_a_clip(root, tmp_path, capsys):
    built = run(root, tmp_path / 'built')
    assert {split: [*clips.names] for split, clips in built.items()} == {split: [*clips] for split, clips in CLIPS.items()}
    for split, clips in built.items():
        assert clips.skeleton is POSETRACK
        for i in range(len(clips)):
            example = clips[i]
            video, track, *_ = example['clip'].split('/')
            numbers = CLIPS[split][example['clip']]
            folder = root / f'images/{fake_posetrack.part_of(video)}/{video}'
            assert example['frames'] == [(folder / f'{number:06d}.jpg').read_bytes() for number in numbers]
            assert example['image_size'].tolist() == list(SIZE)
            expected = np.stack([pose(int(track), number) for number in numbers])
            np.testing.assert_array_equal(example['joints'], expected[..., :2].astype(np.float32))
            np.testing.assert_array_equal(example['visible'], expected[..., 2] > 0)
            assert not example['visible'][:, EARS].any()
            corners = [[x, y, x + w, y + h] for x, y, w, h in (box(int(track), number) for number in numbers)]
            np.testing.assert_array_equal(example['boxes'], np.array(corners, np.float32))
    err = capsys.readouterr().err
    assert 'note: 4 frames have ignore regions, in which nobody is annotated' in err


def test_the_joints_are_those_of_the_files_and_what_reports_need_of_them():
    assert [*POSETRACK.joints] == fake_posetrack.JOINTS
    assert dict(POSETRACK.groups)['Head'] == (2,)
    assert [POSETRACK.joints[i] for i in POSETRACK.torso] == ['left_shoulder', 'right_hip']


def test_persons_without_joints_are_left_out_and_those_without_a_box_get_one(root, tmp_path, capsys):
    data = annotations_of(TRAIN)
    mine = [one for one in data['annotations'] if one['track_id'] == 0]
    mine[1]['keypoints'] = [0] * 51
    mine[3]['bbox'] = []
    write_annotations(root, TRAIN, data)
    clips = run(root, tmp_path / 'built')['train']
    assert f'note: 1 {labelled.NO_JOINTS}: {TRAIN}.json' in capsys.readouterr().err
    assert clips.names[:2] == [f'{TRAIN}/0', f'{TRAIN}/0/from4']
    assert [*clips.lengths[:2]] == [1, 2]
    points = np.delete(pose(0, 5)[:, :2], EARS, 0)
    margin = persons.WIDENING * np.ptp(points, axis=0).max()
    expected = [*points.min(0) - margin, *points.max(0) + margin]
    np.testing.assert_allclose(clips[1]['boxes'][1], expected, rtol=1e-6)


def test_the_folders_may_lie_as_the_archives_of_the_release_have_them(root, tmp_path):
    (root / 'posetrack_data').mkdir()
    (root / 'annotations').rename(root / 'posetrack_data/annotations')
    assert errors(root, pixels=True) == []
    assert len(run(root, tmp_path / 'built')['valid']) == 3


def test_the_doctor_counts_videos_frames_and_ignore_regions(root):
    report = doctor.examine('posetrack', root, True)
    assert [finding for finding in report.findings if finding.level == 'error'] == []
    assert report.counts == {
        'train clips': 4,
        'valid clips': 3,
        'train videos': 2,
        'valid videos': 2,
        'train labelled frames': 7,
        'valid labelled frames': 5,
        'train frames with ignore regions': 4,
        'valid frames with ignore regions': 0,
        'labelled persons': 15,
        'labelled joints': 15 * 15 - 3,
    }
    assert not report.official


def damaged(change, video: str = TRAIN) -> dict:
    data = annotations_of(video)
    change(data)
    return data


FAULTS = {
    'no list of images': (lambda data: data.pop('images'), "no list 'images' in it"),
    'no annotations': (lambda data: data.pop('annotations'), "no list 'annotations' in it"),
    'joints of another data set': (
        lambda data: data.update(categories=[data['categories'][0] | {'keypoints': [*COCO.joints]}]),
        'its joints are nose, left_eye',
    ),
    'no name': (lambda data: data['images'][3].pop('file_name'), r'images\[3\]: the name of an image is None'),
    'a name beyond': (
        lambda data: data['images'][3].update(file_name='images/../../x/1.jpg'),
        r'images\[3\]: .* does not lie in',
    ),
    'another folder': (lambda data: data['images'][3].update(file_name='frames/000003.jpg'), 'does not begin with images/'),
    'no number': (lambda data: data['images'][3].update(file_name='images/train/a/b.jpg'), 'has no number at its end'),
    'a frame twice': (
        lambda data: data['images'][3].update(file_name=f'images/train/{TRAIN}/000002.png'),
        '2 images are frame 2$',
    ),
    'regions that are no lists': (lambda data: data['images'][3].update(ignore_regions_x=[3]), 'expected lists of polygons'),
    'regions of unlike lengths': (
        lambda data: data['images'][3].update(ignore_regions_x=[[1, 2]]),
        r'images\[3\]: ignore_regions_x and ignore_regions_y have not as many points',
    ),
    'no track': (lambda data: data['annotations'][0].pop('track_id'), 'track_id is None, expected a whole number'),
    'a name for a track': (lambda data: data['annotations'][0].update(track_id='a'), "track_id is 'a', expected a whole number"),
    'few numbers': (lambda data: data['annotations'][0]['keypoints'].pop(), r'annotations\[0\]: keypoints: 50 entries'),
    'an unknown image': (lambda data: data['annotations'][0].update(image_id=5), r'annotations\[0\]: no image has the id 5'),
    'a track twice': (
        lambda data: data['annotations'].append(data['annotations'][0] | {'id': 5}),
        f"images/train/{TRAIN}/000002.jpg' has track_id '0' twice",
    ),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_in_an_annotation_file_is_one_line_that_names_it_and_leaves_nothing(fault, root, tmp_path):
    change, message = FAULTS[fault]
    write_annotations(root, TRAIN, damaged(change))
    with pytest.raises(InputError, match=message) as caught:
        run(root, tmp_path / 'built')
    assert str(annotation_file(root, TRAIN)) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not list((tmp_path / 'built').iterdir())
    found = errors(root)
    assert any(str(annotation_file(root, TRAIN)) in text for text in found)


def test_all_files_with_faults_are_listed(root):
    annotation_file(root, TRAIN).write_text('{')
    write_annotations(root, VALID, damaged(lambda data: data['annotations'][0].update(track_id='a'), VALID))
    (root / 'images/train/000002_mpii_train/000001.jpg').unlink()
    found = errors(root)
    assert len(found) == 3
    for text, name in zip(found, (TRAIN, VALID, '000001.jpg: no such image'), strict=True):
        assert name in text


def test_a_damaged_or_missing_image_is_named(root, tmp_path):
    image = root / f'images/val/{VALID}/000005.jpg'
    image.write_bytes(image.read_bytes()[:200])
    assert errors(root) == []
    (found,) = errors(root, pixels=True)
    assert str(image) in found
    with pytest.raises(InputError, match=r'000005\.jpg'):
        run(root, tmp_path / 'built')
    image.unlink()
    with pytest.raises(InputError, match=r'000005\.jpg: no such image'):
        run(root, tmp_path / 'built')


@pytest.mark.parametrize('part', ['images', 'annotations', 'annotations/val'])
def test_a_missing_part_is_said(part, root, tmp_path):
    (root / part).rename(tmp_path / 'away')
    with pytest.raises(InputError, match=r'expected the folders images .* and annotations'):
        run(root, tmp_path / 'built')
    assert len(errors(root)) == 1


def test_a_video_in_both_splits_is_refused(root, tmp_path):
    data = annotations_of(TRAIN)
    for image in data['images']:
        image['file_name'] = image['file_name'].replace('train/', 'val/')
    (root / f'annotations/val/{TRAIN}.json').write_text(json.dumps(data))
    (root / f'images/train/{TRAIN}').rename(root / f'images/val/{TRAIN}')
    with pytest.raises(InputError, match=f"'{TRAIN}' is a video of both train and val"):
        run(root, tmp_path / 'built')


def places_of(value, path=()):
    """The path of everything in a JSON."""
    yield path
    for key in value if isinstance(value, dict) else range(min(len(value), 3)) if isinstance(value, list) else ():
        yield from places_of(value[key], (*path, key))


@pytest.mark.parametrize('value', [None, -1, 1e300, True, 'x', '', [], [[]], {}, [None]])
def test_whatever_stands_in_an_annotation_file_the_doctor_ends_its_report(value, root):
    for path in places_of(annotations_of(TRAIN)):
        data = annotations_of(TRAIN)
        if path:
            functools.reduce(lambda part, key: part[key], path[:-1], data)[path[-1]] = value
        write_annotations(root, TRAIN, data if path else value)
        problems = read_posetrack(Layout(root, root))[0].problems
        assert all(TRAIN in problem and len(problem.splitlines()) == 1 for problem in problems)


def poses_of(clips: ClipSource) -> list[Estimates]:
    """The truth, as a network would give it: with ears, and a score for each joint."""
    found = []
    for i in range(len(clips)):
        example = clips[i]
        joints = np.where(example['visible'][..., None], example['joints'], 7)
        scores = np.linspace(0.1, 0.9, joints.shape[0] * 17).reshape(-1, 17)
        found.append(Estimates(example['clip'], joints, scores, example['boxes'], example['image_size']))
    return found


def write_official(root: pathlib.Path, tmp_path: pathlib.Path, poses: list[Estimates], split: str = 'valid') -> pathlib.Path:
    write_predictions(tmp_path / 'poses.npz', poses, POSETRACK, {'split': split})
    args = [str(tmp_path / 'poses.npz'), '--manual_dir', str(root), '--split', split, '--out', str(tmp_path / 'official')]
    official.main(['posetrack', *args])
    return tmp_path / 'official'


@pytest.mark.parametrize('split', CLIPS)
def test_the_official_files_are_the_annotation_files_with_poses_and_scores(split, root, tmp_path, capsys):
    poses = poses_of(run(root, tmp_path / 'built')[split])
    folder = write_official(root, tmp_path, poses, split)
    assert f'{split}: 2 videos in {folder}' in capsys.readouterr().out
    part = {'train': 'train', 'valid': 'val'}[split]
    assert {file.name for file in folder.iterdir()} == {file.name for file in (root / f'annotations/{part}').iterdir()}
    scores = {one.clip: one.scores for one in poses}
    for file in folder.iterdir():
        data, truth = json.loads(file.read_text()), annotations_of(file.stem)
        assert data['images'] == truth['images']
        assert data['categories'] == truth['categories']
        written = {(one['image_id'], one['track_id']): one for one in data['annotations']}
        expected = {(one['image_id'], one['track_id']): one for one in truth['annotations']}
        assert written.keys() == expected.keys()
        assert len({one['id'] for one in data['annotations']}) == len(written)
        for key, one in written.items():
            points = np.array(one['keypoints']).reshape(17, 3)
            known = np.array(expected[key]['keypoints']).reshape(17, 3)
            annotated = known[:, 2] > 0
            np.testing.assert_allclose(points[annotated], known[annotated], atol=0.006)
            assert not points[EARS].any()
            assert len(one['scores']) == 17
            assert one['bbox'] == expected[key]['bbox']
            assert one['category_id'] == 1
    for clip, numbers in CLIPS[split].items():
        video, track, *_ = clip.split('/')
        data = json.loads((folder / f'{video}.json').read_text())
        ids = [data['images'][number]['id'] for number in numbers]
        mine = {one['image_id']: one['scores'] for one in data['annotations'] if one['track_id'] == int(track)}
        told = np.delete(np.array([mine[key] for key in ids]), EARS, 1)
        np.testing.assert_allclose(told, np.delete(scores[clip], EARS, 1), atol=1e-6)
    assert set(TRACKS) & {file.stem for file in folder.iterdir()}


def test_a_joint_without_a_place_is_written_as_missing(root, tmp_path):
    poses = poses_of(run(root, tmp_path / 'built')['valid'])
    poses[0].joints[0, 7] = np.nan
    data = json.loads((write_official(root, tmp_path, poses) / f'{VALID}.json').read_text())
    assert data['annotations'][0]['keypoints'][21:24] == [0, 0, 0]
    assert data['annotations'][0]['scores'][7] == 0


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda poses: poses[1:], f'no poses of 1 clips of the split: {VALID}/3$'),
        (lambda poses: [*poses, poses[0]], 'a clip is there twice'),
        (lambda poses: [*poses, dataclasses.replace(poses[0], clip='a/1')], 'a/1: no clip of the split$'),
        (lambda poses: [*poses[:2], scaled(poses[2])], 'not the annotated boxes; give poses in the pixels of the release'),
    ],
)
def test_poses_that_are_not_those_of_the_split_are_refused(change, message, root, tmp_path):
    poses = change(poses_of(run(root, tmp_path / 'built')['valid']))
    with pytest.raises(InputError, match=message):
        write_official(root, tmp_path, poses)
    assert not (tmp_path / 'official').exists()


def scaled(one: Estimates) -> Estimates:
    return Estimates(one.clip, one.joints / 2, one.scores, one.boxes / 2, one.image_size)
