"""Pairs of estimated and true pose sequences, and the training windows of a network that refines poses.

The estimates come from files (`pose_files`, `sequence_files`) or are made from the truth with noise. D is 2 (pixels), 3, or 6
(SMPL's rotations, `core.smpl`).
"""

import dataclasses
from collections.abc import Generator, Sequence
from typing import Literal, TypeAlias

import numpy as np

from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.pose_windows import Normalise, WindowConfig, fill_gaps, pad, reference_frame
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.smpl import Body
from kimnet_jax.core.types import Array, Batch, Clips, Pairs

Source: TypeAlias = Literal['noise', 'predictions', 'sequences']
Kind: TypeAlias = Literal['2d', '3d', 'smpl']
DIMS: dict[Kind, int] = {'2d': 2, '3d': 3, 'smpl': 6}  # numbers of a joint
_SHORT = 0.1  # share of training windows that are cut short, as they are at the beginning of a stream
_OUTLIER_RANGE = 1.25  # of the box, in which outliers lie


@dataclasses.dataclass(frozen=True)
class PoseConfig:
    """Where the pairs come from, and how they are augmented. Raises `InputError` naming the field that is out of range.

    Attributes:
        source: `noise` (made from the truth of `config.dataset`), `predictions` (files of `evaluate --predictions` or `predict`,
            with the truth of `config.dataset`) or `sequences` (DeciWatch's npz files, truth included).
        kind: `2d`; of `sequences` also `3d` or `smpl`, the rotations of SMPL's joints.
        train, eval: these files, or folders of them; several with commas between.
        allow_missing: leave out clips of the training split that the files of `predictions` have no poses of.
        train_truth, eval_truth: of `sequences`, the files with the truth.
        root: of `3d`, joints whose mean is the origin of each pose; none: poses stay where they are.
        smpl_file: of `smpl`, the file of the body model, by which rotations are measured as joints.
        normalise: see `WindowConfig`.
        augment_scale: (low, high) factor, uniform.
        augment_rotation: largest angle, degrees.
        augment_flip: share of windows that are mirrored, where the skeleton says which joints are left and right.
        augment_shift: largest shift, share of the box.
    """

    source: Source = 'noise'
    kind: Kind = '2d'
    train: str = ''
    eval: str = ''
    allow_missing: bool = False
    train_truth: str = ''
    eval_truth: str = ''
    root: tuple[int, ...] = ()
    smpl_file: str = ''
    normalise: Normalise = 'box'
    augment_scale: tuple[float, float] = (0.8, 1.25)
    augment_rotation: float = 30.0
    augment_flip: float = 0.5
    augment_shift: float = 0.05

    def __post_init__(self) -> None:
        needed = {'predictions': ('train', 'eval'), 'sequences': ('train', 'eval', 'train_truth', 'eval_truth')}
        for name in needed.get(self.source, ()):
            if not getattr(self, name):
                raise InputError(f'config.poses.{name}: name the file; config.poses.source={self.source!r} needs it')
        if self.kind != '2d' and self.source != 'sequences':
            raise InputError(f'config.poses.kind={self.kind!r}: only files of config.poses.source=sequences hold such poses')
        if self.kind != '2d' and self.normalise == 'image':
            raise InputError("config.poses.normalise='image': only poses in 2D lie in an image; choose 'box' or 'none'")
        if self.root and self.kind != '3d':
            raise InputError(f"config.poses.root={self.root}: belongs to config.poses.kind='3d'; set it to ()")
        if self.kind == 'smpl':
            self._check_smpl()
        check_ranges('poses', self, augment_scale=(0.1, 10), augment_rotation=(0, 180), augment_flip=(0, 1))
        check_ranges('poses', self, augment_shift=(0, 10), root=(0, 10_000))
        low, high = self.augment_scale
        if low > high:
            raise InputError(f'config.poses.augment_scale={self.augment_scale}: must be (lowest, highest)')

    def _check_smpl(self) -> None:
        if not self.smpl_file:
            raise InputError(
                "config.poses.smpl_file: name the file of the SMPL body model; config.poses.kind='smpl' needs it to turn "
                'rotations into joints. Nobody may pass it on: register at https://smpl.is.tue.mpg.de, and take the neutral '
                "model of 'SMPL for Python' (basicmodel_neutral_lbs_10_207_0_v1.1.0.pkl, also known as SMPL_NEUTRAL.pkl or .npz)"
            )
        if tuple(self.augment_scale) != (1.0, 1.0) or self.augment_shift:
            raise InputError(
                "config.poses.augment_scale and augment_shift: rotations have no size and no place; for config.poses.kind='smpl' "
                'they must be (1.0, 1.0) and 0.0'
            )


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """Errors like an estimator's. Raises `InputError` naming the field that is out of range.

    Attributes:
        jitter: standard deviation of each coordinate, share of the clip's median torso length.
        outliers: share of joints that lie anywhere about the person.
        swaps: share of pairs of left and right joints that change places in a frame.
        gaps: share of joints that are missing, in runs of `gap_length` frames.
        gap_length: frames.
    """

    jitter: float = 0.05
    outliers: float = 0.1
    swaps: float = 0.0
    gaps: float = 0.0
    gap_length: int = 8

    def __post_init__(self) -> None:
        check_ranges('noise', self, jitter=(0, 10), outliers=(0, 1), swaps=(0, 1), gaps=(0, 1), gap_length=(1, 100_000))


@dataclasses.dataclass(frozen=True)
class Estimates:
    """The poses that an estimator found in a clip.

    Attributes:
        clip: name.
        joints: float32 [T, J, D]; NaN where one is missing.
        scores: float32 [T, J].
        boxes: float32 [T, 2 * D] (low, high), where the person was looked for.
        image_size: int [2], (rows, columns); zeros where there is no image.
        shape: float32 [T, S], SMPL's coefficients of the person's shape; None: the mean shape.
        person: the id of the person in the video; None: the only one.
        frames: int [T], which frame of the video each is, one after the other; None: from 0 on.
        times: float64 [T], seconds; None: unknown.
        present: bool [T], False in frames that the person is not in: their joints are NaN, their boxes lie on lines; None: all.
    """

    clip: str
    joints: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    image_size: np.ndarray
    shape: np.ndarray | None = None
    person: int | str | None = None
    frames: np.ndarray | None = None
    times: np.ndarray | None = None
    present: np.ndarray | None = None

    def times_at(self, rate: float) -> np.ndarray:
        """The times float64 [T], or, where they are unknown, those of frames that come `rate` a second."""
        if self.times is not None:
            return self.times
        return (np.arange(len(self.joints)) if self.frames is None else self.frames) / rate


@dataclasses.dataclass(frozen=True)
class PosePair:
    """Estimates and the truth of the same clip.

    Attributes:
        estimates: what is to be refined.
        joints: float32 [T, J, D], the truth.
        visible: bool [T, J], which of them are annotated.
        boxes: float32 [T, 2 * D], the true ones.
        shape: as of the estimates, the true one.
    """

    estimates: Estimates
    joints: np.ndarray
    visible: np.ndarray
    boxes: np.ndarray
    shape: np.ndarray | None = None


class FixedPairs:
    """Pairs that are the same in every epoch."""

    def __init__(self, pairs: Sequence[PosePair], skeleton: Skeleton, body: Body | None = None):
        self.skeleton, self.names, self._pairs = skeleton, [pair.estimates.clip for pair in pairs], list(pairs)
        self.body = body

    def __len__(self) -> int:
        return len(self._pairs)

    def __call__(self, index: int, epoch: int = 0) -> PosePair:
        return self._pairs[index]


class NoisyPairs:
    """Pairs made from the truth of a built data set, every epoch anew; every draw comes from (seed, epoch, clip)."""

    def __init__(self, clips: Clips, noise: NoiseConfig, seed: int):
        fields = ('clip', 'joints', 'visible', 'boxes', 'image_size')  # not the frames, which stay on the disk
        self._examples = [{key: clips[i][key] for key in fields} for i in range(len(clips))]
        self.skeleton, self._noise, self._seed = clips.skeleton, noise, seed
        self.body: Body | None = None
        self.names = [example['clip'] for example in self._examples]

    def __len__(self) -> int:
        return len(self._examples)

    def __call__(self, index: int, epoch: int = 0) -> PosePair:
        example, rng = self._examples[index], np.random.default_rng([self._seed, epoch, index])
        joints, visible, boxes = (example[key] for key in ('joints', 'visible', 'boxes'))
        noisy = add_noise(joints, visible, boxes, self.skeleton, self._noise, rng)
        scores = np.isfinite(noisy).all(-1).astype(np.float32)
        return PosePair(Estimates(example['clip'], noisy, scores, boxes, example['image_size']), joints, visible, boxes)


def pair_with_truth(estimates: Sequence[Estimates], clips: Clips, source: str, *, allow_missing: bool = False) -> FixedPairs:
    """Finds the truth of each clip by its name.

    Raises:
        InputError: naming `source`, where a clip is not in the split, has other joints or frames, or the split has clips without
            estimates and that is not to be (`allow_missing`).
    """
    examples = {example['clip']: example for example in (clips[i] for i in range(len(clips)))}
    there = f'split {clips.split!r} of {clips.folder}'
    unknown = sorted({one.clip for one in estimates} - set(examples))
    if unknown:
        raise InputError(f'{source}: clip {unknown[0]!r} ({len(unknown)} such) is not in {there}; choose the split it is of')
    missing = sorted(set(examples) - {one.clip for one in estimates})
    if missing and not (allow_missing and estimates):
        raise InputError(f'{source}: no poses of clip {missing[0]!r} ({len(missing)} such) of {there}')
    pairs = []
    for one in estimates:
        example = examples[one.clip]
        if one.joints.shape != example['joints'].shape:
            raise InputError(
                f'{source}: clip {one.clip!r}: poses of shape {list(one.joints.shape)}, the truth has '
                f'{list(example["joints"].shape)} (frames, joints, coordinates)'
            )
        pairs.append(PosePair(one, example['joints'], example['visible'], example['boxes']))
    return FixedPairs(pairs, clips.skeleton)


def add_noise(
    joints: Array, visible: Array, boxes: Array, skeleton: Skeleton, noise: NoiseConfig, rng: np.random.Generator
) -> np.ndarray:
    """True poses made wrong.

    Args:
        joints: [T, J, 2] pixels.
        visible: bool [T, J]; a joint that is not visible and at (0, 0) was never annotated: it is missing.
        boxes: [T, 4] pixels.
        skeleton: names the torso and the pairs.
        noise: how wrong.
        rng: of all draws.

    Returns:
        float32 [T, J, 2], NaN where a joint is missing.
    """
    joints, boxes = np.asarray(joints, np.float64), np.asarray(boxes, np.float64)
    frames, count = joints.shape[:2]
    annotated = visible | (joints != 0).any(-1)
    start, end = skeleton.torso
    both = annotated[:, start] & annotated[:, end]
    torso = np.linalg.norm(joints[:, start] - joints[:, end], axis=-1)[both]
    size = (boxes[:, 2:] - boxes[:, :2]).max(-1)
    length = np.median(torso) if torso.size and np.median(torso) > 0 else 0.3 * np.median(size)
    result = joints + rng.normal(0, noise.jitter * length, joints.shape)

    swapped = rng.random((frames, len(skeleton.flip_pairs))) < noise.swaps
    pairs, order = np.array(skeleton.flip_pairs, int).reshape(-1, 2), np.tile(np.arange(count), (frames, 1))
    order[:, pairs] = np.where(swapped[..., None], pairs[:, ::-1], pairs)
    result, annotated = np.take_along_axis(result, order[..., None], 1), np.take_along_axis(annotated, order, 1)

    anywhere = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2 + _OUTLIER_RANGE * size[:, None, None] * (
        rng.random(joints.shape) - 0.5
    )
    result = np.where((rng.random((frames, count)) < noise.outliers)[..., None], anywhere, result)

    begins = np.cumsum(rng.random((frames, count)) < noise.gaps / noise.gap_length, 0)
    before = np.concatenate([np.zeros((noise.gap_length, count), int), begins])[:frames]
    missing = (begins > before) | ~annotated
    return np.where(missing[..., None], np.nan, result).astype(np.float32)


def train_batches(
    pairs: Pairs,
    config: PoseConfig,
    windows: WindowConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Endless batches: every clip once an epoch in a fresh order, one random window and augmentation of each.

    Every draw comes from (seed, epoch, clip), so a batch is a function of its number. Missing joints are filled in.

    Args:
        pairs: the clips.
        config: augmentation.
        windows: their length and normalisation.
        batch_size: B of all processes together.
        seed: 0 to 2**32 - 1.
        start_step: number of the first batch.
        process_index: which rows are wanted here.
        process_count: processes that share the batch.

    Returns:
        This process's rows of each batch, normalised: `estimated` and `poses` (the truth) float32 [B', L, C], `known` bool
        [B', L, C] which of it is, `mask` bool [B', L], `clip` int32 [B'], with C = J * D.
    """
    local = batch_size // process_count
    while True:
        rows = []
        for position in start_step * batch_size + process_index * local + np.arange(local):
            epoch, place = divmod(int(position), len(pairs))
            clip = int(np.random.default_rng([seed, epoch]).permutation(len(pairs))[place])
            rng = np.random.default_rng([seed, epoch, clip, 1])
            window = training_window(pairs(clip, epoch), config, windows, pairs.skeleton, rng)
            rows.append(window | {'clip': np.int32(clip)})
        yield {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        start_step += 1


def training_window(
    pair: PosePair, config: PoseConfig, windows: WindowConfig, skeleton: Skeleton, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A random window of a clip, normalised by the estimates' boxes and augmented: a row of `train_batches`."""
    estimates, length = pair.estimates, windows.length
    frames = len(pair.joints)
    count = min(length, frames)
    if rng.random() < _SHORT:
        count = int(rng.integers(min(2, count), count + 1))
    first = int(rng.integers(frames - count + 1))
    cut = slice(first, first + count)
    origin, unit = reference_frame(estimates.boxes[cut], estimates.image_size, windows.normalise)
    origin = origin + unit * rng.uniform(-config.augment_shift, config.augment_shift, unit.shape)
    turn, order = _augmentation(config, pair.joints.shape[-1], skeleton, rng)
    middle = 0.5 if windows.normalise == 'image' else 0.0

    def coordinates(joints: np.ndarray) -> np.ndarray:
        points = (((joints[cut] - origin) / unit - middle)[..., None, :] @ turn.mT)[..., 0, :][:, order] + middle
        return pad(points.reshape(count, -1), length)[0].astype(np.float32)

    mask = np.arange(length) < count
    known = pad(np.repeat(pair.visible[cut][:, order], pair.joints.shape[-1], -1), length)[0]
    poses = coordinates(np.nan_to_num(pair.joints))
    return {'estimated': coordinates(fill_gaps(estimates.joints)), 'poses': poses, 'known': known, 'mask': mask}


def _augmentation(
    config: PoseConfig, dims: int, skeleton: Skeleton, rng: np.random.Generator
) -> tuple[np.ndarray, Sequence[int]]:
    """(a matrix [J, D, D] for each joint, order of the joints): rotation in the plane of x and y, scale, mirror."""
    angle = np.deg2rad(rng.uniform(-config.augment_rotation, config.augment_rotation))
    turn = np.eye(min(dims, 3)) * rng.uniform(*config.augment_scale)
    turn[:2, :2] = turn[:2, :2] @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    flip = rng.random() < config.augment_flip and bool(skeleton.flip_pairs)
    mirror = np.eye(min(dims, 3))
    mirror[0, 0] = -1 if flip else 1
    if dims == 6:  # of a rotation's two columns; only the pelvis turns with the body, and the mirror is on both sides
        turns = np.tile(np.kron(mirror, mirror[:2, :2]), (skeleton.num_joints, 1, 1))
        turns[0] = np.kron(mirror @ turn, mirror[:2, :2])
    else:
        turns = np.tile(mirror @ turn, (skeleton.num_joints, 1, 1))
    return turns, list(skeleton.flip_order if flip else range(skeleton.num_joints))


def overlapping(train: Pairs, evaluation: Pairs) -> list[str]:
    """Names of the clips that are in both."""
    return sorted(set(train.names) & set(evaluation.names))
