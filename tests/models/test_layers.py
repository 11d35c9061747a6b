import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.core.platform import Spread, compiled_for, spread_over
from kimnet_jax.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Statistics,
    max_pool,
    max_pool_2x2,
    upsample_nearest,
)

pytestmark = pytest.mark.quick_compilation


def normal(name, *shape):
    return golden.tensor(name, shape, 'normal', 0)


@pytest.fixture(params=['cpu', 'gpu', 'tpu'])
def platform(request):
    """What is traced in the test has the formulations for this platform; all of them run on a CPU."""
    with compiled_for(request.param):
        yield request.param


@pytest.mark.parametrize(('kernel', 'stride'), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize('size', [(11, 13), (12, 10)])
def test_convolution_is_the_stock_one(kernel, stride, size, platform):
    layer = golden.randomised(lambda: Conv(3, 5, kernel, stride=stride, use_bias=True, rngs=nnx.Rngs(0)))
    x, p = normal('x', 2, *size, 3), kernel // 2

    def stock(x, weights, bias):
        dimensions = ('NHWC', 'HWIO', 'NHWC')
        return jax.lax.conv_general_dilated(x, weights, (stride,) * 2, ((p, p),) * 2, dimension_numbers=dimensions) + bias

    def ours(x, weights, bias):
        return filled(layer, kernel=weights, bias=bias)(x)

    compare(ours, stock, (x, layer.kernel[...], layer.bias[...]))


@pytest.mark.parametrize(('kernel', 'stride'), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2), (4, 0)])
def test_tpus_sum_gradients_of_bfloat16_in_float32(kernel, stride, platform):
    """Stride 0: the transposed convolution."""

    def make(dtype):
        if stride == 0:
            return golden.randomised(lambda: ConvTranspose(3, 5, dtype=dtype, rngs=nnx.Rngs(0)))
        return golden.randomised(lambda: Conv(3, 5, kernel, stride=stride, dtype=dtype, rngs=nnx.Rngs(0)))

    x = jnp.asarray(normal('x', 2, 11, 12, 3), jnp.bfloat16)
    weight = jnp.asarray(normal('w', *make(jnp.float32)(x).shape), jnp.bfloat16)

    def gradient(layer, **sums):
        def loss(weights, x):
            with spread_over(Spread(8, 8, **sums)):
                y = filled(layer, kernel=weights)(x)
            return (y.astype(jnp.float32) * weight).sum()

        return jax.grad(loss, (0, 1))(layer.kernel[...], x)

    (exact, _), (sharp, dx), (rounded, same) = (
        gradient(make(jnp.float32)),
        gradient(make(jnp.bfloat16)),
        gradient(make(jnp.bfloat16), float32_sums=False),
    )
    assert sharp.dtype == jnp.float32
    assert 1e-4 < golden.relative_error(rounded, exact) < 1e-2
    if platform == 'tpu':
        assert golden.relative_error(sharp, exact) < 1e-6
    else:
        np.testing.assert_array_equal(sharp, rounded)
    np.testing.assert_array_equal(dx, same)


def test_a_strided_pointwise_convolution_is_no_slice_on_a_gpu():
    """XLA's compiler for GPUs aborts on the product of a strided slice, where one residual block follows another."""
    layer = Conv(3, 5, 1, stride=2, rngs=nnx.Rngs(0))
    with compiled_for('gpu'):
        operations = str(jax.make_jaxpr(lambda x: layer(x))(normal('x', 1, 8, 8, 3)))
    assert 'conv_general_dilated' in operations
    assert 'slice' not in operations


def test_transposed_convolution_is_the_stock_one(platform):
    layer = golden.randomised(lambda: ConvTranspose(3, 5, rngs=nnx.Rngs(0)))

    def stock(x, kernel):  # the sum of the definition, output row 2i - 1 + k, as a convolution with inserted zeros
        return jax.lax.conv_general_dilated(
            x, kernel[::-1, ::-1], (1, 1), ((2, 2),) * 2, lhs_dilation=(2, 2), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )

    def ours(x, kernel):
        return filled(layer, kernel=kernel)(x)

    compare(ours, stock, (normal('x', 2, 7, 5, 3), layer.kernel[...]))


@pytest.mark.parametrize('size', [(8, 6), (11, 7), (6, 5)])
@pytest.mark.parametrize('padding', [0, 1])
def test_max_pool_is_the_stock_one(size, padding, platform):
    def stock(x):
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((padding, padding),) * 2)

    compare(functools.partial(max_pool, padding=padding), stock, (normal('x', 2, *size, 3),))


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_values_that_tie_share_the_gradient_of_the_maximum(dtype):
    x = jnp.zeros((1, 3, 5, 1), dtype).at[0, :2, 0].set(1)  # two windows: two ones among zeros, nine zeros
    weight = jnp.array([6, 9], dtype).reshape(1, 1, 2, 1)
    gradient = jax.jit(jax.grad(lambda x: (max_pool(x, padding=0) * weight).sum()))(x)
    assert gradient[0, ..., 0].tolist() == [[3, 0, 1, 1, 1], [3, 0, 1, 1, 1], [0, 0, 1, 1, 1]]


@pytest.mark.parametrize('size', [(8, 6), (11, 7)])
def test_max_pool_2x2_is_the_stock_one(size):
    compare(max_pool_2x2, lambda x: nnx.max_pool(x, (2, 2), strides=(2, 2)), (normal('x', 2, *size, 3),))


def test_nearest_upsampling_repeats():
    compare(lambda x: upsample_nearest(x, 4), lambda x: x.repeat(4, axis=1).repeat(4, axis=2), (normal('x', 2, 3, 5, 7),))


def filled(layer, **leaves):
    layer = nnx.clone(layer)
    for name, value in leaves.items():
        getattr(layer, name)[...] = value
    return layer


def compare(ours, stock, arguments):
    """Values and the gradients of every argument."""
    expected, pullback = jax.vjp(stock, *arguments)
    weight = normal('cotangent', *expected.shape)
    assert golden.relative_error(ours(*arguments), expected) < 1e-6
    differentiate = jax.grad(lambda *arguments: (ours(*arguments) * weight).sum(), range(len(arguments)))
    gradients = jax.jit(differentiate)(*arguments)
    for gradient, reference in zip(gradients, pullback(weight), strict=True):
        assert golden.relative_error(gradient, reference) < 1e-5


def test_batch_norm_by_hand():
    """Channel 0 holds 1, 2, 3, 6: mean 3, variance 14/4 biased, 14/3 unbiased. Channel 1 is 1000 above it."""
    layer = BatchNorm(2, scale_init=2.0, rngs=nnx.Rngs(0))
    x = np.float32([1, 2, 3, 6]).reshape(2, 1, 2, 1) + np.float32([0, 1000])
    expected = 2 * (np.array([1, 2, 3, 6]) - 3) / np.sqrt(14 / 4 + 1e-5)
    for channel in range(2):
        np.testing.assert_allclose(layer(x)[..., channel].ravel(), expected, rtol=1e-5)
    layer = BatchNorm(2, rngs=nnx.Rngs(0))
    layer(x)
    np.testing.assert_allclose(layer.mean[...], [0.3, 100.3], rtol=1e-6)
    np.testing.assert_allclose(layer.var[...], np.full(2, 0.9 + 0.1 * 14 / 3), rtol=1e-6)
    layer.eval()
    expected = ([1, 1001] - np.float64([0.3, 100.3])) / np.sqrt(0.9 + 1.4 / 3 + 1e-5)
    np.testing.assert_allclose(layer(x)[0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(layer.mean[...], [0.3, 100.3], rtol=1e-6)


def test_statistics_are_a_batch_norm_without_weights():
    layer, reference = Statistics(2), BatchNorm(2, rngs=nnx.Rngs(0))
    x = np.float32([1, 2, 3, 6]).reshape(2, 1, 2, 1) + np.float32([0, 1000])
    for _ in range(2):
        np.testing.assert_allclose(layer(x), reference(x), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(layer.mean[...], reference.mean[...])
        np.testing.assert_array_equal(layer.var[...], reference.var[...])
        layer.eval()
        reference.eval()


def spread_batch_norm(x: np.ndarray, devices: int, sharing: int, weight: np.ndarray):
    """Output, running mean and variance, and the gradient of a weighted sum of a BatchNorm on so many devices."""
    layer = BatchNorm(3, rngs=nnx.Rngs(0))
    layer.mean.set_value(jnp.array([0.5, -0.2, 1.0]))
    graph, state = nnx.split(layer)

    def loss(x):
        norm = nnx.merge(graph, state, copy=True)
        with spread_over(Spread(devices, sharing)):
            y = norm(x)
        return (y * weight).sum(), (y, norm.mean[...], norm.var[...])

    gradient, (y, mean, var) = jax.grad(loss, has_aux=True)(x)
    return y, mean, var, gradient


@pytest.mark.parametrize('shape', [(8, 5, 4, 3), (64, 3)])
@pytest.mark.parametrize('sharing', [1, 2, 4])
def test_batch_norm_of_groups_of_devices_is_one_of_the_rows_of_each(shape, sharing):
    """Running statistics are the means over the groups."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(0.7, 2, shape).astype(np.float32), rng.normal(0, 1, shape).astype(np.float32)
    rows = len(x) // (4 // sharing)
    groups = [spread_batch_norm(x[i : i + rows], 1, 1, weight[i : i + rows]) for i in range(0, len(x), rows)]
    y, mean, var, gradient = spread_batch_norm(x, 4, sharing, weight)
    np.testing.assert_allclose(y, np.concatenate([group[0] for group in groups]), atol=5e-6)
    np.testing.assert_allclose(mean, np.mean([group[1] for group in groups], 0), atol=1e-6)
    np.testing.assert_allclose(var, np.mean([group[2] for group in groups], 0), atol=1e-6)
    np.testing.assert_allclose(gradient, np.concatenate([group[3] for group in groups]), atol=5e-6)


def test_batch_norm_far_from_its_running_mean_stays_finite_on_devices():
    x = 1e4 + np.random.default_rng(0).normal(0, 1e-3, (8, 5, 4, 3)).astype(np.float32)
    for value in spread_batch_norm(x, 4, 4, np.ones_like(x)):
        assert np.isfinite(value).all()


def test_batch_norm_gradients_are_the_stock_ones():
    layer = golden.randomised(lambda: BatchNorm(3, rngs=nnx.Rngs(0)))

    def stock(x, scale, bias):
        centred = x - x.mean((0, 1, 2))
        return centred / jnp.sqrt((centred**2).mean((0, 1, 2)) + 1e-5) * scale + bias

    def ours(x, scale, bias):
        return filled(layer, scale=scale, bias=bias)(x)

    compare(ours, stock, (normal('x', 2, 7, 5, 3) + 3, layer.scale[...], layer.bias[...]))


def test_batch_norm_output_and_statistics_types():
    layer = BatchNorm(3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    assert layer(jnp.ones((2, 3, 5, 3), jnp.bfloat16)).dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(layer))} == {jnp.dtype('float32')}


@pytest.mark.parametrize('kernel', [1, 3])
def test_bias_gradient_in_bfloat16_counts_every_pixel(kernel):
    layer = Conv(2, 3, kernel, use_bias=True, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = jnp.ones((2, 64, 33, 2))
    gradient = jax.jit(nnx.grad(lambda layer: layer(x).astype(jnp.float32).sum()))(layer)
    np.testing.assert_allclose(gradient['bias'][...], 2 * 64 * 33, rtol=1e-3)
