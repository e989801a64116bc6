"""Ray Tune runs the trials of a sweep, ends those that its scheduler stops and starts again those that are lost.

Tune's own record of an experiment is pickled and is not read again: a sweep carries on from its trials' files.
"""

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from raysel.interruption import raise_if_interrupted
from raysel.sweep.orphaned_groups import free_groups_of_ended_trials, free_orphaned_groups
from raysel.sweep.records import TrialRecord
from raysel.sweep.settings import Space
from raysel.sweep.sweep_progress import Ended, SweepProgress, outcome_of
from raysel.sweep.trial_run import Trial

# A byte: Tune refuses trials that need nothing, and a stage may want all the CPUs of a node.
ROOM_OF_A_TRIAL = tune.PlacementGroupFactory([{"memory": 1}])
LOOK_EVERY_SECONDS = 1.0
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Only trials that train report a loss.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


def tune_trials(
    sweep: SweepProgress, show: Callable[[SweepProgress], None], tell: Callable[[TrialRecord], None]
) -> None:
    """Run the trials that are left. show: is called about once a second; tell: with every trial that ends."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    space = sweep.search.space
    suggestions = _Suggestions(sweep, tell)
    scheduler = _scheduler(space)
    with tempfile.TemporaryDirectory(prefix="raysel-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(Trial, ROOM_OF_A_TRIAL),
            tune_config=tune.TuneConfig(
                search_alg=suggestions,
                scheduler=scheduler,
                num_samples=-1,
                # A trial that asha stops still trains in its process, which only a new one ends.
                reuse_actors=space.scheduler == "none",
                trial_name_creator=lambda trial: f"trial-{trial.config['number']:04d}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=space.retries),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_Watching(sweep, scheduler, show)],
                verbose=0,
            ),
        )
        tuner.fit()
    free_groups_of_ended_trials()


class _NotPickled:
    """Tune pickles whatever it is given into its own record, terminals and all; nobody reads it again."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Suggestions(_NotPickled, Searcher):
    """Gives Tune one trial after another, and takes down how each ended."""

    def __init__(self, sweep: SweepProgress, tell: Callable[[TrialRecord], None]) -> None:
        super().__init__()
        self.sweep, self.tell = sweep, tell
        self.numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        sweep = self.sweep
        start = sweep.next()
        if start is None:
            return None
        if isinstance(start, Ended):
            return Searcher.FINISHED
        self.numbers[trial_id] = start.number
        space = sweep.search.space
        objectives = [objective.model_dump(exclude_unset=True) for objective in space.objective]
        wanted = {"sampled": start.sampled, "objectives": objectives, "seed": space.seed}
        folder, until = start.folder, sweep.search.until
        return {"number": start.number, "storage": sweep.store.uri, "folder": folder, "until": until, "wanted": wanted}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        running = self.sweep.running[self.numbers[trial_id]]
        running.stage = result.get("stage", running.stage)
        if "heldout_loss" in result:
            running.curve.append((result["percent"], result["heldout_loss"]))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number, retries = self.numbers[trial_id], self.sweep.search.space.retries
        if error or result is None:
            reason = f"its process was lost each of the {retries + 1} times it was started"
            record = self.sweep.ended_as(number, "failed", reason=reason)
        elif "outcome" in result:
            record = self.sweep.ended_as(number, "finished", **outcome_of(result["outcome"]))
        elif "failure" in result:
            record = self.sweep.ended_as(number, "failed", reason=result["failure"])
        else:
            # Tune does not tell of the result at which it stops a trial.
            self.sweep.running[number].curve.append((result["percent"], result["heldout_loss"]))
            reached = f"stopped by asha after {result.get('percent', 0)}% of its steps"
            record = self.sweep.ended_as(number, "stopped", reason=reached)
        self.sweep.end(record)
        self.tell(record)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Tune asks for it now and then; what is to be kept is in the trials' files already."""


class _Watching(_NotPickled, tune.Callback):
    """Looks after a sweep about once a second, and tells a new scheduler of the trials that earlier runs ended."""

    def __init__(self, sweep: SweepProgress, scheduler: TrialScheduler, show: Callable[[SweepProgress], None]) -> None:
        self.sweep, self.scheduler, self.show = sweep, scheduler, show
        self.looked = time.monotonic()
        self.known = 0

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        raise_if_interrupted()
        for record in self.sweep.kept[self.known :]:
            _replay(self.scheduler, record)
        self.known = len(self.sweep.kept)
        if time.monotonic() - self.looked >= LOOK_EVERY_SECONDS:
            self.looked = time.monotonic()
            free_orphaned_groups()
            self.show(self.sweep)


def _scheduler(space: Space) -> TrialScheduler:
    if space.scheduler == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr="percent",
        metric="heldout_loss",
        mode="min",
        max_t=100,
        grace_period=space.asha.first_percent,
        reduction_factor=space.asha.reduction_factor,
        stop_last_trials=False,
    )


def _replay(scheduler: TrialScheduler, record: TrialRecord) -> None:
    """What an earlier run measured counts in what is compared with it."""
    if isinstance(scheduler, AsyncHyperBandScheduler):
        trial = TuneTrial("earlier", trial_id=f"earlier-{record.number:04d}", stub=True)
        scheduler.on_trial_add(None, trial)
        for percent, loss in record.curve:
            scheduler.on_trial_result(None, trial, {"percent": percent, "heldout_loss": loss})
