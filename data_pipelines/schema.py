"""The one example schema of every pose data set (keys: `kimnet_jax.core.types`), as it is written; `clip_source` reads it."""

import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Example

LAYOUT = 2  # of the files; the first had no number: a record held a clip without its frames, which lay beside
VERSION = tfds.core.Version('2.0.0')  # of every data set of ours
RELEASE_NOTES = {'1.0.0': 'First version.', '2.0.0': 'One record a frame, with the image.'}
SHARED = 'clips'  # the config, and its split, of a data set whose other configs are splits of the same clips


def dataset_info(
    builder: tfds.core.DatasetBuilder, skeleton: Skeleton, actions: Sequence[str] = (), *, homepage: str = '', leak: str = ''
) -> tfds.core.DatasetInfo:
    """TFDS's description of a pose data set; its texts are the README.md, CITATIONS.bib and TAGS.txt beside the builder.

    The metadata: `layout`, see `LAYOUT`; `skeleton`, see `Skeleton.described`; `leak`, why a result says nothing of unseen clips,
    or ''; and, once built, `clips`: split -> a list of [name, frames, action, [rows, columns]], in the order of the records; and,
    of data sets whose configs are splits of the same clips, `views`: config -> `leak` and `splits`: split -> a list of [name,
    index in the clips].
    """
    info = builder.dataset_info_from_configs(
        features=features(skeleton, actions),
        disable_shuffling=True,
        homepage=homepage,
        metadata=tfds.core.MetadataDict(layout=LAYOUT, skeleton=skeleton.described(), leak=leak),
    )
    info.initialize_from_bucket = lambda: None  # none of ours is in TFDS's bucket, and each look leaves a folder in TMPDIR
    return info


def features(skeleton: Skeleton, actions: Sequence[str]) -> tfds.features.FeaturesDict:
    """The fields of a record, which is one frame. Pixels are 0-based, their centres at integers.

    `tfds.data_source` decodes the image as OpenCV does, `tfds.load` as TensorFlow does; what is stored are the bytes that came.
    """
    joints = skeleton.num_joints
    action = {'action': tfds.features.ClassLabel(names=actions)} if actions else {}
    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(doc='As it came: JPEG, PNG or WebP.'),
            'joints': tfds.features.Tensor(
                shape=(joints, 2), dtype=np.float32, doc='(x, y) in pixels; (0, 0) and not visible where never annotated.'
            ),
            'visible': tfds.features.Tensor(shape=(joints,), dtype=np.bool_),
            'box': tfds.features.Tensor(shape=(4,), dtype=np.float32, doc='The person: x0, y0, x1, y1 in pixels.'),
            'clip': tfds.features.Text(doc='Unique in the data set.'),
            'index': tfds.features.Scalar(dtype=np.int32, doc='Of the frame in its clip, from 0.'),
            'image_size': tfds.features.Tensor(shape=(2,), dtype=np.int32, doc='(rows, columns).'),
            **action,
        }
    )


def records_of(example: Example) -> Iterator[dict[str, Any]]:
    """The records of a clip, one for each frame, without an action where it has none."""
    action = {'action': example['action']} if example['action'] else {}
    rows = zip(example['frames'], example['joints'], example['visible'], example['boxes'], strict=True)
    for index, (frame, joints, visible, box) in enumerate(rows):
        fields = {'image': frame, 'joints': joints, 'visible': visible, 'box': box, 'index': np.int32(index)}
        yield fields | {'clip': example['clip'], 'image_size': example['image_size']} | action


def labels_of(example: Example) -> np.ndarray:
    """Joints, visibility and boxes of the frames of a clip as the rows [T] of `labels_file`."""
    labels = np.empty(len(example['joints']), labels_dtype(example['joints'].shape[1]))
    labels['joints'], labels['visible'], labels['box'] = example['joints'], example['visible'], example['boxes']
    return labels


def write_labels(folder: pathlib.Path, split: str, skeleton: Skeleton, labels: Iterable[np.ndarray]) -> None:
    """Writes the labels of all records of a split, in their order, from those of its files; one without records has any dtype."""
    none = np.empty(0, labels_dtype(skeleton.num_joints))
    with (folder / labels_file(split)).open('wb') as file:
        np.save(file, np.concatenate([none, *(some for some in labels if len(some))]), allow_pickle=False)


def labels_file(split: str) -> str:
    """Name of the file with what the records of a split hold beside the images, once more.

    Training reads a few frames of a clip but joints and boxes of all of it, and what refines poses reads no frames at all.
    """
    return f'{split}_labels.npy'


def labels_dtype(joints: int) -> np.dtype:
    return np.dtype([('joints', '<f4', (joints, 2)), ('visible', '?', (joints,)), ('box', '<f4', (4,))])


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


class FrameWriter(writer.ExampleWriter):
    """Of array_records, writes each as it is, in a group of its own: images are compressed already, and are read one by one."""

    def write(self, path: os.PathLike[str], examples: Iterable[tuple[Any, bytes]]) -> None:
        if self.file_format is not tfds.core.FileFormat.ARRAY_RECORD:
            super().write(path, examples)
            return
        records = array_record_module.ArrayRecordWriter(os.fspath(path), 'group_size:1,uncompressed')
        for _, record in examples:
            records.write(record)
        records.close()
