"""What docs/extending.md says can be added is added, and trained, evaluated and opened as any other."""

import json
import pathlib
import re

import numpy as np
import pytest

from kimnet_jax.configs import common, kinetic_puppets
from kimnet_jax.models import MODELS, abstract_model, model_fields
from kimnet_jax.tasks import heatmaps, task_of
from kimnet_jax.tasks.reports import EvaluationRequest
from kimnet_jax.tasks.trained import open_trained

ROOT = pathlib.Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.quick_compilation

PAGE = ROOT / 'docs/extending.md'


@pytest.fixture
def added():
    """The registry with the page's network."""
    before = dict(MODELS)
    (code,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), 'exec'), {'__name__': 'example'})
    yield
    MODELS.clear()
    MODELS.update(before)


def test_the_pages_network_is_trained_evaluated_and_opened(added, data_dir, tmp_path, capsys):
    config = kinetic_puppets.get_config('preset=tiny')
    config.unlock()
    config.model = model_fields('patches', 'tiny')
    config.dataset.update(config='mini', data_dir=str(data_dir))
    config.train.update(steps=2, batch_size=2)
    config.eval.batch_size = 2
    assert task_of('patches').train(config.to_dict(), tmp_path / 'run') == 0
    found = open_trained(tmp_path / 'run', 'last')
    task_of(found.kind).evaluate(found, EvaluationRequest(tmp_path / 'report'))
    rows = json.loads((tmp_path / 'report/test_step2.json').read_text())['rows']
    assert 'Patches (ours)' in rows
    model = heatmaps.load(found)
    joints, scores = model.predictor(np.zeros((90, 70, 3), np.uint8), [5, 5, 60, 80], restart=True)
    assert joints.shape == (15, 2)
    assert np.isfinite(scores).all()
    assert abstract_model({'name': 'patches'}, num_joints=4).network.head.kernel.shape == (1, 1, 64, 4)


def test_the_files_that_the_page_names_are_there():
    for name in re.findall(r'`((?:kimnet_jax|data_pipelines|configs|tests|benchmarks)/[\w/]+\.py)`', PAGE.read_text()):
        assert (ROOT / name).is_file(), name
    assert common.base().model.name == 'kimnet'
