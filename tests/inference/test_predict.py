import contextlib
import csv
import dataclasses
import errno
import itertools
import json
import os
import re
import signal
import types
from unittest import mock

import cv2
import numpy as np
import pytest
from absl import flags
from dots import draw, filmed, person

from kimnet_jax import predict
from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.filters import parse_filter
from kimnet_jax.core.pose_windows import WindowConfig
from kimnet_jax.core.sources import Source, open_source
from kimnet_jax.core.video import Frame, read_frames
from kimnet_jax.inference.outputs import PoseOutputs
from kimnet_jax.inference.people import OnePerson
from kimnet_jax.inference.refiner import PoseRefiner
from kimnet_jax.inference.tracking import TrackerConfig
from kimnet_jax.predict import _DETECTION, requested_people
from kimnet_jax.tasks import refinement, videos
from kimnet_jax.tasks.trained import open_trained
from kimnet_jax.tasks.videos import VideoPoses, predict_videos

DETECTION = ('detect_layout', 'detect_every', 'detect_score')
WALK = [(40 + 3 * t, 60) for t in range(12)]


def sources(paths) -> list[Source]:
    return [open_source(str(path)) for path in paths]


def options(**given) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        **({'box': None, 'boxes': [], 'tracks': [], 'detect': None} | dict(zip(DETECTION, _DETECTION, strict=True)) | given)
    )


@pytest.fixture
def trained(predictor, skeleton):
    return VideoPoses(predictor, skeleton, {'model': 'dots', 'checkpoint': 7})


@pytest.fixture
def command(trained, tmp_path, monkeypatch):
    """Runs the command with flags of its own; gives the exit status."""

    def run(*argv: str) -> int:
        values = flags.FlagValues()
        found = types.SimpleNamespace(folder=tmp_path / 'run')

        def open_run(reference, checkpoint='best'):
            return found if reference in (str(found.folder), 'W2') else open_trained(reference, checkpoint)

        monkeypatch.setattr('kimnet_jax.tasks.trained.open_trained', open_run)
        monkeypatch.setattr(videos, 'load', lambda found: trained)
        predict.define_flags(values)
        with pytest.raises(SystemExit) as caught:
            run_command(predict.run, values(['predict', '--workdir', str(tmp_path / 'run'), *argv]), values)
        return caught.value.code

    return run


def test_command(command, write_video, tmp_path, capfd):
    video = write_video('walk.mp4', map(draw, WALK))
    assert command(str(video), '--box', '20,30,60,90', '--outputs', 'json,csv') == 0
    out = tmp_path / 'run/predictions'
    assert sorted(path.name for path in out.iterdir()) == ['walk.csv', 'walk.json']
    records = json.loads((out / 'walk.json').read_text())['frames']
    np.testing.assert_allclose([record['joints'] for record in records], [person(place) for place in WALK], atol=1.0)
    assert 'walk.mp4: 12 frames' in capfd.readouterr().out


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'no video given'),
        (['v.mp4', '--outputs', 'json,xml'], '--outputs=json,xml'),
        (['v.mp4', '--outputs', ''], '--outputs='),
        (['v.mp4', '--box', '1,2,3'], '--box 1,2,3'),
        (['v.mp4', '--box='], '--box : box 0 is'),
        (['v.mp4', '--box=', '--boxes', 'f'], 'give one of them'),
        (['v.mp4', '--box', '1,2,3,4', '--boxes', 'f'], 'give one of them'),
        (['v.mp4', '--boxes', 'f', '--boxes', 'g'], '2 files for 1 videos'),
        (['v.mp4', '--tracks', '/nowhere/t.txt'], '/nowhere/t.txt: no such file of tracks'),
        (['v.mp4', '--tracks', 't', '--detect', 'hog'], '--tracks and --detect: give one of them'),
        (['v.mp4', '--detect_every', '3'], 'need --detect'),
        (['v.mp4', '--detect', 'yolo'], 'give hog, or an ONNX file'),
        (['v.mp4', '--smooth', 'kalman'], '--smooth: '),
        (['v.mp4', '--smooth', 'one_euro', '--refine', 'x'], '--smooth and --refine: give one'),
        (['v.mp4', '--stdin_rate', '5'], 'give - as the video'),
        (['-', '-'], 'standard input can be read once only'),
        (['-', '--stdin_size', '5'], '--stdin_size'),
        (['v.mp4', '--boxes', '/nowhere/f.csv'], '/nowhere/f.csv: no such file'),
        (['/nowhere/v.mp4'], '/nowhere/v.mp4: no such video'),
    ],
)
def test_bad_requests(command, tmp_path, capfd, argv, message):
    assert command(*argv) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.rglob('*.*'))


def test_damaged_frames_are_counted_and_marked(command, write_video, tmp_path, capfd):
    video = write_video('walk.mp4', map(draw, WALK))
    data = bytearray(video.read_bytes())
    for position in range(len(data) * 2 // 3, len(data)):  # the first bit whose flip is noticed, and leaves the rest readable
        data[position] ^= 16
        video.write_bytes(data)
        with contextlib.suppress(InputError):
            read = list(read_frames(video, tolerant=True))
            marked = {t for t, frame in enumerate(read) if frame.damaged}
            if len(read) == len(WALK) and marked:
                break
        data[position] ^= 16
    assert command(str(video), '--box', '20,30,60,90', '--outputs', 'json,csv') == 0
    frames = json.loads((tmp_path / 'run/predictions/walk.json').read_text())['frames']
    assert {record['frame'] for record in frames if record.get('damaged')} == marked
    rows = list(csv.DictReader((tmp_path / 'run/predictions/walk.csv').read_text().splitlines()))
    assert {int(row['frame']) for row in rows if row['damaged'] == '1'} == marked
    assert f'walk.mp4: {len(marked)} of 12 frames are damaged, the first is frame {min(marked)}' in capfd.readouterr().err


def test_a_failed_video_does_not_stop_the_others(trained, write_video, tmp_path, capfd):
    good, last = write_video('good.mp4', map(draw, WALK)), write_video('last', map(draw, WALK[:2]))
    rng = np.random.default_rng(0)
    whole = write_video('whole.mp4', rng.integers(0, 255, (12, 121, 161, 3), np.uint8))
    data = whole.read_bytes()
    cut = tmp_path / 'cut.mp4'
    cut.write_bytes(data[: len(data) * 6 // 10])
    empty = tmp_path / 'empty'
    empty.mkdir()
    text = tmp_path / 'text.mp4'
    text.write_text('no video')
    videos = [good, cut, empty, text, last]
    people = [lambda config: OnePerson()] * 5
    assert predict_videos(trained, sources(videos), tmp_path / 'out', ['overlay', 'json', 'csv', 'coco'], people) == 2
    errors = capfd.readouterr().err
    assert f'{cut}: breaks off near frame' in errors
    assert f'{empty}: no image' in errors
    assert f'{text}: not a readable video' in errors
    assert '3 of 5 videos failed' in errors
    written = sorted(path.name for path in (tmp_path / 'out').iterdir())
    assert written == [
        f'{stem}{suffix}' for stem in ('good', 'last') for suffix in ('.coco.json', '.csv', '.json', '.overlay.mp4')
    ]


@pytest.mark.parametrize(
    ('box', 'rows', 'message'),
    [
        ('170,30,200,90', 0, '--box 170,30,200,90: box 0 .* outside the 161x121 image'),
        (None, 5, 'boxes.csv: 5 boxes, and the video has 12 frames'),
        (None, 13, 'boxes.csv: 13 boxes, and the video has 12 frames'),
    ],
)
def test_wrong_boxes_leave_nothing(trained, write_video, tmp_path, capfd, box, rows, message):
    video = write_video('walk.mp4', map(draw, WALK))
    file = tmp_path / 'boxes.csv'
    file.write_text('20,30,60,90\n' * rows)
    people = requested_people(options(box=box, boxes=[str(file)] if rows else []), 1)
    assert predict_videos(trained, sources([video]), tmp_path / 'out', ['json', 'overlay'], people) == 2
    error = capfd.readouterr().err
    assert re.search(message, error)
    assert str(video) in error
    assert not list((tmp_path / 'out').iterdir())


def test_full_disk_keeps_what_was_finished(trained, write_video, tmp_path, monkeypatch, capfd):
    videos = [write_video('a', map(draw, WALK)), write_video('b', map(draw, WALK))]
    write = PoseOutputs.write

    def full(self, frame, poses):
        write(self, frame, poses)
        if self._stem == 'b' and poses[0].frame == 5:
            raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(PoseOutputs, 'write', full)
    with pytest.raises(SystemExit) as caught:
        run_command(predict_videos, trained, sources(videos), tmp_path / 'out', ['csv'], [lambda config: OnePerson()] * 2)
    assert caught.value.code == 2
    assert f'the disk is full at {tmp_path / "out"}' in capfd.readouterr().err
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.csv']


def test_boxes_of_each_video(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name).write_text('[[0, 0, 15, 16]]' if name == 'a' else '1,2,13,14')
    people = requested_people(options(boxes=[str(tmp_path / 'a'), str(tmp_path / 'b')]), 2)
    looks = [make(TrackerConfig()).look(0, Frame(draw(None), 0.0))[0] for make in people]
    np.testing.assert_array_equal([look.box for look in looks], [[0, 0, 15, 16], [1, 2, 13, 14]])
    assert len(requested_people(options(), 2)) == 2
    with pytest.raises(InputError, match='1 files for 2 videos'):
        requested_people(options(boxes=['a']), 2)


@pytest.fixture
def refined_by_shift(monkeypatch, skeleton):
    """What `--refine` loads: a network that moves everything by a tenth of the box, to the right."""
    refiner = PoseRefiner(np.float32(0.1), lambda shift, poses, mask: poses.at[..., ::2].add(shift), WindowConfig(3))
    trained = refinement.TrainedRefiner(refiner, skeleton.text, {'model': 'hanet', 'step': 5})
    monkeypatch.setattr(refinement, 'load', lambda found: trained)


@pytest.mark.parametrize('look_ahead', [None, 0, 2])
def test_poses_are_refined(command, refined_by_shift, write_video, tmp_path, look_ahead):
    video = write_video('walk.mp4', map(draw, WALK))
    flag = () if look_ahead is None else ('--look_ahead', str(look_ahead))
    assert command(str(video), '--box', '20,30,60,90', '--outputs', 'json,overlay') == 0
    plain = json.loads((tmp_path / 'run/predictions/walk.json').read_text())
    assert command(str(video), '--box', '20,30,60,90', '--outputs', 'json,overlay', '--refine', 'W2', *flag) == 0
    found = json.loads((tmp_path / 'run/predictions/walk.json').read_text())
    assert found['about']['refined'] == {'model': 'hanet', 'step': 5, 'look_ahead': look_ahead}
    shift = np.array([record['joints'] for record in found['frames']]) - [record['joints'] for record in plain['frames']]
    assert (shift[..., 0] > 3).all()
    np.testing.assert_allclose(shift[..., 1], 0, atol=0.02)
    assert [record['frame'] for record in found['frames']] == [*range(12)]


def test_bad_refinement(command, trained, monkeypatch, tmp_path, capfd):
    assert command('v.mp4', '--look_ahead', '3') == 2
    assert '--look_ahead needs --refine' in capfd.readouterr().err
    assert command('v.mp4', '--refine', str(tmp_path / 'none')) == 2
    assert 'none: not the folder of a run' in capfd.readouterr().err
    other = refinement.TrainedRefiner(None, 'jhmdb', {'weights': 'W2'})
    monkeypatch.setattr(refinement, 'load', lambda found: other)
    assert command('v.mp4', '--refine', 'W2') == 2
    assert "--refine W2: refines poses of 'jhmdb'" in capfd.readouterr().err


def test_several_people_in_all_formats(command, write_video, tmp_path):
    """Two people of given tracks, one of whom goes, in every file that is written for a video."""
    video = write_video('walk.mp4', (pair(t) for t in range(6)))
    rows = [f'{t + 1},{i},{x - 20 + 3 * t},{30},{41},{61}' for i, x in ((4, 41), (9, 121)) for t in range(6) if i == 4 or t < 4]
    (tmp_path / 't.txt').write_text('\n'.join(rows))
    kinds = [kind for kind in videos.OUTPUTS if kind not in ('jsonl', 'window', 'mot', 'openpose')]
    assert command(str(video), '--tracks', str(tmp_path / 't.txt'), '--outputs', ','.join(kinds)) == 0
    out = tmp_path / 'run/predictions'
    written = {str(path.relative_to(out)) for path in out.rglob('*') if path.is_file()}
    assert written == {
        *(f'walk{suffix}' for suffix in ('.overlay.mp4', '.json', '.csv', '.coco.json', '.dlc.csv', '.h5')),
        *(f'walk_px_person{i}.trc' for i in (4, 9)),
    }
    data = json.loads((out / 'walk.json').read_text())
    assert data['frame_count'] == 6
    assert [(record['frame'], record['id']) for record in data['frames']] == [
        (t, i) for t in range(6) for i in (4, 9) if i == 4 or t < 4
    ]
    for record in data['frames']:
        place = (40 + 3 * record['frame'], 60) if record['id'] == 4 else (120 + 3 * record['frame'], 60)
        np.testing.assert_allclose(record['joints'], person(place), atol=1.0)
    table = (out / 'walk.dlc.csv').read_text().splitlines()
    assert table[1].split(',')[1] == '4'  # individuals


def test_openpose_has_a_folder(trained, skeleton, write_video, tmp_path):
    """Which is written again in its place."""
    model = dataclasses.replace(trained, skeleton=dataclasses.replace(skeleton, joints=('neck', 'l_wrist', 'r_wrist', 'pelvis')))
    video = write_video('walk.mp4', map(draw, WALK))
    for _ in range(2):
        people = [lambda config: OnePerson(np.array([[20, 30, 60, 90]], np.float32))]
        assert predict_videos(model, sources([video]), tmp_path / 'out', ['openpose'], people) == 0
    files = sorted(path.relative_to(tmp_path / 'out') for path in (tmp_path / 'out').rglob('*') if path.is_file())
    assert [str(file) for file in files] == [f'walk_openpose/walk_{t:012d}_keypoints.json' for t in range(12)]
    (one,) = json.loads((tmp_path / 'out' / files[3]).read_text())['people']
    np.testing.assert_allclose(np.reshape(one['pose_keypoints_2d'], (25, 3))[1, :2], person(WALK[3])[0], atol=1.0)


def pair(t: int) -> np.ndarray:
    one, other = draw((40 + 3 * t, 60)), draw((120 + 3 * t, 60))
    return np.where(other != 100, other, one)


def test_lines_go_to_standard_output_alone(command, write_video, tmp_path, capfd):
    video = write_video('walk.mp4', map(draw, WALK))
    assert command(str(video), '--box', '20,30,60,90', '--outputs', 'jsonl') == 0
    out, error = capfd.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert [(record['video'], record['frame'], record['id']) for record in records] == [(str(video), t, 1) for t in range(12)]
    assert 'walk.mp4: 12 frames' in error
    assert not (tmp_path / 'run/predictions').exists()


def test_poses_are_smoothed(command, write_video, tmp_path):
    video = write_video('walk.mp4', map(draw, WALK))
    given = ['--box', '20,30,60,90', '--outputs', 'json']
    assert command(str(video), *given) == 0
    raw = json.loads((tmp_path / 'run/predictions/walk.json').read_text())
    assert command(str(video), *given, '--smooth', 'gaussian:sigma=0.1') == 0
    smooth = json.loads((tmp_path / 'run/predictions/walk.json').read_text())
    assert smooth['about']['refined']['filter'].startswith('gaussian')
    arrays = [np.array([[*record['box'], record['time']] for record in data['frames']]) for data in (raw, smooth)]
    np.testing.assert_array_equal(*arrays)
    joints, smoothed = (np.array([record['joints'] for record in data['frames']]) for data in (raw, smooth))
    expected = parse_filter('gaussian:sigma=0.1')(joints, arrays[0][:, :4], arrays[0][:, 4])
    np.testing.assert_allclose(smoothed, expected, atol=0.02)
    assert np.abs(smoothed - joints).max() > 0.5


def live(images, stop_after: int | None = None) -> Source:
    """A source without an end of its own that Ctrl-C stops."""

    def frames(tolerant):
        for frame in filmed(itertools.cycle(images)):
            yield frame
            if stop_after is not None and round(frame.time * 25) == stop_after:
                os.kill(os.getpid(), signal.SIGINT)

    return Source('rtsp://camera', 'camera', None, frames)


def test_only_what_cannot_be_read_again_is_smoothed_by_the_past_alone(trained, write_video, tmp_path):
    video = write_video('walk.mp4', map(draw, WALK))
    once = Source('rtsp://camera', 'camera', None, lambda tolerant: read_frames(str(video)))
    people = [lambda config: OnePerson(np.array([[20, 30, 60, 90]], np.float32))] * 2
    smooth = videos.with_filter(trained, 'gaussian:sigma=0.1', live=False)
    assert predict_videos(smooth, [once, *sources([video])], tmp_path, ['json'], people) == 0
    refined = {name: json.loads((tmp_path / f'{name}.json').read_text())['about']['refined'] for name in ('camera', 'walk')}
    assert {name: about['look_ahead'] for name, about in refined.items()} == {'camera': 0, 'walk': None}
    joints = [
        np.array([record['joints'] for record in json.loads((tmp_path / f'{name}.json').read_text())['frames']])
        for name in ('camera', 'walk')
    ]
    assert np.abs(np.subtract(*joints)).max() > 0.5


def test_ctrl_c_leaves_whole_files_of_what_has_no_end(trained, tmp_path, capfd):
    source = live([draw(place) for place in WALK], stop_after=30)
    people = [lambda config: OnePerson(np.array([[20, 30, 60, 90]], np.float32))]
    with pytest.raises(SystemExit) as caught:
        run_command(predict_videos, trained, [source], tmp_path, ['overlay', 'json'], people)
    assert caught.value.code == 0
    data = json.loads((tmp_path / 'camera.json').read_text())
    assert data['frame_count'] == len(data['frames']) >= 25
    assert len(list(read_frames(tmp_path / 'camera.overlay.mp4'))) == data['frame_count']
    assert re.search(r'rtsp://camera: \d+ frames', capfd.readouterr().out)


def test_a_stream_that_is_refined_whole_is_refused(trained, tmp_path, capfd):
    model = dataclasses.replace(trained, refiner=PoseRefiner(np.float32(0), lambda w, poses, mask: poses, WindowConfig(3)))
    assert predict_videos(model, [live([draw((40, 60))])], tmp_path, ['json'], [lambda config: OnePerson()]) == 2
    assert 'rtsp://camera: cannot be read twice, as refining a whole video does; give --look_ahead' in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_names_of_any_bytes(command, write_video, tmp_path, capfd):
    video = write_video('walk.mp4', map(draw, WALK))
    for name in (os.fsdecode(b'caf\xe9.mp4'), 'a:b.mp4', '-dash.mp4', 'x' * 251 + '.mp4'):
        video = video.rename(tmp_path / name)
        assert command('--box', '20,30,60,90', '--', str(video)) == 0, name
        stem = name.removesuffix('.mp4')[:200]
        written = sorted(path.name for path in (tmp_path / 'run/predictions').iterdir() if path.name.startswith(stem))
        assert written == [f'{stem}{suffix}' for suffix in ('.coco.json', '.csv', '.json', '.overlay.mp4')]
        assert len(list(read_frames(tmp_path / 'run/predictions' / f'{stem}.overlay.mp4'))) == len(WALK)


def test_who_reads_the_lines_may_have_seen_enough(trained, write_video, tmp_path, monkeypatch):
    def closed(*args, **kwargs):
        raise BrokenPipeError(errno.EPIPE, 'Broken pipe')

    monkeypatch.setattr('kimnet_jax.inference.outputs.print', closed, raising=False)
    people = [lambda config: OnePerson()]
    with pytest.raises(BrokenPipeError) as caught:
        predict_videos(trained, sources([write_video('walk.mp4', map(draw, WALK))]), tmp_path / 'out', ['jsonl'], people)
    assert caught.value.filename is None  # so that the command ends without a word


class Screen:
    """OpenCV with windows."""

    error = cv2.error
    WND_PROP_VISIBLE = 4

    def __init__(self, keys):
        self.keys, self.shown = iter(keys), []

    def imshow(self, title, image):
        self.shown.append(image)

    def waitKey(self, milliseconds):  # noqa: N802
        return next(self.keys)

    def getWindowProperty(self, title, which):  # noqa: N802
        return 1.0

    def destroyWindow(self, title):  # noqa: N802
        self.shown.append(None)


def test_a_window_shows_the_overlay_until_it_is_closed(command, write_video, tmp_path, monkeypatch, capfd):
    video = write_video('walk.mp4', map(draw, WALK * 10))
    screen = Screen([255] * 20 + [ord('q')])
    monkeypatch.setattr('kimnet_jax.inference.outputs.opencv', lambda: screen)
    assert command(str(video), '--box', '20,30,60,90', '--outputs', 'window,json') == 0
    assert len(screen.shown) == 22
    assert screen.shown[-1] is None
    assert tuple(screen.shown[0][60, 28]) == (0, 128, 255)  # B G R: orange, the left hand
    count = json.loads((tmp_path / 'run/predictions/walk.json').read_text())['frame_count']
    assert 21 <= count < len(WALK) * 10


def test_without_a_screen_a_window_is_one_line(command, write_video, tmp_path, monkeypatch, capfd):
    screen = Screen([])
    screen.imshow = mock.Mock(side_effect=cv2.error('The function is not implemented'))
    monkeypatch.setattr('kimnet_jax.inference.outputs.opencv', lambda: screen)
    assert command(str(write_video('walk.mp4', map(draw, WALK))), '--outputs', 'window') == 2
    assert 'this OpenCV has no windows, or there is no screen; pip install' in capfd.readouterr().err
