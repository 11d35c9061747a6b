import dataclasses

import golden
import jax
import numpy as np
import pytest
import torch
import twins
from flax import nnx

from kimnet_jax.models import count_parameters
from kimnet_jax.models.hourglass import TINY as SMALLEST
from kimnet_jax.models.hourglass import Hourglass, HourglassConfig
from kimnet_jax.models.layers import torch_conv

pytestmark = pytest.mark.quick_compilation

TINY = dataclasses.replace(SMALLEST, num_joints=5)


@pytest.mark.parametrize('name', ['bearpaw_s1_b2', 'bearpaw_s2_b1', 'princeton_s2'])
def test_eval_output_is_the_reference(name):
    """Of every stack. Measured: 6e-7 ours, 4e-7 the twin."""
    model, twin, images, reference = twins.released('hourglass', f'hourglass_{name}')
    outputs = np.stack(nnx.jit(Hourglass.outputs)(model, np.moveaxis(images, 1, -1)), 1)
    assert golden.relative_error(np.moveaxis(outputs, -1, 2), reference) < 5e-6
    with torch.no_grad():
        outputs = twin.outputs(torch.from_numpy(images))
    assert golden.relative_error(torch.stack(outputs, 1), reference) < 5e-6


def test_train_step_is_the_twins():
    twins.compare_training('hourglass', TINY, (2, 128, 128, 3))


@pytest.mark.parametrize('variant', ['bearpaw', 'princeton'])
def test_features_are_the_twins(variant):
    """They go from stack to stack without the heatmaps. Measured: 4e-7."""
    twins.compare_features('hourglass', dataclasses.replace(TINY, variant=variant, num_joints=None), (1, 64, 128, 3))


@pytest.mark.parametrize(
    ('stacks', 'variant', 'parameters'),
    [
        (1, 'bearpaw', 3_586_960),
        (2, 'bearpaw', 6_730_912),
        (4, 'bearpaw', 13_018_816),
        (8, 'bearpaw', 25_594_624),
        (8, 'princeton', 32_819_328 - 7_385_216),  # without the skip layers that no block of the release uses
    ],
)
def test_parameter_count(stacks, variant, parameters):
    config = HourglassConfig(stacks, num_joints=16, variant=variant)
    assert count_parameters(nnx.eval_shape(lambda: Hourglass(config, rngs=nnx.Rngs(0)))) == parameters


@pytest.mark.parametrize(('joints', 'channels'), [(5, 5), (None, 16)])
def test_output_is_a_quarter_of_the_image(joints, channels):
    config = dataclasses.replace(TINY, num_joints=joints)
    model = nnx.eval_shape(lambda: Hourglass(config, dtype='bfloat16', rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((3, 64, 192, 3), 'float32')
    output = nnx.eval_shape(lambda model, images: model(images), model, images)
    assert (output.shape, output.dtype) == ((3, 16, 48, channels), 'bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))} == {np.dtype('float32')}


@pytest.mark.parametrize(('kernel', 'bound'), [(7, 147**-0.5), (1, 3**-0.5)])
def test_initial_values_are_those_of_pytorch(kernel, bound):
    """Uniform within 1 / sqrt(fan in), weights and biases: 3 x 7 x 7 inputs, then 3."""
    layer = torch_conv(3, 500, kernel, rngs=nnx.Rngs(0))
    for values in (layer.kernel[...], layer.bias[...]):
        assert 0.99 * bound < np.abs(values).max() <= bound
        assert np.std(values) == pytest.approx(bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'variant': 'torch7'}, "variant 'torch7': choose one of bearpaw, princeton"),
        ({'features': 18}, '18 features: choose a multiple of 4'),
        ({'num_stacks': 0}, 'config.model.num_stacks=0: must be 1 to 64'),
    ],
)
def test_bad_config(change, message):
    with pytest.raises(ValueError, match=message):
        Hourglass(dataclasses.replace(TINY, **change), rngs=nnx.Rngs(0))


def test_bad_image_size():
    model = nnx.eval_shape(lambda: Hourglass(TINY, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match='images of 64x96: an hourglass takes multiples of 64'):
        nnx.eval_shape(lambda model, images: model(images), model, jax.ShapeDtypeStruct((1, 64, 96, 3), 'float32'))
