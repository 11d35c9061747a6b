"""A run's folder: `config.json`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, and what later commands write there."""

import contextlib
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from kimnet_jax import __version__
from kimnet_jax.core import files, paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import make_folder, read_file, write_text
from kimnet_jax.core.json_files import parse_json, read_json

# fields that may change between a run and its resumption: they change no number of the training
FREE = ('loader.', 'dataset.data_dir', 'train.log_every', 'train.profile', 'train.writers', 'eval.batch_size', 'eval.segment')
# fields that came later, and what runs from before did: (section, one of its fields from the beginning) -> field -> value
LATER: dict[tuple[str, str], dict[str, Any]] = {
    ('data', 'augment_background'): {'augment_occlusion': 0.0},
    ('train', 'batch_size'): {'profile': '', 'writers': 'tensorboard', 'batch_norm': 'global', 'gradient_dtype': 'bfloat16'},
    ('model', 'kmm_variant'): {'kmm_activation': 'relu', 'kmm_weights': 'softmax', 'biases': True},
}

_LONGEST = 1024  # bytes of a message to the other processes


@contextlib.contextmanager
def alone(folder: pathlib.Path, what: str = 'another training is') -> Iterator[TextIO]:
    """The lock of a folder, which is made. The system lifts it when this process has ended, and those that it was passed on to.

    Raises `InputError` that names the host and the process, where another one holds it, or where the folder cannot be made.
    """
    make_folder(folder)
    path = folder / '.lock'
    with contextlib.ExitStack() as opened:
        while True:
            lock = opened.enter_context(path.open('a+'))
            if not files.lock(lock):
                lock.seek(0)
                holder = lock.read().strip() or 'another process'
                raise InputError(
                    f'{folder}: {what} using this folder ({holder}); wait for it, stop it, or choose another --workdir'
                )
            if path.exists() and os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                break  # else the one before took the file away between the two
        lock.truncate(0)
        lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
        lock.flush()
        try:
            yield lock
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def alone_together(folder: pathlib.Path) -> Iterator[None]:
    """`alone`, for all processes of a distributed run: the first one has the lock. Where it cannot, all raise the error.

    A remote folder has none, and stderr says so.
    """
    if paths.is_remote(folder):  # object stores have no locks
        if jax.process_index() == 0:
            print(f'note: {folder} has no lock: start no other training there meanwhile', file=sys.stderr, flush=True)
        yield
        return
    if jax.process_count() == 1:
        with alone(folder):
            yield
        return
    with contextlib.ExitStack() as held:
        refusal = ''
        if jax.process_index() == 0:
            try:
                held.enter_context(alone(folder))
            except InputError as error:
                refusal = str(error)
        said = np.frombuffer(refusal.encode()[:_LONGEST].ljust(_LONGEST, b'\0'), np.uint8)
        said = np.asarray(multihost_utils.broadcast_one_to_all(said)).astype(np.uint8)
        refusal = said.tobytes().rstrip(b'\0').decode(errors='replace')
        if refusal:
            raise InputError(refusal)
        yield


def write_config(
    workdir: pathlib.Path,
    config: dict[str, Any],
    skeleton: str | dict[str, Any],
    initial_weights: Sequence[str] | None = (),
    *,
    begins: bool = False,
) -> None:
    """Writes `config.json`; in the folder of an earlier run checks that it is the same one.

    `initial_weights` says where the weights come from that the run begins with; None: what stands there already, as it goes on.
    `begins`: there is no checkpoint, so that the settings of the earlier run, which cannot go on, count for nothing.
    Raises `InputError` listing the fields that differ.
    """
    file = workdir / 'config.json'
    if file.exists() and not begins:
        before, now = (flatten_dict(fields, sep='.') for fields in (read_config(workdir)[0], _plain(config)))
        changed = [key for key in sorted(before | now) if before.get(key) != now.get(key) and not key.startswith(FREE)]
        if changed:
            shown = '; '.join(f'config.{key}: {before.get(key)!r} there, {now.get(key)!r} now' for key in changed[:6])
            more = f'; and {len(changed) - 6} more' if len(changed) > 6 else ''
            raise InputError(
                f'{workdir} contains a run with other settings ({shown}{more}): choose another --workdir or the same settings'
            )
    if jax.process_index() == 0:
        if initial_weights is None:
            initial_weights = read_json(file).get('initial_weights', ()) if file.exists() else ()
        record = {
            'code_version': __version__,
            'skeleton': skeleton,
            'initial_weights': list(initial_weights),
            'config': _plain(config),
        }
        write_text(file, json.dumps(record, indent=2) + '\n')


def read_config(workdir: pathlib.Path) -> tuple[dict[str, Any], str | dict[str, Any]]:
    """(config, skeleton as `Skeleton.described` has it) of a run. Raises `InputError` where the folder holds none."""
    file = workdir / 'config.json'
    if not file.exists():
        raise InputError(f'{workdir}: not a run (config.json is missing); give the folder that train got as --workdir')
    return parse_record(read_file(file), str(file))


def parse_record(text: str | bytes, source: str) -> tuple[dict[str, Any], str | dict[str, Any]]:
    """(config, skeleton as `Skeleton.described` has it) of the text of a `config.json`, with the fields that came later.

    Raises `InputError` naming `source` where it is something else.
    """
    record = parse_json(text, source)
    for name, kind in {'config': dict, 'skeleton': str | dict}.items():
        if not isinstance(record, dict) or not isinstance(record.get(name), kind):
            raise InputError(f'{source}: not a config written by train ({name} is missing or of another kind)')
    config = record['config']
    for (section, known), fields in LATER.items():
        if isinstance(config.get(section), dict) and known in config[section]:
            config[section] = fields | config[section]
    return config, record['skeleton']


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(config))  # tuples become lists, as on disk
