"""The training step: what moves, by how much, and that it is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import TinyNet, host, one_device, random_batch, train_parts

from kimnet_jax import losses
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import normalise
from kimnet_jax.training import sharding
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer
from kimnet_jax.training.steps import TargetConfig

pytestmark = pytest.mark.quick_compilation


def on_device(tree):
    return jax.tree.map(jnp.asarray, tree)


def equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_step_moves_weights_statistics_and_average():
    step, state = train_parts(average_decay=0.9)
    before, batch = host(state), random_batch(0)
    state, values = step(state, on_device(batch))
    first = host(state)
    assert int(state.step) == 1
    for old, new in zip(before.weights, first.weights, strict=True):  # parameters, BatchNorm statistics
        assert not any(map(np.array_equal, jax.tree.leaves(old), jax.tree.leaves(new)))
    # the average follows: decay (1 + n) / (10 + n) after n updates, at most 0.9
    for old, new, mean in zip(*map(jax.tree.leaves, (before.weights, first.weights, first.average)), strict=True):
        np.testing.assert_allclose(mean, 2 / 11 * old + 9 / 11 * new, rtol=1e-5, atol=1e-7)
    state, _ = step(state, on_device(batch))
    for old, new, mean in zip(*map(jax.tree.leaves, (first.average, state.weights, state.average)), strict=True):
        np.testing.assert_allclose(mean, 3 / 12 * old + 9 / 12 * new, rtol=1e-5, atol=1e-7)

    model = TinyNet()
    model.train()
    heatmaps = model(normalise(batch['frames'], jnp)).heatmaps
    assert values['loss'] == pytest.approx(float(losses.heatmap_loss(heatmaps, batch)), rel=1e-5)
    assert values['parameter_norm'] == pytest.approx(float(optax.tree.norm(first.weights.params)), rel=1e-6)
    assert values['learning_rate'] == pytest.approx(0.01)
    assert all(value.dtype == jnp.float32 and value.shape == () for value in values.values())


class TwoOutputs(TinyNet):
    """Gives heatmaps of the first frame twice."""

    def __call__(self, frames, state=None, start=None):
        output = super().__call__(frames, state, start)
        return output._replace(auxiliary=(2 * output.heatmaps[:, :1],))


def test_auxiliary_heatmaps_are_trained_on_the_frames_that_they_are_of():
    batch = random_batch(0)
    step, state = train_parts(model=TwoOutputs())
    _, values = step(state, on_device(batch))
    model = TwoOutputs()
    model.train()
    output = model(normalise(batch['frames'], jnp))
    heatmaps = output.heatmaps
    first = {key: batch[key][:, :1] for key in ('joints', 'visible', 'mask')}
    parts = [losses.heatmap_loss(heatmaps, batch), losses.heatmap_loss(output.auxiliary[0], first)]
    assert parts[1] > 0
    assert values['loss'] == pytest.approx(float(sum(parts)), rel=1e-5)


def test_average_decay_is_bounded():
    step, state = train_parts(average_decay=0.1)
    old = host(state.average)
    state, _ = step(state, on_device(random_batch(0)))
    for a, b, mean in zip(*map(jax.tree.leaves, (old, state.weights, state.average)), strict=True):
        np.testing.assert_allclose(mean, 0.1 * a + 0.9 * np.asarray(b), rtol=1e-5, atol=1e-7)


def test_no_average():
    step, state = train_parts(average_decay=0.0)
    state, _ = step(state, on_device(random_batch(0)))
    assert state.average is None
    assert state.best_weights is state.weights


def test_same_batch_twice_accumulated_is_one_update():
    batch = on_device(random_batch(0))
    once, state = train_parts()
    expected = host(once(state, batch)[0])
    twice, state = train_parts(accumulate=2)
    start = host(state)
    half, _ = twice(state, batch)
    half = host(half)
    assert equal(half.weights.params, start.weights.params)
    assert equal(half.average, start.average)
    full, _ = twice(on_device(half), batch)
    for a, b in zip(jax.tree.leaves(expected.weights.params), jax.tree.leaves(full.weights.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert int(full.step) == 2


def test_accumulated_update_is_that_of_the_mean_gradient():
    gradients = [{'w': jnp.asarray([1.0, -2.0, 0.5])}, {'w': jnp.asarray([3.0, 1.0, -0.5])}]
    weights = {'w': jnp.zeros(3)}
    config = OptimizerConfig(clip_norm=1.0, accumulate=2)
    accumulating, plain = make_optimizer(config, lambda _: 0.1), make_optimizer(OptimizerConfig(clip_norm=1.0), lambda _: 0.1)
    state = accumulating.init(weights)
    nothing, state = accumulating.update(gradients[0], state, weights)
    update, state = accumulating.update(gradients[1], state, weights)
    expected, plain_state = plain.update({'w': jnp.asarray([2.0, -0.5, 0.0])}, plain.init(weights), weights)
    assert not nothing['w'].any()
    np.testing.assert_allclose(update['w'], expected['w'], rtol=1e-6)
    # clipped to length 1 after the mean: [2, -0.5, 0] / sqrt(4.25), a tenth of which is Adam's first moment
    moments = optax.tree_utils.tree_get(state, 'mu')['w']
    np.testing.assert_allclose(moments, np.array([2.0, -0.5, 0.0]) / 4.25**0.5 / 10, rtol=1e-6)
    np.testing.assert_allclose(optax.tree_utils.tree_get(plain_state, 'mu')['w'], moments, rtol=1e-6)


def test_short_gradients_are_not_clipped():
    adam = make_optimizer(OptimizerConfig(clip_norm=5.0), lambda _: 0.1)
    _, state = adam.update({'w': jnp.asarray([3.0, 4.0])}, adam.init({'w': jnp.zeros(2)}))
    np.testing.assert_allclose(optax.tree_utils.tree_get(state, 'mu')['w'], [0.3, 0.4], rtol=1e-6)


def test_one_compilation_and_no_hidden_transfer():
    mesh = one_device()
    step, state = train_parts()
    state = sharding.put(host(state), mesh)  # as it comes from a checkpoint
    with jax.transfer_guard('disallow'):
        batches = [jax.device_put(random_batch(seed), sharding.split(mesh)) for seed in range(3)]
        for batch in batches:
            state, _ = step(state, batch)
    assert step._cache_size() == 1


def test_weights_that_overflow_show_in_the_metrics_of_their_step():
    step, state = train_parts(learning_rate=1e30)
    _, values = step(state, on_device(random_batch(0)))
    assert np.isfinite(values['loss'])
    assert not np.isfinite(values['parameter_norm'])


def test_pck_counts_visible_unpadded_joints():
    batch = random_batch(0)
    batch['visible'] = np.zeros_like(batch['visible'])
    step, state = train_parts()
    _, values = step(state, on_device(batch))
    assert values['pck'] == 0


def test_one_batch_overfits():
    step, state = train_parts(learning_rate=0.03)
    batch, history = on_device(random_batch(0, rows=2)), []
    for _ in range(60):
        state, values = step(state, batch)
        history.append(float(values['loss']))
    assert history[-1] < 0.1 * history[0]


def test_bfloat16_trains_float32_weights():
    step, state = train_parts(model=TinyNet(jnp.bfloat16))
    batch = on_device(random_batch(0))
    assert 'bf16' in step.lower(state, batch).as_text()
    history = []
    for _ in range(8):
        state, values = step(state, batch)
        history.append(float(values['loss']))
    assert {leaf.dtype for leaf in jax.tree.leaves((state.weights, state.average))} == {jnp.dtype('float32')}
    assert np.isfinite(history).all()
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize(('field', 'value'), [('sigma', 0.0), ('centre', 'corner')])
def test_bad_target(field, value):
    with pytest.raises(InputError, match=f'config.target.{field}'):
        make(TargetConfig, {field: value}, 'target', partial=True)
