"""Ctrl-C and SIGTERM in a command: they raise an exception in the main thread, so that everything is cleaned up on the way out.

Python runs its handlers between two instructions only. Where the main thread is inside of a library for longer, in a compiler
that takes minutes, a thread ends the process instead; what is half-written then lies in a work folder, which the next command
removes.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

GRACE = 7.0  # seconds that the main thread is given
NUMBERS = (signal.SIGINT, signal.SIGTERM)
_noticed, _patient = threading.Event(), threading.Event()
_last_words: list[Callable[[int, str], None]] = []


class Interrupted(BaseException):
    """The command was asked to stop. Attribute `number`: by which signal."""

    def __init__(self, number: int):
        super().__init__(f'stopped by {signal.Signals(number).name}; no partial files are left')
        self.number = number


def stoppable_while_importing() -> None:
    """Until `stoppable` takes over: Ctrl-C in a command that is still importing its modules is one line, too."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def _leave(number: int, _: object) -> None:
    print(Interrupted(number), file=sys.stderr, flush=True)
    os._exit(128 + number)


@contextlib.contextmanager
def patience(wanted: bool = True) -> Iterator[None]:
    """Inside, the main thread has something to save and is given all the time it takes; if not `wanted`, none but `GRACE`."""
    before = _patient.is_set()
    (_patient.set if wanted else _patient.clear)()
    try:
        yield
    finally:
        (_patient.set if before else _patient.clear)()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first signal raises `Interrupted` in the main thread, a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _noticed.clear()
    before = {number: signal.signal(number, _interrupt) for number in NUMBERS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Inside, the first signal raises nothing, and the function given says whether it came; a second one ends the process.

    For what has no end of its own: it is asked whether to end.
    """
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return

    def note(number: int, _: object) -> None:
        came.set()
        _noticed.set()
        for one in NUMBERS:
            signal.signal(one, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in NUMBERS}
    try:
        with patience():
            yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def noticed() -> bool:
    """Whether a signal came that ends the command."""
    return _noticed.is_set()


def before_sudden_end(tell: Callable[[int, str], None]) -> None:
    """Has `tell` called with the exit status and the reason where a signal ends the process inside of a library call."""
    _last_words.append(tell)


def take_back(number: int) -> Callable[[], None]:
    """Gives a signal that a C library has taken for itself back to Python's handler.

    Returns what leaves the signal to the library again, and sends it.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    theirs = libc.signal(number, None)
    signal.signal(number, signal.getsignal(number))

    def hand_over() -> None:
        libc.signal(number, theirs)
        os.kill(os.getpid(), number)

    return hand_over


def _interrupt(number: int, _: object) -> None:
    _noticed.set()
    for one in NUMBERS:
        signal.signal(one, signal.SIG_DFL)
    raise Interrupted(number)


def _watch(reader: int) -> None:
    """Reads the numbers of the signals as they come, whatever the main thread does."""
    with os.fdopen(reader, 'rb', buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] not in NUMBERS or _noticed.wait(GRACE) or _patient.is_set():
                continue
            name = signal.Signals(number[0]).name
            told = f'stopped by {name} inside a library call; finished files are kept'
            print(told, file=sys.stderr, flush=True)
            for tell in _last_words:
                tell(128 + number[0], told)
            os._exit(128 + number[0])
