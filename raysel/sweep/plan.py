"""`raysel plan EXPERIMENT SPACE`: how many trials, what they share, what is there already, how long it may take."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raysel import disk
from raysel.decisions import decide
from raysel.pipeline import expand
from raysel.report.formats import duration
from raysel.runner import disk_needs
from raysel.steps import STAGES, Step
from raysel.store import Store
from raysel.sweep.space import Point, drawn
from raysel.sweep.trials import Search, read_search


def print_sweep_plan(experiment_file: Path, space_file: Path, overrides: Sequence[str], console: Console) -> None:
    """Print it; `UserError` where a point cannot be tried or the disk is too small."""
    search = read_search(experiment_file, space_file, overrides)
    store = Store(search.experiment.storage)
    store.refuse_unwritable()
    points = search.points()
    shown = points if points is not None else drawn(search.space, search.known, search.most_points)
    steps = steps_of_all(search, store, shown)
    seeds = len(search.seeds)
    guess = "" if points is not None else " (random ones in the place of those that tpe will choose)"
    console.print(
        f"{len(shown)} points x {seeds} seeds = {len(shown) * seeds} trials by {search.space.search}{guess}",
        highlight=False,
    )
    seconds = {stage: past_seconds(store, stage) for stage in {step.stage for step in steps}}
    published = {step.address for step in steps if store.artifact(step.stage, step.fingerprint) is not None}
    console.print(_table(steps, published, seconds))
    _print_totals(search, store, steps, published, seconds, console)


def steps_of_all(search: Search, store: Store, points: Sequence[Point]) -> list[Step]:
    """The steps of every trial, one after another: what several have in common comes several times."""
    return [
        step
        for point in points
        for seed in search.seeds
        for step in expand(search.trial(point, seed, name="trial"), store, search.until)
    ]


def past_seconds(store: Store, stage: str) -> float | None:
    """The mean time that a stage took whenever it ran in this storage; None where it never did."""
    fingerprints = {store.relative(info.path).split("/")[1] for info in store.list_files(stage)}
    found = [store.artifact(stage, fingerprint) for fingerprint in fingerprints]
    times = [artifact.manifest["wall_seconds"] for artifact in found if artifact is not None]
    return sum(times) / len(times) if times else None


def _table(steps: Sequence[Step], published: set[str], seconds: Mapping[str, float | None]) -> Table:
    table = Table("stage", box=None)
    for heading in ("in the trials", "different", "published", "to run", "each took"):
        table.add_column(heading, justify="right")
    uses = Counter(step.stage for step in steps)
    addresses: dict[str, set[str]] = defaultdict(set)
    for step in steps:
        addresses[step.stage].add(step.address)
    for stage in (stage for stage in STAGES if stage in uses):
        there = len(addresses[stage] & published)
        took = seconds[stage]
        counts = (uses[stage], len(addresses[stage]), there, len(addresses[stage]) - there)
        table.add_row(stage, *map(str, counts), duration(took) if took is not None else "")
    return table


def _print_totals(
    search: Search,
    store: Store,
    steps: Sequence[Step],
    published: set[str],
    seconds: Mapping[str, float | None],
    console: Console,
) -> None:
    to_run = {step.address: step for step in steps if step.address not in published}
    shared = len(steps) - len({step.address for step in steps})
    console.print(
        f"{len(steps)} steps, {shared} of them shared with another trial; {len(to_run)} to run", highlight=False
    )
    unknown = sorted({step.stage for step in to_run.values() if seconds[step.stage] is None})
    hours = sum(seconds[step.stage] or 0.0 for step in to_run.values()) / 3600
    # Of the whole cluster: a stage uses all of it.
    known = f"about {hours:.2f} hours of the whole cluster, as the stages took in this storage"
    if unknown:
        known = f"not known: {', '.join(unknown)} never ran in this storage; run one trial first (raysel run)"
    console.print(f"time: {known if to_run else 'nothing is to run'}", highlight=False)
    limits = search.space.limits
    if limits.device_hours is not None:
        console.print(f"no trial is started after {limits.device_hours:g} device-hours", highlight=False)
    needed = _disk(search, store, to_run)
    console.print(f"disk: at most {disk.readable(sum(needed.values()))} more", highlight=False)
    disk.refuse_too_little(needed, store.free_bytes(), store.shown(""))


def _disk(search: Search, store: Store, to_run: Mapping[str, Step]) -> dict[str, int]:
    """Bytes by stage: of each one as much as one trial's takes at most, as often as it is to run."""
    decisions = decide(expand(search.experiment, store, None), store, {})
    each = disk_needs(search.experiment, decisions, {})
    counts = Counter(step.stage for step in to_run.values())
    return {stage: each.get(stage, 0) * count for stage, count in counts.items()}
