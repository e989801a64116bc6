"""What a sweep came to, in sentences."""

from collections import Counter
from collections.abc import Sequence

from raysel.report.formats import counted, probability
from raysel.sweep.records import Contrast, Ranked, Status, Sweep
from raysel.sweep.settings import Space
from raysel.sweep.values import Measure, parameters_text, short_names

HOW = {
    "grid": "from the grid of the listed values",
    "random": "drawn at random",
    "tpe": "proposed by TPE from what earlier points gave",
}
STATUSES: dict[Status, str] = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}
NAMED = 4


def searched(sweep: Sweep, space: Space, found: Sequence[Measure]) -> str:
    """What was searched, how, and by what it was judged."""
    keys = list(short_names(space.parameters).values())
    named = listed(keys) if len(keys) <= NAMED else f"{', '.join(keys[:NAMED])} and {len(keys) - NAMED} more"
    if not sweep.trials:
        return f"Nothing was tried of {named}, {HOW[space.search]}."
    tried = {trial.point for trial in sweep.trials}
    seeds = f"{len(space.seeds)} seeds" if len(space.seeds) > 1 else "one seed"
    judged = " and ".join(f"{of.label} ({of.better})" for of in found)
    early = "; trials that fell behind on the held-out loss were stopped early" if space.scheduler == "asha" else ""
    points = counted(len(tried), "point")
    return f"{points} of {named}, {HOW[space.search]}, tried with {seeds} each and judged by {judged}{early}."


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + list(names[-1:]))


def answer(sweep: Sweep, found: Sequence[Measure], keys: Sequence[str]) -> str:
    """Which point is the best, by how much, and whether that is more than noise. keys: those that vary."""
    if not sweep.ranking:
        return f"There is no answer: {_why_no_ranking(sweep)}."
    best, first = sweep.ranking[0], found[0]
    text = parameters_text(best.parameters, keys or list(best.parameters))
    reached = first.said(best.objectives[0])
    if len(sweep.ranking) == 1:
        return f"Only one point can be ranked, so nothing is compared: {text}, with {reached}."
    said = f"The best is {text}, with {reached}: {against_next(best, first)}."
    if len(found) == 1:
        return said
    front = sum(ranked.on_front for ranked in sweep.ranking)
    of_all = f"{counted(front, 'point')} of {len(sweep.ranking):,}"
    by_first = said.replace("The best is", f"By {first.label} alone the best is", 1)
    return f"{of_all} {'are' if front > 1 else 'is'} on the Pareto front of the two objectives. {by_first}"


def _why_no_ranking(sweep: Sweep) -> str:
    counts = Counter(trial.status for trial in sweep.trials)
    if not counts:
        return "no trial ended"
    of = ", ".join(f"{counts[status]:,} {said}" for status, said in STATUSES.items() if counts[status])
    if counts["finished"]:
        return f"no point finished with all of its seeds (trials: {of})"
    return f"no trial finished ({of})"


def against_next(ranked: Ranked, measure: Measure) -> str:
    """By how much a point is better than the next, and whether that is more than noise."""
    contrast = ranked.against_next
    if contrast is None:
        return "how far it is from the next is not known"
    value = contrast.difference.value
    size = measure.write(abs(value))
    unit = " percentage points" if measure.scale == 100 else ""
    ends = measure.ends(contrast.difference, sign=True)
    interval = f" (95% interval {ends}{_p(contrast)})" if ends else ""
    how = f"{size}{unit} {'more' if value > 0 else 'less'} than the next" if value else "equal to the next"
    return f"{how}{interval}, {verdict(contrast)}"


def _p(contrast: Contrast) -> str:
    if contrast.p is None:
        return ""
    shown = probability(contrast.p)
    return f", p {shown}" if shown.startswith("<") else f", p = {shown}"


def verdict(contrast: Contrast) -> str:
    if contrast.clear is None:
        return "and whether that is more than noise cannot be told: nothing says how much noise there is"
    return "more than noise" if contrast.clear else "no more than noise may do"


def verdict_word(contrast: Contrast | None) -> str:
    """For a column headed `beyond noise`."""
    if contrast is None:
        return ""
    return {True: "yes", False: "no", None: "cannot be told"}[contrast.clear]
