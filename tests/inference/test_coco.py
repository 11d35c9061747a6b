"""COCO's own reader on the file that `predict` writes."""

import contextlib
import io

import numpy as np
import pytest
from dots import draw, person

from kimnet_jax.core.sources import open_source
from kimnet_jax.core.video import read_frames
from kimnet_jax.inference.outputs import PoseOutputs
from kimnet_jax.inference.people import FramePose


def test_pycocotools_reads_it(write_video, tmp_path, skeleton):
    coco = pytest.importorskip('pycocotools.coco', reason='pycocotools is not installed')
    video = write_video('clip.mp4', [draw((60, 60))] * 3)
    scores, box = np.array([1, 0.75, 0.5, 0.05], np.float32), np.array([5, 10, 65, 90.5], np.float32)
    about = {'video': open_source(str(video)), 'skeleton': skeleton, 'model': {'model': 'dots'}, 'joint_score': 0.1}
    with PoseOutputs(tmp_path, 'clip', ['coco'], **about) as files:
        for t, frame in enumerate(read_frames(video)):
            found = [FramePose(t, person((40 + t, 60)), scores, box, False, time=frame.time, id=i) for i in range(1, t + 1)]
            files.write(frame, found)
    with contextlib.redirect_stdout(io.StringIO()):
        read = coco.COCO(str(tmp_path / 'clip.coco.json'))
    assert [len(read.getAnnIds(imgIds=[image])) for image in sorted(read.getImgIds())] == [0, 1, 2]
    (category,) = read.loadCats(read.getCatIds())
    assert category['keypoints'] == list(skeleton.joints)
    (annotation, _) = read.loadAnns(read.getAnnIds(imgIds=[2]))
    points = np.reshape(annotation['keypoints'], (-1, 3))
    np.testing.assert_allclose(points[:, :2], person((42, 60)), atol=0.006)
    assert points[:, 2].tolist() == [2, 2, 2, 1]
    assert annotation['bbox'] == [5, 10, 60, 80.5]
