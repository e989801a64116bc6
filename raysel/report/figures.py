"""The figures of a run's page, each with its table."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from raysel.report import course_figures, diversity_figure, map_figure, nearest_figure, rows_figures, subset_figure
from raysel.report.comparison import Comparison
from raysel.report.diagnostics import Diagnostics
from raysel.report.figure_data import DataFigure, Row, finite
from raysel.report.findings import Findings
from raysel.report.formats import metric_digits, metric_name
from raysel.report.palette import language_colours
from raysel.report.selection_rows import SelectionRow
from raysel.report.training_log import LanguageLoss


def figures(findings: Findings, selection: Sequence[SelectionRow]) -> dict[str, DataFigure]:
    """The figures that the run came to, by their names. selection: the rows of the table of the selection."""
    colours = page_colours(findings)
    drawn = [
        *_subset(findings, colours),
        *_vectors(findings, colours),
        *_selection(selection if findings.chosen else []),
        *_order(findings, colours),
        *_training(findings, colours),
    ]
    if findings.comparison is not None and findings.comparison.by_language:
        drawn.append(_results(findings.comparison))
    return {figure.name: figure for figure in drawn}


def page_colours(findings: Findings) -> dict[str, int]:
    """The number of each language's colour, for all languages that a figure tells apart by colour."""
    others = set(findings.map.langs) if findings.map else set()
    others.update(findings.heldout_loss.by_lang if findings.heldout_loss else [])
    if findings.curriculum is not None:
        others.update(str(lang) for lang in findings.curriculum.of["language"].parts)
    if findings.subset is not None:
        others.update(line.lang for line in findings.subset.picture.candidates)
    return language_colours(findings.languages, others)


def _subset(findings: Findings, colours: Mapping[str, int]) -> list[DataFigure]:
    if findings.subset is None or not findings.subset.drawable:
        return []
    picture = findings.subset.picture
    draw = partial(subset_figure.draw_subset, explained=picture.explained, colours=colours)
    return [DataFigure.of("subset", subset_figure.subset_rows(picture), draw)]


def _vectors(findings: Findings, colours: Mapping[str, int]) -> list[DataFigure]:
    """Of separability, of the vectors, and of what separability was traded for."""
    drawn = []
    if findings.scores is not None:
        ridges = rows_figures.ridgeline_rows(findings.scores, findings.selected_scores)
        drawn.append(DataFigure.of("ridgeline", ridges, rows_figures.ridgeline))
        nearest = nearest_figure.nearest_rows(findings.scores)
        drawn.append(DataFigure.of("nearest", nearest, nearest_figure.nearest_matrix))
    if findings.diagnostics is not None and findings.diagnostics.similarity:
        drawn.append(_similarity(findings.diagnostics))
    if findings.map is not None:
        draw = partial(map_figure.draw_map, colours=colours)
        drawn.append(DataFigure.of("map", map_figure.map_rows(findings.map), draw))
    choices = diversity_figure.diversity_rows(findings.diversity) if findings.diversity else []
    if choices:
        drawn.append(DataFigure.of("diversity", choices, diversity_figure.diversity_scatter))
    return drawn


def _similarity(diagnostics: Diagnostics) -> DataFigure:
    rows: list[Row] = [
        {"lang": line.lang, "rest": finite(line.rest), "selected": finite(line.selected)}
        for line in diagnostics.similarity
    ]
    draw = partial(
        rows_figures.dumbbells,
        pair=("rest", "selected"),
        label="mean cosine of two samples of the language",
        description="Mean pairwise similarity within each language, of the selected samples and of the rest",
    )
    return DataFigure.of("similarity", rows, draw)


def _selection(selection: Sequence[SelectionRow]) -> list[DataFigure]:
    if not selection:
        return []
    counts = {part: [getattr(row, part) for row in selection] for part in ("pool", "subset")}
    shown = [part for part, of in counts.items() if None not in of]
    rows: list[Row] = [
        {"lang": row.lang, "corpus": row.corpus}
        | {"selected" if part == "subset" else part: counts[part][number] for part in shown}
        for number, row in enumerate(selection)
    ]
    return [DataFigure.of("selection", rows, rows_figures.nested_bars)]


def _order(findings: Findings, colours: Mapping[str, int]) -> list[DataFigure]:
    if findings.curriculum is None:
        return []
    course = course_figures.separability_rows(findings.curriculum)
    drawn = [DataFigure.of("course", course, course_figures.separability_course)]
    for by in findings.curriculum.of:
        draw = partial(course_figures.composition_course, by=by, colours=colours)
        drawn.append(DataFigure.of(f"{by}-shares", course_figures.share_rows(findings.curriculum, by), draw))
    return drawn


def _training(findings: Findings, colours: Mapping[str, int]) -> list[DataFigure]:
    drawn = []
    if findings.log is not None:
        drawn.append(DataFigure.of("loss", course_figures.loss_rows(findings.log), course_figures.loss_course))
        if findings.log.by_language:
            drawn.append(_losses(findings.log.by_language))
    if findings.heldout_loss is not None:
        draw = partial(course_figures.heldout_course, colours=colours)
        drawn.append(DataFigure.of("heldout", course_figures.heldout_rows(findings.heldout_loss), draw))
    return drawn


def _losses(losses: Sequence[LanguageLoss]) -> DataFigure:
    rows: list[Row] = [
        {"lang": entry.lang, "first_fifth": finite(entry.first), "last_fifth": finite(entry.last)} for entry in losses
    ]
    draw = partial(
        rows_figures.dumbbells,
        pair=("first_fifth", "last_fifth"),
        label="training loss",
        description="Training loss of each language over the first and the last fifth of the steps",
        digits=2,
    )
    return DataFigure.of("losses", rows, draw)


def _results(comparison: Comparison) -> DataFigure:
    rows: list[Row] = []
    for line in comparison.by_language:
        row: dict[str, Any] = {"lang": line.lang, "metric": comparison.shown_metric}
        for model, shown in (("base", line.base), ("tuned", line.tuned)):
            row[model] = finite(shown.value) if shown else None
            row[f"{model}_low"] = finite(shown.low) if shown else None
            row[f"{model}_high"] = finite(shown.high) if shown else None
        rows.append(row | {"p": finite(line.p), "verdict": line.verdict or None})
    percent = comparison.shown_metric in comparison.shares
    draw = partial(
        rows_figures.dumbbells,
        pair=("base", "tuned"),
        label=f"{metric_name(comparison.shown_metric)}{', %' if percent else ''}",
        description=f"{metric_name(comparison.shown_metric)} of each language, averaged over its tasks",
        percent=percent,
        digits=metric_digits(comparison.shown_metric),
    )
    return DataFigure.of("results", rows, draw)
