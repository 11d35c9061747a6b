"""Masks on the frames of a clip, for the occlusion studies of KIMNet (Sec. IV-E, Fig. 7 to 9).

They are placed and drawn in the original frames, before any crop, so that networks with different crops see the same.
"""

import dataclasses
import zlib
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Array, Clips, Example
from kimnet_jax.data_pipelines.clips import SomeClips, Window
from kimnet_jax.data_pipelines.transforms import Paint

Study: TypeAlias = Literal['temporal', 'spatial', 'joints', 'length']
Fill: TypeAlias = Literal['black', 'mean', 'noise', 'background']
FILLS: tuple[Fill, ...] = get_args(Fill)
MOST_JOINTS = 9  # that are masked at a time, in KIMNet's Fig. 9 and in training
SIDE = 0.15  # of a mask, over the longer side of the person's box
PLACES = 32  # among which the one for a patch of background is chosen


class Masks(NamedTuple):
    """The masks of a clip.

    Attributes:
        joints: of each mask the joint that it was placed on, M of them.
        rectangles: int64 [T, M, 4], pixels of the frame from (x0, y0) to before (x1, y1), none beyond its borders; all 0 where
            the mask is not drawn.
        occluded: bool [T, J], visible joints whose true position is under a mask, be it that of another joint.
    """

    joints: list[int]
    rectangles: np.ndarray
    occluded: np.ndarray


@dataclasses.dataclass(frozen=True)
class Occlusion:
    """What is hidden in every clip. All draws come from (seed, name of the clip), and but for `length` a larger count adds masks
    and moves none.

    Attributes:
        study: what is masked. `temporal`: `count` joints on one random frame (Fig. 7). `spatial`: `count` joints where they are
            in the first of all frames; the masks stay there (Fig. 8). `joints`: `count` joints in all frames; the masks follow
            (Fig. 9). `length`: one joint in `count` frames in a row, from a random one on; one that is visible in all of them
            where there is such.
        count: of the joints, or of the frames.
        seed: of the draws, 0 to 2**32 - 1.
        side: of the masks, which are squares about the true positions, over the longer side of the person's box in the frame.
        fill: `black`, the mean colour of the frame, noise, or a patch of the same frame outside the person's box.
        first_frame: the first frame is among those that may be masked; if not, networks see all joints once.

    Raises:
        InputError: a value out of range.
    """

    study: Study
    count: int
    seed: int = 0
    side: float = SIDE
    fill: Fill = 'black'
    first_frame: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (('study', self.study, get_args(Study)), ('fill', self.fill, get_args(Fill))):
            if value not in known:
                raise InputError(f'occlusion: {name} {value!r}; choose one of {", ".join(known)}')
        if self.count < 0:
            raise InputError(f'occlusion: count {self.count}; it must be 0 or more')
        if not 0 < self.side <= 1:
            raise InputError(f"occlusion: side {self.side}; it must be a share of the person's box, above 0 and at most 1")
        if not 0 <= self.seed < 2**32:
            raise InputError(f'occlusion: seed {self.seed}; it must be 0 to 2**32 - 1')

    @property
    def least_frames(self) -> int:
        """Frames that a clip needs."""
        return (self.count if self.study == 'length' else 1) + (not self.first_frame)

    def __str__(self) -> str:
        """For reports: size, fill, seed and whether first frames have masks."""
        first = 'the first frame included' if self.first_frame else 'none in the first frame'
        squares = f'squares of {self.side:g} of the longer side of the box about the true positions'
        return f'{squares}, fill `{self.fill}`, seed {self.seed}, {first}'

    def require(self, source: Clips) -> None:
        """Raises `InputError` where the clips have fewer joints than are to be masked, or too few frames."""
        if self.study != 'length' and self.count > source.skeleton.num_joints:
            raise InputError(f'occlusion of {self.count} joints: {source.skeleton.name} has {source.skeleton.num_joints}')
        shortest = min(source.lengths)
        if shortest < self.least_frames:
            raise InputError(
                f'{source.folder}: the shortest clip of {source.split!r} has {shortest} frames; to mask {self._words()} takes '
                f'{self.least_frames}'
            )

    def place(self, example: Example) -> Masks:
        """The masks of a clip; a joint that is not visible in a masked frame gets none there.

        Fewer than `count` joints where no more are visible in those frames. Raises `InputError` where the clip is too short.
        """
        joints, boxes = np.asarray(example['joints']), np.asarray(example['boxes'])
        visible: np.ndarray = np.asarray(example['visible'])
        T, J = visible.shape
        if self.least_frames > T:
            raise InputError(f'clip {example["clip"]!r}: {T} frames; to mask {self._words()} takes {self.least_frames}')
        rng = np.random.default_rng(self._entropy(example))
        order, frames = rng.permutation(J), self._frames(T, rng.random())
        limit = min(self.count, 1) if self.study == 'length' else self.count
        seen, throughout = (np.asarray(part) for part in (visible[frames].any(0), visible[frames].all(0)))
        if self.study == 'length' and throughout.any():
            seen = throughout
        chosen = np.asarray(order[seen[order]][:limit])
        shown = np.zeros((T, len(chosen)), bool)
        if self.study == 'spatial':
            shown[frames] = True
            at = np.argmax(visible[frames][:, chosen], 0) + frames.start  # the first frame in which the joint is visible
            at = np.broadcast_to(at, shown.shape)
        else:
            shown[frames] = visible[frames][:, chosen]
            at = np.broadcast_to(np.arange(T)[:, None], shown.shape)
        longer = (boxes[:, 2:] - boxes[:, :2]).max(-1)
        side = np.maximum(np.rint(self.side * longer[at]), 1)[..., None]  # [T, M, 1]
        low = np.floor(joints[at, chosen].astype(np.float64) - (side - 1) / 2 + 0.5)
        border = np.asarray(example['image_size'])[::-1]
        corners = np.concatenate([np.clip(low, 0, border), np.clip(low + side, 0, border)], -1).astype(int)
        rectangles = np.where(shown[..., None], corners, 0)
        points, masks = joints[:, :, None], rectangles[:, None]  # [T, J, 1, 2], [T, 1, M, 4]
        under = (points >= masks[..., :2] - 0.5) & (points < masks[..., 2:] - 0.5)
        return Masks(chosen.tolist(), rectangles, under.all(-1).any(-1) & visible)

    def __call__(self, example: Example) -> Paint:
        """For `loader.eval_batches`: (image uint8 [H, W, 3], index of the frame) -> the image with the masks of this clip."""
        rectangles = self.place(example).rectangles

        def paint(image: np.ndarray, frame: int) -> np.ndarray:
            rng = np.random.default_rng([*self._entropy(example), frame + 1])
            return draw_masks(image, rectangles[frame], self.fill, box=example['boxes'][frame], rng=rng)

        return paint

    def _entropy(self, example: Example) -> list[int]:
        return [self.seed, zlib.crc32(example['clip'].encode())]

    def _frames(self, length: int, draw: float) -> slice:
        """The frames with masks; `draw` in [0, 1) chooses where there is a choice."""
        first = 0 if self.first_frame else 1
        if self.study in ('spatial', 'joints'):
            return slice(first, length)
        count = 1 if self.study == 'temporal' else self.count
        start = first + int(draw * (length - first - count + 1))
        return slice(start, start + count)

    def _words(self) -> str:
        what = f'{self.count} frames in a row' if self.study == 'length' else 'a frame'
        return what if self.first_frame else f'{what} after the first'


def random_occlusion(example: Example, window: Window, rng: np.random.Generator) -> Paint:
    """A draw for training: masks of any fill follow 1 to `MOST_JOINTS` joints, in half of the windows not in the first frame."""
    fill, seed = FILLS[rng.integers(len(FILLS))], int(rng.integers(2**32))
    paint = Occlusion('joints', int(rng.integers(1, MOST_JOINTS + 1)), seed=seed, fill=fill, first_frame=True)(example)
    whole = window.first if window.count > 1 and rng.random() < 0.5 else -1
    return lambda image, frame: image if frame == whole else paint(image, frame)


def draw_masks(image: np.ndarray, rectangles: Array, fill: Fill, *, box: Array, rng: np.random.Generator) -> np.ndarray:
    """A copy of an image with filled rectangles.

    Args:
        image: uint8 [H, W, 3].
        rectangles: int [M, 4], from (x0, y0) to before (x1, y1), inside the image; empty ones are left out.
        fill: see `Occlusion`; a patch of background is, of `PLACES` random places, from the one with the least of the box.
        box: [4] of the person, pixels.
        rng: for noise and background.
    """
    painted = image.copy()
    for x0, y0, x1, y1 in np.asarray(rectangles).tolist():
        if x1 > x0 and y1 > y0:
            painted[y0:y1, x0:x1] = _filling(image, y1 - y0, x1 - x0, fill, box, rng)
    return painted


def _filling(image: np.ndarray, rows: int, columns: int, fill: Fill, box: Array, rng: np.random.Generator) -> np.ndarray | int:
    if fill == 'black':
        return 0
    if fill == 'mean':
        return np.rint(image.mean((0, 1))).astype(np.uint8)
    if fill == 'noise':
        return rng.integers(0, 256, (rows, columns, 3), np.uint8)
    height, width = image.shape[:2]
    low = np.stack([rng.integers(0, width - columns + 1, PLACES), rng.integers(0, height - rows + 1, PLACES)], -1)
    overlap = np.minimum(low + np.array([columns, rows]), box[2:]) - np.maximum(low, box[:2])
    x, y = low[np.argmin(np.maximum(overlap, 0).prod(-1))]
    return image[y : y + rows, x : x + columns]


def long_enough(source: Clips, frames: int) -> SomeClips:
    """The clips of a split that have at least so many frames. Raises `InputError` where there is none."""
    indices = [i for i, length in enumerate(source.lengths) if length >= frames]
    if not indices:
        raise InputError(f'{source.folder}: no clip of {source.split!r} has the {frames} frames that it takes')
    return SomeClips(source, indices)
