from typing import get_args

import golden
import jax
import numpy as np
import pytest
import torch
from flax import nnx

from kimnet_jax.interop import torch_models
from kimnet_jax.interop.translation import CONV, Rule, assign, translate
from kimnet_jax.models import KMM
from kimnet_jax.models.kmm import KMMVariant

pytestmark = pytest.mark.quick_compilation

B, H, W, JOINTS, FEATURES = 2, 7, 5, 3, 11


def inputs():
    features, following = (golden.tensor(name, (B, H, W, FEATURES), 'normal', 0) for name in ('f_t', 'f_t+1'))
    return features, following, golden.tensor('heatmaps', (B, H, W, JOINTS), 'normal', 0)


@pytest.mark.parametrize('variant', get_args(KMMVariant))
def test_equations_6_to_10(variant):
    kmm = golden.randomised(lambda: KMM(JOINTS, FEATURES, variant=variant, rngs=nnx.Rngs(0)))
    features, following, heatmaps = inputs()

    def convolve(conv, f):  # 1x1
        return f @ np.asarray(conv.kernel[...], np.float64)[0, 0] + np.asarray(conv.bias[...])

    def embed(conv, f):  # ReLU, as vectors [h w, J]
        return np.maximum(convolve(conv, f), 0).reshape(B, H * W, JOINTS)

    maps = heatmaps.reshape(B, H * W, JOINTS)
    if variant == 'heatmap':
        q, k = embed(kmm.conv_q, heatmaps), embed(kmm.conv_k, convolve(kmm.conv_p, following))
    else:
        q, k = embed(kmm.conv_q, features), embed(kmm.conv_q if variant == 'share_qk' else kmm.conv_k, following)
    scale = 1 if variant == 'no_scale' else np.sqrt(H * W)
    weights, predicted = np.zeros((B, JOINTS, JOINTS)), np.zeros((B, H * W, JOINTS))
    for b in range(B):
        for j in range(JOINTS):  # joint of frame t+1
            similarity = np.array([np.dot(k[b, :, j], q[b, :, i]) / scale for i in range(JOINTS)])
            weights[b, j] = np.exp(similarity) / np.exp(similarity).sum()
            for i in range(JOINTS):  # joint of frame t
                predicted[b, :, j] += weights[b, j, i] * maps[b, :, i]

    if variant == 'residual':
        predicted += maps
    output, correlation = kmm(features, following, heatmaps)
    assert variant == 'no_scale' or 0.05 < weights.std() < 0.45  # neither uniform nor one-hot: every factor matters
    assert golden.relative_error(correlation, weights) < 1e-5
    assert golden.relative_error(output, predicted.reshape(B, H, W, JOINTS)) < 1e-5
    np.testing.assert_allclose(correlation.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize('variant', get_args(KMMVariant))
def test_the_twin_is_the_same(variant):
    twin = torch_models.KMM(JOINTS, FEATURES, variant)
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    kmm = nnx.eval_shape(lambda: KMM(JOINTS, FEATURES, variant=variant, rngs=nnx.Rngs(0)))
    assign(kmm, translate(weights, (Rule(r'(conv_[qkp])', r'\1', CONV),)))
    with torch.no_grad():
        predicted, correlation = twin(*(torch.from_numpy(x).movedim(-1, 1) for x in inputs()))
    output = kmm(*inputs())
    assert golden.relative_error(output[0], predicted.movedim(1, -1)) < 1e-5
    assert golden.relative_error(output[1], correlation) < 1e-5


def test_bfloat16_keeps_softmax_and_heatmaps_in_float32():
    exact = golden.randomised(lambda: KMM(JOINTS, FEATURES, rngs=nnx.Rngs(0)))
    fast = golden.randomised(lambda: KMM(JOINTS, FEATURES, dtype=jax.numpy.bfloat16, rngs=nnx.Rngs(0)))
    output, correlation = fast(*inputs())
    assert output.dtype == correlation.dtype == jax.numpy.float32
    np.testing.assert_allclose(correlation.sum(-1), 1, rtol=1e-6)
    assert 1e-6 < golden.relative_error(correlation, exact(*inputs())[1]) < 3e-2
