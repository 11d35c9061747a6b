"""Networks by name. A builder takes the plain fields of `config.model` and gives the module."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from kimnet_jax.core.config import make, plain
from kimnet_jax.core.errors import InputError
from kimnet_jax.models.chain import ChainNetwork
from kimnet_jax.models.dkd_net import DKDNet, DKDNetConfig
from kimnet_jax.models.hanet import PRESETS as HANET_PRESETS
from kimnet_jax.models.hanet import HANet, HANetConfig
from kimnet_jax.models.hourglass import Hourglass, HourglassConfig
from kimnet_jax.models.hrnet import HRNet, HRNetConfig
from kimnet_jax.models.kimnet import KIMNet, KIMNetConfig
from kimnet_jax.models.kmm import KMM
from kimnet_jax.models.layers import platform
from kimnet_jax.models.lstm_pm import LSTMPM, LSTMPMConfig
from kimnet_jax.models.outputs import VideoOutput
from kimnet_jax.models.per_frame import PerFrame
from kimnet_jax.models.pose_resnet import PoseResNet, PoseResNetConfig
from kimnet_jax.models.rpstn import RPSTN, RPSTNConfig

__all__ = [
    'KMM',
    'LSTMPM',
    'MODELS',
    'RPSTN',
    'VIDEO_MODELS',
    'DKDNet',
    'Dtype',
    'HANet',
    'HANetConfig',
    'HRNet',
    'Hourglass',
    'KIMNet',
    'KIMNetConfig',
    'Model',
    'PerFrame',
    'PoseResNet',
    'PoseResNetConfig',
    'VideoOutput',
    'abstract_model',
    'abstract_refiner',
    'build_model',
    'build_refiner',
    'compute_dtype',
    'count_parameters',
    'model_fields',
    'network_name',
]

VideoModel: TypeAlias = ChainNetwork | PerFrame


class Model(NamedTuple):
    """Attributes:
    config: frozen dataclass; its fields but those that the data set gives are those of `config.model`.
    build: `build(config, dtype=..., rngs=...)` is the module; of a network of videos with the interface of `ChainNetwork`.
    source: the paper, in a line.
    presets: size -> the fields that it changes; the defaults of `config` are the paper's network.
    reads: `frames` of videos, or `poses`, which it refines.
    """

    config: type
    build: Callable[..., Any]
    source: str
    presets: Mapping[str, Mapping[str, Any]]
    reads: Literal['frames', 'poses'] = 'frames'


def _chain_presets() -> dict[str, dict[str, Any]]:
    sizes = {'medium': (32, 96), 'small': (16, 64), 'tiny': (4, 8)}
    backbones = {'pose_initializer': 'resnet18', 'feature_encoder': 'resnet18'}
    return {preset: backbones | {'width': width, 'features': features} for preset, (width, features) in sizes.items()}


def _presets(configs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {preset: plain(config) for preset, config in configs.items()}


MODELS: dict[str, Model] = {  # by `config.model.name`
    'kimnet': Model(
        KIMNetConfig,
        KIMNet,
        'Dang et al., Kinematics Modeling Network for Video-based Human Pose Estimation, arXiv 2207.10971',
        _chain_presets(),
    ),
    'rpstn': Model(
        RPSTNConfig,
        RPSTN,
        'Dang et al., Relation-Based Associative Joint Location for Human Pose Estimation in Videos, TIP 2022',
        _chain_presets(),
    ),
    'dkd': Model(
        DKDNetConfig,
        DKDNet,
        'Nie et al., Dynamic Kernel Distillation for Efficient Pose Estimation in Videos, ICCV 2019',
        _chain_presets(),
    ),
    'lstm_pm': Model(
        LSTMPMConfig,
        LSTMPM,
        'Luo et al., LSTM Pose Machines, CVPR 2018',
        {
            'medium': {'width': 64, 'features': 24, 'memory': 36},
            'small': {'width': 32, 'features': 16, 'memory': 24},
            'tiny': {'width': 8, 'features': 8, 'memory': 8},
        },
    ),
    'pose_resnet': Model(
        PoseResNetConfig,
        functools.partial(PerFrame, PoseResNet),
        'Xiao et al., Simple Baselines for Human Pose Estimation and Tracking, ECCV 2018',
        {
            'medium': {'depth': 18, 'width': 32, 'features': 96},
            'small': {'depth': 18, 'width': 16, 'features': 64},
            'tiny': {'depth': 18, 'width': 4, 'features': 8},
        },
    ),
    'hourglass': Model(
        HourglassConfig,
        functools.partial(PerFrame, Hourglass),
        'Newell et al., Stacked Hourglass Networks for Human Pose Estimation, ECCV 2016',
        {
            'medium': {'num_stacks': 2, 'features': 128},
            'small': {'num_stacks': 1, 'features': 64},
            'tiny': {'num_stacks': 1, 'features': 16},
        },
    ),
    'hrnet': Model(
        HRNetConfig,
        functools.partial(PerFrame, HRNet),
        'Sun et al., Deep High-Resolution Representation Learning for Human Pose Estimation, CVPR 2019',
        {
            'medium': {'width': 16, 'stem': 32, 'blocks': 2, 'modules': (1, 2, 2)},
            'small': {'width': 8, 'stem': 16, 'blocks': 1, 'modules': (1, 1, 1)},
            'tiny': {'width': 4, 'stem': 8, 'blocks': 1, 'modules': (1, 1, 1)},
        },
    ),
    'hanet': Model(
        HANetConfig,
        HANet,
        'Jin et al., Kinematic-aware Hierarchical Attention Network for Human Pose Estimation in Videos, WACV 2023',
        _presets(HANET_PRESETS),
        reads='poses',
    ),
}
VIDEO_MODELS = tuple(name for name, model in MODELS.items() if model.reads == 'frames')
GIVEN = ('num_joints', 'channels')  # fields of their configs that the data set gives
Dtype: TypeAlias = Literal['auto', 'float32', 'bfloat16']


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
    return _build(fields, 'frames', {'num_joints': num_joints}, dtype, seed)


def abstract_model(fields: Mapping[str, Any], *, num_joints: int, dtype: str = 'float32') -> VideoModel:
    """The same model without its arrays, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: build_model(fields, num_joints=num_joints, dtype=dtype))


def check_input_size(model: VideoModel, size: int) -> None:
    """Raises `InputError` where the heatmaps of crops of `size` pixels would not lie over them, cell by cell."""
    try:
        shape = nnx.eval_shape(
            lambda model, frames: model(frames).heatmaps, model, jax.ShapeDtypeStruct((1, 1, size, size, 3), jnp.float32)
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
    return _build({'name': 'hanet', **fields}, 'poses', {'channels': channels}, dtype, seed)


def abstract_refiner(fields: Mapping[str, Any], *, channels: int, dtype: str = 'float32') -> HANet:
    """The same without its arrays, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: build_refiner(fields, channels=channels, dtype=dtype))


def count_parameters(model: nnx.Module) -> int:
    """Trained parameters; BatchNorm statistics are not among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def network_name(model: VideoModel) -> str:
    """What a table calls the network: `KIMNet`, `PoseResNet`, ..."""
    return type(model.network if isinstance(model, PerFrame) else model).__name__


def compute_dtype(name: str) -> jnp.dtype:
    """`auto`: by `layers.platform`, bfloat16 on accelerators, float32 on CPU. Raises `InputError` on a name not in `Dtype`."""
    if name not in get_args(Dtype):
        raise InputError(f'config.dtype={name!r}: choose one of {", ".join(get_args(Dtype))}')
    if name == 'auto':
        name = 'float32' if platform() == 'cpu' else 'bfloat16'
    return jnp.dtype(name)


def _build(fields: Mapping[str, Any], reads: str, given: Mapping[str, int], dtype: str, seed: int) -> Any:
    fields = dict(fields)
    name = fields.pop('name', 'kimnet')
    known = [name for name, model in MODELS.items() if model.reads == reads]
    if name in MODELS and name not in known:
        other = 'refines poses, it reads no video: use kimnet_jax.refine, predict --refine'
        raise InputError(f'config.model.name={name!r} {other if reads == "frames" else "reads videos, it refines no poses"}')
    if name not in MODELS:
        raise InputError(f'config.model.name={name!r}: choose one of {", ".join(known)}')
    model = MODELS[name]
    names = {other: [*model_fields(other)][1:] for other in known}
    if unknown := sorted(set(fields) - set(names[name])):
        message = f'config.model.{unknown[0]}: no such field in {name!r}; known: {", ".join(names[name])}'
        if any(unknown[0] in others for others in names.values()):
            message += f'; for a config with just these give it the argument model={name}: --config FILE:model={name}'
        raise InputError(message)
    config: Any = make(model.config, {**fields, **given}, 'model', partial=True)
    try:
        return model.build(config, dtype=compute_dtype(dtype), rngs=nnx.Rngs(seed))
    except ValueError as error:
        raise InputError(f'config.model: {error}') from error


def model_fields(name: str, preset: str = 'full') -> dict[str, Any]:
    """`config.model` of a network: its name, and its fields in a preset's size; `full`: the paper's network."""
    config, presets = MODELS[name].config, MODELS[name].presets
    defaults = {field.name: field.default for field in dataclasses.fields(config) if field.name not in GIVEN}
    smaller = {} if preset == 'full' else {key: value for key, value in presets[preset].items() if key not in GIVEN}
    return {'name': name, **defaults, **smaller}
