"""Scores as probabilities: the curve, its file, and what is said of it."""

import io

import numpy as np
import pytest

from kimnet_jax.core.calibration import Calibration, parse
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.reporting.calibration import BINS, Outcomes, fit, plot, reliability, render

ABOUT = {'data': 'made/up', 'split': 'train', 'clips': 2, 'step': 7, 'weights': None}


def outcomes(*pairs: tuple[float, int]) -> Outcomes:
    scores, hits = zip(*pairs, strict=True)
    return Outcomes(np.array(scores), np.array(hits, bool))


def drawn(count: int, seed: int) -> list[Outcomes]:
    """Clips whose joints are hits with the square of their score as probability."""
    rng = np.random.default_rng(seed)
    scores = rng.random((count, 200))
    return [Outcomes(row, rng.random(200) < row**2) for row in scores]


def test_a_hand_worked_curve():
    # by score: 0.1 half, 0.2 none, 0.4 all, 0.5 half, 0.9 all; pooled where they fall: (1+0)/3 and (1+1)/3
    clips = [outcomes((0.1, 1), (0.1, 0), (0.2, 0), (0.4, 1)), outcomes((0.5, 1), (0.5, 0), (0.9, 1))]
    curve = fit(clips, ABOUT)
    np.testing.assert_allclose(curve.scores, [0.1, 0.2, 0.4, 0.5, 0.9])
    np.testing.assert_allclose(curve.probabilities, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve(np.array([[-1, 0.15], [0.3, 2]])), [[1 / 3, 1 / 3], [1 / 2, 1]])
    assert np.isnan(curve(np.nan))


def test_a_curve_needs_joints():
    assert fit([], ABOUT) is None
    assert fit([Outcomes(np.zeros(0), np.zeros(0, bool))], ABOUT) is None


def test_probabilities_are_what_was_drawn():
    curve = fit(drawn(40, seed=0), ABOUT)
    assert (np.diff(curve.probabilities) >= 0).all()
    np.testing.assert_allclose(curve(np.array([0.2, 0.5, 0.8])), [0.04, 0.25, 0.64], atol=0.05)
    found = reliability(drawn(40, seed=1), curve)
    # |p - p^2| has the mean 1/6
    assert found['score']['ece'] == pytest.approx(1 / 6, abs=0.01)
    assert found['probability']['ece'] < 0.02
    assert found['probability']['brier'] == pytest.approx(1 / 3 - 1 / 5, abs=0.01)  # mean of p^2 (1 - p^2)
    assert found['score']['brier'] > found['probability']['brier'] + 0.02


def test_bins_by_hand():
    curve = Calibration(np.array([0.0, 1.0]), np.array([0.5, 0.5]), ABOUT)
    found = reliability([outcomes((0.05, 0), (1.3, 1)), outcomes((0.05, 1), (-0.2, 0))], curve, samples=50)
    assert found['joints'] == 4
    first, *middle, last = found['score']['bins']
    assert (first['joints'], first['hits'], first['confidence']) == (3, pytest.approx(1 / 3), pytest.approx(0.1 / 3))
    assert (last['joints'], last['hits'], last['confidence'], last['interval']) == (1, 1.0, 1.0, [1.0, 1.0])
    assert first['interval'] == [0.0, 0.5]  # clip 1 alone, clip 2 alone
    assert all(entry['joints'] == 0 and entry['hits'] is entry['interval'] is None for entry in middle)
    assert found['score']['ece'] == pytest.approx(abs(1 - 0.1) / 4)
    assert found['score']['brier'] == pytest.approx((0.05**2 + 0 + 0.95**2 + 0) / 4)
    assert (found['probability']['ece'], found['probability']['brier']) == (0.0, 0.25)
    assert found['probability']['bins'][BINS // 2]['joints'] == 4
    text = render(found)
    assert '4 joints. The probabilities were fitted on 2 other clips of made/up, split train.' in text
    assert '| Scores as they are      | 0.225 |       0.226 |' in text
    assert '33.3 [0.0, 50.0]' in text


def test_which_joints_count():
    joints, visible = np.zeros((2, JHMDB.num_joints, 2)), np.ones((2, JHMDB.num_joints), bool)
    joints[0, JHMDB.torso[0], 0] = 50  # in frame 1 the torso has no length
    visible[0, 3] = False
    scores = np.full(visible.shape, 0.5)
    scores[0, 4] = np.nan
    prediction = joints + np.array([0, 9.9])
    prediction[0, 5] += 0.2  # 10.1 px away, of 0.2 torso = 10
    found = Outcomes.of({'joints': joints, 'visible': visible}, prediction, scores, JHMDB)
    assert len(found.scores) == JHMDB.num_joints - 2
    assert found.hits.sum() == JHMDB.num_joints - 3


def test_the_diagram_shows_the_bins(monkeypatch):
    from matplotlib.figure import Figure

    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, 'savefig', lambda self, *args, **kwargs: figures.append(self) or save(self, *args, **kwargs))
    found = reliability(drawn(5, seed=2), fit(drawn(5, seed=3), ABOUT), samples=50)
    assert plot(found, 'Title').startswith(b'\x89PNG')
    (axes,) = figures[0].axes
    shown = {container.get_label(): container.lines[0].get_xydata() for container in axes.containers}
    for name in ('score', 'probability'):
        entries = [entry for entry in found[name]['bins'] if entry['joints']]
        expected = [[entry['confidence'], entry['hits']] for entry in entries]
        np.testing.assert_allclose(shown[f'{name}: ECE {found[name]["ece"]:.3f}'], expected)


def test_a_curve_comes_back_from_its_text():
    curve = fit(drawn(2, seed=0), ABOUT)
    again = parse(curve.to_json(), 'a file')
    np.testing.assert_array_equal(again.scores, curve.scores)
    np.testing.assert_array_equal(again.probabilities, curve.probabilities)
    assert again.about == ABOUT


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('{', 'valid JSON'),
        ('[]', 'no object'),
        ('{"scores": [0], "probabilities": [0]}', 'within'),
        ('{"within": 0.2, "scores": ["a"], "probabilities": [0]}', 'could not convert'),
        ('{"within": 0.2, "scores": [[0], [0, 1]], "probabilities": [0]}', 'inhomogeneous'),
        ('{"within": 0.5, "scores": [0], "probabilities": [0]}', 'within 0.5, expected 0.2'),
        ('{"within": 0.2, "scores": [0, 1], "probabilities": [0]}', r'\[2\] scores and \[1\] probabilities'),
        ('{"within": 0.2, "scores": [], "probabilities": []}', r'\[0\] scores'),
        ('{"within": 0.2, "scores": [[0]], "probabilities": [[0]]}', r'\[1, 1\] scores'),
        ('{"within": 0.2, "scores": [1, 0], "probabilities": [0, 1]}', 'scores that do not increase'),
        ('{"within": 0.2, "scores": [0, NaN], "probabilities": [0, 1]}', 'valid JSON'),
        ('{"within": 0.2, "scores": [0, 1], "probabilities": [0.2, 0.1]}', 'probabilities that fall'),
        ('{"within": 0.2, "scores": [0, 1], "probabilities": [0.2, 1.1]}', 'probabilities that fall, or are not 0 to 1'),
        ('{"within": 0.2, "scores": [0, 0], "probabilities": [0.2, 1]}', 'scores that do not increase'),
    ],
)
def test_a_file_that_holds_no_curve(text, told):
    with pytest.raises(InputError, match=rf'^a file: not (a calibration written by evaluate.*)?{told}'):
        parse(text, 'a file')


def test_the_diagram_is_a_picture():
    import matplotlib.image

    found = reliability(drawn(3, seed=2), fit(drawn(3, seed=3), ABOUT), samples=20)
    assert matplotlib.image.imread(io.BytesIO(plot(found, 'Title'))).shape[:2] == (600, 600)
