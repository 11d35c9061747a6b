"""Pairs of estimated and true poses: noise, files, windows."""

import json

import numpy as np
import pytest
from memory_clips import make_clips

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.pose_windows import WindowConfig
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.data_pipelines.pose_files import read_predictions, write_predictions
from kimnet_jax.data_pipelines.pose_records import read_pose_json
from kimnet_jax.data_pipelines.poses import (
    Estimates,
    FixedPairs,
    NoiseConfig,
    NoisyPairs,
    PoseConfig,
    PosePair,
    add_noise,
    pair_with_truth,
    train_batches,
    training_window,
)

J = PENN_ACTION.num_joints
NONE = NoiseConfig(jitter=0, outliers=0)
PLAIN = PoseConfig(augment_scale=(1.0, 1.0), augment_rotation=0.0, augment_flip=0.0, augment_shift=0.0)
WINDOWS = WindowConfig(5)


def body(frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A still person with a torso of 50 pixels, all visible."""
    rng = np.random.default_rng(3)
    joints = np.tile(rng.uniform(10, 90, (1, J, 2)), (frames, 1, 1)).astype(np.float32)
    left, right = PENN_ACTION.torso
    joints[:, left], joints[:, right] = (20, 20), (50, 60)
    return joints, np.ones((frames, J), bool), np.tile(np.array([0, 0, 100, 100], np.float32), (frames, 1))


def noisy(noise: NoiseConfig, frames: int = 2000, seed: int = 0) -> np.ndarray:
    return add_noise(*body(frames), PENN_ACTION, noise, np.random.default_rng(seed)) - body(frames)[0]


def test_jitter_is_a_share_of_the_torso():
    error = noisy(NoiseConfig(jitter=0.1, outliers=0))
    assert error.std() == pytest.approx(5.0, rel=0.02)  # 0.1 of 50 pixels
    assert abs(error.mean()) < 0.1


def test_outliers():
    error = noisy(NoiseConfig(jitter=0, outliers=0.25))
    assert (error != 0).any(-1).mean() == pytest.approx(0.25, abs=0.01)
    places = noisy(NoiseConfig(jitter=0, outliers=1.0)) + body(2000)[0]
    assert places.min() == pytest.approx(-12.5, abs=0.2)  # within 1.25 of the box, about its middle
    assert places.max() == pytest.approx(112.5, abs=0.2)


def test_swaps_exchange_left_and_right():
    joints = body(400)[0]
    swapped = noisy(NoiseConfig(jitter=0, outliers=0, swaps=1.0), 400) + joints
    np.testing.assert_allclose(swapped, joints[:, list(PENN_ACTION.flip_order)], rtol=1e-6)
    share = (noisy(NoiseConfig(jitter=0, outliers=0, swaps=0.3)) != 0).any(-1)[:, PENN_ACTION.flip_pairs[0][0]].mean()
    assert share == pytest.approx(0.3, abs=0.03)


def test_gaps_are_runs():
    missing = np.isnan(noisy(NoiseConfig(jitter=0, outliers=0, gaps=0.1, gap_length=7), 20000)).any(-1)
    assert missing.mean() == pytest.approx(0.1, abs=0.01)
    edges = np.diff(missing[:, 0].astype(int))
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    assert (ends - begins[: len(ends)]).min() == 7  # longer where gaps meet


def test_never_annotated_joints_are_missing():
    joints, visible, boxes = body(4)
    joints[1, 2], visible[1, 2], visible[2, 3] = 0, False, False
    found = add_noise(joints, visible, boxes, PENN_ACTION, NONE, np.random.default_rng(0))
    assert np.argwhere(np.isnan(found).any(-1)).tolist() == [[1, 2]]
    np.testing.assert_array_equal(found[2, 3], joints[2, 3])  # hidden, but it has its place


def test_noise_comes_from_seed_epoch_and_clip():
    pairs = NoisyPairs(make_clips([7, 7]), NoiseConfig(swaps=0.2, gaps=0.2), seed=5)
    again = NoisyPairs(make_clips([7, 7]), NoiseConfig(swaps=0.2, gaps=0.2), seed=5)
    first = pairs(0, 3).estimates.joints
    pairs(1, 4)
    np.testing.assert_array_equal(again(0, 3).estimates.joints, first)
    for other in (pairs(0, 4), pairs(1, 3), NoisyPairs(make_clips([7, 7]), NoiseConfig(), seed=6)(0, 3)):
        assert not np.array_equal(other.estimates.joints, first, equal_nan=True)


@pytest.mark.parametrize('field', ['jitter', 'outliers', 'swaps', 'gaps', 'gap_length'])
def test_bad_noise(field):
    with pytest.raises(InputError, match=rf'config\.noise\.{field}=-1'):
        NoiseConfig(**{field: -1})


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'source': 'file'}, 'choose one of noise, predictions, sequences'),
        ({'source': 'predictions', 'train': 'a.npz'}, r'config\.poses\.eval: name the file'),
        ({'source': 'sequences', 'train': 'a', 'eval': 'b', 'train_truth': 'c'}, r'config\.poses\.eval_truth'),
        ({'augment_scale': (2.0, 1.0)}, 'augment_scale'),
        ({'augment_flip': 1.5}, 'augment_flip'),
        ({'augment_rotation': -1.0}, 'augment_rotation'),
    ],
)
def test_bad_pose_settings(fields, message):
    with pytest.raises(InputError, match=message):
        make(PoseConfig, fields, 'poses', partial=True)


def test_a_window_is_normalised_by_its_boxes():
    clips = make_clips([5])
    window = training_window(NoisyPairs(clips, NONE, 0)(0), PLAIN, WINDOWS, PENN_ACTION, np.random.default_rng(1))
    count = int(window['mask'].sum())
    example = clips[0]
    for first in range(5 - count + 1):
        boxes = example['boxes'][first : first + count].astype(np.float64).mean(0)
        expected = (example['joints'][first : first + count] - (boxes[:2] + boxes[2:]) / 2) / 30  # the boxes are 20 x 30
        if np.allclose(window['poses'][:count].reshape(count, J, 2), expected, atol=1e-5):
            break
    else:
        pytest.fail('no window of the clip')
    np.testing.assert_allclose(window['estimated'], window['poses'], atol=1e-6)
    known = window['known'].reshape(5, J, 2)
    np.testing.assert_array_equal(known[:count, :, 0], example['visible'][first : first + count])
    assert not known[count:].any()


def test_flip_mirrors_and_exchanges_joints():
    pair = NoisyPairs(make_clips([5]), NONE, 0)(0)
    flipped = PoseConfig(augment_scale=(1.0, 1.0), augment_rotation=0.0, augment_flip=1.0, augment_shift=0.0)
    plain, mirrored = (
        training_window(pair, config, WINDOWS, PENN_ACTION, np.random.default_rng(2)) for config in (PLAIN, flipped)
    )
    poses = plain['poses'].reshape(5, J, 2)[:, list(PENN_ACTION.flip_order)] * [-1, 1]
    np.testing.assert_allclose(mirrored['poses'].reshape(5, J, 2), poses, atol=1e-6)


def test_rotation_and_scale_act_alike_on_both():
    pair = NoisyPairs(make_clips([5]), NONE, 0)(0)
    turned = PoseConfig(augment_scale=(2.0, 2.0), augment_rotation=90.0, augment_flip=0.0, augment_shift=0.0)
    plain, other = (training_window(pair, c, WINDOWS, PENN_ACTION, np.random.default_rng(2)) for c in (PLAIN, turned))
    np.testing.assert_allclose(other['estimated'], other['poses'], atol=1e-5)
    lengths = [np.linalg.norm(window['poses'].reshape(5, J, 2), axis=-1) for window in (plain, other)]
    np.testing.assert_allclose(lengths[1], 2 * lengths[0], atol=1e-5)
    assert not np.allclose(other['poses'], 2 * plain['poses'], atol=1e-2)


def test_batches():
    pairs = NoisyPairs(make_clips([3, 9, 11]), NoiseConfig(gaps=0.1), seed=1)
    options = {'batch_size': 4, 'seed': 1}

    def take(count: int, **others: int) -> list[dict]:
        stream = train_batches(pairs, PoseConfig(), WINDOWS, **(options | others))
        return [next(stream) for _ in range(count)]

    whole = take(3)
    clips = np.concatenate([batch['clip'] for batch in whole])
    assert [sorted(clips[i : i + 3].tolist()) for i in range(0, 12, 3)] == [[0, 1, 2]] * 4  # every clip once an epoch
    assert whole[0]['estimated'].shape == (4, 5, 2 * J)
    for key in whole[0]:
        np.testing.assert_array_equal(take(1, start_step=2)[0][key], whole[2][key])
        halves = [take(1, process_index=i, process_count=2)[0][key] for i in (0, 1)]
        np.testing.assert_array_equal(np.concatenate(halves), whole[0][key])
    for batch in whole:
        assert np.isfinite(batch['estimated']).all()
        assert (batch['mask'].sum(1)[batch['clip'] == 0] <= 3).all()
        assert not batch['estimated'][~batch['mask']].any()


def estimates(clip: str, frames: int, skeleton=PENN_ACTION, seed: int = 0) -> Estimates:
    rng = np.random.default_rng(seed)
    joints = rng.uniform(0, 50, (frames, skeleton.num_joints, 2)).astype(np.float32)
    boxes = np.tile(np.array([1, 2, 30, 50], np.float32), (frames, 1))
    return Estimates(clip, joints, rng.random(joints.shape[:2]).astype(np.float32), boxes, np.array([37, 53]))


def same(a: Estimates, b: Estimates) -> None:
    assert a.clip == b.clip
    for field in ('joints', 'scores', 'boxes', 'image_size'):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_predictions_there_and_back(tmp_path):
    written = [estimates('b', 3), estimates('a', 1, seed=1)]
    write_predictions(tmp_path / 'new/p.npz', written, PENN_ACTION, {'step': 7})
    found = read_predictions(str(tmp_path / 'new/p.npz'), 'penn_action')
    for one, other in zip(found, written, strict=True):
        same(one, other)
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['p.npz']
    assert [one.clip for one in read_predictions(f'{tmp_path}/new,{tmp_path}/new/p.npz', 'penn_action')] == ['b', 'a'] * 2


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match='concatenate'):
        write_predictions(tmp_path / 'p.npz', [], PENN_ACTION, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ('name', 'data', 'message'),
    [
        ('p.npz', b'no zip', 'cut short, or no npz'),
        ('p.json', b'{', 'not valid JSON'),
        ('p.json', b'{"about": {}}', 'not a file of poses that predict wrote'),
        ('q.npz', None, 'no such file'),
        ('q.json', None, 'no such file of poses'),
    ],
)
def test_bad_prediction_files(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_predictions(str(tmp_path / name), 'jhmdb')


def test_predictions_of_another_skeleton(tmp_path):
    write_predictions(tmp_path / 'p.npz', [estimates('a', 2)], PENN_ACTION, {})
    with pytest.raises(InputError, match="poses of 'penn_action', the data has 'jhmdb'"):
        read_predictions(str(tmp_path / 'p.npz'), 'jhmdb')


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('lengths', [3], '2 poses for 3 frames'),
        ('lengths', ['x'], r'lengths of shape \[1\] \(<U1\), expected \[1\]'),
        ('joints', np.zeros((2, 3)), r'joints of shape \[2, 3\]'),
        ('joints', np.zeros((2, 12, 2)), r'joints of shape \[2, 12, 2\] \(float64\), expected \[2, 13, 2\]'),
        ('image_size', np.zeros((0, 2)), r'image_size of shape \[0, 2\]'),
        ('boxes', np.zeros((2, 4)), 'frame 0: the box is empty'),
        ('lengths', [1.5], '2 poses for 1.5 frames'),
        ('lengths', np.array([2**63, 2**63, 2], np.uint64)[:1], '2 poses for 9223372036854775808 frames'),
        ('clips', np.array([0x110000], np.uint32).view('U1'), 'a text with characters that do not exist'),
        ('clips', np.array({}), 'refused: it holds|clips is no plain array'),
        ('scores', np.full((2, 13), np.nan), 'scores are not all finite'),
        ('image_size', np.array([[np.inf, 5]]), 'height and width are inf, 5: must be numbers of pixels'),
        ('about', '{"a": NaN}', 'about: not valid JSON'),
        ('about', '{', 'about: not valid JSON'),
        ('skeleton', 'cat', "unknown skeleton 'cat'"),
    ],
)
def test_bad_arrays(tmp_path, field, value, message):
    write_predictions(tmp_path / 'p.npz', [estimates('a', 2)], PENN_ACTION, {})
    np.savez(tmp_path / 'q.npz', **dict(np.load(tmp_path / 'p.npz')) | {field: np.array(value)})
    with pytest.raises(InputError, match=r'q\.npz: .*' + message):
        read_predictions(str(tmp_path / 'q.npz'), 'penn_action')


def pose_json(tmp_path, change=lambda data: None):
    one = estimates('walk', 2)
    about = {'video': 'walk.mp4', 'width': 53, 'height': 37, 'skeleton': 'penn_action'}
    rows = zip(one.joints.tolist(), one.scores.tolist(), one.boxes.tolist(), strict=True)
    data = {'about': about, 'frames': [{'frame': i, 'joints': j, 'scores': s, 'box': b} for i, (j, s, b) in enumerate(rows)]}
    change(data)
    (tmp_path / 'walk.json').write_text(json.dumps(data))
    return tmp_path / 'walk.json', one


def test_json_of_predict(tmp_path):
    path, one = pose_json(tmp_path, lambda data: data['frames'][1]['joints'].__setitem__(4, [None, None]))
    (found,) = read_predictions(str(path), 'penn_action')
    assert np.argwhere(np.isnan(found.joints).any(-1)).tolist() == [[1, 4]]
    one.joints[1, 4] = np.nan
    same(found, one)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda data: data['frames'].clear(), 'no frames in it'),
        (lambda data: data['frames'][1].pop('joints'), "frame 1: field 'joints' is missing"),
        (lambda data: data['frames'][1].update(joints='x'), "frame 1: field 'joints' is missing or not of numbers"),
        (lambda data: data['frames'][0].update(scores=[1.0]), r'frame 0: scores of shape \[1\], expected \[13\]'),
        (lambda data: data['frames'][0].update(box=[5, 5, 5, 9]), 'frame 0: the box is empty'),
        (lambda data: data['about'].update(skeleton='cat'), "unknown skeleton 'cat'"),
        (lambda data: data['about'].pop('width'), 'not a file of poses that predict wrote'),
        (lambda data: data['frames'][0].update(frame=5), 'frame 1 comes after frame 5; give the frames in their order'),
        (lambda data: data['frames'][1].update(frame=0), 'frame 0 is there twice; give each person an id'),
        (lambda data: data['frames'][1].update(frame=-1), "frame 1: field 'frame' is -1: must be a number from 0 on"),
        (lambda data: data['frames'][1].update(frame=True), "frame 1: field 'frame' is True"),
        (lambda data: data['frames'][1].pop('frame'), "frame 1: field 'frame' is None"),
        (lambda data: data['frames'][1].update(frame=10**8), 'frames 0 to 100000000, and poses of 2'),
        (lambda data: data.update(frame_count=10**8), 'frames 0 to 1, and poses of 2'),
        (lambda data: data.update(frame_count='2'), "frame_count is '2': must be a positive number"),
        (lambda data: data['about'].update(rate=-5), 'about.rate is -5: must be a positive number'),
        (lambda data: data['frames'][1].update(time=0.1), "frame 0: field 'time' is None: must be a number of seconds"),
        (lambda data: [f.update(time=3 - f['frame']) for f in data['frames']], 'frame 1 is at 2 s, frame 0 at 3 s'),
        (lambda data: data['frames'][1].update(id=[1]), "frame 1: field 'id' is \\[1\\]: must be a whole number or a name"),
        (lambda data: data['frames'][1].pop('box'), "frame 1: field 'box' is missing"),
    ],
)
def test_bad_json_of_predict(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        read_pose_json(pose_json(tmp_path, change)[0])


def test_pairs_are_found_by_name():
    clips = make_clips([3, 2])
    found = [estimates('clip1', 2), estimates('clip0', 3)]
    pairs = pair_with_truth(found, clips, 'p.npz')
    assert pairs.names == ['clip1', 'clip0']
    np.testing.assert_array_equal(pairs(0).joints, clips[1]['joints'])
    with pytest.raises(InputError, match=r"p\.npz: no poses of clip 'clip0'"):
        pair_with_truth(found[:1], clips, 'p.npz')
    with pytest.raises(InputError, match=r"p\.npz: clip 'other' .* is not in split 'test'"):
        pair_with_truth([*found, estimates('other', 2)], clips, 'p.npz')
    with pytest.raises(InputError, match=r"clip 'clip0': poses of shape \[2, 13, 2\], the truth has \[3, 13, 2\]"):
        pair_with_truth([found[0], estimates('clip0', 2)], clips, 'p.npz')


def test_fixed_pairs_ignore_the_epoch():
    one = estimates('a', 2)
    pairs = FixedPairs([PosePair(one, one.joints, one.scores > 2, one.boxes)], PENN_ACTION)
    assert pairs(0, 5) is pairs(0)
