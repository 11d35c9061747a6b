"""Clips in memory, with the interface of `data_pipelines.clip_source.ClipSource`."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from kimnet_jax.core.image import encode_png
from kimnet_jax.core.skeleton import PENN_ACTION, Skeleton
from kimnet_jax.core.types import Example


@dataclasses.dataclass
class MemoryClips:
    examples: list[Example]
    skeleton: Skeleton = PENN_ACTION
    folder: pathlib.Path = pathlib.Path('memory/clips/1.0.0')
    split: str = 'test'

    @property
    def lengths(self) -> list[int]:
        return [len(example['joints']) for example in self.examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return dict(self.examples[index])


def make_clips(
    lengths: list[int],
    size: tuple[int, int] = (37, 53),
    seed: int = 0,
    draw: Callable[[np.ndarray, np.ndarray], None] = lambda image, joints: None,
) -> MemoryClips:
    """Clips of those lengths with images of `size` (rows, columns), all joints well inside, boxes of 20 x 30 pixels about them.

    Args:
        lengths: frames of each clip.
        size: (rows, columns).
        seed: of joints and pictures.
        draw: paints the joints [J, 2] of a frame into its image.
    """
    rng, J = np.random.default_rng(seed), PENN_ACTION.num_joints
    examples = []
    for number, length in enumerate(lengths):
        centre = np.array([size[1], size[0]]) / 2 + rng.uniform(-2, 2, (length, 1, 2))
        joints = (centre + rng.uniform([-8, -12], [8, 12], (length, J, 2))).astype(np.float32)
        boxes = np.concatenate([centre[:, 0] - [10, 15], centre[:, 0] + [10, 15]], -1).astype(np.float32)
        frames = []
        for t in range(length):
            image = np.full((*size, 3), (number % 256, t, 99), np.uint8)  # a frame names itself by its colour
            draw(image, joints[t])
            frames.append(encode_png(image))
        examples.append(
            {
                'clip': f'clip{number}',
                'action': 'jump',
                'frames': frames,
                'joints': joints,
                'visible': rng.random((length, J)) < 0.8,
                'boxes': boxes,
                'image_size': np.array(size, np.int32),
            }
        )
    return MemoryClips(examples)
