"""Paths as users give them: of this machine, or URLs such as `gs://bucket/run`, which fsspec opens.

A remote path is a `upath.UPath`, which has the methods of `pathlib.Path` and cannot be mistaken for one by `open` or `str`-taking
libraries: those get files of this machine, and `core.files` brings them there.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

from kimnet_jax.core.errors import InputError

_URL = re.compile(r'([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)', re.DOTALL)
_LISTED = re.compile(r'(?:^|[,=])\s*([A-Za-z][A-Za-z0-9+.-]+:/)')  # in a flag's value, which may be a list
_NO_FOLDERS = ('http', 'https', 'ftp', 'rtsp', 'rtmp', 'data', 'github', 'git')  # nothing can be written there
_LOCAL = ('file', 'local')
_BUCKETS = ('gs', 'gcs', 's3', 's3a')  # where the first part of a path has to be there beforehand
_EXTRAS = {'gs': 'gcs', 'gcs': 'gcs', 's3': 's3', 's3a': 's3'}  # scheme -> ours
_LIBRARIES = ('fsspec', 'upath', 'gcsfs', 's3fs', 'adlfs')
_SIGN_IN = {
    'gs': 'run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS',
    's3': 'set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE',
}
_REFUSED = ('forbidden', 'access denied', 'accessdenied', 'permission', 'does not have', '403')
_UNKNOWN_USER = ('credentials', 'anonymous caller', 'unauthorized', 'invalid_grant', '401')
_UNREACHABLE = ('cannot connect', 'could not connect', 'name or service not known', 'timed out', 'timeout', 'connection')
_MOST_BYTES = 1 << 20  # of what is copied at a time


def is_remote(path: object) -> bool:
    """Whether `folder` returned it for a URL."""
    return not isinstance(path, str | os.PathLike) and hasattr(path, 'storage_options')


def url_in(text: str) -> str:
    """The beginning of the first URL in a text or a list of them, such as `gs:/`; '' where there is none."""
    found = _LISTED.search(text)
    return found[1] if found else ''


def folder(text: str | os.PathLike[str], flag: str = '') -> pathlib.Path:
    """The path that a text names: of this machine, with `~` written out, or, for a URL, a `upath.UPath`.

    Raises `InputError`, which begins with `flag`, if given: a URL lacks a slash, is of an unknown kind, its library is not
    installed, or there is no bucket, no access or no connection.
    """
    if is_remote(text):
        return cast(pathlib.Path, text)
    text = os.fspath(text)
    match = _URL.fullmatch(text)
    if match is None or os.path.lexists(text):
        return pathlib.Path(text).expanduser()
    scheme, slashes, rest = match.groups()
    named = f'{flag} {text}'.strip()
    if scheme.lower() in _LOCAL and slashes in ('//', '///'):
        return pathlib.Path(f'{slashes[2:]}{rest}')
    if slashes != '//':
        raise InputError(f'{named}: a URL has two slashes; did you mean {scheme}://{rest}? (./{text} for a folder of that name)')
    if scheme.lower() in _NO_FOLDERS:
        raise InputError(f'{named}: {scheme}:// has no folders that can be written to; give gs://, s3:// or a local folder')
    if scheme.lower() in _BUCKETS and not rest.strip('/'):
        raise InputError(f'{named}: names no bucket; write {scheme}://BUCKET/FOLDER')
    try:
        import upath
    except ImportError as error:
        raise InputError(f'{named}: {_lacking(scheme)}') from error
    try:
        path = upath.UPath(text.rstrip('/') if rest else text, use_listings_cache=False)  # others write there, too
    except ValueError as error:
        raise InputError(f'{named}: {scheme}:// is of no file system that fsspec knows; give gs://, s3:// or a folder') from error
    except ImportError as error:
        raise InputError(f'{named}: {_lacking(scheme)}') from error
    with explained(path, named):
        bucket = path.path.strip('/').partition('/')[0]
        if not path.exists() and scheme in _BUCKETS and path.path.strip('/') != bucket:
            path.fs.ls(bucket)
    return cast(pathlib.Path, path)


def _lacking(scheme: str) -> str:
    extra = _EXTRAS.get(scheme.lower(), 'remote')
    more = ', and the library that fsspec has for it' if extra == 'remote' else ''
    return f"{scheme}:// needs a library that is not installed: pip install 'kimnet-jax[{extra}]'{more}"


@contextlib.contextmanager
def explained(path: object, named: str = '') -> Iterator[None]:
    """Raises an `InputError` of one line, naming the URL, in the place of what a library of remote files raises."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of fsspec, aiohttp, google-auth, botocore
        raise InputError(f'{named or path}: {_cause(error, str(path))}') from error


def explain(error: BaseException) -> str | None:
    """The same of an error that came out of such a library elsewhere; None of any other."""
    trace, foreign = error.__traceback__, False
    while trace is not None:
        foreign = foreign or trace.tb_frame.f_globals.get('__name__', '').partition('.')[0] in _LIBRARIES
        trace = trace.tb_next
    return f'the remote folder: {_cause(error, "")}' if foreign else None


def _cause(error: BaseException, url: str) -> str:
    text = str(error) or type(error).__name__
    line, low, scheme = ' '.join(text.split())[:300], text.lower(), url.partition(':')[0]
    if isinstance(error, ImportError):
        return _lacking(scheme)
    if isinstance(error, FileNotFoundError) or 'nosuchbucket' in low:
        bucket = url.partition('://')[2].partition('/')[0]
        return f'there is no such bucket or file ({bucket or line}); make it, or correct the name'
    if any(word in low for word in _UNKNOWN_USER):
        sign_in = _SIGN_IN.get({'gcs': 'gs', 's3a': 's3'}.get(scheme, scheme), 'sign in as its library asks for')
        return f'no valid credentials ({line}); {sign_in}'
    if isinstance(error, PermissionError) or any(word in low for word in _REFUSED):
        return f'permission denied ({line}); give this account the right to list, read and write there'
    if isinstance(error, ConnectionError | TimeoutError) or any(word in low for word in _UNREACHABLE):
        return f'cannot be reached ({line}); check the network, and rerun the command'
    return f'{type(error).__name__}: {line}'


def refuse_urls(argv: Sequence[str], allowed: Collection[str] = (), switches: Collection[str] = ()) -> None:
    """Raises `InputError` where an argument is a URL and is not of one of the flags `allowed` ('': arguments without a flag).

    `switches`: flags that take no value.
    """
    flag = ''
    for part in argv[1:]:
        if part.startswith('-') and len(part) > 1:
            name, equals, value = part.lstrip('-').partition('=')
            flag = '' if equals else name
        else:
            name, value = '' if {flag, flag.removeprefix('no')} & {*switches} else flag, part
            flag = ''
        if url_in(value) and name not in allowed:
            shown = f'--{name} {value}' if name else value
            raise InputError(f'{shown}: only paths of this machine can be given here, no URL; copy to or from a local folder')


def refuse_url(path: pathlib.PurePath) -> None:
    """Raises `InputError` where a folder would be made whose name is the beginning of a URL, such as `gs:`."""
    for parent in (path, *path.parents):
        if re.fullmatch(r'[A-Za-z][A-Za-z0-9+.-]+:', parent.name) and not os.path.lexists(parent):
            raise InputError(f'{path}: looks like a URL; only paths of this machine can be given here')


def upload(source: pathlib.Path, target: Any) -> None:
    """Writes a file of this machine to a remote path. On object stores it appears there whole, in place of what was there."""
    with explained(target):
        if target.protocol not in _BUCKETS:
            target.parent.mkdir(parents=True, exist_ok=True)
        target.fs.put_file(str(source), target.path)


def download(source: Any, target: pathlib.Path) -> None:
    """Writes a remote file to a path of this machine."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with explained(source), source.open('rb') as remote, target.open('wb') as file:
        shutil.copyfileobj(remote, file, _MOST_BYTES)


def listed(path: Any) -> dict[str, int]:
    """Every file below a remote folder: its path from there -> bytes. {} where there is no such folder."""
    with explained(path):
        root = path.path.rstrip('/')
        found = path.fs.find(root, detail=True)
        return {name.lstrip('/')[len(root.lstrip('/')) + 1 :]: int(info['size'] or 0) for name, info in found.items()}


def remove(path: Any) -> None:
    """Removes a remote file, or a folder with all that is in it, if it is there."""
    with explained(path), contextlib.suppress(FileNotFoundError):
        path.fs.rm(path.path, recursive=True)
