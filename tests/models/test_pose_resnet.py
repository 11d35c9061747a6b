import golden
import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop import torch_models
from kimnet_jax.interop.keymaps import POSE_RESNET
from kimnet_jax.interop.translation import assign, flatten, translate
from kimnet_jax.models import PoseResNet, PoseResNetConfig, count_parameters

QUICK = pytest.mark.quick_compilation

JOINTS = {18: 16, 34: 13, 50: 16, 101: 13, 152: 15}
PARAMETERS = {18: 15_376_464, 34: 25_483_853, 50: 33_999_440, 101: 52_990_797, 152: 68_634_959}


def reference_model(depth):
    weights, _ = golden.weights(f'simplebaseline_resnet{depth}')
    model = nnx.eval_shape(lambda: PoseResNet(PoseResNetConfig(depth, JOINTS[depth]), rngs=nnx.Rngs(0)))
    assign(model, translate(weights, POSE_RESNET))
    return model


def nhwc(array):
    return np.moveaxis(array, 1, -1)


IMAGES = nhwc(golden.tensor('input', (2, 3, 128, 128), 'input', 0))


@QUICK
@pytest.mark.parametrize('depth', JOINTS)
def test_eval_output_is_the_reference(depth):
    model = reference_model(depth)
    model.eval()
    heatmaps = nnx.jit(lambda model, images: model(images))(model, IMAGES)
    reference = golden.arrays(f'simplebaseline_resnet{depth}')
    assert golden.relative_error(heatmaps, nhwc(reference['eval_out'])) < 1e-4


@pytest.mark.parametrize('depth', [pytest.param(18, marks=QUICK), 50])
def test_train_step_is_the_reference(depth):
    name = f'simplebaseline_resnet{depth}'
    reference = golden.arrays(name)
    before, parameters = golden.weights(name)
    model = reference_model(depth)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
    target = nhwc(golden.tensor('target', reference['train_out'].shape, 'input', 0))

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            heatmaps = model(IMAGES)
            return ((heatmaps - target) ** 2).mean(), heatmaps

        (value, heatmaps), gradients = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, gradients)
        return value, heatmaps, gradients

    loss, heatmaps, gradients = step(model, optimizer)
    assert golden.relative_error(loss, reference['train_loss']) < 1e-5
    assert golden.relative_error(heatmaps, nhwc(reference['train_out'])) < 1e-4

    def paths(keys):  # where each of the reference's entries lies in ours
        return [next(iter(translate({key: before[key]}, POSE_RESNET))) for key in keys]

    leaves = flatten(gradients)
    by_key = [np.asarray(leaves[path], np.float64) for path in paths(parameters)]
    assert golden.relative_error([np.linalg.norm(g) for g in by_key], reference['train_grad_l2']) < 1e-3
    assert golden.relative_error([np.abs(g).sum() for g in by_key], reference['train_grad_l1']) < 1e-3
    assert golden.relative_error([g.sum() for g in by_key], reference['train_grad_sum']) < 3e-2  # cancels

    state = flatten(nnx.state(model))
    last = {18: 'layer4.1.bn2', 50: 'layer4.2.bn3'}[depth]
    for module, part in (('bn1', 'bn1'), (last, 'layer4_last_bn'), ('deconv_layers.7', 'deconv_last_bn')):
        for leaf in ('running_mean', 'running_var'):
            (path,) = paths([f'{module}.{leaf}'])
            assert golden.relative_error(state[path], reference[f'train_{part}_{leaf}']) < 1e-5, path

    after = [np.asarray(state[path], np.float64) for path in paths(parameters)]
    old = [next(iter(translate({key: before[key]}, POSE_RESNET).values())) for key in parameters]
    moved = [np.linalg.norm(new - was) for new, was in zip(after, old, strict=True)]
    assert golden.relative_error([np.linalg.norm(new) for new in after], reference['train_adam_param_l2']) < 1e-5
    assert golden.relative_error(moved, reference['train_adam_delta_l2']) < 1e-3


def reference_twin(depth):
    weights, _ = golden.weights(f'simplebaseline_resnet{depth}')
    twin = torch_models.PoseResNet(PoseResNetConfig(depth, JOINTS[depth]))
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return twin


@QUICK
@pytest.mark.parametrize('depth', JOINTS)
def test_eval_output_of_the_twin_is_the_reference(depth):
    with torch.no_grad():
        heatmaps = reference_twin(depth).eval()(torch.from_numpy(np.moveaxis(IMAGES, -1, 1).copy()))
    assert golden.relative_error(heatmaps, golden.arrays(f'simplebaseline_resnet{depth}')['eval_out']) < 1e-5


@pytest.mark.parametrize('depth', [18, 50])
def test_train_step_of_the_twin_is_the_reference(depth):
    name = f'simplebaseline_resnet{depth}'
    reference, (before, parameters) = golden.arrays(name), golden.weights(name)
    twin = reference_twin(depth)
    target = torch.from_numpy(golden.tensor('target', reference['train_out'].shape, 'input', 0))
    heatmaps = twin(torch.from_numpy(np.moveaxis(IMAGES, -1, 1).copy()))
    loss = ((heatmaps - target) ** 2).mean()
    loss.backward()
    torch.optim.Adam(twin.parameters(), 1e-3).step()
    assert golden.relative_error(loss.item(), reference['train_loss']) < 1e-5
    assert golden.relative_error(heatmaps.detach(), reference['train_out']) < 1e-4
    trained = dict(twin.named_parameters())
    gradients = [trained[key].grad.double().numpy() for key in parameters]
    assert golden.relative_error([np.linalg.norm(g) for g in gradients], reference['train_grad_l2']) < 1e-3
    assert golden.relative_error([np.abs(g).sum() for g in gradients], reference['train_grad_l1']) < 1e-3
    moved = [np.linalg.norm(trained[key].detach().double().numpy() - before[key]) for key in parameters]
    assert golden.relative_error(moved, reference['train_adam_delta_l2']) < 1e-3
    for leaf in ('running_mean', 'running_var'):
        assert golden.relative_error(twin.state_dict()[f'bn1.{leaf}'], reference[f'train_bn1_{leaf}']) < 1e-5


@QUICK
@pytest.mark.parametrize('depth', JOINTS)
def test_parameter_count(depth):
    model = nnx.eval_shape(lambda: PoseResNet(PoseResNetConfig(depth, JOINTS[depth]), rngs=nnx.Rngs(0)))
    assert count_parameters(model) == PARAMETERS[depth]


@QUICK
def test_output_is_a_quarter_of_the_image():
    model = nnx.eval_shape(lambda: PoseResNet(PoseResNetConfig(18, 7, width=2, features=3), rngs=nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((2, 64, 96, 3), 'float32')
    assert nnx.eval_shape(lambda model, images: model(images), model, images).shape == (2, 16, 24, 7)


@QUICK
def test_unknown_depth():
    with pytest.raises(ValueError, match='depth 19: choose one of 18, 34, 50, 101, 152'):
        PoseResNet(PoseResNetConfig(19), rngs=nnx.Rngs(0))


@QUICK
def test_weights_that_do_not_fit_are_all_named():
    weights, _ = golden.weights('simplebaseline_resnet18')
    weights['fc.weight'] = np.zeros((2, 2))
    weights['layer4.9.conv1.weight'] = np.zeros((2, 2, 3, 3))
    with pytest.raises(InputError, match=r'fc\.weight: taken by 0 rules'):
        translate(weights, POSE_RESNET)
    del weights['fc.weight'], weights['bn1.bias']
    weights['final_layer.bias'] = np.zeros(15)
    weights['conv1.weight'] += 1
    model = reference_model(18)
    kernel = np.asarray(model.conv1.kernel[...])
    with pytest.raises(InputError) as error:
        assign(model, translate(weights, POSE_RESNET))
    assert 'bn1.bias: missing' in str(error.value)
    assert 'layer4.9.conv1.kernel: not in the model' in str(error.value)
    assert 'final_layer.bias: (15,) in the weights, (16,)' in str(error.value)
    np.testing.assert_array_equal(model.conv1.kernel[...], kernel)
