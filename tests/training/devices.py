"""`python devices.py COUNT FOLDER`: one training step and one evaluation of KIMNet on the first COUNT devices, to FOLDER."""

import pathlib
import sys

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType
from tiny import random_batch, train_parts

from kimnet_jax.models import build_model
from kimnet_jax.models.layers import Statistics
from kimnet_jax.training import sharding
from kimnet_jax.training.state import placed, placements, split_model, to_tree
from kimnet_jax.training.steps import empty_chain, make_eval_step

sharding.SHARED_FROM = 1024  # the network is small
FIELDS = {'pose_initializer': 'none', 'feature_encoder': 'resnet18', 'width': 4, 'features': 8}


def flat(tree) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def run(count: int) -> dict[str, np.ndarray]:
    mesh = jax.make_mesh((count,), ('data',), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
    model = build_model(FIELDS, num_joints=15)
    eval_graph, _ = split_model(model, training=False)
    step, state = train_parts(model=model, mesh=mesh, learning_rate=1e-3)
    batch = jax.device_put(random_batch(0, rows=8, frames=2, size=64), sharding.split(mesh))
    state = placed(state, mesh)
    assert len(state.weights.params['transition']['fusion']['conv_d']['kernel'][...].sharding.device_set) == count
    evaluate = make_eval_step(eval_graph, stride=4, decoding='dark', mesh=mesh)
    to_image = np.tile(np.array([[2.0, 0, 3], [0, 2.0, 5]], np.float32), (8, 2, 1, 1))
    extra = jax.device_put({'to_image': to_image, 'start': np.arange(8) < 4}, sharding.split(mesh))
    chain = jax.tree.map(lambda leaf: leaf + 0.1, empty_chain(eval_graph, state.weights, batch, mesh))
    joints, scores, _ = evaluate(state.weights, batch | extra, chain)
    text = step.lower(state, batch).compile().as_text()
    expected = placements(state, mesh)
    state, values = step(state, batch)
    assert all(jax.tree.leaves(jax.tree.map(lambda leaf, place: leaf.sharding == place, state, expected)))
    kept = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state.optimizer))
    whole = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer))
    assert kept == whole if count == 1 else kept < 0.5 * whole, f'{kept} of {whole}'  # the small arrays are on every device
    moments = optax.tree_utils.tree_get(state.optimizer, 'mu')  # a tenth of the gradient, after one step
    params, statistics = map(to_tree, state.weights)
    trees = {'values': values, 'params': params, 'statistics': statistics, 'moments': to_tree(moments)}
    norms = sum(isinstance(module, Statistics) for _, module in nnx.iter_modules(model))
    assert count == 1 or text.count(' all-reduce(') <= 2 * norms  # one for each and direction, and those of the gradient
    return flat(trees | {'evaluation': {'joints': joints, 'scores': scores}})


np.savez(pathlib.Path(sys.argv[2]) / f'{sys.argv[1]}.npz', **run(int(sys.argv[1])))
