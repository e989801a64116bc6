"""The order of the points of a sweep. Pure."""

import json
from collections import defaultdict
from collections.abc import Sequence

from raysel.evaluation.intervals import Interval
from raysel.sweep.objective import over_seeds
from raysel.sweep.records import Ranked, TrialRecord


def rank(trials: Sequence[TrialRecord], maximized: Sequence[bool], seeds: int) -> list[Ranked]:
    """The points that finished with all `seeds`, best first by the first objective, ties by the number of the point.

    A search that finds its own points may find one twice: equal ones are one.
    """
    of: dict[int, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        if trial.status == "finished":
            of[trial.point].append(trial)
    found = []
    seen: set[str] = set()
    for point, done in sorted(of.items()):
        parameters = json.dumps(done[0].parameters, sort_keys=True)
        if len(done) == seeds and parameters not in seen:
            seen.add(parameters)
            done = sorted(done, key=lambda trial: trial.number)
            objectives = [over_seeds([trial.objectives[i] for trial in done]) for i in range(len(maximized))]
            found.append(Ranked(0, point, done[0].parameters, [trial.number for trial in done], objectives, False))
    found.sort(key=lambda line: (-_gain(line.objectives[0], maximized[0]), line.point))
    return [
        Ranked(i, of.point, of.parameters, of.trials, of.objectives, not _beaten(of, found, maximized))
        for i, of in enumerate(found, start=1)
    ]


def winners(ranking: Sequence[Ranked]) -> list[Ranked]:
    """The best point, or with two objectives every best compromise."""
    if ranking and len(ranking[0].objectives) > 1:
        return [line for line in ranking if line.on_front]
    return list(ranking[:1])


def _beaten(line: Ranked, others: Sequence[Ranked], maximized: Sequence[bool]) -> bool:
    """Whether another point is at least as good in every objective and better in one."""
    own = [_gain(value, more) for value, more in zip(line.objectives, maximized, strict=True)]
    for other in others:
        its = [_gain(value, more) for value, more in zip(other.objectives, maximized, strict=True)]
        if all(a >= b for a, b in zip(its, own, strict=True)) and its != own:
            return True
    return False


def _gain(value: Interval, more_is_better: bool) -> float:
    return value.value if more_is_better else -value.value
