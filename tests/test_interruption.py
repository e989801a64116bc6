"""A Ctrl-C that a library swallows is raised again where the run asks."""

import contextlib
import signal

import pytest

from raysel.interruption import raise_if_interrupted, remembered_interrupts


def test_a_swallowed_interrupt_is_raised_again() -> None:
    with remembered_interrupts():
        raise_if_interrupted()
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            raise_if_interrupted()
    raise_if_interrupted()


def test_an_interrupt_that_arrives_arrives_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), remembered_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    raise_if_interrupted()


def test_the_cluster_asks_between_results(cluster) -> None:
    def negate(number: int) -> int:
        return -number

    results = cluster.map_tasks(negate, [(i,) for i in range(50)])
    with remembered_interrupts():
        next(results)
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            next(results)
