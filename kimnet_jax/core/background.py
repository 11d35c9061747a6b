"""Work that goes on in a thread while the caller does something else, a few items ahead or behind."""

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar('T')
DEPTH = 4  # items; of video frames, some 25 MB at 1080p
_END = object()
_POLL, _PATIENCE = 0.1, 3.0  # seconds


def ahead(items: Iterable[T], depth: int = DEPTH, stopped: Callable[[], bool] = lambda: False) -> Generator[T, None, None]:
    """The same items, up to `depth` of them made ahead in a thread.

    An error in making one is raised in its place. Where the generator is closed, the thread ends after the item it is at, and
    `items` is closed there, too; one that takes longer than `_PATIENCE` is left to itself.

    Args:
        items: what is made.
        depth: how many may wait.
        stopped: asked before each item, and while one is waited for; where it says so, that was all.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    closed = threading.Event()

    def put(item: Any) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=_POLL)
                return True
        return False

    def make() -> None:
        try:
            with contextlib.ExitStack() as stack:
                if hasattr(items, 'close'):
                    stack.callback(items.close)
                for item in items:
                    if not put((item, None)):
                        return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while not stopped():
            try:
                item, error = ready.get(timeout=_POLL)
            except queue.Empty:
                continue
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        closed.set()
        thread.join(_PATIENCE)


class Behind(Generic[T]):
    """Calls of a function with one item after the other, in a thread, up to `depth` behind; what it raises, the next call raises.

    In a `with` block, whose end waits for the calls that are left; where it ends with an error, these are left out.
    """

    def __init__(self, function: Callable[[T], object], depth: int = DEPTH):
        """`function` is called in the thread."""
        self._function, self._depth = function, depth
        self._error: BaseException | None = None

    def __enter__(self) -> 'Behind[T]':
        self._waiting: queue.Queue[Any] = queue.Queue(self._depth)
        self._dropped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __call__(self, item: T) -> None:
        """Has the function called with the item, soon."""
        if self._error is None:
            self._waiting.put(item)
        if self._error is not None:
            raise self._error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._dropped.set()
        self._waiting.put(_END)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _items(self) -> Iterator[T]:
        while (item := self._waiting.get()) is not _END:
            yield item

    def _work(self) -> None:
        for item in self._items():  # to the end in any case: the caller may wait for room
            if self._error is None and not self._dropped.is_set():
                try:
                    self._function(item)
                except BaseException as error:
                    self._error = error
