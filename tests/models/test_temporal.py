"""Networks of videos against their twins, by temporal module.

Their networks of single images, which are compared elsewhere, are left out on both sides: features stand for the frames, and the
first of their channels for the initial heatmaps.
"""

import golden
import numpy as np
import pytest
import torch
import twins
from flax import nnx

from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.translation import assign, translate
from kimnet_jax.models.dkd_net import DKDNetConfig
from kimnet_jax.models.kimnet import KIMNetConfig
from kimnet_jax.models.rpstn import RPSTNConfig

pytestmark = pytest.mark.quick_compilation

JOINTS, FEATURES = 5, 7
SIZES = (JOINTS, 'resnet18', 'resnet18', 2, FEATURES)
CONFIGS = [
    ('kimnet', KIMNetConfig(*SIZES, temporal='dkd')),
    ('kimnet', KIMNetConfig(*SIZES, temporal='jrpsp')),
    ('kimnet', KIMNetConfig(*SIZES, temporal='none')),
    ('rpstn', RPSTNConfig(*SIZES, temporal='kmm', first_statistics='shared')),
    ('dkd', DKDNetConfig(*SIZES)),
    ('dkd', DKDNetConfig(*SIZES, temporal='kmm')),
]
GIVES = {'dkd': ('kernels', (1, 2, FEATURES)), 'jrpsp': ('kernels', (1, 2, FEATURES)), 'kmm': ('correlation', (JOINTS, JOINTS))}


class Channels(nnx.Module):
    """The first so many."""

    def __init__(self, count):
        self.count = count

    def __call__(self, x):
        return x[..., : self.count]


class TorchChannels(torch.nn.Module):
    """The same in the other layout."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        return x[:, : self.count]


@pytest.mark.parametrize(('name', 'config'), CONFIGS, ids=[f'{name} {config.temporal}' for name, config in CONFIGS])
def test_training_is_that_of_pytorch(name, config):
    network = NETWORKS[name]
    twin = network.make_twin(config)
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    model = nnx.eval_shape(lambda: network.module(config, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, network.rules(config)))
    for side, channels in ((twin.double(), TorchChannels), (model, Channels)):
        side.feature_encoder, side.pose_initializer = channels(FEATURES), channels(JOINTS)
    t = 2 if name == 'kimnet' and config.temporal in ('dkd', 'jrpsp') else 3  # a second step of theirs is that of DKD's network
    frames = golden.tensor('features', (2, t, 16, 20, FEATURES), 'normal', 0)
    expected = twin(torch.from_numpy(np.moveaxis(frames, -1, 2)).double())
    given = {}

    def run(model):
        output = model(frames)
        given.update({key: value.shape for key, value in output.evidence.items()})
        return output.heatmaps, ()

    twins.assert_same_training(twin, expected, model, run, network.rules(config))
    if config.temporal != 'none':
        key, shape = GIVES[config.temporal]
        assert given.pop(key) == (2, t - 1, *shape)
    assert given == ({'predicted': (2, t - 1, 16, 20, JOINTS)} if name == 'kimnet' and config.temporal != 'none' else {})
