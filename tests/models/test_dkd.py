import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from kimnet_jax.interop import keymaps, torch_models
from kimnet_jax.interop.torch_models.dkd import dynamic_conv as torch_dynamic_conv
from kimnet_jax.interop.translation import assign, flatten, translate
from kimnet_jax.models.dkd import DKD, dynamic_conv
from kimnet_jax.models.jrpsp import JRPSP

pytestmark = pytest.mark.quick_compilation

B, H, W, JOINTS, FEATURES = 3, 19, 26, 5, 7  # kernels of 2 x 3


def channels_last(array):
    return np.moveaxis(np.asarray(array), 1, -1)


def test_dynamic_convolution_is_the_released_one():
    features = golden.tensor('adaptive_feature', (2, 8, 20, 20), 'normal', 0)
    kernels = golden.tensor('adaptive_kernel', (2, 8, 7, 7), 'normal', 0)
    reference = golden.arrays('rpstn_adaptive_conv')['out']
    twin = torch_dynamic_conv(torch.from_numpy(features), torch.from_numpy(kernels))
    assert golden.relative_error(twin, reference) < 1e-6
    output = dynamic_conv(channels_last(features), channels_last(kernels))
    assert golden.relative_error(output, channels_last(reference)) < 1e-6


@pytest.mark.parametrize('size', [(7, 7), (3, 5), (4, 2), (1, 1)])
def test_dynamic_convolution_is_the_grouped_one(size):
    b, h, w, c = 2, 11, 13, 3

    def stock(x, kernels):  # samples and channels as one axis, a group each
        x = x.transpose(1, 2, 0, 3).reshape(1, h, w, b * c)
        kernels = kernels.transpose(1, 2, 0, 3).reshape(*size, 1, b * c)
        padding = [(k // 2, k - 1 - k // 2) for k in size]
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        y = jax.lax.conv_general_dilated(x, kernels, (1, 1), padding, dimension_numbers=dimensions, feature_group_count=b * c)
        return y.reshape(h, w, b, c).transpose(2, 0, 1, 3)

    arguments = golden.tensor('x', (b, h, w, c), 'normal', 0), golden.tensor('kernels', (b, *size, c), 'normal', 0)
    weight = golden.tensor('cotangent', (b, h, w, c), 'normal', 0)
    assert golden.relative_error(dynamic_conv(*arguments), stock(*arguments)) < 1e-6
    ours, expected = (jax.grad(lambda *a, f=f: (f(*a) * weight).sum(), (0, 1))(*arguments) for f in (dynamic_conv, stock))
    for gradient, reference in zip(ours, expected, strict=True):
        assert golden.relative_error(gradient, reference) < 1e-5


def inputs():
    features, following = (golden.tensor(name, (B, H, W, FEATURES), 'normal', 0) for name in ('f_t', 'f_t+1'))
    return features, following, golden.tensor('heatmaps', (B, H, W, JOINTS), 'normal', 0) / 9


@pytest.mark.parametrize(
    ('name', 'variant'),
    [('DKD', 'intended'), ('JRPSP', 'intended'), ('JRPSP', 'released_penn'), ('JRPSP', 'released_jhmdb')],
)
def test_forward_and_backward_are_those_of_pytorch(name, variant):
    decoder = {'intended': 'intended', 'released_penn': 'released', 'released_jhmdb': 'released_2021'}[variant]
    ours, extra = {'DKD': (DKD, {}), 'JRPSP': (JRPSP, {'decoder_variant': decoder})}[name]
    twin, table = getattr(torch_models, name)(JOINTS, FEATURES, variant, **extra), getattr(keymaps, name)
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    twin.double()
    model = nnx.eval_shape(lambda: ours(JOINTS, FEATURES, variant=variant, rngs=nnx.Rngs(0), **extra))
    assign(model, translate(weights, table))
    target = golden.tensor('target', (B, H, W, JOINTS), 'input', 0)
    tensors = [torch.from_numpy(np.moveaxis(x, -1, 1)).double() for x in inputs()]

    twin.eval()
    model.eval()
    with torch.no_grad():
        expected = twin(*tensors)
    predicted, kernels = nnx.jit(lambda model, *arguments: model(*arguments))(model, *inputs())
    assert kernels.shape == (B, 2, 3, FEATURES)
    assert golden.relative_error(predicted, channels_last(expected[0])) < 1e-5
    assert golden.relative_error(kernels, channels_last(expected[1])) < 1e-5

    twin.train()
    model.train()
    ((twin(*tensors)[0].permute(0, 2, 3, 1) - torch.from_numpy(target)) ** 2).mean().backward()

    @nnx.jit
    def gradients(model):
        return nnx.grad(lambda model: ((model(*inputs())[0] - target) ** 2).mean())(model)

    ours = flatten(gradients(model))
    gradient = {key: value.grad.numpy() for key, value in twin.named_parameters() if value.grad is not None}
    assert {key for key, _ in twin.named_parameters()} - gradient.keys() == {  # the release never uses them
        key for key in weights if 'theta' in key or 'phi' in key
    }
    expected = translate(gradient, table)
    assert ours.keys() == expected.keys()
    largest = max(np.linalg.norm(leaf) for leaf in expected.values())
    for path, leaf in expected.items():  # a bias before a BatchNorm: zero but for rounding
        assert np.linalg.norm(ours[path] - leaf) <= 1e-3 * np.linalg.norm(leaf) + 1e-6 * largest, path
    statistics = flatten(nnx.state(model, nnx.BatchStat))
    for path, leaf in translate({key: value.numpy() for key, value in twin.named_buffers()}, table).items():
        assert golden.relative_error(statistics[path], leaf) < 1e-5, path


def test_bfloat16_keeps_heatmaps_in_float32():
    exact, fast = (
        golden.randomised(lambda dtype=dtype: DKD(JOINTS, FEATURES, dtype=dtype, rngs=nnx.Rngs(0)))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    forward = nnx.jit(lambda model, *arguments: model(*arguments))
    expected, _ = forward(exact, *inputs())
    predicted, kernels = forward(fast, *(jnp.asarray(x, jnp.bfloat16) for x in inputs()))
    assert (predicted.dtype, kernels.dtype) == (jnp.float32, jnp.bfloat16)
    assert 1e-5 < golden.relative_error(predicted, expected) < 0.1


def test_too_small_features():
    model = nnx.eval_shape(lambda: DKD(3, 2, rngs=nnx.Rngs(0)))
    features, heatmaps = jnp.zeros((1, 12, 9, 2)), jnp.zeros((1, 12, 9, 3))
    with pytest.raises(ValueError, match='at least 10 x 10 cells, not 12 x 9'):
        nnx.eval_shape(lambda model: model(features, features, heatmaps), model)


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"'released'.*intended, released_penn, released_jhmdb"):
        DKD(3, 2, variant='released', rngs=nnx.Rngs(0))
