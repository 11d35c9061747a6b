"""Files of weights: PyTorch's checkpoints, safetensors and npz, to flat dicts of NumPy arrays and back.

Ours hold the keys of `translation.translate` (`layer1.0.conv1.kernel`) in .npz or .safetensors, and, as metadata, the network's
name in the registry, its config (JSON) and, where it is known, the name of the skeleton. Files that we write for PyTorch have the
same, and `layout`, which says so. An .npz has its metadata, as JSON, in
the comment of the zip archive, so that `numpy.load` gives the arrays alone.
"""

import collections
import contextlib
import io
import json
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from kimnet_jax.core.array_files import open_npz
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import draft_of, require_file
from kimnet_jax.core.json_files import check_texts, parse_json
from kimnet_jax.interop import import_torch

TORCH_SUFFIXES = ('.pth.tar', '.pth', '.pt')
PLAIN_SUFFIXES = ('.safetensors', '.npz')
_OURS = 'kimnet_jax'  # key of our metadata in a state_dict
_STATE_DICTS = ('state_dict', 'model_state_dict', 'model', 'net')  # where training scripts nest the weights, in this order


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


def read_weights(file: pathlib.Path) -> WeightFile:
    """Reads a file of any format; the prefix `module.` that all keys share is taken off.

    Nothing that a file holds is ever executed. Raises `InputError` where it cannot be read or holds no weights.
    """
    require_file(file)
    suffix = suffix_of(file)
    metadata: dict[str, str] = {}
    notes: list[str] = []
    if suffix in TORCH_SUFFIXES:
        entries, metadata = _read_torch(file, notes)
    elif suffix == '.npz':
        entries, metadata = _read_npz(file)
    else:
        entries, metadata = _read_safetensors(file)
    if not entries:
        raise InputError(f'{file}: no weights in it')
    while all(key.startswith('module.') for key in entries):
        entries = {key.removeprefix('module.'): array for key, array in entries.items()}
        notes.append("prefix 'module.' taken off")
    strange = [key for key, array in entries.items() if not _is_float(array) and array.dtype.kind not in 'biu']
    if strange:
        raise InputError(f'{file}: no numbers: {_some(strange)}; give a file of weights')
    converted = {str(array.dtype) for array in entries.values() if _is_float(array) and array.dtype != np.float32}
    if converted:
        notes.append(f'{", ".join(sorted(converted))} to float32')
    arrays = {key: array.astype(np.float32) if _is_float(array) else array for key, array in entries.items()}
    broken = [key for key, array in arrays.items() if not np.isfinite(array).all()]
    if broken:
        raise InputError(f'{file}: not finite: {_some(broken)}; the training diverged, or the file is damaged')
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


def _read_torch(file: pathlib.Path, notes: list[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    torch = import_torch()
    with _damage(file), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of old formats, which torch reads all the same
        with torch.serialization.safe_globals(_numpy_scalars()):
            loaded = torch.load(file, map_location='cpu', weights_only=True)
    if not isinstance(loaded, dict):
        raise InputError(f'{file}: holds a {type(loaded).__name__}, not a state_dict')
    if not _is_state_dict(loaded, torch):
        name = next((name for name in _STATE_DICTS if _is_state_dict(loaded.get(name), torch)), None)
        if name is None:
            raise InputError(f'{file}: no state_dict in it, nor under {", ".join(_STATE_DICTS)}; it holds {_some(list(loaded))}')
        others = [str(key) for key in loaded if key != name]
        notes.append(f'taken: {name}' + (f'; left out: {", ".join(others)}' if others else ''))
        loaded = loaded[name]
    with _damage(file):
        return {key: _to_numpy(tensor.detach(), torch) for key, tensor in loaded.items()}, _metadata_of(loaded)


def _metadata_of(state_dict: Any) -> dict[str, str]:
    """What `write_weights` told of a state_dict; nothing in those of others."""
    versions = getattr(state_dict, '_metadata', None)
    ours = versions.get(_OURS) if isinstance(versions, dict) else None
    return {str(key): str(value) for key, value in ours.items()} if isinstance(ours, dict) else {}


def _to_numpy(tensor: Any, torch: Any) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # which NumPy knows by way of ml_dtypes
        return tensor.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def _read_npz(file: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    arrays, comment = open_npz(file)
    if not comment.startswith(b'{'):
        return arrays, {}
    source = f'{file}: the comment of the archive'
    return arrays, dict(check_texts(parse_json(comment, source), source))


def _read_safetensors(file: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with _damage(file), safetensors.safe_open(file, 'np') as entries:
        return {key: entries.get_tensor(key) for key in entries.keys()}, entries.metadata() or {}  # noqa: SIM118


def _is_state_dict(value: Any, torch: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(tensor, torch.Tensor) for tensor in value.values())


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind == 'f' or array.dtype.name == 'bfloat16'


def _numpy_scalars() -> list[Any]:
    """What a score that was saved beside the weights needs: a number, no code."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = {type(np.dtype(kind)) for kind in ('f2', 'f4', 'f8', 'i4', 'i8', '?')}
    return [scalar, (scalar, 'numpy.core.multiarray.scalar'), np.dtype, *kinds]


@contextlib.contextmanager
def _damage(file: pathlib.Path) -> Iterator[None]:
    """Whatever a reader raises, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f'{file}: cannot be read: cut short, or not such a file ({error})') from error
    except Exception as error:  # of pickle, zip, torch, safetensors, NumPy: on damaged files they raise all kinds
        text = str(error)
        unsafe = re.search(r'[Uu]nsupported (?:global: )?GLOBAL (\S+)', text)
        if unsafe:
            raise InputError(
                f'{file}: refused: it holds {unsafe[1]}, not only tensors, and to open it could run any code; none was run. '
                'If it is a whole pickled model, save its state_dict() instead, where its code is'
            ) from None
        if 'legacy .tar format' in text:
            raise InputError(f'{file}: a format of before PyTorch 0.1.10 that cannot be read safely: save it again') from None
        line = text.splitlines()[0].split('. ')[0] if text else type(error).__name__
        raise InputError(f'{file}: cannot be read: cut short, or not such a file ({line})') from error


def _some(names: list[Any]) -> str:
    return ', '.join(map(str, names[:6])) + (f' and {len(names) - 6} more' if len(names) > 6 else '')
