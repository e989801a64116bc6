"""The trials of a running sweep on a terminal: a table that is drawn anew, or a line for each trial elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live

from raysel.report.formats import duration
from raysel.sweep.records import TrialRecord
from raysel.sweep.sweep_progress import SweepProgress
from raysel.sweep.table import RunningTrial, time_left, trials_table
from raysel.sweep.trials import shown

ROWS = 12
PLAIN_LINE_EVERY_SECONDS = 30.0


class LiveTrials:
    """Shows a sweep while the block runs."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self.last_line = time.monotonic()

    def __enter__(self) -> "LiveTrials":
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def show(self, sweep: SweepProgress) -> None:
        """How far the trials are."""
        now = time.monotonic()
        running = [
            RunningTrial(of.number, of.seed, dict(of.parameters), of.stage, of.curve, now - of.started)
            for of in sweep.running.values()
        ]
        ended = list(sweep.ended.values())
        # What was kept says nothing of the pace: its artifacts were made with others or without.
        new = [record for record in ended if record not in sweep.kept]
        waiting = sweep.total - len(ended) - len(running)
        left = time_left(new, [trial.seconds for trial in running], waiting, sweep.concurrency)
        if self.live is not None:
            table = trials_table(sweep.search.space, ended, running, most=ROWS, seconds_left=left)
            self.live.update(table, refresh=True)
        elif now - self.last_line >= PLAIN_LINE_EVERY_SECONDS:
            self.last_line = now
            at = "; ".join(f"trial {trial.number}: {trial.stage}" for trial in running)
            more = f"; about {duration(left)} left" if left is not None else ""
            self._line(f"{len(ended)} of {sweep.total} trials ended; {at}{more}")

    def ended(self, record: TrialRecord, sweep: SweepProgress) -> None:
        """One line that stays."""
        labels = [objective.label for objective in sweep.search.space.objective]
        values = [
            f"{label} {of.value:.4g}" + (f" [{of.low:.4g}, {of.high:.4g}]" if of.low is not None else "")
            for label, of in zip(labels, record.objectives, strict=False)
        ]
        found = ", ".join(values) or record.reason
        seed = f", seed {record.seed}" if len(sweep.search.seeds) > 1 else ""
        self._line(f"trial {record.number} {record.status} ({shown(record.parameters)}{seed}): {found}")

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False)
