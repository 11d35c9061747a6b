"""Compact copies: what is kept of the frames, that joints follow them, that the size is obeyed, what is refused."""

import pathlib

import fake_jhmdb
import numpy as np
import pytest
import tensorflow_datasets as tfds

from kimnet_jax.configs import kinetic_puppets, penn_action, sub_jhmdb
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import apply_affine, crop_matrix, invert_affine, square_of_box
from kimnet_jax.core.image import decode_image
from kimnet_jax.data_pipelines import build, clip_source, compact
from kimnet_jax.data_pipelines.loader import LoaderConfig, train_batches
from kimnet_jax.data_pipelines.transforms import DataConfig, draw_augmentation
from kimnet_jax.metrics import pck_state, person_length

SETTINGS = compact.Settings(max_mb=1.0, pixels=24, reach=compact.reach_of(compact.WIDEST))  # pixels: about half of its size
LOADER = LoaderConfig(threads=1, prefetch=1)


def draw_noise(clip: str) -> np.ndarray:
    return np.random.default_rng(len(clip)).integers(0, 256, (fake_jhmdb.LENGTHS[clip], *fake_jhmdb.SIZE, 3), np.uint8)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory) -> pathlib.Path:
    """Built of frames of noise, so that the quality tells in the size, larger than what is kept of them."""
    folder = tmp_path_factory.mktemp('compact')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_jhmdb, 'SIZE', (96, 128))
        patch.setattr(fake_jhmdb, 'frames_of', draw_noise)
        root = fake_jhmdb.write_jhmdb(folder / 'download', images=True, videos=False)
    build.main(['build', 'sub_jhmdb/fold1', '--manual_dir', str(root), '--data_dir', str(folder / 'data')])
    return folder / 'data'


@pytest.fixture(scope='module')
def source(data_dir) -> pathlib.Path:
    return data_dir / 'sub_jhmdb/clips/2.0.0'


@pytest.fixture(scope='module')
def half(source, tmp_path_factory) -> pathlib.Path:
    return compact.compact(source, tmp_path_factory.mktemp('half'), SETTINGS, config='fold1')


def test_view_of_one_box():
    """Box of 39 pixels about (119.5, 69.5); the square of 78 from (80.5, 30.5) to (158.5, 108.5), to the next whole pixels."""
    boxes = np.array([[100, 50, 139, 89]], np.float32)
    view = compact.view_of(boxes, [240, 320], compact.Settings(45, 39, 2.0))
    assert (view.low, view.high) == ((80, 30), (160, 110))
    assert view.scale == pytest.approx(0.8)  # the crop has 1.25 * 39 = 48.75 pixels
    # the centre of pixel 80 is half a pixel from the edge, 0.4 pixels of the copy, whose first pixel is centred at half a pixel
    np.testing.assert_allclose(view.matrix @ [80, 30, 1], [-0.1, -0.1])
    assert view(np.zeros((240, 320, 3), np.uint8)).shape == (64, 64, 3)


def test_view_is_of_all_frames_inside_of_the_image_and_never_magnifies():
    boxes = np.array([[-9, 50, 30, 89], [100, 200, 139, 239]], np.float32)
    view = compact.view_of(boxes, [240, 320], compact.Settings(45, 256, 2.0))
    assert view == ((0, 30), (160, 240), 1.0)


def test_no_augmentation_leaves_the_view():
    rng, box = np.random.default_rng(0), np.array([30, 20, 69, 99], np.float32)
    reached = []
    for _ in range(2000):
        drawn = draw_augmentation(compact.WIDEST, rng)
        centre, side = square_of_box(box, compact.WIDEST.box_scale / drawn.scale)
        matrix = crop_matrix(centre + side * np.asarray(drawn.shift), side, 64, rotation=drawn.rotation, flip=drawn.flip)
        corners = apply_affine(invert_affine(matrix), [[-0.5, -0.5], [63.5, -0.5], [-0.5, 63.5], [63.5, 63.5]])
        reached.append(np.abs(corners - centre).max() / 79)
    assert 0.97 * SETTINGS.reach / 2 < max(reached) <= SETTINGS.reach / 2


@pytest.mark.parametrize('module', [sub_jhmdb, penn_action, kinetic_puppets])
def test_the_configs_of_videos_augment_no_further(module):
    config = module.get_config()
    assert compact.reach_of(make(DataConfig, config.data, 'data')) <= SETTINGS.reach + 1e-9


@pytest.mark.parametrize('split', ['train', 'test'])
def test_joints_and_boxes_follow_the_frames(split, source, half):
    original, copy = clip_source.open_built(source, split, 'fold1'), clip_source.open_built(half, split)
    assert (copy.names, copy.lengths, copy.skeleton) == (original.names, original.lengths, original.skeleton)
    for i in range(2):
        ours, theirs = copy[i], original[i]
        view = compact.view_of(theirs['boxes'], theirs['image_size'], SETTINGS)
        assert view.scale < 0.6
        back = invert_affine(view.matrix)
        np.testing.assert_allclose(apply_affine(back, ours['joints']), theirs['joints'], atol=0.01)
        np.testing.assert_allclose(apply_affine(back, ours['boxes'].reshape(-1, 2, 2)).reshape(-1, 4), theirs['boxes'], atol=0.01)
        for frame in ours['frames']:
            assert decode_image(frame, 'a frame').shape[:2] == tuple(ours['image_size'])


def test_pck_is_the_same(source, half):
    original, copy = clip_source.open_built(source, 'test', 'fold1')[0], clip_source.open_built(half, 'test')[0]
    matrix = compact.view_of(original['boxes'], original['image_size'], SETTINGS).matrix
    poses = original['joints'] + np.random.default_rng(0).normal(0, 3, original['joints'].shape)
    theirs = pck_state(poses, original['joints'], original['visible'], person_length(original['boxes']))
    ours = pck_state(apply_affine(matrix, poses), copy['joints'], copy['visible'], person_length(copy['boxes']))
    assert 0.2 < theirs.compute().mean() < 0.8
    np.testing.assert_array_equal(ours.sums, theirs.sums)


def test_never_annotated_joints_stay_at_the_corner(source):
    example = clip_source.open_built(source, 'test', 'fold1')[0]
    example['joints'][0, 3], example['visible'][0, 3] = 0, False
    example['frames'] = list(example['frames'])

    class Clips:
        folder, skeleton = source, clip_source.open_built(source, 'test', 'fold1').skeleton

        def __getitem__(self, index: int):
            return example

    read = compact._read(Clips(), 0, SETTINGS, 50)
    np.testing.assert_array_equal(read['joints'][0, 3], 0)
    assert (read['joints'][0, 4] != 0).all()


def test_the_loader_gives_nearly_the_same_windows(tmp_path):
    """Pictures as smooth as photographs are, at the quality that the real clips get, with the widest augmentation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_jhmdb, 'frames_of', lambda clip: np.stack([_waves()] * fake_jhmdb.LENGTHS[clip]))
        root = fake_jhmdb.write_jhmdb(tmp_path / 'download', images=True, videos=False)
    build.main(['build', 'sub_jhmdb/fold1', '--manual_dir', str(root), '--data_dir', str(tmp_path)])
    folder = tmp_path / 'sub_jhmdb/clips/2.0.0'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, 'QUALITIES', range(5, 45))
        folders = [folder, compact.compact(folder, tmp_path / 'out', SETTINGS._replace(pixels=256), config='fold1')]
    data = DataConfig(frames=2, input_size=32, augment_shift=0.05)
    streams = [
        train_batches(clip_source.open_built(at, 'train', 'fold1'), data, batch_size=2, seed=3, loader=LOADER) for at in folders
    ]
    for _, original, copy in zip(range(4), *streams, strict=False):
        np.testing.assert_allclose(copy['joints'], original['joints'], atol=1e-3)
        difference = np.abs(copy['frames'].astype(int) - original['frames'])
        assert 0 < difference.mean() < 5  # a pixel beside the right one makes it 12
    for stream in streams:
        stream.close()


def _waves() -> np.ndarray:
    rows, columns = np.mgrid[: fake_jhmdb.SIZE[0], : fake_jhmdb.SIZE[1]]
    return (128 + 100 * np.stack([np.sin(rows / 5), np.cos(columns / 7), np.sin((rows + columns) / 9)], -1)).astype(np.uint8)


def test_the_quality_is_the_one_that_fits(source, tmp_path):
    large = compact.Settings(max_mb=2.0, pixels=256, reach=9.0)  # the whole frames; a file grows by 64 KiB at a time
    folders = [compact.compact(source, tmp_path / 'whole', large)]
    tight = large._replace(max_mb=size_of(folders[0]) - 0.01)
    folders.append(compact.compact(source, tmp_path / 'tight', tight))
    assert size_of(folders[1]) <= tight.max_mb
    high, low = (tfds.builder_from_directory(str(at)).info.metadata['compact']['quality'] for at in folders)
    assert 5 <= low < high == 100


def size_of(folder: pathlib.Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def test_what_cannot_fit_is_refused_and_leaves_nothing(source, tmp_path):
    with pytest.raises(InputError, match=r'--max_mb: 14 frames take about 0\.0 MB at the lowest quality, 5'):
        compact.compact(source, tmp_path, SETTINGS._replace(max_mb=0.1))
    assert not [file for file in tmp_path.rglob('*') if file.is_file()]


def test_reports_say_that_the_pixels_are_others(half):
    train, test = clip_source.open_built(half, 'train'), clip_source.open_built(half, 'test')
    note = clip_source.report_notes(train, test)[-1]
    assert 'distances in pixels are not those in the original frames' in note


def test_command(data_dir, tmp_path, capsys):
    command = ['compact', 'sub_jhmdb/fold1', '--data_dir', str(data_dir), '--out', str(tmp_path), '--max_mb', '1']
    compact.main(command)
    folder = tmp_path / 'sub_jhmdb/fold1/2.0.0'
    assert capsys.readouterr().out.endswith(f' MB at quality 100 in {folder}\n')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['sub_jhmdb']
    changed = folder.stat().st_mtime_ns
    compact.main(command)
    assert 'already exists' in capsys.readouterr().out
    assert folder.stat().st_mtime_ns == changed
    with pytest.raises(InputError, match='not made with these settings; --overwrite replaces it'):
        compact.main([*command, '--pixels', '24'])
    compact.main([*command, '--pixels', '24', '--overwrite'])
    assert clip_source.open_built(folder, 'test')[0]['image_size'][0] < 40
    with pytest.raises(InputError, match='a compact copy already'):
        compact.main(['compact', 'sub_jhmdb/fold1', '--data_dir', str(tmp_path), '--out', str(tmp_path / 'again')])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('sub_jhmdb',), 'give NAME/CONFIG, such as sub_jhmdb/fold1'),
        (('sub_jhmdb/fold1', '--max_mb', '0'), '--max_mb 0: must be above 0'),
        (('penn_action/official',), 'no built data set there'),
    ],
)
def test_bad_arguments(arguments, message, data_dir, tmp_path):
    with pytest.raises(InputError, match=message):
        compact.main(['compact', *arguments, '--data_dir', str(data_dir), '--out', str(tmp_path)])


def test_the_original_is_not_replaced(data_dir):
    with pytest.raises(InputError, match='this is the folder of the original'):
        compact.main(['compact', 'sub_jhmdb/fold1', '--data_dir', str(data_dir), '--out', str(data_dir), '--overwrite'])


def test_it_is_the_same_every_time(source, half, tmp_path):
    again = compact.compact(source, tmp_path, SETTINGS, config='fold1')
    for file in half.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


def test_a_copy_of_folds_that_share_clips_holds_each_clip_once(source, tmp_path):
    folder = compact.compact(source, tmp_path, SETTINGS, config='folds_concatenated')
    assert folder == tmp_path / 'sub_jhmdb/folds_concatenated/2.0.0'
    assert clip_source.read_built(folder).leak
    for split in ('train', 'test'):
        original, copy = (clip_source.open_built(at, split, 'folds_concatenated') for at in (source, folder))
        assert (copy.names, copy.lengths) == (original.names, original.lengths)
        assert copy.leak == original.leak
    assert len(clip_source.read_built(folder).metadata['clips']['clips']) == len(fake_jhmdb.LENGTHS)
    development = compact.compact(source, tmp_path, SETTINGS, config='fold1_development')
    assert len(clip_source.read_built(development).metadata['clips']['clips']) == 2
