"""Networks with weights for tests, without a compilation."""

import functools
import json

import numpy as np
from flax import nnx

from kimnet_jax.models import abstract_model
from kimnet_jax.models.weights import assign, flatten


def abstract(fields: dict, num_joints: int) -> nnx.Module:
    """`abstract_model`, not to be changed."""
    return _abstract(json.dumps(fields), num_joints)


@functools.cache
def _abstract(fields: str, num_joints: int) -> nnx.Module:
    return abstract_model(json.loads(fields), num_joints=num_joints)


def filled(fields: dict, num_joints: int, seed: int) -> nnx.Module:
    """A network with weights that differ everywhere; its own initial ones would be compiled one by one."""
    model, rng = nnx.clone(abstract(fields, num_joints)), np.random.default_rng(seed)
    arrays = {}
    for path, leaf in flatten(nnx.state(model, (nnx.Param, nnx.BatchStat))).items():
        array = rng.standard_normal(leaf.shape, np.float32) / np.float32(np.sqrt(np.prod(leaf.shape[:-1])))
        if path.endswith(('.var', '.scale')):  # so that no activation outgrows the others
            array = np.exp(array) / np.float32(2 if path.endswith('.scale') else 1)
        elif path.endswith('.bias'):
            array *= 0.1
        arrays[path] = array
    assign(model, arrays)
    return model
