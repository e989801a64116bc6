"""docs/studies/: a page for each study, with what its small form gave.

`python -m raysel.studies.document STORAGE FOLDER` writes the pages of the studies that ran in a storage: the text, the
figure, and the figure's data.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from markupsafe import Markup

from raysel.execution import run_folder
from raysel.report.formats import decimal
from raysel.report.palette import LIGHT
from raysel.store import Store
from raysel.studies.analysis import Findings, analyse
from raysel.studies.figures import conditions_figure
from raysel.studies.levelling import of_lines
from raysel.studies.page import command_of
from raysel.studies.plan import Plan, read_plan
from raysel.studies.results import from_data
from raysel.studies.settings import names
from raysel.studies.verdict import answer, control_words, difference_words, verdict_word

VARIABLE = re.compile(r"var\(--([a-z0-9-]+)\)")
FONT = "font-family: system-ui, sans-serif; background: #fff"


def document(plan: Plan, findings: Findings) -> str:
    """The page as Markdown; its figure is `<name>.svg` beside it."""
    study, small, full = plan.study, plan.study.small, plan.study.full
    levelled = of_lines(findings.lines) if plan.compared.saturation else []
    found = answer(findings, levelled)
    beneath = [f"- {of.head}: {of.text}" for of in found.lines]
    beneath += [f"- {control_words(of, findings.unit)}" for of in findings.outcomes]
    files = [Path("experiments") / file for file in full.experiments]
    given = [f"{key}={value}" for key, value in full.given.items()]
    asked = "".join(f" --set {one}" for one in given)
    over = "\n".join(
        [command_of(plan.name, file, given) for file in files] + [f"raysel plan {files[0]} --study {plan.name}{asked}"]
    )
    parts = [
        f"# {study.title}",
        study.question,
        f"**{found.sentence}** It shows {small.shows} It cannot show {small.cannot_show}",
        "\n".join(beneath),
        f"![{findings.axis} of every condition]({plan.name}.svg)",
        "Small points are seeds, bars 95% intervals over them; a hollow mark differs by no more than noise from what "
        f"it is compared with, or was not compared. [The figure's data]({plan.name}.csv). What is measured, what a "
        "seed changes and what is called clear: [Studies](../studies.md#what-is-measured).",
        f"{study.source}: {study.claim}",
        "\n".join(_table(findings)),
        f"## Small\n\n```bash\n{command_of(plan.name, None)}\n```",
        f"## In full\n\n```bash\n{over}\n```",
        f"It shows {full.shows} It cannot show {full.cannot_show}",
    ]
    return "\n\n".join(parts) + "\n"


def _table(findings: Findings) -> Iterator[str]:
    yield f"| condition | {findings.axis}, 95% interval | against {findings.reference or 'nothing'} | |"
    yield "| --- | ---: | ---: | --- |"
    for line in findings.lines:
        against = difference_words(line.against, "") if line.against is not None else ""
        low, mean, high = (decimal(of, 3) for of in (line.mean.low, line.mean.value, line.mean.high))
        # What nothing is drawn for is the same in every seed, and of its noise nothing is known.
        shown = f"{mean} (the same in every seed)" if low == high else f"{mean} [{low}, {high}]"
        yield f"| {line.label} | {shown} | {against} | {verdict_word(line, findings)} |"


def standalone(svg: Markup) -> str:
    """A figure of a page as a file of its own: with the page's colours by day on white."""
    coloured = VARIABLE.sub(lambda found: LIGHT[found[1]], str(svg))
    return coloured.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" style="{FONT}" ', 1) + "\n"


def write(plan: Plan, store: Store, folder: Path) -> bool:
    """Write the page of a study; False where it did not run in this storage, not to its end, or with other conditions
    than it has now."""
    data = store.read_json(f"{run_folder(plan.run_name)}/study.json")
    ran = from_data(data) if data is not None else []
    if [of.parameters for of in ran] != [of.parameters for of in plan.conditions] or not all(of.is_whole for of in ran):
        return False
    # Conditions are called what they are called now, their parameters in the order of the file.
    ran = [
        replace(of, name=asked.name, parameters=asked.parameters)
        for of, asked in zip(ran, plan.conditions, strict=True)
    ]
    findings = analyse(ran, plan.compared, plan.controls, plan.form.measure)
    figure = conditions_figure(plan.name, findings, plan.compared.axis)
    (folder / f"{plan.name}.md").write_text(document(plan, findings), encoding="utf-8")
    (folder / f"{plan.name}.svg").write_text(standalone(figure.svg), encoding="utf-8")
    (folder / f"{plan.name}.csv").write_text(figure.csv, encoding="utf-8")
    return True


if __name__ == "__main__":
    storage, target = sys.argv[1:]
    Path(target).mkdir(parents=True, exist_ok=True)
    for study in names():
        there = write(read_plan(study, [f"storage={storage}"]), Store(storage), Path(target))
        print(f"{study}: {'written' if there else 'did not run in this storage as it is now'}")
