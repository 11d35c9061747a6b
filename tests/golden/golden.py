"""Reference arrays of the original PyTorch code, and weights drawn by their recipe (tests/golden/tensors.py)."""

import json
import pathlib
import runpy

import jax.numpy as jnp
import numpy as np
from flax import nnx

from kimnet_jax.interop.translation import flatten

FOLDER = pathlib.Path(__file__).resolve().parent
_TENSORS = runpy.run_path(str(FOLDER / 'tensors.py'))
tensor, state_dict = _TENSORS['tensor'], _TENSORS['state_dict']
KINDS = {'kernel': 'weight', 'scale': 'bn_weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}


def arrays(name):
    """The reference's outputs, in its NCHW layout."""
    return np.load(FOLDER / f'{name}.npz')


def weights(name):
    """The reference's state_dict and the keys of its parameters, in order."""
    entries = json.loads((FOLDER / 'state_dicts' / f'{name}.json').read_text())['entries']
    return state_dict(entries, 0), [entry['key'] for entry in entries if entry['param']]


def relative_error(value, reference):
    reference = np.asarray(reference, np.float64)
    return np.linalg.norm(np.asarray(value, np.float64) - reference) / np.linalg.norm(reference)


def randomised(build, seed=0):
    """The module that `build` gives, its parameters and BatchNorm statistics by the recipe: no layer is trivial."""
    return fill(nnx.eval_shape(build), seed)


def fill(model, seed=0):
    """Gives a module with or without arrays those of the recipe; returns it."""
    for path, variable in flatten(nnx.state(model, (nnx.Param, nnx.BatchStat))).items():
        kind = KINDS[path.rsplit('.', 1)[-1]]
        shape = variable.shape[::-1] if kind == 'weight' else variable.shape  # the recipe takes [out, in, ...]
        variable.set_value(jnp.asarray(tensor(path, shape, kind, seed).T))
    return model
