"""The one example schema of every pose data set (keys: `kimnet_jax.core.types`), to write and to read it."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import Skeleton, get_skeleton
from kimnet_jax.core.types import Example


def dataset_info(builder: tfds.core.DatasetBuilder, skeleton: Skeleton) -> tfds.core.DatasetInfo:
    """TFDS's description of a pose data set; its texts are the README.md, CITATIONS.bib and TAGS.txt beside the builder."""
    joints = skeleton.num_joints
    features = tfds.features.FeaturesDict(
        {
            'clip': tfds.features.Text(),
            'action': tfds.features.Text(),
            'frames': tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3))),
            'joints': tfds.features.Tensor(shape=(None, joints, 2), dtype=np.float32),
            'visible': tfds.features.Tensor(shape=(None, joints), dtype=np.bool_),
            'boxes': tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            'image_size': tfds.features.Tensor(shape=(2,), dtype=np.int32),
        }
    )
    return builder.dataset_info_from_configs(
        features=features, disable_shuffling=True, metadata=tfds.core.MetadataDict(skeleton=skeleton.name)
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


class _EncodedFrames(tfds.decode.Decoder):
    """Leaves a sequence of images as encoded bytes: only the frames that a window needs are decoded, later."""

    def decode_example(self, serialized: Any) -> Any:
        return serialized

    decode_example_np = decode_example
    decode_batch_example_np = decode_example


@dataclasses.dataclass
class ClipSource:
    """Random access to the clips of one split of a built data set; can be pickled, opens its files on first use.

    Attributes:
        folder: the built data set, `<data_dir>/<name>/<config>/<version>`.
        split: TFDS split name, slices included (`train[:4]`).
        skeleton: its joints.
    """

    folder: pathlib.Path
    split: str
    skeleton: Skeleton

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        """Example `index`: `frames` stays a list of encoded bytes, texts become `str`. Raises `InputError` on a damaged file."""
        try:
            example = dict(self._records[index])
            if example['frames'] is None:  # array_record reads some files that are cut short as empty records
                raise RuntimeError('empty record')
        except RuntimeError as error:  # array_record's, of a file that is missing, cut short or altered
            raise InputError(
                f'{self.folder}: clip {index} of {self.split!r} cannot be read ({error}); build it again with --overwrite'
            ) from error
        example['frames'] = [bytes(frame) for frame in example['frames']]
        for key in ('clip', 'action'):
            example[key] = example[key].decode()
        return example

    @functools.cached_property
    def _records(self) -> Sequence[Any]:
        builder = tfds.builder_from_directory(str(self.folder))
        return builder.as_data_source(split=self.split, decoders={'frames': _EncodedFrames()})

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != '_records'}


def open_clips(data_dir: str | os.PathLike[str], name: str, config: str, split: str) -> ClipSource:
    """Opens a split of a built data set. Raises `InputError` that says how to build it where it is not there."""
    root = pathlib.Path(data_dir).expanduser() / name / config
    versions = [path.parent for path in root.glob('*.*.*/dataset_info.json')]
    if not versions:
        raise InputError(
            f'{root}: no built data set there; build it with '
            f'`python -m data_pipelines.build {name}/{config} --data_dir {data_dir}`, or point config.dataset.data_dir at it'
        )
    return open_built(max(versions, key=lambda path: tfds.core.Version(path.name)), split)


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
    return ClipSource(folder, split, get_skeleton(info.metadata['skeleton']))
