"""COCO's object keypoint similarity (OKS) and its average precision, of poses that each have their own true person.

The rules are those of pycocotools' `COCOeval`. The true boxes are given, as in all evaluations here, so every pose is compared
with the person in its box. The area of a person is that of the box; COCO's own annotations have that of a mask, which is smaller.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kimnet_jax.core.types import Array, Clips, Prediction
from kimnet_jax.reporting.tables import number, percent, table

THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)


@dataclasses.dataclass(frozen=True)
class Similarities:
    """Of N persons in frames: `oks` float64 [N], and `scores` float64 [N], None where the poses have no scores."""

    oks: np.ndarray
    scores: np.ndarray | None


def similarity(prediction: Array, joints: Array, visible: Array, boxes: Array, sigmas: Sequence[float]) -> np.ndarray:
    """The OKS of poses.

    Args:
        prediction: [T, J, 2] pixels; a joint that is not finite counts 0.
        joints: [T, J, 2] the truth, same pixels.
        visible: bool [T, J], which joints count.
        boxes: [T, 4] the person, same pixels.
        sigmas: of the joints.

    Returns:
        float64 [T]; NaN where no joint counts.
    """
    prediction, joints, boxes = (np.asarray(part, np.float64) for part in (prediction, joints, boxes))
    visible = np.asarray(visible, bool)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1) + np.spacing(1)
    variance = (2 * np.asarray(sigmas, np.float64)) ** 2
    error = ((prediction - joints) ** 2).sum(-1) / variance / area[:, None] / 2
    value = np.where(np.isfinite(error), np.exp(-np.where(np.isfinite(error), error, 0)), 0)
    count = visible.sum(-1)
    return np.where(count > 0, np.where(visible, value, 0).sum(-1) / np.maximum(count, 1), np.nan)


def measure(truth: Clips, predictions: Iterable[Prediction]) -> Similarities:
    """The similarities of predicted poses; the score of a person is the mean of those of the joints."""
    oks, scores = [], []
    for clip, joints, joint_scores in predictions:
        example = truth[clip]
        found = similarity(joints, example['joints'], example['visible'], example['boxes'], truth.skeleton.sigmas)
        counted = np.isfinite(found)
        oks.append(found[counted])
        if joint_scores is not None:
            scores.append(np.asarray(joint_scores, np.float64).mean(-1)[counted])
    return Similarities(np.concatenate(oks), np.concatenate(scores) if scores else None)


def summarise(found: Similarities) -> dict[str, float | None]:
    """`AP` over `THRESHOLDS`, `AP50`, `AP75`, `AR`, and `OKS`, the mean; None where nothing counts or nothing sorts the poses."""
    if not len(found.oks):
        return dict.fromkeys(('AP', 'AP50', 'AP75', 'AR', 'OKS'))
    hits = found.oks >= THRESHOLDS[:, None]  # [10, N]
    result: dict[str, float | None] = {'AP': None, 'AP50': None, 'AP75': None}
    if found.scores is not None:
        precision = [_average_precision(hit[np.argsort(-found.scores, kind='mergesort')]) for hit in hits]
        result = {'AP': float(np.mean(precision)), 'AP50': precision[0], 'AP75': precision[5]}
    return result | {'AR': float(hits.mean()), 'OKS': float(found.oks.mean())}


def _average_precision(hit: np.ndarray) -> float:
    """Of hits [N], the surest pose first: the precision at 101 shares of the persons found, each the best from there on."""
    true = np.cumsum(hit)
    precision = np.maximum.accumulate((true / (np.arange(len(hit)) + 1))[::-1])[::-1]
    places = np.searchsorted(true / len(hit), _RECALLS, side='left')
    return float(np.where(places < len(hit), precision[np.minimum(places, len(hit) - 1)], 0).mean())


def render(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of rows of `summarise`, as Markdown."""
    lines = [
        [name, *(percent(row[key]) for key in ('AP', 'AP50', 'AP75', 'AR')), number(row['OKS'], None, '.3f')]
        for name, row in rows.items()
    ]
    return '\n\n'.join(
        [
            '## Object keypoint similarity (COCO)',
            table(['', 'AP', 'AP50', 'AP75', 'AR', 'mean OKS'], lines),
            'In the true boxes; the area of a person is that of the box. AP and AR in percent, over OKS from 0.50 to 0.95.',
        ]
    )
