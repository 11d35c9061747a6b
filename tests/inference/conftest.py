"""The skeleton of a person of dots, a model that finds them, and videos."""

import fractions
import pathlib
from collections.abc import Callable, Iterable

import av
import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from dots import COLOURS, heatmaps

from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.inference.predictor import PosePredictor


@pytest.fixture(scope='session')
def skeleton() -> Skeleton:
    return Skeleton('dots', ('head', 'l_hand', 'r_hand', 'foot'), ((1, 2),), ((0, 1), (0, 2), (0, 3)), (), (1, 2))


@pytest.fixture(scope='session')
def predictor() -> PosePredictor:
    """Its state counts the frames since the recursion began."""
    return PosePredictor(
        {'colours': COLOURS},
        lambda weights, frames: (heatmaps(weights, frames), jnp.zeros(len(frames), jnp.int32)),
        lambda weights, state, frames: (heatmaps(weights, frames), state + 1),
        size=128,
        stride=4,
        box_scale=1.25,
        decoding='dark',
    )


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
