"""What a space file says: which keys of an experiment are tried with which values, what is best, and how long it may
take."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from raysel.errors import UserError
from raysel.experiment import ExperimentError, explain, parse_yaml
from raysel.settings import Section

KINDS = ("grid", "choice", "uniform", "loguniform", "integer", "simplex")
LISTED = ("grid", "choice")
# Keys of an experiment that are no choice of how to train: what to do instead.
NOT_TRIED = {
    "name": "it decides nothing that could be better or worse",
    "seed": "write seeds: [0, 1, 2], which leaves what is held out the same",
    "storage": "all trials share one, so that nothing is made twice",
    "cluster": "all trials share one cluster; limits.concurrency says how many run at once",
}


class SpaceError(UserError):
    """A space file that cannot be used: says which key, what it holds and what it may hold."""


class Parameter(Section):
    """The values of one key: exactly one of `grid`, `choice`, `uniform`, `loguniform`, `int` and `simplex`.

    grid: each of these values.
    choice: one of these values; a searcher grid tries them all.
    uniform: a number between two ends, every one equally likely.
    loguniform: a number between two ends, every order of magnitude equally likely.
    int: a whole number from one end to the other.
    simplex: weights of these names that sum to 1, every such vector equally likely.
    total: makes whole numbers of the weights of simplex that sum to it.
    when: other keys, of the space or of the experiment, with the value (or the list of values) that they must have; if
    one has another, the key stays as the experiment has it.
    """

    grid: list[JsonValue] | None = None
    choice: list[JsonValue] | None = None
    uniform: tuple[float, float] | None = None
    loguniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = Field(None, alias="int")
    simplex: list[str] | None = None
    total: int | None = Field(None, ge=1)
    when: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def one_kind(self) -> "Parameter":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            shown = ", ".join("int" if kind == "integer" else kind for kind in KINDS)
            raise ValueError(f"give exactly one of {shown} (found {', '.join(given) or 'none'})")
        if self.kind in LISTED and not self.values:
            raise ValueError(f"{self.kind} is empty: there is nothing to try")
        names = self.simplex or []
        if self.kind == "simplex" and (len(names) < 2 or len(set(names)) < len(names)):
            raise ValueError(f"simplex needs at least two names, each once (found {', '.join(names) or 'none'})")
        if self.total is not None and self.kind != "simplex":
            raise ValueError("total goes with simplex")
        return self

    @model_validator(mode="after")
    def ends_in_order(self) -> "Parameter":
        if self.kind in ("uniform", "loguniform", "integer"):
            low, high = self.ends
            if not low < high:
                raise ValueError(f"the lower end comes first, and the ends differ (found {low} and {high})")
            if self.kind == "loguniform" and low <= 0:
                raise ValueError(f"loguniform needs ends above 0 (found {low})")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def values(self) -> list[Any]:
        """Of a grid or choice."""
        listed: list[Any] = self.grid if self.grid is not None else self.choice or []
        return listed

    @property
    def ends(self) -> tuple[float, float]:
        return self.uniform or self.loguniform or self.integer or (0.0, 1.0)


class Objective(Section):
    """What a trial is judged by, never a test item. One, or a list of two to find the best compromises of.

    of: what it is read from. `results`: the tuned model's metric on development items, the mean over languages of the
    mean over each one's tasks. `heldout_loss`: the loss on what the corpus holds out, of the model that was exported,
    the mean over `languages`, or over all samples. `trained_tokens`: how many tokens were trained on.
    metric: of the results, e.g. acc.
    tasks: globs of the names of the tasks that count.
    languages: those that count (none: all).
    direction: left open, minimize for losses, tokens and metrics of which less is better, else maximize.
    """

    of: Literal["results", "heldout_loss", "trained_tokens"] = "results"
    metric: str | None = None
    tasks: list[str] = Field(["*"], min_length=1)
    languages: list[str] = []
    direction: Literal["maximize", "minimize"] | None = None

    @model_validator(mode="after")
    def metric_of_results(self) -> "Objective":
        if (self.metric is None) == (self.of == "results"):
            raise ValueError("of results needs a metric, e.g. acc; the others have none")
        unread = [name for name in ("tasks", "languages") if name in self.model_fields_set]
        if (self.of == "trained_tokens" and unread) or (self.of == "heldout_loss" and "tasks" in unread):
            raise ValueError(f"{unread[0]}: {self.of} does not tell them apart")
        return self

    @property
    def is_maximized(self) -> bool:
        from raysel.report.result_lines import lower_is_better

        if self.direction is not None:
            return self.direction == "maximize"
        return self.metric is not None and not lower_is_better(self.metric)

    @property
    def step(self) -> str:
        """The step whose artifact it is read from."""
        return {"results": "results_tuned", "heldout_loss": "model", "trained_tokens": "tokens"}[self.of]

    @property
    def label(self) -> str:
        """As a column is headed."""
        if self.metric is None:
            names = f" of {', '.join(self.languages)}" if self.languages else ""
            return {"heldout_loss": f"held-out loss{names}", "trained_tokens": "trained tokens"}[self.of]
        parts = [", ".join(self.tasks)] if self.tasks != ["*"] else []
        parts += [", ".join(self.languages)] if self.languages else []
        return f"{self.metric} ({'; '.join(parts)})" if parts else self.metric


class AshaSettings(Section):
    """Asynchronous successive halving (Li et al. 2020) on the held-out loss, as every checkpoint has it
    (training.checkpoint_steps).

    first_percent: of the training steps, after which trials are compared first.
    reduction_factor: at every so many times as many steps, a trial goes on only if it is among the best
    1/reduction_factor of those that have come so far.
    """

    first_percent: int = Field(20, ge=1, le=99)
    reduction_factor: float = Field(3.0, gt=1)


class Limits(Section):
    """How much is tried.

    trials: how many at most, all seeds counted; random and tpe need it.
    concurrency: how many at once (left open: as many as have room for their training workers).
    device_hours: no trial is started once so many hours of the cluster's GPUs (CPUs, where it has none) have gone.
    """

    trials: int | None = Field(None, ge=1)
    concurrency: int | None = Field(None, ge=1)
    device_hours: float | None = Field(None, gt=0)


class Space(Section):
    """A space file: what is tried, and what is best (docs/sweeps.md).

    parameters: keys of the experiment, dotted, each with its values. Not name, seed, storage and what is in cluster.
    points: in place of parameters, where not every combination is wanted: mappings of keys to values, each tried as it
    is.
    seeds: every point is tried with each as the experiment's seed (none: its own); what is held out stays the same.
    searcher: `grid` (every combination of grids and choices), `random`, or `tpe` (Optuna's tree-structured Parzen
    estimator, which learns from the points that are done); left open, grid where every parameter is listed, else
    random.
    seed: of what is drawn, and of the intervals.
    ahead: point k of tpe knows the points up to k - ahead - 1, however many run at once: so one seed gives one search.
    scheduler: `asha` stops trials early.
    tensorboard: event files of every trial, below the sweep's folder.
    retries: how often a trial whose process or node was lost is started again.
    """

    parameters: dict[str, Parameter] = Field({}, validate_default=True)
    points: list[dict[str, JsonValue]] = []
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = []
    objective: list[Objective] = Field(min_length=1, max_length=2)
    searcher: Literal["grid", "random", "tpe"] | None = None
    seed: int = Field(0, ge=0, lt=2**32)
    ahead: int = Field(4, ge=0)
    scheduler: Literal["none", "asha"] = "none"
    asha: AshaSettings = AshaSettings()
    limits: Limits = Limits()
    tensorboard: bool = False
    retries: int = Field(2, ge=0)

    @field_validator("objective", mode="before")
    @classmethod
    def one_or_two(cls, given: Any) -> Any:
        return [given] if isinstance(given, dict) else given

    @model_validator(mode="before")
    @classmethod
    def points_are_parameters_too(cls, data: Any) -> Any:
        """Each key of the points is a parameter with the values that it has there."""
        if not isinstance(data, dict) or not isinstance(points := data.get("points"), list) or not points:
            return data
        listed = [point for point in points if isinstance(point, dict)]
        values = {
            key: {"grid": list({json.dumps(of[key]): of[key] for of in listed if key in of}.values())}
            for of in listed
            for key in of
        }
        if data.get("parameters") not in (None, {}, values):
            raise ValueError("parameters and points: give one of them")
        return data | {"parameters": values}

    @model_validator(mode="after")
    def something_is_tried(self) -> "Space":
        if not self.parameters:
            raise ValueError("parameters: give keys of the experiment with their values, or points")
        return self

    @field_validator("parameters")
    @classmethod
    def keys_may_be_tried(cls, parameters: dict[str, Parameter]) -> dict[str, Parameter]:
        for key in parameters:
            if (instead := NOT_TRIED.get(key.partition(".")[0])) is not None:
                raise ValueError(f"{key} cannot be tried: {instead}")
            if inner := next((other for other in parameters if other.startswith(f"{key}.")), None):
                raise ValueError(f"{key} holds {inner}: give values of the section or of its keys, not of both")
        return parameters

    @model_validator(mode="after")
    def seeds_differ(self) -> "Space":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each once (found {self.seeds})")
        return self

    @model_validator(mode="after")
    def searcher_fits(self) -> "Space":
        drawn = [key for key, of in self.parameters.items() if of.kind not in LISTED]
        if self.points and self.search != "grid":
            raise ValueError(f"searcher {self.search} draws points of its own: leave it out, or points")
        if self.searcher == "grid" and drawn:
            raise ValueError(f"searcher grid tries listed values; {drawn[0]} is drawn: searcher random or tpe")
        if self.search != "grid" and self.limits.trials is None:
            raise ValueError(f"limits.trials: searcher {self.search} draws without end; say how many trials there are")
        if self.search != "grid" and self.limits.trials and self.limits.trials < max(1, len(self.seeds)):
            raise ValueError(f"limits.trials {self.limits.trials} is less than one point with each of the seeds")
        return self

    @property
    def search(self) -> str:
        if self.searcher is not None:
            return self.searcher
        return "grid" if all(of.kind in LISTED for of in self.parameters.values()) else "random"

    def without_effect(self) -> list[str]:
        idle = []
        if "ahead" in self.model_fields_set and self.search != "tpe":
            idle.append(f"ahead: the searcher is {self.search}")
        if "asha" in self.model_fields_set and self.scheduler != "asha":
            idle.append("asha: the scheduler is none")
        return idle


def load_space(path: Path) -> Space:
    """Read a space file. Raises `SpaceError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"space file {str(path)!r} cannot be read: {error}") from error
    try:
        data = parse_yaml(text, str(path))
    except ExperimentError as error:
        raise SpaceError(str(error)) from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise SpaceError(f"{path}: a space is a mapping with parameters and an objective, and this file holds {found}")
    try:
        return Space.model_validate(data)
    except ValidationError as error:
        raise SpaceError(explain(error, str(path), Space)) from None
