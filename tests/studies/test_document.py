"""The pages of the studies in docs/: they say what the files say, and their figures are those of their data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from raysel.report.figure_data import read_csv
from raysel.store import Store
from raysel.studies.analysis import analyse
from raysel.studies.document import document, standalone, write
from raysel.studies.figures import conditions_figure
from raysel.studies.plan import Plan, read_plan
from raysel.studies.results import as_data, from_data
from raysel.studies.settings import names
from tests.conftest import REPOSITORY
from tests.studies.invented import invented

PAGES = REPOSITORY / "docs" / "studies"


WRITTEN = sorted(page.stem for page in PAGES.glob("*.md"))


@pytest.fixture(scope="module", params=WRITTEN)
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return read_plan(request.param, [f"storage={tmp_path_factory.mktemp('storage')}"])


def test_every_page_is_of_a_study_and_in_the_list() -> None:
    listed = (PAGES.parent / "studies.md").read_text(encoding="utf-8")
    assert WRITTEN
    assert set(WRITTEN) <= set(names())
    assert all(f"(studies/{name}.md)" in listed for name in WRITTEN)


def test_a_page_has_its_studys_own_words(plan: Plan) -> None:
    page = (PAGES / f"{plan.name}.md").read_text(encoding="utf-8")
    for form in (plan.study.small, plan.study.full):
        for text in (plan.study.question, plan.study.claim, form.shows, form.cannot_show):
            assert text in page
    assert f"raysel study {plan.name}\n" in page
    for control in plan.controls.values():
        assert control.what in page


def test_its_figure_is_drawn_from_the_data_beside_it(plan: Plan) -> None:
    values = invented(plan)
    findings = analyse(values, plan.compared, plan.controls, plan.form.measure)
    figure = conditions_figure(plan.name, findings, plan.compared.axis)
    rows = read_csv((PAGES / f"{plan.name}.csv").read_text(encoding="utf-8"))
    assert standalone(figure.draw(plan.name, rows)) == (PAGES / f"{plan.name}.svg").read_text(encoding="utf-8")
    assert {row["condition"] for row in rows} == {line.label for line in findings.lines}


def test_a_page_is_written_of_what_ran(tmp_path: Path) -> None:
    plan = read_plan("rho", [f"storage={tmp_path}"])
    assert not write(plan, Store(str(tmp_path)), tmp_path)
    values = invented(plan)
    assert from_data(json.loads(json.dumps(as_data(values)))) == values
    Store(str(tmp_path)).write_json(f"runs/{plan.run_name}/study.json", as_data(values))
    assert write(plan, Store(str(tmp_path)), tmp_path)
    # Conditions are called what the file calls them now.
    Store(str(tmp_path)).write_json(
        f"runs/{plan.run_name}/study.json", as_data([replace(of, name="x") for of in values])
    )
    assert write(plan, Store(str(tmp_path)), tmp_path)
    findings = analyse(values, plan.compared, plan.controls)
    assert (tmp_path / "rho.md").read_text(encoding="utf-8") == document(plan, findings)
    svg = (tmp_path / "rho.svg").read_text(encoding="utf-8")
    assert "var(" not in svg
    assert svg.startswith("<svg xmlns=")
