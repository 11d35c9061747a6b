"""OKS and its average precision against pycocotools, on the same poses."""

import contextlib
import io

import numpy as np
import pytest
from memory_clips import MemoryClips
from pycocotools import coco
from pycocotools.cocoeval import COCOeval

from kimnet_jax.core.skeleton import COCO
from kimnet_jax.reporting import oks


def coco_eval(joints, visible, boxes, poses, scores) -> np.ndarray:
    """AP, AP50, AP75 and AR of pycocotools, every person an image of its own."""
    truth, found = coco.COCO(), []
    annotations = []
    for i, (points, there, (x0, y0, x1, y1)) in enumerate(zip(joints, visible, boxes, strict=True)):
        common = {'image_id': i, 'category_id': 1, 'id': i + 1, 'bbox': [x0, y0, x1 - x0, y1 - y0]}
        keypoints = np.concatenate([points, 2.0 * there[:, None]], 1).ravel().tolist()
        area = float((x1 - x0) * (y1 - y0))
        annotations.append(common | {'keypoints': keypoints, 'num_keypoints': int(there.sum()), 'iscrowd': 0, 'area': area})
        keypoints = np.concatenate([poses[i], np.ones((17, 1))], 1).ravel().tolist()
        found.append({'image_id': i, 'category_id': 1, 'keypoints': keypoints, 'score': float(scores[i])})
    with contextlib.redirect_stdout(io.StringIO()):
        truth.dataset = {'images': [{'id': i} for i in range(len(joints))], 'categories': [{'id': 1}], 'annotations': annotations}
        truth.createIndex()
        truth.dataset['info'] = {}
        evaluation = COCOeval(truth, truth.loadRes(found), 'keypoints')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[[0, 1, 2, 5]]


@pytest.mark.parametrize('seed', range(4))
def test_average_precision_is_that_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    clips, frames = 7, 9
    joints = rng.uniform(20, 180, (clips, frames, 17, 2))
    visible = rng.random((clips, frames, 17)) < 0.7
    visible[0, :2] = False  # persons of whom nothing counts
    visible[..., 0] |= ~visible.any(-1) & (np.arange(frames) > 1)
    boxes = np.concatenate([rng.uniform(0, 20, (clips, frames, 2)), rng.uniform(120, 200, (clips, frames, 2))], -1)
    noise = rng.normal(size=joints.shape) * rng.uniform(0, 14, (clips, frames, 1, 1))
    scores = rng.random((clips, frames, 17))
    source = MemoryClips(
        [{'joints': joints[i], 'visible': visible[i], 'boxes': boxes[i], 'clip': str(i)} for i in range(clips)], COCO
    )
    found = oks.summarise(oks.measure(source, [(i, joints[i] + noise[i], scores[i]) for i in reversed(range(clips))]))
    order = np.arange(clips)[::-1]
    flat = [part[order].reshape(-1, *part.shape[2:]) for part in (joints, visible, boxes, joints + noise, scores.mean(-1))]
    assert 0.05 < found['AP'] < 0.95
    np.testing.assert_allclose([found[key] for key in ('AP', 'AP50', 'AP75', 'AR')], coco_eval(*flat), atol=1e-12)


def test_similarity_by_hand():
    joints, boxes = np.zeros((1, 2, 2)), np.array([[0.0, 0, 10, 20]])
    prediction = np.array([[[6.0, 8], [np.nan, 0]]])
    # distance 10, sigma 0.5: exp(-100 / (2 * 1**2 * 200)) = exp(-0.25); the other joint is missing: 0
    assert oks.similarity(prediction, joints, [[True, True]], boxes, [0.5, 0.5]) == pytest.approx([np.exp(-0.25) / 2])
    assert oks.similarity(prediction, joints, [[True, False]], boxes, [0.5, 0.5]) == pytest.approx([np.exp(-0.25)])
    assert np.isnan(oks.similarity(prediction, joints, [[False, False]], boxes, [0.5, 0.5])).all()


def test_poses_without_scores_have_no_order_and_no_average_precision():
    found = oks.summarise(oks.Similarities(np.array([0.4, 0.7, 1.0]), None))
    assert found == {'AP': None, 'AP50': None, 'AP75': None, 'AR': pytest.approx(15 / 30), 'OKS': pytest.approx(0.7)}
    assert '| mean pose |   - |    - |    - | 50.0 |    0.700 |' in oks.render({'mean pose': found})
    assert oks.summarise(oks.Similarities(np.empty(0), None))['OKS'] is None
