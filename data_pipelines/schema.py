"""The one example schema of every pose data set (keys: `kimnet_jax.core.types`), to write and to read it."""

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.skeleton import JHMDB, Skeleton, get_skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import checksums

NAMES_SHOWN = 5


def dataset_info(builder: tfds.core.DatasetBuilder, skeleton: Skeleton, leak: str = '') -> tfds.core.DatasetInfo:
    """TFDS's description of a pose data set; its texts are the README.md, CITATIONS.bib and TAGS.txt beside the builder.

    The frames are in files of their own, one record each (`FrameWriter`): a training step reads the five that it needs, not the
    megabytes of a clip. The metadata: `skeleton`; `leak`, why a result says nothing of unseen clips, or ''; and, once built,
    `clips`: split -> a list of [name, frames].
    """
    info = builder.dataset_info_from_configs(
        features=_features(skeleton),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(skeleton=skeleton.name, leak=leak),
    )
    info.initialize_from_bucket = lambda: None  # none of ours is in TFDS's bucket, and each look leaves a folder in TMPDIR
    return info


def _features(skeleton: Skeleton) -> tfds.features.FeaturesDict:
    """The fields of a record. Reading takes them from here, too: TFDS would import whatever module `features.json` names."""
    joints = skeleton.num_joints
    return tfds.features.FeaturesDict(
        {
            'clip': tfds.features.Text(),
            'action': tfds.features.Text(),
            'joints': tfds.features.Tensor(shape=(None, joints, 2), dtype=np.float32),
            'visible': tfds.features.Tensor(shape=(None, joints), dtype=np.bool_),
            'boxes': tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            'image_size': tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
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
        records: name of the file with its record.
        row: index of its record there.
    """

    name: str
    length: int
    file: str
    first: int
    records: str
    row: int


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
        clip = self.clips[index]
        with self._explained(index, clip.records):
            example = dict(self._features.deserialize_example_np(self._reader(clip.records).read([clip.row])[0]))
            if example['joints'] is None:  # array_record reads some files that are cut short as empty records
                raise RuntimeError('empty record')
            for key in ('clip', 'action'):
                example[key] = example[key].decode()
            lengths = {len(example[key]) for key in ('joints', 'visible', 'boxes')}
            if (example['clip'], lengths) != (clip.name, {clip.length}):
                found = f'{example["clip"]!r} of {" and ".join(map(str, sorted(lengths)))} frames'
                raise RuntimeError(f'the record is {found}, metadata.json has {clip.name!r} of {clip.length}')
        example['frames'] = _Frames(functools.partial(self._read_frame, index), range(clip.first, clip.first + clip.length))
        return example

    def _read_frame(self, index: int, row: int) -> bytes:
        file = self.clips[index].file
        with self._explained(index, file):
            return self._reader(file).read([row])[0]

    @contextlib.contextmanager
    def _explained(self, index: int, file: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of array_record and protobuf, on a file that is missing, cut short or altered
            raise InputError(
                f'{self.folder}: clip {index} of {self.split!r} cannot be read ({_line(error)}) from {file}; {checksums.AGAIN}'
            ) from error

    @functools.cached_property
    def _features(self) -> tfds.features.FeaturesDict:
        return _features(self.skeleton)

    @functools.cached_property
    def _reader(self) -> Callable[[str], Any]:
        return functools.cache(
            lambda file: array_record_module.ArrayRecordReader(str(self.folder / file), 'readahead_buffer_size:0')
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ('_features', '_reader')}


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """A built data set and its splits.

    Attributes:
        name: of the data set, such as `sub_jhmdb`.
        config: its config, such as `fold1`.
        data_dir: the folder that it was built in.
        train_split: TFDS split to train on; may be sliced, `train[:4]`.
        eval_split: TFDS split to evaluate on; one that shares clips with `train_split` is refused.
        allow_overlap: accept shared clips all the same, as to see whether a network can overfit a few.
    """

    name: str = ''
    config: str = ''
    data_dir: str = 'data'
    train_split: str = 'train'
    eval_split: str = 'test'
    allow_overlap: bool = False

    def open(self, part: Literal['train', 'eval'], data_dir: str | None = None, split: str | None = None) -> 'ClipSource':
        """The clips of its split, or of another one or in another folder. Raises `InputError` where they are not there."""
        own = self.train_split if part == 'train' else self.eval_split
        return open_clips(data_dir or self.data_dir, self.name, self.config, split or own)


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
            f'`kimnet build {name}/{config} --data_dir {data_dir}`, or point config.dataset.data_dir at it'
        )
    return max(versions, key=lambda path: tfds.core.Version(path.name))


def open_built(folder: pathlib.Path, split: str) -> ClipSource:
    """Opens a split of the built data set in `<data_dir>/<name>/<config>/<version>`. Raises `InputError` if it cannot."""
    built = read_built(folder)
    try:
        size = built.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(f'{folder}: no split {split!r}; it has {", ".join(sorted(built.splits))}') from error
    if not size:
        raise InputError(f'{folder}: split {split!r} has no clips')
    metadata = built.metadata
    clips = _clips_of(built.splits, split, metadata['clips'])
    return ClipSource(folder, split, get_skeleton(metadata['skeleton']), clips, metadata['leak'], metadata.get('note', ''))


class Built(NamedTuple):
    """The tables of a built data set.

    Attributes:
        splits: TFDS's, by name; they may be asked for slices.
        metadata: see `dataset_info`.
    """

    splits: tfds.core.splits.SplitDict
    metadata: dict[str, Any]


def read_built(folder: pathlib.Path) -> Built:
    """Reads the tables of the built data set in `<data_dir>/<name>/<config>/<version>`, and nothing runs that they name.

    Sizes of all files are compared with those when it was built, and the contents of all but the frames; a frame is checked
    when it is read, and `kimnet doctor` checks all.

    Raises:
        InputError: a file is missing, damaged or altered, or is none that this version writes.
    """
    listed = checksums.check(folder, in_full=lambda name: '_frames.array_record' not in name)
    try:
        _refuse_foreign_classes(folder)
        proto = tfds.core.dataset_info.read_from_json(folder / 'dataset_info.json')
        template = tfds.core.naming.ShardedFileTemplate(
            dataset_name=proto.name, data_dir=folder, filetype_suffix=proto.file_format
        )
        splits = tfds.core.splits.SplitDict.from_proto(proto.splits, template)
        metadata = read_json(folder / 'metadata.json')
        _check_tables(folder, splits, metadata, listed)
    except InputError:
        raise
    except Exception as error:  # of a JSON reader, of TFDS
        raise InputError(f'{folder}: not a whole data set ({_line(error)}); {checksums.AGAIN}') from error
    return Built(splits, metadata)


def _refuse_foreign_classes(folder: pathlib.Path) -> None:
    """Raises `InputError` where a table names a class that no data set of ours has; our own reader would not import it."""
    known = set(_classes_in(_features(JHMDB).to_json()))
    for name in ('features.json', 'dataset_info.json'):
        for found in _classes_in(read_json(folder / name)):
            if found not in known:
                raise InputError(
                    f'{folder / name}: names the class {found!r}, which no data set of this package has; nothing of it was run: '
                    'do not use this folder unless you know who made it'
                )


def _classes_in(value: Any) -> Iterator[Any]:
    """All that TFDS's reader would import the module of, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ('pythonClassName', 'python_class_name', 'type', 'proto_cls'):
                yield inner
            yield from _classes_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _classes_in(inner)


def _check_tables(folder: pathlib.Path, splits: tfds.core.splits.SplitDict, metadata: Any, listed: frozenset[str]) -> None:
    """Raises an error unless the tables fit each other and the files."""
    for key, kind in {'clips': dict, 'skeleton': str, 'leak': str}.items():
        if not isinstance(metadata.get(key), kind):
            raise ValueError(f'metadata.json has no {key!r}')
    if not isinstance(metadata.get('note', ''), str) or not isinstance(metadata.get('compact', {}), dict):
        raise ValueError('metadata.json has a note that is no text, or settings of a compact copy that are none')
    get_skeleton(metadata['skeleton'])
    clips = metadata['clips']
    if set(clips) != set(splits):
        raise ValueError(f'metadata.json has the splits {sorted(clips)}, dataset_info.json {sorted(splits)}')
    for name, whole in splits.items():
        if len(clips[name]) != whole.num_examples:
            raise ValueError(
                f'split {name!r} has {len(clips[name])} clips by metadata.json, {whole.num_examples} by dataset_info.json'
            )
        for clip, length in clips[name]:
            if not isinstance(clip, str) or type(length) is not int or length < 1:
                raise ValueError(f'metadata.json: split {name!r} has a clip {clip!r} of {length!r} frames')
        files = [str(path) for path in whole.filepaths]
        frames = [frames_file(name, shard, whole.num_shards) for shard in range(whole.num_shards)]
        files += frames
        unknown = [file for file in files if pathlib.PurePath(file).name not in listed]
        if unknown:
            raise ValueError(f'{unknown[0]} is not in {checksums.FILE}')
        if sum(length for _, length in clips[name]) > sum((folder / file).stat().st_size for file in frames):
            raise ValueError(f'metadata.json: split {name!r} has clips of more frames than there are')
    counts = collections.Counter(name for split in clips.values() for name, _ in split)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f'metadata.json has clips more than once: {some_of(repeated)}')


def _line(error: Exception) -> str:
    """The first line of what a library says, or what kind of error it is."""
    return next(iter(str(error).splitlines()), '') or type(error).__name__


def _clips_of(splits: tfds.core.splits.SplitDict, split: str, written: dict[str, list[tuple[str, int]]]) -> list[Clip]:
    """The clips of a split or of slices of splits, in the order in which they are read."""
    shards: dict[str, list[Clip]] = {}
    for name, whole in splits.items():
        clips = iter(written[name])
        for shard, (path, count) in enumerate(zip(whole.filepaths, whole.shard_lengths, strict=True)):
            here = list(itertools.islice(clips, count))
            firsts = itertools.accumulate((length for _, length in here), initial=0)
            file, records = frames_file(name, shard, whole.num_shards), pathlib.PurePath(path).name
            shards[str(path)] = [
                Clip(clip, length, file, first, records, row)
                for row, ((clip, length), first) in enumerate(zip(here, firsts, strict=False))
            ]
    reads = splits[split].file_instructions
    return [clip for read in reads for clip in shards[str(read.filename)][read.skip : read.skip + read.take]]


def check_disjoint(train: ClipSource, evaluation: ClipSource, way_out: str) -> None:
    """Raises `InputError` that names the clips that two splits share, and the way out."""
    shared = sorted(set(train.names) & set(evaluation.names))
    if shared:
        raise InputError(
            f'{train.folder}: splits {train.split!r} and {evaluation.split!r} share clips: {some_of(shared)}; '
            f'a result on training clips says nothing about other clips: {way_out}'
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
