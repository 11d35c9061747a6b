"""The procedural clips of `kinetic_puppets`: motion, drawing, truth, and the build."""

import concurrent.futures
import math

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.core.skeleton import JHMDB, PENN_ACTION
from kimnet_jax.data_pipelines.builders.kinetic_puppets import clip, figure, motion, render
from kimnet_jax.data_pipelines.builders.kinetic_puppets.kinetic_puppets_dataset_builder import (
    Builder,
    PuppetsConfig,
    make_example,
)
from kimnet_jax.data_pipelines.clip_source import open_clips

INDEX = {joint: i for i, joint in enumerate(figure.JOINTS)}


@pytest.fixture(scope='module')
def clips() -> list[clip.Clip]:
    return [clip.make_clip(0, 0, index) for index in range(len(motion.ACTIONS))]


@pytest.fixture
def body() -> figure.Body:
    return figure.random_body(np.random.default_rng(0))


def pose(body: figure.Body, **channels: float) -> dict[str, np.ndarray]:
    """Where everything is in a still pose, all other angles zero; [3] each."""
    still = {name: np.full(3, channels.get(name, 0.0)) for name in motion.CHANNELS}
    return {name: value[1] for name, value in figure.articulate(body, still).items()}


def test_a_clip_depends_only_on_seed_split_and_index():
    alone = make_example(JHMDB, 0, 'test', 4)
    with concurrent.futures.ThreadPoolExecutor(2) as workers:
        together = list(workers.map(lambda index: make_example(JHMDB, 0, 'test', index), (10, 4)))
    assert together[1]['frames'] == alone['frames']
    np.testing.assert_array_equal(together[1]['joints'], alone['joints'])
    assert together[0]['frames'][0] != alone['frames'][0]
    assert make_example(JHMDB, 0, 'train', 4)['frames'][0] != alone['frames'][0]


def test_both_skeletons_show_the_same_clip():
    jhmdb, penn = make_example(JHMDB, 0, 'train', 10), make_example(PENN_ACTION, 0, 'train', 10)
    assert jhmdb['frames'] == penn['frames']
    np.testing.assert_array_equal(jhmdb['boxes'], penn['boxes'])
    assert penn['joints'].shape[1:] == (13, 2)
    assert jhmdb['joints'].shape[1:] == (15, 2)
    for i, joint in enumerate(PENN_ACTION.joints[1:], 1):
        np.testing.assert_array_equal(penn['joints'][:, i], jhmdb['joints'][:, JHMDB.joints.index(joint)])
        np.testing.assert_array_equal(penn['visible'][:, i], jhmdb['visible'][:, JHMDB.joints.index(joint)])
    head_to_face = np.linalg.norm(penn['joints'][:, 0] - jhmdb['joints'][:, JHMDB.joints.index('face')], axis=-1)
    neck_to_head = np.linalg.norm(penn['joints'][:, 0] - jhmdb['joints'][:, JHMDB.joints.index('neck')], axis=-1)
    assert (head_to_face < neck_to_head).all()


def test_frames_are_jpeg_of_240_rows_and_320_columns():
    example = make_example(JHMDB, 0, 'train', 22)
    assert 30 <= len(example['frames']) <= 60
    assert example['frames'][0][:2] == b'\xff\xd8'
    assert decode_image(example['frames'][0], 'frame 0').shape == (240, 320, 3)
    assert example['image_size'].tolist() == [240, 320]
    assert (example['clip'], example['action']) == ('puppet_train_0022', 'wave')


def test_every_action_occurs_and_moves(clips):
    assert {each.action for each in clips} == set(motion.ACTIONS)
    assert len(motion.ACTIONS) >= 8
    for each in clips:
        path = each.joints - each.joints.mean(1, keepdims=True)
        least = 0.015 * (each.boxes[:, 3] - each.boxes[:, 1]).max()  # a wave seen edge-on
        assert path.std(0).max() > least, each.action


def test_joint_tracks_are_smooth(clips):
    """No joint leaps: less than a third of the person's height a frame, and the step changes by less than a seventh of it."""
    for each in clips:
        height = (each.boxes[:, 3] - each.boxes[:, 1]).max()
        step = np.diff(each.joints, axis=0) / height
        assert np.linalg.norm(step, axis=-1).max() < 0.33, each.action
        assert np.linalg.norm(np.diff(step, axis=0), axis=-1).max() < 0.15, each.action


def test_people_are_in_the_frame_and_boxes_hold_their_joints(clips):
    for each in clips:
        low, high = each.boxes[:, None, :2], each.boxes[:, None, 2:]
        assert ((each.joints >= low) & (each.joints <= high)).all(), each.action
        assert each.boxes.min() >= -0.5
        assert (each.boxes[:, 2:] <= (319.5, 239.5)).all()
        assert 80 < np.median(each.boxes[:, 3] - each.boxes[:, 1]) < 240


def test_some_joints_are_hidden_and_most_are_seen(clips):
    seen = np.concatenate([each.visible.ravel() for each in clips]).mean()
    assert 0.6 < seen < 0.97


@pytest.mark.parametrize('action', motion.ACTIONS)
def test_limbs_keep_their_lengths(action, body):
    times = np.arange(200) / motion.SAMPLE_RATE
    at = figure.articulate(body, motion.sample_motion(np.random.default_rng(1), action, times))
    for ends, length in (
        (('l_hip', 'l_knee'), body.thigh),
        (('r_knee', 'r_ankle'), body.shank),
        (('l_shoulder', 'l_elbow'), body.upper_arm),
        (('r_elbow', 'r_wrist'), body.forearm),
        (('l_hip', 'r_hip'), body.hips),
        (('l_shoulder', 'r_shoulder'), body.shoulders),
    ):
        np.testing.assert_allclose(np.linalg.norm(at[ends[0]] - at[ends[1]], axis=-1), length, rtol=1e-9)


def test_angles_bend_limbs_the_anatomical_way(body):
    at = pose(body)
    assert at['l_shoulder'][0] > 0 > at['r_shoulder'][0]
    np.testing.assert_allclose(at['l_knee'] - at['l_hip'], (0, -body.thigh, 0), atol=1e-9)
    at = pose(body, l_raise=90, l_plane=0, r_raise=90, r_plane=90)  # left arm sideways, right arm forward
    np.testing.assert_allclose(at['l_elbow'] - at['l_shoulder'], (body.upper_arm, 0, 0), atol=1e-9)
    np.testing.assert_allclose(at['r_elbow'] - at['r_shoulder'], (0, 0, body.upper_arm), atol=1e-9)
    at = pose(body, l_elbow=90, r_knee=90)  # forearm forward, shank backward
    np.testing.assert_allclose(at['l_wrist'] - at['l_elbow'], (0, 0, body.forearm), atol=1e-9)
    np.testing.assert_allclose(at['r_ankle'] - at['r_knee'], (0, 0, -body.shank), atol=1e-9)
    at = pose(body, l_hip=90, r_splay=30)
    np.testing.assert_allclose(at['l_knee'] - at['l_hip'], (0, 0, body.thigh), atol=1e-9)
    np.testing.assert_allclose(at['r_knee'] - at['r_hip'], (-body.thigh / 2, -body.thigh * math.sqrt(0.75), 0), atol=1e-9)
    at = pose(body, r_raise=90, r_plane=0, r_roll=90, r_elbow=90)  # ready to throw: forearm up
    np.testing.assert_allclose(at['r_wrist'] - at['r_elbow'], (0, body.forearm, 0), atol=1e-9)


def test_left_is_the_persons_left_from_every_side(body):
    at = {name: value[None] for name, value in pose(body).items()}
    front, right, back = (clip.viewed(at, yaw=yaw, pitch=0.0) for yaw in (0.0, math.pi / 2, math.pi))
    assert front['l_shoulder'][0, 0] > front['r_shoulder'][0, 0]
    assert back['l_shoulder'][0, 0] < back['r_shoulder'][0, 0]
    assert right['face'][0, 0] > right['head'][0, 0]  # looks at the right edge, so the right side is nearer
    assert right['r_shoulder'][0, 2] > right['l_shoulder'][0, 2]
    assert front['face'][0, 2] > front['head'][0, 2]


def test_mirrored_motions_swap_sides():
    drawn = [motion.sample_motion(np.random.default_rng(seed), 'wave', np.arange(200) / 100) for seed in range(12)]
    raised = {(each['l_raise'].mean() > 80, each['r_raise'].mean() > 80) for each in drawn}
    assert raised == {(True, False), (False, True)}


def test_a_walker_moves_forward_on_the_ground(body):
    times = np.arange(2 * motion.SAMPLE_RATE) / motion.SAMPLE_RATE
    at = figure.articulate(body, motion.sample_motion(np.random.default_rng(3), 'walk', times))
    travelled = at['neck'][-1] - at['neck'][0]
    assert 1.0 < travelled[2] < 4.5  # metres in two seconds
    soles = np.stack([at[f'{s}_{end}'][:, 1] for s in 'lr' for end in ('ankle', 'toe')], 1).min(1)
    assert np.abs(soles).max() < 0.1


def test_an_edge_lies_where_the_circle_ends():
    """A circle of radius 10 at (50.25, 40.5): its centroid in frame pixels, centres at integers, and its area."""
    patch = np.full((4, 4, 3), 255, np.uint8)
    axis = np.array([[[50.25, 30.0], [50.25, 50.0]]])
    layer = render.hull_layer(np.array([[[50.25, 40.5]]]), np.array([[10.0]]), axis, patch, label=3)
    [(frame, labels)] = render.render(np.zeros((8, 8, 3), np.uint8), np.eye(2, 3)[None], [layer], 1)
    weight = frame[..., 0] / 255
    rows, columns = np.mgrid[:240, :320]
    assert (weight * columns).sum() / weight.sum() == pytest.approx(50.25, abs=0.05)
    assert (weight * rows).sum() / weight.sum() == pytest.approx(40.5, abs=0.05)
    assert weight.sum() == pytest.approx(math.pi * 10**2, rel=0.06)
    assert set(np.unique(labels)) == {0, 3}
    assert labels[40, 50] == 3


def test_the_nearer_layer_is_drawn_over_the_farther():
    def square(value: int, label: int, order: float) -> render.Layer:
        centres = np.array([[[90.0, 90.0], [110.0, 90.0], [110.0, 110.0], [90.0, 110.0]]])
        patch = np.full((4, 4, 3), value, np.uint8)
        return render.hull_layer(centres, np.ones((1, 4)), centres[:, [0, 3]], patch, label=label, order=order)

    [(frame, labels)] = render.render(
        np.zeros((8, 8, 3), np.uint8), np.eye(2, 3)[None], [square(200, 2, 0.5), square(90, 1, 0.1)], 1
    )
    assert frame[100, 100].tolist() == [200, 200, 200]
    assert labels[100, 100] == 2


def test_a_joint_is_hidden_by_what_is_not_its_own():
    labels = {part: i for i, part in enumerate(sorted({part for parts in figure.OWN_PARTS.values() for part in parts}), 1)}
    joints = np.tile(np.array([50.4, 60.0], np.float32), (6, len(figure.JOINTS), 1))
    knee = INDEX['l_knee']
    joints[5, knee] = (-3.0, 60.0)
    seen = np.zeros((6, 240, 320), np.uint8)
    seen[0] = labels['l_shank']
    seen[1] = labels['l_thigh']
    seen[2] = labels['r_thigh']  # the other leg
    seen[3] = 255  # an occluder
    seen[4] = labels['l_shank']
    seen[4, 60, 50] = 255
    seen[5] = labels['l_shank']  # outside the frame
    visible = clip.visible_joints(joints, seen, labels)
    assert visible[:, knee].tolist() == [True, True, False, False, False, False]
    assert visible[0, INDEX['l_ankle']]
    assert not visible[0, INDEX['r_knee']]


def test_build_and_read_back(tmp_path):
    config = PuppetsConfig(name='tiny', seed=7, train_clips=2, test_clips=1)
    Builder(data_dir=tmp_path, config=config, file_format='array_record').download_and_prepare()
    train, test = (open_clips(tmp_path, 'kinetic_puppets', 'tiny', split) for split in ('train', 'test'))
    assert train.skeleton == JHMDB
    assert [train[i]['clip'] for i in range(len(train))] == ['puppet_train_0000', 'puppet_train_0001']
    assert [test[i]['clip'] for i in range(len(test))] == ['puppet_test_0000']
    read, made = train[1], make_example(JHMDB, 7, 'train', 1)
    assert read['frames'] == made['frames']
    assert read['action'] == made['action']
    for key in ('joints', 'visible', 'boxes', 'image_size'):
        np.testing.assert_array_equal(read[key], made[key])


def test_default_configs():
    names = {config.name: (config.skeleton, config.train_clips, config.test_clips) for config in Builder.BUILDER_CONFIGS}
    assert names == {'joints15': ('jhmdb', 64, 16), 'joints13': ('penn_action', 64, 16)}
    assert Builder.BUILDER_CONFIGS[0].name == 'joints15'


@pytest.mark.parametrize('field', ['train_clips', 'test_clips', 'seed'])
def test_numbers_that_make_no_data_set(field):
    """Before, -3 clips were none."""
    with pytest.raises(InputError, match=rf'PuppetsConfig\.{field}=-3: must be '):
        PuppetsConfig(name='mine', **{field: -3})
