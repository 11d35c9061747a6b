"""The typed reader of what a run says of itself: the sections of `config.json` by which its network is used."""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines.poses import NoiseConfig, PoseConfig
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.models import MODELS, Dtype
from kimnet_jax.training import evaluation, refinement_steps
from kimnet_jax.training.steps import TargetConfig


@dataclasses.dataclass(frozen=True)
class _OfVideos:
    data: DataConfig
    target: TargetConfig
    eval: evaluation.EvalConfig


@dataclasses.dataclass(frozen=True)
class _OfPoses:
    poses: PoseConfig
    noise: NoiseConfig
    loss: refinement_steps.LossConfig
    eval: refinement_steps.EvalConfig


_SECTIONS: Mapping[str, Any] = {'frames': _OfVideos, 'poses': _OfPoses}  # by what networks read
_OF_TRAINING = ('dataset', 'init', 'optimizer', 'train')  # judged where they are read: their modules take longer to import


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Raises `InputError` naming `source` and the field where the config of a run is none that `train` writes.

    The fields of the network are judged when it is made of them.
    """
    try:
        model = config.get('model')
        if not isinstance(model, Mapping):
            raise InputError("config: section 'model' is missing")
        name = model.get('name', 'kimnet')
        if not isinstance(name, str) or name not in MODELS:
            raise InputError(f'config.model.name={name!r}: choose one of {", ".join(MODELS)}')
        if config.get('dtype') not in get_args(Dtype):
            raise InputError(f'config.dtype={config.get("dtype")!r}: choose one of {", ".join(get_args(Dtype))}')
        if type(config.get('seed')) is not int:
            raise InputError(f'config.seed={config.get("seed")!r}: must be of type int')
        kind = _SECTIONS[MODELS[name].reads]
        make(kind, {field.name: config[field.name] for field in dataclasses.fields(kind) if field.name in config})
        for section in _OF_TRAINING:
            if not isinstance(config.get(section), Mapping):
                raise InputError(f'config: section {section!r} is missing')
    except InputError as error:
        raise InputError(f'{source}: {error}') from error
