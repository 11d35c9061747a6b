import dataclasses
import json

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.sequence import sampled_frames
from kimnet_jax.interop import keymaps, torch_models
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.translation import assign, flatten, translate
from kimnet_jax.losses import hanet_loss
from kimnet_jax.models import count_parameters
from kimnet_jax.models.hanet import PRESETS, HANet, HANetConfig

pytestmark = pytest.mark.quick_compilation

GOLDENS = {  # config, weight of the final pose's error
    'hanet_small_2d_postnorm': (HANetConfig(dropout=0.0), 5.0),
    'hanet_small_3d_prenorm': (HANetConfig(42, interval=10, window=3, pre_norm=True, dropout=0.0), 1.0),
    'hanet_jhmdb_2d': (dataclasses.replace(PRESETS['jhmdb_2d'], dropout=0.0), 5.0),
}
SMALL = list(GOLDENS)[:2]
VARIANTS = {'released': 'released', 'boolmask': 'masked'}
TINY = HANetConfig(6, interval=3, window=2, width=8, levels=1, heads=2, dropout=0.0)  # windows of 7 frames


def model_of(config, weights):
    model = nnx.eval_shape(lambda: HANet(config, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, keymaps.hanet(config.levels)))
    return model


def tiny_weights(config):
    with torch.device('meta'):
        twin = torch_models.HANet(config)
    return golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)


def tiny_model(**changes):
    config = dataclasses.replace(TINY, **changes)
    model = model_of(config, tiny_weights(config))
    model.eval()
    return model


call = nnx.jit(lambda model, poses, mask=None: model(poses, mask))


def inputs_of(config):
    shape = (4, config.length, config.channels)
    return golden.tensor('input', shape, 'input', 0), golden.tensor('gt', shape, 'input', 0)


def check_losses_and_gradients(name, variant, loss, parts, gradients, parameters, gradient_tolerance=1e-3):
    reference = golden.arrays(name)
    assert golden.relative_error([parts['l1'], loss], reference[f'{variant}_loss']) < 1e-6
    assert golden.relative_error(parts['channels'], reference[f'{variant}_loss_per_channel']) < 1e-5
    norms, sums = reference[f'{variant}_grad_l2'], reference[f'{variant}_grad_sum']
    for key, norm, total in zip(parameters, norms, sums, strict=True):
        if key not in gradients:
            assert norm == 0, key  # the release's dead parameters
            continue
        gradient = np.asarray(gradients.pop(key), np.float64)
        assert abs(np.linalg.norm(gradient) - norm) <= gradient_tolerance * norm, key
        assert abs(gradient.sum() - total) <= gradient_tolerance * norm * gradient.size**0.5, key  # sums cancel
    assert not gradients


def run_golden(name, variant):
    config, final_weight = GOLDENS[name]
    config = dataclasses.replace(config, memory_mask=VARIANTS[variant])
    weights, parameters = golden.weights(name)
    model = model_of(config, weights)
    paths = {key: path for key in parameters for path in translate({key: weights[key]}, keymaps.hanet(config.levels))}
    del weights
    poses, truth = inputs_of(config)
    batch = {'poses': truth, 'mask': np.ones(poses.shape[:2], bool)}

    @nnx.jit
    def step(model):
        def loss(model):
            final, refined = model(poses)
            value, parts = hanet_loss(
                final, refined, batch, interval=config.interval, final_weight=final_weight, mutual='released'
            )
            return value, (final, refined, parts)

        return nnx.value_and_grad(loss, has_aux=True)(model)

    (loss, (final, refined, parts)), gradients = step(model)
    reference = golden.arrays(name)
    assert golden.relative_error(final, reference[f'{variant}_final']) < 1e-5
    assert golden.relative_error(refined, reference[f'{variant}_refined']) < 1e-5
    gradients = flatten(gradients)
    check_losses_and_gradients(name, variant, loss, parts, {key: gradients[path] for key, path in paths.items()}, parameters)


def run_twin(name, variant):
    config, final_weight = GOLDENS[name]
    twin = torch_models.HANet(dataclasses.replace(config, memory_mask=VARIANTS[variant]))
    weights, parameters = golden.weights(name)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    poses, truth = (torch.from_numpy(array) for array in inputs_of(config))
    final, refined = twin(poses)
    reference = golden.arrays(name)
    assert golden.relative_error(final.detach(), reference[f'{variant}_final']) < 1e-5
    assert golden.relative_error(refined.detach(), reference[f'{variant}_refined']) < 1e-5

    every = slice(None, None, config.interval)
    errors = [final - truth, (refined - truth)[:, every], (final - refined)[:, every]]
    final_error, refined_error, mutual = (error.abs().sum((0, 1)) / final.numel() for error in errors)
    channels = final_weight * final_error + refined_error + mutual
    loss = channels.sum() + channels.topk(2 * (config.channels // 4)).values.mean()
    loss.backward()
    parts = {'l1': channels.sum().item(), 'channels': channels.detach()}
    gradients = {key: value.grad for key, value in twin.named_parameters() if value.grad is not None}
    check_losses_and_gradients(name, variant, loss.item(), parts, gradients, parameters)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('name', SMALL)
def test_outputs_losses_and_gradients_are_the_reference(name, variant):
    run_golden(name, variant)


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('name', SMALL)
def test_the_twin_is_the_reference(name, variant):
    run_twin(name, variant)


@pytest.mark.slow  # draws 320 M weights: 1.3 GB of them, and as much again for the gradients
@pytest.mark.parametrize('run', [run_golden, run_twin])
@pytest.mark.parametrize('variant', VARIANTS)
def test_the_released_configuration_is_the_reference(variant, run):
    run('hanet_jhmdb_2d', variant)


@pytest.mark.parametrize('name', GOLDENS)
def test_the_twin_has_the_keys_of_the_release(name):
    config, _ = GOLDENS[name]
    with torch.device('meta'):
        twin = torch_models.HANet(config)
    shapes = {key: tuple(value.shape) for key, value in twin.state_dict().items()}
    listing = json.loads((golden.FOLDER / 'state_dicts' / f'{name}.json').read_text())
    assert shapes == {entry['key']: tuple(entry['shape']) for entry in listing['entries']}
    fields = {'interval': config.interval, 'window': config.window, 'dropout': 0.0}
    assert dataclasses.replace(NETWORKS['hanet'].read_config(shapes), **fields) == config


@pytest.mark.parametrize(
    ('preset', 'trained', 'released'),
    [
        ('default', 1_340_016, 1_471_600),
        ('jhmdb_2d', 286_899_952, 320_462_576),
        ('h36m_3d', 17_996_440, 20_099_608),  # 20.10 M
        ('pw3d', 71_808_080, 80_208_720),  # 80.21 M
        ('aist_smpl', 4_561_856, 5_087_168),
    ],
)
def test_parameter_counts(preset, trained, released):
    config = PRESETS.get(preset, HANetConfig())
    assert count_parameters(nnx.eval_shape(lambda: HANet(config, rngs=nnx.Rngs(0)))) == trained
    with torch.device('meta'):
        assert sum(value.numel() for value in torch_models.HANet(config).parameters()) == released


@pytest.mark.parametrize('activation', ['relu', 'gelu'])
def test_other_activations_are_pytorchs(activation):
    config = dataclasses.replace(TINY, activation=activation)
    twin = torch_models.HANet(config)
    weights = tiny_weights(config)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    poses = golden.tensor('poses', (2, 7, 6), 'input', 0)
    with torch.no_grad():
        expected, _ = twin(torch.from_numpy(poses))
    assert golden.relative_error(call(model_of(config, weights), poses).final, expected) < 1e-5


def test_padding_is_not_read():
    """Whatever stands behind the end of a clip, and whatever other clips are in the batch."""
    model = tiny_model()
    poses = golden.tensor('poses', (3, 7, 6), 'input', 0)
    mask = np.arange(7) < np.array([[7], [5], [1]])
    first = call(model, np.where(mask[..., None], poses, np.nan), mask)
    second = call(model, np.where(mask[..., None], poses, 1e3)[::-1], mask[::-1])
    for one, two in zip(first, second, strict=True):
        np.testing.assert_allclose(one[mask], two[::-1][mask], atol=1e-6)
        assert np.isfinite(one).all()


def test_no_gradient_comes_from_padding():
    model = tiny_model(memory_mask='released')
    poses = golden.tensor('poses', (1, 7, 6), 'input', 0)
    mask = np.arange(7)[None] < 5

    def loss(poses):
        final, refined = model(poses, mask)
        return hanet_loss(final, refined, {'poses': poses + 1, 'mask': mask}, interval=3)[0]

    gradient = jax.jit(jax.grad(loss))(jnp.asarray(poses))
    assert np.isfinite(gradient).all()
    assert (gradient[:, 5:] == 0).all()
    assert (np.abs(gradient[:, :5]).sum((0, 2)) > 0).all()


def test_which_frames_are_read():
    """A sampled frame and its two neighbours, no others: with an interval of 5 the frames 2 and 3."""
    model = tiny_model(interval=5, window=1)
    poses = jnp.asarray(golden.tensor('poses', (1, 6, 6), 'input', 0))
    jacobian = jax.jit(jax.jacrev(lambda poses: model(poses).final.sum()))(poses)
    read = np.abs(jacobian[0]).sum(-1) > 0
    assert read.tolist() == [True, True, False, False, True, True]


def test_a_frame_does_not_attend_to_itself():
    """In the encoder; so the refined offset of frame 0 of two sampled frames depends on frame 0 by its own residual path only."""
    model = tiny_model(interval=6, window=1)
    layer = model.encoder[0]
    x = jnp.asarray(golden.tensor('x', (1, 7, 8), 'normal', 0))
    sampled = sampled_frames(np.ones((1, 7), bool), 6)
    allowed = sampled[:, None, :] & ~np.eye(7, dtype=bool)
    jacobian = jax.jit(jax.jacrev(lambda values: layer.self_attn(x, x, values, allowed)[0]))(x)[:, :, 0]  # [query, D, value, D]
    reached = np.abs(jacobian).sum((1, 3)) > 1e-7
    expected = np.zeros((7, 7), bool)
    expected[:, [0, 6]] = True
    expected[0, 0] = expected[6, 6] = False
    assert (reached == expected).all()


def test_dropout_is_drawn_anew_and_off_in_evaluation():
    model = tiny_model(dropout=0.5)
    poses = golden.tensor('poses', (2, 7, 6), 'input', 0)
    exact = call(model, poses).final
    np.testing.assert_array_equal(exact, call(model, poses).final)
    model.train()
    train = nnx.jit(lambda model, key: model(poses, rngs=nnx.Rngs(key)).final)
    first, again, other = (train(model, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, exact)


def test_half_precision_keeps_poses_in_float32():
    model = nnx.eval_shape(lambda: HANet(TINY, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    assign(model, translate(tiny_weights(TINY), keymaps.hanet(TINY.levels)))
    poses = golden.tensor('poses', (2, 7, 6), 'input', 0)
    for value, exact in zip(call(model, poses), call(tiny_model(), poses), strict=True):
        assert value.dtype == jnp.float32
        assert golden.relative_error(value, exact) < 2e-2


def test_initial_weights_are_pytorchs():
    config = dataclasses.replace(TINY, width=32)
    model = nnx.jit(lambda: HANet(config, rngs=nnx.Rngs(0)))()
    ours = {path: np.asarray(value) for path, value in flatten(nnx.state(model, nnx.Param)).items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        twin = torch_models.HANet(config)
    for key, value in twin.state_dict().items():
        for path, theirs in translate({key: value.numpy()}, keymaps.hanet(config.levels)).items():
            if ours[path].ndim == 1 and ours[path].std() == 0:  # norms, biases of attention
                np.testing.assert_array_equal(ours[path], theirs, path)
            elif ours[path].size >= 100:
                np.testing.assert_allclose(ours[path].std(), theirs.std(), rtol=0.2, err_msg=path)
                np.testing.assert_allclose(abs(ours[path]).max(), abs(theirs).max(), rtol=0.1, err_msg=path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'activation': 'tanh'}, "activation 'tanh': choose one of leaky_relu, relu, gelu"),
        ({'memory_mask': 'none'}, "memory_mask 'none': choose one of masked, released"),
        ({'width': 9}, 'width 9: must be even and a multiple of heads 2'),
        ({'window': 0}, 'config.model.window=0: must be 1 to 1000'),
    ],
)
def test_a_bad_config_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        HANet(dataclasses.replace(TINY, **changes), rngs=nnx.Rngs(0))


def test_windows_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r'\(1, 8, 6\), expected \[B, 7 frames, 6 coordinates\]'):
        tiny_model()(np.zeros((1, 8, 6)))


def test_weights_of_another_number_of_levels_do_not_fit():
    weights, _ = golden.weights(SMALL[0])
    config = dataclasses.replace(GOLDENS[SMALL[0]][0], levels=2)
    with pytest.raises(InputError, match=r'encoder\.2\..*: not in the model'):
        model_of(config, weights)
