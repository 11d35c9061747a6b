"""A network of single images as a video model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.models import (
    VIDEO_MODELS,
    KIMNet,
    PerFrame,
    PoseResNet,
    PoseResNetConfig,
    abstract_model,
    build_model,
    network_name,
)
from kimnet_jax.models.layers import Conv
from kimnet_jax.models.weights import flatten

pytestmark = pytest.mark.quick_compilation

B, T, H, W, J = 2, 3, 8, 12, 5


class Patches(nnx.Module):
    """One convolution of stride 4: compiles at once."""

    def __init__(self, config, *, dtype, rngs):
        self.conv = Conv(3, config, 3, stride=4, use_bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, images):
        return self.conv(images)

    def outputs(self, images):
        return (self(images),)


def frames() -> jax.Array:
    return jax.random.normal(jax.random.key(0), (B, T, H, W, 3))


def test_every_frame_goes_through_the_network_by_itself():
    model = PerFrame(Patches, J, rngs=nnx.Rngs(0))
    output = model(frames())
    heatmaps = output.heatmaps
    assert heatmaps.shape == (B, T, H // 4, W // 4, J)
    assert jax.tree.leaves(output) == [heatmaps]
    for b in range(B):
        for t in range(T):
            np.testing.assert_allclose(heatmaps[b, t], model.network(frames()[b, t][None])[0], rtol=1e-5, atol=1e-6)


def test_state_and_start_change_nothing():
    model = PerFrame(Patches, J, rngs=nnx.Rngs(0))
    whole = model(frames()).heatmaps
    first, state = model.init_state(frames()[:, 0])
    second, state = model.step(state, frames()[:, 1])
    rest = model(frames()[:, 2:], state, jnp.array([True, False])).heatmaps
    np.testing.assert_allclose(jnp.concatenate([first[:, None], second[:, None], rest], 1), whole, rtol=1e-5, atol=1e-6)


def test_heatmaps_are_float32_whatever_the_network_computes_in():
    heatmaps = PerFrame(Patches, J, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(frames()).heatmaps
    assert heatmaps.dtype == jnp.float32


def test_pose_resnet_by_name_is_the_network_itself():
    fields = {'depth': 18, 'width': 2, 'features': 3}
    model = abstract_model({'name': 'pose_resnet', **fields}, num_joints=J)
    bare = nnx.eval_shape(lambda: PoseResNet(PoseResNetConfig(num_joints=J, **fields), rngs=nnx.Rngs(0)))
    ours, expected = flatten(nnx.state(model)), flatten(nnx.state(bare))
    assert {path: leaf.shape for path, leaf in ours.items()} == {f'network.{path}': leaf.shape for path, leaf in expected.items()}
    assert network_name(model) == 'PoseResNet'


def test_kimnet_is_what_no_name_means():
    for fields in ({}, {'name': 'kimnet'}):
        model = abstract_model(fields, num_joints=J)
        assert isinstance(model, KIMNet)
        assert network_name(model) == 'KIMNet'


@pytest.mark.parametrize(
    ('fields', 'problem'),
    [
        ({'name': 'resnet'}, f"config.model.name='resnet': choose one of {', '.join(VIDEO_MODELS)}"),
        ({'name': 'pose_resnet', 'depth': 20}, 'config.model.depth=20: choose one of 18, 34, 50, 101, 152'),
        (
            {'name': 'pose_resnet', 'feature_encoder': 'resnet50'},
            "no such field in 'pose_resnet'; known: depth, .* argument model=pose_resnet",
        ),
        ({'name': 'pose_resnet', 'num_joints': 3}, 'config.model.num_joints: no such field'),
        ({'name': 'pose_resnet', 'colour': 3}, "config.model.colour: no such field in 'pose_resnet'; known: [a-z, ]+$"),
        ({'depth': 50}, "config.model.depth: no such field in 'kimnet'"),
        ({'kmm_variant': 'half'}, "config.model.kmm_variant='half': choose one of full, "),
    ],
)
def test_a_field_of_another_network_is_refused(fields, problem):
    with pytest.raises(InputError, match=problem):
        build_model(fields, num_joints=J)
