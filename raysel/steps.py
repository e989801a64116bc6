"""What a step is: a stage with its settings and inputs. Its fingerprint hashes both, the stage's version and the
contents of the user's files, so every address is known before anything runs."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from raysel.settings import counted
from raysel.stage import StageOutput, StageRun
from raysel.store import digest

# stage: (version, where its function is). A change of a stage's code that can change its result raises the version.
STAGES: dict[str, tuple[int, str]] = {
    "corpus": (4, "raysel.corpus.stage:run"),
    "audit": (1, "raysel.corpus.audit_stage:run"),
    "contamination": (2, "raysel.corpus.contamination_stage:run"),
    "clean": (1, "raysel.corpus.clean_stage:run"),
    "base_model": (3, "raysel.training.base_model_stage:run"),
    "quota": (2, "raysel.mixture.quota_stage:run"),
    "vectors": (6, "raysel.embedding.stage:run"),
    "sums": (2, "raysel.separability.sums_stage:run"),
    "scores": (2, "raysel.separability.scores_stage:run"),
    "pool": (3, "raysel.separability.pool_stage:run"),
    "target": (2, "raysel.selection.target_stage:run"),
    "importance": (1, "raysel.selection.importance_stage:run"),
    "warmup": (2, "raysel.training.warmup_stage:run"),
    "gradients": (2, "raysel.selection.gradients_stage:run"),
    "influence": (1, "raysel.selection.influence_stage:run"),
    "subset": (3, "raysel.selection.stage:run"),
    "diversity": (1, "raysel.selection.diversity_stage:run"),
    "order": (2, "raysel.mixture.order_stage:run"),
    "tokens": (5, "raysel.training.tokens_stage:run"),
    "model": (5, "raysel.training.model_stage:run"),
    "results": (6, "raysel.evaluation.stage:run"),
    "report": (11, "raysel.report.stage:run"),
}


@dataclass(frozen=True)
class Leaf:
    """Something of the user's: `path` is where it is, `files` what it consists of, with the SHA-256 of each."""

    path: str
    files: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        return digest(dict(self.files))


@dataclass(frozen=True)
class Step:
    """One node of the graph. `settings` count towards the fingerprint, `execution` only says how to execute."""

    name: str
    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, "Step"] = field(default_factory=dict)
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    execution: Mapping[str, Any] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return STAGES[self.stage][0]

    @cached_property
    def fingerprint(self) -> str:
        return digest(self.record())

    @property
    def address(self) -> str:
        return f"{self.stage}/{self.fingerprint}"

    def record(self) -> dict[str, Any]:
        """What the fingerprint hashes, and what a later run is compared with."""
        return {
            "stage": self.stage,
            "version": self.version,
            "settings": counted(dict(self.settings)),
            "inputs": {name: step.fingerprint for name, step in self.inputs.items()},
            "leaves": {name: dict(leaf.files) for name, leaf in self.leaves.items()},
        }


def stage_function(stage: str) -> Callable[[StageRun], StageOutput]:
    module, _, name = STAGES[stage][1].partition(":")
    function: Callable[[StageRun], StageOutput] = getattr(importlib.import_module(module), name)
    return function
