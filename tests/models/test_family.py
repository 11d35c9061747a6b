"""Every network and every row of Tables III to VI on a tiny clip, and what docs/models.md says of them."""

import importlib
import pathlib
import re

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.configs.models import ROWS
from kimnet_jax.models import VIDEO_MODELS, abstract_model, count_parameters
from kimnet_jax.models.weights import flatten

pytestmark = pytest.mark.quick_compilation

PAGE = pathlib.Path(__file__).parents[2] / 'docs' / 'models.md'
ARGUMENTS = [f'model={name}' for name in VIDEO_MODELS] + [f'row={name}' for name in ROWS]
SAME = {f'row={name}' for name in ('kimnet', 'encoder_resnet18', 'dkd', 'rpstn', 'lstm_pm')}  # as a `model=` at preset tiny


@pytest.mark.parametrize('argument', [argument for argument in ARGUMENTS if argument not in SAME])
def test_every_parameter_is_used_and_its_gradient_finite(argument):
    fields = importlib.import_module('kimnet_jax.configs.kinetic_puppets').get_config(f'{argument},preset=tiny').model.to_dict()
    if fields['name'] == 'kimnet' and argument != 'model=kimnet' and not argument.startswith('row=encoder'):
        fields['pose_initializer'] = 'none'  # the same in all of them, and half of the time
    model = golden.fill(abstract_model(fields, num_joints=5))  # its own weights would be compiled one by one
    model.train()
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.standard_normal((2, 2, 64, 64, 3)), jnp.float32)

    def loss(params):
        output = nnx.merge(graph, params, rest, copy=True)(frames)
        heatmaps = output.heatmaps
        targets = jax.random.normal(jax.random.key(1), heatmaps.shape)
        return sum(((maps - 1) ** 2).mean() for maps in (heatmaps - targets, *output.auxiliary))

    gradients = flatten(jax.jit(jax.grad(loss))(params))
    largest = {path: float(np.abs(np.asarray(gradient)).max()) for path, gradient in gradients.items()}
    assert [path for path, value in largest.items() if not np.isfinite(value)] == []
    assert [path for path, value in largest.items() if value == 0] == []


def test_the_page_has_every_network_and_row_with_its_parameters():
    lines = dict(re.findall(r'^\| `([a-z]+=\w+)` \| ([\d.]+) \|', PAGE.read_text(), re.MULTILINE))
    assert list(lines) == ARGUMENTS
    for argument in ('model=kimnet', 'row=lstm_pm_kmm', 'row=encoder_hourglass', 'row=kimnet_jrpsp'):
        fields = importlib.import_module('kimnet_jax.configs.penn_action').get_config(argument).model.to_dict()
        assert lines[argument] == f'{count_parameters(abstract_model(fields, num_joints=13)) / 1e6:.1f}'


def test_the_pages_example_of_kmm_runs():
    code = re.search(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL).group(1)
    namespace = {}
    exec(compile(code, str(PAGE), 'exec'), namespace)
    body = [line for line in code.split('class ')[1].splitlines() if line.strip()]
    assert len(body) <= 10  # what it takes to add KMM
    encoder = nnx.Conv(3, 6, (3, 3), strides=4, rngs=nnx.Rngs(0))
    network = namespace['WithKMM'](encoder, num_joints=5, features=6, rngs=nnx.Rngs(1))
    frames = jax.random.normal(jax.random.key(0), (2, 3, 16, 24, 3))
    heatmaps, correlation = network(frames[0], frames[1])
    assert heatmaps.shape == (3, 4, 6, 5)
    np.testing.assert_allclose(correlation.sum(-1), 1, rtol=1e-5)
    without = network.head(encoder(frames[1]))
    assert np.abs(heatmaps - without).max() > 1e-3  # KMM's part
