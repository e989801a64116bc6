"""A study as one HTML page: the question, the answer, the figure, the controls, and where every number comes from."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from raysel.report.figure_data import Row, csv_uri, write_csv
from raysel.report.html import environment
from raysel.report.provenance import experiment_file
from raysel.studies.analysis import Findings, Line
from raysel.studies.figures import conditions_figure, front_figure
from raysel.studies.levelling import claim_words, of_lines, of_published, plateau_words
from raysel.studies.published_figures import published_figure
from raysel.studies.results import Condition
from raysel.studies.settings import Study
from raysel.studies.verdict import answer, control_words, verdict_word
from raysel.sweep.trials import shown


def study_page(
    name: str,
    study: Study,
    findings: Findings,
    conditions: Sequence[Condition],
    experiment: Mapping[str, Any],
    overrides: Sequence[str] = (),
) -> str:
    """The page; the same text for the same study. experiment: what all its trials share, as an experiment file says;
    overrides: what was changed of it, as `key=value`."""
    compared = study.compared
    axis = compared.named.get(compared.across, compared.across) if compared.across is not None else ""
    figure = conditions_figure("conditions", findings, axis)
    levelled = of_lines(findings.lines) if compared.saturation else []
    context: dict[str, Any] = {
        "name": name,
        "study": study,
        "form": study.small,
        "findings": findings,
        "conditions": conditions,
        "answer": answer(findings, levelled),
        "overrides": list(overrides),
        "control_words": partial(control_words, unit=findings.unit),
        "front": front_figure("front", findings),
        "verdict_word": verdict_word,
        "figure": figure,
        "published": published_figure(study.published) if study.published is not None else None,
        "levelled": levelled,
        "published_levels": of_published() if compared.saturation else [],
        "plateau_words": plateau_words,
        "claim_words": claim_words,
        "seeds": study.small.seeds,
        "value_rows": (values := value_rows(conditions, findings.langs)),
        "values_uri": csv_uri(write_csv(values)),
        "by_condition": by_condition(findings.lines),
        "compares": any(line.against is not None for line in findings.lines),
        "experiment_file": experiment_file(dict(experiment)),
        "sections": _sections(findings, study),
    }
    pages = environment("raysel.studies")
    pages.filters["parameters"] = shown
    return pages.get_template("study.html.jinja").render(context)


def value_rows(conditions: Sequence[Condition], langs: Sequence[str]) -> list[Row]:
    """One for each trial: its condition, where its results are, their mean over the languages and each of them."""
    return [
        {
            "condition": of.name or shown(of.parameters),
            "control": of.control,
            "seed": seed,
            "mean": sum(values[lang] for lang in langs) / len(langs),
            **{lang: values[lang] for lang in langs},
            "separability": of.separability.get(seed),
            "results": of.addresses[seed],
        }
        for of in conditions
        for seed, values in sorted(of.values.items())
        if all(lang in values for lang in langs)
    ]


def by_condition(lines: Sequence[Line]) -> list[tuple[str, dict[str, Line]]]:
    """Of every condition that is compared with another (where any is) its name, and by language the line that has
    it."""
    shown = [line for line in lines if line.against is not None] or list(lines)
    found: dict[int, tuple[str, dict[str, Line]]] = {}
    for line in shown:
        _, of = found.setdefault(line.condition.number, (line.named, {}))
        of.update(dict.fromkeys(line.langs, line))
    return list(found.values())


def _sections(findings: Findings, study: Study) -> list[tuple[str, str]]:
    shown = {
        "conditions": ("Conditions", True),
        "front": ("Two aims", study.small.measure == "coverage"),
        "levels": ("Where it levels off", study.compared.saturation),
        "published": ("In the paper", study.published),
        "controls": ("Controls", findings.outcomes),
        "languages": ("By language", True),
        "missing": ("Missing", findings.missing),
        "values": ("Values", True),
        "settings": ("Settings", True),
    }
    return [(key, title) for key, (title, there) in shown.items() if there]
