"""Networks of single images by name, and as parts of networks of videos."""

import functools

import golden
import jax
import numpy as np
import pytest
import torch
import twins
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.torch_models.backbones import Adapted as TorchAdapted
from kimnet_jax.interop.translation import BATCH_NORM, CONV, Rule, assign, translate
from kimnet_jax.models import KIMNetConfig, PoseResNetConfig, abstract_model, build_model
from kimnet_jax.models.backbones import BACKBONES, Adapted, backbone, backbone_config, feature_encoder
from kimnet_jax.models.hourglass import HourglassConfig
from kimnet_jax.models.hrnet import HRNetConfig
from kimnet_jax.models.layers import Conv

pytestmark = pytest.mark.quick_compilation


def test_names():
    assert (
        *('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152'),
        *('hourglass1', 'hourglass2', 'hourglass4', 'hourglass8'),
        *('hrnet_w32', 'hrnet_w48', 'hrnet_tiny'),
    ) == BACKBONES


@pytest.mark.parametrize(
    ('name', 'sizes', 'config'),
    [
        ('resnet101', {'num_joints': 13}, PoseResNetConfig(101, 13)),
        ('resnet18', {'num_joints': None, 'width': 4, 'features': 7, 'remat': True}, PoseResNetConfig(18, None, 4, 7, True)),
        ('hourglass8', {'num_joints': 16}, HourglassConfig(8, 16)),
        ('hourglass2', {'num_joints': None, 'width': 6, 'features': 7}, HourglassConfig(2, features=24)),
        ('hrnet_w48', {'num_joints': 16}, HRNetConfig(48, 16)),
        ('hrnet_w32', {'num_joints': None, 'width': 16, 'remat': True}, HRNetConfig(8, stem=16, remat=True)),
        ('hrnet_tiny', {'num_joints': 5, 'width': 6}, HRNetConfig(3, 5, stem=6, blocks=1, modules=(1, 1, 1))),
    ],
)
def test_width_is_that_of_the_stem(name, sizes, config):
    """64 everywhere in the releases: a quarter of an hourglass's features, twice those of HRNet-W32."""
    assert backbone_config(name, **sizes) == config


def test_unknown_name():
    with pytest.raises(ValueError, match=r"backbone 'vit': choose one of resnet18, .*, hrnet_tiny"):
        backbone_config('vit', num_joints=3)
    with pytest.raises(InputError, match=r"config\.model\.feature_encoder='vit': choose one of resnet18"):
        build_model({'feature_encoder': 'vit'}, num_joints=3)


IMAGES = jax.ShapeDtypeStruct((2, 64, 128, 3), np.float32)


@pytest.mark.parametrize('name', ['resnet18', 'hourglass1', 'hrnet_tiny'])
def test_heatmaps_are_a_quarter_of_the_image(name):
    config = backbone_config(name, num_joints=5, width=4, features=7)
    network = nnx.eval_shape(lambda: backbone(config, rngs=nnx.Rngs(0)))
    assert nnx.eval_shape(lambda network, images: network(images), network, IMAGES).shape == (2, 16, 32, 5)


@pytest.mark.parametrize(
    ('name', 'features', 'adapted'),
    [
        ('resnet18', 7, False),
        ('hourglass1', 7, True),
        ('hourglass1', 16, False),
        ('hrnet_tiny', 7, True),
        ('hrnet_tiny', 2, False),
    ],
)
def test_features_are_as_many_as_asked_for(name, features, adapted):
    config = KIMNetConfig(5, feature_encoder=name, width=4, features=features)
    network = nnx.eval_shape(lambda: feature_encoder(config, rngs=nnx.Rngs(0)))
    assert isinstance(network, Adapted) == adapted
    assert nnx.eval_shape(lambda network, images: network(images), network, IMAGES).shape == (2, 16, 32, features)


def test_training_an_adapter_is_that_of_pytorch():
    table = (Rule(r'(network|conv)', r'\1', CONV), Rule('bn', 'bn', BATCH_NORM))
    twin = TorchAdapted(torch.nn.Conv2d(3, 4, 3, 2, 1), 4, 7)
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    network = functools.partial(Conv, 3, 4, 3, stride=2, use_bias=True)
    model = nnx.eval_shape(lambda: Adapted(network(rngs=nnx.Rngs(0)), 4, 7, dtype=np.float32, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, table))
    images = golden.tensor('images', (2, 17, 13, 3), 'normal', 0)
    expected = twin.double()(torch.from_numpy(np.moveaxis(images, -1, 1)).double())
    twins.assert_same_training(twin, expected, model, lambda model: (model(images), ()), table)


@pytest.mark.parametrize(
    'config',
    [
        KIMNetConfig(5, 'hrnet_tiny', 'hourglass1', width=4, features=7),
        KIMNetConfig(5, 'none', 'hrnet_tiny', width=4, features=2, temporal='dkd', fusion_norm=False),
    ],
    ids=['with an adapter', 'without'],
)
def test_kimnet_of_any_backbones_is_pytorchs(config):
    network = NETWORKS['kimnet']
    twin = network.make_twin(config).eval()
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    model = nnx.eval_shape(lambda: network.module(config, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, network.rules(config)))
    model.eval()
    frames = golden.tensor('frames', (1, 2, 64, 64, 3), 'normal', 0)
    with torch.no_grad():
        expected = twin(torch.from_numpy(np.moveaxis(frames, -1, 2)))
    heatmaps = nnx.jit(lambda model, frames: model(frames)[0])(model, frames)
    assert golden.relative_error(heatmaps, expected.movedim(2, -1)) < 1e-4


def test_no_pose_initializer():
    """Its place is taken by a 1x1 convolution of the features."""
    fields = {'feature_encoder': 'resnet18', 'width': 4, 'features': 7, 'pose_initializer': 'none'}
    assert abstract_model(fields, num_joints=3).pose_initializer.kernel.shape == (1, 1, 7, 3)
    with pytest.raises(InputError, match=r'config\.model\.pose_initializer=None: choose one of resnet18, .*, none'):
        abstract_model(fields | {'pose_initializer': None}, num_joints=3)
    for network in ('dkd', 'rpstn'):
        with pytest.raises(InputError, match=r"config\.model\.pose_initializer='none': choose one of resnet18"):
            abstract_model(fields | {'name': network}, num_joints=3)


def test_a_width_that_leaves_no_channels_is_named():
    with pytest.raises(ValueError, match="backbone 'hrnet_w32' of width 1: choose 2 or more"):
        backbone_config('hrnet_w32', num_joints=None, width=1)
