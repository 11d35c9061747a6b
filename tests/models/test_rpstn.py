import json

import golden
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import twins
from flax import nnx

from kimnet_jax.interop import keymaps, torch_models
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.translation import assign, flatten, translate
from kimnet_jax.models import count_parameters
from kimnet_jax.models.chain import encode_clip, run_chain
from kimnet_jax.models.layers import BatchNorm, Conv
from kimnet_jax.models.rpstn import RPSTN, RPSTNConfig, Transition

pytestmark = pytest.mark.quick_compilation

JOINTS = {'penn': 13, 'jhmdb': 15}
PARAMETERS = {'penn': 89_488_038, 'jhmdb': 89_489_818}
TINY = {
    'intended': RPSTNConfig(5, 'resnet18', 'resnet18', width=3, features=6),
    'released': RPSTNConfig(
        5,
        'resnet18',
        'resnet18',
        width=3,
        features=6,
        variant='released_penn',
        decoder_variant='released',
        first_statistics='shared',
    ),
}
SLOW = pytest.mark.slow  # 10 to 20 seconds each, of 89 M parameters; the default run has one, and the temporal part alone


def channels_last(heatmaps):
    return np.moveaxis(np.asarray(heatmaps), 2, -1)


def released(name, decoder='released'):
    return RPSTNConfig(JOINTS[name], variant=f'released_{name}', decoder_variant=decoder, first_statistics='shared')


def public(shared_dir, name):
    return np.load(shared_dir / 'golden' / 'public' / f'{name}.npz')


def tensors(weights):
    return {key: torch.from_numpy(value) for key, value in weights.items()}


def begin(transition, initial, features):
    """The state of the first of the frames."""
    return transition.begin(initial, features[:, 0])


class TestCore:
    """The release's temporal part on given features and initial heatmaps."""

    @staticmethod
    def arrays(name):
        initial = golden.tensor('core_heatmap0', (2, JOINTS[name], 64, 64), 'normal', 0)
        return initial, np.stack([golden.tensor(f'core_feature{t}', (2, 256, 64, 64), 'normal', 0) for t in range(5)], 1)

    @staticmethod
    def run(model, name):
        initial, features = TestCore.arrays(name)

        @nnx.jit
        def run(model, initial, features):
            training = not model.jrpsp.relation_decoder.bn_u.use_running_average
            return run_chain(model, begin(model, initial, features), features, training=training)[0]

        return np.moveaxis(run(model, np.moveaxis(initial, 1, -1), channels_last(features)), -1, 2)

    @staticmethod
    def model(name, decoder):
        weights, _ = golden.weights(f'rpstn_core_{name}')
        model = nnx.eval_shape(lambda: Transition(released(name, decoder), dtype=jnp.float32, rngs=nnx.Rngs(0)))
        assign(model.jrpsp, translate(weights, keymaps.JRPSP))
        return model

    @pytest.mark.parametrize(
        ('name', 'decoder'),
        [
            ('penn', 'released'),
            ('jhmdb', 'released'),
            ('jhmdb', 'released_2021'),
            pytest.param('penn', 'released_2021', marks=SLOW),
        ],
    )
    def test_eval_mode(self, name, decoder, shared_dir):
        model = self.model(name, decoder)
        model.eval()
        key, step = {'released': ('eval_out', 2), 'released_2021': ('eval_out_softmax_last', 4)}[decoder]
        reference = public(shared_dir, f'rpstn_core_{name}')[f'{key}_strided']
        assert golden.relative_error(self.run(model, name)[..., ::step, ::step], reference) < 1e-5

    @pytest.mark.parametrize('name', JOINTS)
    def test_train_mode(self, name, shared_dir):
        reference = public(shared_dir, f'rpstn_core_{name}')['train_out_strided']
        assert golden.relative_error(self.run(self.model(name, 'released'), name)[..., ::4, ::4], reference) < 1e-5

    @pytest.mark.parametrize('name', JOINTS)
    def test_twin(self, name, shared_dir):
        """Its outputs, and mean and norm of what each of its modules gives, call by call."""
        initial, features = (torch.from_numpy(array) for array in self.arrays(name))
        reference = public(shared_dir, f'rpstn_core_{name}')
        weights, _ = golden.weights(f'rpstn_core_{name}')
        twin = torch_models.JRPSP(JOINTS[name], 256, f'released_{name}', 'released')
        twin.load_state_dict(tensors(weights))
        twin.eval()
        rows = []
        hooks = [
            child.register_forward_hook(
                lambda *call, key=key: rows.append((key, call[-1].double().mean(), call[-1].double().norm()))
            )
            for key, child in twin.named_children()
        ]
        with torch.no_grad():
            out = twin.chain(initial, features)
        assert golden.relative_error(out[..., ::2, ::2], reference['eval_out_strided']) < 1e-5
        stages = json.loads((shared_dir / 'golden' / 'public' / f'rpstn_core_{name}.json').read_text())['stage_names']
        given = {'pose_net', 'fea_ext'}
        assert [key for key, *_ in rows] == [stage for stage in stages if stage not in given]
        expected = reference['eval_stage_stats'][[stage not in given for stage in stages]]
        for column, values in enumerate(list(zip(*rows, strict=True))[1:]):
            assert golden.relative_error(values, expected[:, column]) < 1e-5

        for hook in hooks:
            hook.remove()
        twin.train()
        with torch.no_grad():
            out = twin.chain(initial, features)
        assert golden.relative_error(out[..., ::4, ::4], reference['train_out_strided']) < 1e-5


class TestReleased:
    """The whole network of the release, with its two ResNets, on one clip of 5 frames of 256 x 256."""

    FRAMES = golden.tensor('input', (1, 5, 3, 256, 256), 'input', 0)

    @staticmethod
    def model(name):
        weights, _ = golden.weights(f'rpstn_{name}')
        network = NETWORKS['rpstn']
        config = network.read_config({key: value.shape for key, value in weights.items()})
        assert config == released(name)
        model = nnx.eval_shape(lambda: RPSTN(config, rngs=nnx.Rngs(0)))
        assign(model, translate(weights, network.rules(config)))
        return model

    @staticmethod
    def twin(name):
        twin = torch_models.RPSTN(released(name))
        weights, _ = golden.weights(f'rpstn_{name}')
        twin.load_state_dict(tensors(weights))
        return twin

    @pytest.mark.parametrize('name', ['penn', pytest.param('jhmdb', marks=SLOW)])
    def test_eval_mode(self, name, shared_dir):
        reference = public(shared_dir, f'rpstn_{name}')['eval_out']
        model = self.model(name)
        model.eval()
        heatmaps = nnx.jit(lambda model, frames: model(frames)[0])(model, channels_last(self.FRAMES))
        assert golden.relative_error(heatmaps, channels_last(reference)) < 1e-4

    @SLOW
    @pytest.mark.parametrize('name', JOINTS)
    def test_train_mode(self, name):
        """On one clip, PyTorch in float32 too is 5e-4 away from the reference, its own run in float64."""
        reference = golden.arrays(f'rpstn_{name}_train')
        model = self.model(name)
        heatmaps = nnx.jit(lambda model, frames: model(frames)[0])(model, channels_last(self.FRAMES))
        assert golden.relative_error(np.moveaxis(heatmaps, -1, 2)[..., ::4, ::4], reference['train_out_strided']) < 1.2e-3
        after = flatten(nnx.state(model, nnx.BatchStat))
        expected = translate(self.after(reference), keymaps.RELEASED_RPSTN)
        assert len(expected) == 10
        for path, value in expected.items():
            assert golden.relative_error(after[path], value) < 1e-4, path

    @SLOW
    @pytest.mark.parametrize('name', JOINTS)
    def test_twin(self, name, shared_dir):
        weights, _ = golden.weights(f'rpstn_{name}')
        twin = torch_models.RPSTN(released(name))
        twin.load_state_dict(tensors(weights))
        frames = torch.from_numpy(self.FRAMES)
        with torch.no_grad():
            out = twin.eval()(frames)
            assert golden.relative_error(out, public(shared_dir, f'rpstn_{name}')['eval_out']) < 1e-5
            out = twin.train().double()(frames.double())
        reference = golden.arrays(f'rpstn_{name}_train')
        assert golden.relative_error(out[..., ::4, ::4], reference['train_out_strided']) < 1e-6
        after = dict(twin.named_buffers())
        for key, value in self.after(reference).items():
            assert golden.relative_error(after[key], value) < 1e-6, key

    @staticmethod
    def after(reference):
        """The recorded statistics after a forward pass in train mode."""
        return {key.removeprefix('after/'): reference[key] for key in reference.files if key.startswith('after/')}

    @pytest.mark.parametrize('name', JOINTS)
    def test_parameter_count(self, name):
        model = nnx.eval_shape(lambda: RPSTN(released(name), rngs=nnx.Rngs(0)))
        idle = 2 * (JOINTS[name] ** 2 + JOINTS[name])  # theta and phi, which the release never uses
        assert count_parameters(model) + idle == PARAMETERS[name]


def clip(b=2, t=4):
    return golden.tensor('frames', (b, t, 96, 128, 3), 'normal', 0)


@nnx.jit
def forward(model, *arguments):
    return model(*arguments)


def twin_and_model(twin, model, table):
    """Both with the recipe's weights; the twin in float64: in train mode a deep network loses more digits in float32 than the two
    differ by.
    """
    weights = golden.state_dict({key: value.shape for key, value in twin.state_dict().items()}, 0)
    twin.load_state_dict(tensors(weights))
    assign(model, translate(weights, table))
    return twin.double(), model, {key: value.shape for key, value in weights.items()}


@pytest.mark.slow  # half a minute to compile three ResNets; their part, `encode_clip`, and the chain are tested alone
def test_training_is_that_of_pytorch():
    config, network = TINY['released'], NETWORKS['rpstn']
    model = nnx.eval_shape(lambda: RPSTN(config, rngs=nnx.Rngs(0)))
    twin, model, shapes = twin_and_model(torch_models.RPSTN(config), model, keymaps.RELEASED_RPSTN)
    assert network.read_config(shapes) == config
    frames = clip(t=2)
    expected = twin(torch.from_numpy(np.moveaxis(frames, -1, 2)).double())
    twins.assert_same_training(twin, expected, model, lambda model: model(frames), keymaps.RELEASED_RPSTN)


def test_intended_network_is_that_of_pytorch():
    config, network = TINY['intended'], NETWORKS['rpstn']
    model = nnx.eval_shape(lambda: RPSTN(config, rngs=nnx.Rngs(0)))
    twin, model, shapes = twin_and_model(torch_models.RPSTN(config), model, keymaps.RELEASED_RPSTN)
    assert network.read_config(shapes) == config
    twin.eval()
    model.eval()
    frames = clip()
    with torch.no_grad():
        expected = twin(torch.from_numpy(np.moveaxis(frames, -1, 2)).double())
    assert golden.relative_error(forward(model, frames)[0], channels_last(expected)) < 1e-5


@pytest.mark.parametrize('variant', TINY)
def test_training_the_chain_is_that_of_pytorch(variant):
    config = TINY[variant]
    features, initial = given()
    features = features[:, :3]  # to compile less
    transition = nnx.eval_shape(lambda: Transition(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    twin = torch_models.JRPSP(config.num_joints, config.features, config.variant, config.decoder_variant, config.first_statistics)
    table = tuple(rule._replace(path=f'jrpsp.{rule.path}') for rule in keymaps.JRPSP)
    twin, transition, _ = twin_and_model(twin, transition, table)
    inputs = (torch.from_numpy(np.moveaxis(initial, -1, 1)).double(), torch.from_numpy(np.moveaxis(features, -1, 2)).double())

    def run(transition):
        return run_chain(transition, begin(transition, initial, features), features, training=True)

    twins.assert_same_training(twin, twin.chain(*inputs), transition, run, table)


def given():
    """Features of 4 frames and initial heatmaps."""
    return golden.tensor('features', (2, 4, 20, 26, 6), 'normal', 0), golden.tensor('initial', (2, 20, 26, 5), 'input', 0)


def test_encoding_frame_by_frame_is_a_loop():
    def encoder():
        return nnx.Sequential(Conv(3, 4, 3, rngs=nnx.Rngs(0)), BatchNorm(4, rngs=nnx.Rngs(0)), nnx.relu)

    frames, weight = clip(t=3), golden.tensor('weight', (2, 3, 96, 128, 4), 'normal', 0)

    def loop(encoder, frames):
        return jnp.stack([encoder(frames[:, t]) for t in range(3)], 1)

    def scan(encoder, frames):
        return encode_clip(encoder, frames, frame_by_frame=True)

    models, results = [golden.randomised(encoder) for _ in range(2)], []
    for model, encode in zip(models, (loop, scan), strict=True):
        gradients = nnx.jit(nnx.grad(lambda model, encode=encode: (encode(model, frames) * weight).sum()))(model)
        results.append(flatten(gradients) | flatten(nnx.state(model, nnx.BatchStat)))
    expected, ours = results
    assert ours.keys() == expected.keys()
    for path, leaf in expected.items():
        assert golden.relative_error(ours[path], leaf) < 1e-4, path
    together = golden.relative_error(encode_clip(models[0], frames), scan(models[1], frames))
    assert together > 1e-4  # the statistics of a frame are not those of all


def test_streaming_is_the_scan():
    model, frames = golden.randomised(lambda: RPSTN(TINY['intended'], rngs=nnx.Rngs(0))), clip()
    model.eval()
    output = forward(model, frames)
    heatmaps = output.heatmaps
    assert (heatmaps.shape, heatmaps.dtype) == ((2, 4, 24, 32, 5), jnp.float32)
    assert output.evidence['kernels'].shape == (2, 3, 2, 3, 6)
    assert np.abs(np.diff(heatmaps, axis=1)).mean() > 1e-2  # the frames do differ
    first, state = nnx.jit(lambda model, frame: model.init_state(frame))(model, frames[:, 0])
    streamed, step = [first], nnx.jit(lambda model, state, frame: model.step(state, frame))
    for t in range(1, frames.shape[1]):
        maps, state = step(model, state, frames[:, t])
        streamed.append(maps)
    assert golden.relative_error(np.stack(streamed, 1), heatmaps) < 1e-5
    assert golden.relative_error(output.state.queries, state.queries) < 1e-5


@nnx.jit
def chain(transition, initial, features, *state_and_start):
    first = begin(transition, initial, features)
    return run_chain(transition, first, features, *state_and_start, training=False)


@nnx.jit
def loop(transition, initial, features):
    """The chain as plainly as the release writes it."""
    jrpsp = transition.jrpsp
    carried, heatmaps = features[:, 0], [jrpsp.relation_decoder(initial, first=True)]
    for t in range(1, features.shape[1]):
        heatmaps.append(jrpsp(carried, features[:, t], heatmaps[-1])[0])
        carried = features[:, t] if jrpsp.variant == 'intended' else jrpsp.dkd.bn[0](jrpsp.dkd.conv_v(features[:, t]))
    return jnp.stack(heatmaps, 1)


@pytest.mark.parametrize('variant', TINY)
def test_chain_is_a_loop_and_goes_on_where_it_ended(variant):
    transition = golden.randomised(lambda: Transition(TINY[variant], dtype=jnp.float32, rngs=nnx.Rngs(0)))
    transition.eval()
    features, initial = given()
    whole = chain(transition, initial, features).heatmaps
    assert golden.relative_error(loop(transition, initial, features), whole) < 1e-5
    output = chain(transition, initial, features[:, :2])
    head = output.heatmaps
    assert golden.relative_error(head, whole[:, :2]) < 1e-5
    start = jnp.array([False, True])
    tail = chain(transition, initial, features[:, 2:], output.state, start).heatmaps
    anew = chain(transition, initial, features[:, 2:]).heatmaps
    assert golden.relative_error(tail[0], whole[0, 2:]) < 1e-5
    assert golden.relative_error(tail[1], anew[1]) < 1e-5
    assert golden.relative_error(anew[0], whole[0, 2:]) > 1e-3  # where a chain began does show
