"""The whole comparison of one network, as plain values ready for JSON, and its verdict."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import torch

from kimnet_jax.interop.convert import Weights
from kimnet_jax.interop.networks import Network
from kimnet_jax.interop.parity.forward import MARGIN, NETWORK, OWN, Finding, ModuleError, fault, forward_errors, tolerance
from kimnet_jax.interop.parity.pair import make_pair
from kimnet_jax.interop.parity.training import KINK, ArrayError, Training, compare_training, strayed

GRADIENT = {'float32': 1e-3, 'bfloat16': 5e-2}
LOSS = {'float32': 1e-4, 'bfloat16': 2e-2}
_WHERE = {
    'module': 'given the same input its output differs',
    'normalisation': 'given the same small input in train mode its output or its statistics differ',
    'before': 'its input differs: the cause lies between the module before it and this one',
    'inside': 'its parts agree, but not what is made of them',
}


def compare(
    network: Network,
    config: Any,
    *,
    weights: Weights | None = None,
    entries: Mapping[str, np.ndarray] | None = None,
    dtype: str = 'float32',
    steps: int = 0,
    optimizer: Any = None,
    rate: float = 1e-3,
) -> dict[str, Any]:
    """Compares a network with its twin.

    Args:
        config: the network's.
        weights: ours; None: a fixed random draw.
        entries: PyTorch's state_dict that `weights` were made of, if they were.
        dtype: 'float32' or 'bfloat16'; PyTorch computes the latter by autocasting.
        steps: of training after the forward pass; 0: forward only.
        optimizer: Adam with the learning rate `rate`, an optax transformation.

    Returns:
        `checks` (what was compared: error, PyTorch's own, tolerance, passed), `first` (the first module that leaves the
        tolerance, None where none does), `modules`, `gradients`, `statistics`, `trajectory`, and `passed`.

    Raises:
        InputError: weights that do not fit, or a precision that the network does not have.
    """
    pair = make_pair(network, config, weights, entries, dtype)
    rows, first = forward_errors(pair)
    # a block that is cut elsewhere than PyTorch's is no module of its own
    modules = [row for row in rows if row.firm or not fault(row, dtype) or (first and row.position == first.position)]
    whole = rows[-1]
    checks = [
        _check('modules, given the same input', _worst(modules, 'own_error'), None, OWN[dtype]),
        _check('normalisations in train mode', _worst(modules, 'norm_error'), None, OWN[dtype]),
        _check('forward', whole.error, whole.torch_error, max(NETWORK[dtype], MARGIN[dtype] * whole.torch_error)),
    ]
    training = None
    exact = GRADIENT[dtype] if dtype == 'float32' else math.inf
    if steps:
        training = compare_training(pair, steps=steps, optimizer=optimizer, learning_rate=rate, tolerance=exact)
        checks += _training_checks(training, dtype)
    checks = [check for check in checks if check['error'] is not None]
    explained = None if first is None else _explained(first)
    passed = explained is None and all(check['passed'] for check in checks)
    backward = _first_in_backward(training, dtype) if training and not passed else None
    return {
        'network': network.twin,
        'config': _fields(config),
        'weights': 'random' if weights is None else 'file',
        'inputs': [list(array.shape) for array in pair.inputs],
        'dtype': dtype,
        'device': jax.devices()[0].device_kind,
        'versions': {'jax': jax.__version__, 'torch': torch.__version__},
        'learning_rate': rate,
        'checks': checks,
        'first': explained,
        'first_gradient': backward if explained is None else None,
        'modules': [row._asdict() | {'tolerance': tolerance(row, dtype), 'cut_elsewhere': row not in modules} for row in rows],
        'gradients': [error._asdict() for error in training.gradients] if training else [],
        'statistics': [error._asdict() for error in training.statistics] if training else [],
        'trajectory': training.trajectory._asdict() if training else None,
        'passed': passed,
    }


def _training_checks(training: Training, dtype: str) -> list[dict[str, Any]]:
    loss, path, margin = training.loss, training.trajectory, MARGIN[dtype]
    checks = [_check('loss', loss.error, loss.torch_error, max(LOSS[dtype], margin * loss.torch_error))]
    worst, own, limit = _single_gradients(training, dtype)
    if dtype == 'float32':
        checks.append(_check('gradients, the worst parameter', worst, own, limit))
    else:
        error, whole = training.gradient.error, training.gradient.torch_error
        checks.append(_check('gradients, all parameters as one vector', error, whole, max(GRADIENT[dtype], margin * whole)))
        checks.append(_check('single gradients, the worst of those that PyTorch gets right', worst, own, limit))
    if training.statistics:
        own = max(error.torch_error for error in training.statistics)
        worst = max(error.error for error in training.statistics)
        checks.append(_check('BatchNorm statistics, the worst array', worst, own, max(NETWORK[dtype], margin * own)))
    stray, distance, own = strayed(path, margin), max(path.distance), max(path.torch_distance)
    name = f'parameters after {len(path.loss)} steps of Adam, share of their way'
    checks.append(_check(name, distance, own, max(KINK, margin * own)) | {'passed': stray is None, 'strayed': stray})
    return checks


def _settled(training: Training, dtype: str) -> list[ArrayError]:
    """The gradients that say something one by one: in bfloat16 many are nothing but rounding, on either side."""
    return [error for error in training.gradients if dtype == 'float32' or error.torch_error <= GRADIENT[dtype]]


def _single_gradients(training: Training, dtype: str) -> tuple[float, float, float]:
    """(worst error, PyTorch's own, limit)."""
    settled = _settled(training, dtype)
    own = max((error.torch_error for error in settled), default=0.0)
    least = GRADIENT[dtype] if dtype == 'float32' else MARGIN[dtype] * GRADIENT[dtype]
    return max((error.error for error in settled), default=0.0), own, max(least, MARGIN[dtype] * own)


def _first_in_backward(training: Training, dtype: str) -> str | None:
    """The parameter whose gradient is the first to be off in the backward pass: the last in the order of execution."""
    limit = _single_gradients(training, dtype)[2]
    return next((error.name for error in reversed(_settled(training, dtype)) if not error.error <= limit), None)


def _check(name: str, error: float | None, own: float | None, limit: float) -> dict[str, Any]:
    passed = error is not None and error <= limit
    return {'name': name, 'error': error, 'torch_error': own, 'tolerance': limit, 'passed': passed}


def _worst(rows: Sequence[ModuleError], field: str) -> float | None:
    return max((error for row in rows if (error := getattr(row, field)) is not None), default=None)


def _explained(first: Finding) -> dict[str, Any]:
    trap = first.trap
    return {
        'module': first.module,
        'path': first.path,
        'call': first.call,
        'error': first.error if math.isfinite(first.error) else None,
        'tolerance': first.tolerance,
        'where': _WHERE[first.where],
        'trap': trap and trap.name,
        'finding': trap and trap.finding,
        'advice': trap and trap.advice,
    }


def _fields(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)
