"""The state of a running sweep: which trials ended and how, which run, which comes next. Knows the store, not Ray.

Everything is decided by the number of a trial: its point, its seed, its experiment file. A trial that ended is a file
in the sweep's folder, and counts as long as it would be the same again: a sweep that was killed goes on from its files.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import yaml

from raysel.errors import UserError
from raysel.evaluation.intervals import Interval
from raysel.execution import run_folder
from raysel.pipeline import expand
from raysel.runner import write_record
from raysel.steps import Step
from raysel.store import Store, digest
from raysel.sweep.ranking import rank
from raysel.sweep.records import Ranked, TrialRecord, trial_from_json
from raysel.sweep.search import Searcher, searcher_of
from raysel.sweep.space import Point
from raysel.sweep.trials import Search, sampled_settings, trial_folder, trial_name


@dataclass
class Running:
    """A trial at work. stage: the newest; curve: (percent of the training steps, held-out loss)."""

    number: int
    point: int
    seed: int
    parameters: Point
    started: float = field(default_factory=time.monotonic)
    stage: str = "starting"
    curve: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Start:
    """A trial that is to be started: its number, its folder in the storage, `sampled_settings` of its experiment."""

    number: int
    folder: str
    sampled: dict[str, Any]


class Ended:
    """What `next` gives where there is no trial any more."""


class SweepProgress:
    """Trials in the order of their numbers. devices: how many GPUs (or CPUs) the limit on device-hours counts."""

    def __init__(self, search: Search, store: Store, *, concurrency: int, devices: int) -> None:
        self.search, self.store = search, store
        self.concurrency, self.devices = concurrency, devices
        self.folder = run_folder(search.name)
        known = search.points()
        most = None if known is not None else search.most_points
        self.searcher: Searcher = searcher_of(search.space, search.known, known, most)
        self.total = (len(known) if known is not None else search.most_points) * len(search.seeds)
        self.points: list[Point] = []
        self.told = 0
        self.number = 0
        self.ended: dict[int, TrialRecord] = {}
        self.running: dict[int, Running] = {}
        self.kept: list[TrialRecord] = []
        self.unstarted = ""
        self.started = time.monotonic()
        self._fingerprints: dict[int, str] = {}

    def next(self) -> Start | Ended | None:
        """The next trial to start; None while it depends on some that run. Those that ended before are passed over."""
        seeds = self.search.seeds
        while len(self.running) < self.concurrency:
            point, place = divmod(self.number, len(seeds))
            if point == len(self.points):
                if not self._tell(self.searcher.needs(point)):
                    return Ended() if self.unstarted and not self.running else None
                if (found := self.searcher.ask(point)) is None:
                    return Ended()
                self.points.append(found)
            number, parameters, seed = self.number, self.points[point], seeds[place]
            self.number += 1
            try:
                record = self._prepare(number, point, parameters, seed)
            except UserError as error:
                # A point that was found on the way makes no experiment; the others do.
                self.ended[number] = TrialRecord(number, point, seed, parameters, "failed", reason=str(error))
                continue
            if record is not None:
                self.ended[number] = record
                self.kept.append(record)
            elif self.unstarted or (reason := self._budget_spent()):
                # Those that ended before still count, wherever they stand.
                self.unstarted = self.unstarted or reason
            else:
                self.running[number] = Running(number, point, seed, parameters)
                experiment = self.search.trial(parameters, seed, name="trial")
                return Start(number, self.trial_folder(number), sampled_settings(experiment, parameters))
        return None

    def end(self, record: TrialRecord) -> None:
        """A running trial has ended."""
        kept = asdict(record) | {"same": self._fingerprints[record.number]}
        self.store.write_json(f"{self.trial_folder(record.number)}/trial.json", kept)
        self.running.pop(record.number, None)
        self.ended[record.number] = record

    def ended_as(self, number: int, status: Any, **facts: Any) -> TrialRecord:
        """The record of a running trial that ends now."""
        of = self.running[number]
        given = {"seconds": round(time.monotonic() - of.started, 1), "curve": of.curve, **facts}
        return TrialRecord(number, of.point, of.seed, dict(of.parameters), status, **given)

    def trial_folder(self, number: int) -> str:
        return trial_folder(self.folder, number)

    @property
    def maximized(self) -> list[bool]:
        return [objective.is_maximized for objective in self.search.space.objective]

    def ranking(self) -> list[Ranked]:
        return rank(list(self.ended.values()), self.maximized, len(self.search.seeds))

    def device_hours(self) -> float:
        """Of this and the earlier runs of the sweep: the trials' time, that of trials side by side once."""
        earlier = sum(record.seconds for record in self.kept) / self.concurrency
        return self.devices * (earlier + time.monotonic() - self.started) / 3600

    def steps_of(self, parameters: Point, seed: int, name: str) -> list[Step]:
        """The steps of a trial."""
        return expand(self.search.trial(parameters, seed, name=name), self.store, self.search.until)

    def _tell(self, points: int) -> bool:
        """Whether the first `points` points are done, and told."""
        seeds = len(self.search.seeds)
        if any(number not in self.ended for number in range(points * seeds)):
            return False
        for point in range(self.told, points):
            records = [self.ended[point * seeds + place] for place in range(seeds)]
            self.searcher.tell(point, _means(records))
        self.told = max(self.told, points)
        return True

    def _prepare(self, number: int, point: int, parameters: Point, seed: int) -> TrialRecord | None:
        """Write the trial's experiment file and what it is made of; its record, where it ended before and would be the
        same again. One that failed is tried again."""
        folder, name = self.trial_folder(number), trial_name(self.search.name, number)
        steps = self.steps_of(parameters, seed, name)
        by_name = {step.name: step for step in steps}
        goals = [by_name[objective.step].address for objective in self.search.space.objective]
        same = digest([goals, [objective.model_dump() for objective in self.search.space.objective], self._scheduler()])
        self._fingerprints[number] = same
        before = self.store.read_json(f"{folder}/trial.json")
        if before is not None and before.pop("same", None) == same and self._counts(before):
            named = {"number": number, "point": point, "parameters": parameters, "seed": seed}
            return trial_from_json(before | named)
        data = self.search.trial_data(parameters, seed, name=name)
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        self.store.write_bytes(f"{folder}/experiment.yaml", text.encode())
        experiment = self.search.trial(parameters, seed, name=name)
        write_record(self.store, experiment, steps, status="unfinished", until=self.search.until, folder=folder)
        return None

    def _counts(self, record: dict[str, Any]) -> bool:
        """Whether a trial that ended is not run again: what failed is, except where others were searched knowing it;
        and so is what lost its artifacts."""
        if record["status"] == "failed":
            return self.search.space.search == "tpe"
        return all(self.store.artifact(*address.split("/")) is not None for address in record["artifacts"])

    def _scheduler(self) -> Any:
        """What stopped a trial early would, with other settings, perhaps not have."""
        space = self.search.space
        return space.asha.model_dump() if space.scheduler == "asha" else None

    def _budget_spent(self) -> str:
        limit = self.search.space.limits.device_hours
        if limit is None or (spent := self.device_hours()) < limit:
            return ""
        return f"{spent:.2f} of {limit:g} device-hours had gone (limits.device_hours)"


def _means(records: list[TrialRecord]) -> list[float] | None:
    """The objectives, averaged over the seeds; None where one was stopped or failed."""
    if any(record.status != "finished" for record in records):
        return None
    columns = zip(*(record.objectives for record in records), strict=True)
    return [sum(interval.value for interval in column) / len(records) for column in columns]


def outcome_of(text: str) -> dict[str, Any]:
    """What a trial that finished says of itself, for `SweepProgress.ended_as`."""
    found = json.loads(text)
    objectives = [Interval(**interval) for interval in found["objectives"]]
    return {**found, "objectives": objectives, "curve": [tuple(place) for place in found["curve"]]}
