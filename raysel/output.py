"""What a person sees, kept apart from what Ray, DeepSpeed and their children print.

While a run goes on, the process's stdout and stderr go to a log file, children and C++ libraries included; our own
lines go to the terminal through `console`.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console


@contextmanager
def quiet_process(log: Path) -> Iterator[Console]:
    """Append everything that the process and its children print to `log`; yield the console of the real stdout."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        with os.fdopen(os.dup(saved[0]), "w", buffering=1, encoding="utf-8") as terminal:
            yield Console(file=terminal, soft_wrap=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
