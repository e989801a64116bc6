"""`raysel compare`: how far two scorings of the same samples agree, as a table and a figure."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raysel.errors import UserError
from raysel.separability.agreement import Agreement, agreement
from raysel.storage import open_filesystem
from raysel.store import Artifact, Store

COLUMNS = ["id", "lang", "separability"]
KINDS = [pa.string(), pa.string(), pa.float64()]
OVERALL = "all"


class ScoringError(UserError):
    """A scoring that cannot be read, or two that have nothing in common."""


@dataclass(frozen=True)
class Scoring:
    """One score for each id. ids, langs: (N,); scores: float64 (N,)."""

    ids: list[str]
    langs: list[str]
    scores: NDArray[np.float64]


def read_scoring(location: str) -> Scoring:
    """A published `scores` artifact (its folder), an experiment file whose scores are published, or a Parquet file or
    folder with the columns id, lang and separability; local or at a URI."""
    table = _read(location)
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise ScoringError(f"{location} lacks the column {', '.join(missing)}; it has {', '.join(table.column_names)}")
    try:
        columns = [table[name].cast(kind) for name, kind in zip(COLUMNS, KINDS, strict=True)]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ScoringError(f"{location}: id and lang must be text, separability a number: {error}") from error
    empty = [name for name, column in zip(COLUMNS, columns, strict=True) if column.null_count]
    if empty:
        raise ScoringError(f"{location} has empty values in {', '.join(empty)}")
    ids, langs, scores = (column.to_pylist() for column in columns)
    if len(set(ids)) < len(ids):
        raise ScoringError(f"{location} has {len(ids) - len(set(ids)):,} ids more than once")
    values = np.array(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ScoringError(f"{location} has {int((~np.isfinite(values)).sum()):,} scores that are no number")
    return Scoring(ids, langs, values)


def _read(location: str) -> pa.Table:
    if location.endswith((".yaml", ".yml")):
        return _of_experiment(Path(location)).read("scores", COLUMNS)
    place, mark, options = location.partition("?")
    storage, _, fingerprint = place.rstrip("/").rpartition("/scores/")
    published = storage and not fingerprint.endswith(".parquet")
    if published and (artifact := Store(f"{storage}{mark}{options}").artifact("scores", fingerprint)) is not None:
        return artifact.read("scores", COLUMNS)
    filesystem, path = open_filesystem(location)
    info = filesystem.get_file_info(path)
    if info.type == fs.FileType.NotFound:
        raise ScoringError(f"{location}: there is nothing; give the folder of published scores or a Parquet file")
    if info.type == fs.FileType.Directory:
        inside = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        if not any(file.path.endswith(".parquet") for file in inside):
            raise ScoringError(f"{location} is a folder without Parquet files; published ones are in STORAGE/scores")
    try:
        return pq.read_table(path, filesystem=filesystem, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise ScoringError(f"{location} is not Parquet: {error}") from error


def _of_experiment(path: Path) -> Artifact:
    from raysel.experiment import load_experiment
    from raysel.pipeline import expand

    experiment = load_experiment(path, [])
    store = Store(experiment.storage)
    step = expand(experiment, store, "scores")[-1]
    artifact = store.artifact(step.stage, step.fingerprint)
    if artifact is None:
        raise ScoringError(f"the scores of {path} are not computed yet: raysel score {path}")
    return artifact


def compare_scorings(first: str, second: str, *, rho: float, figure: Path, console: Console) -> None:
    """Print the agreement of two scorings by language and draw it."""
    if not 0 < rho <= 1:
        raise ScoringError(f"--rho {rho}: a share above 0 and at most 1 is needed")
    one, two = read_scoring(first), read_scoring(second)
    score_of = dict(zip(two.ids, two.scores.tolist(), strict=True))
    rows = [i for i, identity in enumerate(one.ids) if identity in score_of]
    if not rows:
        raise ScoringError(f"{first} and {second} have no id in common: they score different samples")
    ids, langs = [one.ids[i] for i in rows], [one.langs[i] for i in rows]
    scores = one.scores[rows], np.array([score_of[identity] for identity in ids])
    overall, of = agreement(ids, langs, *scores, rho=rho)
    console.print(f"A: {first}\nB: {second}", markup=False, highlight=False)
    left_out = len(one.ids) + len(two.ids) - 2 * len(rows)
    more = f"; {left_out:,} samples that only one of them has are left out" if left_out else ""
    console.print(f"{len(rows):,} samples in {len(of)} languages{more}", highlight=False)
    console.print(_table(overall, of, rho))
    _draw(of, rho, figure)
    console.print(f"figure: {figure}", markup=False, highlight=False)


def _table(overall: Agreement, of: dict[str, Agreement], rho: float) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("language")
    for heading in ("samples", "Spearman", "Kendall", f"top {rho:.0%} Jaccard"):
        table.add_column(heading, justify="right")
    for name, line in [(OVERALL, overall), *of.items()]:
        values = ("–" if value is None else f"{value:.3f}" for value in (line.spearman, line.kendall, line.overlap))
        table.add_row(escape(name), f"{line.rows:,}", *values)
    return table


def _draw(of: dict[str, Agreement], rho: float, path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    shown = {lang: line for lang, line in of.items() if line.spearman is not None}
    ranked = sorted(shown, key=lambda lang: (shown[lang].spearman or 0.0, lang))
    figure = Figure(figsize=(7, 1.2 + 0.24 * max(4, len(ranked))), layout="constrained")
    axes = figure.add_subplot()
    marks: dict[str, tuple[str, Any]] = {
        "Spearman": ("o", [shown[lang].spearman for lang in ranked]),
        "Kendall": ("s", [shown[lang].kendall for lang in ranked]),
        f"top {rho:.0%} Jaccard": ("D", [shown[lang].overlap for lang in ranked]),
    }
    for name, (marker, values) in marks.items():
        axes.plot([np.nan if value is None else value for value in values], ranked, marker, label=name, markersize=5)
    axes.axvline(0, color="0.7", linewidth=1, zorder=0)
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlim(min(-0.02, axes.get_xlim()[0]), 1.02)
    axes.set_xlabel("agreement of the two scorings")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context({"text.parse_math": False}):
            figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ScoringError(f"--figure {path} cannot be written: {error}") from error
