"""The builders under TFDS's own test of builders, and `tfds.load`: `make test-tensorflow`, with the extra of that name.

The dummy data are the fake downloads of the other tests, written when a test begins. No other test may import TensorFlow.
"""

import pathlib
import shutil
import tempfile

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from fake_jhmdb import LENGTHS, write_jhmdb
from fake_lsp import COUNTS, write_lsp
from fake_mpii import write_mpii
from fake_penn_action import write_penn_action

from kimnet_jax.core.image import decode_image
from kimnet_jax.data_pipelines import build, clip_source
from kimnet_jax.data_pipelines.builders import import_builder


class _Builder:
    """What they share; `write` writes the dummy data."""

    MOCK_OUT_FORBIDDEN_OS_FUNCTIONS = False  # of TFDS's own data sets, which have to read any file system
    write = None

    @classmethod
    def setUpClass(cls):
        if cls.write:
            cls.EXAMPLE_DIR = tempfile.mkdtemp()
            cls.write(pathlib.Path(cls.EXAMPLE_DIR))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        if cls.write:
            shutil.rmtree(cls.EXAMPLE_DIR)


class SubJhmdbTest(_Builder, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = import_builder('sub_jhmdb')
    BUILDER_CONFIG_NAMES_TO_TEST = ['clips']  # noqa: RUF012
    SPLITS = {'clips': sum(LENGTHS.values())}  # noqa: RUF012
    write = staticmethod(write_jhmdb)


class PennActionTest(_Builder, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = import_builder('penn_action')
    SPLITS = {'train': 8, 'test': 6}  # noqa: RUF012
    write = staticmethod(write_penn_action)


class LspTest(_Builder, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = import_builder('lsp')
    BUILDER_CONFIG_NAMES_TO_TEST = ['original']  # noqa: RUF012
    SPLITS = {'train': 1000, 'test': COUNTS['original'] - 1000}  # noqa: RUF012
    write = staticmethod(lambda root: write_lsp(root, 'original'))


class MpiiTest(_Builder, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = import_builder('mpii')
    BUILDER_CONFIG_NAMES_TO_TEST = ['simple_baseline']  # noqa: RUF012
    SPLITS = {'train': 5, 'valid': 2}  # noqa: RUF012
    write = staticmethod(write_mpii)


class KineticPuppetsTest(_Builder, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = import_builder('kinetic_puppets')
    BUILDER_CONFIG_NAMES_TO_TEST = [  # noqa: RUF012
        type(DATASET_CLASS.BUILDER_CONFIGS[0])(name='mini', description='For tests.', train_clips=3, test_clips=2, seed=0)
    ]
    EXAMPLE_DIR = str(pathlib.Path(__file__).parent)  # it needs no download
    SPLITS = {'train': 149, 'test': 96}  # noqa: RUF012


def test_tfds_load_gives_the_images_and_labels_of_our_reader(tmp_path):
    """From a build in TFDS's own format: of array_record, TFDS makes a `tfds.data_source`, but no `tf.data.Dataset`."""
    root = write_penn_action(tmp_path / 'download')
    build.main(['build', 'penn_action', '--manual_dir', str(root), '--data_dir', str(tmp_path / 'ours')])
    data = tfds.load(
        'penn_action',
        split='train',
        data_dir=tmp_path / 'theirs',
        builder_kwargs={'file_format': 'tfrecord'},
        download_and_prepare_kwargs={'download_config': tfds.download.DownloadConfig(manual_dir=root)},
    )
    assert isinstance(data, tf.data.Dataset)
    clips = clip_source.open_clips(tmp_path / 'ours', 'penn_action', 'official', 'train')
    expected = [(clips[i], number) for i in range(len(clips)) for number in range(clips.lengths[i])]
    found = list(data.as_numpy_iterator())
    assert len(found) == len(expected) > 0
    for record, (example, number) in zip(found, expected, strict=True):
        assert (record['clip'].decode(), record['index']) == (example['clip'], number)
        np.testing.assert_array_equal(record['joints'], example['joints'][number])
        np.testing.assert_array_equal(record['visible'], example['visible'][number])
        np.testing.assert_array_equal(record['box'], example['boxes'][number])
        ours = decode_image(example['frames'][number], 'a frame').astype(int)
        assert np.abs(record['image'].astype(int) - ours).mean() < 1  # TensorFlow's decoder has other rounding and upsampling
