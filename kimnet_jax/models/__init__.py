"""Networks by name. A builder takes the plain fields of `config.model` and gives the module."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.models.kimnet import KIMNet, KIMNetConfig
from kimnet_jax.models.kmm import KMM
from kimnet_jax.models.pose_resnet import DEPTHS, PoseResNet, PoseResNetConfig
from kimnet_jax.models.relation_decoder import DecoderVariant

__all__ = ['KMM', 'KIMNet', 'KIMNetConfig', 'PoseResNet', 'PoseResNetConfig', 'abstract_model', 'build_model', 'count_parameters']

_DTYPES = ('auto', 'float32', 'bfloat16')


def build_model(fields: Mapping[str, Any], *, num_joints: int, dtype: str = 'float32', seed: int = 0) -> KIMNet:
    """KIMNet with random weights.

    Args:
        fields: of `config.model`, those of `KIMNetConfig` but `num_joints`.
        num_joints: J, which the data set gives.
        dtype: of the convolutions; `auto`: bfloat16 on accelerators, float32 on CPU.
        seed: of the weights.

    Raises:
        InputError: naming the field, on an unknown field or value.
    """
    known = {field.name for field in dataclasses.fields(KIMNetConfig)} - {'num_joints'}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise InputError(f'config.model.{unknown[0]}: no such field; known: {", ".join(sorted(known))}')
    choices = {'encoder_depth': DEPTHS, 'initializer_depth': (0, *DEPTHS), 'decoder_variant': get_args(DecoderVariant)}
    for key, allowed in choices.items():
        if key in fields and fields[key] not in allowed:
            raise InputError(f'config.model.{key}={fields[key]!r}: choose one of {", ".join(map(str, allowed))}')
    if dtype not in _DTYPES:
        raise InputError(f'config.dtype={dtype!r}: choose one of {", ".join(_DTYPES)}')
    if dtype == 'auto':
        dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return KIMNet(KIMNetConfig(num_joints=num_joints, **fields), dtype=jnp.dtype(dtype), rngs=nnx.Rngs(seed))


def abstract_model(fields: Mapping[str, Any], *, num_joints: int, dtype: str = 'float32') -> KIMNet:
    """The same model without its arrays, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: build_model(fields, num_joints=num_joints, dtype=dtype))


def count_parameters(model: nnx.Module) -> int:
    """Trained parameters; BatchNorm statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
