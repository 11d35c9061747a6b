import golden
import jax
import numpy as np
from flax import nnx

from kimnet_jax.models import KMM

B, H, W, JOINTS, FEATURES = 2, 7, 5, 3, 11


def inputs():
    features, following = (golden.tensor(name, (B, H, W, FEATURES), 'normal', 0) for name in ('f_t', 'f_t+1'))
    return features, following, golden.tensor('heatmaps', (B, H, W, JOINTS), 'normal', 0)


def test_equations_6_to_10():
    kmm = golden.randomised(lambda: KMM(JOINTS, FEATURES, rngs=nnx.Rngs(0)))
    features, following, heatmaps = inputs()

    def embed(conv, f):  # 1x1 convolution and ReLU, as vectors [h w, J]
        kernel, bias = np.asarray(conv.kernel[...], np.float64)[0, 0], np.asarray(conv.bias[...])
        return np.maximum(f @ kernel + bias, 0).reshape(B, H * W, JOINTS)

    q, k = embed(kmm.conv_q, features), embed(kmm.conv_k, following)
    maps = heatmaps.reshape(B, H * W, JOINTS)
    weights, predicted = np.zeros((B, JOINTS, JOINTS)), np.zeros((B, H * W, JOINTS))
    for b in range(B):
        for j in range(JOINTS):  # joint of frame t+1
            similarity = np.array([np.dot(k[b, :, j], q[b, :, i]) / np.sqrt(H * W) for i in range(JOINTS)])
            weights[b, j] = np.exp(similarity) / np.exp(similarity).sum()
            for i in range(JOINTS):  # joint of frame t
                predicted[b, :, j] += weights[b, j, i] * maps[b, :, i]

    output, correlation = kmm(features, following, heatmaps)
    assert 0.05 < weights.std() < 0.45  # neither uniform nor one-hot: every factor matters
    assert golden.relative_error(correlation, weights) < 1e-5
    assert golden.relative_error(output, predicted.reshape(B, H, W, JOINTS)) < 1e-5
    np.testing.assert_allclose(correlation.sum(-1), 1, rtol=1e-6)


def test_bfloat16_keeps_softmax_and_heatmaps_in_float32():
    exact = golden.randomised(lambda: KMM(JOINTS, FEATURES, rngs=nnx.Rngs(0)))
    fast = golden.randomised(lambda: KMM(JOINTS, FEATURES, dtype=jax.numpy.bfloat16, rngs=nnx.Rngs(0)))
    output, correlation = fast(*inputs())
    assert output.dtype == correlation.dtype == jax.numpy.float32
    np.testing.assert_allclose(correlation.sum(-1), 1, rtol=1e-6)
    assert 1e-6 < golden.relative_error(correlation, exact(*inputs())[1]) < 3e-2
