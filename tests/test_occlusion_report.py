"""Tables of poses under occlusion, worked by hand."""

import json

import numpy as np
import pytest

from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.reporting.occlusion import measure, plot, render, report

J, FRAMES = JHMDB.num_joints, 4
HEAD, WRIST = 2, 11


def clip():
    """The person is 100 px tall, the torso 50 px."""
    joints = np.zeros((FRAMES, J, 2))
    joints[:, JHMDB.torso[0], 0] = 50
    return {'joints': joints, 'visible': np.ones((FRAMES, J), bool), 'boxes': np.tile([0.0, 0, 60, 100], (FRAMES, 1))}


def off(distances: dict[int, float]) -> np.ndarray:
    """The truth, but for some joints so many pixels off in the last two frames."""
    pose = clip()['joints']
    for joint, distance in distances.items():
        pose[2:, joint, 1] += distance
    return pose


@pytest.fixture(scope='module')
def rows():
    """Two clips. Of count 1 the wrist is occluded in the last three frames, of 2 the head is, too."""
    clips = [clip(), clip()]
    hidden = {count: [np.zeros((FRAMES, J), bool) for _ in clips] for count in (1, 2)}
    for count, joints in ((1, [WRIST]), (2, [WRIST, HEAD])):
        for part in hidden[count]:
            part[1:, joints] = True
    # 15 px: outside of 0.2 torso lengths, within 0.2 of the person
    good = {0: [off({})] * 2, 1: [off({WRIST: 15})] * 2, 2: [off({WRIST: 15, HEAD: 15})] * 2}
    bad = {0: [off({WRIST: 99})] * 2, 1: [off({WRIST: 99})] * 2, 2: [off({WRIST: 99, 5: 99}), off({WRIST: 99})]}
    return {name: measure(poses, clips, hidden, JHMDB) for name, poses in (('good', good), ('bad', bad))}, hidden


@pytest.fixture(scope='module')
def result(rows):
    about = {'seed': 3}
    found = report('T', rows[0], [('good', 'bad')], study='joints', occluded=rows[1], notes=['A note.'], about=about)
    return json.loads(json.dumps(found, allow_nan=False))


def values(row, key='torso'):
    return {
        (count, group): part and round(part[key]['value'], 6) for count, groups in row.items() for group, part in groups.items()
    }


def test_groups(result):
    assert result['clips'] == 2
    assert result['frames'] == 8
    assert result['occluded'] == {'1': {'joints': 6, 'frames': 6}, '2': {'joints': 12, 'frames': 6}}
    third = round(1 / 3, 6)
    assert values(result['rows']['good']) == {
        ('0', 'occluded'): None,
        ('0', 'unmasked'): None,
        ('0', 'drop'): None,
        ('0', 'visible'): None,
        ('0', 'all'): 1.0,
        ('1', 'occluded'): third,  # one of three occluded frames is right
        ('1', 'unmasked'): 1.0,
        ('1', 'drop'): round(-2 / 3, 6),
        ('1', 'visible'): 1.0,
        ('1', 'all'): round(58 / 60, 6),
        ('2', 'occluded'): third,
        ('2', 'unmasked'): 1.0,
        ('2', 'drop'): round(-2 / 3, 6),
        ('2', 'visible'): 1.0,
        ('2', 'all'): round(56 / 60, 6),
    }
    assert set(values(result['rows']['good'], 'person').values()) == {None, 0.0, 1.0}
    bad = values(result['rows']['bad'])
    assert bad['1', 'unmasked'] == bad['1', 'occluded'] == third
    assert bad['1', 'drop'] == 0
    assert bad['2', 'occluded'] == round(8 / 12, 6)  # the head is right
    assert bad['2', 'visible'] == round(106 / 108, 6)  # joint 5 in two frames


def test_differences_are_paired(result):
    (name,) = result['differences']
    assert name == 'good - bad'
    found = values(result['differences'][name])
    assert found['0', 'all'] == round(4 / 120, 6)
    assert found['1', 'drop'] == round(-2 / 3, 6)
    assert found['2', 'occluded'] == round(1 / 3 - 2 / 3, 6)
    assert found['2', 'visible'] == round(2 / 108, 6)
    interval = result['differences'][name]['2']['visible']['torso']['interval']
    assert interval == pytest.approx([0, 4 / 108])  # the first clip never drawn, or alone
    assert result['differences'][name]['1']['all']['torso']['interval'] == pytest.approx([0, 0])


def cells(text: str, heading: str) -> dict[str, list[str]]:
    """First cell of a line -> the others, of the table under a heading."""
    part = text.partition(f'\n## {heading}\n')[2].partition('\n## ')[0]
    lines = [[cell.strip() for cell in line.strip('|').split('|')] for line in part.splitlines() if line]
    return {line[0]: line[1:] for line in lines}


def test_text(result):
    text = render(result)
    assert text.startswith('# T\n\nA note.\n\n2 clips, 8 frames.')
    assert 'Occluded, by number of occluded joints: 1: 6 joints in 6 frames; 2: 12 joints in 6 frames.' in text
    assert text.count('\n## ') == 10
    whole = cells(text, 'mPCK@0.2 by torso length: all joints')
    assert whole['occluded joints'] == ['0', '1', '2']
    assert list(whole) == ['occluded joints', '---------------', 'good', 'bad', 'good - bad']
    occluded = cells(text, 'mPCK@0.2 by torso length: occluded joints')
    assert occluded['occluded joints'] == ['1', '2']
    assert occluded['good'] == ['33.3 [33.3, 33.3]'] * 2
    assert occluded['good - bad'] == ['+0.0 [+0.0, +0.0]', '-33.3 [-33.3, -33.3]']
    drop = cells(text, 'mPCK@0.2 by torso length: occluded joints, with masks minus without')
    assert drop['good'][0] == '-66.7 [-66.7, -66.7]'


def test_what_never_counts_has_no_number(rows):
    hidden = {count: [np.zeros_like(part) for part in parts] for count, parts in rows[1].items()}
    poses = dict.fromkeys((0, 1, 2), [off({})] * 2)
    row = measure(poses, [clip(), clip()], hidden, JHMDB)
    found = report('T', {'a': row, 'b': row}, [('a', 'b')], study='length', occluded=hidden, notes=[], about={})
    assert found['rows']['a']['1']['occluded']['torso'] == {'value': None, 'interval': [None, None]}
    assert cells(render(found), 'mPCK@0.2 by torso length: occluded joints')['a - b'] == ['-', '-']


def test_the_curves_show_the_rows(result, monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **kwargs: figures.append(self) or save(self, *args, **kwargs))
    assert plot(result).startswith(b'\x89PNG')
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels] == ['occluded joints', 'joints that are not occluded', 'all joints']
    for axes, group in zip(panels, ('occluded', 'visible', 'all'), strict=True):
        assert [container.get_label() for container in axes.containers] == ['good', 'bad']
        for i, container in enumerate(axes.containers):
            row = result['rows'][container.get_label()]
            cells = [(int(count), parts[group]['torso']) for count, parts in row.items() if parts[group]]
            assert [count for count, _ in cells] == ([0, 1, 2] if group == 'all' else [1, 2])
            expected = [[count + 0.04 * i, 100 * cell['value']] for count, cell in cells]
            np.testing.assert_allclose(container.lines[0].get_xydata(), expected)
            ends = [segment[:, 1] for segment in container.lines[2][0].get_segments()]
            np.testing.assert_allclose(ends, [[100 * end for end in cell['interval']] for _, cell in cells], atol=1e-9)
