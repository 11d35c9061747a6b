"""`kimnet compact NAME/CONFIG --data_dir BUILT --out COMPACT --max_mb 45`: a small copy of a built data set.

The copy has the name, config, splits, clips and files of the original, so that `--config.dataset.data_dir=COMPACT` trains and
evaluates on it. What differs is the frames, and the joints and boxes with them:

- Those of a clip are cut to one rectangle, which holds all that evaluation and the augmentation of the configs of videos
  can reach.
- They are scaled down, by one factor a clip, where the crop of the person would have more than --pixels; never up.
- They are stored as WebP, at the highest quality with which the data set fits into --max_mb.

So distances in pixels are not those in the original frames; PCK is the same, its threshold being a share of person or torso.
"""

import argparse
import bisect
import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import apply_affine, square_of_box
from kimnet_jax.core.image import decode_image, opencv
from kimnet_jax.core.skeleton import get_skeleton
from kimnet_jax.core.types import Array, Example
from kimnet_jax.data_pipelines import build, clip_source, schema
from kimnet_jax.data_pipelines.builders import config_of, import_builder
from kimnet_jax.data_pipelines.clip_builder import ClipReader, Views
from kimnet_jax.data_pipelines.transforms import DataConfig

WIDEST = DataConfig(augment_shift=0.05)  # of the configs of videos
QUALITIES = range(5, 101)  # of WebP; below, the compression is what one sees
SAMPLE = 256  # frames by which the quality is found
RECORDS = 1.06  # bytes of a data set over those of its frames, at first
MEGABYTE = 1e6
MOST = 1e9  # of --max_mb and --pixels


class Settings(NamedTuple):
    """Attributes:
    max_mb: the largest that the copy may be, millions of bytes.
    pixels: side of the crop of the person, box times `DataConfig.box_scale`, beyond which frames are scaled down.
    reach: side of the square about a person that is kept, over the longer side of the box.
    """

    max_mb: float
    pixels: int
    reach: float


class View(NamedTuple):
    """What is kept of the frames of a clip: the pixels from `low` to before `high`, both (x, y), times `scale`."""

    low: tuple[int, int]
    high: tuple[int, int]
    scale: float

    @property
    def matrix(self) -> np.ndarray:
        """The affine map [2, 3] from pixels of the original frames to those of the copy, float64."""
        shift = (0.5 - np.asarray(self.low)) * self.scale - 0.5
        return np.concatenate([self.scale * np.eye(2), shift[:, None]], -1)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to the image that is kept of it."""
        (x0, y0), (x1, y1) = self.low, self.high
        image = np.ascontiguousarray(image[y0:y1, x0:x1])
        if self.scale == 1:
            return image
        cv2 = opencv()
        return cv2.resize(image, None, fx=self.scale, fy=self.scale, interpolation=cv2.INTER_AREA)


def reach_of(data: DataConfig) -> float:
    """Side of the square about a box's centre that no crop leaves, whatever is drawn, over the longer side of the box."""
    angle = np.deg2rad(min(data.augment_rotation, 45))
    return float(data.box_scale / min(1, data.augment_scale[0]) * (np.cos(angle) + np.sin(angle) + 2 * data.augment_shift))


def view_of(boxes: Array, image_size: Array, settings: Settings) -> View:
    """The view of a clip with those boxes [T, 4] and (rows, columns): all squares of `reach`, as far as they are in the frame."""
    centre, side = square_of_box(boxes, settings.reach)
    last = np.asarray(image_size)[::-1] - 1
    low = np.clip(np.floor(centre - side[:, None] / 2), 0, last).min(0).astype(int)
    high = np.clip(np.ceil(centre + side[:, None] / 2), 0, last).max(0).astype(int) + 1
    crop = float(np.median(square_of_box(boxes, WIDEST.box_scale)[1]))
    return View((int(low[0]), int(low[1])), (int(high[0]), int(high[1])), min(1.0, settings.pixels / crop))


def compact(
    source: pathlib.Path, out: pathlib.Path, settings: Settings, *, config: str = '', overwrite: bool = False
) -> pathlib.Path:
    """Writes the copy of the built data set in `source`, `<data_dir>/<name>/<config>/<version>`.

    Args:
        source: its folder.
        out: the `data_dir` of the copy.
        settings: what is kept, and the size.
        config: which config is copied, where `source` holds the clips of several; by default the one that it is named after.
        overwrite: replace what is in the place of the copy.

    Returns:
        Its folder, `<out>/<name>/<config>/<version>`, which appears when it is whole. One of the same settings is left alone.

    Raises:
        InputError: it does not fit, another data set is in its place (without `overwrite`), or `source` cannot be read.
    """
    name, version, config = source.parts[-3], source.name, config or source.parent.name
    builder = import_builder(name)
    config_of(builder, config)
    built = clip_source.read_built(source, config)
    if 'compact' in built.metadata:
        raise InputError(f'{source}: a compact copy already; give the folder of the original as --data_dir')
    splits, views = to_copy(source, config)
    final = out.expanduser().absolute() / name / config / version
    if final == source or final.parents[2] == source.parents[2]:
        raise InputError(f'--out {out}: this is the folder of the original; choose another one')
    if final.exists() and not overwrite:
        found = final / 'metadata.json'
        if not found.is_file() or _settings_of(final) != settings:
            raise InputError(f'{final}: already exists, and was not made with these settings; --overwrite replaces it')
        print(f'{name}/{config} already exists; --overwrite rewrites it')
        return final
    kept = {key: built.metadata[key] for key in ('skeleton', 'leak')}
    with build.staging(final.parents[2], f'{name}/{config}') as staging:
        estimate = _Estimate(splits, settings)
        below, share = QUALITIES.stop, RECORDS
        while True:
            quality = estimate.highest(settings.max_mb / share, below)
            readers = _readers(splits, settings, quality)
            folder = _write(builder, config, readers, views, staging / str(quality), settings, quality, kept)
            size = _megabytes(folder)
            if size <= settings.max_mb:
                break
            shutil.rmtree(staging / str(quality))
            below, share = quality, size / estimate(quality)
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder.parents[1] / '.config', final.parents[1] / '.config', dirs_exist_ok=True)
        if final.exists():
            final.rename(staging / 'replaced')
        folder.rename(final)
    return final


def to_copy(folder: pathlib.Path, config: str) -> tuple[dict[str, clip_source.ClipSource], Views]:
    """The clips of a config as they are stored, each once, by TFDS split; and its own splits, where these are others."""
    built = clip_source.read_built(folder, config)
    if not built.config:
        return {split: clip_source.open_built(folder, split, config) for split in built.splits if built.clips[split]}, {}
    stored = clip_source.open_built(folder, schema.SHARED, schema.SHARED)
    chosen = {clip.stored for clips in built.clips.values() for clip in clips}
    views = {config: {split: [(clip.name, clip.stored) for clip in clips] for split, clips in built.clips.items()}}
    return {schema.SHARED: dataclasses.replace(stored, clips=[clip for clip in stored.clips if clip.name in chosen])}, views


def _settings_of(folder: pathlib.Path) -> Settings | None:
    made = clip_source.read_built(folder).metadata.get('compact')
    return Settings(*(made[key] for key in Settings._fields)) if made else None


def _readers(splits: dict[str, clip_source.ClipSource], settings: Settings, quality: int) -> dict[str, list[ClipReader]]:
    return {
        split: [functools.partial(_read, clips, index, settings, quality) for index in range(len(clips))]
        for split, clips in splits.items()
    }


def _read(clips: clip_source.ClipSource, index: int, settings: Settings, quality: int) -> Example:
    """A clip of the copy."""
    example = clips[index]
    view = view_of(example['boxes'], example['image_size'], settings)
    images = [_view_frame(example, view, clips.folder, frame) for frame in range(len(example['frames']))]
    joints, visible, boxes = example['joints'], example['visible'], example['boxes']
    annotated = visible | (joints != 0).any(-1)  # the others stay at (0, 0)
    corners = apply_affine(view.matrix, boxes.reshape(-1, 2, 2))
    moved = {
        'joints': np.where(annotated[..., None], apply_affine(view.matrix, joints), joints),
        'boxes': corners.reshape(-1, 4),
        'image_size': images[0].shape[:2],
        'frames': [encode_webp(image, quality) for image in images],
    }
    return schema.checked_example(example | moved, clips.skeleton, f'{clips.folder}: clip {example["clip"]!r}')


def encode_webp(image: np.ndarray, quality: int) -> bytes:
    """uint8 [H, W, 3] RGB to WebP bytes, which at these sizes keep more of the picture than as many bytes of JPEG."""
    cv2 = opencv()
    done, data = cv2.imencode('.webp', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError(f'image of shape {image.shape} and dtype {image.dtype} cannot be written as WebP')
    return data.tobytes()


def _view_frame(example: Example, view: View, folder: pathlib.Path, frame: int) -> np.ndarray:
    """What is kept of a frame, uint8 [H, W, 3]."""
    return view(decode_image(example['frames'][frame], f'{folder}: clip {example["clip"]!r}, frame {frame}'))


class _Estimate:
    """Of the bytes that all frames take at a quality, by some of them, taken at even distances."""

    def __init__(self, splits: dict[str, clip_source.ClipSource], settings: Settings):
        frames = [(clips, i, t) for clips in splits.values() for i, length in enumerate(clips.lengths) for t in range(length)]
        self._count = len(frames)
        chosen = np.unique(np.linspace(0, self._count - 1, SAMPLE).astype(int))

        def load(clips: clip_source.ClipSource, index: int, frame: int) -> np.ndarray:
            example = clips[index]
            return _view_frame(example, view_of(example['boxes'], example['image_size'], settings), clips.folder, frame)

        with _threads() as pool:
            self._images = list(pool.map(lambda k: load(*frames[k]), chosen))
        self._known: dict[int, float] = {}

    def __call__(self, quality: int) -> float:
        """Millions of bytes."""
        if quality not in self._known:
            with _threads() as pool:
                sizes = list(pool.map(lambda image: len(encode_webp(image, quality)), self._images))
            self._known[quality] = float(np.mean(sizes)) * self._count / MEGABYTE
        return self._known[quality]

    def highest(self, megabytes: float, below: int) -> int:
        """The highest quality under `below` that takes no more. Raises `InputError` where none does."""
        least = QUALITIES.start
        quality = bisect.bisect_right(range(least, below), megabytes, key=self) + least - 1
        if quality < least:
            raise InputError(
                f'--max_mb: {self._count} frames take about {self(least):.1f} MB at the lowest quality, {least}, and their '
                'records some more; give it more, or fewer --pixels'
            )
        return quality


def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8))  # encoding releases the interpreter's lock


def _write(
    base: Any,
    config: str,
    readers: dict[str, list[ClipReader]],
    views: Views,
    folder: pathlib.Path,
    settings: Settings,
    quality: int,
    kept: dict[str, Any],
) -> pathlib.Path:
    """Writes the clips that the readers return as the data set that `base` builds; returns its folder."""
    note = (
        f'A compact copy, cut out and, where a person has more than {settings.pixels} pixels, scaled down, as WebP of quality '
        f'{quality}: distances in pixels are not those in the original frames, PCK is the same'
    )
    made = {'compact': settings._asdict() | {'quality': quality}, 'note': note}
    return write_copy(base, config, readers, views, folder, kept | made)


def write_copy(
    base: Any,
    config: str,
    readers: dict[str, list[ClipReader]],
    views: Views,
    folder: pathlib.Path,
    metadata: dict[str, Any],
) -> pathlib.Path:
    """Writes a data set that has the name of the one that `base` builds, with clips of other readers; returns its folder.

    Args:
        base: class of the builder.
        config: its config.
        readers: split -> what returns its clips.
        views: its splits, where it has others than `readers`.
        folder: the `data_dir` of the copy.
        metadata: what the copy has beside the usual, with the `skeleton` and the `leak` of the original.
    """
    methods = {
        '__module__': base.__module__,
        'name': base.name,
        'SKELETON': get_skeleton(metadata['skeleton']),
        '_clip_readers': lambda self, dl_manager: readers,
        '_views': lambda self: views,
    }
    copy = type(base.__name__, (base,), methods, skip_registration=True)
    builder = copy(config=config_of(base, config), data_dir=str(folder))
    builder.info.metadata.update(metadata)
    with contextlib.redirect_stdout(io.StringIO()):  # where it is written for the time being
        builder.download_and_prepare(file_format=build.FILE_FORMAT)
    return pathlib.Path(builder.data_path)


def _megabytes(folder: pathlib.Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / MEGABYTE


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog='kimnet compact', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('dataset', metavar='NAME/CONFIG', help='a built data set, such as sub_jhmdb/fold1')
    parser.add_argument('--data_dir', required=True, help='the folder it was built in')
    parser.add_argument('--out', required=True, type=pathlib.Path, help='the folder for the copy, its --data_dir')
    parser.add_argument('--max_mb', type=float, default=45.0, help='maximum size in millions of bytes (default: 45)')
    parser.add_argument('--pixels', type=int, default=256, help='maximum side of the crop of a person in pixels (default: 256)')
    parser.add_argument('--overwrite', action='store_true', help='replace an existing data set')
    return parser


def main(argv: Sequence[str]) -> None:
    """Writes what the command line (`argv[0]` is the program) asks for. Raises `InputError`."""
    args = make_parser().parse_args(argv[1:])
    name, _, config = args.dataset.partition('/')
    if not config:
        raise InputError(f'{args.dataset}: give NAME/CONFIG, such as {name}/fold1')
    for flag, value in (('max_mb', args.max_mb), ('pixels', args.pixels)):
        if not 0 < value <= MOST:
            raise InputError(f'--{flag} {value:g}: must be above 0, and at most {MOST:g}')
    source = clip_source.built_folder(args.data_dir, name, config)
    tfds.disable_progress_bar()
    settings = Settings(args.max_mb, args.pixels, reach_of(WIDEST))
    folder = compact(source.absolute(), args.out, settings, config=config, overwrite=args.overwrite)
    built = clip_source.read_built(folder, config)
    listed = ', '.join(f'{split} {part.num_examples} clips' for split, part in built.splits.items())
    made = built.metadata['compact']
    print(f'{args.dataset}: {listed}, {_megabytes(folder):.1f} MB at quality {made["quality"]} in {folder}')


if __name__ == '__main__':
    run_command(main, sys.argv, urls=('data_dir',))
