import golden
import numpy as np
import pytest
import torch
from flax import nnx

from kimnet_jax.interop import torch_models
from kimnet_jax.interop.keymaps import RELATION_DECODER, RPSTN_JRE
from kimnet_jax.interop.translation import assign, translate
from kimnet_jax.models.relation_decoder import RelationDecoder

pytestmark = pytest.mark.quick_compilation

NAMES = {'released': '', 'released_2021': '_softmax_last'}


def released(variant):
    weights, _ = golden.weights('rpstn_jre')
    shapes = {f'bn_u.{leaf}': (13,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')}
    bn_u = translate(golden.state_dict(shapes, 0), RELATION_DECODER)  # not part of RPSTN's module
    model = RelationDecoder(13, variant=variant, rngs=nnx.Rngs(0))
    assign(model, translate(weights, RPSTN_JRE) | bn_u)
    return model


def rpstn_input(size):
    x = golden.tensor('input', (2, 13, 32, 32), 'input', 0)
    ramp = (0.5 + np.arange(13) / 12)[:, None, None]
    return np.moveaxis(x if size == 'full' else np.float32(0.08 * x * ramp), 1, -1)


@pytest.mark.parametrize('variant', NAMES)
@pytest.mark.parametrize('size', ['full', 'small'])
def test_released_variants_are_rpstn(variant, size):
    model = released(variant)
    model.eval()
    output = model.relate(rpstn_input(size))
    reference = golden.arrays('rpstn_jre')[f'{size}_eval{NAMES[variant]}']
    assert golden.relative_error(output, np.moveaxis(reference, 1, -1)) < 1e-5


@pytest.mark.parametrize('variant', NAMES)
@pytest.mark.parametrize('size', ['full', 'small'])
def test_the_twin_is_rpstn(variant, size):
    weights, _ = golden.weights('rpstn_jre')
    twin = torch_models.JRE(13, variant)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    heatmaps = torch.from_numpy(np.moveaxis(rpstn_input(size), -1, 1).copy())
    reference = golden.arrays('rpstn_jre')
    with torch.no_grad():
        assert golden.relative_error(twin.eval()(heatmaps), reference[f'{size}_eval{NAMES[variant]}']) < 1e-5
        if variant == 'released':
            assert golden.relative_error(twin.train()(heatmaps), reference[f'{size}_train']) < 1e-5
            for leaf in ('mean', 'var'):
                running = twin.state_dict()[f'W.1.running_{leaf}']
                assert golden.relative_error(running, reference[f'{size}_W1_running_{leaf}_after_train']) < 1e-5


@pytest.mark.parametrize('size', ['full', 'small'])
def test_train_mode_is_rpstn(size):
    model = released('released')
    reference = golden.arrays('rpstn_jre')
    output = model.relate(rpstn_input(size))
    assert golden.relative_error(output, np.moveaxis(reference[f'{size}_train'], 1, -1)) < 1e-5
    for leaf, ours in (('mean', model.bn_w.mean), ('var', model.bn_w.var)):
        assert golden.relative_error(ours[...], reference[f'{size}_W1_running_{leaf}_after_train']) < 1e-5


def test_intended_variant_joint_by_joint():
    b, h, w, joints = 2, 7, 5, 3
    model = golden.randomised(lambda: RelationDecoder(joints, rngs=nnx.Rngs(0)))
    model.eval()
    x = golden.tensor('heatmaps', (b, h, w, joints), 'normal', 0) / 4

    def affine(conv, v):
        return v @ np.asarray(conv.kernel[...], np.float64)[0, 0] + np.asarray(conv.bias[...])

    def normalise(bn, v):
        mean, var, scale, bias = (np.asarray(leaf[...], np.float64) for leaf in (bn.mean, bn.var, bn.scale, bn.bias))
        return (v - mean) / np.sqrt(var + 1e-5) * scale + bias

    g, y = affine(model.conv_g, x), np.zeros(x.shape)
    for n in range(b):
        for i in range(joints):
            similarity = np.array([np.sum(x[n, :, :, i] * x[n, :, :, j]) for j in range(joints)])
            share = np.exp(similarity) / np.exp(similarity).sum()
            for j in range(joints):
                y[n, :, :, i] += share[j] * g[n, :, :, j]
    expected = normalise(model.bn_u, x + normalise(model.bn_w, affine(model.conv_w, y)))
    assert golden.relative_error(model(x), expected) < 1e-5


def test_starts_as_the_identity():
    model = RelationDecoder(3, rngs=nnx.Rngs(0))
    x = golden.tensor('heatmaps', (2, 7, 5, 3), 'normal', 0)
    np.testing.assert_array_equal(model.relate(x), x)


def test_unknown_variant():
    with pytest.raises(ValueError, match=r"'published'.*'intended', 'released' or 'released_2021'"):
        RelationDecoder(3, variant='published', rngs=nnx.Rngs(0))
