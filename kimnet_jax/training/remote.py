"""Runs in remote folders, whose libraries write to a folder of this machine: what is copied from there, and when.

Files of an object store appear whole, but cannot be appended to or renamed together. So `metrics.jsonl` is written again each
time, and a checkpoint counts once `MARK`, the last of its files, is there, the metrics up to its step being there before.
"""

import contextlib
import pathlib
import threading
from collections.abc import Callable, Collection, Iterator

from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import scratch_folder

MARK = 'commit_success.txt'  # as Orbax's own, where it writes to gs:// itself
SECONDS = 60.0  # between two copies of the metrics while nothing else is written
_SMALL = ('meta', 'metrics', '_CHECKPOINT_METADATA')  # parts of a checkpoint that its list takes
_METRICS = 'metrics.jsonl'
_TAKEN_UP = (_METRICS, 'wandb/id')  # what a resumed run goes on with


class RemoteSteps:
    """The checkpoints in a remote folder, and a folder of this machine, `place`, where Orbax has them.

    There they lack their arrays until they are asked for.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder, self.place = folder, scratch_folder('checkpoints') / 'checkpoints'
        self.place.mkdir()
        self._files = paths.listed(folder)
        self._whole = {int(name) for name in self._steps_with(MARK)}
        self._fetched: set[int] = set()
        for step in self._whole:
            self._copy(step, lambda part: part in _SMALL)

    def fetch(self, step: int) -> None:
        """Completes a checkpoint in `place`; one that was written here is whole there."""
        if step in self._whole and step not in self._fetched:
            self._copy(step, lambda part: part not in _SMALL)
            self._fetched.add(step)

    def publish(self, steps: Collection[int]) -> None:
        """Copies those of the checkpoints of `place` that are not in the remote folder yet, and removes from there the others."""
        for step in sorted(set(steps) - self._whole):
            target = self.folder / str(step)
            paths.remove(target)  # what a killed process left
            own = self.place / str(step)
            for file in sorted(file for file in own.rglob('*') if file.is_file() and file != own / MARK):
                paths.upload(file, target / file.relative_to(own).as_posix())
            mark = self.place.parent / MARK
            mark.write_text('')
            paths.upload(mark, target / MARK)
            self._whole.add(step)
            self._fetched.add(step)
        for step in self._whole - set(steps):
            self.remove(step)

    def remove(self, step: int) -> None:
        """Removes a checkpoint from the remote folder."""
        self._whole.discard(step)
        paths.remove(self.folder / str(step) / MARK)
        paths.remove(self.folder / str(step))

    def set_aside(self, step: int, target: pathlib.Path) -> None:
        """Moves a damaged checkpoint in the remote folder to another one."""
        for name in self._names(step):
            copy = self.place.parent / 'moving'
            paths.download(self.folder / str(step) / name, copy)
            paths.upload(copy, target / name)
        self.remove(step)

    def _names(self, step: int) -> list[str]:
        return [name.partition('/')[2] for name in self._files if name.partition('/')[0] == str(step)]

    def _steps_with(self, file: str) -> Iterator[str]:
        for name in self._files:
            step, _, rest = name.partition('/')
            if step.isdecimal() and rest == file:
                yield step

    def _copy(self, step: int, wanted: Callable[[str], bool]) -> None:
        for name in self._names(step):
            if name != MARK and wanted(name.partition('/')[0]):
                paths.download(self.folder / str(step) / name, self.place / str(step) / name)


class RemoteRun:
    """A folder of this machine, `place`, for what a run writes beside its checkpoints, and its copy in the remote folder.

    Every `SECONDS` the metrics are copied, with each checkpoint and at the end everything. Of several processes each has one:
    all of them can write profiles.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder, self.place = folder, scratch_folder('run')
        self._copied: dict[str, tuple[int, int]] = {}  # file -> its time and size when it was copied
        self._lock, self._end = threading.Lock(), threading.Event()
        there = paths.listed(folder)
        for name in _TAKEN_UP:
            if name in there:
                paths.download(folder / name, self.place / name)
                self._copied[name] = _state(self.place / name)
        self._thread = threading.Thread(target=self._keep_copying, daemon=True)
        self._thread.start()

    def publish(self, only: str = '') -> None:
        """Copies what has changed. Raises `InputError` where it cannot."""
        with self._lock:
            for file in sorted(self.place.rglob('*')):
                name = file.relative_to(self.place).as_posix()
                if (only and name != only) or not file.is_file():
                    continue
                state = _state(file)
                if self._copied.get(name) != state:
                    paths.upload(file, self._folder / name)
                    self._copied[name] = state

    def close(self) -> None:
        """Copies what is left. Raises `InputError` where it cannot."""
        self._end.set()
        self._thread.join()
        self.publish()

    def _keep_copying(self) -> None:
        while not self._end.wait(SECONDS):
            with contextlib.suppress(InputError):  # the next checkpoint will tell
                self.publish(_METRICS)


def _state(file: pathlib.Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size
