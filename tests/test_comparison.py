"""The paper's tables with our numbers beside them."""

import json

import pytest

from kimnet_jax.reporting.comparison import comparison, render
from kimnet_jax.reporting.paper import ABLATIONS


def test_table6_by_hand():
    # KMM 0.8, 0.7, 0.9: mean 80, deviation 10. DKD 0.7 and 0.64: mean 67, deviation 6 / sqrt 2 = 4.2; seed by seed 10 and 6
    # below: mean 8, deviation 4 / sqrt 2 = 2.8. JRPSP of one seed: no deviation, 5 above. The last row has not run.
    scores = {'kimnet': {0: 0.8, 1: 0.7, 2: 0.9}, 'kimnet_dkd': {0: 0.7, 1: 0.64}, 'kimnet_jrpsp': {1: 0.75}, 'rpstn': {0: 0.1}}
    report = comparison('table6', scores, subject='Drawn by hand.', notes=['A note.'])
    assert render(report).splitlines() == [
        '# Table VI: temporal module of KIMNet',
        '',
        'Drawn by hand.',
        '',
        '|                       |          row |        ours |   n |        gap | paper | gap (paper) |',
        '| --------------------- | -----------: | ----------: | --: | ---------: | ----: | ----------: |',
        '| KIMNet-DKD            |   kimnet_dkd |  67.0 ± 4.2 |   2 | -8.0 ± 2.8 |  95.8 |        -1.1 |',
        '| KIMNet-JRPSP          | kimnet_jrpsp |        75.0 |   1 |       +5.0 |  96.0 |        -0.9 |',
        '| KIMNet-KMM            |       kimnet | 80.0 ± 10.0 |   3 |          - |  96.9 |           - |',
        '| every frame by itself |  kimnet_none |           - |   0 |          - |     - |           - |',
        '',
        'mPCK@0.2 by torso length, percent: mean ± standard deviation over n seeds. Gap: to KIMNet-KMM, seed by seed. '
        'Paper: arXiv 2207.10971v1.',
        '',
        'A note.',
    ]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report['rows'][0]['gap']['seeds'] == {'0': pytest.approx(-10), '1': pytest.approx(-6)}


def test_no_gap_without_a_seed_in_common():
    report = comparison('table4', {'dkd': {0: 0.5}, 'dkd_kmm': {1: 0.6}}, subject='')
    row = report['rows'][3]
    assert (row['row'], row['reference'], row['gap'], row['gap_paper']) == ('dkd_kmm', 'dkd', None, 0.8)
    assert row['ours'] == {'mean': 60.0, 'deviation': None, 'seeds': {'1': 60.0}}


def test_the_papers_gaps():
    gaps = {
        name: {row['row']: row['gap_paper'] for row in comparison(name, {}, subject='')['rows'] if row['gap_paper'] is not None}
        for name in ABLATIONS
    }
    assert gaps['table3'] == {
        'without_p': -0.6,
        'encoder_resnet18': -1.3,
        'encoder_resnet34': -1.1,
        'encoder_hourglass': 0.2,
        'encoder_hrnet': 0.3,
    }
    assert gaps['table4'] == {'lstm_pm_kmm': 0.4, 'dkd_kmm': 0.8, 'rpstn_kmm': 0.2}
    assert gaps['table5'] == {'kmm_share_qk': -1.1, 'kmm_no_scale': -1.1, 'kmm_residual': -6.6, 'kmm_heatmap': -6.5}
    assert gaps['table6'] == {'kimnet_dkd': -1.1, 'kimnet_jrpsp': -0.9}
