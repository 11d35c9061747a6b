"""Some clips of a split, and clips to windows: which frames of which clip make up one row of a batch."""

import dataclasses
import heapq
from collections.abc import Sequence

import numpy as np

from kimnet_jax.core.types import Clips, Example


class SomeClips:
    """The clips of a split with these indices, in their order; an instance of `core.types.Clips`."""

    def __init__(self, source: Clips, indices: Sequence[int]):
        self.folder, self.split, self.skeleton = source.folder, source.split, source.skeleton
        self._source, self._indices = source, [*indices]
        self.lengths: Sequence[int] = [source.lengths[i] for i in self._indices]

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self._source[self._indices[index]]


@dataclasses.dataclass(frozen=True)
class Window:
    """Contiguous frames of one clip. Padded to T, the last frame repeats and its mask is False.

    Attributes:
        clip: index of the clip in its split, -1 for a row that is padding.
        first: index of the first frame in the clip.
        count: frames that are real, at least 1.
        start: the recursion begins anew with this window.
    """

    clip: int
    first: int
    count: int
    start: bool = True


def random_window(clip: int, clip_length: int, frames: int, rng: np.random.Generator) -> Window:
    """`frames` contiguous frames at a random start; all of a clip that has no more than that."""
    first = int(rng.integers(max(clip_length - frames, 0) + 1))
    return Window(clip, first, min(frames, clip_length))


def consecutive_windows(clip: int, clip_length: int, segment: int, chain_length: int | None) -> list[Window]:
    """Every frame of a clip once, in order, in windows of up to `segment` frames, none of which crosses a border of a chain.

    Args:
        clip: index of the clip.
        clip_length: its frames.
        segment: most frames of a window.
        chain_length: frames after which the recursion begins anew; None: only at the first frame of the clip.
    """
    chain = chain_length or clip_length
    return [
        Window(clip, first, min(segment, end - first), start=first == begin)
        for begin in range(0, clip_length, chain)
        for end in [min(begin + chain, clip_length)]
        for first in range(begin, end, segment)
    ]


def fill_slots(clips: Sequence[list[Window]], slots: int) -> list[list[Window]]:
    """Shares out whole clips so that all slots have about as many windows: longest clip first, to the emptiest slot."""
    filled: list[list[Window]] = [[] for _ in range(slots)]
    emptiest = [(0, slot) for slot in range(slots)]
    for windows in sorted(clips, key=len, reverse=True):
        _, slot = heapq.heappop(emptiest)
        filled[slot] += windows
        heapq.heappush(emptiest, (len(filled[slot]), slot))
    return filled
