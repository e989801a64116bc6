"""A sweep on a terminal: the ranking, and the trials while they run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.markup import escape
from rich.table import Table

from raysel.report.formats import both_ends, counted, decimal, duration, probability
from raysel.sweep.answer import STATUSES, verdict_word
from raysel.sweep.records import Sweep, TrialRecord
from raysel.sweep.settings import Space
from raysel.sweep.space import varied
from raysel.sweep.values import UNCHANGED, Measure, measures, short_names, value_text

VALUE_CHARACTERS = 24
STYLES = {"finished": "green", "stopped": "yellow", "failed": "red"}


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has not ended. stage: the one it is in; curve: as in `TrialRecord`, as far as it got."""

    number: int
    seed: int
    parameters: dict[str, Any]
    stage: str
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0


def ranking_table(sweep: Sweep, *, most: int | None = None) -> Table:
    """The points by rank: the parameters that vary, the objectives with their 95% intervals, the difference from the
    next and whether it is beyond noise, the seeds. most: so many rows, and how many others there are.

    `sweep.space` is what `sweep_page` takes.
    """
    space = Space.model_validate(sweep.space)
    found = measures(space, [ranked.objectives for ranked in sweep.ranking])
    keys = list(varied([ranked.parameters for ranked in sweep.ranking]))
    seed_of = {trial.number: trial.seed for trial in sweep.trials}
    shown = sweep.ranking[:most]
    table = _table("rank")
    _add_parameters(table, keys)
    for of in found:
        table.add_column(escape(of.heading), justify="right", no_wrap=True)
    if len(found) > 1:
        table.add_column("front")
    for heading in ("less the next", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("beyond noise", "seeds"):
        table.add_column(heading)
    for ranked in shown:
        contrast = ranked.against_next
        row = [str(ranked.rank), *_values(ranked.parameters, keys)]
        row += [of.with_ends(one) for of, one in zip(found, ranked.objectives, strict=True)]
        row += ["yes" if ranked.on_front else ""] if len(found) > 1 else []
        difference = contrast.difference if contrast else None
        row.append(found[0].with_ends(difference, True) if difference else "")
        row.append(probability(contrast.p) if contrast and contrast.p is not None else "")
        row += [verdict_word(contrast), ", ".join(str(seed_of[number]) for number in ranked.trials)]
        table.add_row(*map(escape, row))
    if len(sweep.ranking) > len(shown):
        table.caption = f"and {counted(len(sweep.ranking) - len(shown), 'other point')}"
    if not sweep.ranking:
        table.caption = "no point finished with all of its seeds"
    return table


def trials_table(
    space: Space,
    ended: Sequence[TrialRecord],
    running: Sequence[RunningTrial],
    *,
    most: int,
    seconds_left: float | None = None,
) -> Table:
    """A row for each trial, at most `most`: those that run, by number, then those that ended, the newest first. ended:
    in the order in which they ended; seconds_left: see `time_left`."""
    found = measures(space, [trial.objectives for trial in ended if trial.objectives])
    keys = list(varied([trial.parameters for trial in running] + [trial.parameters for trial in ended]))
    table = _table("trial")
    _add_parameters(table, keys)
    table.add_column("seed", justify="right")
    table.add_column("status")
    for of in found:
        table.add_column(escape(of.heading), justify="right", no_wrap=True)
    for heading in ("newest loss", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = sorted(running, key=lambda trial: trial.number)[:most]
    newest = list(reversed(ended))[: most - len(first)]
    for going in first:
        table.add_row(*_trial_row(going, keys, escape(going.stage), ["" for _ in found]))
    for done in newest:
        status = f"[{STYLES[done.status]}]{STATUSES[done.status]}[/]"
        table.add_row(*_trial_row(done, keys, status, _reached(done, found)))
    others = len(running) + len(ended) - len(first) - len(newest)
    left = f"about {duration(seconds_left)} left" if seconds_left is not None else ""
    table.caption = "; ".join(filter(None, [f"and {counted(others, 'other trial')}" if others else "", left])) or None
    return table


def time_left(ended: Sequence[TrialRecord], running: Sequence[float], waiting: int, concurrency: int) -> float | None:
    """Seconds until the last trial ends, if those to come take as long as the middle one of those that ended; None
    before one has. running: the seconds that each has run; waiting: how many are to be started."""
    if not ended:
        return None
    usual = median(trial.seconds for trial in ended)
    rest = [max(usual - seconds, 0.0) for seconds in running]
    rounds = math.ceil(waiting / max(concurrency, 1))
    return max(max(rest, default=0.0) + rounds * usual, (sum(rest) + waiting * usual) / max(concurrency, 1))


def _table(first: str) -> Table:
    table = Table(box=None, pad_edge=False, caption_justify="left")
    table.add_column(first, justify="right", no_wrap=True)
    return table


def _add_parameters(table: Table, keys: Sequence[str]) -> None:
    names = short_names(keys)
    for key in keys:
        table.add_column(escape(names[key]))


def _values(parameters: dict[str, Any], keys: Sequence[str]) -> list[str]:
    return [
        both_ends(value_text(parameters[key]), VALUE_CHARACTERS) if key in parameters else UNCHANGED for key in keys
    ]


def _trial_row(trial: TrialRecord | RunningTrial, keys: Sequence[str], status: str, reached: list[str]) -> list[str]:
    loss = f"{decimal(trial.curve[-1][1])} at {trial.curve[-1][0]}%" if trial.curve else ""
    values = [escape(value) for value in _values(trial.parameters, keys)]
    return [str(trial.number), *values, str(trial.seed), status, *reached, loss, duration(trial.seconds)]


def _reached(trial: TrialRecord, found: Sequence[Measure]) -> list[str]:
    if not trial.objectives:
        return ["" for _ in found]
    return [escape(of.with_ends(one)) for of, one in zip(found, trial.objectives, strict=True)]
