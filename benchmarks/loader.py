"""How fast does the loader hand out training batches, beside a PyTorch DataLoader that does what RPSTN's does?

    python benchmarks/loader.py --cores 2

Drawn clips of Penn Action's size (640x480 JPEG with texture, about 70 frames) are built once by the data set builder's own code
and written as single JPEG files for PyTorch; both decode, augment and batch windows of 5 frames at 256x256, with as many workers
as cores, held to those cores. The contenders run in turn, the others stopped meanwhile; rates are medians over the rounds, ratios
the medians of those within a round. Where our time goes is measured in one thread, in CPU time. The memory of our workers is
watched while they run on. The result also goes to benchmarks/results as JSON.
"""

import contextlib
import datetime
import functools
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags, logging

from kimnet_jax.core.image import encode_jpeg, opencv
from kimnet_jax.core.skeleton import PENN_ACTION
from kimnet_jax.data_pipelines import clip_source, loader, schema, transforms
from kimnet_jax.data_pipelines.clip_builder import ClipBuilder

OURS, THREADS, PENN, JHMDB = 'ours', 'ours, threads', 'RPSTN, Penn', 'RPSTN, JHMDB'
CONTENDERS = (OURS, THREADS, PENN, JHMDB)
FRAMES, JOINTS, TARGET = 5, PENN_ACTION.num_joints, 2500 / 16  # frames/s of a core

CORES = flags.DEFINE_integer('cores', None, 'Cores that each may use, and its workers; default: all.', lower_bound=1)
BATCH = flags.DEFINE_integer('batch', 8, 'Clips of a batch.', lower_bound=1)
ROUNDS = flags.DEFINE_integer('rounds', 7, 'How often each contender runs.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 2.5, 'How long each time.')
MEMORY = flags.DEFINE_float('memory_seconds', 30.0, 'How long the memory of our workers is watched.')
CLIPS = flags.DEFINE_integer('clips', 48, 'Drawn clips; an epoch.', lower_bound=8)
OUT = flags.DEFINE_string('out', str(pathlib.Path(__file__).parent / 'results'), 'Folder for the JSON.')


def draw_clip(number: int) -> dict[str, Any]:
    """A clip of 50 to 90 frames: the camera pans over noise of four sizes, a person's box moves; about 55 KB a frame."""
    rng, cv2 = np.random.default_rng(number), opencv()
    ground = np.full((700, 900, 3), 120, np.float32)
    for cells, contrast in ((4, 60), (16, 40), (64, 25), (256, 12)):
        noise = rng.standard_normal((cells + 2, cells + 2, 3)).astype(np.float32)
        ground += contrast * cv2.resize(noise, (900, 700), interpolation=cv2.INTER_CUBIC)
    ground = np.clip(ground, 0, 255).astype(np.uint8)
    length = int(rng.integers(50, 91))
    pan, size = 2 * np.arange(length), rng.uniform(180, 320)
    boxes = np.array([260, 80, 260 + 0.6 * size, 80 + size]) + np.stack([pan / 2, pan / 4, pan / 2, pan / 4], -1)
    joints = boxes[:, None, :2] + rng.random((1, JOINTS, 2)) * (boxes[:, None, 2:] - boxes[:, None, :2])
    return {
        'clip': f'{number:04}',
        'action': 'drawn',
        'frames': [encode_jpeg(np.ascontiguousarray(ground[p : p + 480, p : p + 640]), quality=70) for p in pan],
        'joints': joints.astype(np.float32),
        'visible': np.ones((length, JOINTS), bool),
        'boxes': boxes.astype(np.float32),
        'image_size': np.array([480, 640], np.int32),
    }


class Drawn(ClipBuilder):
    """The drawn clips as a data set."""

    VERSION = schema.VERSION
    HOMEPAGE = ''
    SKELETON = PENN_ACTION
    ACTIONS = ('drawn',)
    pkg_dir_path = tfds.core.Path(__file__).parent / 'results'  # TFDS looks for a README and the like

    def _clip_readers(self, dl_manager: Any) -> dict[str, list]:
        return {'train': [functools.partial(draw_clip, number) for number in range(CLIPS.value)]}


def make_clips(folder: pathlib.Path) -> clip_source.ClipSource:
    """Builds the data set in `folder`, and the single files that RPSTN's loader reads in `folder/frames`."""
    with contextlib.redirect_stdout(None):
        builder = Drawn(data_dir=folder, file_format='array_record')
        builder.download_and_prepare()
    source = clip_source.open_built(pathlib.Path(builder.data_path), 'train')
    for clip in range(len(source)):
        example = source[clip]
        frames = folder / 'frames' / example['clip']
        frames.mkdir(parents=True)
        for number, frame in enumerate(example['frames'], 1):
            (frames / f'{number:06d}.jpg').write_bytes(frame)
    return source


def open_stream(contender: str, source: clip_source.ClipSource, folder: pathlib.Path, batch: int, workers: int) -> Iterator[Any]:
    """An endless stream of batches."""
    if contender in (OURS, THREADS):
        settings = loader.LoaderConfig(**({'workers': workers, 'threads': 1} if contender == OURS else {'threads': workers}))
        yield from loader.train_batches(source, transforms.DataConfig(), batch_size=batch, seed=0, loader=settings)
    import cv2
    import rpstn_loader
    import torch

    torch.set_num_threads(1)
    clips = [(folder / 'frames' / e['clip'], e['joints'], e['boxes']) for e in (source[i] for i in range(len(source)))]
    windows = rpstn_loader.Windows(clips, 'penn' if contender == PENN else 'jhmdb', FRAMES)
    shuffled = torch.utils.data.RandomSampler(windows, replacement=True, num_samples=2**40)
    yield from torch.utils.data.DataLoader(
        windows,
        batch,
        sampler=shuffled,
        num_workers=workers,
        multiprocessing_context='fork',  # PyTorch's own on Linux
        worker_init_fn=lambda worker: cv2.setNumThreads(0),
    )


def serve(
    connection: Connection, contender: str, source: clip_source.ClipSource, folder: pathlib.Path, batch: int, cores: list[int]
):
    """A contender's process, at the head of a process group: runs for the seconds it is sent and answers with frames/s."""
    os.setpgrp()
    os.sched_setaffinity(0, cores)
    stream = open_stream(contender, source, folder, batch, len(cores))
    for _ in range(8 * len(cores)):
        next(stream)
    connection.send(os.getpid())
    while seconds := connection.recv():
        began, count, passed = time.perf_counter(), 0, 0.0
        while passed < seconds:
            next(stream)
            count += 1
            passed = time.perf_counter() - began
        connection.send((count * batch * FRAMES / passed, resident_mb()))
    stream.close()


def resident_mb() -> list[float]:
    """Memory of each child of this process, largest first."""
    children = itertools.chain(*(file.read_text().split() for file in pathlib.Path('/proc/self/task').glob('*/children')))
    pages = (int(pathlib.Path(f'/proc/{child}/statm').read_text().split()[1]) for child in children)
    return sorted((count * os.sysconf('SC_PAGE_SIZE') / 1e6 for count in pages), reverse=True)


def profile(source: clip_source.ClipSource, batch: int) -> dict[str, float]:
    """CPU time of one thread by stage, ms a frame."""
    spent: dict[str, float] = {}

    def timed(owner: Any, name: str, stage: str) -> Any:
        function = getattr(owner, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[stage] = spent.get(stage, 0.0) + time.thread_time() - began

        setattr(owner, name, run)

    timed(clip_source.ClipSource, '__getitem__', 'reading joints')
    timed(clip_source._Frames, '__getitem__', 'reading frames')
    timed(transforms, 'decode_image', 'JPEG decoding')
    timed(transforms, 'warp', 'warp')
    timed(loader, '_stack', 'stacking')
    order = np.arange(len(source) // batch * batch).reshape(-1, batch)
    make = loader._TrainBatch(source, transforms.DataConfig(), 0, slice(0, batch))
    for step in range(4 * len(order)):
        if step == len(order):
            spent.clear()
            began = time.thread_time()
        make(step, order[step % len(order)])
    total = time.thread_time() - began
    spent['rest'] = total - sum(spent.values())
    return {stage: 1e3 * seconds / (3 * order.size * FRAMES) for stage, seconds in spent.items()}


def turn(connection: Connection, group: int, seconds: float) -> tuple[float, list[float]]:
    """Lets a stopped contender run for some seconds."""
    os.killpg(group, signal.SIGCONT)
    connection.send(seconds)
    result = connection.recv()
    os.killpg(group, signal.SIGSTOP)
    return result


def watch(connection: Connection, group: int, seconds: float, cores: int) -> dict[str, Any]:
    """Memory of the workers at the start and at the end, MB, over so many windows; `hours` at the rate that is aimed at."""
    (_, before), (rate, after) = turn(connection, group, 1.0), turn(connection, group, seconds)
    return {
        'start_mb': before,
        'end_mb': after,
        'windows': rate * seconds / FRAMES,
        'hours': rate * seconds / (TARGET * cores * 3600),
    }


def main(argv: list[str]) -> None:
    del argv
    logging.set_verbosity(logging.WARNING)
    cores = sorted(os.sched_getaffinity(0))[: CORES.value]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = make_clips(folder)
        frames = sorted(file.stat().st_size for file in folder.glob('frames/*/*'))
        context = multiprocessing.get_context('spawn')
        with context.Pool(1) as pool:
            stages = pool.apply(profile, (source, BATCH.value))
        connections, groups = {}, {}
        try:
            for contender in CONTENDERS:
                connections[contender], theirs = context.Pipe()
                context.Process(target=serve, args=(theirs, contender, source, folder, BATCH.value, cores)).start()
                theirs.close()  # so that a contender that fails is not waited for
                groups[contender] = connections[contender].recv()
                os.killpg(groups[contender], signal.SIGSTOP)
            rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
            for _, contender in itertools.product(range(ROUNDS.value), CONTENDERS):
                rates[contender].append(turn(connections[contender], groups[contender], SECONDS.value)[0])
            memory = watch(connections[OURS], groups[OURS], MEMORY.value, len(cores)) if MEMORY.value else None
        finally:
            for contender, group in groups.items():
                os.killpg(group, signal.SIGCONT)
                connections[contender].send(None)  # nothing more to run
            for process in multiprocessing.active_children():
                process.join()
    report(
        {
            'date': datetime.date.today().isoformat(),
            'cores': len(cores),
            'machine': f'{platform.system()} {platform.machine()}',
            'versions': {name: metadata.version(name) for name in ('grain', 'numpy', 'opencv-contrib-python-headless', 'torch')},
            'clips, frames, median bytes': (len(source), len(frames), frames[len(frames) // 2]),
            'batch, frames, pixels': (BATCH.value, FRAMES, transforms.DataConfig().input_size),
            'rounds': ROUNDS.value,
            'frames_per_s_of_a_core': {name: statistics.median(values) / len(cores) for name, values in rates.items()},
            'ratio': {
                name: statistics.median(a / b for a, b in zip(rates[OURS], values, strict=True)) for name, values in rates.items()
            },
            'cpu_ms_a_frame': stages,
            'memory_of_workers': memory,
        }
    )


def report(result: dict[str, Any]) -> None:
    print('{} clips, {} frames of {} bytes; {} cores and workers'.format(*result['clips, frames, median bytes'], result['cores']))
    print(f'{"":<16}{"frames/s of a core":>20}{"ours is":>12}')
    for name, rate in result['frames_per_s_of_a_core'].items():
        print(f'{name:<16}{rate:>20.0f}{result["ratio"][name]:>11.2f}x')
    print(f'aim: {TARGET:.0f} frames/s of a core')
    total = sum(result['cpu_ms_a_frame'].values())
    for stage, value in result['cpu_ms_a_frame'].items():
        print(f'{stage:<16}{value:>14.3f} ms CPU{100 * value / total:>11.0f}%')
    if memory := result['memory_of_workers']:
        before, after = (', '.join(f'{value:.0f}' for value in memory[key]) for key in ('start_mb', 'end_mb'))
        print(f'memory of the workers: {before} MB, after {memory["windows"]:.0f} windows {after} MB')
    folder = pathlib.Path(OUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'loader_{result["date"]}.json'
    path.write_text(json.dumps(result, indent=2) + '\n')
    print(path)


if __name__ == '__main__':
    app.run(main)
