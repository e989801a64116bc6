"""The user's files about languages: numbers by language, and vectors in word2vec's text form."""

import csv
import json
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raysel.languages.codes import LanguageError, normalise
from raysel.languages.settings import LanguagesSettings


def leaf_files(settings: LanguagesSettings) -> dict[str, str]:
    """The files that a choice is made by, by the name of their setting: their contents are part of its fingerprint."""
    used = {"vectors": settings.strategy in ("sem", "mixed"), "pretrain": settings.strategy == "pretrain"}
    found = {name: getattr(settings, name) for name in used if used[name] and getattr(settings, name)}
    for name, path in found.items():
        if not Path(path).expanduser().is_file():
            raise LanguageError(f"languages.{name} {path!r}: there is no such file")
    return found


def read_numbers(path: str | Path) -> dict[str, float]:
    """Language -> number, from JSON (`{"sw": 0.3}`) or CSV (language, number; a first line of headings is skipped)."""
    text = _text(path)
    if str(path).endswith(".json"):
        try:
            data = json.loads(text)
        except ValueError as error:
            raise LanguageError(f"{path} is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise LanguageError(f"{path} holds a {type(data).__name__}: write an object, {{language: number, ...}}")
        pairs = list(data.items())
    else:
        rows = [row for row in csv.reader(text.splitlines()) if row]
        short = [",".join(row) for row in rows if len(row) < 2]
        if short:
            raise LanguageError(f"{path}: {short[0]!r} has one column: write language,number lines")
        pairs = [(row[0], row[1].strip()) for row in rows]
        if pairs and not _is_language(pairs[0][0]):
            del pairs[0]
    if not pairs:
        raise LanguageError(f"{path} holds no languages")
    found: dict[str, float] = {}
    for label, value in pairs:
        code, number = normalise(label), _number(value)
        if number is None or number < 0:
            raise LanguageError(f"{path}: {label} has {value!r}: a number of at least 0 is needed")
        if code in found:
            raise LanguageError(f"{path} has {code} twice, the second time as {label!r}")
        found[code] = number
    return found


def _is_language(label: str) -> bool:
    try:
        normalise(label)
    except LanguageError:
        return False
    return True


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_vectors(path: str | Path, codes: Collection[str]) -> dict[str, NDArray[np.float64]]:
    """The vectors of `codes` (ISO 639-3) in word2vec's text form: `COUNT WIDTH`, then lines `CODE NUMBER ...`."""
    lines = _text(path).splitlines()
    head = lines[0].split() if lines else []
    if len(head) != 2 or not all(part.isdigit() for part in head):
        raise LanguageError(
            f"{path}: the first line of word2vec's text form is COUNT WIDTH, and this is {lines[:1]}: give such a file"
        )
    count, width = (int(part) for part in head)
    if len(lines) - 1 != count:
        raise LanguageError(f"{path} promises {count:,} vectors and holds {len(lines) - 1:,}: is it whole?")
    found = {}
    for number, line in enumerate(lines[1:], start=2):
        code, *values = line.split()
        if code not in codes:
            continue
        try:
            vector = np.array(values, dtype=np.float64)
        except ValueError as error:
            raise LanguageError(f"{path}, line {number} ({code}): {error}") from error
        if len(vector) != width or not np.isfinite(vector).all():
            raise LanguageError(
                f"{path}, line {number} ({code}): not {width} finite numbers, as the first line promises"
            )
        found[code] = vector
    return found


def _text(path: str | Path) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LanguageError(f"{path} cannot be read: {error}") from error
