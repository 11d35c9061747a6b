"""The base of TFDS builders whose clips are read or made one by one."""

import abc
import collections
import concurrent.futures
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import tensorflow_datasets as tfds
import tqdm

from data_pipelines import schema
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Example

ClipReader: TypeAlias = Callable[[], Example]
CLIPS_PER_SHARD = 32


class ClipBuilder(tfds.core.ShardBasedBuilder):
    """Writes clips in the order given and holds one shard in memory.

    TFDS's GeneratorBasedBuilder holds a whole split in memory, and past 1000 MB needs TensorFlow.
    """

    SKELETON: ClassVar[Skeleton]

    @abc.abstractmethod
    def _clip_readers(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[ClipReader]]:
        """For each split, functions that each read one clip into a checked example; called in threads."""

    def _info(self) -> tfds.core.DatasetInfo:
        return schema.dataset_info(self, self.SKELETON)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        self._download_config = download_config or tfds.download.DownloadConfig()
        with tqdm.tqdm(desc=self.info.full_name, unit=' clips', disable=None) as self._bar:
            super()._download_and_prepare(dl_manager, download_config)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator[tuple[int, Example]]]]]:
        limit, number = self._download_config.max_examples_per_split, self._download_config.num_shards
        splits = {split: readers[:limit] for split, readers in self._clip_readers(dl_manager).items()}
        self._bar.reset(total=sum(map(len, splits.values())))
        shards: dict[str, list[Callable[[], Iterator[tuple[int, Example]]]]] = {}
        for split, readers in splits.items():
            count = max(min(number or math.ceil(len(readers) / CLIPS_PER_SHARD), len(readers)), 1)
            bounds = [len(readers) * i // count for i in range(count + 1)]
            shards[split] = [functools.partial(self._shard, readers[a:b]) for a, b in itertools.pairwise(bounds)]
        return shards

    def _shard(self, readers: list[ClipReader]) -> Iterator[tuple[int, Example]]:
        for key, example in enumerate(_read_ahead(readers)):
            yield key, example
            self._bar.update()


def _read_ahead(readers: Iterable[ClipReader]) -> Iterator[Example]:
    """What the readers return, in order, while threads work on the next few (decoding releases the interpreter's lock)."""
    workers = min(os.cpu_count() or 1, 8)
    ahead: collections.deque[concurrent.futures.Future[Example]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        try:
            for reader in readers:
                ahead.append(pool.submit(reader))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
