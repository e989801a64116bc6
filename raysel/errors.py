"""The errors that are shown as one message, without a traceback."""

import copyreg
from typing import Any


class UserError(ValueError):
    """What the user gave cannot be used: the message says what was found, where, and what to do.

    The command line prints the message alone on stderr and ends with exit code 2; anything else that is raised
    is a fault of ours or of the machine, is shown with its traceback and ends with exit code 1.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Crosses processes whole, also where a subclass's `__init__` takes something else than the message."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class IncompleteError(RuntimeError):
    """Part of the work failed each time it was tried and was set aside; the rest is finished and stored.

    The command line prints the message alone on stderr and ends with exit code 1.
    """
