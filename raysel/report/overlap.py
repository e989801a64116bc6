"""What several selectors chose, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NAMES = {"random": "Random", "kmc": "KMC", "dsir": "DSIR", "less": "LESS"}
# The choice of a method that is not among those it is compared with.
TRAINED = "what is trained on"


def selector_name(method: str, candidates: str) -> str:
    """As LangGPS writes it. A selector of the user's own goes by its class."""
    name = NAMES.get(method, method.rpartition(":")[2])
    return name if candidates == "corpus" else f"LangGPS + {name}"


@dataclass(frozen=True)
class Choice:
    """What one selector chose. ids and langs: (N,); tokens and separability: (N,) numbers of the same rows."""

    ids: Sequence[str]
    langs: Sequence[str]
    tokens: NDArray[np.int64]
    separability: NDArray[np.float64]


@dataclass(frozen=True)
class OverlapLine:
    """jaccard: |A and B| / |A or B| with every selector, in the order of the lines; shares: of its rows by language."""

    name: str
    is_trained: bool
    rows: int
    jaccard: list[float]
    shares: dict[str, float]
    mean_tokens: float | None
    mean_separability: float | None


def jaccard(a: set[str], b: set[str]) -> float:
    """Two empty sets are the same."""
    either = len(a | b)
    return len(a & b) / either if either else 1.0


def side_by_side(choices: Mapping[str, Choice], trained: str) -> list[OverlapLine]:
    """One line for each choice, by its name; `trained` is the one that is trained on."""
    sets = {name: set(choice.ids) for name, choice in choices.items()}
    lines = []
    for name, choice in choices.items():
        langs, counts = np.unique(np.array(choice.langs, dtype=object).astype(str), return_counts=True)
        rows = len(choice.ids)
        lines.append(
            OverlapLine(
                name,
                name == trained,
                rows,
                [jaccard(sets[name], other) for other in sets.values()],
                {str(lang): int(count) / rows for lang, count in zip(langs, counts, strict=True)},
                float(choice.tokens.mean()) if rows else None,
                float(choice.separability.mean()) if rows else None,
            )
        )
    return lines
