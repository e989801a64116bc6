"""Where worker 0 puts its metrics and the driver takes them from: an actor beside the workers.

In a module of its own, the actor's process holds none of what training needs: 460 MB and 4 s of a CPU less.
"""

from typing import Any

from raysel.memory_errors import Shortage


class Board:
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.shortage: Shortage | None = None

    def put(self, metrics: dict[str, Any]) -> None:
        self.lines.append(metrics)

    def take(self) -> list[dict[str, Any]]:
        taken, self.lines = self.lines, []
        return taken

    def end(self, shortage: Shortage) -> None:
        """No group of workers is to try again: one has run out of memory."""
        self.shortage = self.shortage or shortage

    def ended(self) -> Shortage | None:
        return self.shortage
