import functools

import golden
import numpy as np
import pytest
import torch
from torch.nn import functional

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import MEAN, STD
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.pixels import RELEASED, Pixels, fold_pixels

OURS = Pixels((0, 1, 2), MEAN, STD)
# a convolution of images for each way of folding: with BatchNorm after it, and with a bias
CASES = [
    ('pose_resnet', 'conv1', 'bn1', 2),
    ('rpstn', 'pose_net.conv1', 'pose_net.bn1', 2),
    ('rpstn', 'fea_ext.0', 'fea_ext.1', 2),
    ('hourglass', 'conv1', 'bn1', 2),
    ('lstm_pm', 'conv1_convnet2', '', 1),
]


@functools.cache
def state_dict(name):
    twin = NETWORKS[name].make_twin(NETWORKS[name].presets['tiny'])
    return golden.state_dict({key: tensor.shape for key, tensor in twin.state_dict().items()}, 0)


def seen(image, pixels):
    """What a network is given of an image [3, H, W] of R, G, B in [0, 1]."""
    return (image[list(pixels.order)] - np.array(pixels.mean)[:, None, None]) / np.array(pixels.std)[:, None, None]


def stem(entries, conv, norm, stride, x):
    weights = {
        key: torch.from_numpy(array).double() for key, array in entries.items() if key.startswith((f'{conv}.', f'{norm}.'))
    }
    y = functional.conv2d(torch.from_numpy(x)[None], weights[f'{conv}.weight'], weights.get(f'{conv}.bias'), stride)
    if norm:
        leaves = (weights[f'{norm}.{leaf}'] for leaf in ('running_mean', 'running_var', 'weight', 'bias'))
        y = functional.batch_norm(y, *leaves)
    return y.numpy()


@pytest.mark.parametrize('release', RELEASED)
@pytest.mark.parametrize(('network', 'conv', 'norm', 'stride'), CASES)
def test_the_first_layer_sees_the_same(network, conv, norm, stride, release):
    entries, pixels = state_dict(network), RELEASED[release]
    folded = fold_pixels(entries, network, pixels)
    pad = entries[f'{conv}.weight'].shape[-1] // 2
    image = golden.tensor('image', (3, 20, 26), 'input', 0).astype(np.float64)
    around = [(0, 0), (pad, pad), (pad, pad)]

    released = stem(entries, conv, norm, stride, np.pad(seen(image, pixels), around))
    colours = np.empty(3)
    colours[list(pixels.order)] = pixels.mean  # of R, G, B: what the release sees as zeros
    continued = np.stack([np.pad(channel, pad, constant_values=colour) for channel, colour in zip(image, colours, strict=True)])
    assert golden.relative_error(stem(folded, conv, norm, stride, seen(continued, OURS)), released) < 1e-6  # everywhere

    ours = stem(folded, conv, norm, stride, np.pad(seen(image, OURS), around))
    edge = -(-pad // stride)
    inside = np.s_[..., edge:-edge, edge:-edge]
    assert golden.relative_error(ours[inside], released[inside]) < 1e-6
    assert golden.relative_error(ours, released) > 1e-3  # the border, where zeros are another colour


def test_nothing_else_changes():
    entries = state_dict('rpstn')
    folded = fold_pixels(entries, 'rpstn', RELEASED['rpstn'])
    changed = {key for key in entries if not np.array_equal(folded[key], entries[key])}
    stems = (('pose_net.conv1', 'pose_net.bn1'), ('fea_ext.0', 'fea_ext.1'))
    assert changed == {name for conv, norm in stems for name in (f'{conv}.weight', f'{norm}.running_mean')}
    assert folded.keys() == entries.keys()
    assert all(folded[key].dtype == entries[key].dtype for key in entries)


def test_half_a_first_layer():
    entries = {'conv1.weight': state_dict('pose_resnet')['conv1.weight']}
    with pytest.raises(InputError, match=r'conv1\.weight without bn1\.running_mean'):
        fold_pixels(entries, 'pose_resnet', RELEASED['unit'])


def test_heatmaps_of_simplebaseline():
    """The border is all that differs: about one per cent of the heatmaps of a small image of noise."""
    entries = state_dict('pose_resnet')
    twin = NETWORKS['pose_resnet'].make_twin(NETWORKS['pose_resnet'].presets['tiny']).eval()
    image = golden.tensor('image', (3, 128, 128), 'input', 0)

    def heatmaps(weights, pixels):
        twin.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()})
        with torch.no_grad():
            return twin(torch.from_numpy(seen(image, pixels).astype(np.float32))[None]).numpy()

    released = heatmaps(entries, RELEASED['simplebaseline'])
    folded = fold_pixels(entries, 'pose_resnet', RELEASED['simplebaseline'])
    assert golden.relative_error(heatmaps(folded, OURS), released) < 0.02
    permuted = entries | {'conv1.weight': entries['conv1.weight'][:, ::-1].copy()}  # alone it mends little
    assert golden.relative_error(heatmaps(permuted, OURS), released) > 0.05
