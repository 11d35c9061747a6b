"""What is drawn: positions of lines, values of cells, texts."""

import io

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.image import AxesImage
from matplotlib.patches import Circle

from kimnet_jax.reporting import PICTURE_SUFFIXES, pictures

NAMES = ['head', 'l_hand', 'r_hand']
SIZE = 40


def weights(steps: int = 3) -> np.ndarray:
    values = np.random.default_rng(0).random((steps, 3, 3))
    return values / values.sum(-1, keepdims=True)


def images(frames: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (frames, SIZE, SIZE, 3), np.uint8)


def drawn_images(figure) -> list[AxesImage]:
    return [image for axes in figure.axes for image in axes.get_images()]


def texts(figure) -> list[str]:
    found = [text.get_text() for axes in figure.axes for text in axes.texts]
    return found + [axes.get_title() for axes in figure.axes]


def test_cells_of_the_correlation():
    values = weights()
    figure = pictures.correlation(values, range(4, 8), NAMES, title='T')
    shown = drawn_images(figure)
    for image, step in zip(shown, values, strict=True):
        np.testing.assert_array_equal(image.get_array(), step)
        assert (image.norm.vmin, image.norm.vmax) == (0, values.max())
        assert image.cmap.name == 'Reds'
    axes = [image.axes for image in shown]
    assert [one.get_title() for one in axes] == ['4 → 5', '5 → 6', '6 → 7']
    for one in axes:
        assert [label.get_text() for label in one.get_xticklabels()] == NAMES
    assert [label.get_text() for label in axes[0].get_yticklabels()] == NAMES
    assert figure.get_suptitle() == 'T'


def test_names_stand_at_the_edges_of_the_grid():
    figure = pictures.correlation(weights(7), range(8), NAMES)
    axes = [image.axes for image in drawn_images(figure)]
    named = {
        key: [i for i, one in enumerate(axes) if [label.get_text() for label in getattr(one, f'get_{key}ticklabels')()] == NAMES]
        for key in 'xy'
    }
    assert named == {'x': [2, 3, 4, 5, 6], 'y': [0, 5]}


def lines_of(figure) -> list[LineCollection]:
    return [part for axes in figure.axes for part in axes.collections if isinstance(part, LineCollection) and axes.images]


def test_lines_of_the_correlation():
    values, shown = weights(2), images(3)
    joints = np.random.default_rng(2).uniform(5, 35, (3, 3, 2))
    figure = pictures.correlation(values, range(3), NAMES, pictures.JointLines(shown, joints, [2]))
    (lines,) = lines_of(figure)
    pitch = 1.08 * SIZE
    expected = {
        round(float(values[step, 2, earlier]), 9): [
            joints[step, earlier] + (step * pitch, 0),
            joints[step + 1, 2] + ((step + 1) * pitch, 0),
        ]
        for step in range(2)
        for earlier in range(3)
    }
    strengths = [round(float(value), 9) for value in lines.get_array()]
    assert strengths == sorted(expected)  # the strong ones above the weak
    for segment, strength in zip(lines.get_segments(), strengths, strict=True):
        np.testing.assert_allclose(segment, expected[strength])
    assert (lines.norm.vmin, lines.norm.vmax, lines.get_cmap().name) == (0, values.max(), 'Reds')
    assert np.all(np.diff(lines.get_linewidth()) > 0)
    for place, image in enumerate(lines.axes.get_images()):
        np.testing.assert_array_equal(image.get_array(), shown[place])
        assert image.get_extent()[0] == pytest.approx(place * pitch - 0.5)


def test_lines_to_all_joints_in_two_rows():
    values = weights(6)
    lines = pictures.JointLines(images(7), np.random.default_rng(2).uniform(5, 35, (7, 3, 2)), range(3))
    above, below = lines_of(pictures.correlation(values, range(7), NAMES, lines))
    assert sorted(above.get_array()) == sorted(values[:5].ravel())
    assert sorted(below.get_array()) == sorted(values[5].ravel())
    assert [text.get_text() for text in below.axes.texts] == ['frame 5', 'frame 6']


def test_where_a_chain_begins_there_is_no_correlation():
    values = weights(2)
    values[1] = np.nan
    lines = pictures.JointLines(images(3), np.ones((3, 3, 2)), range(3))
    figure = pictures.correlation(values, range(3), NAMES, lines)
    assert 'the chain\nbegins anew' in texts(figure)
    assert sorted(lines_of(figure)[0].get_array()) == sorted(values[0].ravel())


def test_heatmaps():
    target, predicted, final = np.random.default_rng(3).random((3, 2, 10, 10))
    predicted[0] = np.nan
    truth = np.array([[4.0, 9.0], [np.nan, np.nan]])
    shown = images(2)
    groups = [pictures.MapRows('all joints', None, predicted, final), pictures.MapRows('head', target, predicted, final, truth)]
    figure = pictures.heatmaps(shown, [3, 4], groups, SIZE)
    rows: dict[float, list] = {}
    for axes in figure.axes:
        if axes.get_label() != '<colorbar>':
            rows.setdefault(round(axes.get_position().y0, 6), []).append(axes)
    frames, *lines = [rows[key] for key in sorted(rows, reverse=True)]
    assert [axes.get_title() for axes in frames] == ['frame 3', 'frame 4']
    labels = [line[0].get_ylabel() for line in lines]
    kinds = ['target', 'predicted $m^p$', 'final $m$']
    assert labels == [f'all joints\n{kind}' for kind in kinds[1:]] + [f'head\n{kind}' for kind in kinds]
    for line, maps in zip(lines, (predicted, final, target, predicted, final), strict=True):
        for axes, values in zip(line, maps, strict=True):
            if np.isnan(values).all():
                assert (len(axes.get_images()), axes.texts[0].get_text()) == (0, 'chain begins:\nno prediction')
                continue
            (image,) = axes.get_images()
            np.testing.assert_array_equal(image.get_array(), values)
            assert (image.norm.vmin, image.norm.vmax) == (0, np.nanmax(maps))
            assert tuple(image.get_extent()) == (-0.5, SIZE - 0.5, SIZE - 0.5, -0.5)
    marks = [[tuple(map(float, mark.get_xydata()[0])) for mark in axes.lines] for axes in lines[4]]
    assert marks == [[(4.0, 9.0)], []]
    np.testing.assert_array_equal(frames[1].get_images()[0].get_array(), shown[1])


def test_disputed_joints():
    hits = np.array([[[1, 1, 0, 0, 1]], [[1, 0, 1, 0, 0]], [[1, 1, 0, 0, 1]]], bool)
    counted = np.array([[1, 1, 1, 1, 0]], bool)
    np.testing.assert_array_equal(pictures.disputed(hits, counted), [[[0, 1, -1, 0, 0]], [[0, -1, 1, 0, 0]], [[0, 1, -1, 0, 0]]])


def pose_rows(frames: int) -> list[pictures.PoseRow]:
    joints = np.random.default_rng(4).uniform(5, 35, (2, frames, 3, 2))
    verdicts = np.zeros((2, frames, 3), int)
    verdicts[0, 0], verdicts[1, 0] = (1, 0, -1), (-1, 0, 1)
    return [pictures.PoseRow(f'net{i}', images(frames), joints[i], verdicts[i], ['2 of 3 right'] * frames) for i in range(2)]


@pytest.mark.parametrize('side_by_side', [False, True])
def test_rings_of_the_comparison(side_by_side):
    rows = pose_rows(3)
    figure = pictures.compare(rows, [0, 5, 10], 'T', side_by_side=side_by_side)
    panels = {}
    for r, row in enumerate(rows):
        for t in range(3):
            axes = figure.axes[3 * r + t]
            np.testing.assert_array_equal(axes.get_images()[0].get_array(), row.images[t])
            rings = [part for part in axes.patches if isinstance(part, Circle) and to_hex(part.get_edgecolor()) != '#ffffff']
            panels[r, t] = [(ring.center, to_hex(ring.get_edgecolor()).upper(), ring.get_linestyle() == '-') for ring in rings]
            assert axes.get_xlabel() == '2 of 3 right'
    green, red = (pictures.RIGHT_STYLE['color'], True), (pictures.WRONG_STYLE['color'], False)
    assert panels[0, 0] == [(tuple(rows[0].joints[0, 0]), *green), (tuple(rows[0].joints[0, 2]), *red)]
    assert panels[1, 0] == [(tuple(rows[1].joints[0, 0]), *red), (tuple(rows[1].joints[0, 2]), *green)]
    assert not any(rings for (_, t), rings in panels.items() if t)
    top, left = [axes.get_title() for axes in figure.axes], [axes.get_ylabel() for axes in figure.axes]
    frames, names = ['frame 0', 'frame 5', 'frame 10'], ['net0', 'net1']
    assert [text for text in (left if side_by_side else top) if text] == frames
    assert [text for text in (top if side_by_side else left) if text] == names
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['right, another is wrong', 'wrong, another is right']


def test_frames_of_a_video_have_one_size():
    rows = pose_rows(3)
    parts = [
        [pictures.PoseRow(row.name, row.images[t:][:1], row.joints[t:][:1], row.verdicts[t:][:1], [note]) for row in rows]
        for t, note in ((0, '2 of 3 right'), (1, '10 of 13 right'))
    ]
    shapes = {pictures.pixels(pictures.compare(part, [t], side_by_side=True)).shape for t, part in enumerate(parts)}
    assert len(shapes) == 1
    assert next(iter(shapes))[2] == 3


def test_trajectories():
    generator = np.random.default_rng(5)
    angles = [f'{side}_{joint}' for joint in ('elbow', 'shoulder', 'hip', 'knee') for side in 'lr']
    time = np.arange(6) / 30
    series = {
        name: {'positions': generator.random((6, 2, 2)), 'speeds': generator.random((6, 2))}
        | {angle: generator.uniform(0, 180, 6) for angle in angles}
        for name in ('raw', 'refined')
    }
    figure = pictures.trajectories(time, 's', series, ['l_hand', 'r_hand'], 'T')
    x, y, speed, *rest = figure.axes
    assert [axes.get_ylabel() for axes in (x, y, speed)] == ['x (pixels)', 'y (pixels)', 'speed (pixels / s)']
    assert [axes.get_ylabel() for axes in rest] == ['elbow (°)', 'shoulder (°)', 'hip (°)', 'knee (°)']
    assert [axes.get_xlabel() for axes in figure.axes] == ['', '', 'time (s)', '', '', '', 'time (s)']
    assert rest[1].get_title() == 'elbow-shoulder-hip, 180° is straight'
    assert y.yaxis_inverted()
    assert not x.yaxis_inverted()
    lines = {line.get_label(): line for axes in figure.axes for line in axes.lines if axes not in (x, y, speed)}
    for name, values in series.items():
        for angle in angles:
            np.testing.assert_array_equal(lines[f'{angle}, {name}'].get_xydata(), np.stack([time, values[angle]], -1))
        for axes, index in ((x, 0), (y, 1)):
            for j, joint in enumerate(('l_hand', 'r_hand')):
                (line,) = (line for line in axes.lines if line.get_label() == f'{joint}, {name}')
                np.testing.assert_array_equal(line.get_ydata(), values['positions'][:, j, index])
                assert line.get_color() == pictures.SIDE_COLOURS[joint[0]]
        assert lines[f'l_knee, {name}'].get_linestyle() == {'raw': '-', 'refined': '--'}[name]
    assert [text.get_text() for text in figure.legends[1].get_texts()] == ['left', 'right', 'raw', 'refined']


def test_many_joints_have_colours_of_their_own():
    series = {'raw': {'positions': np.zeros((2, 3, 2)), 'speeds': np.zeros((2, 3))}}
    series['raw'] |= {f'{side}_{joint}': np.zeros(2) for joint in ('elbow', 'shoulder', 'hip', 'knee') for side in 'lr'}
    figure = pictures.trajectories(np.arange(2.0), 'frame', series, ['l_hand', 'l_foot', 'head'])
    assert len({to_hex(line.get_color()) for line in figure.axes[0].lines}) == 3
    assert figure.axes[2].get_ylabel() == 'speed (pixels / frame)'
    assert figure.axes[2].get_xlabel() == 'frame'


@pytest.mark.parametrize(('suffix', 'start'), [('.png', b'\x89PNG'), ('.svg', b'<?xml'), ('.pdf', b'%PDF'), ('.webp', b'RIFF')])
def test_files(suffix, start):
    assert suffix in PICTURE_SUFFIXES
    written = []
    for _ in range(2):
        file = io.BytesIO()
        pictures.save(pictures.correlation(weights(), range(4), NAMES), file, suffix)
        written.append(file.getvalue())
    assert written[0].startswith(start)
    assert written[0] == written[1]
    if suffix == '.svg':
        assert all(f'>{name}</text>' in written[0].decode() for name in NAMES)
