"""A network and its PyTorch twin on the same random weights and the same batch of images or clips."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.translation import assign, flatten, translate


def released(network, name):
    """(ours, its twin, images, recorded output) of a released checkpoint's keys and shapes, both networks in eval mode."""
    weights, _ = golden.weights(name)
    config = NETWORKS[network].read_config({key: array.shape for key, array in weights.items()})
    model, twin = _pair(network, config, weights)
    model.eval()
    return model, twin.eval(), golden.tensor('input', (1, 3, 128, 128), 'input', 0), golden.arrays(name)['eval_out']


def compare_features(network, config, shape):
    """Eval mode, float32, without jit."""
    model, twin = _pair(network, config)
    model.eval()
    images = golden.tensor('images', shape, 'normal', 0)
    with torch.no_grad():
        expected = twin.eval()(torch.from_numpy(np.moveaxis(images, -1, 1).copy()))
    assert expected.shape[1] == config.features
    assert golden.relative_error(model(images), expected.movedim(1, -1)) < 5e-6


def compare_training(network, config, shape):
    """Outputs, the sum of their losses, gradients per parameter and BatchNorm statistics of one backward pass in train mode.

    Both compute in float64. In float32 either is up to a tenth away from that in some gradients: where a rounding carries a value
    across a ReLU's zero, at the lowest resolutions a value in a dozen of its channel.
    """
    table = NETWORKS[network].rules(config)
    with jax.enable_x64(True):
        model, twin = _pair(network, config, dtype=jnp.float64)
    twin.double().train()
    images = golden.tensor('images', shape, 'normal', 0)
    expected = _outputs(twin, torch.from_numpy(np.moveaxis(images, -1, 1)).double())
    targets = [golden.tensor(f'target{i}', output.movedim(1, -1).shape, 'input', 0) for i, output in enumerate(expected)]
    pairs = zip(expected, targets, strict=True)
    expected_loss = sum(((output.movedim(1, -1) - torch.from_numpy(target)) ** 2).mean() for output, target in pairs)
    expected_loss.backward()

    with jax.enable_x64(True):

        @nnx.jit
        def train(model, images):
            def loss(model):
                outputs = _outputs(model, images)
                return sum(((output - target) ** 2).mean() for output, target in zip(outputs, targets, strict=True)), outputs

            return nnx.value_and_grad(loss, has_aux=True)(model)

        (loss, outputs), gradients = train(model, images)
        assert golden.relative_error(loss, expected_loss.item()) < 1e-7
        for output, reference in zip(outputs, expected, strict=True):
            assert golden.relative_error(output, reference.movedim(1, -1).detach()) < 1e-7

        parameters = {key: parameter.grad for key, parameter in twin.named_parameters()}
        unused = {key.rpartition('.')[0] for key, gradient in parameters.items() if gradient is None}
        used = {key: gradient.numpy() for key, gradient in parameters.items() if gradient is not None}
        reference, gradients = translate(used, table), flatten(gradients)
        assert gradients.keys() == reference.keys()  # every parameter of ours is used
        largest = max(np.linalg.norm(leaf) for leaf in reference.values())
        for path, leaf in reference.items():  # a bias before a BatchNorm: zero but for rounding
            assert np.linalg.norm(gradients[path] - leaf) <= 1e-5 * np.linalg.norm(leaf) + 1e-9 * largest, path
        buffers = {key: value.numpy() for key, value in twin.named_buffers() if key.rpartition('.')[0] not in unused}
        statistics = flatten(nnx.state(model, nnx.BatchStat))
        for path, leaf in translate(buffers, table).items():
            assert golden.relative_error(statistics[path], leaf) < 1e-6, path


def assert_same_training(twin, expected, model, run, table):
    """`run(model)` in train mode gives (the twin's `expected`, ...). Compares also the gradients of the distance to a target, and
    BatchNorm statistics. A twin in float64 is the better reference: a deep network in train mode loses digits in float32.
    """
    expected = expected.movedim(-3, -1)
    target = golden.tensor('target', tuple(expected.shape), 'input', 0)
    ((expected - torch.from_numpy(target)) ** 2).mean().backward()

    @nnx.jit
    def train(model):
        def loss(model):
            heatmaps, *_ = run(model)
            return ((heatmaps - target) ** 2).mean(), heatmaps

        return nnx.grad(loss, has_aux=True)(model)

    gradients, heatmaps = train(model)
    assert golden.relative_error(heatmaps, expected.detach()) < 1e-4
    expected = translate({key: p.grad.numpy() for key, p in twin.named_parameters() if p.grad is not None}, table)
    gradients = flatten(gradients)
    assert gradients.keys() == expected.keys()  # of theta and phi, which nothing uses, neither has one
    largest = max(np.linalg.norm(leaf) for leaf in expected.values())
    for path, leaf in expected.items():  # a bias before a BatchNorm: zero but for rounding
        assert np.linalg.norm(gradients[path] - leaf) <= 1e-3 * np.linalg.norm(leaf) + 1e-6 * largest, path
        assert path.endswith('bias') or np.abs(gradients[path]).max() > 0, f'{path} is not used'
    statistics = flatten(nnx.state(model, nnx.BatchStat))
    for path, leaf in translate({key: value.numpy() for key, value in twin.named_buffers()}, table).items():
        assert golden.relative_error(statistics[path], leaf) < 1e-4, path


def _pair(network, config, weights=None, **options):
    """Our network and its twin, whose keys and shapes give the config back."""
    network = NETWORKS[network]
    twin = network.make_twin(config)
    shapes = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    assert dataclasses.replace(network.read_config(shapes), remat=config.remat) == config
    weights = golden.state_dict(shapes, 0) if weights is None else weights
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    model = nnx.eval_shape(lambda: network.module(config, **options, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, network.rules(config)))
    return model, twin


def _outputs(network, images):
    return network.outputs(images) if hasattr(network, 'outputs') else (network(images),)  # twins of one output have none
