"""Weights of a network between PyTorch and this package, strict on both sides, and the check that both compute the same."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, get_type_hints

import jax
import numpy as np
from flax import nnx

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.json_files import parse_json
from kimnet_jax.core.skeleton import get_skeleton
from kimnet_jax.interop import import_torch
from kimnet_jax.interop.networks import NETWORKS, Network
from kimnet_jax.interop.prefixes import prefixes_told
from kimnet_jax.interop.translation import placed, places, translate_back
from kimnet_jax.models.outputs import VideoOutput
from kimnet_jax.models.weights import assign, flatten

Arrays = Mapping[str, np.ndarray]
UNTOLD = {  # fields that the entries of some networks do not tell -> those networks
    field: [name for name in NETWORKS if field in NETWORKS[name].asked]
    for field in sorted({field for network in NETWORKS.values() for field in network.asked})
}
TOLERANCE = 1e-3  # of the outputs' relative error; float32 through the deepest network stays below 1e-4


class Weights(NamedTuple):
    """Our weights of a network: its name in the registry, its config, its arrays by path, its skeleton's name or ''."""

    network: str
    config: Any
    arrays: dict[str, np.ndarray]
    skeleton: str = ''


def from_torch(
    name: str, entries: Arrays, *, config: Any = None, given: Mapping[str, Any] = MappingProxyType({}), partial: bool = False
) -> tuple[Weights, list[str], list[str]]:
    """PyTorch's state_dict of a network as ours.

    Args:
        name: the network's, in the registry.
        entries: the state_dict.
        config: the network's; None: what the entries tell, and defaults.
        given: fields of it that count instead.
        partial: entries that the network does not have are left out, and parts of the network may stay unfilled.

    Returns:
        (the weights, lines for the user, paths of the network that stay unfilled).

    Raises:
        InputError: listing every entry that is not used, every path that nothing fills and every shape that differs.
    """
    network = NETWORKS[name]
    notes: list[str] = []
    if config is None:
        config = _read_config(name, entries)
        assumed = {field: getattr(config, field) for field in network.untold(config) if field not in given}
        if assumed:
            told = ', '.join(f'{field}={value!r}' for field, value in assumed.items())
            flags = ', '.join(f'--config.model.{field}' for field in assumed)
            notes.append(f'assumed, as the weights do not tell: {told}; if it is otherwise, give {flags}')
    if given:
        config = make_config(name, dataclasses.asdict(config) | dict(given))
    found, unused = places(entries, network.rules(config))
    arrays = placed(entries, found)
    shapes = _shapes(name, config)
    unused += [f'{key}: the network has no {path}' for key, (path, _) in found.items() if path and path not in shapes]
    unfilled = [path for path in shapes if path not in arrays]
    problems = [
        f'{key}: {entries[key].shape} there, {shapes[path]} in our order of axes here'
        for key, (path, _) in found.items()
        if path in shapes and arrays[path].shape != shapes[path]
    ]
    problems += [f'{path}: of type {array.dtype}' for path, array in arrays.items() if array.dtype.kind != 'f']
    if not partial:
        problems += [*unused, *(f'{path}: nothing fills it' for path in unfilled)]
    if problems:
        told = '' if arrays else f' {prefixes_told(list(entries))}'
        raise InputError('\n'.join([f'not the weights of {name!r}, {config}:{told}', *problems]))
    notes += _listed('left out, it has no effect', [key for key, place in found.items() if place.path is None])
    notes += [f'left out: {line}' for line in unused]
    return Weights(name, config, {path: array for path, array in arrays.items() if path in shapes}), notes, unfilled


def to_torch(weights: Weights, template: Arrays | None = None) -> tuple[dict[str, np.ndarray], list[str]]:
    """Ours as the state_dict that the twin, and the code of the public release, load strictly.

    Args:
        weights: ours.
        template: a state_dict of the same network, such as the file these weights came from: its keys are those written, and
            entries without effect have its values. None: the keys of the twin, and zeros (this needs torch).

    Returns:
        (the state_dict, lines for the user).

    Raises:
        InputError: listing all that does not fit.
    """
    network = NETWORKS[weights.network]
    keys = twin_entries(network, weights.config) if template is None else template
    translated = translate_back(weights.arrays, network.rules(weights.config), keys)
    source = 'zeros' if template is None else 'from the template'
    idle = [key for key, place in places(keys, network.rules(weights.config))[0].items() if place.path is None]
    return translated, _listed(f'written for the sake of the key, {source}', idle)


def twin_entries(network: Network, config: Any) -> dict[str, np.ndarray]:
    """A state_dict of the twin, all zeros. Raises `InputError` where torch is not installed."""
    torch = import_torch()
    with torch.device('meta'):  # shapes only
        entries = network.make_twin(config).state_dict()
    return {key: np.zeros(tensor.shape, str(tensor.dtype).removeprefix('torch.')) for key, tensor in entries.items()}


def check_complete(weights: Weights) -> nnx.Module:
    """The network with these weights, in eval mode. Raises `InputError` where they do not fill it exactly."""
    model = _abstract(weights.network, weights.config)
    assign(model, weights.arrays)
    model.eval()
    return model


def forward_error(weights: Weights, entries: Arrays) -> float:
    """Largest relative error of our outputs against the twin's, which has the PyTorch `entries`, on a small random batch.

    NaN where the outputs are beyond float32, there and here: nothing can be told from them then.

    Raises `InputError` where the twin does not take the entries, or the error is over `TOLERANCE`.
    """
    torch, network = import_torch(), NETWORKS[weights.network]
    twin = network.make_twin(weights.config)
    try:
        twin.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in entries.items()})
    except RuntimeError as error:
        raise InputError(f'the PyTorch network does not take the weights: {error}') from None
    twin.eval()
    random = np.random.default_rng(0)
    inputs = [random.standard_normal(shape, np.float32) for shape in network.inputs(weights.config)]
    with torch.no_grad():
        expected = twin(*(torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, -3) if x.ndim > 3 else x)) for x in inputs))
    with jax.default_matmul_precision('highest'):
        outputs = nnx.jit(lambda model, *inputs: model(*inputs))(check_complete(weights), *inputs)
    errors = []
    for ours, theirs in zip(_arrays(outputs), _arrays(expected), strict=True):
        reference = np.asarray(theirs, np.float64)
        reference = np.moveaxis(reference, -3, -1) if reference.ndim > 3 else reference
        if np.shape(ours) != reference.shape:
            raise InputError(f'the outputs differ in shape: {np.shape(ours)} here, {reference.shape} in PyTorch')
        if not np.isfinite(reference).all() and not np.isfinite(ours).all():
            return float('nan')
        errors.append(float(np.linalg.norm(np.asarray(ours, np.float64) - reference) / (np.linalg.norm(reference) or 1)))
    largest = max(errors)
    if not largest <= TOLERANCE:
        raise InputError(f'with the converted weights the outputs differ from those of PyTorch: relative error {largest:.1e}')
    return largest


def make_config(name: str, fields: Mapping[str, Any]) -> Any:
    """The config of the network `name` from plain fields, as JSON has them. Raises `InputError` on an unknown name or field."""
    if name not in NETWORKS:
        raise InputError(f'there is no network {name!r}; known: {", ".join(NETWORKS)}')
    return make(type(NETWORKS[name].presets['tiny']), fields, 'model', partial=True)


def given_fields(settings: Sequence[str]) -> dict[str, Any]:
    """What the command line gives as `--config.model.FIELD=VALUE`, by field. Raises `InputError` on fields not in `UNTOLD`."""
    fields: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.removeprefix('--').partition('=')
        field = name.removeprefix('config.model.')
        if not equals:
            raise InputError(f'{setting}: give it as {setting}=VALUE')
        if field not in UNTOLD:
            raise InputError(f'{name}: weights tell it, or no network has it; fields that can be given: {", ".join(UNTOLD)}')
        kind = get_type_hints(type(NETWORKS[UNTOLD[field][0]].presets['tiny']))[field]
        fields[field] = int(text) if kind is int and text.lstrip('-').isdecimal() else text
    return fields


def describe(weights: Weights, *, torch: bool = False) -> dict[str, str]:
    """The metadata of our files; `torch`: of those whose arrays have PyTorch's names and order of axes."""
    known = {'skeleton': weights.skeleton} if weights.skeleton else {}
    layout = {'layout': 'torch'} if torch else {}
    return {'network': weights.network, 'config': json.dumps(dataclasses.asdict(weights.config)), **known, **layout}


def described(metadata: Mapping[str, str], arrays: dict[str, np.ndarray], source: object) -> Weights | None:
    """The weights of a file of ours, None for one of PyTorch's. Raises `InputError` where the metadata is not ours."""
    known = stated(metadata, source)
    if known is None and any(key.endswith('.kernel') for key in arrays):
        raise InputError(f'{source}: it has our keys and no metadata that tells the network; write it with this command')
    return None if known is None or 'layout' in metadata else known._replace(arrays=arrays)


def stated(metadata: Mapping[str, str], source: object) -> Weights | None:
    """What a file that we wrote, in either layout, says of its weights, without them; None for a file of others.

    Raises `InputError` where the metadata is not ours.
    """
    if not {'network', 'config'} <= set(metadata):
        return None
    try:
        fields = parse_json(metadata['config'], 'config')
        if not isinstance(fields, dict):
            raise InputError('config is no object')
        skeleton = str(metadata.get('skeleton', ''))
        if skeleton:
            get_skeleton(skeleton)
        return Weights(metadata['network'], make_config(metadata['network'], fields), {}, skeleton)
    except InputError as error:
        raise InputError(f'{source}: metadata of another program or version: {error}') from None


def _read_config(name: str, entries: Arrays) -> Any:
    try:
        return NETWORKS[name].read_config({key: array.shape for key, array in entries.items()})
    except KeyError as error:
        raise InputError(f'not the weights of {name!r}: there is no {error.args[0]}; {prefixes_told(list(entries))}') from None
    except (ValueError, IndexError, TypeError) as error:  # of shapes that no such network has
        raise InputError(f'not the weights of {name!r}: {error}; {prefixes_told(list(entries))}') from None


def _abstract(name: str, config: Any) -> nnx.Module:
    try:
        return nnx.eval_shape(lambda: NETWORKS[name].module(config, rngs=nnx.Rngs(0)))
    except (ValueError, TypeError) as error:
        raise InputError(f'{name!r} cannot be of {config}: {error}') from None


@functools.cache
def _shapes(name: str, config: Any) -> dict[str, tuple[int, ...]]:
    variables = flatten(nnx.state(_abstract(name, config), (nnx.Param, nnx.BatchStat)))
    return {path: variable.shape for path, variable in variables.items()}


def _arrays(outputs: Any) -> list[Any]:
    """What both frameworks give: of a network of videos the heatmaps."""
    if isinstance(outputs, VideoOutput):
        return [outputs.heatmaps]
    outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
    return [output for output in outputs if not isinstance(output, dict)]


def _listed(text: str, keys: list[str]) -> list[str]:
    """One line for many keys."""
    counters = [key for key in keys if key.endswith('.num_batches_tracked')]
    others = [key for key in keys if not key.endswith('.num_batches_tracked')]
    named = [some_of(others)] if others else []
    named += [f'num_batches_tracked of {len(counters)} BatchNorms'] if counters else []
    return [f'{text}: {"; ".join(named)}'] if named else []
