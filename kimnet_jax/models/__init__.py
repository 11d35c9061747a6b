"""Networks by name. A builder takes the plain fields of `config.model` and gives the module."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

import jax
import jax.numpy as jnp
from flax import nnx

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.models.backbones import BACKBONES, RESNETS
from kimnet_jax.models.chain import ChainNetwork
from kimnet_jax.models.dkd_net import DKDNet, DKDNetConfig
from kimnet_jax.models.hanet import HANet, HANetConfig
from kimnet_jax.models.hourglass import Hourglass, HourglassConfig
from kimnet_jax.models.hrnet import HRNet, HRNetConfig
from kimnet_jax.models.kimnet import KIMNet, KIMNetConfig
from kimnet_jax.models.kmm import KMM
from kimnet_jax.models.lstm_pm import LSTMPM, LSTMPMConfig
from kimnet_jax.models.per_frame import PerFrame
from kimnet_jax.models.pose_resnet import DEPTHS, PoseResNet, PoseResNetConfig
from kimnet_jax.models.rpstn import RPSTN, RPSTNConfig

__all__ = [
    'KMM',
    'LSTMPM',
    'MODELS',
    'REFINERS',
    'RPSTN',
    'DKDNet',
    'HANet',
    'HANetConfig',
    'HRNet',
    'Hourglass',
    'KIMNet',
    'KIMNetConfig',
    'PerFrame',
    'PoseResNet',
    'PoseResNetConfig',
    'abstract_model',
    'abstract_refiner',
    'build_model',
    'build_refiner',
    'count_parameters',
    'network_name',
]

VideoModel: TypeAlias = ChainNetwork | PerFrame


class Model(NamedTuple):
    """Attributes:
    config: frozen dataclass; its fields but `num_joints` are those of `config.model`.
    build: `build(config, dtype=..., rngs=...)` is the module, with the interface of `ChainNetwork`.
    source: the paper, in a line.
    choices: field -> its allowed values, where its type does not tell them.
    """

    config: type
    build: Callable[..., VideoModel]
    source: str
    choices: Mapping[str, tuple[Any, ...]] = {}


MODELS: dict[str, Model] = {  # by `config.model.name`
    'kimnet': Model(
        KIMNetConfig,
        KIMNet,
        'Dang et al., Kinematics Modeling Network for Video-based Human Pose Estimation, arXiv 2207.10971',
        {'pose_initializer': (*BACKBONES, 'none', None), 'feature_encoder': BACKBONES},
    ),
    'rpstn': Model(
        RPSTNConfig,
        RPSTN,
        'Dang et al., Relation-Based Associative Joint Location for Human Pose Estimation in Videos, TIP 2022',
        {'pose_initializer': RESNETS, 'feature_encoder': RESNETS},
    ),
    'dkd': Model(
        DKDNetConfig,
        DKDNet,
        'Nie et al., Dynamic Kernel Distillation for Efficient Pose Estimation in Videos, ICCV 2019',
        {'pose_initializer': BACKBONES, 'feature_encoder': BACKBONES},
    ),
    'lstm_pm': Model(LSTMPMConfig, LSTMPM, 'Luo et al., LSTM Pose Machines, CVPR 2018'),
    'pose_resnet': Model(
        PoseResNetConfig,
        functools.partial(PerFrame, PoseResNet),
        'Xiao et al., Simple Baselines for Human Pose Estimation and Tracking, ECCV 2018',
        {'depth': DEPTHS},
    ),
    'hourglass': Model(
        HourglassConfig,
        functools.partial(PerFrame, Hourglass),
        'Newell et al., Stacked Hourglass Networks for Human Pose Estimation, ECCV 2016',
    ),
    'hrnet': Model(
        HRNetConfig,
        functools.partial(PerFrame, HRNet),
        'Sun et al., Deep High-Resolution Representation Learning for Human Pose Estimation, CVPR 2019',
    ),
}
REFINERS = ('hanet',)  # names of networks that refine poses (`build_refiner`); they read no video
_DTYPES = ('auto', 'float32', 'bfloat16')


def build_model(fields: Mapping[str, Any], *, num_joints: int, dtype: str = 'float32', seed: int = 0) -> VideoModel:
    """A network with random weights.

    Args:
        fields: of `config.model`: `name`, a key of `MODELS` (default `kimnet`), and fields of that network's config.
        num_joints: J, which the data set gives.
        dtype: of the convolutions; `auto`: bfloat16 on accelerators, float32 on CPU.
        seed: of the weights.

    Raises:
        InputError: naming the field, on an unknown field or value.
    """
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    name = fields.pop('name', 'kimnet')
    if name in REFINERS:
        raise InputError(f'config.model.name={name!r} refines poses, it reads no video: use kimnet_jax.refine, predict --refine')
    if name not in MODELS:
        raise InputError(f'config.model.name={name!r}: choose one of {", ".join(MODELS)}')
    model = MODELS[name]
    _check_fields(name, fields)
    try:
        return model.build(model.config(num_joints=num_joints, **fields), dtype=_compute_dtype(dtype), rngs=nnx.Rngs(seed))
    except ValueError as error:
        raise InputError(f'config.model: {error}') from error


def abstract_model(fields: Mapping[str, Any], *, num_joints: int, dtype: str = 'float32') -> VideoModel:
    """The same model without its arrays, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: build_model(fields, num_joints=num_joints, dtype=dtype))


def check_input_size(model: VideoModel, size: int) -> None:
    """Raises `InputError` where the heatmaps of crops of `size` pixels would not lie over them, cell by cell."""
    try:
        shape = nnx.eval_shape(
            lambda model, frames: model(frames)[0], model, jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.float32)
        ).shape
        fits = all(0 <= size - cells * model.stride <= model.stride for cells in shape[2:4])
    except (TypeError, ValueError):  # of parts whose sizes differ
        fits = False
    if not fits:
        raise InputError(
            f'config.data.input_size={size}: not a size that {network_name(model)} halves evenly; take a multiple of 64'
        )


def build_refiner(fields: Mapping[str, Any], *, channels: int, dtype: str = 'float32', seed: int = 0) -> HANet:
    """A network that refines poses, with random weights.

    Args:
        fields: of `config.model`: `name` and those of `HANetConfig` but for `channels`.
        channels: C, coordinates of a pose.
        dtype, seed: as of `build_model`.

    Raises:
        InputError: naming the field, on an unknown field or value.
    """
    fields = {key: value for key, value in fields.items() if key != 'name'}
    config = make(HANetConfig, fields | {'channels': channels}, 'model')
    try:
        return HANet(config, dtype=_compute_dtype(dtype), rngs=nnx.Rngs(seed))
    except ValueError as error:
        raise InputError(f'config.model: {error}') from error


def abstract_refiner(fields: Mapping[str, Any], *, channels: int, dtype: str = 'float32') -> HANet:
    """The same without its arrays, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: build_refiner(fields, channels=channels, dtype=dtype))


def count_parameters(model: nnx.Module) -> int:
    """Trained parameters; BatchNorm statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def network_name(model: VideoModel) -> str:
    """What a table calls the network: `KIMNet`, `PoseResNet`, ..."""
    return type(model.network if isinstance(model, PerFrame) else model).__name__


def _compute_dtype(name: str) -> jnp.dtype:
    if name not in _DTYPES:
        raise InputError(f'config.dtype={name!r}: choose one of {", ".join(_DTYPES)}')
    if name == 'auto':
        name = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(name)


def _field_names(name: str) -> list[str]:
    return [field.name for field in dataclasses.fields(MODELS[name].config) if field.name != 'num_joints']


def _check_fields(name: str, fields: Mapping[str, Any]) -> None:
    known, model = _field_names(name), MODELS[name]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        message = f'config.model.{unknown[0]}: no such field in {name!r}; known: {", ".join(known)}'
        if any(unknown[0] in _field_names(other) for other in MODELS):
            message += f'; for a config with just these give it the argument model={name}: --config FILE:model={name}'
        raise InputError(message)
    literals = {key: get_args(kind) for key, kind in get_type_hints(model.config).items() if get_origin(kind) is Literal}
    for key, allowed in (literals | dict(model.choices)).items():
        if key in fields and fields[key] not in allowed:
            raise InputError(f'config.model.{key}={fields[key]!r}: choose one of {", ".join(map(str, allowed))}')
