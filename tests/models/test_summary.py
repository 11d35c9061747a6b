"""The table of a network's parameters, by hand for a small one and short for all."""

import jax.numpy as jnp
import pytest
from flax import nnx

from kimnet_jax.models import MODELS, abstract_model, model_fields
from kimnet_jax.models.layers import BatchNorm
from kimnet_jax.models.summary import parameter_table


class Part(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(3, 5, param_dtype=jnp.bfloat16, rngs=rngs)
        self.norm = BatchNorm(5, rngs=rngs)


class Network(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.head, self.tail = Part(rngs), Part(rngs)
        self.scale = nnx.Param(jnp.zeros((1024, 512)))


def test_by_hand():
    assert parameter_table(Network()) == [
        'module                     arrays  parameters  dtype               MiB',
        'head.linear                     2          20  bfloat16           0.00',  # 3 * 5 + 5
        'head.norm                       2          10  float32            0.00',
        'scale                    1024x512     524,288  float32            2.00',
        'tail.linear                     2          20  bfloat16           0.00',
        'tail.norm                       2          10  float32            0.00',
        'all                             9     524,348  bfloat16, float32  2.00',
        'not trained: statistics         4          20  float32            0.00',
    ]


@pytest.mark.parametrize('name', [name for name in MODELS if name != 'hanet'])
def test_of_every_network_it_is_short_and_complete(name):
    table = parameter_table(abstract_model(model_fields(name), num_joints=15, dtype='float32'))
    assert 6 <= len(table) <= 27
    assert all(len(line) < 100 for line in table)
    counts = [int(line.split()[2].replace(',', '')) for line in table if not line.startswith(('module', 'not'))]
    assert sum(counts[:-1]) == counts[-1]
