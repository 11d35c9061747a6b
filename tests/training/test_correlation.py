"""benchmarks/correlation.py: statistics of W_r worked by hand, and on a run."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / 'benchmarks'


@pytest.fixture
def correlation(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import correlation

    return correlation


def test_statistics_of_uniform_identity_and_one_source(correlation):
    uniform, identity, one = np.full((3, 4, 4), 0.25), np.tile(np.eye(4), (3, 1, 1)), np.zeros((3, 4, 4))
    one[:, :, 2] = 1.0
    expected = {  # entropy, diagonal, argmax on it, distance from uniform, between rows
        'uniform': (uniform, 1.0, 0.25, 0.25, 0.0, 0.0),
        'identity': (identity, 0.0, 1.0, 1.0, 0.75, 0.75),
        'one': (one, 0.0, 0.25, 0.25, 0.75, 0.0),
    }
    for matrices, *numbers in expected.values():
        found = correlation.statistics([matrices[:2], matrices[2:]])
        keys = ('entropy over log J', 'mean diagonal', 'rows whose largest weight is the diagonal')
        keys += ('total variation from uniform', 'total variation between the rows and their mean')
        assert [found[key] for key in keys] == pytest.approx(numbers, abs=1e-6)
        assert (found['transitions'], found['uniform diagonal'], found['total variation from the mean W_r']) == (3, 0.25, 0)
    changing = correlation.statistics([np.stack([np.eye(4), np.eye(4)[::-1]])])
    assert changing['total variation from the mean W_r'] == pytest.approx(0.5)


def test_logits_are_those_of_the_softmax(correlation):
    logits = np.random.default_rng(0).normal(0, 3, (5, 6, 6))
    matrices = np.asarray(jax.nn.softmax(logits))
    found = correlation.statistics([matrices])
    assert found['standard deviation of the logits in a row'] == pytest.approx(logits.std(-1).mean(), rel=1e-4)
    assert found['range of the logits in a row'] == pytest.approx(np.ptp(logits, -1).mean(), rel=1e-4)


def test_a_run(whole_run, run, tmp_path, correlation):
    workdir = shutil.copytree(whole_run[0], tmp_path / 'run')
    done = run(BENCHMARKS / 'correlation.py', f'--model={workdir}', f'--out={tmp_path / "out.json"}')
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'out.json').read_text())['run']
    assert found['clips'] == 3
    for what in ('uniform W_r', 'without predicted heatmaps'):
        value, low, high = found[what]['minus as trained']
        assert low <= value <= high
        assert found[what]['mPCK@0.2 by torso'][0] == pytest.approx(found['as trained'][0] + value, abs=0.02)

    loaded = correlation.open_trained(workdir)
    model, config = loaded.load(), loaded.config
    clips = correlation.clip_source.open_clips(config['dataset']['data_dir'], 'kinetic_puppets', 'mini', 'test')
    matrices = list(correlation.correlations(model, config, clips))
    assert [len(part) for part in matrices] == [length - 1 for length in clips.lengths]
    np.testing.assert_allclose(np.concatenate(matrices).sum(-1), 1, atol=1e-5)
    assert found['correlation']['transitions'] == sum(clips.lengths) - 3
    (uniform, *_) = correlation.correlations(correlation.changed(model, 'uniform'), config, clips)
    np.testing.assert_allclose(uniform, 1 / 15, atol=1e-6)
    assert np.abs(matrices[0] - 1 / 15).max() > 1e-5


def test_a_network_without_a_kmm(correlation):
    with pytest.raises(ValueError, match='a pose_resnet without a KMM'):
        correlation.judge(correlation.open_trained('poseresnet-s-lsp'))
