"""The evaluator: the same metrics however the frames are cut into batches, and nothing compiled twice."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import STRIDE, TinyNet, one_device

from kimnet_jax.core import heatmap
from kimnet_jax.core.image import normalise
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.loader import eval_batches, num_eval_batches, prefetch_to_device
from kimnet_jax.data_pipelines.other_clips import OtherClips
from kimnet_jax.data_pipelines.transforms import DataConfig, crop_window
from kimnet_jax.models.outputs import VideoOutput
from kimnet_jax.training import sharding, steps
from kimnet_jax.training.evaluation import DEVICE_KEYS, PASTS, Evaluator, metric_names, scalars
from kimnet_jax.training.state import Weights, split_model

pytestmark = pytest.mark.quick_compilation

DATA = DataConfig(input_size=64)


@pytest.fixture(scope='module')
def clips(data_dir):
    return clip_source.open_clips(data_dir, 'kinetic_puppets', 'mini', 'test')


@pytest.fixture(scope='module')
def network() -> tuple[nnx.GraphDef, Weights]:
    return split_model(TinyNet(), training=False)


def evaluator(clips, graph, *, batch_size=2, segment=8, chain_length=None, decoding='dark', change=lambda batch: batch):
    passes = {'batch_size': batch_size, 'segment': segment, 'chain_length': chain_length}
    mesh = one_device()

    def stream():
        return prefetch_to_device(map(change, eval_batches(clips, DATA, **passes)), sharding.split(mesh), DEVICE_KEYS)

    return Evaluator(graph, stream, num_eval_batches(clips, **passes), clips, stride=STRIDE, decoding=decoding, mesh=mesh)


def joints_of(evaluate: Evaluator, weights: Weights) -> dict[int, np.ndarray]:
    return {clip: joints for clip, joints, _ in evaluate.predict(weights)}


@pytest.fixture(scope='module')
def expected(clips, network) -> dict[int, np.ndarray]:
    """Every clip in one piece."""
    longest = max(len(clips[i]['joints']) for i in range(len(clips)))
    return joints_of(evaluator(clips, network[0], batch_size=1, segment=longest), network[1])


@pytest.mark.parametrize(('batch_size', 'segment'), [(1, 8), (3, 8), (2, 3), (5, 7)])  # of 5 slots two stay empty
def test_batches_and_segments_change_nothing(clips, network, expected, batch_size, segment):
    found = joints_of(evaluator(clips, network[0], batch_size=batch_size, segment=segment), network[1])
    assert found.keys() == expected.keys() == set(range(len(clips)))
    for clip, joints in found.items():
        assert joints.shape == clips[clip]['joints'].shape
        np.testing.assert_allclose(joints, expected[clip], atol=0.01)  # pixels; float32 maps of another batch


def test_chains_begin_anew(clips, network, expected):
    found = joints_of(evaluator(clips, network[0], segment=8, chain_length=3), network[1])
    again = joints_of(evaluator(clips, network[0], segment=2, chain_length=3), network[1])
    for clip, joints in found.items():
        np.testing.assert_allclose(joints, again[clip], atol=0.01)
        np.testing.assert_allclose(joints[:3], expected[clip][:3], atol=0.01)
    # a chain that begins at frame 3 is not one that goes on
    assert max(np.abs(joints[3:6] - expected[clip][3:6]).max() for clip, joints in found.items()) > 0.1


def test_every_past_is_what_it_says(clips, network):
    """Frame by frame, against the network called on the frames themselves."""
    graph, weights = network
    passes = {'batch_size': 2, 'segment': 1, 'chain_length': None}
    others, mesh = OtherClips(clips, seed=1), one_device()

    def strangers():
        return prefetch_to_device(eval_batches(others, DATA, **passes), sharding.split(mesh), DEVICE_KEYS)

    found = {clip: scores for clip, _, scores in evaluator(clips, graph, segment=1).predict_with_pasts(weights, strangers)}
    assert found.keys() == set(range(len(clips)))
    model = nnx.merge(graph, *weights)

    def maps(source, clip):
        return [np.asarray(model.init_state(normalise(frame[None], jnp))[0][0]) for frame in whole_clip(source, clip)]

    def score(*chain):
        heatmaps = sum(part * 0.5**age for age, part in enumerate(reversed(chain)))  # what TinyNet does
        return heatmap.decode(heatmaps, 'argmax', np)[1]

    for clip, scores in found.items():
        own, strange = maps(clips, clip), maps(others, clip)
        assert scores.shape == (len(own), len(PASTS), clips.skeleton.num_joints)
        for t, frame in enumerate(own):
            expected = {
                'true': score(*own[:t], frame),
                'frozen': score(frame, frame) if t else score(frame),
                'shuffled': score(*strange[:t], frame),
                'restarted': score(frame),
            }
            for i, past in enumerate(PASTS):
                np.testing.assert_allclose(scores[t, i], expected[past], rtol=1e-4, err_msg=f'{past}, frame {t}')
        assert np.abs(scores[1:, PASTS.index('shuffled')] - scores[1:, PASTS.index('true')]).max() > 1e-3


def whole_clip(source, clip: int) -> np.ndarray:
    """The crops of all frames."""
    example = source[clip]
    window = Window(clip, 0, len(example['joints']))
    return crop_window(example, window, window.count, DATA, skeleton=source.skeleton, folder=source.folder)['frames']


class Truth(nnx.Module):
    """Its input is the answer."""

    def __call__(self, frames, state, start):
        return VideoOutput(frames, frames[:, -1], {})

    def init_state(self, frames):
        return frames, frames


def test_truth_scores_full_marks(clips, monkeypatch):
    def drawn(batch):
        maps = heatmap.encode(batch['joints'], (16, 16), stride=STRIDE, centre='subpixel')
        return batch | {'frames': np.round(maps * 255).astype(np.uint8)}

    monkeypatch.setattr(steps, 'normalise', lambda frames, xp: frames.astype(xp.float32) / 255)
    graph, weights = split_model(Truth(), training=False)
    result = evaluator(clips, graph, batch_size=2, segment=7, change=drawn)(weights).compute()
    assert result['clips'] == 3
    assert result['frames'] == sum(len(clips[i]['joints']) for i in range(3))
    assert result['torso']['pck']['0.2']['mPCK'] == 1.0
    assert result['person']['pck']['0.05']['mPCK'] == 1.0


def test_second_pass_compiles_nothing(clips, network, caplog):
    graph, weights = network
    evaluate = evaluator(clips, graph, batch_size=3)
    weights = jax.device_put(weights, sharding.replicated(one_device()))
    first = evaluate(weights).compute()
    other = jax.tree.map(lambda leaf: leaf + jnp.float32(1e-3), weights)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        second = evaluate(other).compute()
        third = evaluate(weights).compute()
    assert [record.message for record in caplog.records if record.message.startswith('Compiling')] == []
    assert scalars(third) == scalars(first)
    assert scalars(second) != scalars(first)


def test_names_are_known_beforehand(clips, network):
    found = scalars(evaluator(clips, network[0])(network[1]).compute())
    assert metric_names(clips.skeleton) == list(found)
    assert 'torso/pck/0.2/mPCK' in found


def test_check_stops_the_pass(clips, network):
    calls = []

    def check():
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluator(clips, network[0])(network[1], check)
    assert len(calls) == 2


def test_joints_of_maps_that_are_not_finite_are_missing(clips, network):
    """Before, they were joints at a cell, and plain misses."""
    graph, weights = network
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), weights)
    result = evaluator(clips, graph)(broken).compute()
    assert result['missing'] == result['frames'] * clips.skeleton.num_joints > 0
    assert result['torso']['pck']['0.2']['mPCK'] == 0
    assert evaluator(clips, graph)(weights).compute()['missing'] == 0
