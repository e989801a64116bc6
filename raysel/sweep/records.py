"""What is known of a sweep: its trials, their ranking, what the winners are worth on test items. Plain data."""

from dataclasses import dataclass, field
from typing import Any, Literal

from raysel.evaluation.intervals import Interval

Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """One trial that ended. `stopped` is early, by the scheduler.

    number: of the trial; point: of its parameters, which trials with other seeds share. parameters: key -> value.
    objectives: of a finished trial, as the space orders them. curve: (percent of the training steps, held-out loss).
    reason: why it failed or was stopped. artifacts: what the objectives were read from, `<stage>/<fingerprint>`.
    """

    number: int
    point: int
    seed: int
    parameters: dict[str, Any]
    status: Status
    objectives: list[Interval] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    reason: str = ""
    artifacts: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Contrast:
    """A point against the next in the ranking: the difference of the first objective, its 95% interval and the p of a
    permutation test over items (None where there is no test). clear: whether it is more than noise; None where nothing
    says how much noise there is."""

    difference: Interval
    p: float | None
    clear: bool | None


@dataclass(frozen=True)
class Ranked:
    """A point that finished with every seed. rank: 1 is the best; with two objectives the first of them counts, and
    on_front says that no other point is better in one and as good in the other."""

    rank: int
    point: int
    parameters: dict[str, Any]
    trials: list[int]
    objectives: list[Interval]
    on_front: bool
    against_next: Contrast | None = None


@dataclass(frozen=True)
class TestScore:
    """A winner's average over languages on test items, of one metric, after training and, where it was evaluated,
    before."""

    __test__ = False  # no class of tests, whatever pytest thinks of its name

    point: int
    seed: int
    metric: str
    tuned: Interval
    base: Interval | None


@dataclass(frozen=True)
class Sweep:
    """All that a sweep came to. objectives: (label, whether more is better); experiment: the file; device_hours: of
    all trials, on `devices` of a kind (`2 CPU`)."""

    name: str
    experiment: str
    space: dict[str, Any]
    objectives: list[tuple[str, bool]]
    trials: list[TrialRecord]
    ranking: list[Ranked]
    tests: list[TestScore]
    device_hours: float
    devices: str
    unstarted: str = ""


def trial_from_json(data: dict[str, Any]) -> TrialRecord:
    """A record as `dataclasses.asdict` wrote it."""
    objectives = [Interval(**interval) for interval in data["objectives"]]
    curve = [(int(percent), float(loss)) for percent, loss in data["curve"]]
    return TrialRecord(**{**data, "objectives": objectives, "curve": curve})
