"""Ctrl-C that cannot get lost.

A KeyboardInterrupt is raised wherever the interpreter happens to be, and some libraries swallow it there: a bare
`except:` around an import is enough, and the run would go on to its end. So the interrupt is remembered as well, and
raised again at the next place that asks.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_interrupted = False


def _remember(number: int, frame: FrameType | None) -> None:
    global _interrupted
    _interrupted = True
    raise KeyboardInterrupt


@contextmanager
def remembered_interrupts() -> Iterator[None]:
    """While the block runs, Ctrl-C is remembered for `raise_if_interrupted`; only a main thread gets it at all."""
    global _interrupted
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _interrupted = False
    before = signal.signal(signal.SIGINT, _remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _interrupted = False


def raise_if_interrupted() -> None:
    """KeyboardInterrupt if Ctrl-C was pressed and somebody swallowed it."""
    if _interrupted:
        raise KeyboardInterrupt
