"""A download as its user has it: folders, or the archives that they come in, which are unpacked as far as needed."""

import contextlib
import dataclasses
import lzma
import os
import pathlib
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, ClassVar

from kimnet_jax.core.errors import InputError

ARCHIVE_SUFFIXES = ('.zip', '.tar', '.tar.gz', '.tgz')


@dataclasses.dataclass(frozen=True)
class Download:
    """The parts of a data set, wherever they lie; a data set's own class names its parts.

    Attributes:
        root: the folder that holds the folders or the archives.
        scratch: an existing folder for what has to be unpacked; the owner removes it.
        ARCHIVES: the folder of each part -> the names its archive goes by, without suffix; the official one first.
        PARENTS: what the folders of the parts may lie in, besides `root` itself; a glob pattern.
        INSTRUCTIONS: what is expected in `root`, for messages.
    """

    root: pathlib.Path
    scratch: pathlib.Path
    ARCHIVES: ClassVar[Mapping[str, tuple[str, ...]]]
    PARENTS: ClassVar[str]
    INSTRUCTIONS: ClassVar[str]

    def candidates(self, part: str) -> list[pathlib.Path]:
        """The folders and the archives that go by the name of a part, the preferred ones first."""
        folders = [self.root / part, *sorted(self.root.glob(f'{self.PARENTS}/{part}'))]
        archives = [self.root / f'{stem}{suffix}' for stem in self.ARCHIVES[part] for suffix in ARCHIVE_SUFFIXES]
        return [p for p in folders if p.is_dir()] + [p for p in archives if p.is_file()]

    def find(self, part: str) -> pathlib.Path | None:
        """The folder of a part, or else its archive."""
        return next(iter(self.candidates(part)), None)

    def locate(self, part: str) -> pathlib.Path:
        """As `find`; raises `InputError` where there is neither."""
        source = self.find(part)
        if source is None:
            raise InputError(f'{self.root}: no {part} there; expected {self.INSTRUCTIONS}')
        return source

    def folder(self, part: str, keep: Callable[[pathlib.PurePosixPath], bool] = lambda inner: True) -> pathlib.Path:
        """The folder of a part; of an archive, those files are unpacked whose path in the part `keep` accepts.

        Raises:
            InputError: the part is missing; the archive is damaged, or has no such folder, or a file that would leave it.
        """
        source = self.locate(part)
        if source.is_dir():
            return source
        target = self.scratch / source.name / part
        with _readable(source):
            for inner, content in _members(source, part):
                target.mkdir(parents=True, exist_ok=True)
                if keep(inner):
                    path = target / inner
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open('wb') as out:
                        shutil.copyfileobj(content, out)
        if not target.is_dir():
            raise InputError(f'{source}: no folder {part!r} in it')
        return target

    def beside(self, part: str, name: str) -> pathlib.Path:
        """A file that lies beside the folder of a part; where the part is an archive, the file is unpacked from it.

        Raises:
            InputError: the part or the file is missing, or the archive is damaged.
        """
        source = self.locate(part)
        file = source.with_name(name) if source.is_dir() else self.scratch / source.name / name
        if not source.is_dir():
            with _readable(source):
                for inner, content in _files(source):
                    path = pathlib.PurePosixPath(inner)
                    if path.name == name and '__MACOSX' not in path.parts:
                        file.parent.mkdir(parents=True, exist_ok=True)
                        with file.open('wb') as out:
                            shutil.copyfileobj(content, out)
        if not file.is_file():
            raise InputError(f'{file}: missing; expected {self.INSTRUCTIONS}')
        return file

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """An `InputError` on unpacked files names them as the user knows them: `<root>/<archive>/<path in it>`."""
        try:
            yield
        except InputError as error:
            raise type(error)(str(error).replace(str(self.scratch), str(self.root))) from error


def names(source: pathlib.Path, part: str) -> Iterator[pathlib.PurePosixPath]:
    """The path in the part of each of its files.

    Args:
        source: the folder of the part, or an archive, which is read through without unpacking anything.
        part: its name.

    Raises:
        InputError: the archive is damaged.
    """
    if source.is_dir():
        for folder, _, files in os.walk(source, followlinks=True):
            inner = pathlib.PurePosixPath(folder).relative_to(source)
            yield from (inner / name for name in files if not name.startswith('.'))
    else:
        with _readable(source):
            yield from (inner for inner, _ in _members(source, part))


@contextlib.contextmanager
def _readable(archive: pathlib.Path) -> Iterator[None]:
    """Turns what the readers of archives raise into an `InputError`."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, NotImplementedError) as error:
        raise InputError(f'{archive}: damaged, or not what its suffix says ({error}); download it again') from error
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f'{archive}: a name in it is both a file and a folder ({error.filename}); download it again') from error
    except (RuntimeError, ValueError) as error:  # a zip with a password; a name that no file can have
        raise InputError(f'{archive}: cannot be unpacked ({error})') from error


def _members(archive: pathlib.Path, part: str) -> Iterator[tuple[pathlib.PurePosixPath, IO[bytes]]]:
    """Path below a folder `part`, at any depth, and content of each file, in the order of the archive. Links are left out."""
    for name, content in _files(archive):
        parts = pathlib.PurePosixPath(name).parts
        if part not in parts[:-1]:
            continue
        inner = parts[len(parts) - parts[::-1].index(part) :]
        if '..' in inner:
            raise InputError(
                f'{archive}: {name!r} would be written outside of its folder; download it again from its official place'
            )
        if '__MACOSX' not in parts and not any(p.startswith('.') for p in inner):
            yield pathlib.PurePosixPath(*inner), content


def _files(archive: pathlib.Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each file of an archive, in its order; a tar is read as a stream, once."""
    if archive.suffix == '.zip':
        with zipfile.ZipFile(archive) as files:
            for info in files.infolist():
                if not info.is_dir():
                    with files.open(info) as file:
                        yield info.filename, file
        return
    with tarfile.open(archive, 'r|*') as members:
        for member in members:
            if member.isfile():
                content = members.extractfile(member)
                assert content is not None
                yield member.name, content
