"""Reads how separable and how diverse each choice is."""

from collections.abc import Mapping
from typing import Any

from raysel.report.diversity import Diversity, DiversityLine, Measured
from raysel.report.overlap import TRAINED, selector_name
from raysel.store import Artifact

EVERYTHING = "everything"


def read_diversity(inputs: Mapping[str, Artifact]) -> Diversity | None:
    """None where it was not measured."""
    if "diversity" not in inputs:
        return None
    artifact = inputs["diversity"]
    rows = artifact.read("diversity").to_pylist()
    compared = [made.fingerprint for step, made in inputs.items() if step.startswith("subset_")]
    beside_others = bool(compared) and "subset" in inputs and inputs["subset"].fingerprint not in compared
    trained = tuple(artifact.manifest["settings"]["choices"]["subset"])
    lines = []
    for method, candidates in dict.fromkeys((row["method"], row["candidates"]) for row in rows):
        own = [row for row in rows if (row["method"], row["candidates"]) == (method, candidates)]
        measured = {row["lang"]: _measured(row) for row in own}
        is_trained = (method, candidates) == trained
        name = TRAINED if is_trained and beside_others else selector_name(method, candidates)
        if method == EVERYTHING:
            name, candidates = "the whole corpus", EVERYTHING
        over_all = measured.pop(None)
        lines.append(DiversityLine(name, candidates, method == "random", is_trained, over_all, measured))
    sizes = [row["ngrams_2"] for row in rows if row["ngrams_2"]]
    return Diversity(lines, artifact.summary["sampled"], (min(sizes), max(sizes)) if sizes else None)


def _measured(row: dict[str, Any]) -> Measured:
    return Measured(**{name: row[name] for name in Measured.__dataclass_fields__})
