"""A time limit on what a model is used for."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from raysel.models.loading import embedding_modules

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class DeadlineError(RuntimeError):
    """The model was used for longer than it may be."""


@contextmanager
def deadline(model: "PreTrainedModel", seconds: float, *, grace: float = 60.0) -> Iterator[None]:
    """Raise `DeadlineError` from the first forward pass of `model` that begins `seconds` after the block did.

    Scoring and generating (token by token) are forward passes, so that is where the time goes. A block that hangs
    elsewhere, in native code or on a dead file system, cannot be interrupted: `grace` seconds after the limit the
    process is ended.
    """
    ends = time.monotonic() + seconds

    def refuse_when_late(*_: object) -> None:
        if time.monotonic() > ends:
            raise DeadlineError(f"took longer than {seconds:g} s")

    # Every pass goes through the embeddings; generation with a PEFT model does not go through the wrapper's forward.
    hooks = [part.register_forward_pre_hook(refuse_when_late) for part in embedding_modules(model)]
    last_resort = threading.Timer(seconds + grace, os._exit, args=[1])
    last_resort.daemon = True
    last_resort.start()
    try:
        yield
    finally:
        last_resort.cancel()
        for hook in hooks:
            hook.remove()
