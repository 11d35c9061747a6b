"""The base of TFDS builders whose clips are read or made one by one, here or on the workers of an Apache Beam runner."""

import abc
import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm
from tensorflow_datasets.core import dataset_builder, split_builder

from kimnet_jax.core.errors import DamagedError, InputError, some_of
from kimnet_jax.core.skeleton import Skeleton, get_skeleton
from kimnet_jax.core.types import Example
from kimnet_jax.data_pipelines import checksums, schema
from kimnet_jax.data_pipelines.findings import Finding, summarise

ClipReader: TypeAlias = Callable[[], Example]
Views: TypeAlias = dict[str, dict[str, list[tuple[str, str]]]]  # config -> split -> clips: name, and that in `schema.SHARED`
T = TypeVar('T')
CLIPS_PER_SHARD = 32
MOST_SHARDS = 128  # of a split; a loader may hold all its files open


@dataclasses.dataclass(eq=False)
class ClipConfig(tfds.core.BuilderConfig):
    """A config whose splits may share clips.

    Attributes:
        on_request: it is meant only where it is asked for by name, as those with a leak are.
        leak: why a result on this config is no result on unseen clips; '' where no clip is in two splits. It is said when the
            data set is built by this name, trained on and evaluated.
    """

    leak: str = ''
    on_request: bool = False


class ClipBuilder(dataset_builder.FileReaderBuilder):
    """Writes clips in the order given; with a Beam runner, on its workers.

    TFDS's GeneratorBasedBuilder holds a whole split in memory, and past 1000 MB needs TensorFlow; its ShardBasedBuilder, on Beam,
    writes the first split again with each further one.
    """

    SKELETON: ClassVar[Skeleton]
    ACTIONS: ClassVar[Sequence[str]] = ()  # what the clips show; none: they have no action
    HOMEPAGE: ClassVar[str] = ''
    # Configs that are splits of the same clips; TFDS builds a single one, `schema.SHARED`, that has them all.
    VIEWS: ClassVar[Sequence[ClipConfig]] = ()
    ANY_CONFIG: ClassVar[bool] = False  # whether a user's own data set may be a config of any name; `get_builder_config` makes it
    asked_for: ClassVar[Sequence[str]] = ()  # those of them that have to be there
    leave_out_damaged: ClassVar[bool] = False  # clips whose reader raises a `DamagedError`; otherwise that ends the build
    # set by the time that readers are asked for:
    on_beam: bool
    limit: int | None  # most clips of a split; those that have `VIEWS` obey it themselves
    scratch: pathlib.Path  # a folder for what they unpack, removed when all is written

    @abc.abstractmethod
    def _clip_readers(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[ClipReader]]:
        """For each split, functions that each read one clip into a checked example; called in threads.

        They are pickled for the workers of a Beam runner: functions of a module with arguments (`functools.partial`), no methods
        of the builder. What a reader mended it returns as `findings`, a list of `Finding`, beside the fields of the example.
        """

    def _views(self) -> Views:
        """Of each of `VIEWS` the clips, at most `limit` of a split; `_clip_readers` has been called before."""
        return {}

    def _info(self) -> tfds.core.DatasetInfo:
        leak = leak_of(self.builder_config)
        return schema.dataset_info(self, self.SKELETON, self.ACTIONS, homepage=self.HOMEPAGE, leak=leak)

    def download_and_prepare(self, **options: Any) -> None:
        """TFDS's; the checksums come last, over all that it wrote. A data set that it left as it was keeps its own."""
        folder = pathlib.Path(self.data_path)
        info = folder / 'dataset_info.json'
        before = info.stat().st_mtime_ns if info.exists() else None
        super().download_and_prepare(**options)
        if info.stat().st_mtime_ns != before:
            checksums.write(folder)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        config = download_config or tfds.download.DownloadConfig()
        if config.beam_options:
            config.beam_runner = config.beam_runner or _runner_of(config.beam_options)
        self.on_beam = bool(config.beam_runner)
        with tempfile.TemporaryDirectory(dir=self.data_path, prefix='unpacked') as scratch:
            self.scratch = pathlib.Path(scratch)
            self._write_splits(dl_manager, config)

    def _write_splits(self, dl_manager: Any, config: Any) -> None:
        self.limit, number = config.max_examples_per_split, config.num_shards
        splits, views = self._clip_readers(dl_manager), self._views()
        if not views:
            splits = {split: readers[: self.limit] for split, readers in splits.items()}
        infos, written, left_out = [], {}, {}
        folder, skeleton = pathlib.Path(self.data_path), get_skeleton(self.info.metadata['skeleton'])
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix='records') as records,
            tqdm.tqdm(desc=self.info.full_name, unit=' clips', total=sum(map(len, splits.values())), disable=None) as progress,
        ):
            for split, readers in splits.items():
                count = number or min(math.ceil(len(readers) / CLIPS_PER_SHARD), MOST_SHARDS)
                count = max(min(count, len(readers)), 1)
                bounds = [len(readers) * i // count for i in range(count + 1)]
                shards = [
                    _Shard(
                        [functools.partial(_or_damage, reader) for reader in readers[a:b]]
                        if self.leave_out_damaged
                        else readers[a:b],
                        self.ACTIONS,
                        pathlib.Path(records, f'{split}_{i}'),
                    )
                    for i, (a, b) in enumerate(itertools.pairwise(bounds))
                ]
                infos.append(self._write(split, shards, config, progress))
                notes = [json.loads(shard.notes.read_text()) for shard in shards]
                written[split] = [clip for note in notes for clip in note['clips']]
                left_out[split] = [error for note in notes for error in note['left_out']]
                if left_out[split] and not written[split]:
                    raise InputError(
                        f'{left_out[split][0]}; so are all {len(readers)} clips of split {split!r}: download them again'
                    )
                schema.write_labels(folder, split, skeleton, [np.load(shard.labels) for shard in shards])
        self.info.set_splits(tfds.core.splits.SplitDict(infos))
        findings = [Finding(**finding) for clips in written.values() for clip in clips for finding in clip.pop('findings')]
        _check_names(written)
        if not leak_of(self.builder_config):
            findings += _find_copies(written)
        self.info.metadata['clips'] = {split: [clip['table'] for clip in clips] for split, clips in written.items()}
        if views:
            findings += self._add_views(views, written[schema.SHARED])
        lost = [error for errors in left_out.values() for error in errors]
        findings += [Finding('warning', error, 'clips left out, whose frames are damaged') for error in lost]
        if lost:
            self.info.metadata['note'] = f'{len(lost)} clips with damaged frames were left out of this data set when it was built'
        for line in summarise(findings):
            print(f'note: {line}', file=sys.stderr)

    def _add_views(self, views: Views, clips: list[dict[str, Any]]) -> list[Finding]:
        """Adds the tables of `VIEWS` to the metadata, without clips that were left out. Raises `InputError` on a clip twice."""
        index = {clip['name']: i for i, clip in enumerate(clips)}
        findings: list[Finding] = []
        tables = self.info.metadata['views'] = {}
        for config in (known for known in self.VIEWS if known.name in views):
            splits = {
                split: [(name, index[stored]) for name, stored in chosen if stored in index]
                for split, chosen in views[config.name].items()
            }
            for split, chosen in splits.items():
                if not chosen and views[config.name][split] and not config.on_request:
                    raise InputError(f'{config.name}: all clips of split {split!r} have damaged frames: download them again')
            there = {split: [clips[i] | {'name': name} for name, i in chosen] for split, chosen in splits.items()}
            _check_names(there)
            if not (config.leak or config.on_request):
                findings += _find_copies(there, f' of {config.name}')
            tables[config.name] = {'leak': config.leak, 'splits': splits}
        return findings

    def _write(self, split: str, shards: list['_Shard'], config: Any, progress: tqdm.tqdm) -> tfds.core.SplitInfo:
        builder = split_builder.SplitBuilder(
            split_dict=self.info.splits,
            features=self.info.features,
            dataset_size=self.info.dataset_size,
            beam_options=config.beam_options,
            beam_runner=config.beam_runner,
            example_writer=schema.FrameWriter(file_format=self.info.file_format),
            ignore_duplicates=None,
            max_examples_per_split=None,
            shard_config=None,
        )
        generators = shards if self.on_beam else [functools.partial(_counted, shard, progress) for shard in shards]
        try:
            info = builder.submit_shard_based_generation(
                split_name=split,
                example_gen_per_shard=generators,
                filename_template=self._get_filename_template(split_name=split),
            ).result()
        except Exception as error:
            for shard in shards:  # what a runner raises is the traceback of a worker, as text
                if shard.failure.exists():
                    raise InputError(shard.failure.read_text()) from error
            raise
        for left in pathlib.Path(self.data_path).glob('*.shard_infos.json'):  # by TFDS on Beam
            left.unlink()
        return info


def _runner_of(options: Any) -> str:
    """The runner that Beam's options name. Raises `InputError` where they name none: Beam's own choice would be one process."""
    from apache_beam.options.pipeline_options import StandardOptions

    runner = options.view_as(StandardOptions).runner
    if not runner:
        raise InputError('--beam_pipeline_options: name a runner, such as runner=FlinkRunner; see docs/data.md')
    return runner


def leak_of(config: tfds.core.BuilderConfig) -> str:
    """`ClipConfig.leak` of any config."""
    return getattr(config, 'leak', '')


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The clips of one file. Called, wherever that is, it yields its records, for TFDS to write.

    What it writes itself, in files whose names begin with `record`: the labels, what there is to say of the clips, or what was
    wrong. They lie beside the data: a worker of Beam writes there anyway, and has no other way back.
    """

    readers: Sequence[Callable[[], Example | DamagedError]]
    actions: Sequence[str]
    record: pathlib.Path

    @property
    def labels(self) -> pathlib.Path:
        return self.record.with_suffix('.npy')

    @property
    def notes(self) -> pathlib.Path:
        return self.record.with_suffix('.json')

    @property
    def failure(self) -> pathlib.Path:
        return self.record.with_suffix('.error')

    def __call__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        clips, labels, left_out = [], [], []
        keys = itertools.count()
        try:
            for example in _read_ahead(self.readers):
                if isinstance(example, DamagedError):
                    left_out.append(str(example))
                    continue
                if example['action'] not in (self.actions or ('',)):
                    raise InputError(f'{example["clip"]}: action {example["action"]!r}, known are {", ".join(self.actions)}')
                clips.append(_summary(example))
                labels.append(schema.labels_of(example))
                for record in schema.records_of(example):
                    yield next(keys), record
                    record.clear()  # TFDS keeps what it was given, to count it at the end
        except InputError as error:
            _write_whole(self.failure, str(error).encode())
            raise
        buffer = io.BytesIO()
        np.save(buffer, np.concatenate(labels) if labels else np.empty(0))
        _write_whole(self.labels, buffer.getvalue())
        _write_whole(self.notes, json.dumps({'clips': clips, 'left_out': left_out}).encode())


def _summary(example: Example) -> dict[str, Any]:
    """Of a clip: its name, its row in the tables, a digest of its pictures, what was found."""
    digest = hashlib.blake2b(digest_size=16)
    for frame in example['frames']:
        digest.update(frame)
    size = [int(number) for number in example['image_size']]
    return {
        'name': example['clip'],
        'table': [example['clip'], len(example['frames']), example['action'], size],
        'digest': digest.hexdigest(),
        'findings': [dataclasses.asdict(finding) for finding in example.get('findings', [])],
    }


def _or_damage(reader: ClipReader) -> Example | DamagedError:
    """What the reader returns, or that the clip is damaged."""
    try:
        return reader()
    except DamagedError as error:
        return error


def _write_whole(path: pathlib.Path, data: bytes) -> None:
    """Two workers may do the same work, one of them in vain."""
    temporary = path.with_name(f'{path.name}-{os.getpid()}-{os.urandom(4).hex()}')
    temporary.write_bytes(data)
    temporary.rename(path)


def _counted(shard: _Shard, progress: tqdm.tqdm) -> Iterator[tuple[int, dict[str, Any]]]:
    for key, record in shard():
        progress.update(record['index'] == 0)
        yield key, record


def _check_names(written: dict[str, list[dict[str, Any]]]) -> None:
    """Raises `InputError` where a clip occurs twice, in one split or in two."""
    where: dict[str, list[str]] = collections.defaultdict(list)
    for split, clips in written.items():
        for clip in clips:
            where[clip['name']].append(repr(split))
    repeated = [f'{name!r} in {" and ".join(splits)}' for name, splits in where.items() if len(splits) > 1]
    if repeated:
        raise InputError(
            f'clips that occur more than once: {some_of(repeated)}; a result on clips that were trained on says nothing '
            'of others: mend the list of the splits'
        )


def _find_copies(written: dict[str, list[dict[str, Any]]], of: str = '') -> list[Finding]:
    """Clips of two splits that have the same pictures under different names; released data sets may have such."""
    seen: dict[str, tuple[str, str]] = {}
    findings = []
    for split, clips in written.items():
        for clip in clips:
            other_split, other = seen.setdefault(clip['digest'], (split, clip['name']))
            if other_split != split:
                text = f'clips of split {split!r}{of} have the same pictures as one of split {other_split!r}'
                findings.append(Finding('warning', f'{clip["name"]} = {other}', text))
    return findings


def _read_ahead(readers: Iterable[Callable[[], T]]) -> Iterator[T]:
    """What the readers return, in order, while threads work on the next few (decoding releases the interpreter's lock)."""
    workers = min(os.cpu_count() or 1, 8)
    ahead: collections.deque[concurrent.futures.Future[T]] = collections.deque()
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
