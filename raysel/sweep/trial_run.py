"""What Ray Tune runs and may stop at any time: a watcher over the process that runs the experiment.

Tune's trainable stays in the little room that Tune gives it and starts the process outside of it, so that what the
experiment starts (tasks, actors, Ray Train's workers) finds the whole cluster. What is killed with that process is all
that belongs to the trial.
"""

import json
import queue
from collections import deque
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayActorError, RayTaskError

EVENT_WAIT_SECONDS = 1.0


class TrialProcess:
    """Runs the experiment in one thread and says in another what happens: a Ray actor."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def is_there(self) -> bool:
        """Nothing else: a process that was lost does not answer."""
        return True

    def run(self, storage: str, folder: str, until: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """`run_trial`, whose events `take` gives."""
        # The watcher, which holds this class as well, needs none of it.
        from raysel.sweep.experiment_run import run_trial

        return run_trial(storage, folder, until, wanted, self.events.put)

    def take(self) -> list[dict[str, Any]]:
        """What happened since the last time; waits a moment for something to happen."""
        found = []
        try:
            found.append(self.events.get(timeout=EVENT_WAIT_SECONDS))
            while True:
                found.append(self.events.get_nowait())
        except queue.Empty:
            return found


class Trial(tune.Trainable):
    """config: `number`, and what `run_trial` is given."""

    def setup(self, config: dict[str, Any]) -> None:
        process = ray.remote(TrialProcess).options(num_cpus=0, max_concurrency=2, scheduling_strategy="DEFAULT")
        self.process = process.remote()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial, in the same process where the last one came to its own end there: its imports alone take
        longer than a small trial's stages."""
        if self.is_whole and self._process_is_there():
            self._begin(new_config)
        else:
            self.cleanup()
            self.setup(new_config)
        return True

    def _process_is_there(self) -> bool:
        try:
            return bool(ray.get(self.process.is_there.remote()))
        except RayActorError:
            return False

    def _begin(self, config: dict[str, Any]) -> None:
        self.waiting: deque[dict[str, Any]] = deque()
        self.is_whole = False
        self.outcome = self.process.run.remote(config["storage"], config["folder"], config["until"], config["wanted"])

    def step(self) -> dict[str, Any]:
        """The next event; the last one is `done` and says what came out, or why nothing did."""
        while not self.waiting:
            ended, _ = ray.wait([self.outcome], timeout=0)
            self.waiting.extend(ray.get(self.process.take.remote()))
            if ended and not self.waiting:
                try:
                    # Tune flattens what is nested.
                    outcome = json.dumps(ray.get(self.outcome))
                except RayTaskError as error:
                    return {"done": True, "failure": f"{type(error.cause).__name__}: {error.cause}"}
                self.is_whole = True
                return {"done": True, "outcome": outcome}
        return self.waiting.popleft()

    def cleanup(self) -> None:
        ray.kill(self.process)
