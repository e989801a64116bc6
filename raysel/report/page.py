"""From findings to the HTML page: table rows, and which sections there are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2

from raysel import __version__
from raysel.report import formats, provenance
from raysel.report.comparison import Comparison
from raysel.report.course_figures import NAMED_LINES
from raysel.report.figures import figures
from raysel.report.findings import Findings
from raysel.report.map_figure import VIEW_BOX, map_panels
from raysel.report.palette import DARK, LIGHT, css_variables
from raysel.report.selection_rows import selection_rows

NEAREST_NAMED = 3
# Longer tables than this are folded; a click or the print-out opens them.
OPEN_ROWS = 24
OPEN_EXAMPLES = 6


@dataclass(frozen=True)
class Page:
    html: bytes
    sections: list[str]


def make_page(findings: Findings, *, name: str, experiment: dict[str, Any], seed: int) -> Page:
    """The whole page as UTF-8; the same bytes for the same artifacts."""
    steps = provenance.steps(findings.published)
    selection = selection_rows(findings)
    drawn = figures(findings, selection)
    context: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "version": __version__,
        "light": css_variables(LIGHT),
        "dark": css_variables(DARK),
        "open_rows": OPEN_ROWS,
        "open_examples": OPEN_EXAMPLES,
        "named_lines": NAMED_LINES,
        "findings": findings,
        "model": model_name(experiment),
        "warnings": provenance.warnings(findings.published),
        "steps": steps,
        "software": provenance.software(findings.published),
        "experiment_file": provenance.experiment_file(experiment),
        "experiment": experiment,
        "selection": selection,
        "figures": drawn,
        "map_panels": map_panels("map", drawn["map"].rows) if "map" in drawn else [],
        "map_view": VIEW_BOX,
        "curriculum_kind": _at(experiment, "curriculum", "kind"),
        "preselect": experiment.get("preselect") or {},
        "pool_words": pool_words(experiment),
        "effective_samples": effective_samples(findings),
        "kl_reduction": findings.summary_of("subset").get("kl_reduction"),
        "corpus_summary": findings.summary_of("corpus"),
        "method": _at(experiment, "selection", "method"),
        "model_summary": findings.summary_of("model"),
        "token_summary": findings.summary_of("tokens"),
        "vector_summary": findings.summary_of("vectors"),
        "overlap_languages": sorted({lang for line in findings.overlap for lang in line.shares}),
        "diversity_languages": list(findings.diversity.lines[0].languages) if findings.diversity else [],
        "nearest_named": NEAREST_NAMED,
        "write_metric": metric_writer(findings.comparison),
        "longest_step": max((step.wall_seconds for step in steps), default=0.0),
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
        "provenance": ("Provenance", True),
    }
    return [(key, title) for key, (title, there) in shown.items() if there]


def model_name(experiment: Mapping[str, Any]) -> str | None:
    """The model as the experiment names it, without the folders it lies in."""
    path = _at(experiment, "model", "path")
    if path:
        return str(path).rstrip("/").rsplit("/", 1)[-1] if str(path).startswith("/") else str(path)
    base = _at(experiment, "model", "base")
    if not base:
        return None
    return f"a small Llama made from the corpus ({base.get('layers')} layers, width {base.get('width')})"


def pool_words(experiment: Mapping[str, Any]) -> str:
    """How the pool was taken, as the object of a sentence."""
    if _at(experiment, "selection", "candidates") == "corpus":
        return "the whole corpus"
    preselect = experiment.get("preselect") or {}
    share = f"{formats.percent(preselect['rho'], 0)} of each language" if preselect.get("rho") else "rows"
    shared_out = "" if preselect.get("rho") else f" ({preselect.get('size', 0):,}, shared out over the languages)"
    words = {
        "high": f"the {share} with the highest separability",
        "low": f"the {share} with the lowest separability",
        "middle": f"the middle {share} by separability",
        "random": f"{share} drawn at random",
        "permuted": f"the {share} that come first after the scores were shuffled, a control",
        "length_matched": f"{share} drawn at random, as long as the most separable ones, a control",
        "lid_clean": f"the {share} that language identification is surest of, a control",
    }
    return words.get(preselect.get("band", ""), f"{share} of the corpus") + shared_out


def metric_writer(comparison: Comparison | None) -> Any:
    """(value, metric, sign) -> text: shares as percentages, everything else as it is."""
    shares = comparison.shares if comparison else set()

    def write(value: float | None, metric: str, sign: bool = False) -> str:
        if metric in shares:
            return formats.decimal(None if value is None else 100 * value, 1, sign=sign)
        return formats.decimal(value, formats.metric_digits(metric), sign=sign)

    return write


def _at(data: Mapping[str, Any], *keys: str) -> Any:
    found: Any = data
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def environment(*rooms: str) -> jinja2.Environment:
    """What the report's pages are rendered with; `rooms` are packages with templates of their own."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(room, "") for room in ("raysel.report", *rooms)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "integer": formats.integer,
        "decimal": formats.decimal,
        "percent": formats.percent,
        "probability": formats.probability,
        "scientific": formats.scientific,
        "duration": formats.duration,
        "size": formats.size,
        "language": formats.language_name,
        "metric": formats.metric_name,
        "shorten": formats.shorten,
        "both_ends": formats.both_ends,
    }
    return environment
