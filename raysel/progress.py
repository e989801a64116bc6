"""How far a long stage is: a live bar on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

PLAIN_LINE_EVERY_SECONDS = 10.0
RATE_AFTER_SECONDS = 1.0
Listener = Callable[[list[dict[str, Any]], int], None]


class Progress:
    """Counts work done in one stage and shows it with a rate and the time left."""

    def __init__(self, console: Console, stage: str, listen: Listener | None = None) -> None:
        """listen: is called with what training measures, the lines of its log, and the number of its steps."""
        self.console = console
        self.stage = stage
        self.listen = listen

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(f"  {text}", highlight=False, markup=False)

    @contextmanager
    def track(self, total: float, unit: str, *, done: float = 0) -> Iterator["Tracker"]:
        """Show progress towards `total` units while the block runs; `done` units were found finished."""
        tracker = Tracker(self, total, unit, done)
        try:
            yield tracker
        finally:
            tracker.close()


class Tracker:
    def __init__(self, progress: Progress, total: float, unit: str, done: float) -> None:
        self.progress, self.total, self.unit, self.done = progress, total, unit, done
        # The rate counts from the first unit: workers that start take their time once, not for every unit.
        self.first: tuple[float, float] | None = None
        self.last_line = time.monotonic()
        self.bar: Bar | None = None
        if progress.console.is_terminal:
            self.bar = Bar(
                TextColumn(f"  {progress.stage}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[detail]}"),
                console=progress.console,
                transient=True,
            )
            self.task = self.bar.add_task(progress.stage, total=total, unit=unit, rate="", detail="")
            self.bar.update(self.task, completed=done)
            self.bar.start()

    def advance(self, amount: float, detail: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        self.first = self.first or (now, self.done)
        seconds = now - self.first[0]
        # What arrives in the first moment arrived together: it gives no rate.
        rate = (self.done - self.first[1]) / seconds if seconds > RATE_AFTER_SECONDS else 0.0
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, rate=f"{rate:,.1f}/s" if rate else "", detail=detail)
        elif now - self.last_line >= PLAIN_LINE_EVERY_SECONDS and rate > 0:
            self.last_line = now
            left = (self.total - self.done) / rate
            self.progress.note(
                f"{self.progress.stage}: {self.done:,.0f}/{self.total:,.0f} {self.unit}, "
                f"{rate:,.1f}/s, {left:,.0f} s left {detail}".rstrip()
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
