"""How a command ends: status 0, or one line on stderr and the status that fits it."""

import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any, NoReturn, TextIO, cast

from kimnet_jax.core import files, paths, signals
from kimnet_jax.core.errors import InputError, one_line

_NO_BACKEND = (
    'JAX cannot start on the device that the environment variable JAX_PLATFORMS names; unset it, or install what the device '
    'needs: pip install "kimnet-jax[gpu]" or "kimnet-jax[tpu]"'
)


def run_command(
    main: Callable[..., object],
    *args: object,
    any_names: bool = False,
    urls: Collection[str] = (),
    switches: Collection[str] = (),
) -> None:
    """Runs a command's `main`; an `InputError`, or a path that the system refuses, ends it with one line on stderr and status 2.

    Ctrl-C and SIGTERM end it with one line and 128 + the signal's number. Unless `any_names`, arguments that are no valid Unicode
    are refused, and so are URLs but as values of the flags `urls` ('': arguments without a flag);
    `switches`: flags that take no value.
    """
    for name, level in (('', logging.ERROR), ('jax', logging.ERROR), ('absl', logging.CRITICAL), ('gcsfs', logging.CRITICAL)):
        logging.getLogger(name).setLevel(level)  # the libraries tell of every file, and of an error that they raise as well
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # as stderr: names of files may be of any bytes
    try:
        with explained(), signals.stoppable():
            for part in [] if any_names else sys.argv:
                part.encode()  # raises where a name is not valid Unicode: most libraries that open files take no other
            paths.refuse_urls(sys.argv, urls, switches)
            status = main(*args)
            sys.stdout.flush()
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
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:  # whoever read what is printed has seen enough
            _drop_stdout()
            sys.exit(128 + signal.SIGPIPE)
        if isinstance(error, OSError) and error.filename is None and not _stdout_takes_more():
            fail(f'the output cannot be written ({error.strerror})')
        told = files.explain(error)
        if told is None and isinstance(error, RuntimeError) and not _backend_starts():
            told = _NO_BACKEND
        if told is None:
            raise
        fail(told)
    except AssertionError:  # JAX's own, where no plugin is there for what JAX_PLATFORMS names
        if _backend_starts():
            raise
        fail(_NO_BACKEND)
    except Exception as error:
        if (told := paths.explain(error)) is None:
            raise
        fail(told)


def _backend_starts() -> bool:
    """Whether JAX, where it is imported, has devices."""
    try:
        jax = sys.modules.get('jax')
        return jax is None or bool(jax.devices())
    except (RuntimeError, AssertionError):
        return False


def _stdout_takes_more() -> bool:
    """Whether what was printed arrives."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_stdout()
        return False
    return True


def _drop_stdout() -> None:
    """From now on nothing is printed: Python would try once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def fail(message: str) -> NoReturn:
    """Ends the command with `message`, in one line, on stderr and status 2."""
    print(f'error: {one_line(message)}', file=sys.stderr, flush=True)
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

    After reading or saving that failed, TensorStore's have one for each array, hundreds, around the line that names the cause.
    """
    sys.stderr = cast(TextIO, _WithoutForeignThreads(sys.stderr))
