"""A person of four coloured dots, drawn, and found again in a crop."""

from collections.abc import Iterable, Iterator

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from kimnet_jax.core.image import MEAN, STD
from kimnet_jax.core.video import Frame

COLOURS = np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255], [0, 255, 0]], np.float32)
OFFSETS = np.array([[0, -20], [-12, 0], [12, 0], [0, 20]], np.float32)  # of the dots from the person's middle, pixels


def person(middle: tuple[float, float]) -> np.ndarray:
    """Joints [4, 2] of the person at a place, pixels."""
    return OFFSETS + np.asarray(middle, np.float32)


def draw(middle: tuple[float, float] | None, size: tuple[int, int] = (121, 161)) -> np.ndarray:
    """A grey frame of (rows, columns) with the person in it, or without."""
    frame = np.full((*size, 3), 100, np.uint8)
    if middle is not None:
        for colour, point in zip(COLOURS.tolist(), person(middle).round().astype(int).tolist(), strict=True):
            cv2.circle(frame, point, 4, colour, -1)
    return frame


def filmed(images: Iterable[np.ndarray], rate: float = 25) -> Iterator[Frame]:
    """Frames as a video has them."""
    for number, image in enumerate(images):
        yield Frame(image, number / rate)


def heatmaps(weights: dict[str, np.ndarray], frames: np.ndarray) -> np.ndarray:
    """[N, H, W, 3] -> [N, h, w, 4]: a Gaussian at the middle of the pixels of each dot's colour, zeros where there are few."""
    return jax.vmap(lambda frame: _heatmaps(weights['colours'], frame))(frames)


def _heatmaps(colours: np.ndarray, frame: np.ndarray) -> np.ndarray:
    pixels = (frame * np.asarray(STD, np.float32) + np.asarray(MEAN, np.float32)) * 255
    near = (jnp.abs(pixels[..., None, :] - colours).max(-1) < 90).astype(jnp.float32)  # [H, W, J]
    count = near.sum((0, 1))
    rows, columns = jnp.arange(near.shape[0]), jnp.arange(near.shape[1])
    x = ((near.sum(0) * columns[:, None]).sum(0) / jnp.maximum(count, 1) + 0.5) / 4 - 0.5
    y = ((near.sum(1) * rows[:, None]).sum(0) / jnp.maximum(count, 1) + 0.5) / 4 - 0.5
    cells = jnp.arange(near.shape[0] // 4)
    maps = jnp.exp(-((cells[:, None, None] - y) ** 2 + (cells[None, :, None] - x) ** 2) / 8)
    return jnp.where(count >= 4, maps, 0.0)
