"""Files: those of others, which may be none or too large, and ours, which appear whole and together.

The environment changes the limits: `KIMNET_MAX_BYTES`, of the content of one file when it is read or unpacked into memory (2 GiB;
of a MATLAB file, a quarter of it), and `KIMNET_MAX_PIXELS`, rows times columns of an image or of a frame (100 million).

Paths may be remote (`core.paths`): what is written is written here first, and copied.
"""

import atexit
import contextlib
import errno
import fcntl
import math
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import IO

import numpy as np

from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError

MAX_BYTES, MAX_PIXELS = 'KIMNET_MAX_BYTES', 'KIMNET_MAX_PIXELS'
_WORK = '.unfinished-'
_DEFAULTS = {MAX_BYTES: 2 << 30, MAX_PIXELS: 100_000_000}


def limit(name: str) -> int:
    """`MAX_BYTES` or `MAX_PIXELS`, as the environment has it. Raises `InputError` where it is no positive whole number."""
    text = os.environ.get(name, str(_DEFAULTS[name]))
    if not text.isdecimal() or not int(text):
        raise InputError(f'{name}={text}: must be a positive whole number')
    return int(text)


_CAUSES = {  # what the system's words leave open
    errno.EFBIG: 'larger than files may become here; raise the limit (`ulimit -f`) or choose another folder',
    errno.ELOOP: 'a loop of links; name what they were to lead to',
    errno.ENAMETOOLONG: 'the name is too long; choose a shorter one',
    errno.ENOTDIR: 'a file is in the place of a folder; choose another path',
    errno.EISDIR: 'a folder is in the place of a file; choose another path',
    errno.ENOENT: 'there is no such file or folder; has something removed it meanwhile?',
    errno.EEXIST: 'something is there already; remove it or choose another path',
    errno.ENOTEMPTY: 'a folder with something in it is in the way; remove it or choose another path',
    errno.EMFILE: 'too many open files; raise the limit (`ulimit -n`) and rerun the command',
}
_FOREIGN = {  # beginnings of what Python says of a path without an `OSError`
    'embedded null': 'a path has a NUL character in it; no file can be called so',
    'Symlink loop': 'a loop of links; name what they were to lead to',
    'Could not determine home directory': 'a path begins with `~` and a user who has no home here; write it in full',
}


def explain(error: BaseException) -> str | None:
    """What the user can mend where the system refuses a path, in one line; None where an error is of another kind."""
    if (told := paths.explain(error)) is not None:
        return told
    if isinstance(error, UnicodeEncodeError) and error.reason == 'surrogates not allowed':
        return f'{error.object!a}: not valid Unicode; rename it'
    if isinstance(error, ValueError | RuntimeError):
        return next((told for start, told in _FOREIGN.items() if str(error).startswith(start)), None)
    if not isinstance(error, OSError) or error.errno is None:
        return None
    name = _final_name(error.filename)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f' at {name}' if name else ''
        return f'the disk is full{place}: free some space (or choose another folder) and rerun the command'
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f'no permission to write or read {name}: choose another folder or change its permissions'
    return f'{name or "a file"}: {_CAUSES.get(error.errno, f"{error.strerror}; choose another path")}'


def _final_name(name: object) -> str:
    """A file's name without the work folder that it is in for the time being."""
    if not isinstance(name, str | bytes | os.PathLike):
        return ''
    path = pathlib.Path(os.fsdecode(name))
    for folder in path.parents:
        if folder.name.startswith(_WORK):
            return str(folder.parent / path.name)
    return str(path.parent if path.name.startswith(_WORK) else path)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Raises an `InputError` in the place of what `explain` knows, with the file that the error names."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        told = None if isinstance(error, InputError) else explain(error)
        if told is None:
            raise
        raise InputError(told) from error


def require_file(path: pathlib.Path, what: str = 'file') -> None:
    """Raises `InputError` unless there is a regular file: to open a pipe or a device may wait for ever."""
    try:
        if path.is_file():
            return
        if path.is_dir():
            raise InputError(f'{path}: a folder, not a {what}')
        if path.exists():
            raise InputError(f'{path}: a pipe, a socket or a device, not a {what}; write it to a file first')
    except OSError as error:  # a name that is too long, a loop of links
        raise InputError(f'{path}: cannot be read ({error.strerror})') from error
    if not paths.is_remote(path):
        paths.refuse_url(path)
    raise InputError(f'{path}: {"a link to nothing" if not paths.is_remote(path) and path.is_symlink() else f"no such {what}"}')


def read_file(path: pathlib.Path, what: str = 'file') -> bytes:
    """The content of a file. Raises `InputError` where it is none, cannot be read or is too large."""
    require_file(path, what)
    try:
        if path.stat().st_size > limit(MAX_BYTES):
            raise InputError(f'{path}: {_too_large(path.stat().st_size, MAX_BYTES)}')
        return path.read_bytes()
    except OSError as error:
        raise InputError(f'{path}: cannot be read ({error.strerror})') from error


def read_text(path: pathlib.Path, what: str = 'file', encoding: str = 'utf-8') -> str:
    """The content of a text file. Raises `InputError` as `read_file`, and where it is no text."""
    try:
        return read_file(path, what).decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f'{path}: not a text file ({error.reason} at byte {error.start})') from error


def check_npz(archive: zipfile.ZipFile) -> None:
    """Raises a `ValueError` where the arrays would be too large, or one has a shape that its bytes do not fill."""
    total = sum(info.file_size for info in archive.infolist())
    if total > limit(MAX_BYTES):
        raise ValueError(f'{_too_large(total, MAX_BYTES)} when unpacked')
    for info in archive.infolist():
        with archive.open(info) as file:
            check_array(file, info.file_size)


def check_array(file: IO[bytes], size: int) -> None:
    """Raises a `ValueError` where an `.npy` of `size` bytes has a shape that these do not fill; pickled arrays pass."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f'shape {list(shape)} of {dtype} in {size} bytes')


def _too_large(found: int, name: str) -> str:
    return f'{found:,} bytes, more than {limit(name):,}; if it is meant to be that large, set {name} in the environment'


def check_pixels(rows: int, columns: int, source: str) -> None:
    """Raises `InputError` naming `source` where an image would be larger than `MAX_PIXELS`."""
    if rows * columns > limit(MAX_PIXELS):
        raise InputError(
            f'{source}: {columns}x{rows} pixels, more than {limit(MAX_PIXELS):,} in all; scale it down, or set {MAX_PIXELS}'
        )


@contextlib.contextmanager
def work_folder(parent: pathlib.Path, label: str) -> Iterator[pathlib.Path]:
    """A new hidden folder in `parent`, gone afterwards. Those of this kind that killed processes left there are removed first.

    Each is locked by its process, and the system lifts the lock when that ends, however it does. For a remote `parent` it is on
    this machine, in the user's cache folder.
    """
    if paths.is_remote(parent):
        parent = cache_folder() / 'work'
        make_folder(parent)
    for found in parent.glob(f'{_WORK}*'):
        with contextlib.suppress(OSError), locked(found) as free:
            if free:
                shutil.rmtree(found, ignore_errors=True)
    with contextlib.ExitStack() as held:
        while True:
            folder = pathlib.Path(tempfile.mkdtemp(prefix=f'{_WORK}{shortened(label, 100)}-', dir=parent))
            with contextlib.suppress(FileNotFoundError):
                if held.enter_context(locked(folder)) and folder.exists():
                    break  # else another process took it for a dead one before it was locked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def cache_folder() -> pathlib.Path:
    """`$KIMNET_CACHE`, or `kimnet_jax` in the user's cache folder, `$XDG_CACHE_HOME` (`~/.cache`); it need not be there."""
    own = os.environ.get('KIMNET_CACHE')
    return pathlib.Path(own or os.path.join(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'kimnet_jax')).expanduser()


def scratch_folder(label: str) -> pathlib.Path:
    """A `work_folder` in the user's cache folder until the end of this process."""
    parent = cache_folder() / 'work'
    make_folder(parent)
    held = contextlib.ExitStack()
    folder = held.enter_context(work_folder(parent, label))
    atexit.register(held.close)
    return folder


@contextlib.contextmanager
def locked(folder: pathlib.Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process has the lock of a folder; if `wait`, once it has it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield lock(handle, wait)
    finally:
        os.close(handle)


def lock(file: int | IO[str], wait: bool = False) -> bool:
    """Locks an open file or folder; False where another process has it. The system lifts the lock when its process ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def require_free(files: Iterable[pathlib.Path]) -> None:
    """Raises `InputError` where a folder, or what is no file, stands in a file's place."""
    for file in files:
        with explained():
            if paths.is_remote(file):
                continue  # object stores have no folders that could be in the way
            if file.is_dir():
                raise InputError(f'{file}: a folder is in the way of that file; remove it, or choose another place')
            if file.exists() and not file.is_file():
                raise InputError(f'{file}: a pipe, a socket or a device, which a file would replace; choose another place')


def place_together(drafts: Mapping[pathlib.Path, pathlib.Path]) -> None:
    """Gives each draft its final name, in place of what is there: all of them, or, where one cannot be placed, none.

    In a remote folder each appears whole, one after another.
    """
    require_free(drafts.values())
    remote = {draft: final for draft, final in drafts.items() if paths.is_remote(final)}
    for draft, final in remote.items():
        paths.upload(draft, final)
    drafts = {draft: final for draft, final in drafts.items() if draft not in remote}
    kept: dict[pathlib.Path, pathlib.Path] = {}
    placed: list[pathlib.Path] = []
    try:
        for draft, final in drafts.items():
            if final.exists():
                kept[final] = draft.with_name(f'{draft.name}.kept')
                shutil.copy2(final, kept[final])
            os.replace(draft, final)
            placed.append(final)
    except BaseException:
        for final in placed:
            if final in kept:
                os.replace(kept[final], final)
            else:
                final.unlink()
        raise
    finally:
        for copy in kept.values():
            copy.unlink(missing_ok=True)


@contextlib.contextmanager
def drafts_in(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A place for files to be written inside, which then appear in `folder` together, in place of what is there. It is made.

    Raises `InputError` where a folder is in the place of a file, or a file in that of a folder.
    """
    make_folder(folder)
    with explained(), naming(folder), work_folder(folder, folder.name) as hidden:
        yield hidden
        place_together({file: folder / file.name for file in sorted(hidden.iterdir())})


@contextlib.contextmanager
def draft_of(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """`drafts_in` for one file: `path` is whole whenever it is there."""
    make_folder(path.parent)
    require_free([path])
    with explained(), naming(path), work_folder(path.parent, path.name) as folder:
        draft = folder / path.name
        yield draft
        if paths.is_remote(path):
            paths.upload(draft, path)
        else:
            os.replace(draft, path)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Gives an `OSError` that names no file, as those of a write do, the name of this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file as `draft_of` does; half a character of a foreign name becomes its escape."""
    with draft_of(path) as draft:
        draft.write_text(text, encoding='utf-8', errors='backslashreplace')


def shortened(name: str, size: int) -> str:
    """The beginning of a file's name that takes no more than `size` bytes; half a character at the end is left out."""
    if len(os.fsencode(name)) <= size:
        return name
    end = size
    while len(os.fsencode(name[:end])) > size:
        end -= 1
    return name[:end]


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder where there is none. Raises `InputError` where it cannot, as where a file is in its place or above it."""
    if paths.is_remote(folder):
        return  # a file makes its folders
    paths.refuse_url(folder)
    with explained():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(f'{folder}: a file is in the way of that folder; choose another') from error
