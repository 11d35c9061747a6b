"""`evaluate --protocol released`: RPSTN's numbers of a run, beside rows that need no model."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.released.rpstn import COLUMNS, TRUTH, Crop, OneWindow, measure, released_report, render
from kimnet_jax.reporting.tables import MEAN_POSE, RANDOM

CROP = Crop(input_size=256, box_scale=1.0, stride=4)


class Memory:
    """Clips of which every joint is somewhere in the box (0, 0, 256, 256), which is the crop."""

    folder, split, skeleton = None, 'test', JHMDB

    def __init__(self, *lengths):
        self.lengths = list(lengths)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        frames, rng = self.lengths[i], np.random.default_rng(i)
        joints = rng.uniform(30, 220, (frames, 15, 2)).astype(np.float32)
        joints[:, 5] = joints[:, 4] + [10, 56]  # the torso is 56.9 pixels long: 14.2 cells
        return {
            'frames': [b'%d' % t for t in range(frames)],
            'joints': joints,
            'visible': np.ones((frames, 15), bool),
            'boxes': np.tile(np.float32([-0.5, -0.5, 255.5, 255.5]), (frames, 1)),
        }


def test_one_window_of_each_clip():
    source = Memory(40, 4, 6)
    clips = OneWindow(source)
    assert clips.lengths == [5, 4, 5]
    for i, length in enumerate(clips.lengths):
        first = clips.first(i)
        example = clips[i]
        assert example['frames'] == source[i]['frames'][first : first + 5]
        assert {len(example[key]) for key in ('frames', 'joints', 'visible', 'boxes')} == {length}
    assert [clips.first(i) for i in range(3)] == [OneWindow(source).first(i) for i in range(3)]
    starts = {OneWindow(Memory(*[6] * 20)).first(i) for i in range(20)}
    assert starts == {0, 1}


def test_cells_and_targets_are_those_of_the_heatmaps():
    boxes = np.float32([[-0.5, -0.5, 255.5, 255.5]])
    joints = np.float32([[[0, 0], [3, 4], [255, 128], [300, -9]]])
    np.testing.assert_array_equal(CROP.cells(joints, boxes)[0], [[0, 0], [0, 1], [63, 32], [63, 0]])
    np.testing.assert_array_equal(CROP.targets(joints, boxes)[0], [[0, 0], [0, 1], [63, 32], [0, 0]])  # outside: no target


def rows_of(clips):
    rng = np.random.default_rng(7)
    truth = [clips[i]['joints'] for i in range(len(clips))]
    predictions = {
        RANDOM: [(i, rng.uniform(0, 255, joints.shape), None) for i, joints in enumerate(truth)],
        MEAN_POSE: [(i, joints - 25.6, None) for i, joints in enumerate(truth)],  # up-left by the offset: 6.4 cells
        'truth': [(i, joints, None) for i, joints in enumerate(truth)],
        'no peaks': [(i, joints, np.zeros(joints.shape[:2])) for i, joints in enumerate(truth)],
        'corner': [(i, 0 * joints, None) for i, joints in enumerate(truth)],
    }
    return {name: measure(clips, prediction, CROP) for name, prediction in predictions.items()}


def test_what_random_and_perfect_predictions_score():
    clips = OneWindow(Memory(*[9] * 12))
    rows = rows_of(clips)
    mean = {name: {heading: row[heading]['mean'] for heading in COLUMNS} for name, row in rows.items()}
    assert mean[RANDOM]['PCK, 1 torso'] > 0.99
    assert mean['truth']['acc'] == 0.0
    assert mean[MEAN_POSE]['acc'] > 0.9  # whoever misses by the offset is right
    assert mean['truth']['PCK, 0.2 torso'] == 1.0
    assert rows['no peaks'] == rows['corner'] != rows['truth']
    assert list(rows['truth']['acc']['joints']) == list(JHMDB.joints)

    report = json.loads(json.dumps(released_report('Tiny', rows, clips=clips, notes=['A note.'])))
    assert (report['protocol'], report['clips'], report['frames']) == ('released', 12, 60)
    text = render(report)
    for part in ('# Tiny', 'protocol `released`', 'random predictions can score 1.0', 'A note.', '| truth ', 'PCK, 1 torso'):
        assert part in text
    assert f'random joints score {max(mean[RANDOM].values()):.3f} in' in text


def test_short_clips_are_told():
    clips = OneWindow(Memory(9, 3))
    assert '1 clips have fewer than 5 frames' in render(released_report('Tiny', rows_of(clips), clips=clips))


def test_the_reference_rows_are_not_optional():
    clips = OneWindow(Memory(5))
    rows = rows_of(clips)
    del rows[MEAN_POSE]
    with pytest.raises(ValueError, match="no row 'mean pose'"):
        released_report('Tiny', rows, clips=clips)


def test_a_run(whole_run, run, tmp_path):
    workdir = shutil.copytree(whole_run[0], tmp_path / 'run')
    done = run('-m', 'kimnet_jax.evaluate', f'--workdir={workdir}', '--protocol=released')
    assert done.returncode == 0, done.stderr
    (file,) = (workdir / 'evaluation').glob('*_released.json')
    report = json.loads(file.read_text())
    assert list(report['rows']) == ['KIMNet (ours)', MEAN_POSE, RANDOM, TRUTH]
    assert "## RPSTN's released evaluation (protocol `released`)" in done.stdout
    assert report['warning'] in done.stdout
    assert (report['clips'], report['frames']) == (3, 15)
    assert report['rows'][TRUTH]['acc']['mean'] == 0.0
    values = [row[heading]['mean'] for row in report['rows'].values() for heading in COLUMNS]
    assert all(0 <= value <= 1 for value in values)

    refused = run('-m', 'kimnet_jax.evaluate', f'--workdir={workdir}', '--protocol=released', '--decoding=dark')
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines()[-1].startswith('error: --decoding belongs to --protocol full')


def test_skeletons_that_rpstn_does_not_know():
    clips = OneWindow(Memory(5))
    clips.skeleton = dataclasses.replace(JHMDB, name='mpii')
    with pytest.raises(InputError, match="'mpii': RPSTN evaluates"):
        measure(clips, [(0, clips[0]['joints'], None)], CROP)
