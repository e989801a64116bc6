"""The loss of the held-out samples in the course of a training run, of all together and of each language."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HeldoutLanguage:
    """A language's loss before and after the training."""

    lang: str
    before: float
    after: float

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class HeldoutLoss:
    """steps: (n,), how many had been done; loss: (n,), the mean over all learned tokens; by_lang: (n,) each, NaN where
    a language was not measured."""

    steps: NDArray[np.int64]
    loss: NDArray[np.float64]
    by_lang: dict[str, NDArray[np.float64]]

    def by_change(self) -> list[HeldoutLanguage]:
        """The languages measured at both ends, the largest fall first."""
        both = [HeldoutLanguage(lang, float(of[0]), float(of[-1])) for lang, of in self.by_lang.items()]
        return sorted((entry for entry in both if np.isfinite(entry.change)), key=lambda e: (e.change, e.lang))


def read_heldout(text: str) -> HeldoutLoss | None:
    """The course from its JSON lines (`steps`, `loss`, `loss_by_lang`); None where it was measured less than twice."""
    by_steps: dict[int, Mapping[str, Any]] = {}
    for line in text.splitlines():
        entry = json.loads(line)
        by_steps[int(entry["steps"])] = entry
    entries = [by_steps[steps] for steps in sorted(by_steps)]
    if len(entries) < 2:
        return None
    langs = sorted({lang for entry in entries for lang in entry["loss_by_lang"]})
    return HeldoutLoss(
        steps=np.array(sorted(by_steps), dtype=np.int64),
        loss=np.array([entry["loss"] for entry in entries], dtype=np.float64),
        by_lang={
            lang: np.array([entry["loss_by_lang"].get(lang) for entry in entries], dtype=np.float64) for lang in langs
        },
    )
