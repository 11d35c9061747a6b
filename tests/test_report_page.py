"""The page of a report, from made-up runs: its texts, its numbers, and that it needs nothing else."""

import html.parser
import json
import os
import re

import numpy as np
import pytest
from absl import flags

from kimnet_jax import report
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.reporting import page, plots, tables
from kimnet_jax.tasks.report import find_evaluation, read_records, torso_errors

FRAMES, J = 4, JHMDB.num_joints
WRIST = JHMDB.joints.index('r_wrist')


class Parsed(html.parser.HTMLParser):
    """Headings, tables (heading above -> rows of cells), sources of images, and tags with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.headings, self.tables, self.tags, self.texts = [], {}, [], []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ('h1', 'h2', 'h3'):
            self.headings.append('')
        if tag == 'table':
            self.rows = self.tables.setdefault(self.headings[-1], [])
        if tag == 'tr':
            self.rows.append([])
        if tag in ('td', 'th'):
            self.rows[-1].append('')
        if tag not in ('meta', 'img'):
            self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self._open and self._open[-1] in ('h1', 'h2', 'h3'):
            self.headings[-1] += data
        elif 'td' in self._open or 'th' in self._open:
            self.rows[-1][-1] += (' | ' if self._open[-1] == 'small' else '') + data
        elif 'svg' not in self._open and 'style' not in self._open:
            self.texts.append(data.strip())


def metrics(distance: float) -> PoseMetrics:
    """Two clips whose torsos are 50 px long; the wrist lies so many pixels off in the second one."""
    joints = np.zeros((FRAMES, J, 2))
    joints[:, JHMDB.torso[0], 0] = 50
    found = PoseMetrics(JHMDB, 2)
    for clip, off in enumerate((0.0, distance)):
        prediction = joints.copy()
        prediction[:, WRIST, 1] += off
        found.update(clip, prediction, joints, np.ones((FRAMES, J), bool), np.tile([0.0, 0, 60, 100], (FRAMES, 1)))
    return found


def evaluation(distance: float, dataset: str = 'sub_jhmdb', title: str = 'sub_jhmdb/fold1, split test') -> dict:
    rows = {'KIMNet (ours)': distance, tables.MEAN_POSE: 30, tables.RANDOM: 90}
    found = {name: tables.Row.of(metrics(off), samples=50) for name, off in rows.items()}
    return json.loads(json.dumps(tables.report(title, found, dataset=dataset, notes=['Checkpoint of step 20, `dark`.'])))


def run(name: str, distance: float = 15, seed: int = 0, data: str = 'sub_jhmdb/fold1, joints of jhmdb', **others) -> page.Run:
    records = [
        {'kind': 'train', 'step': step, 'loss': 1 / step, 'pck': 0.5, 'learning_rate': 1e-3, 'gradient_norm': 2.0}
        for step in (10, 20)
    ]
    records.append({'kind': 'eval', 'step': 20, 'torso/pck/0.2/mPCK': 0.25})
    fields = {'evaluation': evaluation(distance), 'records': records} | others
    config = {'seed': seed, 'model': {'name': 'kimnet', 'stages': [1, 2]}}
    return page.Run(name, {'Network': 'kimnet', 'Seed': str(seed)}, data, config, **fields)


def measured(worst: page.Clip) -> page.Measured:
    correlation = {'walk': page.Correlation(np.eye(J), 7, 2)}
    actions = {'walk': (2, 0.5, (0.25, 0.75)), 'jump': (1, 0.125, (0.125, 0.125))}
    return page.Measured(actions, np.array([0.05, 0.3, np.inf, 0.1]), [worst], [], correlation, JHMDB.joints)


@pytest.fixture(scope='module')
def two() -> str:
    clip = page.Clip('clip_7', 'walk', 0.125, 0.75, b'\xff\xd8made up')
    return page.render([run('first', measured=measured(clip)), run('second', 5, seed=3)], '1.2.3')


def test_runs_stand_side_by_side(two):
    found = Parsed(two)
    assert found.headings[0] == 'first, second'
    facts = [['', 'first', 'second'], ['Network', 'kimnet', 'kimnet'], ['Seed', '0', '3']]
    assert found.tables['Runs'] == [*facts, ['', 'first', 'second'], ['seed', '0', '3']]
    assert 'Settings that differ: 1' in found.texts
    assert 'Report of kimnet_jax 1.2.3' in found.texts
    assert sum('"stages"' in text for text in found.texts) == 2  # the configs


def test_the_tables_hold_the_numbers_of_the_evaluations(two):
    found = Parsed(two)
    rows = {row[0]: row[1:] for row in found.tables['By torso length']}
    assert rows[''] == ['mPCK@0.2', 'mPCK@0.1', 'mPCK@0.05', 'AUC']
    assert list(rows) == [
        '',
        'first: KIMNet (ours)',
        'second: KIMNet (ours)',
        'mean pose',
        'random',
        'KIMNet (paper)',
        *(f'{name} (paper)' for name in ('LSTM-PM', 'DKD', 'RPSTN')),
    ]
    low, high = evaluation(15)['rows']['KIMNet (ours)']['intervals']['torso']['pck']['0.2']['mPCK']
    assert rows['first: KIMNet (ours)'][0] == f'96.7 | {100 * low:.1f} to {100 * high:.1f}'  # one of 2 * 15 joints is a miss
    assert rows['second: KIMNet (ours)'][0] == '100.0 | 100.0 to 100.0'
    assert rows['KIMNet (paper)'] == ['88.1', '-', '-', '-']
    parts = {row[0]: dict(zip(found.tables['By torso length, PCK@0.2 of each part'][0], row, strict=True))
             for row in found.tables['By torso length, PCK@0.2 of each part']}  # fmt: skip
    assert parts['first: KIMNet (ours)']['Wrist'].startswith('75.0 | ')
    assert parts['KIMNet (paper)']['Wrist'] == '85.8'
    joints = {row[0]: row[1:] for row in found.tables['PCK@0.2 by torso length']}
    assert (joints[''], joints['r_wrist'][0][:4], joints['neck'][0][:5]) == (['first', 'second'], '50.0', '100.0')
    assert {row[0] for row in found.tables['Smoothness']} >= {'first: KIMNet (ours)', 'random'}


def test_what_was_measured_on_clips(two):
    found = Parsed(two)
    table = found.tables['mPCK@0.2 by torso length, the hardest for first first']
    assert table == [['', 'first'], ['jump, 1 clip', '12.5'], ['walk, 2 clips', '50.0 | 25.0 to 75.0']]
    (source,) = (attributes['src'] for tag, attributes in found.tags if tag == 'img')
    assert source == 'data:image/jpeg;base64,/9htYWRlIHVw'
    assert ', walk: PCK@0.2 12.5 %, mean error 0.75 torso lengths' in found.texts
    assert 'first (25.0 % beyond 0.6)' in two
    assert 'walk, 7 steps' in two
    assert found.headings[-3:] == ['Worst and best clips: first', 'Worst', 'Temporal correlation: first']


def test_the_page_needs_nothing_else(two):
    found = Parsed(two)
    assert not re.search(r'https?:|//[a-z]|@import|<link|<script|<iframe', two)
    addresses = [value for _, attributes in found.tags for key, value in attributes.items() if key in ('src', 'href', 'srcset')]
    assert all(value.startswith(('data:image/', '#')) for value in addresses)
    targets = {*(value[1:] for value in addresses if value.startswith('#')), *re.findall(r'url\(#([^)]+)\)', two)}
    identities = [attributes['id'] for _, attributes in found.tags if 'id' in attributes]
    assert targets <= set(identities)
    assert all(address.startswith('#') for address in re.findall(r'url\(([^)]+)\)', two))
    assert 'currentColor' in two
    assert plots._INK not in two


def test_names_are_text():
    evil = '<script>alert(1)</script>'
    one = run(evil, evaluation=evaluation(5, title=f'{evil} & $x$'), measured=measured(page.Clip(evil, evil, 0.5, 0.5, b'')))
    text = page.render([one._replace(config={'name': f'</pre>{evil}'}, notes=[f'`{evil}`'])], '1')
    assert '<script' not in text
    assert '<code>&lt;script&gt;alert(1)&lt;/script&gt;</code>' in text


def test_the_same_runs_give_the_same_page(two):
    clip = page.Clip('clip_7', 'walk', 0.125, 0.75, b'\xff\xd8made up')
    assert page.render([run('first', measured=measured(clip)), run('second', 5, seed=3)], '1.2.3') == two


def test_runs_on_other_data_are_not_compared():
    other = run('other', 5, data='kinetic_puppets/joints15, joints of jhmdb', evaluation=evaluation(5, '', 'puppets, split test'))
    text = page.render([run('first'), other], '1')
    found = Parsed(text)
    assert 'not trained on the same data with the same joints' in text
    assert 'sub_jhmdb/fold1, joints of jhmdb (first); kinetic_puppets/joints15, joints of jhmdb (other).' in ' '.join(
        text.split()
    )
    assert [heading for heading in found.headings if heading.startswith(('Training', 'Optimizer', 'Evaluation'))] == [
        'Training on sub_jhmdb/fold1, joints of jhmdb',
        'Training on kinetic_puppets/joints15, joints of jhmdb',
        'Optimizer and speed',
        'Evaluation on sub_jhmdb/fold1, split test',
        'Evaluation on puppets, split test',
    ]


def test_a_reference_row_that_differs_is_there_for_each_run():
    other = evaluation(5)
    other['rows'][tables.MEAN_POSE] = other['rows']['KIMNet (ours)']
    names = [row[0] for row in Parsed(page.render([run('a'), run('b', evaluation=other)], '1')).tables['By torso length']]
    assert names[3:6] == ['mean pose of a', 'mean pose of b', 'random']


def test_a_run_with_nothing_but_a_config():
    found = Parsed(page.render([page.Run('bare', {'Seed': '1'}, 'd', {'seed': 1}, [], notes=['no tables, since `x`.'])], '1'))
    assert found.headings == ['bare', 'Run']
    assert found.tables == {'Run': [['', 'bare'], ['Seed', '1']]}


def test_calibrations():
    """Two bins with something in them, ten points too sure and exactly right."""
    bins = [
        {'from': 0.0, 'to': 0.5, 'joints': 0, 'confidence': None, 'hits': None, 'interval': None},
        {'from': 0.5, 'to': 1.0, 'joints': 9, 'confidence': 0.75, 'hits': 0.65, 'interval': [0.6, 0.7]},
    ]
    fitted = {'clips': 31, 'data': 'sub_jhmdb/fold1', 'split': 'train'}
    parts = {'score': {'ece': 0.1, 'brier': 0.2, 'bins': bins}, 'probability': {'ece': 0.012, 'brier': 0.15, 'bins': bins}}
    calibrated = run('a', evaluation=evaluation(5) | {'calibration': {'fitted_on': fitted, 'joints': 9, **parts}})
    text = page.render([calibrated, run('b')], '1')
    assert Parsed(text).tables['Calibration of the scores'] == [
        ['', 'ECE', 'Brier score'],
        ['a: scores as they are', '0.100', '0.200'],
        ['a: scores as probabilities', '0.012', '0.150'],
    ]
    assert 'a: the probabilities were fitted on 31 other clips of sub_jhmdb/fold1, split train.' in text
    assert 'Calibration' not in page.render([run('b')], '1')


def test_poses_in_3d():
    row = {'clips': 2, 'frames': 9, 'mpjpe': 51.25, 'pa_mpjpe': 40.0, 'acceleration': None, 'jitter': 3.0}
    spatial = {'title': 'AIST++', 'notes': [], 'rows': {'HANet (ours)': row, 'estimates': row}}
    page.check_evaluation(spatial, 'x')
    table = Parsed(page.render([run('a', evaluation=spatial)], '1')).tables['In the unit of the poses']
    assert table[1] == ['a: HANet (ours)', '51.25', '40', '-', '3']


@pytest.mark.parametrize('damage', [[], {}, {'rows': {}}, {'rows': {'x': {}}, 'notes': [], 'title': ''}, 'paper', 'rows'])
def test_an_evaluation_that_is_none(damage):
    report = {key: value for key, value in evaluation(5).items() if key != damage} if isinstance(damage, str) else damage
    with pytest.raises(InputError, match=r'test_step1\.json: not a report that evaluate writes'):
        page.check_evaluation(report, 'test_step1.json')


def test_curves_are_thinned_by_means():
    steps = np.arange(1000)
    x, y = plots.thin(steps, np.where(steps == 1, np.nan, steps * 2.0))
    assert len(x) == len(y) == 333  # 999 values, three for each point
    assert (x[0], y[0]) == (pytest.approx(5 / 3), pytest.approx(10 / 3))  # of the steps 0, 2 and 3
    np.testing.assert_array_equal(plots.thin([1, 2], [5, None])[1], [5])


def test_curves_are_drawn_in_proportion():
    text = plots.curves([plots.Curve('t', {0: ([0, 1, 2], [0, 1, 4]), 1: ([0, 2], [4, 4])})])
    first, second = (
        np.array(re.findall(r'[ML] ([\d.]+) ([\d.]+)', path), float)
        for colour in plots.COLOURS[:2]
        for path in re.findall(r'<path d="([^"]*)"[^>]*stroke: ' + colour.lower(), text)
    )
    np.testing.assert_allclose(np.diff(first[:, 0]), np.diff(first[:, 0])[0], rtol=1e-5)
    assert np.diff(first[:, 1])[1] == pytest.approx(3 * np.diff(first[:, 1])[0])  # upwards: y of an SVG falls
    assert np.diff(first[:, 1])[0] < 0
    np.testing.assert_allclose(second, [[first[0, 0], first[2, 1]], first[2]])


def test_shares_of_errors():
    shares, beyond = plots.error_shares(np.array([0.0, 0.01, 0.59, 0.61, np.inf]))
    assert (shares[0], shares[-1], shares.sum(), beyond) == pytest.approx((0.4, 0.2, 0.6, 0.4))


def test_errors_in_torso_lengths():
    joints, visible = np.zeros((2, J, 2)), np.ones((2, J), bool)
    joints[0, JHMDB.torso[0], 0] = 50  # of the second frame the torso has no length
    visible[0, 0] = False
    predicted = joints.copy()
    predicted[0, WRIST] = 30, 40
    predicted[0, 1] = np.nan
    errors = torso_errors(predicted, joints, visible, JHMDB)
    assert len(errors) == J - 1
    assert sorted(errors)[-3:] == [0, 1, np.inf]


def test_records(tmp_path):
    file = tmp_path / 'metrics.jsonl'
    assert read_records(file) == []
    file.write_text('{"kind": "train", "step": 1, "loss": null}\n{"kind": "eval", "st')  # killed while it wrote
    assert read_records(file) == [{'kind': 'train', 'step': 1, 'loss': None}]
    file.write_text('{"kind": "goodput", "step": 1, "seconds": 3.5}\n')
    assert read_records(file) == [{'kind': 'goodput', 'step': 1, 'seconds': 3.5}]
    for line, problem in {
        'nothing': 'not valid JSON',
        '{"step": 1}': 'not a record that train writes',
        '{"kind": "train", "step": "1"}': 'not a record that train writes',
        '{"kind": "train", "step": 1, "loss": "low"}': "loss is 'low', expected a number",
    }.items():
        file.write_text(f'{{"kind": "train", "step": 1}}\n{line}\n')
        with pytest.raises(InputError, match=rf'metrics\.jsonl: line 2: {problem}'):
            read_records(file)


def test_the_newest_evaluation_of_a_step(tmp_path):
    folder = tmp_path / 'evaluation'
    folder.mkdir()
    assert find_evaluation(tmp_path, 20) is None
    names = ('test_step20.json', 'test_step20_chain5.json', 'test_step120.json', 'test_step20_released.json', 'test_step2.json')
    for name in (*names, 'occlusion_joints_test_a_step20_seed0.json'):
        (folder / name).touch()
    for name, time in {'test_step20.json': 5, 'test_step20_chain5.json': 3}.items():
        os.utime(folder / name, (time, time))
    assert find_evaluation(tmp_path, 20) == folder / 'test_step20.json'


@pytest.mark.parametrize(
    ('arguments', 'problem'),
    [
        ([], 'no run given'),
        (['RUN', '--out=page.pdf'], r'--out page\.pdf: the page is HTML; let the name end in \.html or \.htm'),
        (['RUN', '--out=FOLDER.html'], 'a folder is in the way'),
        (['RUN'], 'RUN: not a run'),
        (['.', '--out=x/page.html'], r'\.: not a run \(config\.json is missing\)'),
        (['.', '.'], 'the same network twice'),
    ],
)
def test_bad_requests(tmp_path, monkeypatch, arguments, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'FOLDER.html').mkdir()
    values = flags.FlagValues()
    report.define_flags(values)
    with pytest.raises(InputError, match=problem):
        report.run(values(['report', *arguments]), values)
    assert [path.name for path in tmp_path.iterdir()] == ['FOLDER.html']
