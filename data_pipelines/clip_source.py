"""Reads the built data sets of `kimnet_jax.data_pipelines.schema`: their tables, and their clips by index."""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.proto import tf_example_pb2

from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.json_files import read_json
from kimnet_jax.core.skeleton import JHMDB, Skeleton, get_skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import checksums, remote_data, schema


class Clip(NamedTuple):
    """Where a clip of a built data set is.

    Attributes:
        name: unique in the split.
        length: its frames.
        action: '' where the data set has none.
        image_size: (rows, columns) of its frames.
        stored: its name in the records.
        split: the TFDS split that holds its records.
        row: index there of the record of its first frame; the others follow.
        file: name of the file with the records.
        first: index of the first one in that file.
    """

    name: str
    length: int
    action: str
    image_size: tuple[int, int]
    stored: str
    split: str
    row: int
    file: str
    first: int


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
        split: name of the split, slices included: `train[:4]` are its first four clips.
        skeleton: its joints.
        clips: in order.
        leak: why a result on this data set says nothing of unseen clips; '' where none of its clips is in two splits.
        note: what else a report on this data set says of it; '' where it is as it was built.
        config: the config whose split it is, where `folder` holds the clips of several; otherwise ''.
    """

    folder: pathlib.Path
    split: str
    skeleton: Skeleton
    clips: Sequence[Clip]
    leak: str = ''
    note: str = ''
    config: str = ''

    @property
    def names(self) -> list[str]:
        """Of the clips, in order."""
        return [clip.name for clip in self.clips]

    @property
    def lengths(self) -> list[int]:
        """Frames of each clip."""
        return [clip.length for clip in self.clips]

    @property
    def tfds_split(self) -> str:
        """The frames of these clips as a split that TFDS opens in `folder`, such as `clips[0:40]+clips[72:104]`."""
        runs: list[tuple[str, int, int]] = []
        for clip in self.clips:
            if runs and runs[-1][0] == clip.split and runs[-1][2] == clip.row:
                runs[-1] = (clip.split, runs[-1][1], clip.row + clip.length)
            else:
                runs.append((clip.split, clip.row, clip.row + clip.length))
        return '+'.join(f'{split}[{first}:{end}]' for split, first, end in runs)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Example:
        """Example `index`; of its `frames`, each is read when it is asked for. Raises `InputError` on a damaged file."""
        clip = self.clips[index]
        with self._explained(index, schema.labels_file(clip.split)):
            labels = self._labels(clip.split)[clip.row : clip.row + clip.length]
        return {
            'clip': clip.name,
            'action': clip.action,
            'frames': _Frames(functools.partial(self._read_frame, index), range(clip.length)),
            'joints': labels['joints'].copy(),
            'visible': labels['visible'].copy(),
            'boxes': labels['box'].copy(),
            'image_size': np.array(clip.image_size, np.int32),
        }

    def check_records(self, index: int) -> None:
        """Reads all records of a clip. Raises `InputError` where one is damaged, or says other than the tables."""
        clip = self.clips[index]
        with self._explained(index, clip.file):
            labels = self._labels(clip.split)[clip.row : clip.row + clip.length]
            for number, expected in enumerate(labels):
                record = self._record(clip, number)
                found: dict[str, Any] = {key: record[key].float_list.value for key in ('joints', 'box')}
                found['visible'] = record['visible'].int64_list.value
                same = all(np.array_equal(np.asarray(found[key]), expected[key].ravel()) for key in found)
                if not same or tuple(record['image_size'].int64_list.value) != clip.image_size:
                    raise RuntimeError(
                        f'the record of frame {number} differs from {schema.labels_file(clip.split)} or metadata.json'
                    )

    def _read_frame(self, index: int, number: int) -> bytes:
        clip = self.clips[index]
        with self._explained(index, clip.file):
            return self._record(clip, number)['image'].bytes_list.value[0]

    def _record(self, clip: Clip, number: int) -> Any:
        """Name -> value of the fields of a frame."""
        fields = tf_example_pb2.Example.FromString(self._reader(clip.file).read([clip.first + number])[0]).features.feature
        if 'image' not in fields:  # array_record reads some files that are cut short as empty records
            raise RuntimeError('empty record')
        found = fields['clip'].bytes_list.value[0].decode(), fields['index'].int64_list.value[0]
        if found != (clip.stored, number):
            raise RuntimeError(
                'the record is frame {1} of {0!r}'.format(*found) + f', metadata.json has {number} of {clip.stored!r}'
            )
        return fields

    @contextlib.contextmanager
    def _explained(self, index: int, file: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of array_record, protobuf and NumPy, on a file that is missing, cut short or altered
            raise InputError(
                f'{self.folder}: clip {index} of {self.split!r} ({self.clips[index].name}) cannot be read ({_line(error)}) '
                f'from {file}; {checksums.AGAIN}'
            ) from error

    @functools.cached_property
    def _labels(self) -> Callable[[str], np.ndarray]:
        return functools.cache(lambda split: _read_labels(self.folder, split, self.skeleton))

    @functools.cached_property
    def _reader(self) -> Callable[[str], Any]:
        return functools.cache(
            lambda file: array_record_module.ArrayRecordReader(str(self.folder / file), 'readahead_buffer_size:0')
        )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ('_labels', '_reader')}


def _read_labels(folder: pathlib.Path, split: str, skeleton: Skeleton) -> np.ndarray:
    labels = np.load(folder / schema.labels_file(split), allow_pickle=False)
    if labels.dtype != schema.labels_dtype(skeleton.num_joints) or labels.ndim != 1:
        raise ValueError(f'{schema.labels_file(split)} holds {labels.dtype} {list(labels.shape)}, not joints of {skeleton.name}')
    return labels


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """A built data set and its splits.

    Attributes:
        name: of the data set, such as `sub_jhmdb`.
        config: its config, such as `fold1`.
        data_dir: the folder that it was built in; may be a URL.
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
    return open_built(built_folder(data_dir, name, config), split, config)


def built_folder(data_dir: str | os.PathLike[str], name: str, config: str) -> pathlib.Path:
    """Folder of the newest version of a built data set, or of the clips of which the splits of this config are made.

    Of a remote `data_dir`, the folder of the copy on this machine (`remote_data`). Raises `InputError` that says how to build it
    where it is not there.
    """
    root = paths.folder(data_dir) / name / config
    found = [mark.parent for place in (root.with_name(schema.SHARED), root) for mark in place.glob('*.*.*/dataset_info.json')]
    if not found:
        raise InputError(
            f'{root}: no built data set there; build it with '
            f'`kimnet build {name}/{config} --data_dir {data_dir}`, or point config.dataset.data_dir at it'
        )
    newest = max(found, key=lambda path: (tfds.core.Version(path.name), path.parent.name == config))
    return remote_data.local_copy(newest) if paths.is_remote(newest) else newest


def open_built(folder: pathlib.Path, split: str, config: str = '') -> ClipSource:
    """Opens a split of the built data set in `<data_dir>/<name>/<config>/<version>`; `config` as of `read_built`.

    Raises `InputError` if it cannot.
    """
    built = read_built(folder, config)
    try:
        size = built.splits[split].num_examples
    except (KeyError, ValueError, AssertionError) as error:
        raise InputError(f'{folder}: no split {split!r}; it has {", ".join(sorted(built.splits))}') from error
    if not size:
        raise InputError(f'{folder}: split {split!r} has no clips')
    reads = built.splits[split].file_instructions
    clips = [clip for read in reads for clip in built.clips[_split_of(read)][read.skip : read.skip + read.take]]
    metadata = built.metadata
    skeleton = get_skeleton(metadata['skeleton'])
    return ClipSource(folder, split, skeleton, clips, built.leak, metadata.get('note', ''), built.config)


class Built(NamedTuple):
    """The tables of a built data set.

    Attributes:
        splits: by name, their examples being clips; they may be asked for slices.
        clips: split -> its clips, in order.
        leak: see `ClipSource`.
        metadata: see `dataset_info`.
        config: see `ClipSource`.
    """

    splits: tfds.core.splits.SplitDict
    clips: dict[str, list[Clip]]
    leak: str
    metadata: dict[str, Any]
    config: str


def read_built(folder: pathlib.Path, config: str = '') -> Built:
    """Reads the tables of the built data set in `<data_dir>/<name>/<config>/<version>`, and nothing runs that they name.

    Sizes of all files are compared with those when it was built, and the contents of all but the records; a record is checked
    when it is read, and `kimnet doctor` checks all.

    Args:
        folder: the data set.
        config: whose splits are wanted, where the folder holds the clips of several; by default the one that it is named after.

    Raises:
        InputError: a file is missing, damaged or altered, or is none that this version writes.
    """
    config = config or folder.parent.name
    listed = checksums.check(folder, in_full=lambda name: '.array_record' not in name)
    try:
        _refuse_foreign_classes(folder)
        metadata = read_json(folder / 'metadata.json')
        if metadata.get('layout') != schema.LAYOUT:
            raise InputError(
                f'{folder}: built by {"an earlier" if "layout" not in metadata else "another"} version, in another layout; build '
                f'it again with `kimnet build {folder.parents[1].name}/{config} --data_dir {folder.parents[2]}`'
            )
        proto = tfds.core.dataset_info.read_from_json(folder / 'dataset_info.json')
        template = tfds.core.naming.ShardedFileTemplate(
            dataset_name=proto.name, data_dir=folder, filetype_suffix=proto.file_format
        )
        records = tfds.core.splits.SplitDict.from_proto(proto.splits, template)
        _check_tables(folder, records, metadata, listed)
        clips, leak = _stored_clips(folder, records, metadata), metadata['leak']
        view = metadata.get('views', {}).get(config)
        if view:
            stored = clips[schema.SHARED]
            clips = {
                split: [stored[index]._replace(name=name) for name, index in chosen] for split, chosen in view['splits'].items()
            }
            leak = view['leak']
        elif config != folder.parent.name:
            known = ', '.join(metadata.get('views', ())) or 'none'
            raise InputError(f'{folder}: no config {config!r} of these clips, which have {known}; {checksums.AGAIN}')
        splits = _splits_of(folder, {split: len(names) for split, names in clips.items()})
    except InputError:
        raise
    except Exception as error:  # of a JSON reader, of TFDS
        raise InputError(f'{folder}: not a whole data set ({_line(error)}); {checksums.AGAIN}') from error
    return Built(splits, clips, leak, metadata, config if view else '')


def _splits_of(folder: pathlib.Path, counts: dict[str, int]) -> tfds.core.splits.SplitDict:
    """Splits with so many clips, to be asked for slices in TFDS's words; `_split_of` tells which one a slice is of."""
    template = tfds.core.naming.ShardedFileTemplate(data_dir=folder, template='{SPLIT}', filetype_suffix='array_record')
    return tfds.core.splits.SplitDict(
        tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=0, filename_template=template)
        for split, count in counts.items()
    )


def _split_of(read: Any) -> str:
    return pathlib.PurePath(read.filename).name


def _refuse_foreign_classes(folder: pathlib.Path) -> None:
    """Raises `InputError` where a table names a class that no data set of ours has; our own reader would not import it."""
    known = set(_classes_in(schema.features(JHMDB, ['walk']).to_json()))
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
    for key, kind in {'clips': dict, 'skeleton': str | dict, 'leak': str}.items():
        if not isinstance(metadata.get(key), kind):
            raise ValueError(f'metadata.json has no {key!r}')
    if not isinstance(metadata.get('note', ''), str) or not isinstance(metadata.get('compact', {}), dict):
        raise ValueError('metadata.json has a note that is no text, or settings of a compact copy that are none')
    skeleton = get_skeleton(metadata['skeleton'])
    clips = metadata['clips']
    if set(clips) != set(splits):
        raise ValueError(f'metadata.json has the splits {sorted(clips)}, dataset_info.json {sorted(splits)}')
    for name, whole in splits.items():
        for clip, length, action, size in clips[name]:
            good = isinstance(clip, str) and isinstance(action, str) and len(size) == 2
            if not good or any(type(number) is not int or number < 1 for number in (length, *size)):
                raise ValueError(f'metadata.json: split {name!r} has a clip {clip!r} of {length!r} frames of {size!r} pixels')
        unknown = [file for file in (*map(_name_of, whole.filepaths), schema.labels_file(name)) if file not in listed]
        if unknown:
            raise ValueError(f'{unknown[0]} is not in {checksums.FILE}')
        lengths = {
            'metadata.json': sum(length for _, length, *_ in clips[name]),
            'dataset_info.json': whole.num_examples,
            schema.labels_file(name): len(_read_labels(folder, name, skeleton)),
        }
        if len(set(lengths.values())) > 1:
            told = ', '.join(f'{length} frames by {file}' for file, length in lengths.items())
            raise ValueError(f'split {name!r} has {told}')
    _refuse_repeated(clip for split in clips.values() for clip, *_ in split)
    views = metadata.get('views', {})
    for config, view in views.items():
        chosen = [one for split in view['splits'].values() for one in split]
        for name, index in chosen:
            if not isinstance(name, str) or type(index) is not int or not 0 <= index < len(clips[schema.SHARED]):
                raise ValueError(
                    f'metadata.json: config {config!r} has a clip {name!r}, number {index!r} of {len(clips[schema.SHARED])}'
                )
        if not isinstance(view['leak'], str):
            raise ValueError(f'metadata.json: config {config!r} has a leak that is no text')
        _refuse_repeated(name for name, _ in chosen)
        if not view['leak']:
            _refuse_repeated(clips[schema.SHARED][index][0] for _, index in chosen)


def _refuse_repeated(names: Iterable[str]) -> None:
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f'metadata.json has clips more than once: {some_of(repeated)}')


def _name_of(path: os.PathLike[str]) -> str:
    return pathlib.PurePath(path).name


def _line(error: Exception) -> str:
    """The first line of what a library says, or what kind of error it is."""
    return next(iter(str(error).splitlines()), '') or type(error).__name__


def _stored_clips(folder: pathlib.Path, records: tfds.core.splits.SplitDict, metadata: dict[str, Any]) -> dict[str, list[Clip]]:
    """The clips of each TFDS split, in the order of their records."""
    found: dict[str, list[Clip]] = {}
    for split, whole in records.items():
        found[split], row, clips = [], 0, iter(metadata['clips'][split])
        for path, count in zip(whole.filepaths, whole.shard_lengths, strict=True):
            first = 0
            while first < count:
                name, length, action, (rows, columns) = next(clips)
                found[split].append(Clip(name, length, action, (rows, columns), name, split, row, _name_of(path), first))
                first, row = first + length, row + length
            if first != count:
                raise ValueError(f'{_name_of(path)} has {count} frames by dataset_info.json, by metadata.json {first}')
    return found


def check_disjoint(train: ClipSource, evaluation: ClipSource, way_out: str) -> None:
    """Raises `InputError` that names the clips that two splits share, and the way out."""
    shared = sorted(set(train.names) & set(evaluation.names))
    if shared:
        of = f' of {train.config}' if train.config else ''
        raise InputError(
            f'{train.folder}: splits {train.split!r} and {evaluation.split!r}{of} share clips: {some_of(shared)}; '
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
