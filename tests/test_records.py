"""The typed reader of a run's config.json: the file and the field are named."""

import copy

import pytest

from kimnet_jax.core.config import plain
from kimnet_jax.core.errors import InputError
from kimnet_jax.models import model_fields
from kimnet_jax.tasks import heatmaps, refinement
from kimnet_jax.tasks.records import check_config
from kimnet_jax.tasks.trained import open_trained
from kimnet_jax.training.workdir import write_config

GONE = object()
OF_VIDEOS, OF_POSES = plain(heatmaps.Settings()), plain(refinement.Settings())


def changed(config: dict, field: str, value: object) -> dict:
    config = copy.deepcopy(config)
    *sections, name = field.split('.')
    inner = config
    for section in sections:
        inner = inner[section]
    if value is GONE:
        del inner[name]
    else:
        inner[name] = value
    return config


@pytest.mark.parametrize('config', [OF_VIDEOS, OF_POSES])
def test_what_train_writes_is_taken(config):
    check_config(config, 'config.json')


@pytest.mark.parametrize(
    ('config', 'field', 'value', 'told'),
    [
        (OF_VIDEOS, 'model', GONE, "config: section 'model' is missing"),
        (OF_VIDEOS, 'model', [], "config: section 'model' is missing"),
        (OF_VIDEOS, 'model.name', 'openpose', "config.model.name='openpose': choose one of"),
        (OF_VIDEOS, 'model.name', ['kimnet'], 'config.model.name=.*: choose one of'),
        (OF_VIDEOS, 'model.name', 'hanet', "config: field 'poses' is missing"),
        (OF_VIDEOS, 'data', GONE, "config: field 'data' is missing"),
        (OF_VIDEOS, 'data', 64, 'config.data=64: must be a section of fields'),
        (OF_VIDEOS, 'data.input_size', '64', "config.data.input_size='64': must be of type int"),
        (OF_VIDEOS, 'data.input_size', 0, 'config.data.input_size=0: must be 1 to 4096'),
        (OF_VIDEOS, 'data.box_scale', float('nan'), 'config.data.box_scale=nan: must be a finite number'),
        (OF_VIDEOS, 'data.odd', 1, 'config.data.odd: no such field'),
        (OF_VIDEOS, 'eval.decoding', 'guess', "config.eval.decoding='guess': choose one of"),
        (OF_VIDEOS, 'eval.decoding', ['dark'], 'config.eval.decoding=.*: choose one of'),
        (OF_VIDEOS, 'target.sigma', GONE, "config.target: field 'sigma' is missing"),
        (OF_VIDEOS, 'dtype', 16, 'config.dtype=16: choose one of'),
        (OF_VIDEOS, 'dtype', {}, 'config.dtype={}: choose one of'),
        (OF_VIDEOS, 'dataset', None, "config: section 'dataset' is missing"),
        (OF_VIDEOS, 'seed', 'x', "config.seed='x': must be of type int"),
        (OF_POSES, 'poses.kind', '4d', "config.poses.kind='4d': choose one of"),
        (OF_POSES, 'model.name', 'kimnet', "config: field 'data' is missing"),
    ],
)
def test_what_is_wrong_is_named(config, field, value, told):
    with pytest.raises(InputError, match=f'^run/config.json: {told}'):
        check_config(changed(config, field, value), 'run/config.json')


@pytest.mark.parametrize('skeleton', ['', 'cat'])
def test_a_skeleton_that_is_none_names_the_file(skeleton, tmp_path):
    write_config(tmp_path, OF_VIDEOS | {'model': model_fields('kimnet', 'tiny')}, skeleton)
    with pytest.raises(InputError, match=f'^{tmp_path}/config.json: unknown skeleton'):
        open_trained(tmp_path)
