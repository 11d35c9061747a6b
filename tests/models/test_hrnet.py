import dataclasses

import golden
import jax
import numpy as np
import pytest
import torch
import twins
from flax import nnx

from kimnet_jax.interop.translation import flatten
from kimnet_jax.models import count_parameters, hrnet
from kimnet_jax.models.hrnet import TINY as SMALLEST
from kimnet_jax.models.hrnet import HRNet

pytestmark = pytest.mark.quick_compilation

TINY = dataclasses.replace(SMALLEST, num_joints=5)
PARAMETERS = {'w32': 28_536_080, 'w48': 63_595_696}


@pytest.mark.parametrize('name', PARAMETERS)
def test_eval_output_is_the_reference(name):
    """Measured: 6e-7 ours, 5e-7 the twin. Without jit: compiling the three hundred convolutions takes longer than they do."""
    model, twin, images, reference = twins.released('hrnet', f'hrnet_{name}')
    assert count_parameters(model) == PARAMETERS[name]
    heatmaps = model(np.moveaxis(images, 1, -1))
    assert golden.relative_error(np.moveaxis(heatmaps, -1, 1), reference) < 5e-6
    with torch.no_grad():
        heatmaps = twin(torch.from_numpy(images))
    assert golden.relative_error(heatmaps, reference) < 5e-6


def test_train_step_is_the_twins():
    twins.compare_training('hrnet', dataclasses.replace(TINY, modules=(1, 2, 1), remat=True), (2, 64, 96, 3))


def test_features_are_the_twins():
    """Those of the highest resolution. Measured: 4e-7."""
    twins.compare_features('hrnet', dataclasses.replace(TINY, num_joints=None), (1, 64, 96, 3))


@pytest.mark.parametrize(('joints', 'channels'), [(5, 5), (None, 4)])
def test_output_is_a_quarter_of_the_image(joints, channels):
    config = dataclasses.replace(TINY, num_joints=joints)
    model = nnx.eval_shape(lambda: HRNet(config, dtype='bfloat16', rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((3, 64, 96, 3), 'float32')
    output = nnx.eval_shape(lambda model, images: model(images), model, images)
    assert (output.shape, output.dtype) == ((3, 16, 24, channels), 'bfloat16')
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model, (nnx.Param, nnx.BatchStat)))} == {np.dtype('float32')}
    assert config.features == 4


def test_initial_values_are_those_of_the_release(monkeypatch):
    """One initialiser for all convolutions, those of the residual blocks too; biases are zero."""
    monkeypatch.setattr(hrnet, 'near_zero', nnx.initializers.constant(0.5))
    model = HRNet(TINY, rngs=nnx.Rngs(0))
    kernels = [leaf for path, leaf in flatten(nnx.state(model, nnx.Param)).items() if path.endswith('kernel')]
    assert len(kernels) == 41
    assert all((kernel == 0.5).all() for kernel in kernels)
    assert not model.final_layer.bias[...].any()


def test_bad_image_size():
    model = nnx.eval_shape(lambda: HRNet(TINY, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match='images of 64x80: HRNet takes multiples of 32'):
        nnx.eval_shape(lambda model, images: model(images), model, jax.ShapeDtypeStruct((1, 64, 80, 3), 'float32'))
