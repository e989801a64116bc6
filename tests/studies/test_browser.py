"""The pages of studies in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from raysel.studies.analysis import analyse
from raysel.studies.page import study_page
from raysel.studies.plan import read_plan
from tests.browser import PHONE, Browser, check_page
from tests.studies.invented import invented


def page_of(name: str, folder: Path) -> Path:
    plan = read_plan(name)
    values = invented(plan)
    file = folder / f"{name}.html"
    findings = analyse(values, plan.compared, plan.controls, plan.form.measure)
    file.write_text(study_page(plan, findings, values), encoding="utf-8")
    return file


def test_a_study_holds_what_every_page_does(browser: Browser, tmp_path: Path) -> None:
    check_page(browser, page_of("transfer", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curriculum", "selectors", "pareto"])  # rows; lines, published rows; two aims
def test_other_studies_hold_it_too(name: str, browser: Browser, tmp_path: Path) -> None:
    check_page(browser, page_of(name, tmp_path))


# The lower end of the answer and of its lines, and the middle of the figure, in pixels from the top.
PLACES = """() => {
  const box = (name) => document.querySelector(name).getBoundingClientRect();
  const figure = box('header svg.figure');
  return [box('.answer').bottom, box('.answer + .lines').bottom, (figure.top + figure.bottom) / 2];
}"""


def test_the_answer_is_on_the_first_screen(browser: Browser, tmp_path: Path) -> None:
    def look(page: Page) -> None:
        for width, height in ((1280, 800), (PHONE, 844)):
            page.set_viewport_size({"width": width, "height": height})
            answer, lines, figure = page.evaluate(PLACES)
            assert answer < lines < height
            assert figure < height or width == PHONE

    browser.look(page_of("transfer", tmp_path), look)
