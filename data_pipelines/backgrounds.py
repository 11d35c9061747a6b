"""Training windows without a person, so that the network learns to say that nobody is there."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from kimnet_jax.core.geometry import square_of_box
from kimnet_jax.core.image import opencv
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array, Example
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.transforms import Augmentation, DataConfig, crop_window

SIDES = (0.3, 1.0)  # of a crop beside the person, over the side of the person's own
TRIES = 20  # places that are looked at for such a crop
OVERLAP = 0.1  # largest share of it that the person's box may cover
TILES = (6, 12)  # least and most tiles along a side of a shuffled crop
SHARES = {'elsewhere': 0.45, 'shuffled': 0.25, 'flat': 0.1, 'noise': 0.1, 'pattern': 0.1}  # of the kinds


def background_window(
    example: Example,
    window: Window,
    config: DataConfig,
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    skeleton: Skeleton,
    folder: pathlib.Path,
    kind: str | None = None,
) -> dict[str, Array]:
    """A window in which there is no person.

    The kinds: a part of the clip's own frames beside the person, `elsewhere`; the person's crop cut into tiles that are
    `shuffled`; and pictures that are no photograph: `flat` colours, `noise`, a `pattern`.

    Args:
        kind: one of them; None: drawn by `SHARES`, with tiles where there is no place beside the person.

    Returns:
        The keys of `crop_window` but `frame` and `matrix`. All joints lie outside of the crop and count as visible: their target
        is known, and it is that they are not there.

    Raises:
        LookupError: `kind` is `elsewhere`, and there is no such place.
    """
    given, kind = kind, kind or rng.choice(list(SHARES), p=list(SHARES.values()))
    square = _beside(example, window, config, rng) if kind == 'elsewhere' else None
    if given == 'elsewhere' and square is None:
        raise LookupError(f'{example["clip"]}: no place beside the person')
    if kind in ('elsewhere', 'shuffled'):
        place: dict[str, Any] = {'skeleton': skeleton, 'folder': folder, 'augmentation': augmentation}
        if square is not None:
            boxes = np.broadcast_to(square, example['boxes'].shape)
            plain = dataclasses.replace(config, box_scale=1.0)
            place['augmentation'] = dataclasses.replace(augmentation, scale=1.0, shift=(0.0, 0.0))
            frames = crop_window(example | {'boxes': boxes}, window, config.frames, plain, **place)['frames']
        else:
            frames = _shuffled(crop_window(example, window, config.frames, config, **place)['frames'], rng)
    else:
        draw = {'flat': _flat, 'noise': _noise, 'pattern': _pattern}[kind]
        frames = draw(config.frames, config.input_size, rng)
    shape = (config.frames, skeleton.num_joints)
    return {
        'frames': frames,
        'joints': np.full((*shape, 2), -float(config.input_size), np.float32),
        'visible': np.ones(shape, bool),
        'mask': np.arange(config.frames) < window.count,
    }


def _beside(example: Example, window: Window, config: DataConfig, rng: np.random.Generator) -> np.ndarray | None:
    """A square [4] within the image that leaves the person out in every frame of the window; None where none was found."""
    rows = slice(window.first, window.first + window.count)
    boxes, joints, visible = (example[key][rows] for key in ('boxes', 'joints', 'visible'))
    height, width = example['image_size']
    longest = min(float(square_of_box(boxes, config.box_scale)[1].max()), height, width)
    for _ in range(TRIES):
        side = longest * rng.uniform(*SIDES)
        low = rng.uniform([0, 0], [width - side, height - side]) - 0.5
        high = low + side
        shared = np.clip(np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low), 0, None).prod(-1)
        within = ((joints >= low) & (joints <= high)).all(-1) & visible
        if shared.max() <= OVERLAP * side**2 and not within.any():
            return np.concatenate([low, high]).astype(np.float32)
    return None


def _shuffled(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 [T, H, W, 3] with its tiles in another order, the same in all frames; what does not fill a tile is left as it is."""
    tiles = int(rng.integers(TILES[0], TILES[1] + 1))
    t, size = frames.shape[0], frames.shape[1]
    tile = size // tiles
    inner = frames[:, : tiles * tile, : tiles * tile]
    blocks = inner.reshape(t, tiles, tile, tiles, tile, 3).swapaxes(2, 3).reshape(t, tiles**2, tile, tile, 3)
    blocks = blocks[:, rng.permutation(tiles**2)].reshape(t, tiles, tiles, tile, tile, 3).swapaxes(2, 3)
    shuffled = frames.copy()
    shuffled[:, : tiles * tile, : tiles * tile] = blocks.reshape(inner.shape)
    return shuffled


def _flat(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """One colour, black in every third draw."""
    colour = rng.integers(0, 256, 3) if rng.random() > 1 / 3 else np.zeros(3)
    return np.broadcast_to(colour.astype(np.uint8), (count, size, size, 3)).copy()


def _noise(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of grains of 1 to 32 pixels, grey or coloured, still or moving."""
    cells = max(size // int(2 ** rng.uniform(0, 5)), 2)
    drawn = rng.integers(0, 256, (count if rng.random() < 0.5 else 1, cells, cells, 3 if rng.random() < 0.5 else 1))
    middle, spread = rng.uniform(60, 195), rng.uniform(0.2, 1)
    images = np.clip(middle + spread * (drawn - 127.5), 0, 255).astype(np.uint8)
    smooth = opencv().INTER_LINEAR if rng.random() < 0.5 else opencv().INTER_NEAREST
    frames = np.stack([opencv().resize(image, (size, size), interpolation=smooth).reshape(size, size, -1) for image in images])
    return np.broadcast_to(frames, (count, size, size, 3)).copy()


def _pattern(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Bars, a chequerboard, rings or a ramp of two colours, turned, as on test cards, walls and fabrics."""
    rows, columns = np.mgrid[:size, :size] / size - 0.5
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(1, 16)
    x, y = np.cos(angle) * columns + np.sin(angle) * rows, np.cos(angle) * rows - np.sin(angle) * columns
    x, y = x - rng.uniform(-0.3, 0.3), y - rng.uniform(-0.3, 0.3)
    kinds = (
        lambda: np.sin(2 * np.pi * waves * x) > 0,
        lambda: (np.sin(2 * np.pi * waves * x) > 0) ^ (np.sin(2 * np.pi * waves * y) > 0),
        lambda: np.sin(2 * np.pi * waves * np.hypot(x, y)) > 0,
        lambda: np.clip(x + 0.5, 0, 1),
    )
    share = kinds[rng.integers(len(kinds))]().astype(np.float64)[..., None]
    one, other = rng.uniform(0, 255, (2, 3))
    image = one + share * (other - one)
    return np.broadcast_to(image.astype(np.uint8), (count, size, size, 3)).copy()
