"""Which point comes next: the listed ones in order, or what Optuna's TPE suggests from the points that are done."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from raysel.sweep.settings import Parameter, Space
from raysel.sweep.space import Known, Point, at, resolve

if TYPE_CHECKING:
    import optuna

# The least unit that a simplex weight is made of: its logarithm must be there.
UNIT_ABOVE_ONE = 1 - 1e-9


class Searcher(Protocol):
    """Points by number, from 0 on, asked for in order."""

    def needs(self, point: int) -> int:
        """How many of the first points must be told before this one is asked for: so many, and no more."""

    def ask(self, point: int) -> Point | None:
        """The point; None where there is none any more."""

    def tell(self, point: int, values: Sequence[float] | None) -> None:
        """The objectives of a point that is done; None where it was stopped or failed. In order of the points."""


class Listed:
    """Points that are known beforehand."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = points

    def needs(self, point: int) -> int:
        return 0

    def ask(self, point: int) -> Point | None:
        return self.points[point] if point < len(self.points) else None

    def tell(self, point: int, values: Sequence[float] | None) -> None:
        """Nothing is learned."""


class Tpe:
    """Tree-structured Parzen estimator (Bergstra et al. 2011), of one or two objectives (Ozaki et al. 2022).

    Point k is suggested from the points up to k - ahead - 1 and no others. However many trials run at once and in
    whatever order they end, the points are the same, so a search that was killed is repeated from its records.
    """

    def __init__(self, space: Space, known: Known, count: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.known, self.count = space, known, count
        self.study = optuna.create_study(
            directions=["maximize" if objective.is_maximized else "minimize" for objective in space.objective],
            sampler=optuna.samplers.TPESampler(seed=space.seed, n_startup_trials=max(4, min(10, count // 3))),
        )
        self.asked: list[optuna.Trial] = []
        self.told = 0

    def needs(self, point: int) -> int:
        return max(0, point - self.space.ahead)

    def ask(self, point: int) -> Point | None:
        if point >= self.count:
            return None
        if point != len(self.asked) or self.told != self.needs(point):
            raise ValueError(f"point {point} is asked for after {len(self.asked)}, and {self.told} were told")
        trial = self.study.ask()
        self.asked.append(trial)
        return resolve(self.space.parameters, self.known, lambda key, parameter: _suggest(trial, key, parameter))

    def tell(self, point: int, values: Sequence[float] | None) -> None:
        from optuna.trial import TrialState

        if values is None:
            # A point without a value counts as one of the worst.
            state = TrialState.PRUNED if len(self.space.objective) == 1 else TrialState.FAIL
            self.study.tell(self.asked[point], state=state)
        else:
            self.study.tell(self.asked[point], list(values))
        self.told += 1


def _suggest(trial: "optuna.Trial", key: str, parameter: Parameter) -> Any:
    low, high = parameter.ends
    match parameter.kind:
        case "grid" | "choice":
            # Optuna takes plain values only: the place in the list stands for a list or a mapping.
            return parameter.values[trial.suggest_categorical(key, list(range(len(parameter.values))))]
        case "uniform":
            return trial.suggest_float(key, low, high)
        case "loguniform":
            return trial.suggest_float(key, low, high, log=True)
        case "integer":
            return trial.suggest_int(key, int(low), int(high))
    names = parameter.simplex or []
    return at(parameter, [trial.suggest_float(f"{key}.{name}", 0.0, UNIT_ABOVE_ONE) for name in names])


def searcher_of(space: Space, known: Known, points: list[Point] | None, most_points: int | None) -> Searcher:
    """points: where they are known; else most_points of them are searched for."""
    if points is not None:
        return Listed(points)
    assert most_points is not None
    return Tpe(space, known, most_points)
