import dataclasses

import numpy as np
import pytest
from memory_clips import make_clips

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.geometry import apply_affine, invert_affine
from kimnet_jax.core.image import encode_png
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.transforms import CLOSEUP, Augmentation, DataConfig, closeup, crop_window, draw_augmentation

WRIST, OTHER_WRIST = 5, 6  # left and right of Penn Action
CONFIG = DataConfig(frames=3, input_size=97)


def crop(source, window, config=CONFIG, **augmentation):
    return crop_window(
        source[window.clip],
        window,
        config.frames,
        config,
        skeleton=source.skeleton,
        folder=source.folder,
        **augmentation,
    )


@pytest.fixture
def dotted():
    """Three frames of 101 x 149 with a soft dot at the left wrist, which moves, as does the box."""
    source = make_clips([3], size=(101, 149))
    example = source.examples[0]
    rows, columns = np.mgrid[:101, :149]
    for t in range(3):
        example['joints'][t, WRIST] = x, y = 70.3 + 5 * t, 52.6 - 4 * t
        example['joints'][t, OTHER_WRIST] = 60, 40
        example['boxes'][t] = 40 + 3 * t, 30 - 2 * t, 100 + 3 * t, 90 + t
        dot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
        example['frames'][t] = encode_png(np.stack([dot, 0 * dot, 0 * dot], -1).round().astype(np.uint8))
    example['visible'][:] = False
    example['visible'][:, WRIST] = True
    return source


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('rotation', [0.0, 35.0, -40.0])
@pytest.mark.parametrize('scale', [0.8, 1.0, 1.4])
def test_the_dot_is_where_the_joint_is(dotted, scale, rotation, flip):
    row = crop(dotted, Window(0, 0, 3), augmentation=Augmentation(scale, rotation, flip, (0.03, -0.05)))
    wrist = OTHER_WRIST if flip else WRIST
    assert row['visible'][:, wrist].all()
    assert row['visible'].sum() == 3
    for image, joints in zip(row['frames'][..., 0].astype(float), row['joints'], strict=True):
        rows, columns = np.mgrid[:97, :97]
        found = np.array([(columns * image).sum(), (rows * image).sum()]) / image.sum()
        np.testing.assert_allclose(joints[wrist], found, atol=0.3)
        assert image[tuple(joints[wrist].round().astype(int)[::-1])] > 200


def test_rotation_is_counter_clockwise_and_flip_mirrors():
    source = make_clips([1])
    example = source.examples[0]
    x0, y0, x1, y1 = example['boxes'][0]
    example['joints'][0, 0] = [(x0 + x1) / 2 + 6, (y0 + y1) / 2]  # six pixels to the right of the middle; the crop is 37.5 wide
    config = DataConfig(frames=1, input_size=75)
    middle, reach = 37.0, 12.0
    for augmentation, expected in [
        (Augmentation(), [middle + reach, middle]),
        (Augmentation(rotation=90), [middle, middle - reach]),
        (Augmentation(flip=True), [middle - reach, middle]),
        (Augmentation(scale=0.5, flip=True), [middle - reach / 2, middle]),
        (Augmentation(shift=(0.1, -0.2)), [middle + reach - 7.5, middle + 15.0]),  # the crop goes right and up
    ]:
        np.testing.assert_allclose(
            crop(source, Window(0, 0, 1), config, augmentation=augmentation)['joints'][0, 0], expected, atol=1e-3
        )


def test_scale_magnifies_the_person(dotted):
    spread = [np.ptp(crop(dotted, Window(0, 0, 3), augmentation=Augmentation(scale=s))['joints'], axis=1) for s in (1.0, 1.3)]
    np.testing.assert_allclose(spread[1], 1.3 * spread[0], rtol=1e-4)


def test_the_longer_side_of_the_box_fills_its_share_of_the_crop():
    source = make_clips([2])
    source.examples[0]['joints'][:, :2] = source.examples[0]['boxes'].reshape(2, 2, 2)
    corners = crop(source, Window(0, 0, 2), DataConfig(frames=2, input_size=100))['joints'][:, :2]
    np.testing.assert_allclose(corners[:, 1] - corners[:, 0], [[100 / 1.25 * 20 / 30, 100 / 1.25]] * 2, rtol=1e-4)


def test_a_short_clip_repeats_its_last_frame_under_a_mask():
    source = make_clips([4])
    row = crop(source, Window(0, 1, 3), dataclasses.replace(CONFIG, frames=5))
    assert row['mask'].tolist() == [True, True, True, False, False]
    assert row['frame'].tolist() == [1, 2, 3, 3, 3]
    assert row['frames'][:, 48, 48, 1].tolist() == [1, 2, 3, 3, 3]  # the colour of a frame is its number
    for key in ('frames', 'joints', 'visible', 'matrix'):
        np.testing.assert_array_equal(row[key][3], row[key][2])
        np.testing.assert_array_equal(row[key][4], row[key][2])
    assert (row['joints'][1] != row['joints'][2]).any()


def test_way_back_to_the_original_pixels(dotted):
    row = crop(dotted, Window(0, 0, 3), augmentation=Augmentation(1.2, 30, True))
    back = apply_affine(invert_affine(row['matrix']).astype(np.float32), row['joints'])
    np.testing.assert_allclose(back[:, dotted.skeleton.flip_order], dotted[0]['joints'], atol=0.01)


def test_joints_outside_the_crop_keep_coordinates_and_visibility(dotted):
    dotted.examples[0]['joints'][:, WRIST] = [-500, 10]
    row = crop(dotted, Window(0, 0, 3))
    assert (row['joints'][:, WRIST, 0] < -100).all()
    assert row['visible'][:, WRIST].all()


def test_only_the_frames_of_the_window_are_decoded():
    source = make_clips([5])
    source.examples[0]['frames'][0] = source.examples[0]['frames'][4] = b'damaged'
    crop(source, Window(0, 1, 3))
    with pytest.raises(InputError, match=r"memory/clips/1\.0\.0: clip 'clip0', frame 4: not a readable image"):
        crop(source, Window(0, 2, 3))


def test_draws_stay_in_their_ranges_and_fill_them():
    rng, config = np.random.default_rng(0), DataConfig()
    draws = [draw_augmentation(config, rng) for _ in range(500)]
    for values, low, high in [([d.scale for d in draws], 0.8, 1.4), ([d.rotation for d in draws], -40, 40)]:
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high
    assert 200 < sum(d.flip for d in draws) < 300


def test_clipped_normal_draws_are_those_of_simple_baseline():
    """Side of the crop: clip(1 + 0.25 N, 0.75, 1.25), so 16 % at either end; rotation: clip(30 N, -60, 60) for 60 %."""
    config = DataConfig(augment_draw='clipped_normal', augment_scale=(1 / 1.25, 1 / 0.75), augment_rotation=60.0)
    rng = np.random.default_rng(0)
    draws = [draw_augmentation(config, rng) for _ in range(4000)]
    side = 1 / np.array([d.scale for d in draws])
    assert (side.min(), side.max()) == pytest.approx((0.75, 1.25))
    for end in (0.75, 1.25):
        assert np.isclose(side, end).mean() == pytest.approx(0.159, abs=0.02)
    assert np.median(side) == pytest.approx(1, abs=0.02)
    rotation = np.array([d.rotation for d in draws])
    assert (rotation == 0).mean() == pytest.approx(0.4, abs=0.03)
    turned = rotation[rotation != 0]
    assert np.abs(turned).max() == 60
    assert (np.abs(turned) == 60).mean() == pytest.approx(0.0455, abs=0.015)
    assert np.quantile(np.abs(turned), 0.6827) == pytest.approx(30, abs=2)  # one standard deviation
    assert 0.47 < np.mean([d.flip for d in draws]) < 0.53


def test_augmentation_can_be_switched_off():
    for draw in ('uniform', 'clipped_normal'):
        off = dict.fromkeys((field.name for field in dataclasses.fields(DataConfig) if field.name.startswith('augment_')), 0.0)
        config = DataConfig(**off | {'augment_draw': draw, 'augment_scale': (1.0, 1.0)})
        assert draw_augmentation(config, np.random.default_rng(0)) == Augmentation()


def test_colours(dotted):
    image = encode_png(np.full((101, 149, 3), (100, 150, 200), np.uint8))
    for t in range(3):
        dotted.examples[0]['frames'][t] = image
    row = crop(dotted, Window(0, 0, 2), augmentation=Augmentation(gain=(1.1, 0.5, 2.0), brightness=0.1))
    assert row['frames'][:, 48, 48].tolist() == [[136, 100, 255]] * 3  # 110 + 25.5, 75 + 25.5, more than there is
    draws = [draw_augmentation(DataConfig(augment_colour=0.2), np.random.default_rng(seed)) for seed in range(300)]
    gains, brightness = np.array([d.gain for d in draws]), np.array([d.brightness for d in draws])
    assert 0.72 <= gains.min() < 0.8 < 1.2 < gains.max() <= 1.32
    assert -0.1 <= brightness.min() < -0.09 < 0.09 < brightness.max() <= 0.1


def test_colours_change_no_other_draw():
    plain, coloured = (draw_augmentation(DataConfig(augment_colour=c), np.random.default_rng(5)) for c in (0.0, 0.3))
    assert dataclasses.replace(coloured, gain=plain.gain, brightness=plain.brightness) == plain


def test_a_closeup_shows_a_visible_joint_large(dotted):
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = closeup(dotted.examples[0], Window(0, 0, 3), CONFIG, Augmentation(scale=1.2), rng)
        assert CLOSEUP[0] * 1.2 <= drawn.scale <= CLOSEUP[1] * 1.2
        joint = crop(dotted, Window(0, 0, 3), augmentation=drawn)['joints'][1, WRIST]
        assert (np.abs(joint - 48) <= 0.26 * 97).all()
    dotted.examples[0]['visible'][:] = False
    assert closeup(dotted.examples[0], Window(0, 0, 3), CONFIG, Augmentation(), rng) == Augmentation()


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('frames', 0),
        ('input_size', 0),
        ('box_scale', 0.0),
        ('augment_draw', 'normal'),
        ('augment_scale', (1.4, 0.8)),
        ('augment_rotation', -1.0),
        ('augment_flip', 1.5),
        ('augment_colour', 2.0),
        ('augment_closeup', -0.1),
        ('augment_occlusion', 1.5),
        ('augment_background', float('nan')),
    ],
)
def test_settings_out_of_range_are_named(field, value):
    with pytest.raises(InputError, match=rf'config\.data\.{field}'):
        make(DataConfig, {field: value}, 'data', partial=True)
