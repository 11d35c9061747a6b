"""KIMNet against its PyTorch twin: same random weights, same batch. The twin computes in float64: in train mode a deep network
loses more digits in either framework's float32 than the two differ by."""

import golden
import numpy as np
import pytest
import torch
from flax import nnx

from kimnet_jax.interop import torch_models
from kimnet_jax.interop.keymaps import kimnet
from kimnet_jax.interop.translation import assign, flatten, translate
from kimnet_jax.models import KIMNet, KIMNetConfig

pytestmark = pytest.mark.quick_compilation

CONFIGS = {
    'basic blocks': KIMNetConfig(5, pose_initializer='resnet18', feature_encoder='resnet18', width=4, features=7),
    'bottlenecks': KIMNetConfig(5, 'none', 'resnet50', width=3, features=6, fusion_norm=False, decoder_variant='released'),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_forward_and_backward(name):
    config = CONFIGS[name]
    table = kimnet(config)
    twin = torch_models.KIMNet(config)
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    twin.double()
    model = nnx.eval_shape(lambda: KIMNet(config, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, table))
    frames = golden.tensor('frames', (2, 3, 64, 96, 3), 'normal', 0)
    target = golden.tensor('target', (2, 3, 16, 24, 5), 'input', 0)
    torch_frames = torch.from_numpy(frames).double().permute(0, 1, 4, 2, 3)

    twin.eval()
    model.eval()
    with torch.no_grad():
        expected = twin(torch_frames)
    heatmaps = nnx.jit(lambda model, frames: model(frames)[0])(model, frames)
    assert golden.relative_error(heatmaps, channels_last(expected)) < 1e-5

    twin.train()
    model.train()
    expected = twin(torch_frames)
    expected_loss = ((expected.permute(0, 1, 3, 4, 2) - torch.from_numpy(target)) ** 2).mean()
    expected_loss.backward()

    @nnx.jit
    def train(model, frames):
        def loss(model):
            heatmaps = model(frames).heatmaps
            return ((heatmaps - target) ** 2).mean(), heatmaps

        return nnx.value_and_grad(loss, has_aux=True)(model)

    (loss, heatmaps), gradients = train(model, frames)
    assert golden.relative_error(heatmaps, channels_last(expected)) < 1e-4
    assert golden.relative_error(loss, expected_loss.item()) < 1e-5

    expected = translate({key: value.grad.numpy() for key, value in twin.named_parameters()}, table)
    gradients = flatten(gradients)
    assert gradients.keys() == expected.keys()
    largest = max(np.linalg.norm(leaf) for leaf in expected.values())
    for path, leaf in expected.items():  # a bias before a BatchNorm: zero but for rounding
        assert np.linalg.norm(gradients[path] - leaf) <= 1e-3 * np.linalg.norm(leaf) + 1e-6 * largest, path

    statistics = flatten(nnx.state(model, nnx.BatchStat))
    for path, leaf in translate({key: value.numpy() for key, value in twin.named_buffers()}, table).items():
        assert golden.relative_error(statistics[path], leaf) < 1e-4, path


def channels_last(heatmaps):
    return np.moveaxis(heatmaps.detach().numpy(), 2, -1)
