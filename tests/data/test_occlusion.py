"""Masks: which pixels, which joints, and that networks get to see them."""

import dataclasses
import pickle
from typing import get_args

import numpy as np
import pytest
from memory_clips import make_clips

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import decode_image
from kimnet_jax.data_pipelines.loader import LoaderConfig, eval_batches, train_batches
from kimnet_jax.data_pipelines.occlusion import Fill, Occlusion, Study, draw_masks, long_enough
from kimnet_jax.data_pipelines.transforms import DataConfig

SIZE = 37, 53  # rows, columns


@pytest.fixture
def clip():
    """12 frames of 37 x 53 of noise, all joints visible; the box is 20 x 30 pixels, so a mask of 0.1 is 3 x 3."""
    example = make_clips([12], SIZE).examples[0]
    example['visible'][:] = True
    return example


def square(point, side: int) -> tuple[slice, slice]:
    """Rows and columns of the square of `side` pixels whose middle is nearest to a point, inside the image."""
    starts = [min(range(-60, 60), key=lambda first: (abs(first + (side - 1) / 2 - value), -first)) for value in point]
    (x, y), (rows, columns) = starts, SIZE
    return slice(max(y, 0), min(y + side, rows)), slice(max(x, 0), min(x + side, columns))


def painted(occlusion, example, image):
    paint = occlusion(example)
    return [paint(image, t) for t in range(len(example['joints']))]


@pytest.fixture
def image():
    return np.random.default_rng(5).integers(1, 256, (*SIZE, 3), np.uint8)  # nowhere black


@pytest.mark.parametrize('first_frame', [False, True])
@pytest.mark.parametrize(('side', 'pixels'), [(0.1, 3), (0.2, 6), (1.0, 30), (0.001, 1)])
def test_masks_follow_their_joints_in_all_frames_but_the_first(clip, image, side, pixels, first_frame):
    clip['joints'][3, :] = [1.2, 35.4]  # masks end at the border
    occlusion = Occlusion('joints', 3, seed=1, side=side, first_frame=first_frame)
    masks, before = occlusion.place(clip), image.copy()
    assert len(set(masks.joints)) == 3
    for t, got in enumerate(painted(occlusion, clip, image)):
        expected = image.copy()
        for joint in masks.joints if t or first_frame else ():
            expected[square(clip['joints'][t, joint], pixels)] = 0
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(image, before)


def test_a_mask_is_as_large_as_the_person_in_its_frame(clip, image):
    clip['boxes'][:, 2] = clip['boxes'][:, 0] + np.arange(12) * 5 + 1  # the longer side is 30, then 31, 36, ...
    occlusion = Occlusion('joints', 1, side=0.2)
    (joint,) = occlusion.place(clip).joints
    clip['joints'][:, joint] = [26, 18]
    for t, got in enumerate(painted(occlusion, clip, image)):
        pixels = round(0.2 * max(30, 5 * t + 1)) if t else 0
        assert (got == 0).all(-1).sum() == pixels**2


def test_temporal_masks_are_on_one_frame(clip, image):
    frames = set()
    for seed in range(200):
        occlusion = Occlusion('temporal', 2, seed=seed, side=0.1)
        masks = occlusion.place(clip)
        (t,) = np.flatnonzero(masks.rectangles.any((1, 2)))
        frames.add(int(t))
        if seed < 5:
            expected = [image.copy() for _ in range(12)]
            for joint in masks.joints:
                expected[t][square(clip['joints'][t, joint], 3)] = 0
            np.testing.assert_array_equal(painted(occlusion, clip, image), expected)
    assert frames == set(range(1, 12))
    first = {
        np.flatnonzero(Occlusion('temporal', 1, s, first_frame=True).place(clip).rectangles.any((1, 2)))[0] for s in range(200)
    }
    assert first == set(range(12))


def test_spatial_masks_stay(clip, image):
    occlusion = Occlusion('spatial', 2, side=0.1)
    masks = occlusion.place(clip)
    expected = image.copy()
    for joint in masks.joints:
        expected[square(clip['joints'][1, joint], 3)] = 0  # where it is in the first frame with masks
    np.testing.assert_array_equal(painted(occlusion, clip, image), [image] + [expected] * 11)
    assert masks.occluded[1, masks.joints].all()
    assert not masks.occluded[:, masks.joints].all(-1).all()  # joints move out


@pytest.mark.parametrize('count', [1, 4, 11])
def test_length_is_one_joint_for_so_many_frames_in_a_row(clip, image, count):
    starts = set()
    for seed in range(150):
        occlusion = Occlusion('length', count, seed=seed, side=0.1)
        masks = occlusion.place(clip)
        (joint,) = masks.joints
        frames = np.flatnonzero(masks.occluded[:, joint])
        assert frames.tolist() == list(range(frames[0], frames[0] + count))
        assert masks.rectangles.any((1, 2)).tolist() == masks.occluded[:, joint].tolist()
        starts.add(int(frames[0]))
    assert starts == set(range(1, 12 - count + 1))
    for t, got in enumerate(painted(occlusion, clip, image)):
        expected = image.copy()
        if t in frames:
            expected[square(clip['joints'][t, joint], 3)] = 0
        np.testing.assert_array_equal(got, expected)


def test_length_prefers_a_joint_that_is_visible_all_the_time(clip):
    clip['visible'][5] = False
    clip['visible'][5, 6] = True
    assert {tuple(Occlusion('length', 11, seed).place(clip).joints) for seed in range(20)} == {(6,)}
    clip['visible'][5, 6] = False
    assert len({tuple(Occlusion('length', 11, seed).place(clip).joints) for seed in range(20)}) > 3
    assert Occlusion('length', 11).place(clip).occluded[1:].any(-1).sum() == 10


def test_occluded_is_what_lies_under_a_mask_whosever_it_is(clip, image):
    clip['joints'][:] = 5  # all 13 at one place ...
    clip['joints'][:, 7] = 30  # ... but one
    masks = Occlusion('joints', 1, seed=next(s for s in range(99) if Occlusion('joints', 1, s).place(clip).joints != [7])).place(
        clip
    )
    expected = np.ones((12, 13), bool)
    expected[0], expected[:, 7] = False, False
    np.testing.assert_array_equal(masks.occluded, expected)


@pytest.mark.parametrize('study', get_args(Study))
def test_occluded_agrees_with_the_pixels(study, image):
    for example in make_clips([9, 12, 10, 11], SIZE).examples:  # some joints are not visible
        occlusion = Occlusion(study, 5, side=0.3)
        masks = occlusion.place(example)
        for t, got in enumerate(painted(occlusion, example, image)):
            x, y = np.floor(example['joints'][t] + 0.5).astype(int).T
            np.testing.assert_array_equal(masks.occluded[t], (got[y, x] == 0).all(-1) & example['visible'][t])


def test_a_joint_that_is_not_visible_gets_no_mask(clip):
    clip['visible'][:, 2:] = False
    clip['visible'][5] = False
    masks = Occlusion('joints', 6).place(clip)
    assert sorted(masks.joints) == [0, 1]
    assert not masks.rectangles[5].any()
    assert masks.rectangles[[1, 11]].any(-1).all()
    clip['visible'][:] = False
    assert Occlusion('joints', 6).place(clip).joints == []
    assert not Occlusion('spatial', 6).place(clip).occluded.any()


def test_draws_depend_on_seed_and_name_alone(clip):
    def of(seed, **fields):
        return Occlusion('joints', 4, seed).place(clip | fields).joints

    assert of(0) == of(0) == of(0, frames=None, action='other')
    assert len({tuple(of(seed)) for seed in range(20)}) > 15
    assert len({tuple(of(0, clip=f'clip{i}')) for i in range(20)}) > 15
    more = [Occlusion('joints', count).place(clip).joints for count in range(14)]
    assert all(more[count] == more[13][:count] for count in range(14))  # masks are added
    assert sorted(more[13]) == list(range(13))
    noise = dataclasses.replace(Occlusion('joints', 1, side=0.5), fill='noise')
    image = np.zeros((*SIZE, 3), np.uint8)
    first, again = painted(noise, clip, image), painted(noise, clip, image)
    np.testing.assert_array_equal(first, again)
    assert len({frame[frame > 0].tobytes() for frame in first}) == 12  # each frame's is its own


RECTANGLES = np.array([[2, 3, 7, 9], [0, 0, 0, 0], [30, 20, 41, 24]])


@pytest.mark.parametrize('fill', get_args(Fill))
def test_fills(image, fill):
    rng, box = np.random.default_rng(3), np.array([10, 5, 30.5, 30])
    got = draw_masks(image, RECTANGLES, fill, box=box, rng=rng)
    outside = np.ones(SIZE, bool)
    patches = []
    for x0, y0, x1, y1 in RECTANGLES[[0, 2]]:
        outside[y0:y1, x0:x1] = False
        patches.append(got[y0:y1, x0:x1])
    np.testing.assert_array_equal(got[outside], image[outside])
    if fill == 'black':
        assert not any(patch.any() for patch in patches)
    elif fill == 'mean':
        for patch in patches:
            np.testing.assert_array_equal(patch, np.broadcast_to(np.rint(image.mean((0, 1))), patch.shape))
    elif fill == 'noise':
        assert all(len(np.unique(patch)) > patch.size / 3 for patch in patches)
    else:
        for patch in patches:
            rows, columns = patch.shape[:2]
            places = [
                (x, y)
                for x in range(SIZE[1] - columns + 1)
                for y in range(SIZE[0] - rows + 1)
                if np.array_equal(image[y : y + rows, x : x + columns], patch)
            ]
            ((x, y),) = places  # it is of the frame as it was, and away from the person
            assert x + columns <= 10 or x >= 30.5 or y + rows <= 5 or y >= 30


def test_background_where_the_person_is_everywhere(image):
    box = np.array([-5, -5, 60, 40])
    got = draw_masks(image, RECTANGLES[:1], 'background', box=box, rng=np.random.default_rng(0))
    assert (got != image).any()
    whole = draw_masks(image, np.array([[0, 0, 53, 37]]), 'background', box=box, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(whole, image)  # no other place to take it from


def test_networks_see_the_masks_in_every_window(clip):
    """At a crop as large as its square the pixels are those of the frame."""
    source = make_clips([9, 4, 12], SIZE)
    data = DataConfig(input_size=40, box_scale=40 / 30)
    for example in source.examples:
        example['boxes'][:] = [16.5, 3.5, 36.5, 33.5]  # the crop is of columns 7 to 46, rows -1 to 38
    occlusion, passes = Occlusion('joints', 3, side=0.2), {'batch_size': 2, 'segment': 5, 'chain_length': None}
    seen = 0
    for batch in eval_batches(source, data, paint=occlusion, **passes):
        for row, clip_index in enumerate(batch['clip']):
            for t in np.flatnonzero(batch['mask'][row]):
                example, frame = source.examples[clip_index], batch['frame'][row, t]
                whole = occlusion(example)(decode_image(example['frames'][frame], 'frame'), frame)
                expected = np.pad(whole, [(1, 2), (0, 0), (0, 0)])[:, 7:47]
                np.testing.assert_array_equal(batch['frames'][row, t], expected)
                seen += bool((whole == 0).all(-1).any())
    assert seen == 9 + 4 + 12 - 3


def test_workers_draw_the_same():
    source, occlusion = make_clips([9, 4]), Occlusion('spatial', 2, fill='noise', side=0.4)
    assert pickle.loads(pickle.dumps(occlusion)) == occlusion
    passes = {'batch_size': 2, 'segment': 5, 'chain_length': None, 'paint': occlusion}
    data = DataConfig(input_size=32)
    here, there = (list(eval_batches(source, data, loader=LoaderConfig(workers=n), **passes)) for n in (0, 1))
    for a, b in zip(here, there, strict=True):
        np.testing.assert_array_equal(a['frames'], b['frames'])
    plain = list(eval_batches(source, data, **passes | {'paint': None}))
    assert any((a['frames'] != b['frames']).any() for a, b in zip(here, plain, strict=True))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'study': 'space'}, "study 'space'; choose one of temporal, spatial, joints, length"),
        ({'fill': 'white'}, "fill 'white'; choose one of black, mean, noise, background"),
        ({'count': -1}, 'count -1'),
        ({'side': 0.0}, 'side 0.0'),
        ({'side': 1.5}, 'side 1.5'),
        ({'side': float('nan')}, 'side nan'),
        ({'seed': -1}, 'seed -1'),
        ({'seed': 2**32}, 'seed 4294967296'),
    ],
)
def test_values_out_of_range(fields, message):
    with pytest.raises(InputError, match=message):
        Occlusion(**{'study': 'joints', 'count': 2} | fields)


@pytest.mark.parametrize(
    ('study', 'count', 'first_frame', 'least'),
    [('joints', 9, False, 2), ('joints', 9, True, 1), ('temporal', 2, False, 2), ('length', 8, False, 9), ('length', 8, True, 8)],
)
def test_clips_that_are_too_short(study, count, first_frame, least):
    occlusion = Occlusion(study, count, first_frame=first_frame)
    assert occlusion.least_frames == least
    source = make_clips([least - 1, least] if least > 1 else [least])
    occlusion.place(source[len(source) - 1])
    if least > 1:
        with pytest.raises(InputError, match=rf"clip 'clip0': {least - 1} frames; to mask .* takes {least}$"):
            occlusion.place(source[0])


def test_the_clips_that_are_long_enough():
    source = make_clips([3, 7, 2, 5])
    clips = long_enough(source, 5)
    assert clips.lengths == [7, 5]
    assert [clips[i]['clip'] for i in range(len(clips))] == ['clip1', 'clip3']
    assert (clips.folder, clips.split, clips.skeleton) == (source.folder, source.split, source.skeleton)
    with pytest.raises(InputError, match="no clip of 'test' has the 8 frames"):
        long_enough(source, 8)


def test_what_clips_it_takes():
    source = make_clips([3, 1])
    Occlusion('joints', 3, first_frame=True).require(source)
    with pytest.raises(InputError, match=r'the shortest clip of .* has 1 frames; to mask a frame after the first takes 2'):
        Occlusion('joints', 3).require(source)
    with pytest.raises(InputError, match='occlusion of 14 joints: penn_action has 13'):
        Occlusion('joints', 14, first_frame=True).require(source)


def windows(**data):
    rng = np.random.default_rng(0)

    def noise(image, joints):
        image[:] = rng.integers(0, 256, image.shape)

    settings = DataConfig(frames=3, input_size=32, augment_background=0, augment_closeup=0, **data)
    batches = train_batches(make_clips([6, 4, 1], size=(60, 80), draw=noise), settings, batch_size=3, seed=1)
    try:
        return [next(batches) for _ in range(12)]
    finally:
        batches.close()


def test_training_windows_with_masks():
    """They change pixels about joints and nothing else; a joint stays visible, so that the network must find it."""
    plain, masked = windows(), windows(augment_occlusion=1.0)
    whole, hidden, later = 0, 0, []
    for before, after in zip(plain, masked, strict=True):
        for key in ('joints', 'visible', 'mask', 'clip'):
            np.testing.assert_array_equal(before[key], after[key])
        changed = (before['frames'] != after['frames']).any((2, 3, 4))  # [B, T]
        later += changed[:, 1:][after['mask'][:, 1:]].tolist()
        several = after['mask'].sum(1) > 1
        whole, hidden = whole + (~changed[several, 0]).sum(), hidden + changed[several, 0].sum()
    assert np.mean(later) > 0.8  # in the others the joints are not visible
    assert whole > 3
    assert hidden > 3
    some, half = windows(augment_occlusion=0.5), 0
    for before, after in zip(plain, some, strict=True):
        half += (before['frames'] != after['frames']).any((1, 2, 3, 4)).sum()
    assert 9 < half < 27  # of 36 windows
