import collections

import golden
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop.translation import flatten
from kimnet_jax.models import KIMNet, KIMNetConfig, build_model, count_parameters

pytestmark = pytest.mark.quick_compilation

TINY = {'pose_initializer': 'resnet18', 'feature_encoder': 'resnet18', 'width': 3, 'features': 5}
JOINTS = 7


def tiny(dtype=jnp.float32, **fields):
    return golden.randomised(lambda: KIMNet(KIMNetConfig(JOINTS, **TINY | fields), dtype=dtype, rngs=nnx.Rngs(0)))


def clip(b=2, t=4):
    return golden.tensor('frames', (b, t, 64, 96, 3), 'normal', 0)


@nnx.jit
def forward(model, frames):
    return model(frames)


def traced_gradients(model, frames):
    """Of the mean square of the heatmaps; with the heatmaps."""

    def loss(model):
        heatmaps = model(frames).heatmaps
        return (heatmaps**2).mean(), heatmaps

    (_, heatmaps), gradient = nnx.value_and_grad(loss, has_aux=True)(model)
    return heatmaps, gradient


gradients = nnx.jit(traced_gradients)


def statistics(model):
    return {path: np.asarray(leaf[...]) for path, leaf in flatten(nnx.state(model, nnx.BatchStat)).items()}


def assert_same(leaves, reference, tolerance):
    """Every leaf; those that are zero but for rounding (biases before a BatchNorm) against the largest."""
    assert leaves.keys() == reference.keys()
    largest = max(np.linalg.norm(leaf) for leaf in reference.values())
    for path, leaf in reference.items():
        assert np.linalg.norm(np.asarray(leaves[path]) - leaf) <= tolerance * np.linalg.norm(leaf) + 1e-6 * largest, path


def test_shapes():
    output = nnx.eval_shape(lambda model, frames: model(frames), tiny(), clip())
    heatmaps = output.heatmaps
    assert (heatmaps.shape, heatmaps.dtype) == ((2, 4, 16, 24, JOINTS), jnp.float32)
    assert output.evidence['predicted'].shape == (2, 3, 16, 24, JOINTS)
    assert output.evidence['correlation'].shape == (2, 3, JOINTS, JOINTS)
    assert output.state.queries.shape == (2, 16, 24, JOINTS)


def test_scan_is_streaming_is_a_loop_over_the_transition():
    model, frames = tiny(), clip()
    model.eval()
    before = statistics(model)
    output = forward(model, frames)
    heatmaps = output.heatmaps
    assert np.abs(np.diff(heatmaps, axis=1)).mean() > 1e-2  # the frames do differ

    streamed, state = nnx.jit(lambda model, frame: model.init_state(frame))(model, frames[:, 0])
    streamed = [streamed]
    step = nnx.jit(lambda model, state, frame: model.step(state, frame))
    for t in range(1, frames.shape[1]):
        maps, state = step(model, state, frames[:, t])
        streamed.append(maps)
    assert golden.relative_error(np.stack(streamed, 1), heatmaps) < 1e-5
    assert golden.relative_error(output.state.heatmaps, heatmaps[:, -1]) < 1e-6
    assert golden.relative_error(output.state.queries, state.queries) < 1e-5

    looped, records = nnx.jit(loop)(model, frames)
    assert golden.relative_error(looped, heatmaps) < 1e-5
    for key in ('predicted', 'correlation'):
        assert golden.relative_error(records[key], output.evidence[key]) < 1e-5
    for path, leaf in statistics(model).items():
        np.testing.assert_array_equal(leaf, before[path])


def loop(model, frames):
    """KIMNet's forward pass as plainly as the paper draws it."""
    b, t = frames.shape[:2]
    features = model.feature_encoder(frames.reshape(b * t, *frames.shape[2:]))
    features = features.reshape(b, t, *features.shape[1:])
    decoder, records = model.transition.relation_decoder, collections.defaultdict(list)
    heatmaps = [decoder(model.pose_initializer(frames[:, 0]), first=True)]
    for i in range(1, t):
        predicted, correlation = model.transition.temporal(features[:, i - 1], features[:, i], heatmaps[-1])
        fusion = model.transition.fusion
        coarse = fusion.bn_g(fusion.conv_g(jnp.concatenate([predicted, features[:, i]], -1)))
        heatmaps.append(decoder(fusion.conv_d(nnx.relu(coarse))))
        records['predicted'].append(predicted)
        records['correlation'].append(correlation)
    return jnp.stack(heatmaps, 1), {key: jnp.stack(values, 1) for key, values in records.items()}


def test_scan_is_the_loop_in_train_mode():
    model, reference = tiny(), tiny()
    before = statistics(model)
    heatmaps = forward(model, clip()).heatmaps
    expected, _ = nnx.jit(loop)(reference, clip())
    assert golden.relative_error(heatmaps, expected) < 1e-4
    after = statistics(model)
    assert_same(after, statistics(reference), 1e-5)
    for path, leaf in after.items():
        assert np.abs(leaf - before[path]).min() > 0, f'{path} did not move'


def test_segments_are_the_whole_chains():
    model, frames = tiny(), clip(t=5)
    model.eval()
    whole = forward(model, frames).heatmaps
    anew = forward(model, frames[1:, 3:]).heatmaps
    output = forward(model, frames[:, :3])
    head = output.heatmaps
    go_on = nnx.jit(lambda model, *arguments: model(*arguments)[0])
    tail = go_on(model, frames[:, 3:], output.state, jnp.array([False, True]))
    assert golden.relative_error(head, whole[:, :3]) < 1e-5
    assert golden.relative_error(tail[0], whole[0, 3:]) < 1e-5
    assert golden.relative_error(tail[1], anew[0]) < 1e-5
    assert golden.relative_error(anew[0], whole[1, 3:]) > 1e-3  # where a chain began does show

    poisoned = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), nnx.state(model.pose_initializer))
    nnx.update(model.pose_initializer, poisoned)  # which is run only where a chain begins
    tail = go_on(model, frames[:, 3:], output.state, jnp.array([False, False]))
    assert golden.relative_error(tail, whole[:, 3:]) < 1e-5
    tail = go_on(model, frames[:, 3:], output.state, jnp.array([False, True]))
    assert np.isnan(tail[1]).all()
    assert golden.relative_error(tail[0], whole[0, 3:]) < 1e-5


@pytest.mark.parametrize('train', [True, False])
def test_one_scan_whatever_the_length(train):
    def operations(t):
        model = tiny()
        model.set_attributes(use_running_average=not train)
        graph, state = nnx.split(model)

        def run(state, frames):
            model = nnx.merge(graph, state)
            return model(frames), nnx.state(model)

        return collections.Counter(primitives(jax.make_jaxpr(run)(state, clip(t=t)).jaxpr))

    three, seven = operations(3), operations(7)
    assert three == seven
    assert three['scan'] == 1


def primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from primitives(inner)


@pytest.fixture(scope='module')
def reference_gradients():
    model = tiny()
    heatmaps, gradient = gradients(model, clip())
    return heatmaps, flatten(gradient), statistics(model)


@pytest.mark.parametrize('change', ['rolled', 'remat'])
def test_other_forms_give_the_same(change, reference_gradients, monkeypatch):
    model = tiny(remat=change == 'remat')
    unrolled, scan = [], jax.lax.scan

    def rolled(*args, unroll=False):
        unrolled.append(unroll)
        return scan(*args)

    if change == 'rolled':
        monkeypatch.setattr(jax.lax, 'scan', rolled)
    heatmaps, gradient = nnx.jit(lambda model, frames: traced_gradients(model, frames))(model, clip())  # traced anew
    assert unrolled == ([3] if change == 'rolled' else [])
    expected, expected_gradient, expected_statistics = reference_gradients
    assert golden.relative_error(heatmaps, expected) < 1e-5
    assert_same(flatten(gradient), expected_gradient, 1e-3)
    assert_same(statistics(model), expected_statistics, 1e-5)


def test_every_parameter_is_used(reference_gradients):
    unused = {path for path, leaf in reference_gradients[1].items() if not np.abs(leaf).max() > 0}
    assert unused <= {f'transition.{path}.bias' for path in ('fusion.conv_g', 'relation_decoder.conv_w')}  # before a BatchNorm


def first_share(model, frames):
    """Largest value of the first frame's heatmaps over that of the second's."""
    heatmaps = np.asarray(forward(model, frames)[0])
    return heatmaps[:, 0].max() / heatmaps[:, 1].max()


@pytest.mark.parametrize(('statistics', 'faithful'), [('own', True), ('shared', False)])
def test_the_first_frame_is_as_strong_in_eval_mode_as_in_train_mode(statistics, faithful):
    """The initializer's heatmaps are a hundredth of the chain's: statistics of both together fit neither."""
    model, frames = tiny(first_statistics=statistics), clip(t=2)
    head = model.pose_initializer.final_layer
    head.kernel.set_value(head.kernel[...] / 100)
    head.bias.set_value(head.bias[...] / 100)
    model.train()
    for _ in range(200):  # until the running variances, from 1 on, are those of the batch, which are far smaller
        in_training = first_share(model, frames)
    model.eval()
    assert (abs(first_share(model, frames) / in_training - 1) < 0.15) == faithful  # running variances are unbiased, of few pixels


def test_first_heatmaps_from_the_features():
    model = tiny(pose_initializer='none')
    model.eval()
    frames = clip(b=1, t=2)
    features = nnx.jit(lambda model, frame: model.feature_encoder(frame))(model, frames[:, 0])
    heatmaps = forward(model, frames).heatmaps
    expected = model.transition.relation_decoder(model.pose_initializer(features), first=True)
    assert golden.relative_error(heatmaps[:, 0], expected) < 1e-5


def test_bfloat16_keeps_statistics_and_heatmaps_in_float32():
    exact, fast = tiny(), tiny(jnp.bfloat16)
    expected = forward(exact, clip()).heatmaps
    output = forward(fast, clip())
    heatmaps = output.heatmaps
    assert heatmaps.dtype == output.evidence['predicted'].dtype == output.evidence['correlation'].dtype == jnp.float32
    assert output.state.queries.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(fast))} == {jnp.dtype('float32')}
    assert 1e-5 < golden.relative_error(heatmaps, expected) < 0.1


def test_network_of_the_paper():
    """ResNet-101 and ResNet-50 baselines, KMM, fusion, relation decoder; 13 joints, 256 features."""
    model = nnx.eval_shape(lambda: build_model({}, num_joints=13))
    encoder = 33_999_440 - (256 * 16 + 16)  # without the 16-joint layer of the golden
    kmm = 2 * (256 * 13 + 13)
    fusion = 9 * (13 + 256) * 256 + 256 + 2 * 256 + 256 * 13 + 13
    decoder = 2 * (13 * 13 + 13) + 2 * 2 * 13
    assert count_parameters(model) == 52_990_797 + encoder + kmm + fusion + decoder


@pytest.mark.parametrize(
    ('fields', 'problem'),
    [
        ({'depth': 50}, 'config.model.depth: no such field'),
        ({'feature_encoder': 'none'}, "config.model.feature_encoder='none': choose one of resnet18, resnet34, "),
        ({'pose_initializer': 'resnet20'}, "config.model.pose_initializer='resnet20': choose one of resnet18, .*, none"),
        ({'temporal': 'lstm'}, "config.model.temporal='lstm': choose one of kmm, dkd, jrpsp, none"),
        ({'decoder_variant': 'published'}, "config.model.decoder_variant='published': choose one of intended, released"),
    ],
)
def test_wrong_field_is_named(fields, problem):
    with pytest.raises(InputError, match=problem):
        build_model(TINY | fields, num_joints=3)


def test_wrong_dtype_is_named():
    with pytest.raises(InputError, match=r"config\.dtype='float16'"):
        build_model(TINY, num_joints=3, dtype='float16')
