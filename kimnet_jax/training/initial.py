"""Weights that a run begins with: of an earlier run, or of a file in our naming."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx

from kimnet_jax import pretrained
from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import get_skeleton
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.workdir import read_config

SUFFIXES = ('.npz', '.safetensors')
NETWORK = 'network.'  # where a run of a network of single images has it (`models.PerFrame`), and an encoder with an adapter
Initialise = Callable[..., list[str]]  # `models.weights.initialise`, given the joints of the model
PartOf = Callable[[nnx.Module, str], nnx.Module | None]  # of `models.weights`
ReadFile = Callable[[pathlib.Path], tuple[Mapping[str, np.ndarray], Mapping[str, str], Any]]  # of `interop.weight_files`


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Sources of weights; '': random ones. Each is the folder of a run (its best checkpoint), a file, `.npz` or `.safetensors`,
    or `pretrained:NAME`, weights that travel with the package.

    Attributes:
        model: source of the weights of the whole network; empty: random ones.
        pose_initializer: of this part of KIMNet; it comes after `model`.
        feature_encoder: of this part of KIMNet; it comes after `model`.
        partial: layers that a source has nothing of, such as the upsampling of a plain backbone, may stay random.
    """

    model: str = ''
    pose_initializer: str = ''
    feature_encoder: str = ''
    partial: bool = False


def initialise_parts(
    model: nnx.Module,
    config: InitConfig,
    initialise: Initialise,
    read_file: ReadFile,
    part_of: PartOf,
    larger: Callable[[], nnx.Module] | None = None,
) -> list[str]:
    """Fills a model, or parts of it, from their sources.

    Args:
        model: with random weights.
        config: the sources.
        initialise: (module, arrays by path, partial=..., source_skeleton=..., larger=...) -> what the user is to know.
        read_file: file -> (arrays by path, metadata, ...).
        part_of: (model, field of `config`) -> the module that it initialises, None where there is none.
        larger: gives the model for one joint more, abstract; None: joints are not told apart.

    Returns:
        For each source a line that says what it gave, and lines of what was left out or carried over by name.

    Raises:
        InputError: naming the config field: there is no such part or source, it cannot be read, or it does not fit (all listed).
    """
    lines = []
    for field in ('model', 'pose_initializer', 'feature_encoder'):
        source = getattr(config, field)
        if not source:
            continue
        where = f'config.init.{field}={source}'
        part = part_of(model, field)
        if part is None:
            raise InputError(f'{where}: {type(model).__name__} has no such part; give config.init.model for a whole network')
        try:
            arrays, skeleton, name = read_source(source, read_file)
            told = initialise(
                part,
                arrays,
                partial=config.partial,
                source_skeleton=get_skeleton(skeleton) if skeleton else None,
                larger=part_of(larger(), field) if larger else None,
            )
        except InputError as error:
            raise InputError(f'{where}: {error}') from error
        lines += [f'{field}: weights of {name}', *(f'{field}: {line}' for line in told)]
    return lines


def unwrapped(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a run by path, without the prefix that they have where the network of the run is wrapped (`NETWORK`)."""
    wrapped = all(path.startswith(NETWORK) for path in arrays)
    return {path.removeprefix(NETWORK) if wrapped else path: array for path, array in arrays.items()}


def read_source(text: str, read_file: ReadFile) -> tuple[Mapping[str, np.ndarray], str | dict[str, Any], str]:
    """(arrays by path, their skeleton as stored or '', what they are) of a run's best checkpoint, the average if any, or a file.

    Raises `InputError` where there is no such thing, or it is damaged.
    """
    name = text.removeprefix(pretrained.PREFIX)
    source = pretrained.find(name) if name != text else paths.folder(text)
    if source.is_dir():
        arrays, meta = Checkpoints(source, read_only=True).read_weights('best')
        arrays = unwrapped(arrays)
        skeleton = read_config(source)[1] if (source / 'config.json').exists() else ''  # copied without it
        return arrays, skeleton, f'{source.resolve()}, checkpoint of step {meta["step"]}'
    if not source.is_file():
        raise InputError('there is no such run or file')
    if source.suffix not in SUFFIXES:
        raise InputError(f'a file of weights ends with {" or ".join(SUFFIXES)}; make one with kimnet_jax.convert')
    weights, metadata, _ = read_file(source)
    return weights, str(metadata.get('skeleton', '')), text if name != text else str(source.resolve())
