"""Work in a thread: order, errors, and that nothing is left running."""

import threading
import time

import pytest

from kimnet_jax.core.background import Behind, ahead


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_items_come_in_order_and_only_a_few_ahead():
    made = []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    found = []
    for item in ahead(items(), 3):
        assert len(made) <= len(found) + 1 + 3 + 1  # this one, those that wait, the one that is made
        found.append(item)
        time.sleep(0.002)
    assert found == list(range(20))


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        yield 2
        raise ValueError('third')

    found = []
    with pytest.raises(ValueError, match='third'):  # noqa: PT012
        for item in ahead(items()):
            found.append(item)
    assert found == [1, 2]


def test_closing_ends_the_thread_and_the_source():
    closed = []

    def items():
        try:
            yield from range(10**9)
        finally:
            closed.append(threading.current_thread())

    stream = ahead(items())
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()
    assert len(closed) == 1
    assert closed[0] is not threading.current_thread()


def test_calls_are_made_in_order_while_the_caller_goes_on():
    done = []
    with Behind(lambda item: (time.sleep(0.01), done.append(item)), 2) as write:
        for i in range(6):
            write(i)
            assert i - len(done) <= 3  # it waits where too much is left
    assert done == list(range(6))


def test_what_a_call_raises_the_caller_gets():
    def full(item):
        raise OSError(28, 'disk full')

    with pytest.raises(OSError, match='disk full'), Behind(full) as write:  # noqa: PT012
        for i in range(1000):
            write(i)
            time.sleep(0.001)
    with pytest.raises(OSError, match='disk full'), Behind(full) as write:
        write(1)  # raised at the end at the latest


def test_after_an_error_of_the_caller_nothing_more_is_done():
    done = []
    with pytest.raises(KeyError), Behind(lambda item: (time.sleep(0.02), done.append(item)), 8) as write:  # noqa: PT012
        for i in range(6):
            write(i)
        raise KeyError
    assert len(done) <= 1
