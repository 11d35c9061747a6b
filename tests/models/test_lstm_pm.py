import golden
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from kimnet_jax.interop import torch_models
from kimnet_jax.interop.keymaps import LSTM_PM
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.translation import assign, flatten, translate
from kimnet_jax.models import count_parameters
from kimnet_jax.models.lstm_pm import LSTMPM, LSTMPMConfig, Transition, centre_map

pytestmark = pytest.mark.quick_compilation

RELEASED = {'lstm_pm_c14_t5': (14, 5, 12_126_172), 'lstm_pm_c21_t4': (21, 4, 12_151_834)}
TINY = {variant: LSTMPMConfig(5, width=4, features=3, memory=6, variant=variant) for variant in ('intended', 'released')} | {
    'kmm': LSTMPMConfig(5, width=4, features=3, temporal='kmm')
}


def channels_last(array):
    return np.moveaxis(np.asarray(array), -3, -1)


@nnx.jit
def forward(model, frames, state=None, start=None, centre=None):
    return model(frames, state, start, centre=centre)


@pytest.mark.parametrize('name', RELEASED)
def test_outputs_are_those_of_the_release(name):
    joints, t, parameters = RELEASED[name]
    reference, (weights, _), network = golden.arrays(name)['eval_out'], golden.weights(name), NETWORKS['lstm_pm']
    config = network.read_config({key: value.shape for key, value in weights.items()})
    assert config == LSTMPMConfig(joints, variant='released')
    frames = golden.tensor('input', (2, 3 * t, 128, 128), 'input', 0).reshape(2, t, 3, 128, 128)
    centre = golden.tensor('center_map', (2, 1, 128, 128), 'input', 0)

    twin = torch_models.LSTMPM(config)
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    with torch.no_grad():
        assert golden.relative_error(twin.all_maps(torch.from_numpy(frames), torch.from_numpy(centre)), reference) < 1e-5

    model = nnx.eval_shape(lambda: LSTMPM(config, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, LSTM_PM))
    model.eval()
    assert count_parameters(model) == parameters
    output = forward(model, channels_last(frames), centre=channels_last(centre))
    heatmaps = output.heatmaps
    assert golden.relative_error(output.auxiliary[0][:, 0], channels_last(reference[:, 0])) < 1e-5
    assert golden.relative_error(heatmaps, channels_last(reference[:, 1:])) < 1e-5


def clip(b=2, t=3):
    return golden.tensor('frames', (b, t, 40, 56, 3), 'normal', 0)


@pytest.mark.parametrize('variant', TINY)
def test_forward_and_backward_are_those_of_pytorch(variant):
    config = TINY[variant]
    twin = torch_models.LSTMPM(config)
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    assert NETWORKS['lstm_pm'].read_config({key: value.shape for key, value in weights.items()}) == config
    twin.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    twin.double()
    model = nnx.eval_shape(lambda: LSTMPM(config, rngs=nnx.Rngs(0)))
    assign(model, translate(weights, LSTM_PM))
    frames, target = clip(), golden.tensor('target', (2, 3, 4, 6, 5), 'input', 0)
    expected = twin(torch.from_numpy(np.moveaxis(frames, -1, 2)).double())
    ((expected.permute(0, 1, 3, 4, 2) - torch.from_numpy(target)) ** 2).mean().backward()

    @nnx.jit
    def train(model):
        def loss(model):
            heatmaps = model(frames).heatmaps
            return ((heatmaps - target) ** 2).mean(), heatmaps

        return nnx.grad(loss, has_aux=True)(model)

    gradients, heatmaps = train(model)
    assert golden.relative_error(heatmaps, channels_last(expected.detach())) < 1e-5
    gradients = flatten(gradients)
    expected = translate({key: parameter.grad.numpy() for key, parameter in twin.named_parameters()}, LSTM_PM)
    assert gradients.keys() == expected.keys()
    for path, leaf in expected.items():
        assert np.abs(leaf).max() > 0, f'{path} is not used'
        assert golden.relative_error(gradients[path], leaf) < 1e-3, path


def test_streaming_is_the_scan():
    model, frames = golden.randomised(lambda: LSTMPM(TINY['released'], rngs=nnx.Rngs(0))), clip(t=4)
    model.eval()
    output = forward(model, frames)
    heatmaps = output.heatmaps
    assert (heatmaps.shape, heatmaps.dtype) == ((2, 4, 4, 6, 5), jnp.float32)
    assert np.abs(np.diff(heatmaps, axis=1)).mean() > 1e-3  # the frames do differ
    first, state = nnx.jit(lambda model, frame: model.init_state(frame))(model, frames[:, 0])
    streamed, step = [first], nnx.jit(lambda model, state, frame: model.step(state, frame))
    for t in range(1, frames.shape[1]):
        maps, state = step(model, state, frames[:, t])
        streamed.append(maps)
    assert golden.relative_error(np.stack(streamed, 1), heatmaps) < 1e-5
    for ours, expected in zip(output.state, state, strict=True):
        assert golden.relative_error(ours, expected) < 1e-5


def test_segments_are_the_whole_chains():
    model, frames = golden.randomised(lambda: LSTMPM(TINY['intended'], rngs=nnx.Rngs(0))), clip(t=4)
    model.eval()
    whole = forward(model, frames).heatmaps
    output = forward(model, frames[:, :2])
    head = output.heatmaps
    assert golden.relative_error(head, whole[:, :2]) < 1e-5
    tail = forward(model, frames[:, 2:], output.state, jnp.array([False, True])).heatmaps
    anew = forward(model, frames[:, 2:]).heatmaps
    assert golden.relative_error(tail[0], whole[0, 2:]) < 1e-5
    assert golden.relative_error(tail[1], anew[1]) < 1e-5
    assert golden.relative_error(anew[0], whole[0, 2:]) > 1e-3  # where a chain began does show


def test_centre_map():
    """In the middle unless it is given. At a height of 368 its deviation is 21 pixels: 21 beside the middle, exp(-1/2)."""
    middle = np.asarray(centre_map(368, 201))[..., 0]
    np.testing.assert_allclose(middle[183:185, 100], np.exp(-(0.5**2) / (2 * 21**2)), rtol=1e-6)
    np.testing.assert_allclose(middle[183, 79] / middle[183, 100], np.exp(-0.5), rtol=1e-5)
    model = golden.randomised(lambda: LSTMPM(TINY['intended'], rngs=nnx.Rngs(0)))
    model.eval()
    frames = clip(t=2)
    heatmaps = forward(model, frames).heatmaps
    given = np.broadcast_to(centre_map(40, 56), (2, 40, 56, 1))
    assert golden.relative_error(forward(model, frames, centre=given)[0], heatmaps) < 1e-6
    assert golden.relative_error(forward(model, frames, centre=np.roll(given, 20, 2))[0], heatmaps) > 1e-4


def test_forget_gates_start_open_but_in_the_release():
    """PyTorch's initial bias is within 1 / sqrt(9 * 9) of zero: 5 joints, 3 features and the centre map, 3 x 3 cells."""
    for variant, bias in (('intended', 1.0), ('released', 0.0)):
        lstm = nnx.jit(lambda variant=variant: Transition(TINY[variant], dtype=jnp.float32, rngs=nnx.Rngs(0)).lstm)()
        np.testing.assert_allclose(lstm.conv_x['f'].bias[...], bias, atol=1 / 9)
        np.testing.assert_allclose(lstm.conv_x['i'].bias[...], 0, atol=1 / 9)


def test_bfloat16_keeps_memory_and_heatmaps_in_float32():
    exact, fast = (
        golden.randomised(lambda dtype=dtype: LSTMPM(TINY['intended'], dtype=dtype, rngs=nnx.Rngs(0)))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    exact.eval()
    fast.eval()
    expected = forward(exact, clip(t=2)).heatmaps
    output = forward(fast, clip(t=2))
    heatmaps = output.heatmaps
    assert {leaf.dtype for leaf in (heatmaps, *output.state)} == {jnp.dtype('float32')}
    assert 1e-5 < golden.relative_error(heatmaps, expected) < 0.1


@pytest.mark.parametrize(
    ('fields', 'problem'),
    [
        ({'variant': 'caffe'}, "'caffe': choose one of intended, released"),
        ({'temporal': 'dkd'}, "'dkd': choose one of lstm, kmm"),
    ],
)
def test_unknown_name(fields, problem):
    with pytest.raises(ValueError, match=problem):
        LSTMPM(LSTMPMConfig(3, **fields), rngs=nnx.Rngs(0))
