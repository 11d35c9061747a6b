"""What training changes: one pytree, and its form on disk."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx, traverse_util
from jax.sharding import Mesh

from kimnet_jax.core.errors import InputError
from kimnet_jax.training import sharding


class Weights(NamedTuple):
    """All a network computes with: parameters and BatchNorm statistics (NNX states)."""

    params: nnx.State
    batch_stats: nnx.State


class TrainState(NamedTuple):
    """Attributes:
    step: int32 scalar, batches seen.
    weights: the network's.
    optimizer: optax's state.
    average: moving average of `weights`, None without one.
    """

    step: jax.Array
    weights: Weights
    optimizer: optax.OptState
    average: Weights | None

    @property
    def best_weights(self) -> Weights:
        """The weights to evaluate and to predict with."""
        return self.weights if self.average is None else self.average


def split_model(model: nnx.Module, *, training: bool) -> tuple[nnx.GraphDef, Weights]:
    """The structure of a model (in train or eval mode) and its weights."""
    if training:
        model.train()
    else:
        model.eval()
    graph, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graph, Weights(*states)


def create_state(weights: Weights, optimizer: optax.GradientTransformation, *, average: bool) -> TrainState:
    """The state before the first batch."""
    copy = jax.tree.map(jnp.copy, weights) if average else None
    return TrainState(jnp.zeros((), jnp.int32), weights, optimizer.init(weights.params), copy)


def placements(state: TrainState, mesh: Mesh) -> TrainState:
    """The sharding of every array of a state: weights are on every device, the rest is split over them."""
    split = sharding.shared_out(state, mesh)
    return split._replace(weights=jax.tree.map(lambda _: sharding.replicated(mesh), state.weights))


def placed(state: TrainState, mesh: Mesh) -> TrainState:
    """A state on the devices, as the train step takes it and leaves it."""
    return jax.device_put(state, placements(state, mesh))


def to_tree(state: Any) -> dict[str, Any]:
    """A pytree as nested dicts of arrays whose keys are the attribute paths."""
    return traverse_util.unflatten_dict({tuple(_names(path)): leaf for path, leaf in jax.tree.leaves_with_path(state)})


def from_tree(template: Any, tree: dict[str, Any], source: str) -> Any:
    """The inverse of `to_tree`: fills a template. Raises `InputError` listing every key or shape that does not fit."""
    flat = traverse_util.flatten_dict(tree, sep='/')
    expected = {'/'.join(_names(path)): leaf for path, leaf in jax.tree.leaves_with_path(template)}
    problems = [f'missing {key}' for key in expected if key not in flat]
    problems += [f'unexpected {key}' for key in flat if key not in expected]
    for key, leaf in expected.items():
        if key in flat and np.shape(flat[key]) != np.shape(leaf):
            problems.append(f'{key}: shape {list(np.shape(flat[key]))}, the model has {list(np.shape(leaf))}')
    if problems:
        shown = '; '.join(problems[:8]) + (f'; and {len(problems) - 8} more' if len(problems) > 8 else '')
        raise InputError(f'{source}: made by another model or optimizer: {shown}')
    leaves = [flat[key] for key in expected]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _names(path: tuple[Any, ...]) -> list[str]:
    names = [str(getattr(entry, 'name', getattr(entry, 'key', getattr(entry, 'idx', entry)))) for entry in path]
    return [name for name in names if name != 'value'] or ['value']
