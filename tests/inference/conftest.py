"""A person of four coloured dots, and a model that finds them."""

import fractions
import pathlib
from collections.abc import Callable, Iterable

import av
import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from kimnet_jax.core.image import MEAN, STD
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.inference.predictor import PosePredictor

COLOURS = np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255], [0, 255, 0]], np.float32)
OFFSETS = np.array([[0, -20], [-12, 0], [12, 0], [0, 20]], np.float32)  # of the dots from the person's middle, pixels


@pytest.fixture(scope='session')
def skeleton() -> Skeleton:
    return Skeleton('dots', ('head', 'l_hand', 'r_hand', 'foot'), ((1, 2),), ((0, 1), (0, 2), (0, 3)), (), (1, 2))


def _heatmaps(weights: dict[str, np.ndarray], frames: np.ndarray) -> np.ndarray:
    """[1, H, W, 3] -> [1, h, w, 4]: a Gaussian at the middle of the pixels of each dot's colour, zeros where there are few."""
    pixels = (frames[0] * np.asarray(STD, np.float32) + np.asarray(MEAN, np.float32)) * 255
    near = (jnp.abs(pixels[..., None, :] - weights['colours']).max(-1) < 90).astype(jnp.float32)  # [H, W, J]
    count = near.sum((0, 1))
    rows, columns = jnp.arange(near.shape[0]), jnp.arange(near.shape[1])
    x = ((near.sum(0) * columns[:, None]).sum(0) / jnp.maximum(count, 1) + 0.5) / 4 - 0.5
    y = ((near.sum(1) * rows[:, None]).sum(0) / jnp.maximum(count, 1) + 0.5) / 4 - 0.5
    cells = jnp.arange(near.shape[0] // 4)
    maps = jnp.exp(-((cells[:, None, None] - y) ** 2 + (cells[None, :, None] - x) ** 2) / 8)
    return jnp.where(count >= 4, maps, 0.0)[None]


@pytest.fixture(scope='session')
def predictor() -> PosePredictor:
    """Its state counts the frames since the recursion began."""
    return PosePredictor(
        {'colours': COLOURS},
        lambda weights, frames: (_heatmaps(weights, frames), jnp.zeros((), jnp.int32)),
        lambda weights, state, frames: (_heatmaps(weights, frames), state + 1),
        size=128,
        stride=4,
        box_scale=1.25,
        decoding='dark',
    )


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


WriteVideo = Callable[[str, Iterable[np.ndarray]], pathlib.Path]


@pytest.fixture
def write_video(tmp_path: pathlib.Path) -> WriteVideo:
    """Writes frames to a video file (lossless, 30000/1001 a second) or, for a name without suffix, to a folder of PNGs."""

    def write(name: str, frames: Iterable[np.ndarray]) -> pathlib.Path:
        path = tmp_path / name
        if not path.suffix:
            path.mkdir()
            for i, frame in enumerate(frames):
                cv2.imwrite(str(path / f'{i:05d}.png'), frame[..., ::-1])
            return path
        with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
            stream = container.add_stream('libx264rgb', rate=fractions.Fraction(30000, 1001), options={'qp': '0'})
            stream.pix_fmt = 'rgb24'
            for i, frame in enumerate(frames):
                if not i:
                    stream.height, stream.width = frame.shape[:2]
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
            container.mux(stream.encode())
        return path

    return write
