"""Sweeps as the search would hand them over: made-up values, the records' own shapes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from raysel.evaluation.intervals import Interval
from raysel.sweep.records import Contrast, Ranked, Sweep, TestScore, TrialRecord
from raysel.sweep.settings import Space
from raysel.sweep.space import drawn, grid

HOSTILE = "<script>alert('x')</script> & \"quoted\" <img src=x onerror=alert(1)>"
LONG_MODEL = "/data/models/a-folder-with-a-very-long-name/another/Qwen-something-0.6B-base-checkpoint-of-yesterday"
GRID: dict[str, Any] = {
    "parameters": {
        "preselect.rho": {"grid": [0.25, 0.5, 1.0]},
        "selection.method": {"grid": ["random", "kmc"]},
        "training.learning_rate": {"grid": [2e-5, 1e-4]},
    },
    "seeds": [1, 2],
    "objective": {"of": "results", "metric": "acc"},
}
RANDOM: dict[str, Any] = {
    "parameters": {
        "training.learning_rate": {"loguniform": [1e-6, 1e-3]},
        "preselect.rho": {"uniform": [0.1, 1.0]},
        "training.epochs": {"int": [1, 8]},
        "languages.names": {"choice": [["en", "sw", "zh", "ar", "hi", "fr", "de", "yo", "ru"], ["en", "sw"], HOSTILE]},
        "mixture.weights": {"simplex": ["en", "sw", "zh"]},
        "selection.kmc.clusters": {"int": [2, 40], "when": {"selection.method": "kmc"}},
        "selection.method": {"choice": ["random", "kmc", "dsir"]},
        "model": {"choice": [{"path": LONG_MODEL, "dtype": "bfloat16"}, {"path": "small", "dtype": "float32"}]},
    },
    "objective": [{"metric": "acc", "tasks": ["xcopa_*"]}, {"of": "heldout_loss"}],
    "scheduler": "asha",
    "limits": {"trials": 40, "device_hours": 12},
}


def unknown(key: str) -> Any:
    raise AssertionError(f"{key} is no key of the space")


def made_trials(space: Space, points: list[dict[str, Any]], *, interval: bool = True) -> list[TrialRecord]:
    """Every point with every seed, finished. Both objectives rise with most numbers: one is paid for with the other."""
    generator = np.random.default_rng(space.seed)
    trials = []
    for point, parameters in enumerate(points):
        size = sum(math.tanh(abs(math.log10(v))) for v in parameters.values() if isinstance(v, float) and v > 0)
        for seed in space.seeds or [7]:
            value = 0.5 + 0.04 * size + 0.03 * (parameters.get("selection.method") == "kmc") + generator.normal(0, 0.01)
            values = [value, 1.2 + value + generator.normal(0, 0.05)][: len(space.objective)]
            objectives = [Interval(v, v - 0.03, v + 0.03, 0.015) if interval else Interval(v) for v in values]
            curve = [(p, 1.2 + 2.5 / (1 + p / 15) + 5 * (0.6 - value)) for p in (20, 40, 60, 80, 100)]
            number = len(trials)
            trials.append(
                TrialRecord(
                    *(number, point, seed, parameters, "finished", objectives, curve),
                    artifacts=[f"results/{number:064x}"],
                    seconds=100.0 + 7 * number,
                )
            )
    return trials


def ranked(space: Space, trials: list[TrialRecord]) -> list[Ranked]:
    """The points all of whose trials finished, the best first; whoever is 0.02 better than the next is clearly so."""
    of: dict[int, list[TrialRecord]] = {}
    for trial in trials:
        of.setdefault(trial.point, []).append(trial)
    signs = [1 if objective.is_maximized else -1 for objective in space.objective]
    means = {
        point: [_mean([trial.objectives[k] for trial in own]) for k in range(len(signs))]
        for point, own in of.items()
        if all(trial.status == "finished" for trial in own)
    }
    order = sorted(means, key=lambda point: -signs[0] * means[point][0].value)
    placed = {point: [sign * shown.value for sign, shown in zip(signs, means[point], strict=True)] for point in order}
    found = []
    for rank, point in enumerate(order, 1):
        beaten = any(all(a >= b for a, b in zip(placed[q], placed[point], strict=True)) for q in order if q != point)
        after = means[order[rank]][0] if rank < len(order) else None
        contrast = _contrast(means[point][0], after) if after else None
        numbers = [trial.number for trial in of[point]]
        found.append(Ranked(rank, point, of[point][0].parameters, numbers, means[point], not beaten, contrast))
    return found


def _mean(shown: list[Interval]) -> Interval:
    value = float(np.mean([one.value for one in shown]))
    return replace(shown[0], value=value, low=value - 0.02, high=value + 0.02) if shown[0].low else Interval(value)


def _contrast(first: Interval, second: Interval) -> Contrast:
    difference = first.value - second.value
    if first.low is None:
        return Contrast(Interval(difference), None, None)
    clear = abs(difference) > 0.02
    return Contrast(Interval(difference, difference - 0.02, difference + 0.02), 0.004 if clear else 0.4, clear)


def made_sweep(data: dict[str, Any], trials: list[TrialRecord] | None = None, **changed: Any) -> Sweep:
    """A sweep over a space file's data; `trials` in place of all points finished."""
    space = Space.model_validate(data)
    if trials is None:
        trials = made_trials(space, points_of(space))
    ranking = ranked(space, trials)
    whole = Sweep(
        name="made",
        experiment="experiments/made.yaml",
        space=space.model_dump(mode="json", by_alias=True, exclude_unset=True),
        objectives=[(of.label, of.is_maximized) for of in space.objective],
        trials=trials,
        ranking=ranking,
        tests=[
            TestScore(r.point, 7, "acc", Interval(0.61, 0.58, 0.64), Interval(0.5, 0.47, 0.53)) for r in ranking[:1]
        ],
        device_hours=3.456,
        devices="2 CPU",
    )
    return replace(whole, **changed)


def points_of(space: Space) -> list[dict[str, Any]]:
    known = unknown
    return grid(space, known) if space.search == "grid" else drawn(space, known, space.limits.trials or 1)


def grid_sweep() -> Sweep:
    """12 points of 3 listed parameters, 2 seeds each, one objective."""
    return made_sweep(GRID)


def random_sweep() -> Sweep:
    """40 points of 8 parameters, one seed, two objectives; some failed, some stopped early, some never started."""
    space = Space.model_validate(RANDOM)
    trials = made_trials(space, points_of(space))
    for number in (3, 17):
        trials[number] = replace(
            trials[number], status="failed", objectives=[], curve=trials[number].curve[:1], reason=f"CUDA: {HOSTILE}"
        )
    for number in (5, 6, 20, 30, 31):
        said = "loss 2.913 at 40%: not among the best third"
        trials[number] = replace(
            trials[number], status="stopped", objectives=[], curve=trials[number].curve[:2], reason=said
        )
    return made_sweep(RANDOM, trials, unstarted="3 trials: limits.device_hours 12 had gone.", name=f"made {HOSTILE}")
