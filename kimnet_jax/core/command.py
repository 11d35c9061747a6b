"""How a command ends: status 0, or one line on stderr and the status that fits it."""

import contextlib
import errno
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO, cast

from kimnet_jax.core import signals
from kimnet_jax.core.errors import InputError


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


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turns what the user can mend into a line on stderr and exit status 2."""
    try:
        yield
    except InputError as error:
        fail(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            place = f' at {error.filename}' if error.filename else ''
            fail(f'the disk is full{place}: free some space (or choose another folder) and rerun the command')
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fail(f'no permission to write or read {error.filename}: choose another folder or change its permissions')
        raise


def fail(message: str) -> NoReturn:
    """Ends the command with `message` on stderr and status 2."""
    print(f'error: {message}', file=sys.stderr, flush=True)
    sys.exit(2)


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
