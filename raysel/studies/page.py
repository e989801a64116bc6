"""A study as one HTML page: the question, the answer, the figure, the controls, and where every number comes from."""

from collections.abc import Mapping, Sequence
from typing import Any

from raysel.report.html import environment
from raysel.report.provenance import experiment_file
from raysel.studies.analysis import Findings
from raysel.studies.figures import conditions_figure
from raysel.studies.levelling import claim_words, of_lines, of_published, plateau_words
from raysel.studies.published_figures import published_figure
from raysel.studies.results import Condition
from raysel.studies.settings import Study
from raysel.studies.verdict import answer, control_words, verdict_word
from raysel.sweep.trials import shown


def study_page(
    name: str, study: Study, findings: Findings, conditions: Sequence[Condition], experiment: Mapping[str, Any]
) -> str:
    """The page; the same text for the same study. experiment: what all its trials share, as an experiment file says."""
    compared = study.compared
    axis = compared.named.get(compared.across, compared.across) if compared.across is not None else ""
    figure = conditions_figure("conditions", findings, axis)
    context: dict[str, Any] = {
        "name": name,
        "study": study,
        "form": study.small,
        "findings": findings,
        "conditions": conditions,
        "answer": answer(findings),
        "control_words": control_words,
        "verdict_word": verdict_word,
        "figure": figure,
        "published": published_figure(study.published) if study.published is not None else None,
        "levelled": of_lines(findings.lines) if compared.saturation else [],
        "published_levels": of_published() if compared.saturation else [],
        "plateau_words": plateau_words,
        "claim_words": claim_words,
        "seeds": study.small.seeds,
        "compares": any(line.against is not None for line in findings.lines),
        "experiment_file": experiment_file(dict(experiment)),
        "sections": _sections(findings, study),
    }
    pages = environment("raysel.studies")
    pages.filters["parameters"] = shown
    return pages.get_template("study.html.jinja").render(context)


def _sections(findings: Findings, study: Study) -> list[tuple[str, str]]:
    shown = {
        "conditions": ("Conditions", True),
        "levels": ("Where it levels off", study.compared.saturation),
        "published": ("In the paper", study.published),
        "controls": ("Controls", findings.outcomes),
        "languages": ("By language", True),
        "missing": ("Missing", findings.missing),
        "values": ("Values", True),
        "settings": ("Settings", True),
    }
    return [(key, title) for key, (title, there) in shown.items() if there]
