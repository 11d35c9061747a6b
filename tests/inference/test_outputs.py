import csv
import dataclasses
import errno
import json
import pathlib
import tracemalloc

import numpy as np
import pytest
from dots import draw, person

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.sources import open_source
from kimnet_jax.core.video import Frame, frame_rate, read_frames
from kimnet_jax.inference.outputs import SUFFIXES, PoseOutputs, output_stems
from kimnet_jax.inference.people import FramePose

RATE = 30000 / 1001  # of `write_video`


def poses(count: int) -> list[FramePose]:
    """One that moves by (1.25, 0) a frame; its last joint is unsure, and it is lost from frame 2 on."""
    scores, box = np.array([1, 0.75, 0.5, 0.05], np.float32), np.array([5, 10, 65, 90.5], np.float32)
    return [
        FramePose(t, person((40 + 1.25 * t, 60)), scores, box + np.float32(t / 4), t >= 2, time=t / RATE) for t in range(count)
    ]


@pytest.fixture
def outputs(tmp_path, skeleton):
    def make(video: pathlib.Path, kinds=tuple(SUFFIXES)) -> PoseOutputs:
        about = {'model': 'dots', 'checkpoint': 7}
        return PoseOutputs(
            tmp_path / 'out', video.stem, kinds, video=open_source(str(video)), skeleton=skeleton, model=about, joint_score=0.1
        )

    return make


@pytest.mark.parametrize('name', ['clip.mp4', 'clip'])
def test_files_are_valid_and_agree(outputs, write_video, tmp_path, skeleton, name):
    video = write_video(name, [draw((60, 60))] * 4)
    with outputs(video) as files:
        for frame, pose in zip(read_frames(video), poses(4), strict=True):
            files.write(frame, [dataclasses.replace(pose, time=frame.time)])
        assert not list((tmp_path / 'out').glob('clip*'))  # nothing to be seen before the end
    out = tmp_path / 'out'
    assert sorted(path.name for path in out.iterdir()) == ['clip.coco.json', 'clip.csv', 'clip.json', 'clip.overlay.mp4']

    rate = RATE if name == 'clip.mp4' else 25.0
    data = json.loads((out / 'clip.json').read_text())
    assert data['about'] == {
        'video': str(video),
        'width': 161,
        'height': 121,
        'rate': pytest.approx(rate),
        'model': 'dots',
        'checkpoint': 7,
        'skeleton': skeleton.described(),
        'joints': list(skeleton.joints),
    }
    assert [record['frame'] for record in data['frames']] == [0, 1, 2, 3]
    assert data['frames'][2] == {
        'frame': 2,
        'time': pytest.approx(2 / rate, abs=1e-6),
        'id': 1,
        'score': 0.575,
        'lost': True,
        'box': [5.5, 10.5, 65.5, 91.0],
        'joints': [[42.5, 40.0], [30.5, 60.0], [54.5, 60.0], [42.5, 80.0]],
        'scores': [1.0, 0.75, 0.5, 0.05],
    }
    assert (
        len((out / 'clip.json').read_text().splitlines()) == 1 + 1 + 4 + 2
    )  # about, the list's start, a line a pose, its end, the number of frames

    with (out / 'clip.csv').open() as file:
        rows = list(csv.DictReader(file))
    coco = json.loads((out / 'clip.coco.json').read_text())
    (category,) = coco['categories']
    assert category['keypoints'] == list(skeleton.joints)
    assert category['skeleton'] == [[1, 2], [1, 3], [1, 4]]
    assert [image['id'] for image in coco['images']] == [a['image_id'] for a in coco['annotations']] == [0, 1, 2, 3]
    assert [a['id'] for a in coco['annotations']] == [1, 2, 3, 4]
    assert coco['images'][3] == {
        'id': 3,
        'file_name': 'clip/000003.png' if name == 'clip.mp4' else '00003.png',
        'width': 161,
        'height': 121,
    }
    for record, row, annotation in zip(data['frames'], rows, coco['annotations'], strict=True):
        assert [float(row[f'{joint}_{axis}']) for joint in skeleton.joints for axis in 'xy'] == np.ravel(
            record['joints']
        ).tolist()
        assert [float(row[f'{joint}_score']) for joint in skeleton.joints] == record['scores']
        assert [float(row[key]) for key in ('x0', 'y0', 'x1', 'y1')] == record['box']
        assert (float(row['time']), int(row['id']), annotation['track_id']) == (record['time'], 1, 1)
        assert (int(row['frame']), float(row['score']), row['lost'] == '1') == (record['frame'], record['score'], record['lost'])
        points = np.reshape(annotation['keypoints'], (4, 3))
        np.testing.assert_array_equal(points[:, :2], record['joints'])
        np.testing.assert_array_equal(points[:, 2], [2, 2, 2, 1])
        x0, y0, x1, y1 = record['box']
        np.testing.assert_allclose(annotation['bbox'], [x0, y0, x1 - x0, y1 - y0])
        assert annotation['area'] == pytest.approx(60 * 80.5)

    overlay = [frame.image for frame in read_frames(out / 'clip.overlay.mp4')]
    assert [frame.shape for frame in overlay] == [(122, 162, 3)] * 4
    assert frame_rate(out / 'clip.overlay.mp4') == pytest.approx(rate)


def test_probabilities_of_calibrated_scores(write_video, tmp_path, skeleton):
    video = write_video('clip', [draw(None)])
    pose = dataclasses.replace(poses(1)[0], probabilities=np.array([0.98768, 0.5, 0.25, 0]))
    with PoseOutputs(
        tmp_path,
        'c',
        ('json', 'csv', 'coco'),
        video=open_source(str(video)),
        skeleton=skeleton,
        model={},
        joint_score=0.1,
        calibrated=True,
    ) as files:
        files.write(Frame(draw(None), 0.0), [pose])
    expected = [0.9877, 0.5, 0.25, 0.0]
    data = json.loads((tmp_path / 'c.json').read_text())
    assert data['about']['probabilities_within'] == '0.2 torso lengths'
    assert data['frames'][0]['probabilities'] == expected
    assert data['frames'][0]['scores'] == [1.0, 0.75, 0.5, 0.05]
    (row,) = csv.DictReader((tmp_path / 'c.csv').read_text().splitlines())
    assert [float(row[f'{joint}_probability']) for joint in skeleton.joints] == expected
    assert list(row)[-5] == 'damaged'
    assert json.loads((tmp_path / 'c.coco.json').read_text())['annotations'][0]['probabilities'] == expected


def test_only_the_kinds_asked_for(outputs, write_video, tmp_path):
    video = write_video('clip', [draw(None)])
    with outputs(video, ['csv']) as files:
        files.write(Frame(draw(None), 0.0), poses(1))
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['clip.csv']


def test_a_folder_in_the_way_of_one_file_is_told_before_anything_is_predicted(outputs, write_video, tmp_path):
    video = write_video('clip', [draw(None)])
    (tmp_path / 'out/clip.json').mkdir(parents=True)
    with pytest.raises(InputError, match=r'clip\.json: a folder is in the way of that file'), outputs(video):
        raise AssertionError
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['clip.json']
    (tmp_path / 'out/clip.json').rmdir()
    with pytest.raises(InputError, match=r'clip\.json: a folder is in the way'), outputs(video) as files:  # noqa: PT012
        files.write(Frame(draw(None), 0.0), poses(1))
        (tmp_path / 'out/clip.json').mkdir()
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['clip.json']


def test_an_error_leaves_nothing_new(outputs, write_video, tmp_path):
    video = write_video('clip', [draw(None)])
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/clip.csv').write_text('of an earlier run')
    with pytest.raises(InputError, match='breaks off'), outputs(video) as files:  # noqa: PT012
        files.write(Frame(draw(None), 0.0), poses(1))
        raise InputError('breaks off')
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['clip.csv']
    assert (tmp_path / 'out/clip.csv').read_text() == 'of an earlier run'


class FullDisk:
    """A file on a disk with little room."""

    def __init__(self, file, room: int):
        self._file, self._room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()

    def write(self, data):
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize('kind', list(SUFFIXES))
@pytest.mark.parametrize('room', [10, 500])  # full at once; in the middle or at the end
def test_full_disk(outputs, write_video, tmp_path, monkeypatch, kind, room):
    video = write_video('clip', [draw((60, 60))] * 6)
    opened = pathlib.Path.open

    def open_(path, mode='r', *args, **kwargs):
        file = opened(path, mode, *args, **kwargs)
        return FullDisk(file, room) if path.name.endswith(f'clip{SUFFIXES[kind]}') and 'w' in mode else file

    monkeypatch.setattr(pathlib.Path, 'open', open_)
    with pytest.raises(OSError, match='No space left') as caught, outputs(video) as files:  # noqa: PT012
        for pose in poses(6):
            files.write(Frame(draw((60, 60)), 0.0), [pose])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / 'out')
    assert not list((tmp_path / 'out').iterdir())


def test_memory_does_not_grow_with_the_video(outputs, write_video):
    """A thousand frames more than a hundred take no more memory: no frame (4 kB) and no record (100 bytes) is kept."""
    frame, (pose,) = Frame(draw(None, (33, 41)), 0.0), poses(1)
    video = write_video('clip.mp4', [frame.image])

    def peak(count: int) -> int:
        tracemalloc.start()
        with outputs(video) as files:
            for i in range(count):
                files.write(frame, [dataclasses.replace(pose, frame=i)])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(1100)  # fills NumPy's own pool of small arrays
    assert peak(1100) < peak(100) + 40_000


def test_a_file_where_the_folder_should_be(outputs, write_video, tmp_path):
    (tmp_path / 'out').write_text('')
    with pytest.raises(InputError, match='out: a file is in the way'), outputs(write_video('clip', [draw(None)])):
        pass


def test_output_stems(tmp_path):
    (tmp_path / 'b.d').mkdir()

    def stems(names, suffix):
        return output_stems([open_source(str(tmp_path / name)) for name in names], tmp_path, [suffix])

    assert stems(['a.mp4', 'b.d', 'b.avi'], '.csv') == ['a', 'b.d', 'b']
    with pytest.raises(InputError, match=r'x/a.mp4 and .*y/a.avi would both be written to .*a.csv'):
        stems(['x/a.mp4', 'y/a.avi'], '.csv')
    with pytest.raises(InputError, match=r'a.overlay.mp4 would be overwritten by the output of .*a.mp4'):
        stems(['a.mp4', 'a.overlay.mp4'], '.overlay.mp4')
