"""A copy of a built data set whose frames are bitmaps, so that a loader has nothing to decode.

    python benchmarks/decoded.py COMPACT DECODED sub_jhmdb/fold1 lsp/extended

For a GPU that is faster than the loader of its machine: a frame takes 20 to 40 times the disk space and a tenth of the time. The
pixels are the same.
"""

import functools
import os
import pathlib
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import tensorflow_datasets as tfds

from kimnet_jax.core.image import decode_image, opencv
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import clip_source, compact
from kimnet_jax.data_pipelines.builders import import_builder


def read(clips: clip_source.ClipSource, index: int) -> Example:
    """A clip with its frames as BMP bytes."""
    example = clips[index]
    cv2 = opencv()
    images = (decode_image(frame, f'{clips.folder}: clip {example["clip"]!r}') for frame in example['frames'])
    frames = [cv2.imencode('.bmp', cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes() for image in images]
    return example | {'frames': frames}


def main(argv: list[str]) -> int:
    if len(argv) < 4:
        print('usage: python benchmarks/decoded.py DATA_DIR OUT NAME/CONFIG [NAME/CONFIG ...]', file=sys.stderr)
        return 2
    tfds.disable_progress_bar()
    for dataset in argv[3:]:
        name, _, config = dataset.partition('/')
        base = import_builder(name)
        splits, views = compact.to_copy(clip_source.built_folder(argv[1], name, config), config)
        readers = {
            split: [functools.partial(read, clips, index) for index in range(len(clips))] for split, clips in splits.items()
        }
        source = next(iter(splits.values()))
        kept = {'skeleton': source.skeleton.described(), 'leak': '' if views else source.leak}
        kept |= {'note': source.note} if source.note else {}
        print(compact.write_copy(base, config, readers, views, pathlib.Path(argv[2]), kept), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv))
