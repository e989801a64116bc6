"""From findings to the HTML page: figures, table rows, and which sections there are."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from raysel.evaluation.intervals import Interval
from raysel.report import formats, provenance
from raysel.report.asked import at, pool_words
from raysel.report.comparison import Comparison
from raysel.report.cost import cost
from raysel.report.course_figures import (
    NAMED_LINES,
    composition_course,
    heldout_course,
    loss_course,
    separability_course,
)
from raysel.report.diversity_figure import diversity_scatter
from raysel.report.findings import Findings
from raysel.report.headline import headline, strip
from raysel.report.html import environment
from raysel.report.map_figure import draw_map
from raysel.report.metric_text import metric_writer
from raysel.report.nearest_figure import nearest_matrix
from raysel.report.rows_figures import dumbbells, nested_bars, ridgeline
from raysel.report.subset_figure import draw_subset

NEAREST_NAMED = 3
# Longer tables than this are folded; a click or the print-out opens them.
OPEN_ROWS = 24
OPEN_EXAMPLES = 6
OPEN_ENDS = 3
# The stages that a section's numbers are read from.
SOURCES = {
    "corpus": ("corpus", "clean"),
    "audit": ("audit", "contamination"),
    "languages": ("quota",),
    "separability": ("scores",),
    "diagnostics": ("vectors", "scores", "subset"),
    "vectors": ("vectors",),
    "map": ("vectors",),
    "selection": ("scores", "quota", "importance", "pool", "subset"),
    "overlap": ("vectors", "scores", "subset", "diversity"),
    "diversity": ("diversity",),
    "curriculum": ("scores", "order", "model"),
    "training": ("tokens", "model"),
    "results": ("results",),
    "items": ("results",),
}


@dataclass(frozen=True)
class Page:
    html: bytes
    sections: list[str]


@dataclass(frozen=True)
class SelectionRow:
    lang: str
    corpus: int
    pool: int | None
    quota: int | None
    subset: int | None
    mean_all: float | None
    mean_selected: float | None


def make_page(
    findings: Findings,
    *,
    name: str,
    experiment: dict[str, Any],
    seed: int,
    folder: str | None = None,
    reused: Collection[str] | None = None,
) -> Page:
    """The whole page as UTF-8; the same bytes for the same artifacts.

    folder: where the run's record is, as a person can open it; reused: the steps whose artifacts were there before the
    run. None where there is no run.
    """
    steps = provenance.steps(findings.published)
    comparison = findings.comparison
    line = comparison.headline if comparison else None
    # A run that writes nowhere in particular says nothing of where.
    experiment = {key: value for key, value in experiment.items() if key != "storage" or value}
    context: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "headline": headline(findings, experiment),
        "strip": strip(line.difference) if line else None,
        "cost": cost(findings.published, reused),
        "folder": folder,
        "open_rows": OPEN_ROWS,
        "open_examples": OPEN_EXAMPLES,
        "open_ends": OPEN_ENDS,
        "named_lines": NAMED_LINES,
        "findings": findings,
        "warnings": provenance.warnings(findings.published),
        "steps": steps,
        "step_of": {step.address: step.name for step in reversed(findings.published)},
        "sources": {
            section: [step.name for step in findings.published if step.manifest["stage"] in stages]
            for section, stages in SOURCES.items()
        },
        "software": provenance.software(findings.published),
        "experiment_file": provenance.experiment_file(experiment),
        "experiment": experiment,
        "selection": selection_rows(findings),
        "figures": figures(findings),
        "curriculum_kind": at(experiment, "curriculum", "kind"),
        "pool_words": pool_words(experiment),
        "effective_samples": effective_samples(findings),
        "kl_reduction": findings.summary_of("subset").get("kl_reduction"),
        "corpus_summary": findings.summary_of("corpus"),
        "model_summary": findings.summary_of("model"),
        "token_summary": findings.summary_of("tokens"),
        "vector_summary": findings.summary_of("vectors"),
        "overlap_languages": sorted({lang for line in findings.overlap for lang in line.shares}),
        "diversity_languages": list(findings.diversity.lines[0].languages) if findings.diversity else [],
        "nearest_named": NEAREST_NAMED,
        "write_metric": metric_writer(findings.comparison),
    }
    context["sections"] = sections(findings, context)
    html = environment().get_template("report.html.jinja").render(context)
    return Page(html.encode(), [key for key, _ in context["sections"]])


def effective_samples(findings: Findings) -> float:
    """Of DSIR's weights, summed over the languages; 0 without them."""
    by_language = findings.summary_of("importance").get("effective_samples", {})
    return sum(by_language.values()) if isinstance(by_language, dict) else 0.0


def sections(findings: Findings, context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(id, title) of what the page shows, in its order."""
    shown = {
        "headline": ("Summary", True),
        "warnings": ("Warnings", context["warnings"]),
        "corpus": ("Corpus", findings.languages),
        "languages": ("Languages", findings.subset),
        "audit": ("Audit", findings.audit),
        "separability": ("Separability", findings.scores),
        "diagnostics": ("Is it language?", findings.diagnostics),
        "vectors": ("Vectors", context["vector_summary"].get("quality")),
        "map": ("Map of the vectors", findings.map),
        "selection": ("Selection", findings.chosen),
        "overlap": ("Selectors side by side", findings.overlap),
        "diversity": ("Diversity", findings.diversity and not findings.overlap),
        "curriculum": ("Order of training", findings.curriculum),
        "training": ("Training", findings.log),
        "results": ("Results", findings.comparison),
        "items": ("Answers", findings.examples),
        "cost": ("Cost", findings.published),
        "provenance": ("Lineage", True),
    }
    return [(key, title) for key, (title, there) in shown.items() if there]


def selection_rows(findings: Findings) -> list[SelectionRow]:
    """One row for each language, most selected first (before there is a selection, most rows)."""
    rows = []
    scored = findings.scores.languages if findings.scores else []
    for lang in {*findings.languages, *scored, *(lang for counts in findings.chosen.values() for lang in counts)}:
        counts = {
            part: findings.chosen[part].get(lang, 0) if part in findings.chosen else None
            for part in ("pool", "quota", "subset")
        }
        corpus = findings.languages.get(lang) or (findings.scores.count_of(lang) if findings.scores else 0)
        means = [scores.mean_of(lang) if scores else None for scores in (findings.scores, findings.selected_scores)]
        rows.append(SelectionRow(lang, corpus, **counts, mean_all=means[0], mean_selected=means[1]))
    return sorted(rows, key=lambda row: (-(row.subset or 0), -(row.pool or 0), -row.corpus, row.lang))


def figures(findings: Findings) -> dict[str, Any]:
    drawn: dict[str, Any] = {}
    if findings.subset is not None and findings.subset.drawable:
        drawn["subset"] = draw_subset(findings.subset.picture)
    if findings.scores is not None:
        drawn["ridgeline"] = ridgeline(findings.scores, findings.selected_scores)
        drawn["nearest"] = nearest_matrix(findings.scores)
    if findings.diagnostics is not None and findings.diagnostics.similarity:
        lines = findings.diagnostics.similarity
        drawn["similarity"] = dumbbells(
            "similarity",
            [line.lang for line in lines],
            [Interval(line.rest) for line in lines if line.rest is not None],
            [Interval(line.selected) for line in lines if line.selected is not None],
            label="mean cosine of two samples of the language",
            description="Mean pairwise similarity within each language, of the selected samples and of the rest",
        )
    if findings.map is not None:
        drawn["map"] = draw_map(findings.map)
    if findings.diversity is not None:
        drawn["diversity"] = diversity_scatter(findings.diversity)
    if findings.chosen:
        drawn["selection"] = _bars(selection_rows(findings))
    if findings.curriculum is not None:
        drawn["course"] = separability_course(findings.curriculum)
        courses = {by: composition_course(findings.curriculum, by) for by in findings.curriculum.of}
        drawn["shares"] = [(by, figure, legend) for by, (figure, legend) in courses.items()]
    if findings.log is not None:
        drawn["loss"] = loss_course(findings.log)
        losses = findings.log.by_language
        if losses:
            drawn["losses"] = dumbbells(
                "losses",
                [entry.lang for entry in losses],
                [Interval(entry.first) for entry in losses],
                [Interval(entry.last) for entry in losses],
                label="training loss",
                description="Training loss of each language over the first and the last fifth of the steps",
                digits=2,
            )
    if findings.heldout_loss is not None:
        drawn["heldout"] = heldout_course(findings.heldout_loss)
    if findings.comparison is not None and findings.comparison.by_language:
        drawn["results"] = _results(findings.comparison)
    return drawn


def _bars(rows: Sequence[SelectionRow]) -> Markup:
    layers = [("all", [row.corpus for row in rows])]
    for part, colour in (("pool", "pool"), ("subset", "accent")):
        counts = [getattr(row, part) for row in rows]
        if None not in counts:
            layers.append((colour, counts))
    return nested_bars([row.lang for row in rows], layers)


def _results(comparison: Comparison) -> Markup:
    lines = comparison.by_language
    percent = comparison.shown_metric in comparison.shares
    return dumbbells(
        "results",
        [line.lang for line in lines],
        [line.base for line in lines],
        [line.tuned for line in lines],
        label=f"{formats.metric_name(comparison.shown_metric)}{', %' if percent else ''}",
        description=f"{formats.metric_name(comparison.shown_metric)} of each language, averaged over its tasks",
        percent=percent,
        digits=2,
    )
