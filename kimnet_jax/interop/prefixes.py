"""What lies before the names of a network's entries: wrappers that it was trained in, and the parts of MMPose's estimators."""

import collections
from collections.abc import Iterator, Mapping

import numpy as np

from kimnet_jax.core.errors import some_of
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.translation import places

Arrays = Mapping[str, np.ndarray]
_ANYWHERE = ('_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')  # of torch.compile, FSDP, checkpointing
_WRAPPER = 'module'  # of DataParallel and of averaged models
_HOLDERS = (_WRAPPER, 'model', 'net', 'network')  # under which modules of Lightning and others hold the network
_MMPOSE = ('backbone', ('keypoint_head', 'head'))
_MOST = 8  # prefixes one after the other


def without_wrappers(entries: Arrays) -> tuple[dict[str, np.ndarray], list[str]]:
    """Names as the network itself has them, and lines for the user.

    The names of `torch.compile` and FSDP are taken off wherever they are, `module.` where all names begin with it. Averaged
    models count their updates beside, under a name without prefix; the count is left out.
    """
    notes, found = [], dict(entries)
    for name in _ANYWHERE:
        if any(name in key.split('.') for key in found):
            shorter = _without_part(found, name)
            if shorter is not None:
                found = shorter
                notes.append(f'{name + "."!r} taken out of the names')
    while (shorter := _without_shared(found, _WRAPPER, notes)) is not None:
        found = shorter
    return found, notes


def fitted(name: str, entries: Arrays) -> tuple[dict[str, np.ndarray], list[str]]:
    """The entries under the names that the network `name` has, where prefixes are all that is in the way; lines for the user.

    Of all views of the names the first that the network takes to the last entry is chosen, otherwise the one of which it takes
    most: as they are; without prefixes that all share, or that holders of networks have (`model.`, `net.`); MMPose's `backbone.`
    and `keypoint_head.` or `head.` as one network.
    """
    best: tuple[dict[str, np.ndarray], list[str]] = dict(entries), []
    most = -1
    for view, notes in _views(dict(entries)):
        taken, problems = _fit(name, view)
        if taken and not problems:
            return view, notes
        if taken > most:
            best, most = (view, notes), taken
    return best


def prefixes_told(keys: list[str]) -> str:
    """For the user: which prefixes the names have, some names, and what to do."""
    counts = collections.Counter(key.partition('.')[0] for key in keys if key.count('.') > 1)
    if not counts:
        return f'there are {some_of(keys)}'
    common = ', '.join(f'{prefix}. ({count})' for prefix, count in counts.most_common(6))
    remedy = f'if the network is one of these parts, name it, as in --part={counts.most_common(1)[0][0]}'
    return f'the names begin with {common}, as {some_of(keys)} do; {remedy}'


def _views(entries: dict[str, np.ndarray]) -> Iterator[tuple[dict[str, np.ndarray], list[str]]]:
    notes: list[str] = []
    for _ in range(_MOST):
        views = [(entries, list(notes))]
        inner = _without_part(entries, _WRAPPER)  # of parts that were wrapped one by one
        if inner is not None and inner.keys() != entries.keys():
            views.append((inner, [*notes, f"'{_WRAPPER}.' taken out of the names"]))
        for view, told in views:
            yield view, told
            joined = _mmpose(view)
            if joined is not None:
                yield joined, [*told, "MMPose's backbone and head joined"]
        shorter = _without_first(entries, notes)
        if shorter is None:
            return
        entries = shorter


def _fit(name: str, entries: Arrays) -> tuple[int, int]:
    """(entries that the network takes, entries that it does not)."""
    network = NETWORKS[name]
    try:
        config = network.read_config({key: array.shape for key, array in entries.items()})
    except (KeyError, ValueError, IndexError, TypeError):  # no such network
        return 0, len(entries)
    found, problems = places(entries, network.rules(config))
    return len(found), len(problems)


def _without_first(entries: dict[str, np.ndarray], notes: list[str]) -> dict[str, np.ndarray] | None:
    """Without the first part of the names, where all share it or most have that of a holder; None: there is none."""
    counts = collections.Counter(key.partition('.')[0] for key in entries if '.' in key)
    if not counts:
        return None
    prefix, count = counts.most_common(1)[0]
    shorter = _without_shared(entries, prefix, notes)
    if shorter is not None or prefix not in _HOLDERS or 2 * count < len(entries):
        return shorter
    held = {key.removeprefix(f'{prefix}.'): array for key, array in entries.items()}
    if len(held) < len(entries):
        return None
    notes.append(f"prefix '{prefix}.' taken off")
    return held


def _without_shared(entries: dict[str, np.ndarray], prefix: str, notes: list[str]) -> dict[str, np.ndarray] | None:
    """Without a prefix that all have but counters, which go; None: not all have it."""
    counters = [key for key, array in entries.items() if '.' not in key and not np.ndim(array)]
    held = [key for key in entries if key not in counters]
    if not held or not all(key.startswith(f'{prefix}.') for key in held):
        return None
    notes.append(f"prefix '{prefix}.' taken off" + (f', left out beside it: {some_of(counters)}' if counters else ''))
    return {key.removeprefix(f'{prefix}.'): entries[key] for key in held}


def _without_part(entries: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray] | None:
    """Without the name wherever it is a part of a longer one; None: two would be the same."""
    shorter = {'.'.join(part for part in key.split('.') if part != name): array for key, array in entries.items()}
    return shorter if len(shorter) == len(entries) else None


def _mmpose(entries: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The backbone and the head of MMPose's top-down estimators as one network; None: they are not what the names begin with."""
    backbone, heads = _MMPOSE
    begins = {key.partition('.')[0] for key in entries}
    head = next((head for head in heads if head in begins), None)
    if backbone not in begins or head is None:
        return None
    joined = {_without_either(key, (backbone, head)): array for key, array in entries.items()}
    return joined if len(joined) == len(entries) else None


def _without_either(key: str, names: tuple[str, ...]) -> str:
    first, _, rest = key.partition('.')
    return rest if first in names else key
