"""Refining files of poses, and the poses of a video, whole and as a stream."""

import dataclasses
import json

import numpy as np
import pytest
from absl import flags

from kimnet_jax import refine
from kimnet_jax.core.command import run_command
from kimnet_jax.core.pose_windows import WindowConfig, refine_causally
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.core.video import Frame
from kimnet_jax.inference.people import FramePose
from kimnet_jax.inference.refiner import PoseRefiner, RefinementStream, refine_video
from kimnet_jax.tasks import refinement

SIZE = (120, 160)
J = PENN_ACTION.num_joints


def network(weights, poses, mask):
    """Each frame half of itself and half of the window's mean: depends on every real frame and on padding being told."""
    mean = (poses * mask[..., None]).sum(1, keepdims=True) / mask.sum(1)[:, None, None]
    return weights * poses + (1 - weights) * mean


@pytest.fixture
def refiner():
    return PoseRefiner(np.float32(0.5), network, WindowConfig(5))


def walk(frames: int) -> list[FramePose]:
    rng = np.random.default_rng(frames)
    poses = []
    for t in range(frames):
        joints = rng.uniform(20, 90, (J, 2)).astype(np.float32)
        box = np.array([10 + t, 10, 90 + t, 100], np.float32)
        poses.append(FramePose(t, joints, np.full(J, 0.5, np.float32), box, t == 3))
    return poses


def arrays(poses: list[FramePose]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([pose.joints for pose in poses]), np.stack([pose.box for pose in poses])


@pytest.mark.parametrize('frames', [1, 3, 5, 13])
@pytest.mark.parametrize('look_ahead', [0, 2, 6])
def test_a_stream_equals_causal_windows(refiner, frames, look_ahead):
    poses, found = walk(frames), []
    stream = RefinementStream(refiner, SIZE, look_ahead)
    for t, pose in enumerate(poses):
        found += stream.push(pose)
        assert len(found) == max(0, t + 1 - look_ahead)  # a fixed latency
    found += stream.flush()
    expected = refine_causally(refiner.one, *arrays(poses), SIZE, refiner.windows, look_ahead)
    np.testing.assert_allclose(arrays(found)[0], expected, rtol=1e-5)
    assert [(pose.frame, pose.lost) for pose in found] == [(pose.frame, pose.lost) for pose in poses]


def test_a_video_is_refined_whole(refiner):
    poses, frames = walk(9), [Frame(np.full((*SIZE, 3), t, np.uint8), t / 25) for t in range(9)]
    found = [(frame, [pose]) for frame, pose in zip(frames, poses, strict=True)]
    refined = list(refine_video(refiner, found, lambda: iter(frames), None))
    np.testing.assert_allclose(arrays([pose for _, (pose,) in refined])[0], refiner(*arrays(poses), SIZE))
    assert [int(frame.image[0, 0, 0]) for frame, _ in refined] == [*range(9)]
    streamed = list(refine_video(refiner, found, lambda: iter(()), 3))
    assert [int(frame.image[0, 0, 0]) for frame, _ in streamed] == [*range(9)]
    assert list(refine_video(refiner, iter(()), lambda: iter(()), None)) == []
    assert list(refine_video(refiner, iter(()), lambda: iter(()), 3)) == []


def pose_file(path, frames: int = 7, skeleton: str = 'penn_action'):
    about = {'video': 'walk.mp4', 'width': SIZE[1], 'height': SIZE[0], 'rate': 25.0, 'model': 'kimnet', 'skeleton': skeleton}
    rows = [
        {'frame': p.frame, 'score': p.score, 'lost': p.lost, 'box': p.box.tolist(), 'joints': p.joints.tolist()}
        | {'scores': p.scores.tolist()}
        for p in walk(frames)
    ]
    path.write_text(json.dumps({'about': about, 'frames': rows}))
    return path


@pytest.fixture
def command(refiner, monkeypatch):
    """Runs the command with flags of its own; gives the exit status."""

    def run(*argv) -> int:
        values = flags.FlagValues()
        trained = refinement.TrainedRefiner(refiner, 'penn_action', {'model': 'hanet', 'workdir': 'W', 'step': 7})
        monkeypatch.setattr('kimnet_jax.tasks.trained.open_trained', lambda reference, checkpoint: None)
        monkeypatch.setattr(refinement, 'load', lambda found: trained)
        refine.define_flags(values)
        with pytest.raises(SystemExit) as caught:
            run_command(refine.run, values(['refine', '--workdir', 'W', *map(str, argv)]), values)
        return caught.value.code

    return run


def test_command(command, refiner, tmp_path, capfd):
    source, target = pose_file(tmp_path / 'walk.json'), tmp_path / 'out/refined.json'
    assert command(source, target) == 0
    before, after = json.loads(source.read_text()), json.loads(target.read_text())
    assert after['about'] == before['about'] | {'refined': {'model': 'hanet', 'workdir': 'W', 'step': 7}}
    joints = [frame.pop('joints') for frame in after['frames']]
    np.testing.assert_allclose(joints, refiner(*arrays(walk(7)), SIZE), atol=0.006)
    for frame in before['frames']:
        frame.pop('joints')
    assert after['frames'] == before['frames']
    assert f'7 frames -> {target}' in capfd.readouterr().out
    assert [path.name for path in target.parent.iterdir()] == ['refined.json']
    assert command(target, tmp_path / 'twice.json') == 0  # its output is an input


def test_a_failed_file_does_not_stop_the_others(command, tmp_path, capfd):
    good, other = pose_file(tmp_path / 'good.json'), pose_file(tmp_path / 'other.json', skeleton='jhmdb')
    assert command(other, tmp_path / 'a.json', good, tmp_path / 'b.json', tmp_path / 'none.json', tmp_path / 'c.json') == 2
    errors = capfd.readouterr().err
    assert 'other.json' in errors
    assert 'none.json: no such file of poses; nothing was written for it' in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ['b.json', 'good.json', 'other.json']


@pytest.mark.parametrize('names', [[], ['a.json'], ['a.json', 'b.json', 'c.json']])
def test_files_come_in_pairs(command, capfd, names):
    assert command(*names) == 2
    assert 'give the files in pairs' in capfd.readouterr().err


def test_one_target_for_two(command, tmp_path, capfd):
    assert command('a.json', tmp_path / 'x.json', 'b.json', tmp_path / 'x.json') == 2
    assert 'would be written twice' in capfd.readouterr().err


def test_a_target_that_is_a_folder(command, tmp_path, capfd):
    source, target = pose_file(tmp_path / 'walk.json'), tmp_path / 'folder.json'
    target.mkdir()
    assert command(source, target) == 2
    assert 'in the way' in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['folder.json', 'walk.json']


def changed(path, change) -> object:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda data: data['frames'][2]['joints'].__setitem__(3, [1e30, 5]),
            'frame 2: joint 3 is at [1.0000000150474662e+30, 5.0]',
        ),
        (lambda data: data['frames'][2]['joints'].__setitem__(3, [float('inf'), 5]), 'not valid JSON (Infinity is no number'),
        (lambda data: data['frames'][2].__setitem__('box', [-1e30, -1e30, 1e30, 1e30]), 'frame 2: no box of a person in pixels'),
        (lambda data: data['frames'][2].__setitem__('box', [5, 5, 5.0001, 5.0001]), 'frame 2: no box of a person in pixels'),
        (lambda data: data['about'].__setitem__('width', 0), 'height and width are 120, 0: must be numbers of pixels'),
        (
            lambda data: [frame.__setitem__('joints', [[None, None]] * J) for frame in data['frames']],
            'no joint in any of its frames; there is nothing to refine',
        ),
    ],
)
def test_poses_of_nonsense_are_named(change, message, command, tmp_path, capfd):
    source = changed(pose_file(tmp_path / 'walk.json'), change)
    assert command(source, tmp_path / 'out.json') == 2
    assert f'{source}: {message}' in capfd.readouterr().err
    assert not (tmp_path / 'out.json').exists()


def test_a_joint_that_is_nowhere_is_not_invented(command, tmp_path):
    def take_out(data) -> None:
        for frame in data['frames']:
            frame['joints'][4] = [None, None]
        data['frames'][1]['joints'][5] = [None, None]

    source = changed(pose_file(tmp_path / 'walk.json'), take_out)
    assert command(source, tmp_path / 'out.json') == 0
    text = (tmp_path / 'out.json').read_text()
    assert 'NaN' not in text
    joints = [frame['joints'] for frame in json.loads(text)['frames']]
    assert all(pose[4] == [None, None] for pose in joints)
    assert joints[1][5] != [None, None]  # between two frames in which it is known


def people(frames: int, there: dict[int, set[int]]):
    """(frame, poses) of several people; `there`: the frames that each is in."""
    walks = {person: walk(frames) for person in there}
    return [
        (
            Frame(np.full((*SIZE, 3), t, np.uint8), t / 25),
            [dataclasses.replace(walks[person][t], id=person, time=t / 25) for person in there if t in there[person]],
        )
        for t in range(frames)
    ]


@pytest.mark.parametrize('look_ahead', [None, 0, 3])
def test_each_person_of_a_video_is_refined_alone(refiner, look_ahead):
    """One is there all the time, one is away for three frames, one so long that it is another sequence."""
    frames = 40
    there = {1: set(range(frames)), 2: set(range(5, 30)) - {11, 12, 13}, 3: set(range(6)) | set(range(25, 40))}
    found = people(frames, there)
    refined = list(refine_video(refiner, iter(found), lambda: (frame for frame, _ in found), look_ahead))
    assert [frame.image[0, 0, 0] for frame, _ in refined] == list(range(frames))
    assert [[(p.id, p.frame) for p in poses] for _, poses in refined] == [[(p.id, p.frame) for p in poses] for _, poses in found]
    for person, part in ((1, range(frames)), (3, range(6)), (3, range(25, 40))):
        before = [p for _, poses in found for p in poses if p.id == person and p.frame in part]
        after = [p for _, poses in refined for p in poses if p.id == person and p.frame in part]
        if look_ahead is None:
            expected = refiner(*arrays(before), SIZE)
            np.testing.assert_allclose(arrays(after)[0], expected, rtol=1e-5)
        elif person == 1:
            expected = refine_causally(refiner.one, *arrays(before), SIZE, refiner.windows, look_ahead)
            np.testing.assert_allclose(arrays(after)[0], expected, rtol=1e-5)
    assert all(np.isfinite(pose.joints).all() for _, poses in refined for pose in poses)


def test_a_stream_waits_no_longer_than_it_says(refiner):
    given = 0

    def poses():
        nonlocal given
        for item in people(30, {1: set(range(30)), 2: set(range(10)), 3: set(range(12, 30, 2))}):
            given += 1
            yield item

    for count, _ in enumerate(refine_video(refiner, poses(), lambda: iter(()), 4)):
        assert given <= count + 1 + 4
