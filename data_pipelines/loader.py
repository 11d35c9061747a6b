"""Windows to batches with Grain: training and evaluation streams, and their way onto the devices.

A batch is a function of its number alone (and of seed and settings): whatever the number of threads, workers and processes,
and wherever a stream begins, batch k is the same. Exact resume is therefore `start_step`.
"""

import atexit
import collections
import ctypes
import dataclasses
import functools
import math
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from absl import flags

from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import invert_affine
from kimnet_jax.core.types import Array, Batch, Clips, Example
from kimnet_jax.data_pipelines.backgrounds import background_window
from kimnet_jax.data_pipelines.clips import Window, consecutive_windows, fill_slots, random_window
from kimnet_jax.data_pipelines.occlusion import random_occlusion
from kimnet_jax.data_pipelines.transforms import DataConfig, Paint, closeup, crop_window, draw_augmentation

if TYPE_CHECKING:
    import jax

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_AHEAD = 2  # batches on the devices beside the one that is worked on
_EPOCHS = 2**30  # endless; Grain's own endless repeat overflows in batches of one
_IDLE = Window(clip=-1, first=0, count=1)  # a slot that has run out of clips
_STREAMS: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()  # still open


@dataclasses.dataclass(frozen=True)
class LoaderConfig:
    """How batches are made ready; changes nothing in them. Raises `InputError` naming the field that is out of range.

    Attributes:
        threads: decoding threads of each process; each works on a batch of its own.
        workers: worker processes, 0 to decode in threads of this process only.
        prefetch: batches ready in advance.
    """

    threads: int = 4
    workers: int = 0
    prefetch: int = 4

    def __post_init__(self) -> None:
        check_ranges('loader', self, threads=(1, 1024), workers=(0, 1024), prefetch=(1, 1024))


def train_batches(
    source: Clips,
    data: DataConfig,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    loader: LoaderConfig = LoaderConfig(),
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Endless training batches: every clip once an epoch in a fresh order, one random window and augmentation of each.

    Every draw comes from (seed, epoch, clip). The rows of the processes, one after the other, are the batch of a single process.
    Close the generator to stop its workers.

    Args:
        source: the clips.
        data: windows and augmentation.
        batch_size: B of all processes together.
        seed: 0 to 2**32 - 1.
        start_step: number of the first batch; those before it cost nothing.
        loader: threads, workers, prefetch.
        process_index: which rows are wanted here.
        process_count: processes that share the batch.

    Returns:
        This process's rows of each batch: frames uint8 [B', T, H, W, 3], joints float32 [B', T, J, 2] crop pixels, visible bool
        [B', T, J], mask bool [B', T], clip int32 [B'], with B' = B / process_count.

    Raises:
        InputError: a setting is out of range, or (when its batch is due) a frame is no readable image.
    """
    rows = _local_rows(batch_size, process_index, process_count)
    if not 0 <= seed < 2**32:
        raise InputError(f'config.seed is {seed}; it must be 0 to 2**32 - 1')
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(_EPOCHS).batch(batch_size)
    return _stream(order.map_with_index(_TrainBatch(source, data, seed, rows))[start_step:], loader)


def eval_batches(
    source: Clips,
    data: DataConfig,
    *,
    batch_size: int,
    segment: int,
    chain_length: int | None,
    paint: Callable[[Example], Paint] | None = None,
    loader: LoaderConfig = LoaderConfig(),
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[Batch, None, None]:
    """Every frame of every clip exactly once: each row of the batch streams whole clips, `segment` frames at a time.

    Nothing is dropped: rests are padded (mask False) and rows without a clip left have clip -1, zeros and an all-False mask.
    All processes yield `num_eval_batches` batches. Close the generator to stop its workers.

    Args:
        source: the clips.
        data: crop; no augmentation is applied, and `frames` plays no part.
        batch_size: B of all processes together.
        segment: T, frames of a window.
        chain_length: frames after which the recursion begins anew; None: only with a new clip.
        paint: of a clip, what changes its frames before they are cropped.
        loader: threads, workers, prefetch.
        process_index: which rows are wanted here.
        process_count: processes that share the batch.

    Returns:
        The keys of `train_batches`, and start bool [B'], frame int32 [B', T], to_image float32 [B', T, 2, 3] (crop pixels to
        original pixels).

    Raises:
        InputError: as `train_batches`.
    """
    rows = _local_rows(batch_size, process_index, process_count)
    slots = _eval_slots(source, batch_size, segment, chain_length)
    count = max(map(len, slots))
    return _stream(grain.MapDataset.range(count).map(_EvalBatch(source, data, segment, slots[rows], paint)), loader)


def num_eval_batches(source: Clips, *, batch_size: int, segment: int, chain_length: int | None) -> int:
    """How many batches `eval_batches` yields, in every process."""
    return max(map(len, _eval_slots(source, batch_size, segment, chain_length)))


def to_device(batch: Batch, sharding: 'jax.sharding.Sharding') -> dict[str, 'jax.Array']:
    """This process's rows of a batch to global arrays, the first axis laid out by `sharding`."""
    import jax  # not at the top: worker processes import this module

    return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def prefetch_to_device(
    batches: Iterable[Batch], sharding: 'jax.sharding.Sharding', keys: Sequence[str]
) -> Generator[tuple[Batch, dict[str, 'jax.Array']], None, None]:
    """Pairs of a batch and its `keys` on the devices, two ahead, so that transfers overlap the steps before.

    Grain's `device_put` keeps no copy on the host, which errors and logs read, and makes no arrays that processes share.
    """
    ahead: collections.deque[tuple[Batch, dict[str, jax.Array]]] = collections.deque()
    try:
        for batch in batches:
            ahead.append((batch, to_device({key: batch[key] for key in keys}, sharding)))
            if len(ahead) > _AHEAD:
                yield ahead.popleft()
        yield from ahead
    finally:
        if isinstance(batches, Generator):
            batches.close()


@dataclasses.dataclass(frozen=True)
class _TrainBatch:
    """Batch number and its clips [B] to the local rows."""

    source: Clips
    data: DataConfig
    seed: int
    rows: slice

    def __call__(self, step: int, clips: Array) -> Batch:
        _keep_memory()
        positions = step * len(clips) + np.arange(len(clips))[self.rows]
        examples = [self._row(int(p) // len(self.source), int(clip)) for p, clip in zip(positions, clips[self.rows], strict=True)]
        return _stack(examples)

    def _row(self, epoch: int, clip: int) -> dict[str, Array]:
        rng = np.random.default_rng([self.seed, epoch, clip])
        example = self.source[clip]
        window = random_window(clip, len(example['joints']), self.data.frames, rng)
        augmentation, data = draw_augmentation(self.data, rng), self.data
        place: dict[str, Any] = {'skeleton': self.source.skeleton, 'folder': self.source.folder}
        if data.augment_background and rng.random() < data.augment_background:
            row = background_window(example, window, data, augmentation, rng, **place)
        else:
            if data.augment_closeup and rng.random() < data.augment_closeup:
                augmentation = closeup(example, window, data, augmentation, rng)
            if data.augment_occlusion and rng.random() < data.augment_occlusion:
                place['paint'] = random_occlusion(example, window, rng)
            row = crop_window(example, window, data.frames, data, augmentation=augmentation, **place)
        return {key: row[key] for key in ('frames', 'joints', 'visible', 'mask')} | {'clip': np.int32(clip)}


@dataclasses.dataclass(frozen=True)
class _EvalBatch:
    """Batch number to the local rows, one for each slot."""

    source: Clips
    data: DataConfig
    segment: int
    slots: list[list[Window]]
    paint: Callable[[Example], Paint] | None

    def __call__(self, step: int) -> Batch:
        _keep_memory()
        return _stack([self._row(slot[step] if step < len(slot) else _IDLE) for slot in self.slots])

    def _row(self, window: Window) -> dict[str, Array]:
        source, T = self.source, self.segment
        if window.clip < 0:
            size, joints = self.data.input_size, source.skeleton.num_joints
            row = {
                'frames': np.zeros((T, size, size, 3), np.uint8),
                'joints': np.zeros((T, joints, 2), np.float32),
                'visible': np.zeros((T, joints), bool),
                'mask': np.zeros(T, bool),
                'frame': np.zeros(T, np.int32),
                'to_image': np.zeros((T, 2, 3), np.float32),
            }
        else:
            example = source[window.clip]
            place: dict[str, Any] = {'skeleton': source.skeleton, 'folder': source.folder}
            if self.paint is not None:
                place['paint'] = self.paint(example)
            row = crop_window(example, window, T, self.data, **place)
            row['to_image'] = invert_affine(row.pop('matrix')).astype(np.float32)
        return row | {'clip': np.int32(window.clip), 'start': np.bool_(window.start)}


@functools.cache
def _keep_memory() -> None:
    """Tells the C library of this process to keep what is freed.

    Images, windows and batches are up to megabytes each. Such blocks glibc gives back to the system when they are freed, and the
    system hands them out anew page by page, which can cost as much time as what is done with them.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)  # another C library has none
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the highest that it accepts
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def _stack(rows: list[dict[str, Array]]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _local_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size < 1 or batch_size % process_count:
        raise InputError(f'batch size {batch_size} cannot be shared by {process_count} processes; choose a multiple of that')
    local = batch_size // process_count
    return slice(process_index * local, (process_index + 1) * local)


def _eval_slots(source: Clips, batch_size: int, segment: int, chain_length: int | None) -> list[list[Window]]:
    if segment < 1 or (chain_length is not None and chain_length < 1):
        raise InputError(f'segments of {segment} frames in chains of {chain_length}: both must be at least 1')
    windows = [consecutive_windows(clip, length, segment, chain_length) for clip, length in enumerate(source.lengths)]
    return fill_slots(windows, batch_size)


def _stream(batches: grain.MapDataset, loader: LoaderConfig) -> Generator[Batch, None, None]:
    _keep_memory()
    dataset = batches.to_iter_dataset(
        grain.ReadOptions(num_threads=loader.threads, prefetch_buffer_size=max(loader.prefetch, loader.threads))
    )
    if loader.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read its flags, also where no absl main ran
        buffered = math.ceil(loader.prefetch / loader.workers)
        options = grain.MultiprocessingOptions(loader.workers, per_worker_buffer_size=buffered)
        dataset = dataset.mp_prefetch(options, worker_init_fn=_end_with_parent)
    stream = _iterate(dataset, copy=bool(loader.workers))
    _STREAMS.add(stream)
    return stream


def _end_with_parent(worker: int, workers: int) -> None:
    """In a worker: ends it when the process that wants its batches has ended, even by a signal that lets nobody clean up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C of the terminal is its parent's
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _iterate(dataset: grain.IterDataset, copy: bool) -> Generator[Batch, None, None]:
    iterator = iter(dataset)
    try:
        yield from map(_copy, iterator) if copy else iterator
    finally:
        iterator.close()


def _copy(batch: Batch) -> Batch:
    return {key: np.array(value) for key, value in batch.items()}  # out of the shared memory that workers fill


@atexit.register
def _close_streams() -> None:
    """For a consumer that ends without closing: any later, Grain fails to clean up after its workers."""
    for stream in list(_STREAMS):
        stream.close()
