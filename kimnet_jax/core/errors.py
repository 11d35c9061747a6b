"""Errors that are the user's to mend: one sentence that names the file or field and says what to do."""

import contextlib
import errno
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO, cast

from kimnet_jax.core import signals


class InputError(ValueError):
    """Bad input, a bad setting, or a file that is not what it should be. Commands print it without a traceback."""


class DamagedError(InputError):
    """A file whose content cannot be trusted: cut short, altered, not decodable."""


def run_command(main: Callable[..., object], *args: object) -> None:
    """Runs a command's `main`; an `InputError` or a full disk ends it with one line on stderr and status 2.

    Ctrl-C and SIGTERM end it with one line and 128 + the signal's number.
    """
    for name, level in (('', logging.ERROR), ('jax', logging.ERROR), ('absl', logging.CRITICAL)):
        logging.getLogger(name).setLevel(level)  # the libraries tell of every file, and of an error that they raise as well
    try:
        with explained(), signals.stoppable():
            status = main(*args)
    except (signals.Interrupted, KeyboardInterrupt) as stopped:
        stopped = stopped if isinstance(stopped, signals.Interrupted) else signals.Interrupted(signal.SIGINT)
        print(stopped, file=sys.stderr, flush=True)
        sys.exit(128 + stopped.number)
    sys.exit(status if isinstance(status, int) else 0)


class _WithoutForeignThreads:
    """A stream that takes nothing from threads that Python did not start."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if isinstance(threading.current_thread(), threading._DummyThread) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def hush_foreign_threads() -> None:
    """For the rest of the process: no tracebacks on stderr of the threads of C++ libraries.

    After a save that failed, TensorStore's have one for each array, hundreds, before and after the line that names the cause.
    """
    sys.stderr = cast(TextIO, _WithoutForeignThreads(sys.stderr))


def parse_flags(values: Callable[[Sequence[str]], list[str]], argv: Sequence[str]) -> list[str]:
    """Calls absl's `values` on a command line; what it cannot read there, or in a config file, ends the command in one line."""
    try:
        return values(argv)
    except Exception as error:  # of absl, of ml_collections, of the config file; the long ones are tracebacks in themselves
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        message = lines[-1].removeprefix('ValueError: ')
        if isinstance(error, AttributeError):  # ml_collections names the last part of the field only
            field, *alike = re.findall(r'\w+(?=\\*[\'"])', str(error)) or ['?']
            given = [part.partition('=')[0] for part in argv if re.match(rf'--?config\.(.*\.)?{re.escape(field)}(=|$)', part)]
            message = f'{given[0] if given else field}: the config has no such field'
            message += f'; did you mean {alike[0]}?' if alike else ''
        elif len(lines) > 1:
            flag = next((i for i, part in enumerate(argv) if re.match('--?config(=|$)', part)), 0)
            message = f'{" ".join(argv[flag : flag + (1 if "=" in argv[flag] else 2)])}: {message}'
        _fail(message)
        raise


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what the user can mend into a line on stderr and exit status 2."""
    try:
        yield
    except InputError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f' at {error.filename}' if error.filename else ''
            _fail(f'the disk is full{place}: free some space (or choose another folder) and rerun the command')
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            _fail(f'no permission to write or read {error.filename}: choose another folder or change its permissions')
        raise


def _fail(message: str) -> None:
    print(f'error: {message}', file=sys.stderr, flush=True)
    sys.exit(2)
