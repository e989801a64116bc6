"""What will happen to each step of a run, and why: reused, or run because something changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysel.steps import Step
from raysel.store import Artifact, Store


@dataclass(frozen=True)
class Decision:
    """What will happen to a step and why. same_as: the name of an earlier step of this run that makes its artifact."""

    step: Step
    artifact: Artifact | None
    reason: str
    same_as: str | None = None


def decide(steps: list[Step], store: Store, previous: Mapping[str, Any]) -> list[Decision]:
    """For each step whether it is reused or run, and the reason; `previous` is the last run's record of its steps."""
    decisions: list[Decision] = []
    first: dict[str, str] = {}
    for step in steps:
        artifact = store.artifact(step.stage, step.fingerprint)
        if artifact is not None:
            decisions.append(Decision(step, artifact, f"published {artifact.manifest['published']}"))
            continue
        same_as = first.setdefault(step.fingerprint, step.name)
        if same_as != step.name:
            decisions.append(Decision(step, None, f"the same as {same_as}", same_as))
            continue
        decisions.append(Decision(step, None, _why(step, store, previous)))
    return decisions


def _why(step: Step, store: Store, previous: Mapping[str, Any]) -> str:
    before = previous.get(step.name)
    if before is None or before["fingerprint"] == step.fingerprint:
        shards = len(store.attempt(step.stage, step.fingerprint).markers())
        return f"not finished before: carries on from {shards} finished files" if shards else "not computed yet"
    now = step.record()
    if before["version"] != now["version"]:
        return f"the stage's code changed: version {before['version']} -> {now['version']}"
    changes = list(_differences("", before["settings"], now["settings"])) if step.stage != "report" else []
    for name, files in now["leaves"].items():
        if before["leaves"].get(name) != files:
            changes.append(f"{name} changed: {_changed_files(before['leaves'].get(name, {}), files)}")
    for name, fingerprint in now["inputs"].items():
        if before["inputs"].get(name) != fingerprint:
            changes.append(f"{name} changed" if name in before["inputs"] else f"{name} is used now")
    changes += [f"{name} is no longer used" for name in before["inputs"] if name not in now["inputs"]]
    changes = changes or ["the report's settings changed"]
    return "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" if len(changes) > 4 else "")


def _differences(key: str, before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for name in sorted(before.keys() | now.keys()):
            found += _differences(f"{key}.{name}".lstrip("."), before.get(name, "unset"), now.get(name, "unset"))
        return found
    return [] if before == now else [f"{key} changed from {before} to {now}"]


def _changed_files(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
