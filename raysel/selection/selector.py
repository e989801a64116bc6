"""What a selector is: a class whose fields are its settings, with one method."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raysel.errors import UserError


class SelectorError(UserError):
    """A selector that cannot be used as it is, or that chose what it may not."""


@dataclass(frozen=True)
class Candidates:
    """The rows that a selector may choose from: those of one language (and task) of the pool, or of all, sorted
    by id.

    ids and langs: (N,). What else is known of them is read when it is asked for.
    """

    ids: Sequence[str]
    langs: Sequence[str]
    read_texts: Callable[[], Sequence[tuple[str, str]]]
    read_vectors: Callable[[], np.ndarray]
    read_separability: Callable[[], NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def texts(self) -> Sequence[tuple[str, str]]:
        """(prompt, response) of each."""
        return self.read_texts()

    @cached_property
    def vectors(self) -> np.ndarray:
        """The last-token hidden states, (N, d) float16 or float32."""
        return self.read_vectors()

    @cached_property
    def separability(self) -> NDArray[np.float64]:
        """Their silhouette scores, (N,)."""
        return self.read_separability()


class Selector(Protocol):
    """Made with `selection.settings` as keyword arguments."""

    def select(self, candidates: Candidates, count: int, *, seed: int) -> tuple[Sequence[int], Sequence[float]]:
        """Indices of `count` distinct candidates, the first choice first, and a score for each of them."""


def load_selector(name: str, settings: Mapping[str, Any]) -> Selector:
    """The selector `package.module:Class`, made with `settings`. Raises `SelectorError`."""
    found = _class(name)
    try:
        selector: Selector = found(**settings)
    except (TypeError, ValueError) as error:
        raise SelectorError(f"selection.settings {dict(settings)} do not suit {name}: {error}") from error
    if not callable(getattr(selector, "select", None)):
        raise SelectorError(f"selection.method {name}: {found.__name__} has no method select")
    return selector


def source_file(name: str) -> Path:
    """The file in which the selector `package.module:Class` is written."""
    return Path(inspect.getfile(_class(name)))


def _class(name: str) -> type:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise SelectorError(
            f"selection.method {name!r}: {error}; give package.module:Class of an installed package"
        ) from error
    if not isinstance(found, type):
        raise SelectorError(f"selection.method {name!r} is no class but a {type(found).__name__}")
    return found


def chosen_by(
    selector: Selector, name: str, candidates: Candidates, count: int, *, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What `selector` chose, checked: `count` distinct indices below N and as many scores. Raises `SelectorError`."""
    where = f"selection.method {name}, asked for {count:,} of {len(candidates):,} rows,"
    chosen = selector.select(candidates, count, seed=seed)
    try:
        rows, scores = chosen
        indices, values = np.asarray(rows), np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SelectorError(f"{where} gave no pair of indices and scores: {error}") from error
    if indices.shape != (count,) or values.shape != (count,):
        raise SelectorError(f"{where} gave indices of shape {indices.shape} and scores of shape {values.shape}")
    if count and not np.issubdtype(indices.dtype, np.integer):
        raise SelectorError(f"{where} gave indices that are {indices.dtype}, not whole numbers")
    if len(np.unique(indices)) < count or (count and not 0 <= indices.min() <= indices.max() < len(candidates)):
        raise SelectorError(f"{where} gave indices that repeat, or are not between 0 and {len(candidates) - 1:,}")
    if not np.isfinite(values).all():
        raise SelectorError(f"{where} gave scores that are not finite")
    return indices.astype(np.int64), values
