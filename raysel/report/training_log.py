"""What a training run wrote of its steps: the loss, smoothed, and of each language at the start and at the end."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LanguageLoss:
    """Mean training loss of a language over the first and the last fifth of the steps."""

    lang: str
    first: float
    last: float


@dataclass(frozen=True)
class TrainingLog:
    """steps, loss, smoothed, learning_rate: (n,) each, in order of step, without the `skipped` ones (no update was
    made there); by_language: largest fall first."""

    steps: NDArray[np.int64]
    loss: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    learning_rate: NDArray[np.float64]
    tokens: int
    skipped: int
    by_language: list[LanguageLoss]


def read_log(text: str) -> TrainingLog | None:
    """The log from its JSON lines (`step`, `loss`, `learning_rate`, ...); None where it has no step.

    A step that was written twice, before and after a resume, counts as it was last.
    """
    by_step: dict[int, Mapping[str, Any]] = {}
    for line in text.splitlines():
        if line.strip():
            entry = json.loads(line)
            by_step[int(entry["step"])] = entry
    taken = [by_step[step] for step in sorted(by_step)]
    entries = [entry for entry in taken if "skipped" not in entry]
    if not entries:
        return None
    loss = np.array([entry["loss"] for entry in entries], dtype=np.float64)
    return TrainingLog(
        steps=np.array([entry["step"] for entry in entries], dtype=np.int64),
        loss=loss,
        smoothed=smooth(loss),
        learning_rate=np.array([entry.get("learning_rate", np.nan) for entry in entries], dtype=np.float64),
        tokens=sum(int(entry.get("tokens", 0)) for entry in taken),
        skipped=len(taken) - len(entries),
        by_language=_by_language(entries),
    )


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred moving average over about a fifteenth of (n,) values, narrower at both ends, so nothing is shifted."""
    half = len(values) // 30
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    reach = np.minimum(half, np.minimum(at, len(values) - 1 - at))
    means: NDArray[np.float64] = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)
    return means


def _by_language(entries: list[Mapping[str, Any]]) -> list[LanguageLoss]:
    fifth = max(1, len(entries) // 5)
    parts = []
    for part in (entries[:fifth], entries[-fifth:]):
        losses: dict[str, list[float]] = {}
        for entry in part:
            for lang, loss in (entry.get("loss_by_lang") or {}).items():
                if loss is not None:
                    losses.setdefault(lang, []).append(loss)
        parts.append({lang: float(np.mean(found)) for lang, found in losses.items()})
    first, last = parts
    both = [LanguageLoss(lang, first[lang], last[lang]) for lang in first if lang in last]
    return sorted(both, key=lambda entry: (entry.last - entry.first, entry.lang))
