import dataclasses

import numpy as np
import pytest
from memory_clips import make_clips

from kimnet_jax.core.image import encode_png
from kimnet_jax.data_pipelines import backgrounds
from kimnet_jax.data_pipelines.backgrounds import background_window
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.loader import train_batches
from kimnet_jax.data_pipelines.transforms import Augmentation, DataConfig

CONFIG = DataConfig(frames=3, input_size=64, augment_background=1.0)


@pytest.fixture
def person():
    """Three frames of 100 x 200: a bright block, the person, which moves, on a dark wall."""
    source = make_clips([3], size=(100, 200))
    example = source.examples[0]
    for t in range(3):
        image = np.full((100, 200, 3), 20, np.uint8)
        image[30:80, 20 + 10 * t : 50 + 10 * t] = 250
        example['frames'][t] = encode_png(image)
        example['boxes'][t] = 20 + 10 * t, 30, 49 + 10 * t, 79
        example['joints'][t] = 35 + 10 * t, 55
    example['visible'][:] = True
    return source


def draw(source, seed, kind=None, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    place = {'skeleton': source.skeleton, 'folder': source.folder}
    return background_window(
        source.examples[0],
        Window(0, 0, 3),
        config,
        Augmentation(1.3, 20.0, True),
        np.random.default_rng(seed),
        **place,
        kind=kind,
    )


def test_beside_the_person_there_is_none_of_it(person):
    for seed in range(30):
        frames = draw(person, seed, 'elsewhere')['frames']
        assert (frames > 200).mean() <= 2 * backgrounds.OVERLAP  # turned, the crop reaches a little further
        assert (frames == 20).mean() > 0.5


def test_where_there_is_no_place_beside_the_person_it_is_cut_into_tiles(person, monkeypatch):
    monkeypatch.setattr(backgrounds, 'SHARES', {'elsewhere': 1.0})
    person.examples[0]['boxes'][:] = 0, 0, 199, 99
    frames = draw(person, 0)['frames']
    assert not np.array_equal(frames[0], frames[2])  # it moves
    assert (frames > 200).any()
    with pytest.raises(LookupError, match='no place beside the person'):
        draw(person, 0, 'elsewhere')


def test_tiles_are_those_of_the_crop_in_another_order(monkeypatch):
    monkeypatch.setattr(backgrounds, 'TILES', (8, 8))
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    shuffled = backgrounds._shuffled(frames, np.random.default_rng(1))
    assert not np.array_equal(shuffled, frames)
    tiles = [
        sorted(image[8 * i : 8 * i + 8, 8 * j : 8 * j + 8].tobytes() for i in range(8) for j in range(8))
        for image in (frames[1], shuffled[1])
    ]
    assert tiles[0] == tiles[1]
    assert np.array_equal(frames[0, :8, :8], shuffled[0, :8, :8]) == np.array_equal(frames[2, :8, :8], shuffled[2, :8, :8])


@pytest.mark.parametrize('kind', list(backgrounds.SHARES))
def test_every_kind_says_that_no_joint_is_there(person, kind):
    row = draw(person, 3, kind, frames=5)
    assert (row['frames'].shape, row['frames'].dtype) == ((5, 64, 64, 3), np.uint8)
    assert row['visible'].all()
    assert (row['joints'] < -CONFIG.input_size / 2).all()
    assert row['mask'].tolist() == [True] * 3 + [False] * 2


def test_kinds_differ_from_draw_to_draw(person):
    for kind in ('flat', 'noise', 'pattern'):
        pictures = {draw(person, seed, kind)['frames'].tobytes() for seed in range(12)}
        assert len(pictures) >= 8  # black is drawn more than once


def test_share_of_the_batches():
    source = make_clips([4] * 50)
    config = dataclasses.replace(CONFIG, augment_background=0.3)
    batches = train_batches(source, config, batch_size=50, seed=0)
    joints = np.concatenate([next(batches)['joints'] for _ in range(10)])
    batches.close()
    share = (joints == -64).all((1, 2, 3)).mean()
    assert share == pytest.approx(0.3, abs=0.06)
