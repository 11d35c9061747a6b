"""For every clip of a split the frames of another one, as a past that is not its own (`evaluate --temporal_control`)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.types import Clips, Example


class OtherClips:
    """An instance of `core.types.Clips` with the lengths of another one: clip i holds the first frames of a random other clip.

    It is drawn from (seed, i) among those that are at least as long. Where there is none, it is the longest of the others, which
    then runs back and forth.

    Attributes:
        others: of each clip the one in its place.
        short: how many of these run back and forth.

    Raises:
        InputError: there is only one clip.
    """

    def __init__(self, source: Clips, seed: int):
        self.folder, self.split, self.skeleton = source.folder, source.split, source.skeleton
        self.lengths: Sequence[int] = source.lengths
        self._source = source
        if len(source) < 2:
            raise InputError(f'{source.folder}: {source.split!r} has a single clip; the past of another one takes two')
        self.others = [self._other(i, np.random.default_rng([seed, i])) for i in range(len(source))]
        self.short = sum(self.lengths[other] < length for other, length in zip(self.others, self.lengths, strict=True))

    def _other(self, clip: int, rng: np.random.Generator) -> int:
        lengths = np.asarray(self.lengths)
        rest = np.flatnonzero(np.arange(len(lengths)) != clip)
        enough = rest[lengths[rest] >= lengths[clip]]
        return int(rng.choice(enough) if len(enough) else rest[np.argmax(lengths[rest])])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        example = self._source[self.others[index]]
        last = len(example['joints']) - 1
        rows = last - np.abs(last - np.arange(self.lengths[index]) % max(2 * last, 1))
        arrays = {key: example[key][rows] for key in ('joints', 'visible', 'boxes')}
        return {**example, **arrays, 'frames': _Rows(example['frames'], rows.tolist())}


@dataclasses.dataclass(frozen=True)
class _Rows(Sequence[bytes]):
    """Some of the encoded frames of a clip; each is read when it is asked for."""

    frames: Sequence[bytes]
    rows: list[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return self.frames[self.rows[index]]
