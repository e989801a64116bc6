"""From findings to the HTML page: figures, table rows, and which sections there are."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from raysel.report import provenance
from raysel.report.asked import at, pool_words
from raysel.report.cost import cost
from raysel.report.course_figures import NAMED_LINES
from raysel.report.figures import figures
from raysel.report.findings import Findings
from raysel.report.headline import headline, strip
from raysel.report.html import environment
from raysel.report.map_figure import VIEW_BOX, map_panels
from raysel.report.metric_text import metric_writer
from raysel.report.selection_rows import selection_rows

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
    selection = selection_rows(findings)
    drawn = figures(findings, selection)
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
        "selection": selection,
        "figures": drawn,
        "map_panels": map_panels("map", drawn["map"].rows) if "map" in drawn else [],
        "map_view": VIEW_BOX,
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
