"""The comparison with PyTorch: right networks pass it, and what is planted in a wrong one is named."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import zoo
from absl import flags
from flax import nnx

from kimnet_jax import parity
from kimnet_jax.core.errors import InputError
from kimnet_jax.interop import torch_models
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.parity.comparison import compare
from kimnet_jax.interop.parity.forward import forward_errors
from kimnet_jax.interop.parity.pair import make_pair, random_weights, relative_error
from kimnet_jax.interop.parity.training import Trajectory, strayed
from kimnet_jax.interop.parity.traps import traps
from kimnet_jax.models import layers
from kimnet_jax.reporting import parity_report
from kimnet_jax.tasks.parity import adam

pytestmark = pytest.mark.quick_compilation


@pytest.fixture(autouse=True)
def _zoo(monkeypatch):
    monkeypatch.setattr(torch_models, 'TwinOfZoo', zoo.TwinOfZoo, raising=False)


def first(**planted):
    """What the comparison names first where ours is wrong in one way."""
    _, found = forward_errors(make_pair(zoo.NETWORK, zoo.ZooConfig(**planted), None, None, 'float32'))
    return found


def norm(**arguments):
    return functools.partial(zoo.PlainBatchNorm, **arguments)


PLANTED = {
    'convolution: SAME padding': ('stem', 'module', {'conv_padding': 'SAME'}),
    'BatchNorm: biased running variance': ('bn', 'normalisation', {'norm': norm()}),
    'BatchNorm: eps 0.001': ('bn', 'module', {'norm': norm(epsilon=1e-3)}),
    'BatchNorm: biased running variance, momentum 0.01 (in the sense of PyTorch)': (
        'bn',
        'normalisation',
        {'norm': norm(momentum=0.99)},
    ),
    'max-pool: padded with 0': ('up', 'before', {'pool': zoo.zero_padded_pool}),
    'max-pool: SAME padding': ('up', 'before', {'pool': zoo.same_pool}),
    'transposed convolution: kernel not flipped': ('up', 'module', {'upsample': zoo.FlippedConvTranspose}),
    'transposed convolution: output shifted by -1': ('up', 'module', {'upsample': zoo.ShiftedConvTranspose}),
    'gelu: approximate against exact': ('mix', 'before', {'approximate': True}),
    'resize: antialias': ('norm', 'before', {'antialias': True}),
    'LayerNorm: eps 1e-06': ('norm', 'module', {'epsilon': 1e-6}),
    'LayerNorm: eps 0.001': ('norm', 'module', {'epsilon': 1e-3}),
}


@pytest.mark.parametrize('name', PLANTED)
def test_a_planted_trap_is_named(name):
    module, where, planted = PLANTED[name]
    found = first(**planted)
    assert (found.module, found.path, found.where) == (module, module, where)
    assert found.trap.name == name
    assert not found.error <= found.tolerance


@pytest.mark.parametrize(
    ('name', 'rounding'),
    [('TF32', lambda x: round_mantissa(x, 10)), ('bfloat16', lambda x: x.astype(jnp.bfloat16).astype(jnp.float32))],
)
def test_rounded_products_are_named(monkeypatch, name, rounding):
    original = nnx.Conv.__call__

    def rounded(self, x):
        kernel = self.kernel[...]
        self.kernel[...] = rounding(kernel)
        y = original(self, rounding(x))
        self.kernel[...] = kernel
        return y

    monkeypatch.setattr(nnx.Conv, '__call__', rounded)
    found = first()
    assert (found.module, found.where, found.trap.name) == ('stem', 'module', f'precision: {name}')


def round_mantissa(x, bits):
    """To the nearest number with so many bits, ties to even."""
    fraction, exponent = np.frexp(np.asarray(x, np.float64))
    return jnp.asarray(np.ldexp(np.round(fraction * 2 ** (bits + 1)), exponent - bits - 1), jnp.float32)


def test_an_unknown_cause_is_not_given_a_name():
    found = first(extra=lambda x: 1.01 * x)
    assert (found.module, found.where, found.trap) == ('up', 'before', None)
    assert found.error == pytest.approx(0.01, rel=1e-3)


def test_the_right_network_passes():
    rows, found = forward_errors(make_pair(zoo.NETWORK, zoo.ZooConfig(), None, None, 'float32'))
    assert found is None
    assert [row.module for row in rows] == ['stem', 'bn', 'up', 'mix', 'norm', 'head', '']
    assert all(row.error < 1e-6 for row in rows)
    assert [row.module for row in rows if row.norm_error is not None] == ['bn', 'norm']
    assert [row.module for row in rows if row.own_error is None] == ['']


def test_every_call_of_the_recursion_is_compared():
    network = NETWORKS['kimnet']
    config = dataclasses.replace(network.presets['tiny'], pose_initializer='none', width=2, features=3)
    pair = make_pair(network._replace(inputs=lambda config: ((1, 3, 32, 32, 3),)), config, None, None, 'float32')
    rows, found = forward_errors(pair)
    assert found is None
    named = ('kmm', 'fusion.conv_g', 'relation_decoder.bn_u', 'relation_decoder.first_bn_u')
    calls = [(row.module, row.call) for row in rows if row.module.startswith(named)]
    kmm = [('kmm.conv_q', 0), ('kmm.conv_k', 0), ('kmm', 0)]
    assert calls == [
        ('relation_decoder.first_bn_u', 0),
        *kmm,
        ('fusion.conv_g', 0),
        ('relation_decoder.bn_u', 0),
        *[(name, 1) for name, _ in kmm],
        ('fusion.conv_g', 1),
        ('relation_decoder.bn_u', 1),
    ]
    assert {row.module: row.path for row in rows}['kmm.conv_q'] == 'transition.temporal.conv_q'


def test_a_wrong_gradient_is_found():
    @jax.custom_vjp
    def same(x):
        return x

    same.defvjp(lambda x: (x, None), lambda _, dy: (1.01 * dy,))
    result = compare_zoo(extra=lambda x: same(x), steps=1)
    assert not result['passed']
    assert result['first'] is None
    assert result['first_gradient'] == 'bn.bias'  # after the pool everything is right
    assert [check['name'] for check in result['checks'] if not check['passed']] == ['gradients, the worst parameter']
    assert 'that of `bn.bias`' in parity_report.verdict({'model': 'zoo', **result})


def compare_zoo(*, steps, **planted):
    return compare(zoo.NETWORK, zoo.ZooConfig(**planted), steps=steps, optimizer=adam(1e-3), rate=1e-3)


def test_training_goes_the_same_way():
    result = compare_zoo(steps=5)
    assert result['passed']
    path = result['trajectory']
    assert len(path['loss']) == 5
    assert path['loss'][4] < path['loss'][0]
    np.testing.assert_allclose(path['loss'], path['exact_loss'], rtol=1e-5)
    assert {entry['name'] for entry in result['statistics']} == {'bn.mean', 'bn.var'}
    assert len(result['gradients']) == 11


@pytest.mark.parametrize(
    ('distance', 'step'),
    [([0.009, 0.29, 0.89, 0.89], None), ([0.021, 0, 0, 0], 0), ([0, 0, 0.91, 0], 2), ([0, math.nan, 0, 0], 1)],
)
def test_strayed(distance, step):
    # allowed: ten times the largest of PyTorch's own up to twelve steps on, [0.02, 0.3, 0.9, 0.9], and 0.01 at least
    own = [*[0] * 12, 0.002, 0.03, 0.09, 0.05]
    assert strayed(Trajectory([], [], [], distance, own), 10) == step


@pytest.mark.parametrize(
    ('value', 'error'), [([3.0, 4.0], 0.0), ([3.0, 4.5], 0.1), ([math.nan, 4.0], math.inf), ([3.0], math.inf)]
)
def test_relative_error(value, error):
    assert relative_error([np.array(value)], [np.array([3.0, 4.0])]) == pytest.approx(error)


def test_random_weights_leave_no_layer_trivial():
    weights = random_weights(zoo.TwinOfZoo(None))
    for key, array in weights.items():
        assert array.dtype == (np.int64 if key.endswith('tracked') else np.float32)
        assert key.endswith('tracked') or array.std() > 0, key
    # 6 input channels and 16 taps, of which 4 meet every output
    assert weights['up.weight'].std() == pytest.approx(math.sqrt(2 / 24), rel=0.1)


def test_traps_have_names_of_their_own():
    names = [(trap.name, trap.finding) for trap in traps()]
    assert len(set(names)) == len(names)


def command(*argv):
    values = flags.FlagValues()
    parity.define_flags(values)
    values(['parity', *argv])
    return parity.run(['parity'], values)


def test_the_command_writes_a_report(tmp_path, capsys):
    out = tmp_path / 'out'
    assert command('--model=relation_decoder', '--steps=3', f'--out={out}') == 0
    text = (out / 'relation_decoder_tiny_float32.md').read_text()
    assert capsys.readouterr().out.startswith(text.partition('\n## Modules')[0])
    result = json.loads((out / 'relation_decoder_tiny_float32.json').read_text())
    assert result['passed']
    for row in result['modules']:
        assert (row['module'] or '(all)') in text
    assert (out / 'relation_decoder_tiny_float32.png').read_bytes().startswith(b'\x89PNG')
    assert len(list(out.iterdir())) == 3


def test_the_command_tells_what_is_wrong(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('kimnet_jax.models.relation_decoder.BatchNorm', FlaxDefaults)
    assert command('--model=relation_decoder', '--steps=0', f'--out={tmp_path}') == 1
    out = capsys.readouterr().out
    assert '**Outside the tolerances.** First: `bn_w` (ours: `bn_w`)' in out
    assert '**BatchNorm: biased running variance, momentum 0.01 (in the sense of PyTorch)**' in out
    assert 'What to do: use layers.BatchNorm' in out


class FlaxDefaults(nnx.BatchNorm):
    def __init__(self, features, *, scale_init=1.0, rngs):
        super().__init__(features, use_fast_variance=False, rngs=rngs)


def test_weights_from_a_file(tmp_path):
    twin = NETWORKS['kmm'].make_twin(NETWORKS['kmm'].presets['full'])
    file = tmp_path / 'kmm.pth'
    torch.save({'state_dict': {f'module.{key}': value for key, value in twin.state_dict().items()}}, file)
    assert command('--model=kmm', f'--weights={file}', '--steps=0', f'--out={tmp_path}') == 0
    result = json.loads((tmp_path / 'kmm_kmm.pth_float32.json').read_text())
    assert (result['weights'], result['preset'], result['config']['features']) == ('file', 'own weights', 256)
    with pytest.raises(InputError, match='relation_decoder'):
        command('--model=relation_decoder', f'--weights={file}', f'--out={tmp_path}')


def test_model_or_all():
    for argv in ((), ('--model=kmm', '--all')):
        with pytest.raises(InputError, match='give either --all or --model, one of pose_resnet'):
            command(*argv)


def test_the_table_goes_between_the_markers(tmp_path):
    page = tmp_path / 'parity.md'
    page.write_text(f'# Parity\n\n{parity_report.BEGIN}\nold\n{parity_report.END}\n\nTraps.\n')
    results = [
        {'model': 'zoo', 'preset': 'tiny', **compare_zoo(steps=0, pool=pool), 'config': {}}
        for pool in (layers.max_pool, zoo.same_pool)
    ]
    parity_report.write_summary(tmp_path, results)
    text = page.read_text()
    assert text.startswith('# Parity\n\n<!-- begin')
    assert text.endswith('<!-- end -->\n\nTraps.\n')
    assert 'old' not in text
    right, wrong = (line for line in text.splitlines() if line.startswith('| zoo (tiny)'))
    assert right.rstrip(' |').endswith('yes')
    assert wrong.rstrip(' |').endswith('max-pool: SAME padding')
    assert [entry['passed'] for entry in json.loads((tmp_path / 'parity.json').read_text())] == [True, False]
    page.write_text('# Parity\n')
    with pytest.raises(InputError, match='which are not both there'):
        parity_report.write_summary(tmp_path, results)
