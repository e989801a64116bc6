"""A study as one HTML page: the question, the answer, the figure, the controls, and where every number comes from."""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from raysel.report.figure_data import Row, csv_uri, write_csv
from raysel.report.html import environment
from raysel.report.provenance import experiment_file
from raysel.studies.analysis import Findings, Line
from raysel.studies.figures import conditions_figure, front_figure
from raysel.studies.levelling import claim_words, of_lines, of_published, plateau_words
from raysel.studies.plan import Plan
from raysel.studies.published_figures import published_figure
from raysel.studies.results import COVERAGE, Condition
from raysel.studies.verdict import answer, control_words, verdict_word
from raysel.sweep.trials import shown


def study_page(plan: Plan, findings: Findings, conditions: Sequence[Condition], overrides: Sequence[str] = ()) -> str:
    """The page; the same text for the same study. overrides: what was changed of the experiment that all trials share,
    as `key=value`."""
    study, form, compared = plan.study, plan.form, plan.compared
    figure = conditions_figure("conditions", findings, compared.axis)
    levelled = of_lines(findings.lines) if compared.saturation else []
    context: dict[str, Any] = {
        "name": plan.name,
        "study": study,
        "compared": compared,
        "form": form,
        "command": command_of(plan.name, plan.file, overrides),
        "sides": {findings.better: "better", findings.worse: "worse"},
        "is_small": plan.file is None,
        "findings": findings,
        "conditions": conditions,
        "answer": answer(findings, levelled),
        "control_words": partial(control_words, unit=findings.unit),
        "front": front_figure("front", findings),
        "verdict_word": partial(verdict_word, findings=findings),
        "figure": figure,
        "published": published_figure(study.published) if study.published is not None else None,
        "levelled": levelled,
        "published_levels": of_published() if compared.saturation else [],
        "plateau_words": plateau_words,
        "claim_words": claim_words,
        "seeds": form.seeds,
        "value_rows": (values := value_rows(conditions, findings.langs)),
        "values_uri": csv_uri(write_csv(values)),
        "by_condition": by_condition(findings.lines),
        "compares": any(line.against is not None for line in findings.lines),
        "experiment_file": experiment_file(dict(plan.data)),
        "sections": _sections(findings, plan),
    }
    pages = environment("raysel.studies")
    pages.filters["parameters"] = shown
    return pages.get_template("study.html.jinja").render(context)


def command_of(name: str, file: Path | None, overrides: Sequence[str] = ()) -> str:
    """What a user types for it."""
    changes = [part for override in overrides for part in ("--set", override)]
    return shlex.join(["raysel", "study", name, *([str(file)] if file is not None else []), *changes])


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


def _sections(findings: Findings, plan: Plan) -> list[tuple[str, str]]:
    shown = {
        "published": ("In the paper", True),
        "conditions": ("Conditions", True),
        "shows": ("What it can show", True),
        "front": ("Two aims", plan.form.measure == COVERAGE),
        "levels": ("Where it levels off", plan.compared.saturation),
        "controls": ("Controls", findings.outcomes),
        "languages": ("By language", True),
        "missing": ("Missing", findings.missing),
        "values": ("Values", True),
        "settings": ("Settings", True),
    }
    return [(key, title) for key, (title, there) in shown.items() if there]
