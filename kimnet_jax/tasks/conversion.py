"""Weights from and to PyTorch (docs/weights.md)."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import SKELETONS, Skeleton, get_skeleton, named_apart
from kimnet_jax.interop import has_torch, pixels
from kimnet_jax.interop.convert import (
    Weights,
    check_complete,
    describe,
    described,
    forward_error,
    from_torch,
    stated,
    to_torch,
)
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.prefixes import fitted
from kimnet_jax.interop.weight_files import PLAIN_SUFFIXES, TORCH_SUFFIXES, read_weights, suffix_of, write_weights
from kimnet_jax.tasks.trained import open_run


@dataclasses.dataclass(frozen=True)
class ConversionRequest:
    """Attributes:
    source: file of weights, or the folder of a run.
    target: file to write; its ending gives the format.
    model: which network; None: files of ours and runs tell it.
    to: whose keys and layout to write; None: the other one than the source has.
    entry: which of the weights of a PyTorch file that holds several.
    part: take only the entries under this PyTorch name.
    partial: leave out entries that the network does not have, and parts of it unfilled.
    pixels: the release whose images the weights expect; None: images as ours.
    template: the PyTorch file that the weights came from, whose keys are written.
    skeleton: whose joints the weights have: a known name, or a TOML file; None: runs and files of ours tell it.
    fields: of the network's config, which count instead of what the weights tell or leave open.
    checkpoint: of a run: `best`, `last` or a step.
    verify: compare the outputs of both frameworks, where PyTorch is installed.
    overwrite: replace the target if it exists.
    """

    source: pathlib.Path
    target: pathlib.Path
    model: str | None = None
    to: Literal['flax', 'torch'] | None = None
    entry: str | None = None
    part: str | None = None
    partial: bool = False
    pixels: str | None = None
    template: pathlib.Path | None = None
    skeleton: str | None = None
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    checkpoint: str = 'best'
    verify: bool = True
    overwrite: bool = False


def convert(request: ConversionRequest) -> None:
    """Reads, translates, checks and writes. Raises `InputError`."""
    source, target = request.source, request.target
    if request.model not in (None, *NETWORKS):
        raise InputError(f'--model={request.model}: choose one of {", ".join(NETWORKS)}')
    if target.exists() and not request.overwrite:
        raise InputError(f'{target} already exists: choose another name, or pass --overwrite')
    asked = _skeleton(request.skeleton) if request.skeleton is not None else None
    weights, entries, notes, known = _read(source, request)
    to = request.to or ('flax' if weights is None else 'torch')
    _check_flags(request, weights, known, target, to)
    if asked is not None and known is not None and known.skeleton and get_skeleton(known.skeleton) != asked:
        wanted, there = named_apart(asked, get_skeleton(known.skeleton))
        raise InputError(f'--skeleton={request.skeleton}: the joints of {source} are those of {there}, not of {wanted}')
    name = request.model or (known.network if known else '')
    skeleton = asked.text if asked is not None else known.skeleton if known else ''
    if weights is not None:
        check_complete(weights)

    # by way of PyTorch's entries, unless ours are only copied
    unfilled: list[str] = []
    if weights is None or to == 'torch' or request.part:
        if weights is not None:
            template = fitted(weights.network, read_weights(request.template).arrays)[0] if request.template else None
            entries, lines = to_torch(weights, template)
            notes += lines
        if request.part:
            entries = _part(entries, request.part)
        entries, lines = fitted(name, entries)
        notes += lines
        config = known.config if known is not None and not request.part and known.network == name else None
        weights, lines, unfilled = from_torch(name, entries, config=config, given=request.fields, partial=request.partial)
        notes += lines
        if request.pixels:
            entries = pixels.fold_pixels(entries, name, pixels.RELEASED[request.pixels])
            weights, _, _ = from_torch(name, entries, config=weights.config, partial=request.partial)
            notes.append('the first layer now accepts our images: R, G, B, normalised with the statistics of R, G, B')

    # checks, then the file
    weights = weights._replace(skeleton=skeleton)
    _check_joints(weights)
    for line in (*notes, *(f'stays unfilled: {path}' for path in unfilled), f'{weights.network}: {weights.config}'):
        print(line)
    if entries and not unfilled:
        check_complete(weights)
    if request.verify and entries and not request.partial and has_torch():
        error = forward_error(weights, entries)
        agreed = f'the outputs agree with PyTorch: relative error {error:.1e}'
        print(
            'not compared: on random inputs the outputs of these weights overflow, in PyTorch too' if error != error else agreed
        )
    arrays = entries if to == 'torch' else weights.arrays
    write_weights(target, arrays, describe(weights, torch=to == 'torch'))
    print(f'{len(arrays)} arrays written to {target}')


def _read(
    source: pathlib.Path, request: ConversionRequest
) -> tuple[Weights | None, dict[str, np.ndarray], list[str], Weights | None]:
    """(ours, none, notes, ours), or (None, PyTorch's entries, notes, what the file says of them)."""
    if source.is_dir():
        if request.entry is not None:
            raise InputError(f'--entry={request.entry}: only a PyTorch checkpoint can hold several weights; {source} is a run')
        found = open_run(source, request.checkpoint)
        return found.weights, {}, [f'checkpoint {found.step} of {source}'], found.weights
    if request.checkpoint != 'best' and source.is_file():
        raise InputError(f'--checkpoint is for the folder of a run, which {source} is not')
    arrays, metadata, notes = read_weights(source, request.entry)
    weights = described(metadata, arrays, source)
    return weights, {} if weights else arrays, notes, stated(metadata, source)


def _part(entries: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    prefix = name.rstrip('.') + '.'
    part = {key.removeprefix(prefix): array for key, array in entries.items() if key.startswith(prefix)}
    if not part:
        names = dict.fromkeys(key.partition('.')[0] for key in entries)
        raise InputError(f'--part={name}: no such part; there are {", ".join(names)}')
    return part


def _check_flags(
    request: ConversionRequest, weights: Weights | None, known: Weights | None, target: pathlib.Path, to: str
) -> None:
    """What would come to light too late, or never."""
    if suffix_of(target) in TORCH_SUFFIXES and to == 'flax':
        raise InputError(f'{target}: our weights are written as {" or ".join(PLAIN_SUFFIXES)}; for PyTorch, pass --to=torch')
    if request.model is None and (known is None or request.part):
        raise InputError(f'--model is needed: one of {", ".join(NETWORKS)}')
    partial = request.part or (request.partial and weights is None)
    if known is not None and request.model not in (None, known.network) and not partial:
        raise InputError(f'--model={request.model}: {request.source} contains a {known.network}; use --part to take a part of it')
    if request.fields and known is not None and known.network == (request.model or known.network) and not request.part:
        raise InputError(f'--config.model.{next(iter(request.fields))}: {request.source} says itself what it is')
    if request.template and (weights is None or not (request.part or to == 'torch')):
        raise InputError('--template is for converting our weights to PyTorch')
    if request.partial and to == 'torch':
        raise InputError('--partial is for converting to our weights; a PyTorch file is always written in full')
    if request.pixels and (weights is not None or request.model not in pixels.FOLDABLE):
        raise InputError(f'--pixels is for the PyTorch weights of {", ".join(pixels.FOLDABLE)}')


def _skeleton(text: str) -> Skeleton:
    """Of `--skeleton`. Raises `InputError` where it is neither a known name nor a file that describes one."""
    if text in SKELETONS:
        return SKELETONS[text]
    file = pathlib.Path(text).expanduser()
    if file.suffix != '.toml':
        raise InputError(f'--skeleton={text}: choose one of {", ".join(sorted(SKELETONS))}, or give a TOML file with your joints')
    from kimnet_jax.data_pipelines.builders.coco_keypoints.settings import read_skeleton  # with it comes TFDS

    return read_skeleton(file)


def _check_joints(weights: Weights) -> None:
    joints = getattr(weights.config, 'num_joints', None)  # HANet has channels, a network of features has none
    if not weights.skeleton or joints is None:
        return
    skeleton = get_skeleton(weights.skeleton)
    if joints != skeleton.num_joints:
        raise InputError(f'--skeleton={skeleton.name}: it has {skeleton.num_joints} joints, these weights have {joints}')


def list_networks() -> None:
    """Prints what can be converted."""
    for name, network in NETWORKS.items():
        print(f'{name:17s} {network.origin}')
    print(f'PyTorch: {", ".join((*TORCH_SUFFIXES, *PLAIN_SUFFIXES))}; ours: {", ".join(PLAIN_SUFFIXES)}, or the folder of a run')
