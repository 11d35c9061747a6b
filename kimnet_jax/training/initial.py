"""Weights that a run begins with: of an earlier run, or of a file in our naming."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from flax import nnx

from kimnet_jax.core.errors import InputError
from kimnet_jax.training.checkpoint import Checkpoints

SUFFIXES = ('.npz', '.safetensors')
NETWORK = 'network.'  # where a run of a network of single images has it (`models.PerFrame`), and an encoder with an adapter
Initialise = Callable[..., list[str]]  # `models.weights.initialise`
ReadFile = Callable[[pathlib.Path], Mapping[str, np.ndarray]]  # of `interop.weight_files`


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Sources of weights, each the folder of a run (its best checkpoint) or a file, `.npz` or `.safetensors`; '': random ones.

    Attributes:
        model: of the whole network.
        pose_initializer, feature_encoder: of these parts of KIMNet; they come after `model`.
        partial: layers that a source has nothing of, such as the upsampling of a plain backbone, may stay random.
    """

    model: str = ''
    pose_initializer: str = ''
    feature_encoder: str = ''
    partial: bool = False


def initialise_parts(model: nnx.Module, config: InitConfig, initialise: Initialise, read_file: ReadFile) -> list[str]:
    """Fills a model, or parts of it, from their sources.

    Args:
        model: with random weights.
        config: the sources.
        initialise: (module, arrays by path, partial=...) -> what the user is to know.
        read_file: file -> arrays by path.

    Returns:
        For each source a line that says what it gave, and lines of what was left out.

    Raises:
        InputError: naming the config field: there is no such part or source, it cannot be read, or it does not fit (all listed).
    """
    lines = []
    for field in ('model', 'pose_initializer', 'feature_encoder'):
        source = getattr(config, field)
        if not source:
            continue
        where = f'config.init.{field}={source}'
        part = model if field == 'model' else getattr(model, field, None)
        if part is None:
            raise InputError(f'{where}: {type(model).__name__} has no such part; give config.init.model for a whole network')
        part = getattr(part, 'network', part)
        try:
            arrays, name = read_source(pathlib.Path(source).expanduser(), read_file)
            told = initialise(part, arrays, partial=config.partial)
        except InputError as error:
            raise InputError(f'{where}: {error}') from error
        lines += [f'{field}: weights of {name}', *(f'{field}: {line}' for line in told)]
    return lines


def read_source(source: pathlib.Path, read_file: ReadFile) -> tuple[Mapping[str, np.ndarray], str]:
    """(arrays by path, what they are) of a run's best checkpoint, the average where there is one, or of a file.

    Raises `InputError` where there is no such thing, or it is damaged.
    """
    if source.is_dir():
        arrays, meta = Checkpoints(source, read_only=True).read_weights('best')
        if all(path.startswith(NETWORK) for path in arrays):
            arrays = {path.removeprefix(NETWORK): array for path, array in arrays.items()}
        return arrays, f'{source.resolve()}, checkpoint of step {meta["step"]}'
    if not source.is_file():
        raise InputError('there is no such run or file')
    if source.suffix not in SUFFIXES:
        raise InputError(f'a file of weights ends with {" or ".join(SUFFIXES)}; make one with kimnet_jax.convert')
    return read_file(source), str(source.resolve())
