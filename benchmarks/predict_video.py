"""Where does the time of `predict` go? Its stages one by one, and all of it with and without threads.

    python benchmarks/predict_video.py

A video of 1920x1080, H.264, 30 frames a second, is made: a texture that moves. Each stage runs alone on all of its frames; then
the whole work of the command runs as it is, with reading and writing in threads of their own, and as before, without them and
with x264's own preset; the ratio is the median over the rounds. `--memory` instead predicts videos of 1,000 and of 10,000 small
frames, and gives the most memory that the process had after each.
"""

import argparse
import contextlib
import datetime
import fractions
import json
import os
import pathlib
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from unittest import mock

import av
import cv2
import jax
import numpy as np

from kimnet_jax.core.sources import open_source
from kimnet_jax.core.video import Frame, read_frames
from kimnet_jax.inference import video_writer
from kimnet_jax.inference.outputs import PoseOutputs
from kimnet_jax.inference.people import OnePerson
from kimnet_jax.inference.predictor import predict_poses
from kimnet_jax.inference.video import draw_poses
from kimnet_jax.tasks import videos
from kimnet_jax.tasks.trained import open_trained

SIZE, RATE = (1080, 1920), 30
BOX = np.array([[800, 200, 1100, 900]], np.float32)
KINDS = ('overlay', 'json', 'csv', 'coco')


def write_video(path: pathlib.Path, frames: int, scale: float = 1.0) -> None:
    """A texture that is moved, in H.264 as cameras write it."""
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 256, (170, 290, 3), np.uint8), (2320, 1360), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=fractions.Fraction(RATE), options={'preset': 'veryfast', 'crf': '23'})
        stream.height, stream.width = (round(side * scale) for side in SIZE)
        stream.pix_fmt = 'yuv420p'
        for t in range(frames):
            x, y = (int(140 + 130 * f(t / 25)) for f in (np.sin, np.cos))
            image = cv2.resize(texture[y : y + SIZE[0], x : x + SIZE[1]], None, fx=scale, fy=scale)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format='rgb24')))
        container.mux(stream.encode())


def seconds(function: Callable[[], object]) -> float:
    """Of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def stages(model: videos.VideoPoses, video: pathlib.Path, frames: int) -> dict[str, float]:
    """Frames a second of each stage alone; all but decoding on one frame that is held."""
    frame = next(iter(read_frames(video)))
    _, poses = next(predict_poses(model.predictor, [frame], OnePerson(BOX)))
    drawn = draw_poses(frame.image, poses, model.skeleton, 0.1)

    def write(kinds: tuple[str, ...]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            about = {'video': open_source(str(video)), 'skeleton': model.skeleton, 'model': {}, 'joint_score': 0.1}
            with (
                PoseOutputs(pathlib.Path(folder), 'a', kinds, **about) as outputs,
                mock.patch('kimnet_jax.inference.outputs.draw_poses', return_value=drawn),
            ):
                for t in range(frames):
                    outputs.write(Frame(frame.image, t / RATE), poses)

    box = BOX[0]
    run = {
        'decode': lambda: sum(1 for _ in read_frames(video)),
        'crop and network': lambda: [model.predictor(frame.image, box, restart=t == 0) for t in range(frames)],
        'draw': lambda: [draw_poses(frame.image, poses, model.skeleton, 0.1) for _ in range(frames)],
        'encode': lambda: write(('overlay',)),
        'JSON, CSV, COCO': lambda: write(('json', 'csv', 'coco')),
    }
    model.predictor(frame.image, box, restart=False)  # compiled
    return {name: frames / seconds(function) for name, function in run.items()}


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """Everything in turn, and x264's own preset."""

    @contextlib.contextmanager
    def at_once(function: Callable) -> Iterator[Callable]:
        yield function

    with (
        mock.patch.object(videos, 'ahead', lambda items, **_: items),
        mock.patch.object(videos, 'Behind', at_once),
        mock.patch.object(video_writer, 'ENCODER', {'bf': '0'}),
    ):
        yield


def whole(model: videos.VideoPoses, video: pathlib.Path) -> float:
    """Seconds of all of it."""
    with tempfile.TemporaryDirectory() as out:
        people = [lambda config: OnePerson()]
        return seconds(lambda: videos.predict_videos(model, [open_source(str(video))], pathlib.Path(out), KINDS, people))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='kimnet-s-jhmdb')
    parser.add_argument('--frames', type=int, default=300)
    parser.add_argument('--memory', action='store_true')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results')
    options = parser.parse_args()
    model = videos.load(open_trained(options.model))
    with tempfile.TemporaryDirectory() as folder:
        video = pathlib.Path(folder) / 'video.mp4'
        if options.memory:
            for frames in (1000, 10_000):
                write_video(video, frames, scale=0.2)
                whole(model, video)
                print(f'{frames} frames: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB')
            return
        write_video(video, options.frames)
        alone, rounds = stages(model, video, options.frames), []
        for _ in range(options.rounds):
            with_threads = whole(model, video)
            with as_before():
                rounds.append((with_threads, whole(model, video)))
    result = {
        'date': datetime.date.today().isoformat(),
        'model': options.model,
        'frames': options.frames,
        'rounds': options.rounds,
        'cores': len(os.sched_getaffinity(0)),
        'device': str(jax.devices()[0].device_kind),
        'stages_frames_per_s': alone,
        'frames_per_s': options.frames / statistics.median(first for first, _ in rounds),
        'before_frames_per_s': options.frames / statistics.median(second for _, second in rounds),
        'ratio': statistics.median(second / first for first, second in rounds),
    }
    print(json.dumps(result, indent=2))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f'predict_video_{result["date"]}.json'
    path.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')
    print(f'written: {path}')


if __name__ == '__main__':
    main()
