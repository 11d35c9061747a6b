"""Every network of the registry under the transforms of JAX and of NNX, in both modes; by shapes alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.models import MODELS, KIMNetConfig, abstract_model, abstract_refiner, model_fields
from kimnet_jax.models.chain import ChainState, run_chain
from kimnet_jax.models.kimnet import Transition

JOINTS = 5


@functools.cache
def network(name):
    """(structure in eval mode, in train mode, its state, an input, those last two without arrays)."""
    fields = model_fields(name, 'tiny')
    if MODELS[name].reads == 'poses':
        model = abstract_refiner(fields, channels=2 * JOINTS)
        inputs = jax.ShapeDtypeStruct((2, model.config.length, 2 * JOINTS), jnp.float32)
    else:
        model = abstract_model(fields, num_joints=JOINTS)
        inputs = jax.ShapeDtypeStruct((1, 2, 64, 64, 3), jnp.float32)
    model.eval()
    evaluated = nnx.graphdef(model)
    model.train()
    return evaluated, *nnx.split(model), inputs


def result(output):
    return output.final if hasattr(output, 'final') else output.heatmaps


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.mark.parametrize(
    'transform',
    [
        lambda call, x: jax.jit(call)(x),
        lambda call, x: jax.vmap(call)(x[None])[0],
        lambda call, x: jax.grad(lambda x: call(x).sum())(x),
    ],
    ids=['jit', 'vmap', 'grad'],
)
def test_in_eval_mode_a_call_changes_nothing(name, transform):
    """JAX's own transforms refuse a closure that changes a variable."""
    graph, _, state, inputs = network(name)

    def outer(state, inputs):
        model = nnx.merge(graph, state)
        return transform(lambda x: result(model(x)), inputs)

    assert jax.eval_shape(outer, state, inputs).shape[0] == inputs.shape[0]


@pytest.mark.parametrize('mode', ['eval', 'train'])
def test_nnx_transforms(name, mode):
    graph, train_graph, state, inputs = network(name)

    def outer(state, inputs):
        model = nnx.merge(train_graph if mode == 'train' else graph, state)
        jitted = nnx.jit(lambda model, x: result(model(x)))(model, inputs)
        gradient = nnx.grad(lambda model, x: (result(model(x)) ** 2).mean())(model, inputs)
        return jitted, gradient, nnx.state(model)

    output, gradient, after = jax.eval_shape(outer, state, inputs)
    by_shape = nnx.eval_shape(lambda model, x: result(model(x)), nnx.merge(graph, state), inputs)
    assert output.shape == by_shape.shape
    assert jax.tree.structure(gradient) == jax.tree.structure(nnx.filter_state(state, nnx.Param))
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_as_a_function_in_train_mode(name):
    """The state goes in and, with the statistics moved, comes out."""
    _, graph, state, inputs = network(name)
    params, rest = nnx.split_state(state, nnx.Param, ...)

    def call(params, rest, x):
        model = nnx.merge(graph, params, rest, copy=True)
        output = result(model(x))
        return (output**2).mean(), nnx.state(model)

    loss, after = jax.eval_shape(jax.jit(call), params, rest, inputs)
    gradient, _ = jax.eval_shape(jax.grad(call, has_aux=True), params, rest, inputs)
    two = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), (params, rest, inputs))
    losses, _ = jax.eval_shape(jax.vmap(call), *two)
    assert (loss.shape, losses.shape) == ((), (2,))
    shapes = [jax.tree.map(lambda leaf: leaf.shape, one) for one in (after, state, gradient, params)]
    assert shapes[0] == shapes[1]
    assert shapes[2] == shapes[3]


def test_statistics_move_where_a_part_is_in_train_mode():
    transition = Transition(KIMNetConfig(JOINTS, features=6), dtype=jnp.float32, rngs=nnx.Rngs(0))
    features = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 4, 4, 6)), jnp.float32)
    first = ChainState(features[:, 0, ..., :JOINTS], transition.queries(features[:, 0]))
    mean = transition.fusion.bn_g.mean
    transition.eval()
    run_chain(transition, first, features, training=False)
    np.testing.assert_array_equal(mean[...], 0)
    transition.fusion.train()
    run_chain(transition, first, features, training=False)
    assert np.abs(np.asarray(mean[...])).max() > 0
