"""The paper's network at its full size: how many parameters it has, and that a step of its training works."""

import os

import jax
import numpy as np
import pytest

from kimnet_jax.configs import sub_jhmdb
from kimnet_jax.core.config import make
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.models import abstract_model, build_model, count_parameters
from kimnet_jax.training import sharding
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.state import create_state, split_model
from kimnet_jax.training.steps import Stepping, TargetConfig, make_train_step

pytestmark = [pytest.mark.full_size, pytest.mark.quick_compilation]


def test_parameters():
    config = sub_jhmdb.get_config()
    model = abstract_model(config.model, num_joints=JHMDB.num_joints)
    initializer, encoder = count_parameters(model.pose_initializer), count_parameters(model.feature_encoder)
    # ResNet-101 and ResNet-50 with three transposed convolutions: 53.0 and 34.0 M (SimpleBaseline, Table 2)
    assert initializer / 1e6 == pytest.approx(53.0, abs=0.1)
    assert encoder / 1e6 == pytest.approx(34.0, abs=0.1)
    chain = count_parameters(model) - initializer - encoder
    # Conv_g: 9 * (256 + 15) * 256 + 256; its BatchNorm 2 * 256; Conv_d: 256 * 15 + 15
    fusion = 9 * 271 * 256 + 256 + 512 + 256 * 15 + 15
    assert count_parameters(model.transition.fusion) == fusion
    assert fusion < chain < 1_000_000


def test_training_step():
    config = sub_jhmdb.get_config('recipe=paper')
    optimizer_config = make(OptimizerConfig, config.optimizer, 'optimizer')
    schedule = make_schedule(optimizer_config, steps=1, steps_per_epoch=1)
    optimizer = make_optimizer(optimizer_config, schedule)
    mesh = jax.make_mesh((1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])
    model = build_model(config.model, num_joints=JHMDB.num_joints)
    graph, weights = split_model(model, training=True)
    step = make_train_step(
        graph,
        Stepping(optimizer, schedule, accumulate=1, average_decay=0.0, mesh=mesh),
        make(TargetConfig, config.target, 'target'),
        skeleton=JHMDB,
        stride=model.stride,
    )
    rng = np.random.default_rng(0)
    size, frames = config.data.input_size, config.data.frames
    batch = {
        'frames': rng.integers(0, 256, (1, frames, size, size, 3), np.uint8),
        'joints': rng.uniform(0, size, (1, frames, JHMDB.num_joints, 2)).astype(np.float32),
        'visible': np.ones((1, frames, JHMDB.num_joints), bool),
        'mask': np.ones((1, frames), bool),
    }
    before = np.asarray(weights.params['transition']['temporal']['conv_q']['kernel'])
    state = sharding.put(create_state(weights, optimizer, average=False), mesh)
    batch = jax.device_put(batch, sharding.split(mesh))
    # the code generator of quick compilation takes a time that grows with the square of the program; here the other one is faster
    other = {'xla_cpu_use_fusion_emitters': True} if 'xla_cpu_use_fusion_emitters' in os.environ.get('XLA_FLAGS', '') else {}
    compiled = step.lower(state, batch).compile(other)
    state, values = compiled(state, batch)
    assert 0 < float(values['loss']) < np.inf
    assert 0 < float(values['gradient_norm']) < np.inf
    assert np.abs(np.asarray(state.weights.params['transition']['temporal']['conv_q']['kernel']) - before).max() > 0
