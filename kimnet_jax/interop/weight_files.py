"""Files of weights: PyTorch's checkpoints, safetensors and npz, to flat dicts of NumPy arrays and back.

Ours hold the keys of `translation.translate` (`layer1.0.conv1.kernel`) in .npz or .safetensors, and, as metadata, the network's
name in the registry, its config (JSON) and, where it is known, the name of the skeleton. Files that we write for PyTorch have the
same, and `layout`, which says so. An .npz has its metadata, as JSON, in
the comment of the zip archive, so that `numpy.load` gives the arrays alone.
"""

import collections
import io
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from kimnet_jax.core.array_files import open_npz
from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.core.files import draft_of, require_file
from kimnet_jax.core.json_files import check_texts, parse_json
from kimnet_jax.core.paths import is_remote
from kimnet_jax.interop import import_torch
from kimnet_jax.interop.prefixes import without_wrappers
from kimnet_jax.interop.torch_files import damage, read_state_dict

TORCH_SUFFIXES = ('.pth.tar', '.pth', '.pt')
PLAIN_SUFFIXES = ('.safetensors', '.npz')
_OURS = 'kimnet_jax'  # key of our metadata in a state_dict


class WeightFile(NamedTuple):
    """Attributes:
    arrays: flat, floating ones float32.
    metadata: text by name; ours have `network` and `config`, `skeleton` where it is known, and `layout` if it is PyTorch's.
    notes: what was left out or changed in reading, lines for the user.
    """

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]
    notes: list[str]


def suffix_of(file: pathlib.Path) -> str:
    """The format by the file's name. Raises `InputError` where it has none of the known endings."""
    for suffix in (*TORCH_SUFFIXES, *PLAIN_SUFFIXES):
        if file.name.lower().endswith(suffix):
            return suffix
    raise InputError(f'{file}: the name must end in one of {", ".join((*TORCH_SUFFIXES, *PLAIN_SUFFIXES))}')


def read_weights(file: pathlib.Path, entry: str | None = None) -> WeightFile:
    """Reads a file of any format; what PyTorch's wrappers add to names is taken off (`prefixes.without_wrappers`).

    Nothing that a file holds is ever executed.

    Args:
        file: the file.
        entry: which of the weights of a PyTorch checkpoint that holds several (`torch_files.read_state_dict`).

    Raises:
        InputError: it cannot be read, or holds no weights.
    """
    if is_remote(file):
        raise InputError(f'{file}: weights are read from files of this machine; copy it here first')
    require_file(file)
    suffix = suffix_of(file)
    metadata: dict[str, str] = {}
    notes: list[str] = []
    if suffix in TORCH_SUFFIXES:
        entries, versions, notes = read_state_dict(file, entry)
        metadata = _metadata_of(versions)
    elif entry is not None:
        raise InputError(f'--entry={entry}: only a PyTorch checkpoint can hold several weights; {file} is none')
    elif suffix == '.npz':
        entries, metadata = _read_npz(file)
    else:
        entries, metadata = _read_safetensors(file)
    if not entries:
        raise InputError(f'{file}: no weights in it')
    entries, told = without_wrappers(entries)
    notes += told
    strange = [key for key, array in entries.items() if not _is_float(array) and array.dtype.kind not in 'biu']
    if strange:
        raise InputError(f'{file}: no numbers: {some_of(strange)}; give a file of weights')
    converted = {str(array.dtype) for array in entries.values() if _is_float(array) and array.dtype != np.float32}
    if converted:
        notes.append(f'{", ".join(sorted(converted))} to float32')
    arrays = {key: array.astype(np.float32) if _is_float(array) else array for key, array in entries.items()}
    broken = [key for key, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise InputError(f'{file}: not finite: {some_of(broken)}; the training diverged, or the file is damaged')
    return WeightFile(arrays, metadata, notes)


def write_weights(file: pathlib.Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Writes a file, whole or not at all. In PyTorch's formats it is a plain state_dict, whose versions hold the metadata.

    Raises `InputError` where a folder is in its place.
    """
    suffix = suffix_of(file)
    arrays = {key: np.ascontiguousarray(array).reshape(array.shape) for key, array in arrays.items()}
    save: Callable[[str], Any]
    if suffix in TORCH_SUFFIXES:
        torch = import_torch()

        def save(name: str) -> None:
            state_dict = collections.OrderedDict((key, torch.from_numpy(array.copy())) for key, array in arrays.items())
            if metadata:  # where PyTorch keeps the versions of modules by name; `load_state_dict` asks only for its own
                state_dict._metadata = {_OURS: dict(metadata)}  # type: ignore[attr-defined]
            stream = io.BytesIO()  # a full disk is an error of ours then, and not one of torch's
            torch.save(state_dict, stream)
            pathlib.Path(name).write_bytes(stream.getbuffer())
    elif suffix == '.npz':

        def save(name: str) -> None:
            with open(name, 'wb') as stream:  # given a name, NumPy adds the ending
                np.savez(stream, allow_pickle=False, **arrays)
            with zipfile.ZipFile(name, 'a') as archive:
                archive.comment = json.dumps(dict(metadata)).encode()
    else:

        def save(name: str) -> None:
            pathlib.Path(name).write_bytes(safetensors.numpy.save(arrays, dict(metadata) or None))

    with draft_of(file) as draft:
        save(str(draft))


def _metadata_of(versions: Mapping[Any, Any]) -> dict[str, str]:
    """What `write_weights` told of a state_dict; nothing in those of others."""
    ours = versions.get(_OURS)
    return {str(key): str(value) for key, value in ours.items()} if isinstance(ours, dict) else {}


def _read_npz(file: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays, comment = open_npz(file)
    if not comment.startswith(b'{'):
        return arrays, {}
    source = f'{file}: the comment of the archive'
    return arrays, dict(check_texts(parse_json(comment, source), source))


def _read_safetensors(file: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with damage(file), safetensors.safe_open(file, 'np') as entries:
        return {key: entries.get_tensor(key) for key in entries.keys()}, entries.metadata() or {}  # noqa: SIM118


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == 'f' or array.dtype.name == 'bfloat16'
