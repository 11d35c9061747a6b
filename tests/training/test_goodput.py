"""Every moment counts once: shares by hand with a clock that only moves when told."""

import contextlib
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from kimnet_jax.training.goodput import PARTS, Goodput


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Values:
    """Of a step that is at work until it is `over`."""

    def __init__(self):
        self.over = threading.Event()

    def block_until_ready(self) -> 'Values':
        self.over.wait(10)
        return self


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_parts_add_up_and_the_inner_one_counts(clock):
    goodput = Goodput(clock)
    clock.now += 1
    with goodput.during('evaluation'):
        clock.now += 2
        with goodput.during('checkpoints'):
            clock.now += 3
        clock.now += 4
    with contextlib.suppress(KeyError), goodput.during('steps'):
        clock.now += 10
        raise KeyError
    shares = goodput.shares()
    assert shares.pop('seconds') == 20
    assert shares == {
        'steps': 0.5,
        'compilation': 0,
        'data_wait': 0,
        'evaluation': 0.3,  # 2 + 4 of 20
        'checkpoints': 0.15,
        'other': 0.05,
    }


def test_no_time_has_no_shares(clock):
    assert set(Goodput(clock).shares().values()) == {0.0}


def settled(goodput: Goodput) -> None:
    """Waits until the thread has noted what is over."""
    until = time.monotonic() + 10
    while goodput._devices.busy_until() == float('inf'):
        assert time.monotonic() < until
        time.sleep(0.001)


def test_waiting_for_data_costs_what_the_devices_are_idle(clock):
    with Goodput(clock) as goodput:
        with goodput.fetching():  # there was no step yet
            clock.now += 1
        first = Values()
        goodput.dispatched(first)
        with goodput.fetching():  # 3 s, 2 of them while the step is at work
            clock.now += 2
            first.over.set()
            settled(goodput)
            clock.now += 1
        assert (goodput.seconds()['data_wait'], goodput.seconds()['steps']) == (2, 2)
        second = Values()
        goodput.dispatched(second)
        with goodput.fetching():  # the step is at work all the time
            clock.now += 5
        assert (goodput.seconds()['data_wait'], goodput.seconds()['steps']) == (2, 7)
        second.over.set()
        settled(goodput)
        clock.now += 1  # counts for nothing but `other`
        with goodput.fetching():
            clock.now += 2
        assert (goodput.seconds()['data_wait'], goodput.seconds()['steps'], goodput.seconds()['other']) == (4, 7, 1)


def test_compilation_counts_once_whatever_it_is_part_of():
    x = jax.block_until_ready(jnp.arange(16.0))

    @jax.jit
    def outer(y):
        with jax.ensure_compile_time_eval():  # compiled while the outer one is traced, which tells of the same time
            factor = jax.jit(lambda x: jnp.sum(jnp.sin(x) * 2))(x)
        return y * factor

    told: list[float] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        told.append(seconds if event.startswith('/jax/core/compile/') else 0.0)

    jax.monitoring.register_event_duration_secs_listener(listen)
    with Goodput() as goodput, goodput.during('evaluation'):
        began = time.perf_counter()
        outer.trace(x)
        passed = time.perf_counter() - began
        traced = goodput.seconds()['compilation']
        jax.block_until_ready(outer(x))
        compiled = goodput.seconds()
    jax.monitoring.unregister_event_duration_listener(listen)
    assert 0.5 * passed < traced <= passed
    assert traced < compiled['compilation'] < sum(told)  # some of it is told of twice
    assert sum(value for part, value in goodput.shares().items() if part in PARTS) == pytest.approx(1)


def test_another_thread_that_compiles_is_none_of_it():
    with Goodput() as goodput:
        thread = threading.Thread(target=lambda: jax.jit(lambda x: x * 3 + 1)(jnp.ones(7)).block_until_ready())
        thread.start()
        thread.join()
        assert goodput.seconds()['compilation'] == 0


def test_after_the_end_nothing_listens():
    with Goodput() as goodput:
        pass
    jax.jit(lambda x: x * 5 + 2)(jnp.ones(9)).block_until_ready()
    assert goodput.seconds()['compilation'] == 0
