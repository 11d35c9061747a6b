"""The one example schema of every pose data set (keys: `kimnet_jax.core.types`), to write and to read it."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import Skeleton, get_skeleton
from kimnet_jax.core.types import Example

NAMES_SHOWN = 5


def dataset_info(builder: tfds.core.DatasetBuilder, skeleton: Skeleton, leak: str = '') -> tfds.core.DatasetInfo:
    """TFDS's description of a pose data set; its texts are the README.md, CITATIONS.bib and TAGS.txt beside the builder.

    The frames are in files of their own, one record each (`FrameWriter`): a training step reads the five that it needs, not the
    megabytes of a clip. The metadata: `skeleton`; `leak`, why a result says nothing of unseen clips, or ''; and, once built,
    `clips`: split -> a list of [name, frames].
    """
    joints = skeleton.num_joints
    features = tfds.features.FeaturesDict(
        {
            'clip': tfds.features.Text(),
            'action': tfds.features.Text(),
            'joints': tfds.features.Tensor(shape=(None, joints, 2), dtype=np.float32),
            'visible': tfds.features.Tensor(shape=(None, joints), dtype=np.bool_),
            'boxes': tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            'image_size': tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
    )
    return builder.dataset_info_from_configs(
        features=features, disable_shuffling=True, metadata=tfds.core.MetadataDict(skeleton=skeleton.name, leak=leak)
    )


def checked_example(example: Example, skeleton: Skeleton, source: str) -> Example:
    """The example, with the dtypes of the schema. Raises `InputError` naming `source` and the field that is wrong."""
    frames, example = list(example['frames']), dict(example)
    T, J = len(frames), skeleton.num_joints
    shapes = {'joints': (T, J, 2), 'visible': (T, J), 'boxes': (T, 4)}
    if not frames:
        raise InputError(f'{source}: no frames')
    dtypes = {'joints': np.float32, 'visible': np.bool_, 'boxes': np.float32}
    for key, shape in shapes.items():
        value: np.ndarray = np.asarray(example[key]).astype(dtypes[key])
        if value.shape != shape:
            raise InputError(f'{source}: {key} of shape {list(value.shape)}, expected {list(shape)} ({len(frames)} frames)')
        example[key] = value
    bad = np.argwhere(~np.isfinite(example['joints']).all(-1) & example['visible'])
    if len(bad):
        frame, joint = bad[0]
        raise InputError(
            f'{source}: joints of {skeleton.joints[joint]!r} in frame {frame} are not finite ({len(bad)} such joints)'
        )
    example['joints'] = np.nan_to_num(example['joints'], posinf=0.0, neginf=0.0)
    boxes = example['boxes']
    empty = np.flatnonzero(~np.isfinite(boxes).all(-1) | (boxes[:, 2:] <= boxes[:, :2]).any(-1))
    if len(empty):
        raise InputError(f'{source}: the box of frame {empty[0]} is empty or not finite: {boxes[empty[0]].tolist()}')
    example['image_size'] = np.asarray(example['image_size'], np.int32)
    example['frames'] = frames
    return example


class Clip(NamedTuple):
    """Where a clip of a built data set is.

    Attributes:
        name: unique in the data set.
        length: its frames.
        file: name of the file with its frames.
        first: index of its first frame there.
    """

    name: str
    length: int
    file: str
    first: int


def frames_file(split: str, shard: int, shards: int) -> str:
    """Name of the file with the frames of the clips of a shard."""
    return f'{split}_frames.array_record-{shard:05d}-of-{shards:05d}'


class FrameWriter:
    """Writes encoded frames, one record each, as they are: they are compressed already. The file appears when it is closed."""

    def __init__(self, path: pathlib.Path):
        self._path, self._temporary = path, path.with_name(f'{path.name}-{os.getpid()}-{os.urandom(4).hex()}')
        self._writer = array_record_module.ArrayRecordWriter(str(self._temporary), 'group_size:1,uncompressed')

    def write(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self._writer.write(frame)

    def close(self) -> None:
        self._writer.close()
        self._temporary.rename(self._path)


@dataclasses.dataclass(eq=False)
class _Frames(Sequence[bytes]):
    """The encoded frames of a clip; each is read when it is asked for."""

    read: Callable[[int], bytes]
    rows: range

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        rows = self.rows[index]
        return _Frames(self.read, rows) if isinstance(rows, range) else self.read(rows)

    def __eq__(self, other: object) -> bool:
        return list(self) == other if isinstance(other, list) else isinstance(other, _Frames) and list(self) == list(other)


@dataclasses.dataclass
class ClipSource:
    """Random access to the clips of one split of a built data set; can be pickled, opens its files on first use.

    Attributes:
        folder: the built data set, `<data_dir>/<name>/<config>/<version>`.
        split: TFDS split name, slices included (`train[:4]`).
        skeleton: its joints.
        clips: in order.
        leak: why a result on this data set says nothing of unseen clips; '' where none of its clips is in two splits.
        note: what else a report on this data set says of it; '' where it is as it was built.
    """

    folder: pathlib.Path
    split: str
    skeleton: Skeleton
    clips: Sequence[Clip]
    leak: str = ''
    note: str = ''

    @property
    def names(self) -> list[str]:
        """Of the clips, in order."""
        return [clip.name for clip in self.clips]

    @property
    def lengths(self) -> list[int]:
        """Frames of each clip."""
        return [clip.length for clip in self.clips]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Example:
        """Example `index`; of its `frames`, each is read when it is asked for. Raises `InputError` on a damaged file."""
        with self._explained(index):
            example = dict(self._records[index])
            if example['joints'] is None:  # array_record reads some files that are cut short as empty records
                raise RuntimeError('empty record')
        for key in ('clip', 'action'):
            example[key] = example[key].decode()
        first = self.clips[index].first
        example['frames'] = _Frames(functools.partial(self._read_frame, index), range(first, first + self.clips[index].length))
        return example

    def _read_frame(self, index: int, row: int) -> bytes:
        with self._explained(index):
            return self._reader(self.clips[index].file).read([row])[0]

    @contextlib.contextmanager
    def _explained(self, index: int) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, IndexError, ValueError) as error:  # array_record's, of a file that is missing, cut short or altered
            raise InputError(
                f'{self.folder}: clip {index} of {self.split!r} cannot be read ({error}); build it again with --overwrite'
            ) from error

    @functools.cached_property
    def _records(self) -> Sequence[Any]:
        return tfds.builder_from_directory(str(self.folder)).as_data_source(split=self.split)

    @functools.cached_property
    def _reader(self) -> Callable[[str], Any]:
        return functools.cache(
            lambda file: array_record_module.ArrayRecordReader(str(self.folder / file), 'readahead_buffer_size:0')
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ('_records', '_reader')}


def open_clips(data_dir: str | os.PathLike[str], name: str, config: str, split: str) -> ClipSource:
    """Opens a split of a built data set. Raises `InputError` that says how to build it where it is not there."""
    return open_built(built_folder(data_dir, name, config), split)


def built_folder(data_dir: str | os.PathLike[str], name: str, config: str) -> pathlib.Path:
    """Folder of the newest version of a built data set. Raises `InputError` that says how to build it where it is not there."""
    root = pathlib.Path(data_dir).expanduser() / name / config
    versions = [path.parent for path in root.glob('*.*.*/dataset_info.json')]
    if not versions:
        raise InputError(
            f'{root}: no built data set there; build it with '
            f'`python -m data_pipelines.build {name}/{config} --data_dir {data_dir}`, or point config.dataset.data_dir at it'
        )
    return max(versions, key=lambda path: tfds.core.Version(path.name))


def open_built(folder: pathlib.Path, split: str) -> ClipSource:
    """Opens a split of the built data set in `<data_dir>/<name>/<config>/<version>`. Raises `InputError` if it cannot."""
    try:
        info = tfds.builder_from_directory(str(folder)).info
    except Exception as error:  # of a JSON reader, of TFDS
        raise InputError(f'{folder}: not a whole data set ({error}); build it again with --overwrite') from error
    try:
        size = info.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(f'{folder}: no split {split!r}; it has {", ".join(sorted(info.splits))}') from error
    if not size:
        raise InputError(f'{folder}: split {split!r} has no clips')
    metadata = dict(info.metadata.items())
    if 'clips' not in metadata:
        raise InputError(f'{folder}: built by an earlier version, without a list of its clips; build it again with --overwrite')
    clips = _clips_of(info.splits, split, metadata['clips'])
    return ClipSource(folder, split, get_skeleton(metadata['skeleton']), clips, metadata['leak'], metadata.get('note', ''))


def _clips_of(splits: tfds.core.SplitDict, split: str, written: dict[str, list[tuple[str, int]]]) -> list[Clip]:
    """The clips of a split or of slices of splits, in the order in which they are read."""
    shards: dict[str, list[Clip]] = {}
    for name, whole in splits.items():
        clips = iter(written[name])
        for shard, (path, count) in enumerate(zip(whole.filepaths, whole.shard_lengths, strict=True)):
            here = list(itertools.islice(clips, count))
            firsts = itertools.accumulate((length for _, length in here), initial=0)
            file = frames_file(name, shard, whole.num_shards)
            shards[str(path)] = [Clip(clip, length, file, first) for (clip, length), first in zip(here, firsts, strict=False)]
    reads = splits[split].file_instructions
    return [clip for read in reads for clip in shards[str(read.filename)][read.skip : read.skip + read.take]]


def check_disjoint(train: ClipSource, evaluation: ClipSource, way_out: str) -> None:
    """Raises `InputError` that names the clips that two splits share, and the way out."""
    shared = sorted(set(train.names) & set(evaluation.names))
    if shared:
        raise InputError(
            f'{train.folder}: splits {train.split!r} and {evaluation.split!r} share clips: {some_of(shared)}; '
            f'a result on clips that were trained on says nothing of others: {way_out}'
        )


def report_notes(train: ClipSource, evaluation: ClipSource) -> list[str]:
    """What is to be said of a result on `evaluation` after training on `train`: shared clips, and the data set's own note."""
    shared = len(set(train.names) & set(evaluation.names))
    notes = [f'No result on unseen clips: {evaluation.leak}.'] if evaluation.leak else []
    if shared:
        notes.append(
            f'No result on unseen clips: {shared} of the {len(evaluation)} clips of {evaluation.split!r} are trained on.'
        )
    if evaluation.note:
        notes.append(f'{evaluation.note}.')
    return notes


def some_of(names: Sequence[str]) -> str:
    """The first few, and how many there are."""
    return ', '.join(names[:NAMES_SHOWN]) + (f', ... ({len(names)} in all)' if len(names) > NAMES_SHOWN else '')
