"""PyTorch's checkpoints, opened safely: which dicts of weights a file has, and the one that is meant.

A file may hold a state_dict, or one or several of them beside anything that a training script stores: an optimizer, scores,
hyperparameters. Tensors and NumPy's arrays are rebuilt. Records of a few libraries (`_RECORDS`) are skipped, without their code.
All else is refused.
"""

import collections
import contextlib
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from kimnet_jax.core.array_files import PICKLED_ARRAYS, plain
from kimnet_jax.core.errors import InputError, some_of
from kimnet_jax.interop import import_torch

_USUAL = ('state_dict', 'model_state_dict', 'model', 'net')  # where training scripts nest the weights, in this order
_AVERAGED = re.compile(r'(?<![a-z])(ema|swa)(?![a-z])|EMA|Ema')  # names of averaged weights
_NOT_WEIGHTS = re.compile(r'optim|.*sched|(grad_)?scaler|amp(_|$)', re.IGNORECASE)  # tensors lie there, too
_DEEPEST = 4  # dicts within each other, the outermost included
_RECORDS = re.compile(  # what describes a training, and is not needed for its weights
    r'(argparse\.Namespace|collections\.defaultdict|(pathlib|datetime|enum|typing|uuid)\.\w[\w.]*'
    r'|(builtins\.)?(list|dict|tuple|int|float|str|bool|frozenset|slice|object)|copyreg\._reconstructor'
    r'|(pytorch_lightning|lightning|lightning_fabric|lightning_utilities|omegaconf|mmengine|mmcv|yacs|easydict|addict)\..+)'
)
_UNSAFE = re.compile(r'[Uu]nsupported (?:global: )?GLOBAL (\S+)')
_MOST_RECORDS = 64  # different classes in a file


class StateDict(NamedTuple):
    """Attributes:
    entries: NumPy arrays by PyTorch's names.
    versions: what PyTorch stores beside them (`state_dict._metadata`).
    notes: what was taken and what was left out, lines for the user.
    """

    entries: dict[str, np.ndarray]
    versions: Mapping[Any, Any]
    notes: list[str]


class _Aside:
    """Stands for a class in `_RECORDS`; in the place of its objects are counters, which PyTorch's reader fills like any dict."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return collections.Counter()


def read_state_dict(file: pathlib.Path, entry: str | None = None) -> StateDict:
    """The weights in a `.pth`, `.pt` or `.pth.tar`.

    Args:
        file: what `torch.save` wrote.
        entry: which, where there are several: a name as the notes and errors have it (`state_dict_ema`, `ema.module`), or `ema`:
            the averaged ones. None: the usual name, or else the only ones that are not averaged, or else the only ones.

    Raises:
        InputError: it cannot be read safely, holds no weights, or several and none is the usual one.
    """
    torch = import_torch()
    loaded = _load(file, torch)
    if not isinstance(loaded, dict):
        raise InputError(f'{file}: holds a {type(loaded).__name__}, not a state_dict')
    notes: list[str] = []
    if _is_weights(loaded, torch):
        if entry is not None:
            raise InputError(f'--entry={entry}: {file} is a single state_dict; leave the flag out')
        found = loaded
    else:
        weights = dict(_weights_in(loaded, torch))
        if not weights:
            raise InputError(f'{file}: no state_dict in it, nor under {", ".join(_USUAL)}; it holds {some_of(list(loaded))}')
        name = _choose(list(weights), entry, file)
        found = weights[name]
        notes.append(_told(name, list(weights), [str(key) for key in loaded]))
    entries, skipped = {}, []
    with damage(file):
        for key, value in found.items():
            array = _array(value, torch)
            if array is None or ('.' not in str(key) and not array.ndim and not isinstance(value, torch.Tensor)):
                skipped.append(str(key))
            else:
                entries[str(key)] = array
    if skipped:
        notes.append(f'left out, no weights: {some_of(skipped)}')
    versions = getattr(found, '_metadata', None)
    return StateDict(entries, versions if isinstance(versions, dict) else {}, notes)


def _load(file: pathlib.Path, torch: Any) -> Any:
    """Whatever `torch.save` wrote, by PyTorch's reader of weights, which knows the classes that it is told of and no others."""
    arrays = [(known, f'{module}.{name}') for (module, name), known in PICKLED_ARRAYS.items() if module.startswith('numpy')]
    aside: dict[str, type] = {}
    with damage(file), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of old formats, which torch reads all the same
        while True:
            records = [(kind, name) for name, kind in aside.items()]
            try:
                with torch.serialization.safe_globals([*arrays, *records]):
                    return torch.load(file, map_location='cpu', weights_only=True)
            except Exception as error:
                unsafe = _UNSAFE.search(str(error))
                name = unsafe[1] if unsafe else ''
                name = name if '.' in name else f'builtins.{name}'
                if name in aside or len(aside) == _MOST_RECORDS or not _RECORDS.fullmatch(name):
                    raise
                aside[name] = type('_Aside', (_Aside,), {})


def _weights_in(found: Mapping[Any, Any], torch: Any, path: str = '', depth: int = 1) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, dict) or _NOT_WEIGHTS.match(name):
            continue
        if _is_weights(value, torch):
            yield path + name, value
        elif depth < _DEEPEST:
            yield from _weights_in(value, torch, f'{path}{name}.', depth + 1)


def _is_weights(value: dict[Any, Any], torch: Any) -> bool:
    """Nothing but tensors and arrays, or some of them under names like `conv1.weight`."""
    arrays = {key for key, one in value.items() if isinstance(one, torch.Tensor | np.ndarray)}
    named = all(isinstance(key, str) for key in value)
    return bool(arrays) and named and (len(arrays) == len(value) or any('.' in key for key in arrays))


def _array(value: Any, torch: Any) -> np.ndarray | None:
    """A tensor, an array or a number as an array; None: none of these."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        if tensor.dtype == torch.bfloat16:  # which NumPy knows by way of ml_dtypes
            return tensor.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return np.asarray(plain(value))
    return None


def _choose(names: list[str], entry: str | None, file: pathlib.Path) -> str:
    averaged = [name for name in names if _AVERAGED.search(name)]
    if entry is not None:
        fitting = [name for name in names if name == entry] or [name for name in names if name.startswith(f'{entry}.')]
        fitting = fitting or (averaged if entry.lower() == 'ema' else [])
        if len(fitting) != 1:
            what = f'several: {", ".join(fitting)}' if fitting else f'no such weights; there are {", ".join(names)}'
            raise InputError(f'--entry={entry}: {what} in {file}')
        return fitting[0]
    for usual in _USUAL:
        if usual in names:
            return usual
    choice = [name for name in names if name not in averaged] or averaged
    if len(choice) > 1:
        raise InputError(f'{file}: several weights in it; choose one with --entry: {", ".join(names)}')
    return choice[0]


def _told(name: str, names: list[str], keys: list[str]) -> str:
    text = f'taken: {name}'
    text += ', averaged weights' if _AVERAGED.search(name) else ''
    others = [other for other in names if other != name]
    if others:
        text += f'; other weights, for --entry: {", ".join(others)}'
    elif _AVERAGED.search(name):
        text += ', as there are no others'
    held = {weights.partition('.')[0] for weights in names}
    left = [key for key in keys if key not in (*held, *names)]
    return text + (f'; left out: {", ".join(left)}' if left else '')


@contextlib.contextmanager
def damage(file: pathlib.Path) -> Iterator[None]:
    """Whatever a reader of weights raises, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f'{file}: cannot be read: cut short, or not such a file ({error})') from error
    except Exception as error:  # of pickle, zip, torch, safetensors, NumPy: on damaged files they raise all kinds
        text = str(error)
        unsafe = _UNSAFE.search(text)
        if unsafe:
            raise InputError(
                f'{file}: refused: it holds {unsafe[1]}, not only tensors, and to open it could run any code; none was run. '
                'If it is a whole pickled model, save its state_dict() instead, where its code is'
            ) from None
        if 'legacy .tar format' in text:
            raise InputError(f'{file}: a format of before PyTorch 0.1.10 that cannot be read safely: save it again') from None
        reason = re.search(r'WeightsUnpickler error:\s+(.+)', text)
        text = reason[1] if reason else text
        line = text.splitlines()[0].split('. ')[0] if text else type(error).__name__
        raise InputError(f'{file}: cannot be read: cut short, or not such a file ({line})') from error
