"""Weights of one skeleton for a network of another: joints are carried over by name, along every axis of joints."""

import functools
import json

import golden
import jax
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.configs.models import ROWS, TINY_BACKBONES
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import JHMDB, LSP, MPII, PENN_ACTION, Skeleton
from kimnet_jax.models import VIDEO_MODELS, abstract_model, model_fields
from kimnet_jax.models.weights import flatten, initialise, joint_axes

pytestmark = pytest.mark.quick_compilation

FRAMES = (1, 3, 64, 64, 3)


def skeleton(names: str) -> Skeleton:
    return Skeleton('-'.join(names), tuple(names), flip_pairs=(), limbs=(), groups=(), torso=(0, 0))


def tiny(name: str, **changes) -> dict:
    """The fields of a network or of a row of the paper's tables at preset `tiny`."""
    changes = {key: TINY_BACKBONES.get(value, value) for key, value in ROWS.get(name, {}).items()} | changes
    network = changes.pop('name', name if name in VIDEO_MODELS else 'kimnet')
    return model_fields(network, 'tiny') | changes


FAMILY = {name: tiny(name) for name in (*VIDEO_MODELS, *ROWS)} | {
    'two stacks': tiny('hourglass', num_stacks=2),
    'lstm_pm released': tiny('lstm_pm', variant='released'),
    'rpstn released': tiny('rpstn', variant='released_jhmdb', decoder_variant='released'),
    'initializer of stacks': tiny('kimnet', pose_initializer='hourglass2', feature_encoder='hrnet_tiny'),
}
# together they have every module with an axis of joints
DISTINCT = ('kimnet', 'kmm_heatmap', 'kimnet_jrpsp', 'dkd', 'dkd_kmm', 'lstm_pm released', 'lstm_pm_kmm', 'two stacks')


def variables(model: nnx.Module) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf[...]) for path, leaf in flatten(nnx.state(model, (nnx.Param, nnx.BatchStat))).items()}


def make(fields: dict, num_joints: int, seed: int) -> nnx.Module:
    """A network with weights that differ everywhere; its own initial ones would be compiled one by one."""
    model = golden.fill(nnx.clone(abstract(json.dumps(fields), num_joints)), seed)
    model.eval()
    return model


@functools.cache
def abstract(fields: str, num_joints: int) -> nnx.Module:
    """`abstract_model` of fields in JSON, not to be changed."""
    return abstract_model(json.loads(fields), num_joints=num_joints)


def carry(fields: dict, model: nnx.Module, arrays: dict, here: Skeleton, there: Skeleton | None) -> list[str]:
    larger = abstract(json.dumps(fields), here.num_joints + 1)
    return initialise(model, arrays, skeleton=here, source_skeleton=there, larger=larger)


@pytest.mark.parametrize('name', DISTINCT)
def test_another_order_of_the_joints_gives_the_same_heatmaps_in_that_order(name):
    """So every axis of joints is known, and where the joints lie on it."""
    fields, there, here = FAMILY[name], skeleton('abcd'), skeleton('cadb')
    source, model = make(fields, 4, seed=1), make(fields, 4, seed=2)
    lines = carry(fields, model, variables(source), here, there)
    assert lines == ['joints of a-b-c-d matched by name: c, a, d, b']
    frames = np.random.default_rng(0).uniform(-1, 1, FRAMES).astype(np.float32)
    graph, _ = nnx.split(source)
    outputs = [_heatmaps(graph, nnx.state(network), frames) for network in (source, model)]
    expected = np.asarray(outputs[0])[..., [2, 0, 3, 1]]
    np.testing.assert_allclose(outputs[1], expected, atol=1e-4 * np.abs(expected).max())


@functools.partial(jax.jit, static_argnums=0)
def _heatmaps(graph, state, frames):
    return nnx.merge(graph, state)(frames)[0]


@pytest.mark.parametrize('name', FAMILY)
def test_new_joints_keep_what_they_have(name):
    """Of every variable with an axis of joints those entries are carried over all of whose joints are known, and no others."""
    fields, there, here = FAMILY[name], skeleton('abcd'), skeleton('cxa')
    given, model = variables(make(fields, 4, seed=1)), make(fields, 3, seed=2)
    before = variables(model)
    lines = carry(fields, model, given, here, there)
    assert lines == ['joints of a-b-c-d matched by name: c, a; new, so random: x; left out: b, d']
    after, axes = variables(model), joint_axes(model, abstract(json.dumps(fields), 4))
    assert axes
    for path, value in after.items():
        if path not in axes:
            np.testing.assert_array_equal(value, given[path])
            continue
        origins = np.ix_(
            *([2, -1, 0, *range(4, size + 1)] if axis in axes[path] else range(size) for axis, size in enumerate(value.shape))
        )
        known = functools.reduce(np.logical_and, [origin >= 0 for origin in origins])
        np.testing.assert_array_equal(value, np.where(known, given[path][origins], before[path]))


def test_lsp_to_jhmdb():
    fields = tiny('pose_resnet')
    given, model = variables(make(fields, 14, seed=1)), make(fields, 15, seed=2)
    before = variables(model)
    (line,) = carry(fields, model, given, JHMDB, LSP)
    named = [joint for joint in JHMDB.joints if joint not in ('belly', 'face')]
    carried = ', '.join(named)
    assert line == f'joints of lsp matched by name: {carried}; new, so random: belly, face; left out: head_top'
    after = variables(model)
    for part in ('kernel', 'bias'):
        path = f'network.final_layer.{part}'
        for joint in named:
            np.testing.assert_array_equal(after[path][..., JHMDB.joints.index(joint)], given[path][..., LSP.joints.index(joint)])
        for joint in ('belly', 'face'):
            index = JHMDB.joints.index(joint)
            np.testing.assert_array_equal(after[path][..., index], before[path][..., index])


def test_joints_that_only_sound_alike_are_not_taken_for_each_other():
    fields = tiny('pose_resnet')
    (line,) = carry(fields, make(fields, 14, seed=2), variables(make(fields, 16, seed=1)), LSP, MPII)
    assert line.endswith('; new, so random: neck; left out: pelvis, thorax, upper_neck')
    (line,) = carry(fields, make(fields, 15, seed=2), variables(make(fields, 13, seed=1)), JHMDB, PENN_ACTION)
    assert line.endswith('; new, so random: neck, belly, face; left out: head')


def test_joints_that_are_not_known():
    fields = tiny('pose_resnet')
    given, model = variables(make(fields, 15, seed=1)), make(fields, 15, seed=2)
    (line,) = carry(fields, model, given, JHMDB, None)
    assert line == 'the joints of these weights are unknown and taken as those of jhmdb'
    np.testing.assert_array_equal(variables(model)['network.final_layer.kernel'], given['network.final_layer.kernel'])
    given, model = variables(make(fields, 14, seed=1)), make(fields, 15, seed=2)
    given = {path.removeprefix('network.'): array for path, array in given.items()}
    before = variables(model.network)
    larger = abstract_model(fields, num_joints=16).network
    assert initialise(model.network, given, skeleton=JHMDB, larger=larger) == [
        'the joints of these weights are unknown and not matched by name',
        'final_layer left out, so random: 14 joints in the source, 15 here',
    ]
    np.testing.assert_array_equal(variables(model.network)['final_layer.kernel'], before['final_layer.kernel'])


def test_weights_that_are_not_of_their_skeleton_are_refused_and_nothing_is_changed():
    fields = tiny('pose_resnet')
    model = make(fields, 15, seed=2)
    before = variables(model)
    with pytest.raises(InputError, match=r"final_layer\.bias: \(16,\) in the weights, \(14,\) by the joints of 'lsp'"):
        carry(fields, model, variables(make(fields, 16, seed=1)), JHMDB, LSP)
    for path, array in variables(model).items():
        np.testing.assert_array_equal(array, before[path])
