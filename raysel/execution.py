"""Runs one step: under its lease, written down as events, published at the end."""

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from raysel.errors import UserError
from raysel.memory_advice import advice
from raysel.memory_errors import MemoryShortError, told_shortage
from raysel.settings import counted
from raysel.stage import StageRun
from raysel.steps import Step, stage_function
from raysel.store import Artifact, Attempt, Store

VERSIONED = (
    "ray",
    "torch",
    "transformers",
    "deepspeed",
    "peft",
    "lm-eval",
    "scikit-learn",
    "pyarrow",
    "numpy",
    "lang2vec",
)


def execute(
    step: Step,
    store: Store,
    reason: str,
    *,
    artifacts: Mapping[str, Artifact],
    cluster: Any,
    progress: Any,
) -> Artifact:
    """Run one step under its lease and publish its artifact; where somebody else published meanwhile, give theirs."""
    key = f"{store.uri}/{step.address}"
    with cluster.lease(key, on_wait=lambda: progress.note("another run computes this now: waiting for it")):
        published = store.artifact(step.stage, step.fingerprint)
        if published is not None:
            return published
        attempt = store.attempt(step.stage, step.fingerprint)
        log = EventLog(store, step, attempt)
        devices = {"CPU": cluster.cpus(), "GPU": cluster.gpus()}
        log.add("start", reason=reason, devices=devices)
        run = StageRun(
            settings={**step.settings, **step.execution},
            inputs={name: artifacts[before.name] for name, before in step.inputs.items()},
            leaves={name: leaf.path for name, leaf in step.leaves.items()},
            attempt=attempt,
            cluster=cluster,
            progress=progress,
        )
        try:
            with told_shortage():
                output = stage_function(step.stage)(run)
            artifact = attempt.publish(
                output.records,
                settings=counted(dict(step.settings)),
                inputs={name: before.address for name, before in step.inputs.items()}
                | {name: leaf.fingerprint for name, leaf in step.leaves.items()},
                version=step.version,
                summary=output.summary,
                versions={"python": platform.python_version(), **{name: installed(name) for name in VERSIONED}},
                devices=devices,
            )
        except (OSError, KeyError, UserError) as error:
            # A run on another cluster shares the storage but not the lease. If it published first and tidied up, what
            # this attempt had carried on from is gone, and no longer needed.
            published = store.artifact(step.stage, step.fingerprint)
            if published is None:
                if isinstance(error, MemoryShortError):
                    short = error.shortage
                    raise MemoryShortError(short, stage=step.name, help=advice(step, short)) from error
                raise
            log.add("end", reason="another attempt published first")
            return published
        attempt.discard_unlisted(artifact)
        log.add("end", rows=artifact.manifest["rows"], wall_seconds=artifact.manifest["wall_seconds"])
        return artifact


class EventLog:
    """The JSON lines of one execution, in a file of its own."""

    def __init__(self, store: Store, step: Step, attempt: Attempt) -> None:
        self.store = store
        self.name = f"{attempt.name}-{step.stage}"
        self.common = {"stage": step.stage, "step": step.name, "fingerprint": step.fingerprint, "attempt": attempt.name}
        self.events: list[dict[str, Any]] = []

    def add(self, event: str, **facts: Any) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.events.append({**self.common, "event": event, "time": time, **facts})
        self.store.write_event_log(self.name, self.events)


def run_folder(name: str) -> str:
    return f"runs/{name}"


def local_scratch(store: Store, name: str) -> Path:
    """A local folder for what a run leaves on this machine (its log)."""
    if store.is_local:
        return Path(store.full(run_folder(name)))
    return Path.home() / ".cache" / "raysel" / "runs" / name
