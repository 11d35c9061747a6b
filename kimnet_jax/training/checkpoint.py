"""Checkpoints with Orbax: the newest two and the best one, each array with a checksum.

On disk: `weights` and `average` (parameters and BatchNorm statistics, keys are the model's attribute paths), `optimizer`,
`meta` (JSON: step, checksums, code version, what its bits depend on, and what the loop needs to go on exactly), `metrics` (JSON:
the score, where there is one). Orbax writes under a temporary name and renames, so what stands under its number is whole when it
is written.

In a remote folder they are copies of those that Orbax writes here (`training.remote`).
"""

import concurrent.futures
import contextlib
import copy
import errno
import json
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from kimnet_jax import __version__
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.paths import is_remote
from kimnet_jax.training import sharding
from kimnet_jax.training.conditions import conditions
from kimnet_jax.training.processes import PeerError
from kimnet_jax.training.remote import RemoteSteps
from kimnet_jax.training.state import TrainState, Weights, from_tree, to_tree

SCORE = 'score'
_ARRAYS = ('weights', 'average', 'optimizer')


class Checkpoints:
    """The checkpoints of a working directory, `<workdir>/checkpoints`."""

    def __init__(self, workdir: pathlib.Path, *, read_only: bool = False, before_publishing: Callable[[], None] = lambda: None):
        """`before_publishing`: called before a checkpoint appears in a remote folder, in another thread."""
        self.folder = workdir.resolve() / 'checkpoints'
        self._remote = RemoteSteps(self.folder) if is_remote(self.folder) else None
        self._place = self._remote.place if self._remote else self.folder  # where Orbax has them
        self._before_publishing = before_publishing
        self._thread = concurrent.futures.ThreadPoolExecutor(1, 'checkpoints')
        self._pending: concurrent.futures.Future[None] | None = None  # of a save
        keep = [
            checkpoint_managers.LatestN(2),  # the one before is there should the last be damaged
            checkpoint_managers.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
        ]
        self._manager = _Manager(
            self._place,
            item_handlers={name: ocp.StandardCheckpointHandler() for name in _ARRAYS} | {'meta': ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                best_fn=None if read_only else _score,
                preservation_policy=None if read_only else checkpoint_managers.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=not read_only,  # of saves that a kill cut off
                create=not read_only,
                read_only=read_only,
            ),
        )

    def steps(self) -> list[int]:
        """Those there is a checkpoint of."""
        return list(self._manager.all_steps())

    def save(self, step: int, state: TrainState, meta: dict[str, Any], score: float | None = None) -> None:
        """Writes a checkpoint in the background; `score` (higher is better) lets it become the best one.

        Raises `InputError` where this one cannot be written or the one before could not; the others stay whole.
        """
        self.wait()
        if step in self._manager.all_steps():  # an evaluation that was cut off: its step was saved without a score
            replaced = self._place.parent / 'replaced_checkpoint'
            if self._owner:
                shutil.rmtree(replaced, ignore_errors=True)
            self._move(step, replaced)
            if self._owner:
                shutil.rmtree(replaced)
            if self._remote and jax.process_index() == 0:
                self._remote.remove(step)
        items: dict[str, Any] = {'weights': state.weights, 'optimizer': {'step': state.step, 'state': state.optimizer}}
        if state.average is not None:
            items['average'] = state.average
        # copies, of `meta` too: the next step writes into all this while it is still read
        trees = sharding.snapshot({name: to_tree(item) for name, item in items.items()})
        record = {'step': step, 'code_version': __version__, 'conditions': conditions(), **copy.deepcopy(meta)}
        if jax.process_count() == 1:
            self._pending = self._thread.submit(self._write, step, trees, record, score)
        else:  # Orbax lets the processes meet, which must not come between those of a step
            with _writing(self.folder):
                self._write(step, trees, record, score)

    def _write(self, step: int, trees: dict[str, Any], record: dict[str, Any], score: float | None) -> None:
        trees = jax.tree.map(np.asarray, trees)
        record = {**record, 'checksums': {name: _checksums(tree) for name, tree in trees.items()}}
        args = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        args['meta'] = ocp.args.JsonSave(record | {'checksum': _json_checksum(record)})
        saved = self._manager.save(step, args=ocp.args.Composite(**args), metrics=None if score is None else {SCORE: score})
        assert saved, f'step {step} is not after {self._manager.latest_step()}'
        if self._remote and jax.process_index() == 0:
            if jax.process_count() == 1:
                self._publish()
            else:
                self._pending = self._thread.submit(self._publish)

    def restore_newest(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that is whole, as (state, meta); None where there is none at all.

        Damaged ones are moved to `<workdir>/damaged_checkpoints` and named on stderr. Raises `InputError` where all are damaged
        or the model or optimizer is another one.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                items, meta = self._read(step, _ARRAYS if template.average is not None else ('weights', 'optimizer'))
            except _DamagedError as damage:
                self._set_aside(step, str(damage))
                continue
            source = str(self.folder / str(step))
            optimizer = from_tree({'step': template.step, 'state': template.optimizer}, items['optimizer'], source)
            weights = from_tree(template.weights, items['weights'], source)
            average = None if template.average is None else from_tree(template.average, items['average'], source)
            return TrainState(optimizer['step'], weights, optimizer['state'], average), meta
        if steps:
            raise InputError(f'{self.folder}: every checkpoint is damaged; start over with an empty --workdir')
        return None

    def restore_weights(self, which: str, template: Weights) -> tuple[Weights, dict[str, Any]]:
        """The weights to predict with, of checkpoint `best`, `last` or a step, as (weights, meta).

        Where the one asked for by `best` or `last` is damaged, the next best or the one before is taken, and stderr says so.
        Raises `InputError` where there is none, or the model is another one.
        """
        tree, meta = self._read_average(which)
        return from_tree(template, tree, str(self.folder / str(meta['step']))), meta

    def read_weights(self, which: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The same without a template, whatever model they are of: parameters and statistics by path, `layer1.0.conv1.kernel`."""
        tree, meta = self._read_average(which)
        return {path: leaf for part in tree.values() for path, leaf in traverse_util.flatten_dict(part, sep='.').items()}, meta

    def wait(self) -> None:
        """Waits until everything is written. Raises `InputError` where it could not be."""
        with _writing(self.folder):
            self._finish_pending()
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits as `wait` and stops Orbax's threads."""
        with _writing(self.folder):
            try:
                self._finish_pending()
            finally:
                self._thread.shutdown()
                self._manager.close()

    @property
    def _owner(self) -> bool:
        """Whether this process moves and removes what is in the folder that Orbax writes to."""
        return self._remote is not None or jax.process_index() == 0

    def _finish_pending(self) -> None:
        """Raises what went wrong in the thread."""
        if self._pending is not None:
            done, self._pending = self._pending, None
            done.result()

    def _publish(self) -> None:
        assert self._remote is not None
        self._manager.wait_until_finished()
        self._before_publishing()
        self._remote.publish(self._manager.all_steps())

    def _read_average(self, which: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The moving average of the weights, the weights where there is none, and meta."""
        for step in self._candidates(which):
            try:
                if self._remote:
                    self._remote.fetch(step)
                name = 'average' if (self._place / str(step) / 'average').exists() else 'weights'
                items, meta = self._read(step, (name,))
            except _DamagedError as damage:
                print(f'warning: checkpoint {step} of {self.folder} is damaged ({damage}); trying another', file=sys.stderr)
                continue
            return items[name], meta
        raise InputError(f'{self.folder}: checkpoint {which!r} is damaged and there is no other one')

    def _candidates(self, which: str) -> list[int]:
        steps = sorted(self._manager.all_steps(), reverse=True)
        if not steps:
            raise InputError(f'{self.folder}: contains no checkpoint; train first, or name the folder of another run')
        if which == 'last':
            return steps
        if which == 'best':
            scores = {step: (self._manager.metrics(step) or {SCORE: -np.inf})[SCORE] for step in steps}
            return sorted(steps, key=lambda step: (scores[step], step), reverse=True)
        if which.isdigit() and int(which) in steps:
            return [int(which)]
        raise InputError(
            f"--checkpoint={which}: choose 'best', 'last' or one of the steps {', '.join(map(str, reversed(steps)))}"
        )

    def _read(self, step: int, names: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Items as nested dicts of host arrays, so that a checkpoint opens on any devices; raises `_DamagedError`."""
        if self._remote:
            self._remote.fetch(step)
        try:
            meta = self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))['meta']
            checksum = meta.pop('checksum')
        except Exception as error:  # whatever Orbax and its readers raise on damaged files
            raise _DamagedError(_first_line(error)) from error
        if checksum != _json_checksum(meta):
            raise _DamagedError('checksum of meta differs')
        lacking = [name for name in names if name not in meta['checksums']]
        if lacking:
            raise InputError(f'{self.folder / str(step)}: made with other settings: it does not contain {lacking[0]!r}')
        try:
            metadata = self._manager.item_metadata(step)
            wanted = {
                name: ocp.args.StandardRestore(
                    jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), dict(metadata[name].tree))
                )
                for name in names
            }
            items = self._manager.restore(step, args=ocp.args.Composite(**wanted))
            trees = {name: items[name] for name in names}
        except Exception as error:
            raise _DamagedError(_first_line(error)) from error
        for name in names:
            found, expected = _checksums(trees[name]), meta['checksums'][name]
            differing = [key for key in sorted(found | expected) if found.get(key) != expected.get(key)]
            if differing:
                raise _DamagedError(f'checksum of {name}/{differing[0]} differs')
        return trees, meta

    def _set_aside(self, step: int, damage: str) -> None:
        target = shown = self._place.parent / 'damaged_checkpoints' / str(step)
        target.parent.mkdir(exist_ok=True)
        n = 0
        while target.exists():
            n += 1
            target = shown = target.with_name(f'{step}.{n}')
        self._move(step, target)
        if self._remote:
            shown = self.folder.parent / 'damaged_checkpoints' / target.name
            if jax.process_index() == 0:
                self._remote.set_aside(step, shown)
        if jax.process_index() == 0:
            print(f'warning: checkpoint {step} is damaged ({damage}): moved to {shown}', file=sys.stderr)

    def _move(self, step: int, target: pathlib.Path) -> None:
        """In one rename, so that a kill leaves nothing half there."""
        multihost_utils.sync_global_devices(f'before moving checkpoint {step}')
        if self._owner:
            (self._place / str(step)).rename(target)
        multihost_utils.sync_global_devices(f'after moving checkpoint {step}')
        self._manager.reload()


class _DamagedError(Exception):
    pass


class _Manager(ocp.CheckpointManager):
    def metrics(self, step: int) -> dict[str, float] | None:
        """The score of a step; None also where it is damaged, for which Orbax would open none of the checkpoints."""
        try:
            return {SCORE: float(super().metrics(step)[SCORE])}
        except (OSError, ValueError, KeyError, TypeError):
            return None


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:  # of the system, in Orbax's or TensorStore's words
        peer = jax.process_count() > 1 and isinstance(error, jax.errors.JaxRuntimeError)
        raise (PeerError if peer else InputError)(
            f'{folder}: a checkpoint could not be written ({_first_line(error)}); '
            f'earlier ones are intact: {_way_out(error, folder, peer)}'
        ) from error


def _way_out(error: Exception, folder: pathlib.Path, peer: bool) -> str:
    """What to do, by the cause as far as it shows."""
    text, number = str(error), getattr(error, 'errno', None)

    def is_one_of(*numbers: int) -> bool:
        return number in numbers or any(os.strerror(one) in text for one in numbers)

    if is_one_of(errno.ENOSPC, errno.EDQUOT):
        return 'the disk is full: free some space and rerun the command'
    if is_one_of(errno.EACCES, errno.EPERM, errno.EROFS):
        return 'this user may not write there: change the permissions and rerun the command'
    if is_remote(folder):
        return 'mend that and rerun the command'
    if peer:
        return 'another process of this run has ended, or cannot be reached: look at its output, and restart all of them'
    if is_one_of(errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not folder.is_dir():
        return 'another process has changed or deleted files there: find out which one, and rerun the command'
    return 'fix the cause and rerun the command'


def _first_line(error: Exception) -> str:
    if isinstance(error, InputError):
        return str(error)
    return f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'.removesuffix(': ')


def _json_checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _score(metrics: dict[str, float]) -> float:
    return metrics[SCORE]


def _checksums(tree: dict[str, Any], path: str = '') -> dict[str, int]:
    sums: dict[str, int] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            sums |= _checksums(value, f'{path}{key}/')
        else:
            sums[path + key] = zlib.crc32(np.ascontiguousarray(value).tobytes())
    return sums
