"""One's own data, as annotation tools export it, becomes clips; what is wrong with it is told in one line."""

import copy
import json
import pathlib

import cv2
import fake_own_data
import numpy as np
import pytest
from fake_own_data import JOINTS, LENGTHS, SIZE, labels, person, picture, pose, write_image, write_json, write_own_data

from kimnet_jax.configs import own_data
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.core.skeleton import COCO, get_skeleton, make_skeleton
from kimnet_jax.data_pipelines import build, compact, doctor
from kimnet_jax.data_pipelines.clip_source import ClipSource, open_clips
from kimnet_jax.data_pipelines.pose_files import open_pose_file, read_predictions, write_predictions
from kimnet_jax.data_pipelines.poses import Estimates
from kimnet_jax.inference.video_writer import VideoWriter
from kimnet_jax.tasks import heatmaps


@pytest.fixture
def root(tmp_path) -> pathlib.Path:
    return write_own_data(tmp_path / 'own')


@pytest.fixture
def build_own(tmp_path, capsys):
    """Builds a folder, checks that the doctor finds it sound, and returns its splits and the notes."""

    def run(root: pathlib.Path, *flags: str) -> tuple[dict[str, ClipSource], str]:
        data_dir = tmp_path / 'built'
        build.main(['build', 'coco_keypoints/own', '--manual_dir', str(root), '--data_dir', str(data_dir), *flags])
        notes = capsys.readouterr().err
        assert doctor.main(['doctor', 'coco_keypoints', str(root), '--pixels']) == 0
        folder = data_dir / 'coco_keypoints/own/2.0.0'
        names = json.loads((folder / 'metadata.json').read_text())['clips']
        return {split: open_clips(data_dir, 'coco_keypoints', 'own', split) for split in names}, notes

    return run


def by_name(splits: dict[str, ClipSource]) -> dict:
    return {source.names[i]: source[i] for source in splits.values() for i in range(len(source))}


def settings(root: pathlib.Path, text: str) -> pathlib.Path:
    (root / 'dataset.toml').write_text(text)
    return root


def test_every_frame_has_its_picture_its_joints_and_its_box(root, build_own):
    splits, notes = build_own(root)
    clips = by_name(splits)
    assert {name: len(clip['frames']) for name, clip in clips.items()} == LENGTHS
    assert {split: len(source) for split, source in splits.items()} == {'train': 4, 'test': 1}
    first = 1 + list(LENGTHS).index('park') and sum(list(LENGTHS.values())[:2]) + 1
    for number, frame in enumerate(clips['park']['frames']):
        assert frame == (root / f'images/park/{number:06d}.jpg').read_bytes()
        assert np.abs(decode_image(frame, '').astype(int) - picture(first + number)).mean() < 5
        np.testing.assert_allclose(clips['park']['joints'][number], pose(number)[:, :2])
        x0, y0, x1, y1 = clips['park']['boxes'][number]
        assert [x0, y0, x1, y1] == [28 + number, 6 + number, 52 + number, 42.5 + number]
    assert clips['park']['visible'].all()  # a joint that is hidden is annotated
    assert tuple(clips['park']['image_size']) == SIZE
    assert 'note: The images of a folder are a clip\n' in notes
    assert 'note: Splits by share of videos or images: train 80%, test 20%, by a checksum of its name;' in notes


def test_the_skeleton_is_that_of_the_file_and_travels_with_the_data(root, build_own):
    skeleton = build_own(root)[0]['train'].skeleton
    assert [*skeleton.joints] == JOINTS
    assert skeleton.limbs == ((0, 1), (0, 2), (1, 3), (2, 4))
    assert skeleton.flip_pairs == ((1, 2), (3, 4))
    assert skeleton.torso == (1, 4)
    assert skeleton.name == 'own'


def test_joints_of_a_known_skeleton_are_that_skeleton(root, build_own):
    data = labels({'gym': 2, 'hall': 2})
    data['categories'][0].update(keypoints=[*COCO.joints], skeleton=[])
    for one in data['annotations']:
        one['keypoints'] = [*one['keypoints'], *[0] * 36]
    splits, _ = build_own(write_json(root, data))
    assert splits['train'].skeleton == COCO
    example = splits['train'][0]
    assert example['visible'].sum(-1).tolist() == [5, 5]
    assert (example['joints'][:, 5:] == 0).all()


def test_a_toml_completes_the_skeleton(root, build_own):
    (root / 'skeleton.toml').write_text(
        'torso = ["nose", "left_hip"]\nsigmas = [0.1, 0.2, 0.2, 0.3, 0.3]\nflip_pairs = [["left_hip", "right_hip"]]\n'
        'limbs = [["nose", "left_hip"]]\n[groups]\nHead = ["nose"]\n'
    )
    skeleton = build_own(root)[0]['train'].skeleton
    assert (skeleton.torso, skeleton.flip_pairs, skeleton.limbs) == ((0, 3), ((3, 4),), ((0, 3),))
    assert (skeleton.groups, skeleton.sigmas) == ((('Head', (0,)),), (0.1, 0.2, 0.2, 0.3, 0.3))


def test_what_is_left_out_is_counted(root, build_own):
    data = labels()
    crowd, empty, zero, mask, other, flat, none = (copy.deepcopy(data['annotations'][0]) for _ in range(7))
    crowd.update(id=101, iscrowd=1)
    empty.update(id=102, keypoints=[0] * 15, num_keypoints=0)
    zero.update(id=103, keypoints=[5, 5, 0] * 5, num_keypoints=3)
    mask.update(id=104, segmentation={'size': [60, 80], 'counts': [0, 4800]}, image_id=2)
    other.update(id=105, category_id=7)
    flat.update(id=106, keypoints=[9, 9, 2] + [0] * 12, bbox=[])
    none.update(id=107, keypoints=[])
    data['annotations'] = [one for one in data['annotations'] if one['image_id'] != 2]
    data['annotations'] += [crowd, empty, zero, mask, other, flat, none]
    data['annotations'][0]['bbox'] = [0, 0, 0, 0]
    data['categories'].append({'id': 7, 'name': 'dog'})
    splits, notes = build_own(write_json(root, data))
    assert {name: len(clip['frames']) for name, clip in by_name(splits).items()} == LENGTHS
    for told in (
        '1 annotations of crowds are left out: labels.json',
        '2 persons have no annotated joint and are left out: labels.json',
        '1 RLE masks are ignored; only keypoints and boxes are read: labels.json',
        '1 annotations of other categories are left out: labels.json',
        '1 persons have no box and no two annotated joints apart, and are left out: labels.json',
        '1 annotations have no keypoints and are left out: labels.json',
        '1 persons have an empty box and get one around their joints: labels.json',
    ):
        assert f'note: {told}\n' in notes
    # the extent of the joints, 30..50 x 8..40.5, widened by a twentieth of the longer side
    np.testing.assert_allclose(by_name(splits)['gym']['boxes'][0], [28.375, 6.375, 51.625, 42.125])


def test_tracks_of_several_persons_are_clips_and_a_gap_ends_one(root, build_own):
    data = labels({'gym': 6, 'hall': 2, 'park': 2})
    data['annotations'] = [one | {'track_id': 3} for one in data['annotations']]
    data['annotations'] += [person(50 + i, i, 1, attributes={'track_id': 'ann'}) for i in (1, 2, 4, 5, 6)]
    for image in data['images']:
        write_image(root / 'images' / image['file_name'], picture(image['id']))
    splits, notes = build_own(write_json(root, data))
    lengths = {name: len(clip['frames']) for name, clip in by_name(splits).items()}
    assert lengths == {'gym/3': 6, 'gym/ann': 2, 'gym/ann/from3': 3, 'hall/3': 2, 'park/3': 2}
    assert 'note: 1 tracks have gaps and become several clips: gym\n' in notes
    assert sum(len({name.partition('/')[0] for name in source.names} & {'gym'}) for source in splits.values()) == 1


def test_frames_that_are_labelled_at_a_regular_distance_are_one_clip(root, build_own):
    data = labels({'gym': 3, 'hall': 2})
    for image in data['images']:
        folder, number = image['file_name'].removesuffix('.jpg').split('/')
        image['file_name'] = f'{folder}/{5 * int(number):06d}.jpg'
        write_image(root / 'images' / image['file_name'], picture(image['id']))
    data['images'].append({'id': 99, 'file_name': 'gym/000003.jpg'})  # not labelled, and not even there
    splits, _ = build_own(write_json(root, data))
    assert {name: len(clip['frames']) for name, clip in by_name(splits).items()} == {'gym': 3, 'hall': 2}


def test_several_persons_without_tracks_are_single_frames(root, build_own):
    data = labels({'gym': 2, 'hall': 2})
    data['annotations'].append(person(50, 1, 3))
    splits, notes = build_own(write_json(root, data))
    lengths = {name: len(clip['frames']) for name, clip in by_name(splits).items()}
    assert lengths == {'gym/0/person0': 1, 'gym/0/person1': 1, 'gym/1': 1, 'hall': 2}
    assert 'videos show several persons without track_id' in notes


def test_single_images_are_single_frames_in_any_folders_and_formats(tmp_path, build_own):
    root, data = tmp_path / 'own', labels({'gym': 3})
    for image, name in zip(data['images'], ['day/cat.jpg', 'dog.bmp', 'sun set.png'], strict=True):
        image['file_name'] = name
    write_image(root / 'photos/2024/day/cat.jpg', picture(1))
    write_image(root / 'photos/dog.bmp', picture(2))
    write_image(root / 'sun set.png', picture(3))
    splits, notes = build_own(write_json(root, data, 'result.json'))
    clips = by_name(splits)
    assert set(clips) == {'day/cat', 'dog', 'sun set'}
    assert clips['dog']['frames'][0].startswith(b'\x89PNG')  # TFDS and TensorFlow read no BMP of ours
    np.testing.assert_array_equal(decode_image(clips['dog']['frames'][0], ''), picture(2))
    assert 'note: Every image is a clip of its own\n' in notes


@pytest.mark.parametrize('way', ['videos', 'folder', 'the only one'])
def test_frames_of_video_files(way, tmp_path, build_own):
    root, data = tmp_path / 'own', labels({'gym': 4, 'hall': 3} if way != 'the only one' else {'gym': 4})
    (root / 'videos').mkdir(parents=True)
    pictures = {}
    for video in ('gym', 'hall') if way != 'the only one' else ('gym',):
        pictures[video] = [picture(40 * i + len(video)) for i in range(6)]
        with (root / f'videos/{video}.mp4').open('wb') as file:
            writer = VideoWriter(file, 25.0)
            for i, frame in enumerate(pictures[video]):
                writer.write(frame, i / 25)
            writer.finish()
    if way == 'videos':
        data['videos'] = [{'id': 5, 'name': 'gym.mp4'}, {'id': 6, 'name': 'hall'}]
    for image in data['images']:
        folder, number = image['file_name'].removesuffix('.jpg').split('/')
        if way == 'videos':
            image.update(file_name=f'{image["id"]}.png', video_id=5 if folder == 'gym' else 6, frame_id=int(number) + 2)
        elif way == 'folder':
            image['file_name'] = f'{folder}/{int(number) + 2:06d}.png'
        else:
            image['file_name'] = f'frame_{int(number) + 2:06d}.PNG'
    if way == 'the only one':
        settings(root, 'splits.train = 1.0')
    splits, notes = build_own(write_json(root, data))
    rule = {'videos': 'same video_id', 'folder': 'of a folder', 'the only one': 'differ by their number alone'}[way]
    assert rule in notes
    clips = by_name(splits)
    for name, video in {'frame': 'gym'}.items() if way == 'the only one' else {'gym': 'gym', 'hall': 'hall'}.items():
        for i, frame in enumerate(clips[name]['frames']):
            assert np.abs(decode_image(frame, '').astype(int) - pictures[video][i + 2]).mean() < 12


def test_own_splits_by_list_and_rest(root, build_own):
    settings(root, '[splits]\ntest = ["g*", "hall/000001.jpg"]\ntrain = "rest"\n')
    splits, notes = build_own(root)
    assert {split: sorted(source.names) for split, source in splits.items()} == {
        'test': ['gym', 'hall'],
        'train': ['park', 'pool', 'yard'],
    }
    assert 'note: Splits as dataset.toml lists them\n' in notes


def test_own_splits_by_files_of_names_leave_the_others_out(root, build_own):
    (root / 'a.txt').write_text('gym\n\npark\n')
    settings(root, '[splits]\ntrain = "a.txt"\ntest = ["yard"]\n')
    splits, notes = build_own(root)
    assert {split: source.names for split, source in splits.items()} == {'train': ['gym', 'park'], 'test': ['yard']}
    assert 'note: 2 videos or images are in no split and are left out: hall, pool\n' in notes


def test_files_named_after_splits_are_the_splits(root, build_own):
    (root / 'annotations/labels.json').unlink()
    write_json(root, labels({'gym': 4, 'park': 5}), 'annotations/person_keypoints_train.json')
    write_json(root, labels({'hall': 3}), 'annotations/person_keypoints_val.json')
    splits, notes = build_own(root)
    assert {split: source.names for split, source in splits.items()} == {'train': ['gym', 'park'], 'valid': ['hall']}
    assert 'note: Splits by annotation file: train, valid\n' in notes


def test_frames_of_one_video_in_two_splits_are_a_leak_that_is_kept_in_mind(tmp_path, build_own):
    root = tmp_path / 'own'  # as Roboflow exports it
    for split, numbers in {'train': (1, 2, 4), 'valid': (3,)}.items():
        data = labels({'gym': len(numbers)})
        for image, number in zip(data['images'], numbers, strict=True):
            image['file_name'] = f'gym_mp4-{number:04d}_jpg.rf.{number:032x}.jpg'
            write_image(root / split / image['file_name'], picture(number))
        write_json(root, data, f'{split}/_annotations.coco.json')
    splits, notes = build_own(root)
    assert {split: source.names for split, source in splits.items()} == {
        'train': ['train/gym_mp4', 'train/gym_mp4/from4'],
        'valid': ['valid/gym_mp4'],
    }
    assert splits['valid'].leak == 'frames of the same video are in two splits: gym_mp4'
    assert 'note: No result on unseen clips: frames of the same video are in two splits: gym_mp4\n' in notes
    again, _ = build_own(root, '--update_metadata_only')
    assert (again['valid'].leak, again['valid'].skeleton) == (splits['valid'].leak, splits['valid'].skeleton)


def test_poses_that_predict_wrote_can_be_corrected_and_trained_on(tmp_path, build_own):
    """Its COCO file names frames `<video>/000000.png`, with the tracks of persons."""
    root, data = tmp_path / 'own', labels({'gym': 3, 'hall': 3})
    for image in data['images']:
        image['file_name'] = image['file_name'].replace('.jpg', '.png')
        write_image(root / 'frames' / image['file_name'], picture(image['id']))
    for one in data['annotations']:
        one.update(track_id=1, score=0.9)
    splits, _ = build_own(write_json(root, data, 'gym.coco.json'))
    assert set(by_name(splits)) == {'gym/1', 'hall/1'}


def write_yolo(root: pathlib.Path, description: str = '', order: str = '[0, 2, 1, 4, 3]') -> pathlib.Path:
    """Splits `train` and `val`, one image each that shows a person, and one without a file of labels."""
    for split, number in {'train': 1, 'val': 2}.items():
        write_image(root / f'images/{split}/{split}.png', picture(number))
        points = pose(number)
        points[:, :2] = (points[:, :2] + 0.5) / [SIZE[1], SIZE[0]]
        points[4] = 0
        box = [0.5, 0.5, 0.25, 0.5]
        (root / f'labels/{split}').mkdir(parents=True)
        (root / f'labels/{split}/{split}.txt').write_text(' '.join(map(str, [0, *box, *points.ravel()])) + '\n')
    write_image(root / 'images/train/empty.png', picture(3))
    (root / 'data.yaml').write_text(
        f'path: ../datasets/own\ntrain: images/train\nval: ../own/images/val\nkpt_shape: [5, 3]\nflip_idx: {order}\n'
        f'names: {{0: person}}\n{description}'
    )
    return root


def test_yolo_pose(tmp_path, build_own):
    root = write_yolo(tmp_path / 'own', f'kpt_names: {{0: {JOINTS}}}\n')
    splits, _ = build_own(root)
    assert {split: source.names for split, source in splits.items()} == {
        'train': ['images/train/train'],
        'valid': ['images/val/val'],
    }
    example = splits['valid'][0]
    np.testing.assert_allclose(example['joints'][0, :4], pose(2)[:4, :2], atol=1e-4)
    assert example['visible'][0].tolist() == [True] * 4 + [False]
    np.testing.assert_allclose(example['boxes'][0], [29.5, 14.5, 49.5, 44.5])
    assert splits['train'].skeleton.flip_pairs == ((1, 2), (3, 4))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('data.yaml', 'kpt_shape: 5'), 'data.yaml: kpt_shape is 5, expected [joints, 2 or 3]'),
        (('data.yaml', 'a: [b'), 'data.yaml: not valid YAML'),
        (('data.yaml', 'kpt_shape: [5, 3]\ntrain: images/train'), 'YOLO does not name the joints; list them in skeleton.toml'),
        (('data.yaml', f'kpt_shape: [5, 3]\nkpt_names: {JOINTS}\ntrain: nowhere'), 'data.yaml: train: no folder nowhere there'),
        (('labels/train/train.txt', '0 0.5 0.5 0.2 0.2'), 'train.txt: line 1: 5 numbers, expected 20'),
        (('labels/train/train.txt', 'a b'), 'train.txt: line 1: could not convert'),
        (('labels/train/train.txt', ' '.join(['0', 'nan', *['0.5'] * 18])), 'train.txt: line 1: a number is not finite'),
    ],
)
def test_a_fault_of_yolo_is_one_line(change, message, tmp_path):
    root = write_yolo(tmp_path / 'own', f'kpt_names: {{0: {JOINTS}}}\n')
    (root / change[0]).write_text(change[1])
    with pytest.raises(InputError) as caught:
        build.main(['build', 'coco_keypoints', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_a_flip_order_of_yolo_that_is_none_is_told(tmp_path):
    root = write_yolo(tmp_path / 'own', f'kpt_names: {{0: {JOINTS}}}\n', order='[1, 2, 0, 3, 4]')
    with pytest.raises(InputError, match='flip_idx: a joint is not swapped with the one that is swapped with it'):
        build.main(['build', 'coco_keypoints', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])


def write_deeplabcut(root: pathlib.Path, *, columns: int = 3, individuals: tuple[str, ...] = ()) -> pathlib.Path:
    """A project with two videos of three frames; the last joint of the first frame is not labelled."""
    for video in ('gym', 'hall'):
        labels = [(person, joint, axis) for person in individuals or ('',) for joint in JOINTS for axis in 'xy']
        rows = [['scorer', *[''] * (columns - 1), *['ann'] * len(labels)]]
        rows += [['individuals', *[''] * (columns - 1), *(person for person, *_ in labels)]] if individuals else []
        rows += [[level, *[''] * (columns - 1), *(one[i] for one in labels)] for i, level in ((1, 'bodyparts'), (2, 'coords'))]
        for number in range(3):
            write_image(root / f'labeled-data/{video}/img{number:04d}.png', picture(number))
            cells = [*pose(number)[:, :2].ravel()] * max(len(individuals), 1)
            cells[-2:] = ['', ''] if number == 0 else cells[-2:]
            path = ['labeled-data', video, f'img{number:04d}.png']
            rows.append([*(path if columns == 3 else ['/'.join(path)]), *cells])
        text = '\n'.join(','.join(map(str, row)) for row in rows)
        (root / f'labeled-data/{video}/CollectedData_ann.csv').write_text(text + '\n')
    return root


@pytest.mark.parametrize('columns', [1, 3])
def test_labels_of_deeplabcut(columns, tmp_path, build_own):
    splits, _ = build_own(write_deeplabcut(tmp_path / 'own', columns=columns))
    clips = by_name(splits)
    assert {name: len(clip['frames']) for name, clip in clips.items()} == {'labeled-data/gym': 3, 'labeled-data/hall': 3}
    np.testing.assert_allclose(clips['labeled-data/gym']['joints'][2], pose(2)[:, :2])
    assert clips['labeled-data/gym']['visible'][0].tolist() == [True] * 4 + [False]
    np.testing.assert_allclose(clips['labeled-data/gym']['boxes'][2], [30.375, 8.375, 53.625, 44.125])
    assert [*splits['train'].skeleton.joints] == JOINTS


def test_several_animals_of_deeplabcut_are_tracks(tmp_path, build_own):
    splits, _ = build_own(write_deeplabcut(tmp_path / 'own', individuals=('a', 'b')))
    assert set(by_name(splits)) == {f'labeled-data/{video}/{animal}' for video in ('gym', 'hall') for animal in 'ab'}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: text.replace('bodyparts', 'parts'), 'not a table of DeepLabCut'),
        (lambda text: text.replace('labeled-data,gym,img0001.png', '..,gym,img0001.png'), 'row 5: '),
        (lambda text: text.replace('img0001', 'img0000'), "row 5: 'labeled-data/gym/img0000.png' is there twice"),
        (lambda text: text.replace('41.0', 'x'), 'row 5: could not convert string to float'),
        (lambda text: text.replace('41.0', 'inf'), 'row 5: a joint or the box is not finite'),
        (lambda text: text + 'labeled-data,gym,a.png,1\n', 'row 7: 4 cells, the header has 13'),
        (lambda text: text.replace('coords,,,x,y', 'coords,,,x,x'), "nose has two columns 'x'"),
        (lambda text: text.replace('coords,,,x,y', 'coords,,,x,z'), "nose has no column 'y'"),
    ],
)
def test_a_fault_of_deeplabcut_is_one_line(change, message, tmp_path):
    root = write_deeplabcut(tmp_path / 'own')
    file = root / 'labeled-data/gym/CollectedData_ann.csv'
    file.write_text(change(file.read_text()))
    with pytest.raises(InputError) as caught:
        build.main(['build', 'coco_keypoints', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])
    assert str(caught.value).startswith(f'{file}: ')
    assert message in str(caught.value)


def test_hdf5_alone_of_deeplabcut_is_told(tmp_path):
    root = write_deeplabcut(tmp_path / 'own')
    (root / 'labeled-data/gym/CollectedData_ann.csv').rename(root / 'labeled-data/gym/CollectedData_ann.h5')
    with pytest.raises(
        InputError, match=r'CollectedData_ann.h5: its labels are read from CollectedData_ann.csv, which is not there'
    ):
        build.main(['build', 'coco_keypoints', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])


def test_several_data_sets_lie_in_one_folder_by_their_names(root, tmp_path, capsys):
    where = ['--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')]
    build.main(['build', 'coco_keypoints', *where])
    build.main(['build', 'coco_keypoints/other', *where])
    assert capsys.readouterr().out.startswith('coco_keypoints/own: train 4 clips, test 1 clips')
    assert open_clips(tmp_path / 'built', 'coco_keypoints', 'other', 'train').skeleton.name == 'other'
    for name in ('clips', 'a b', '.', '..'):
        with pytest.raises(InputError, match=f'coco_keypoints/{name}: call your data set by letters'):
            build.main(['build', f'coco_keypoints/{name}', *where])


def test_a_compact_copy_keeps_the_skeleton_and_the_leak(root, tmp_path):
    build.main(['build', 'coco_keypoints/mine', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])
    folder = tmp_path / 'built/coco_keypoints/mine/2.0.0'
    compact.compact(folder, tmp_path / 'small', compact.Settings(max_mb=1.0, pixels=64, reach=2.0))
    copied = open_clips(tmp_path / 'small', 'coco_keypoints', 'mine', 'train')
    assert copied.skeleton == open_clips(tmp_path / 'built', 'coco_keypoints', 'mine', 'train').skeleton
    assert copied.skeleton != get_skeleton('points5')


def test_the_doctor_lists_every_problem_and_the_build_the_first(root, tmp_path, capsys):
    data = labels()
    data['annotations'][0]['keypoints'][2] = 5
    data['annotations'][1]['keypoints'].pop()
    write_json(root, data)
    (root / 'images/park/000002.jpg').unlink()
    (root / 'images/hall/000001.jpg').write_bytes((root / 'images/hall/000001.jpg').read_bytes()[:300])
    cv2.imwrite(str(root / 'images/pool/000001.jpg'), picture(3, (40, 50)))
    assert doctor.main(['doctor', 'coco_keypoints', str(root), '--pixels']) == 1
    out = capsys.readouterr().out
    file = root / 'annotations/labels.json'
    for told in (
        f'error    {file}: annotations[0]: keypoints: a visibility is none of 0, 1 and 2\n',
        f'error    {file}: annotations[1]: keypoints: 14 entries, expected 15 numbers\n',
        f"error    {file}: 'park/000002.jpg': no such image below {root}\n",
        f'error    {root / "images/hall/000001.jpg"}: not a readable image',
        f'error    {root / "images/pool/000001.jpg"}: 50x40 pixels, labels.json says 80x60\n',
    ):
        assert told in out
    with pytest.raises(InputError) as caught:
        build.main(['build', 'coco_keypoints', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])
    first = 'annotations[0]: keypoints: a visibility is none of 0, 1 and 2; and 2 more, which `kimnet doctor` lists'
    assert str(caught.value) == f'{file}: {first}'
    assert not list((tmp_path / 'built').iterdir())


FAULTS = {
    'no list': (lambda data: data.pop('images'), "no list 'images' in it"),
    'no object': (lambda data: data.update(images=[3]), "'images' is no list of objects"),
    'no keypoints': (lambda data: data['categories'][0].pop('keypoints'), "no category has 'keypoints'"),
    'two categories': (
        lambda data: data['categories'].append(data['categories'][0] | {'id': 2, 'name': 'coach'}),
        "several categories have keypoints, person, coach; set category = '...' in dataset.toml",
    ),
    'category twice': (lambda data: data['categories'].append({'id': 1, 'name': 'x'}), 'categories: the id 1 is there twice'),
    'a limb beyond': (lambda data: data['categories'][0].update(skeleton=[[1, 9]]), 'limbs: the skeleton of the category has'),
    'joints': (
        lambda data: data['categories'][0].update(keypoints=['a', 'a'], skeleton=[]),
        'skeleton: joints: a more than once',
    ),
    'image twice': (lambda data: data['images'][1].update(id=1), 'images[1]: the id 1 is there twice'),
    'file twice': (
        lambda data: data['images'][1].update(file_name=data['images'][0]['file_name']),
        "images[1]: 'gym/000000.jpg' is there twice",
    ),
    'outside': (lambda data: data['images'][0].update(file_name='../x.jpg'), "'../x.jpg' does not lie in the folder of the data"),
    'absolute': (lambda data: data['images'][0].update(file_name='/etc/x'), "'/etc/x' does not lie in the folder of the data"),
    'drive': (lambda data: data['images'][0].update(file_name='C:\\x.jpg'), 'does not lie in the folder of the data'),
    'no name': (lambda data: data['images'][0].pop('file_name'), 'images[0]: the name of an image is None, expected a text'),
    'size': (lambda data: data['images'][0].update(width=-4), 'height and width are 60 and -4, expected whole numbers'),
    'unknown image': (lambda data: data['annotations'][0].update(image_id=99), 'annotations[0]: no image has the id 99'),
    'unknown video': (lambda data: data.update(videos=[]) or data['images'][0].update(video_id=[2]), 'video_id is [2], expected'),
    'annotation twice': (lambda data: data['annotations'][1].update(id=1), 'annotations[1]: the id 1 is there twice'),
    'no number': (lambda data: data['annotations'][0]['keypoints'].__setitem__(0, None), 'keypoints: 15 entries, expected'),
    'negative': (lambda data: data['annotations'][0].update(bbox=[1, 1, -3, 4]), 'annotations[0]: bbox has the size -3 x 4'),
    'far': (
        lambda data: data['annotations'][0]['keypoints'].__setitem__(0, 1e300),
        'a joint or the box is not finite or lies far',
    ),
    'track': (lambda data: data['annotations'][0].update(track_id=[1]), 'track_id is [1], expected a whole number or a text'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_of_the_annotations_is_one_line_that_names_the_file(fault, root, tmp_path):
    change, message = FAULTS[fault]
    data = labels()
    change(data)
    write_json(root, data)
    with pytest.raises(InputError) as caught:
        build.main(['build', 'coco_keypoints', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])
    assert str(caught.value).startswith(f'{root / "annotations/labels.json"}: ')
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)
    assert not list((tmp_path / 'built').iterdir())


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('clips = "tracks"', "clips is 'tracks'; choose one of auto, video_id, folder, number, none"),
        ('clip = "none"', "'clip' is no field; known: clips, category, pixel_centre"),
        ('clips = ', 'not valid TOML'),
        ('pixel_centre = 0.25', 'pixel_centre is 0.25, expected 0.0 or 0.5'),
        ('first_frame = true', 'first_frame is True, expected 0 or 1'),
        ('category = "dog"', "no category 'dog' with keypoints; it has person"),
        ('splits = 3', 'splits: expected a table'),
        ('splits.train = 1.5', 'splits.train is 1.5: a share must be above 0, and 1 at most'),
        ('splits = {train = 0.9, test = 0.2}', 'the shares add up to 1.1, more than 1'),
        ('splits = {train = 0.9, test = ["gym"]}', 'some are shares and others are not'),
        ('splits = {"a b" = 0.9}', "'a b' is no name of a split"),
        ('splits = {train = "rest", test = ["zoo"]}', "splits.test: no video or image 'zoo' with persons; there are gym"),
        ('splits = {train = ["gym"], test = ["g*"]}', "splits.test: 'gym' is in 'train', too"),
        ('splits = {train = ["*"], test = "rest"}', 'splits.test: no clip is left for it'),
        ('splits = {train = "../x.txt"}', "splits.train is '../x.txt': expected an annotation file"),
        ('splits = {train = "x.txt"}', 'x.txt: no such file'),
        ('splits = {train = "x.json"}', 'no annotation file x.json with persons; there are labels.json'),
        ('skeleton = {limbs = [["nose", "tail"]]}', "skeleton: limbs: 'tail' is none of the joints"),
        ('skeleton = {colour = 3}', "'colour' is no field of a skeleton; known: joints, flip_pairs"),
        ('skeleton = {joints = ["a"]}', "joints: dataset.toml names other ones than the category 'person'"),
    ],
)
def test_a_fault_of_the_settings_is_one_line(text, message, root, tmp_path):
    with pytest.raises(InputError) as caught:
        build.main(['build', 'coco_keypoints', '--manual_dir', str(settings(root, text)), '--data_dir', str(tmp_path / 'built')])
    assert message in str(caught.value)
    assert '\n' not in str(caught.value)


def test_pixels_that_are_counted_from_the_corner_are_moved_by_half(root, build_own):
    splits, _ = build_own(settings(root, 'pixel_centre = 0.5\nclips = "folder"'))
    np.testing.assert_allclose(by_name(splits)['gym']['joints'][0], pose(0)[:, :2] - 0.5)
    np.testing.assert_allclose(by_name(splits)['gym']['boxes'][0], [27.5, 5.5, 51.5, 42])


def test_too_few_for_two_splits_is_told(tmp_path):
    root = write_json(tmp_path / 'own', labels({'gym': 2}))
    with pytest.raises(InputError, match='1 videos or images with persons are too few for the splits train, test; label more'):
        build.main(['build', 'coco_keypoints', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'built')])


def test_a_folder_without_annotations_says_what_is_expected(tmp_path):
    (tmp_path / 'own').mkdir()
    (tmp_path / 'own/export.zip').touch()
    with pytest.raises(
        InputError, match=r'own: no annotation file there; unpack export.zip first; expected a COCO keypoints JSON'
    ):
        build.main(['build', 'coco_keypoints', '--manual_dir', str(tmp_path / 'own'), '--data_dir', str(tmp_path / 'built')])


def test_the_puppets_are_labelled_as_a_person_would(tmp_path, build_own):
    root = fake_own_data.write_puppets(tmp_path / 'own', clips=2, frames=3)
    splits, _ = build_own(root)
    assert {name: len(clip['frames']) for name, clip in by_name(splits).items()} == {'clip01': 3, 'clip02': 3}
    assert splits['train'].skeleton.joints[:3] == ('head', 'right_shoulder', 'left_shoulder')


def test_predictions_of_an_own_skeleton_are_told_apart_from_those_of_another(tmp_path):
    skeleton, other = make_skeleton('mine', JOINTS), make_skeleton('mine', JOINTS[::-1])
    one = Estimates(
        'a', np.ones((2, 5, 2), np.float32), np.ones((2, 5), np.float32), np.array([[0, 0, 9, 9]] * 2), np.array(SIZE)
    )
    write_predictions(tmp_path / 'poses.npz', [one], skeleton, {})
    assert [found.clip for found in read_predictions(str(tmp_path / 'poses.npz'), skeleton.text)] == ['a']
    assert get_skeleton(open_pose_file(tmp_path / 'poses.npz').skeleton) == skeleton
    with pytest.raises(
        InputError, match=r"poses of 'mine' \(5 joints, .*\), the data has 'jhmdb' \(15 joints, among them neck, "
    ):
        read_predictions(str(tmp_path / 'poses.npz'), 'jhmdb')
    with pytest.raises(InputError, match="poses of 'mine', the data has another 'mine', with the same joints in another order"):
        read_predictions(str(tmp_path / 'poses.npz'), other.text)


def test_a_network_that_is_chosen_by_torso_length_needs_a_torso(root, tmp_path):
    data = labels()
    data['categories'][0]['keypoints'] = ['tip', 'grip', 'left_rail', 'right_rail', 'foot']
    build.main(['build', 'coco_keypoints/tool', '--manual_dir', str(write_json(root, data)), '--data_dir', str(tmp_path)])
    config = own_data.get_config('data=tool,start=none,preset=tiny')
    config.dataset.data_dir = str(tmp_path)
    config.eval.select = 'torso/pck/0.2/mPCK'
    with pytest.raises(
        InputError, match=r"config\.eval\.select='torso/pck/0\.2/mPCK': 'tool' has no torso; choose one by person"
    ):
        heatmaps.train(config.to_dict(), tmp_path / 'run')
