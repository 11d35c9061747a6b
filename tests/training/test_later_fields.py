"""Configs of runs that are older than a field."""

import json

from kimnet_jax.models import KIMNetConfig
from kimnet_jax.training.loop import TrainConfig
from kimnet_jax.training.workdir import LATER, parse_record


def parsed(config: dict) -> dict:
    return parse_record(json.dumps({'config': config, 'skeleton': 'jhmdb'}), 'a file')[0]


def test_a_field_that_came_later_is_off_in_older_runs():
    old = {'data': {'augment_background': 0.1}, 'seed': 0}
    assert parsed(old) == {'data': {'augment_background': 0.1, 'augment_occlusion': 0.0}, 'seed': 0}
    new = {'data': {'augment_background': 0.1, 'augment_occlusion': 0.3}}
    assert parsed(new) == new
    assert parsed({'poses': {'kind': 'x'}}) == {'poses': {'kind': 'x'}}
    assert parsed({'data': {'frames': 5}}) == {'data': {'frames': 5}}  # of no run: the check of the fields tells


def test_what_older_trainings_did():
    defaults = TrainConfig()
    later = {'profile': defaults.profile, 'writers': defaults.writers, 'batch_norm': defaults.batch_norm}
    later['gradient_dtype'] = 'bfloat16'  # which no longer is the default
    assert parsed({'train': {'batch_size': 8}})['train'] == {'batch_size': 8, **later}


def test_what_older_networks_did_is_what_they_do_without_a_word():
    later = LATER['model', 'kmm_variant']
    assert parsed({'model': {'name': 'kimnet', 'kmm_variant': 'full'}})['model'].items() >= later.items()
    assert later == {field: getattr(KIMNetConfig, field) for field in later}
