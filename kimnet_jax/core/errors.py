"""Errors that are the user's to mend: one sentence that names the file or field and says what to do."""

import contextlib
import errno
import logging
import sys
from collections.abc import Callable, Iterator


class InputError(ValueError):
    """Bad input, a bad setting, or a file that is not what it should be. Commands print it without a traceback."""


def run_command(main: Callable[..., object], *args: object) -> None:
    """Runs a command's `main`; an `InputError` or a full disk ends it with one line on stderr and status 2."""
    for name in ('', 'absl', 'jax'):
        logging.getLogger(name).setLevel(logging.ERROR)  # the libraries tell of every file that they open
    with explained():
        status = main(*args)
        sys.exit(status if isinstance(status, int) else 0)


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
            _fail(f'the disk is full{place}: free some space (or choose another folder) and run the same command again')
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            _fail(f'no permission to write or read {error.filename}: choose another folder or change its permissions')
        raise


def _fail(message: str) -> None:
    print(f'error: {message}', file=sys.stderr, flush=True)
    sys.exit(2)
