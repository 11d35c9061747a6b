"""The box of the person in every frame: it follows the last pose, and is searched for where the pose is lost. NumPy only."""

import csv
import dataclasses
import pathlib

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_text
from kimnet_jax.core.geometry import box_of_points
from kimnet_jax.core.json_files import parse_json
from kimnet_jax.core.types import Array

SMALLEST_BOX = 8  # pixels, its longer side
LARGEST_BOX = 10  # times the longer side of the image


@dataclasses.dataclass(frozen=True)
class TrackerConfig:
    """How the box follows the pose.

    Attributes:
        margin: widening of the joints' extent at every edge, as a share of its longer side. People reach beyond their joints
            (scalp, hands, feet): the boxes of JHMDB's masks and of Penn Action lie on average 0.05 to 0.07 outside the joints at
            the sides, 0.09 to 0.11 above and below.
        smoothing: share of the last box's size that the next one keeps. The centre is not smoothed: it would lag behind a runner.
        joint_score: a joint whose heatmap peaks lower is unsure and does not shape the box (a learned target peaks at 1).
        pose_score: a pose whose mean score is lower is unsure.
        pose_share: a pose with a smaller share of sure joints is unsure.
        patience: unsure poses in a row after which the person is lost; until then the box waits where it is.
        widening: factor by which the searched box grows with every frame, up to the whole image.
        min_side: pixels; a pose whose extent, or whose box within the image, is smaller is unsure.
        same_view: where a box overlaps the last one less (intersection over union), the recursion starts anew.
    """

    margin: float = 0.1
    smoothing: float = 0.5
    joint_score: float = 0.1
    pose_score: float = 0.2
    pose_share: float = 0.5
    patience: int = 3
    widening: float = 2.0
    min_side: float = 8.0
    same_view: float = 0.4


class Tracker:
    """The person's box in the next frame, from the poses so far.

    Attributes:
        box: float32 [4], where to look in the next frame, pixels of the original frame.
        restart: whether the recursion has to start anew there: its state lives in the crop, and means nothing in another view.
        lost: whether the person is being searched for.
    """

    def __init__(self, box: Array, image_size: tuple[int, int], config: TrackerConfig | None = None):
        """Starts at `box` [4] in images of (rows, columns)."""
        self.box = np.asarray(box, np.float32)
        self.restart = True
        self.lost = False
        self._config = config or TrackerConfig()
        self._image = whole_image(image_size)
        self._unsure = 0

    def update(self, joints: Array, scores: Array) -> None:
        """Takes in the pose found in the current box: joints [J, 2] original pixels, scores [J]."""
        last, pose_box = self.box, self._box_of_pose(joints, scores)
        if pose_box is not None:
            self._unsure, self.lost, self.box = 0, False, pose_box
            self.restart = self.in_another_view(pose_box, last)
            return
        self._unsure += 1
        self.lost = self.lost or self._unsure >= self._config.patience
        self.restart = self.lost
        if self.lost:
            self.box = self._widened()

    def in_another_view(self, box: Array, last: Array) -> bool:
        """Whether a box [4] lies so far from the last one that the recursion cannot go on."""
        return overlap(box, last) < self._config.same_view

    def _box_of_pose(self, joints: Array, scores: Array) -> np.ndarray | None:
        """Box [4] of a pose, or None where the pose is unsure or its box is none."""
        config = self._config
        sure = np.asarray(scores) >= config.joint_score
        if np.mean(scores) < config.pose_score or sure.mean() < config.pose_share:
            return None
        extent = box_of_points(joints, sure)
        size = extent[2:] - extent[:2]
        if size.max() < config.min_side:
            return None
        wide = size + 2 * config.margin * size.max()
        if not (self.restart or self.lost):  # smooth only where the last box was a pose's too
            wide += config.smoothing * (self.box[2:] - self.box[:2] - wide)
        centre = (extent[:2] + extent[2:]) / 2
        box = np.concatenate([centre - wide / 2, centre + wide / 2])
        box = self._within_image(box)
        return box if (box[2:] - box[:2]).min() >= config.min_side else None

    def _widened(self) -> np.ndarray:
        """The box [4] to search after the present one: a square of its longer side times `widening`, within the image."""
        centre, half = (self.box[:2] + self.box[2:]) / 2, (self.box[2:] - self.box[:2]).max() / 2 * self._config.widening
        return self._within_image(np.concatenate([centre - half, centre + half]))

    def _within_image(self, box: np.ndarray) -> np.ndarray:
        return np.concatenate([np.maximum(box[:2], self._image[:2]), np.minimum(box[2:], self._image[2:])]).astype(np.float32)


def whole_image(image_size: tuple[int, int]) -> np.ndarray:
    """float32 [4], the box of an image of (rows, columns), from the first pixel centre to the last."""
    rows, columns = image_size
    return np.array([0, 0, columns - 1, rows - 1], np.float32)


def overlap(a: Array, b: Array) -> float:
    """Intersection over union of two boxes [4]."""
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    union = np.prod(np.subtract(a[2:], a[:2])) + np.prod(np.subtract(b[2:], b[:2])) - shared
    return float(shared / union) if union > 0 else 0.0


def parse_box(text: str) -> np.ndarray:
    """`x0,y0,x1,y1` (pixels) to float32 [1, 4]. Raises `InputError` where it is something else."""
    return _boxes([text.split(',')], f'--box {text}')


def read_boxes(path: str | pathlib.Path) -> np.ndarray:
    """Boxes of a file: JSON `{"boxes": [[x0, y0, x1, y1], ...]}`, the bare JSON list, or CSV with four columns.

    Returns:
        float32 [N, 4], pixels of the original frame.

    Raises:
        InputError: naming the file, and the row where one is wrong.
    """
    path = pathlib.Path(path)
    text = read_text(path, 'file of boxes', 'utf-8-sig')
    if text.lstrip()[:1] not in ('[', '{'):
        rows = [row for row in csv.reader(text.splitlines()) if row]
        header = bool(rows) and [name.strip() for name in rows[0]] == ['x0', 'y0', 'x1', 'y1']
        return _boxes(rows[header:], str(path))
    data = parse_json(text, str(path))
    if isinstance(data, dict):
        if 'boxes' not in data:
            raise InputError(f'{path}: no field \'boxes\'; expected {{"boxes": [[x0, y0, x1, y1], ...]}}')
        data = data['boxes']
    return _boxes(data, f"{path}: field 'boxes'")


def _boxes(rows: object, source: str) -> np.ndarray:
    if not isinstance(rows, list) or not rows:
        raise InputError(f'{source}: no boxes in it')
    boxes = np.empty((len(rows), 4), np.float32)
    for i, row in enumerate(rows):
        try:
            x0, y0, x1, y1 = (float(value) for value in (row if isinstance(row, list) else ()))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f'{source}: box {i} is {row!r}, expected four numbers x0, y0, x1, y1 (pixels)') from error
        boxes[i] = x0, y0, x1, y1
        if not np.isfinite(boxes[i]).all():
            raise InputError(f'{source}: box {i} is {boxes[i].tolist()}: its numbers must be finite')
    if boxes.min() >= 0 and boxes.max() <= 1:
        raise InputError(
            f'{source}: box 0 is {boxes[0].tolist()}: these look like shares of the image; '
            'give pixels (x times its width, y times its height)'
        )
    wrong = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(-1))
    if len(wrong):
        i = wrong[0]
        hint = '; if these are x, y, width and height, give x + width and y + height' if (boxes[:, 2:] > 0).all() else ''
        raise InputError(f'{source}: box {i} is {boxes[i].tolist()}: x1 must be greater than x0, and y1 than y0{hint}')
    return boxes


def check_boxes(boxes: np.ndarray, image_size: tuple[int, int], source: str) -> None:
    """Raises `InputError` naming `source` where a box [N, 4] is no place of a person in an image of (rows, columns).

    Its middle has to be in the image, and its longer side to have `SMALLEST_BOX` pixels to `LARGEST_BOX` times the image's longer
    one.
    """
    rows, columns = image_size
    boxes = np.asarray(boxes, np.float64)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    outside = np.flatnonzero(((middle < 0) | (middle > [columns - 1, rows - 1])).any(-1))
    if len(outside):
        i = outside[0]
        raise InputError(
            f'{source}: box {i} is {boxes[i].tolist()}, outside the {columns}x{rows} image; give x0,y0,x1,y1 in pixels'
        )
    side = (boxes[:, 2:] - boxes[:, :2]).max(-1)
    wrong = np.flatnonzero((side < SMALLEST_BOX) | (side > LARGEST_BOX * max(image_size)))
    if len(wrong):
        i = wrong[0]
        raise InputError(
            f'{source}: box {i} is {boxes[i].tolist()}, {side[i]:g} pixels long in a {columns}x{rows} image; '
            f'it must have {SMALLEST_BOX} pixels or more, and at most {LARGEST_BOX} times the image'
        )
