"""What is shown while a stage runs, on a terminal and elsewhere."""

import io

from rich.console import Console

from raysel import progress as progress_module
from raysel.progress import Progress


def test_plain_lines_say_rate_and_time_left(monkeypatch: object) -> None:
    monkeypatch.setattr(progress_module, "PLAIN_LINE_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(progress_module, "RATE_AFTER_SECONDS", 0.0)
    out = io.StringIO()
    with Progress(Console(file=out, width=200), "vectors").track(100, "rows", done=40) as tracker:
        for _ in range(3):
            tracker.advance(20)
    lines = out.getvalue().splitlines()
    assert lines[-1].startswith("  vectors: 100/100 rows, ")
    assert lines[-1].endswith("0 s left")


def test_a_terminal_gets_a_live_bar_that_goes_away() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    with Progress(console, "sums").track(10, "rows") as tracker:
        tracker.advance(5, "half")
        tracker.bar.refresh()
        assert "5/10 rows" in out.getvalue()
    assert out.getvalue().rstrip().endswith("\x1b[2K") or "\x1b[1A" in out.getvalue()
