"""A window's encoded frames to the network's input: crop, scale, rotation and flip as one warp per frame."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import apply_affine, crop_matrix, square_of_box
from kimnet_jax.core.image import decode_image, opencv, warp
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array, Example
from kimnet_jax.data_pipelines.clips import Window

Draw: TypeAlias = Literal['uniform', 'clipped_normal']
Paint: TypeAlias = Callable[[np.ndarray, int], np.ndarray]  # (image uint8 [H, W, 3], index of the frame) -> such an image
ROTATED = 0.6  # share of the windows that `clipped_normal` rotates
CLOSEUP = (1.6, 4.0)  # range of the further magnification of a part of the person


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a window looks like. Raises `InputError` naming the field that is out of range.

    Attributes:
        frames: T, contiguous frames of a training window.
        input_size: rows and columns of the crop, pixels.
        box_scale: side of the crop over the longer side of the person's box.
        augment_draw: how scale and rotation are drawn from their ranges: `uniform` (KIMNet Sec. IV-A), or `clipped_normal`
            (SimpleBaseline): the side of the crop, and for 60 % of the windows the rotation, are normal about the middle of their
            range and clipped to it, its ends one standard deviation away for the side and two for the rotation.
        augment_scale: range of the random magnification of the person.
        augment_rotation: range of the random rotation, +- degrees.
        augment_flip: probability of mirroring.
        augment_shift: range of the random shift of the crop, +- this share of its side; not in the paper: in use, boxes are never
            centred as truly.
        augment_colour: range of the random gain of each colour channel, +- this share, and of brightness, +- half of it.
        augment_closeup: share of the windows that show a part of the person, magnified up to four times about a joint.
        augment_occlusion: share of the windows in which masks hide up to nine joints; the paper has masks in tests only.
        augment_background: share of the windows without a person, in which the network learns to find nobody.
    """

    frames: int = 5
    input_size: int = 256
    box_scale: float = 1.25
    augment_draw: Draw = 'uniform'
    augment_scale: tuple[float, float] = (0.8, 1.4)
    augment_rotation: float = 40.0
    augment_flip: float = 0.5
    augment_shift: float = 0.05
    augment_colour: float = 0.2
    augment_closeup: float = 0.05
    augment_occlusion: float = 0.0
    augment_background: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(
            'data',
            self,
            frames=(1, 10_000),
            input_size=(1, 4096),
            box_scale=(0.1, 10),
            augment_scale=(0.1, 10),
            augment_rotation=(0, 180),
            augment_flip=(0, 1),
            augment_shift=(0, 0.5),
            augment_colour=(0, 1),
            augment_closeup=(0, 1),
            augment_occlusion=(0, 1),
            augment_background=(0, 1),
        )
        low, high = self.augment_scale
        if low > high:
            raise InputError(f'config.data.augment_scale={self.augment_scale}: must be (lowest, highest)')


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One draw, the same for all frames of a window.

    Attributes:
        scale: magnification of the person.
        rotation: degrees, positive turns the picture counter-clockwise.
        flip: mirror left and right, after the rotation.
        shift: of the crop's centre to the right and down, shares of its side.
        gain: factor of every colour channel, R G B.
        brightness: what is added to them all, share of the range.
    """

    scale: float = 1.0
    rotation: float = 0.0
    flip: bool = False
    shift: tuple[float, float] = (0.0, 0.0)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    brightness: float = 0.0


def draw_augmentation(config: DataConfig, rng: np.random.Generator) -> Augmentation:
    """Scale and rotation as `augment_draw` says, a coin for the flip, a uniform shift, uniform colours."""
    low, high = config.augment_scale
    if config.augment_draw == 'uniform':
        scale = rng.uniform(low, high)
        rotation = rng.uniform(-config.augment_rotation, config.augment_rotation)
    else:
        shortest, longest = 1 / high, 1 / low  # side of the crop
        scale = 1 / np.clip(rng.normal((shortest + longest) / 2, (longest - shortest) / 2), shortest, longest)
        rotation = np.clip(rng.normal(0, config.augment_rotation / 2), -config.augment_rotation, config.augment_rotation)
        rotation *= rng.random() < ROTATED
    drawn = Augmentation(
        scale=float(scale),
        rotation=float(rotation),
        flip=bool(rng.random() < config.augment_flip),
        shift=(
            rng.uniform(-config.augment_shift, config.augment_shift),
            rng.uniform(-config.augment_shift, config.augment_shift),
        ),
    )
    if not config.augment_colour:
        return drawn
    reach = config.augment_colour
    red, green, blue = rng.uniform(1 - reach, 1 + reach) * rng.uniform(1 - reach / 2, 1 + reach / 2, 3)
    return dataclasses.replace(drawn, gain=(red, green, blue), brightness=rng.uniform(-reach, reach) / 2)


def closeup(
    example: Example, window: Window, config: DataConfig, augmentation: Augmentation, rng: np.random.Generator
) -> Augmentation:
    """The augmentation magnified about a joint that is visible in the middle of the window; unchanged where none is."""
    middle = window.first + window.count // 2
    visible = np.flatnonzero(example['visible'][middle])
    if not len(visible):
        return augmentation
    scale = augmentation.scale * rng.uniform(*CLOSEUP)
    centre, side = square_of_box(example['boxes'][middle], config.box_scale / scale)
    x, y = (example['joints'][middle, rng.choice(visible)] - centre) / side + rng.uniform(-0.25, 0.25, 2)
    return dataclasses.replace(augmentation, scale=scale, shift=(float(x), float(y)))


def crop_window(
    example: Example,
    window: Window,
    frames: int,
    config: DataConfig,
    *,
    skeleton: Skeleton,
    folder: pathlib.Path,
    augmentation: Augmentation = Augmentation(),
    paint: Paint = lambda image, frame: image,
) -> dict[str, Array]:
    """The crops of a window and its joints in them. Only the window's own frames are decoded.

    Joints that come to lie outside the crop keep their coordinates and their visibility.

    Args:
        example: the clip (`core.types`).
        window: which of its frames; repeated at the end up to `frames`.
        frames: T.
        config: size of the crop and of the box.
        skeleton: says which joints change places in a mirrored image.
        folder: of the data set, for the error.
        augmentation: one for the whole window.
        paint: changes a whole frame before it is cropped.

    Returns:
        frames uint8 [T, H, W, 3] RGB; joints float32 [T, J, 2] crop pixels; visible bool [T, J]; mask bool [T], False where
        a frame is repeated; frame int32 [T], its index in the clip; matrix float64 [T, 2, 3], original pixels to crop pixels.

    Raises:
        InputError: a frame is no readable image; names data set, clip and frame.
    """
    rows = range(window.first, window.first + window.count)
    centre, side = square_of_box(example['boxes'][rows], config.box_scale / augmentation.scale)
    centre = centre + side[:, None] * np.asarray(augmentation.shift)
    size = config.input_size
    matrix = crop_matrix(centre, side, size, rotation=augmentation.rotation, flip=augmentation.flip)
    images = np.empty((frames, size, size, 3), np.uint8)
    for i, row in enumerate(rows):
        name = f'{folder}: clip {example["clip"]!r}, frame {row}'
        warp(paint(decode_image(example['frames'][row], name), row), matrix[i], size, out=images[i])
    if augmentation.brightness or augmentation.gain != (1.0, 1.0, 1.0):
        _recolour(images[: window.count], augmentation)
    images[window.count :] = images[window.count - 1]
    joints, visible = apply_affine(matrix, example['joints'][rows]), example['visible'][rows]
    if augmentation.flip:
        joints, visible = joints[:, skeleton.flip_order], visible[:, skeleton.flip_order]
    repeat = np.minimum(np.arange(frames), window.count - 1)
    return {
        'frames': images,
        'joints': joints[repeat],
        'visible': visible[repeat],
        'mask': np.arange(frames) < window.count,
        'frame': (window.first + repeat).astype(np.int32),
        'matrix': matrix[repeat],
    }


def _recolour(images: np.ndarray, augmentation: Augmentation) -> None:
    """Changes uint8 [T, H, W, 3] in place."""
    levels = np.arange(256)[:, None] * np.asarray(augmentation.gain) + 255 * augmentation.brightness
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]
    for image in images:
        opencv().LUT(image, table, dst=image)
