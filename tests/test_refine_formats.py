"""`refine` on files of every format, with filters and with a network, and from one format to another."""

import csv
import json
import pathlib

import numpy as np
import pytest
from absl import flags

from kimnet_jax import refine
from kimnet_jax.core.command import run_command
from kimnet_jax.core.filters import parse_filter
from kimnet_jax.core.pose_windows import WindowConfig, extent, spans_without_long_gaps
from kimnet_jax.core.skeleton import PENN_ACTION, get_skeleton, make_skeleton
from kimnet_jax.data_pipelines.pose_files import open_pose_file, write_predictions
from kimnet_jax.data_pipelines.pose_formats import ENDINGS, FORMATS, OPENPOSE_NAMES, write_poses
from kimnet_jax.data_pipelines.poses import Estimates
from kimnet_jax.inference.refiner import PoseRefiner
from kimnet_jax.tasks import refinement

TIMES = np.cumsum(np.where(np.arange(30) < 15, 1 / 30, 1 / 5)) - 1 / 30
BOX = np.array([5, 5, 205, 205], np.float32)
READABLE = [kind for kind in FORMATS if kind != 'mot']


def person(name, frames, seed: int = 0) -> Estimates:
    frames = np.asarray(frames)
    joints = np.random.default_rng(seed).uniform(10, 200, (len(frames), PENN_ACTION.num_joints, 2)).astype(np.float32)
    joints = np.round(joints, 2)
    scores = np.full(joints.shape[:2], 0.5, np.float32)
    boxes = np.tile(BOX, (len(frames), 1))
    return Estimates('walk', joints, scores, boxes, np.array([240, 320]), None, name, frames)


def write(path, kind, clips) -> pathlib.Path:
    (found,) = write_poses(path, kind, clips, PENN_ACTION, {'video': 'walk.mp4', 'model': 'm', 'rate': 30.0}, TIMES)
    return found


@pytest.fixture
def command(monkeypatch):
    """Runs the command; gives the exit status. A network takes the mean of a window of 5."""

    def network(weights, poses, mask):
        return weights * poses + (poses * mask[..., None]).sum(1, keepdims=True) / mask.sum(1)[:, None, None]

    def run(*argv) -> int:
        values = flags.FlagValues()
        refiner = PoseRefiner(np.float32(0), network, WindowConfig(5, step=5))
        trained = refinement.TrainedRefiner(refiner, 'penn_action', {'weights': 'W'})
        monkeypatch.setattr('kimnet_jax.tasks.trained.open_trained', lambda reference, checkpoint: None)
        monkeypatch.setattr(refinement, 'load', lambda found: trained)
        refine.define_flags(values)
        with pytest.raises(SystemExit) as caught:
            run_command(refine.run, values(['refine', *map(str, argv)]), values)
        return caught.value.code

    return run


@pytest.mark.parametrize('kind', READABLE)
@pytest.mark.parametrize('text', ['one_euro', 'savgol:window=0.5,order=1', 'gaussian:sigma=0.1'])
def test_filters_on_every_format(kind, text, command, tmp_path, capfd):
    """With the times of the file where it has them, and 25 frames a second where not, which is said."""
    one = person(None, range(30))
    source, target = write(tmp_path / f'walk{ENDINGS[kind]}', kind, [one]), tmp_path / f'new{ENDINGS[kind]}'
    assert command('--smooth', text, source, target) == 0
    told = capfd.readouterr()
    assert f'30 frames -> {target}' in told.out
    timed = kind in ('json', 'csv', 'trc')
    assert ('tells no times; taken as 25 frames a second' in told.err) == (not timed)
    before, after = (open_pose_file(path).clips[0] for path in (source, target))
    expected = parse_filter(text)(before.joints, before.boxes, TIMES if timed else np.arange(30) / 25)
    np.testing.assert_allclose(after.joints, expected, atol=6e-3)
    if kind == 'json':
        assert json.loads(target.read_text())['about']['refined'] == {'filter': str(parse_filter(text))}


@pytest.mark.parametrize('source', READABLE)
@pytest.mark.parametrize('target', FORMATS)
def test_from_any_format_to_any(source, target, command, tmp_path):
    """Of joints that both have; all joints of OpenPose's files are kept, under their names."""
    clips = [person(3, range(30)), person(8, range(4, 20), seed=1)]
    if 'trc' in (source, target) or target == 'mot':
        clips = clips[:1]  # a file each
    path, out = write(tmp_path / f'walk{ENDINGS[source]}', source, clips), tmp_path / f'new{ENDINGS[target]}'
    assert command('--smooth', 'none', path, out) == 0
    if target == 'mot':
        write(tmp_path / 'ours.json', 'json', clips)
        assert command('--smooth', 'none', tmp_path / 'ours.json', tmp_path / 'ours.mot') == 0
        angles, expected = (
            np.loadtxt(file.read_text().split('endheader\n')[1].splitlines()[1:]) for file in (out, tmp_path / 'ours.mot')
        )
        np.testing.assert_allclose(angles[:, 1:], expected[:, 1:], atol=0.1)  # not all formats know the time
        return
    skeleton = PENN_ACTION.name if 'openpose' not in (source, target) else None
    found = open_pose_file(out, skeleton=skeleton)
    assert len(found.clips) == len(clips)
    for one, other in zip(found.clips, clips, strict=True):
        names = {name: i for i, name in enumerate(get_skeleton(found.skeleton).joints)}
        for i, name in enumerate(PENN_ACTION.joints):
            ours = names.get(name, names.get(OPENPOSE_NAMES.get(name, '')))
            if ours is not None and name in (OPENPOSE_NAMES if 'openpose' in (source, target) else names):
                shift = other.frames - one.frames[0]
                np.testing.assert_allclose(one.joints[shift, ours], other.joints[:, i], atol=0.01)
        if 'trc' not in (source, target):
            assert one.person == other.person


@pytest.mark.parametrize('kind', ['openpose', 'trc', 'dlc', 'csv'])
def test_a_network_on_files_of_other_tools(kind, command, tmp_path):
    """It gets the joints of its skeleton by their names; with those that the file has none of, it goes without."""
    one = person(None, range(10))
    source, target = write(tmp_path / f'walk{ENDINGS[kind]}', kind, [one]), tmp_path / f'new{ENDINGS[kind]}'
    assert command(source, target) == 0
    after = open_pose_file(target, skeleton='penn_action').clips[0]
    held = [i for i, name in enumerate(PENN_ACTION.joints) if kind != 'openpose' or name in OPENPOSE_NAMES]
    for first in (0, 5):
        expected = one.joints[first : first + 5, held].mean(0)
        np.testing.assert_allclose(after.joints[first : first + 5, held], np.tile(expected, (5, 1, 1)), atol=0.02)


def test_persons_are_smoothed_apart_and_absences_stay(command, tmp_path):
    """A short absence is bridged, a long one is not, and nobody appears where nobody was."""
    there = [*range(5), 6, 7, 8, *range(60, 68)]
    first, second = person('a', there), person('b', range(3, 9), seed=1)
    times = np.arange(70) / 25
    write_poses(tmp_path / 'walk.json', 'json', [first, second], PENN_ACTION, {}, times)
    assert command('--smooth', 'gaussian:sigma=0.05', tmp_path / 'walk.json', tmp_path / 'new.json') == 0
    before, after = (json.loads((tmp_path / name).read_text())['frames'] for name in ('walk.json', 'new.json'))
    assert [(r['frame'], r['id']) for r in before] == [(r['frame'], r['id']) for r in after]
    smooth = parse_filter('gaussian:sigma=0.05')
    for name, spans in (('a', [(0, 9), (60, 68)]), ('b', [(3, 9)])):
        one = {'a': first, 'b': second}[name]
        for begin, end in spans:
            joints = np.full((end - begin, PENN_ACTION.num_joints, 2), np.nan)
            mask = (one.frames >= begin) & (one.frames < end)
            joints[one.frames[mask] - begin] = one.joints[mask]
            expected = smooth(joints, np.tile(BOX, (len(joints), 1)), times[begin:end])
            found = {r['frame']: r['joints'] for r in after if r['id'] == name}
            for t in one.frames[mask]:
                np.testing.assert_allclose(found[t], expected[t - begin], atol=6e-3)


def test_spans():
    there = np.isin(np.arange(12), [1, 2, 5, 9, 10])
    assert spans_without_long_gaps(there, 2) == [(1, 6), (9, 11)]
    assert spans_without_long_gaps(there, 1) == [(1, 3), (5, 6), (9, 11)]
    assert spans_without_long_gaps(there, 3) == [(1, 11)]
    assert spans_without_long_gaps(there[:1], 3) == []


def test_predictions_are_smoothed(command, tmp_path, capfd):
    one = person(None, range(12))
    clip = Estimates('a', one.joints, one.scores, one.boxes, one.image_size)
    write_predictions(tmp_path / 'p.npz', [clip], PENN_ACTION, {'step': 1})
    assert command('--smooth', 'savgol', tmp_path / 'p.npz', tmp_path / 'q.npz') == 0
    assert 'tells no times' in capfd.readouterr().err
    expected = parse_filter('savgol')(one.joints, one.boxes, np.arange(12) / 25)
    np.testing.assert_allclose(open_pose_file(tmp_path / 'q.npz').clips[0].joints, expected, rtol=1e-5)


def test_poses_in_3d_are_smoothed(command, tmp_path):
    joints = np.random.default_rng(0).normal(size=(9, 17, 3))
    frames = [{'frame': t, 'time': t / 50, 'joints': pose.tolist()} for t, pose in enumerate(joints)]
    (tmp_path / 'a.json').write_text(json.dumps({'about': {'skeleton': 'points17'}, 'frames': frames}))
    assert command('--smooth', 'savgol:window=0.1', tmp_path / 'a.json', tmp_path / 'b.json') == 0
    found = [frame['joints'] for frame in json.loads((tmp_path / 'b.json').read_text())['frames']]
    boxes = np.tile([0, 0, 0, 1, 1, 1], (9, 1))
    np.testing.assert_allclose(found, parse_filter('savgol:window=0.1')(joints, boxes, np.arange(9) / 50), atol=1e-5)


def test_sequences_are_smoothed(command, tmp_path):
    names = np.empty(1, object)
    names[0] = np.array([f'clip/{t}.png' for t in range(8)])
    poses = np.empty(1, object)
    poses[0] = np.random.default_rng(0).normal(size=(8, 17 * 3)).astype(np.float32)
    np.savez(tmp_path / 'a.npz', imgname=names, joints_3d=poses)
    assert command('--smooth', 'gaussian', tmp_path / 'a.npz', tmp_path / 'b.npz') == 0
    with np.load(tmp_path / 'b.npz', allow_pickle=True) as found:
        assert json.loads(str(found['refined'])) == {'filter': 'gaussian:sigma=0.08'}
        smoothed = parse_filter('gaussian')(poses[0].reshape(8, 17, 3), np.zeros((8, 6)), np.arange(8) / 25)
        np.testing.assert_allclose(found['joints_3d'][0], smoothed.reshape(8, -1), atol=1e-5)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--smooth', 'kalman', 'walk.json', 'b.json'], "--smooth: no filter 'kalman'; known: one_euro, savgol, gaussian"),
        (
            ['--smooth', 'savgol:size=3', 'walk.json', 'b.json'],
            "--smooth: savgol: no setting 'size=3'; give some of window=NUMBER",
        ),
        (['--smooth', 'savgol', '--model', 'x', 'walk.json', 'b.json'], '--smooth and --model: give one of them'),
        (['--smooth', 'savgol', 'walk.json', 'b.npz'], 'b.npz: an .npz becomes an .npz, and nothing else does'),
        (['--smooth', 'savgol', 'walk.json', 'b.xyz'], 'b.xyz: poses come in .json, .csv, .npz, .trc, .mot, .h5, or a folder'),
        (['--smooth', 'savgol', 'none.csv', 'b.csv'], 'none.csv: no such file of poses'),
        (['--smooth', 'savgol', 'none', 'b'], 'none: there is no such file or folder'),
        (['--smooth', 'savgol', 'walk_openpose', 'walk_openpose'], 'walk_openpose: that is the folder that is read'),
    ],
)
def test_requests_that_cannot_be(argv, message, command, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(pathlib.Path('walk.json'), 'json', [person(None, range(3))])
    write(pathlib.Path('walk_openpose'), 'openpose', [person(None, range(3))])
    before = sorted(pathlib.Path().rglob('*'))
    assert command(*argv) == 2
    errors = capfd.readouterr().err.splitlines()
    assert message in errors[-1]
    assert sorted(pathlib.Path().rglob('*')) == before


def test_a_table_of_ones_own_joints(command, tmp_path):
    """Under a skeleton of its own, or that of the network where it has these joints, in whatever order."""
    joints = ['snout', 'left_paw', 'right_paw']
    poses = np.random.default_rng(0).uniform(5, 50, (6, 3, 2)).round(2)
    rows = [['frame', *(f'{joint}_{axis}' for joint in joints for axis in 'xy')], *([t, *poses[t].ravel()] for t in range(6))]
    with (tmp_path / 'a.csv').open('w', newline='') as file:
        csv.writer(file).writerows(rows)
    assert command('--smooth', 'savgol', tmp_path / 'a.csv', tmp_path / 'b.csv') == 0
    assert command('--smooth', 'none', tmp_path / 'b.csv', tmp_path / 'b.json') == 0
    read = open_pose_file(tmp_path / 'b.json')
    skeleton = get_skeleton(read.skeleton)
    assert (skeleton.joints, skeleton.flip_pairs) == (tuple(joints), ((1, 2),))
    expected = parse_filter('savgol')(poses, extent(poses), np.arange(6) / 25)
    np.testing.assert_allclose(read.clips[0].joints, expected, atol=6e-3)

    trained = make_skeleton('mine', joints[::-1], limbs=[['snout', 'left_paw']])
    read = open_pose_file(tmp_path / 'a.csv', skeleton=trained.text)
    assert get_skeleton(read.skeleton) == trained
    np.testing.assert_array_equal(read.clips[0].joints, poses[:, ::-1].astype(np.float32))


def test_a_table_of_predict_of_before(command, tmp_path):
    """Without times and ids."""
    header = ['frame', 'score', 'lost', 'x0', 'y0', 'x1', 'y1']
    header += [f'{joint}_{part}' for joint in PENN_ACTION.joints for part in ('x', 'y', 'score')] + ['damaged']
    one = person(None, range(6))
    rows = [[t, 0.5, 0, *BOX, *np.c_[one.joints[t], one.scores[t]].ravel(), 0] for t in range(6)]
    with (tmp_path / 'a.csv').open('w', newline='') as file:
        csv.writer(file).writerows([header, *rows])
    assert command('--smooth', 'savgol', tmp_path / 'a.csv', tmp_path / 'b.csv') == 0
    expected = parse_filter('savgol')(one.joints, one.boxes, np.arange(6) / 25)
    np.testing.assert_allclose(open_pose_file(tmp_path / 'b.csv').clips[0].joints, expected, atol=6e-3)
