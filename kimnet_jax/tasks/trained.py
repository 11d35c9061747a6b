"""A trained network wherever it lies: in the folder of a run, in a file of weights, or in the package under a name."""

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from kimnet_jax import pretrained
from kimnet_jax.core import paths
from kimnet_jax.core.calibration import Calibration, parse
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import read_file
from kimnet_jax.core.skeleton import Skeleton, get_skeleton, named_apart
from kimnet_jax.data_pipelines.poses import DIMS
from kimnet_jax.interop.convert import Weights, check_complete, describe, described, make_config
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.weight_files import read_weights, write_weights
from kimnet_jax.models import MODELS, PerFrame, VideoModel, abstract_model, abstract_refiner, compute_dtype
from kimnet_jax.models.weights import assign
from kimnet_jax.tasks.records import check_config
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.initial import NETWORK, unwrapped
from kimnet_jax.training.workdir import parse_record, read_config

Network = TypeVar('Network', bound=nnx.Module)
Section = TypeVar('Section')
RECORD, STEP = 'run', 'step'  # metadata of a file: the `config.json` of the run it is of, and the step
_LONGEST_STEP = 12  # digits


@dataclasses.dataclass(frozen=True)
class Trained:
    """Attributes:
    name: what messages and files call it: as the user gave it.
    config: the run's.
    skeleton: of its poses.
    step: of the checkpoint.
    arrays: parameters and statistics by path, without the prefix of `models.PerFrame`.
    folder: of the run; None where the weights are a file.
    conditions: of the training of a run (`training.conditions`); {} where the weights are a file.
    file: of the weights; None where they are a run's.
    """

    name: str
    config: Mapping[str, Any]
    skeleton: Skeleton
    step: int
    arrays: Mapping[str, np.ndarray]
    folder: pathlib.Path | None = None
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    file: pathlib.Path | None = None

    @property
    def kind(self) -> str:
        """`config.model.name`."""
        return self.config['model'].get('name', 'kimnet')

    @property
    def about(self) -> dict[str, Any]:
        """What files say of it."""
        return {'model': self.kind, 'weights': self.name, 'step': self.step}

    @property
    def calibration_file(self) -> pathlib.Path | None:
        """Where the calibration of its scores is kept: in the run, a file for each checkpoint, or beside the weights."""
        if self.folder is not None:
            return self.folder / 'calibration' / f'step_{self.step}.json'
        return None if self.file is None else self.file.with_suffix('.calibration.json')

    @property
    def digest(self) -> str | None:
        """SHA-256 of the file of the weights; None for those of a run."""
        return None if self.file is None else hashlib.sha256(self.file.read_bytes()).hexdigest()

    def calibration(self) -> Calibration | None:
        """That of its scores; None where `evaluate` has left none, or one of a file that was overwritten since (it warns).

        Raises `InputError` where the file is damaged.
        """
        file = self.calibration_file
        if file is None or not file.exists():
            return None
        found = parse(read_file(file), str(file))
        if found.about.get('weights') != self.digest:
            print(f'warning: {file} belongs to other weights, so it is not used; run evaluate on {self.name}', file=sys.stderr)
            return None
        return found

    @property
    def weights(self) -> Weights:
        """The network as `interop` takes it. Raises `InputError` where it has no twin in PyTorch."""
        fields = {key: value for key, value in self.config['model'].items() if key != 'name'}
        return Weights(self.kind, make_config(self.kind, fields | self._size), dict(self.arrays), self.skeleton.text)

    @property
    def _size(self) -> dict[str, int]:
        """What the data set gives of the network's config."""
        joints = self.skeleton.num_joints
        return {'channels': joints * DIMS[self.config['poses']['kind']]} if self.reads_poses else {'num_joints': joints}

    @property
    def reads_poses(self) -> bool:
        """Whether it refines poses, and reads no frames."""
        return self.kind in MODELS and MODELS[self.kind].reads == 'poses'

    def require_skeleton(self, other: Skeleton, source: str) -> None:
        """Raises `InputError` where the clips of `source` have other joints."""
        if other != self.skeleton:
            ours, theirs = named_apart(self.skeleton, other)
            raise InputError(f'{self.name}: finds the joints of {ours}, {source} has those of {theirs}')

    def section(self, kind: type[Section], name: str) -> Section:
        """A section of the config. Raises `InputError` naming the network and the field that is wrong."""
        try:
            return make(kind, self.config[name], name)
        except InputError as error:
            raise InputError(f'{self.name}: {error}') from error

    def load(self, dtype: str | None = None) -> VideoModel:
        """The network of videos in eval mode; `dtype` instead of `config.dtype`. Raises `InputError` where it is none."""
        if self.reads_poses:
            raise InputError(
                f'{self.name}: {self.kind!r} refines poses and reads no video; use it with kimnet_jax.refine or predict --refine'
            )
        return self.network(dtype)

    def network(self, dtype: str | None = None) -> Any:
        """The network, of whatever family, in eval mode; `dtype` instead of `config.dtype`. Raises `InputError`."""
        make_abstract: Any = abstract_refiner if self.reads_poses else abstract_model
        return _fill(
            make_abstract(self.config['model'], dtype=dtype or self.config['dtype'], **self._size), self.arrays, self.name
        )


def open_trained(reference: str | pathlib.Path, checkpoint: str = 'best') -> Trained:
    """A trained network.

    Args:
        reference: a name of `pretrained`, with or without the prefix `pretrained:`, the folder of a run, or a file that `pack`
            wrote. A name means the pretrained model also where a file or folder is called so: write `./NAME` for those.
        checkpoint: of a run: `best`, `last` or a step.

    Raises:
        InputError: there is no such thing, or it is damaged.
    """
    name = str(reference)
    known = name.removeprefix(pretrained.PREFIX)
    if known != name or known in pretrained.catalogue():
        return _of_file(pretrained.find(known), known)
    path = paths.folder(reference)
    if path.is_dir():
        return open_run(path, checkpoint)
    if path.is_file():
        return _of_file(path, name)
    names = ', '.join(pretrained.catalogue())
    raise InputError(f'{name}: not the folder of a run, a weight file or a pretrained model; the pretrained models are {names}')


def load_network(reference: str | pathlib.Path, checkpoint: str = 'best', *, dtype: str | None = None) -> nnx.Module:
    """A network with its weights, in eval mode, in one line.

    Args:
        reference: as of `open_trained`, or any file of weights that `kimnet_jax.convert` wrote in our naming.
        checkpoint: of a run: `best`, `last` or a step.
        dtype: of the convolutions; None: that of the run, or float32.

    Returns:
        A network of videos (`models.ChainNetwork`, `models.PerFrame`), `HANet`, or the part or backbone that the file holds.

    Raises:
        InputError: there is no such thing, it is damaged, or its file does not say which network it is of.
    """
    path = paths.folder(reference)
    if str(reference) not in pretrained.catalogue() and path.is_file():
        arrays, metadata, _ = read_weights(path)
        if RECORD not in metadata:
            weights = described(metadata, arrays, path)
            if weights is None:
                raise InputError(f'{path}: PyTorch weights; turn them into ours with kimnet_jax.convert')
            return _of_weights(weights, str(reference), dtype or 'float32')
    return open_trained(reference, checkpoint).network(dtype)


def _of_weights(weights: Weights, name: str, dtype: str) -> nnx.Module:
    if weights.network not in MODELS or getattr(weights.config, 'num_joints', 0) is None:  # a part, or a backbone without head
        return check_complete(weights)
    build, options = MODELS[weights.network].build, {'dtype': compute_dtype(dtype)}
    return _fill(nnx.eval_shape(lambda: build(weights.config, rngs=nnx.Rngs(0), **options)), weights.arrays, name)


def _fill(model: Network, arrays: Mapping[str, np.ndarray], name: str) -> Network:
    """An abstract network with weights by path, in eval mode. Raises `InputError` naming their source where they do not fit."""
    prefix = NETWORK if isinstance(model, PerFrame) else ''
    try:
        assign(model, {f'{prefix}{path}': array for path, array in arrays.items()})
    except InputError as error:
        raise InputError(f'{name}: {error}') from error
    model.eval()
    return model


def open_run(folder: pathlib.Path, checkpoint: str) -> Trained:
    """`open_trained` of the folder of a run."""
    config, skeleton = read_config(folder)
    source = str(folder / 'config.json')
    check_config(config, source)
    joints = _skeleton(skeleton, source)
    arrays, meta = Checkpoints(folder, read_only=True).read_weights(checkpoint)
    return Trained(str(folder), config, joints, meta['step'], unwrapped(arrays), folder, conditions=meta.get('conditions', {}))


def _of_file(file: pathlib.Path, name: str) -> Trained:
    arrays, metadata, _ = read_weights(file)
    if RECORD not in metadata:
        raise InputError(
            f'{name}: only weights, without the settings they were trained with; make a run of them '
            f'(kimnet_jax.train --config.init.model={name} --config.train.epochs=0), and give its folder'
        )
    source = f'{name}: metadata {RECORD!r}'
    config, skeleton = parse_record(metadata[RECORD], source)
    check_config(config, source)
    step = metadata.get(STEP, '0')
    if not (step.isdecimal() and step.isascii() and len(step) <= _LONGEST_STEP):
        raise InputError(f'{name}: metadata {STEP!r} is {step!r}, expected a number')
    return Trained(name, config, _skeleton(skeleton, source), int(step), arrays, file=file)


def _skeleton(stored: str | dict[str, Any], source: str) -> Skeleton:
    try:
        return get_skeleton(stored)
    except InputError as error:
        raise InputError(f'{source}: {error}') from error


def pack(trained: Trained, target: pathlib.Path, *, dtype: str = 'float16') -> None:
    """Writes a network and the settings it was trained with as one `.safetensors` or `.npz`.

    BatchNorm's statistics stay float32. `kimnet_jax.convert` and `init` of a config read the file too.
    """
    statistics = ('mean', 'var')
    arrays = {
        path: np.asarray(array, np.float32 if path.rpartition('.')[2] in statistics else dtype)
        for path, array in trained.arrays.items()
    }
    metadata: dict[str, str] = {}
    if trained.kind in NETWORKS:
        metadata = describe(trained.weights._replace(arrays=arrays))
    record = {'config': trained.config, 'skeleton': trained.skeleton.described()}
    metadata |= {'skeleton': trained.skeleton.text, RECORD: json.dumps(record), STEP: str(trained.step)}
    write_weights(target, arrays, metadata)
