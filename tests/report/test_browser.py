"""The pages in a real browser: the run report, the sweep's page, and texts that attack whoever reads them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from raysel.report.formats import language_name
from raysel.store import Artifact, Store
from raysel.sweep.page import sweep_page
from tests.browser import (
    DESK,
    PHONE,
    UNFOLD,
    Browser,
    check_accessibility,
    check_keyboard,
    check_layout,
    check_page,
    check_print,
    check_without_scripts,
)
from tests.report.made_run import CONTROLS, CONTROLS_SHOWN, HOSTILE, TEXTS, made_page, make_run, measured
from tests.report.test_stage import MANY
from tests.sweep.made_sweep import grid_sweep, made_sweep, random_sweep

PLAIN = "<!doctype html><html lang='en'><title>A page</title><main><h1>A page</h1>{}</main></html>"
LANGUAGES = ["en", "sw", "ar", "zh", "hi", "he"]
CHECKS: list[Callable[[Browser, Path], None]] = [
    check_layout,
    check_accessibility,
    check_without_scripts,
    check_keyboard,
    check_print,
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """A whole run whose selectors are compared."""
    store = Store(str(tmp_path_factory.mktemp("store")))
    run = make_run(store, LANGUAGES)
    attempt = store.attempt("subset", "compared")
    records = [attempt.write_table("subset", 0, run["subset"].read("subset").slice(0, 20))]
    run["subset_random_corpus"] = attempt.publish(records, settings={}, inputs={}, version=1, summary={})
    choices = {"subset": ("kmc", "pool"), "subset_random_corpus": ("random", "corpus")}
    return run | {"diversity": measured(store, choices)}


@pytest.fixture(scope="module")
def pages(published: dict[str, Artifact], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    hostile = f"{HOSTILE} {CONTROLS}"
    made = {
        "report": made_page(published, name=hostile, folder="/out/runs/it's made", reused=["corpus", "audit"]),
        "started": made_page({"corpus": published["corpus"]}),
        "grid": sweep_page(grid_sweep()).encode(),
        "random": sweep_page(random_sweep()).encode(),
    }
    for name, page in made.items():
        (folder / f"{name}.html").write_bytes(page)
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_report_holds_what_every_page_does(check: Any, browser: Browser, pages: dict[str, Path]) -> None:
    check(browser, pages["report"])


def test_the_sweep_holds_it_too(browser: Browser, pages: dict[str, Path]) -> None:
    check_page(browser, pages["grid"])


@pytest.mark.parametrize(
    ("check", "fault"),
    [
        (check_layout, "<div style='width: 2000px'>too wide</div>"),
        (check_layout, "<img src='https://nowhere.invalid/seen.png' alt='asks for more'>"),
        (check_layout, "<script>throw new Error('broken')</script>"),
        (check_accessibility, "<p style='color: #ccc'>too pale</p>"),
        (check_accessibility, "<button></button>"),
        (check_without_scripts, "<p id='empty'></p><script>empty.textContent = 'more'</script>"),
        (check_keyboard, "<button style='outline: none'>no outline</button>"),
        (check_keyboard, "<button tabindex='-1'>out of reach</button>"),
        (check_print, "<details><summary>more</summary><p>not printed</p></details>"),
    ],
)
def test_the_checks_find_faults(check: Any, fault: str, browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(PLAIN.format(fault))
    with pytest.raises(AssertionError):
        check(browser, file)


def test_a_plain_page_passes_them(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(PLAIN.format("<p>Nothing is wrong with it.</p>"))
    check_page(browser, file)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["started", "random"])
def test_other_pages_hold_it_too(name: str, browser: Browser, pages: dict[str, Path]) -> None:
    check_page(browser, pages[name])


def test_the_five_lines_are_on_the_first_screen(browser: Browser, pages: dict[str, Path]) -> None:
    for width in (PHONE, DESK):
        ends = browser.look(
            pages["report"],
            lambda page: [line.bounding_box() for line in page.locator("#headline .lines > div").all()],
            width=width,
        )
        assert len(ends) == 5
        assert all(box["y"] + box["height"] <= 900 for box in ends)


def column(page: Page, table: str, number: int) -> list[str]:
    cells = page.locator(f"{table} tbody tr:not(.total) > :nth-child({number})")
    return [text.strip() for text in cells.all_text_contents()]


def test_tables_are_sorted_with_the_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    table = "#separability .scroll table"

    def look(page: Page) -> None:
        head = page.get_by_role("group", name="Separability of each language").get_by_role("columnheader", name="Mean")
        assert head.get_attribute("aria-sort") is None
        as_written = column(page, table, 3)
        for direction, reverse in (("descending", True), ("ascending", False)):
            head.get_by_role("button", name="Mean").focus()
            page.keyboard.press("Enter")
            assert head.get_attribute("aria-sort") == direction
            shown = column(page, table, 3)
            assert shown == sorted(shown, key=lambda text: float(text.replace("−", "-")), reverse=reverse)
            assert page.locator(f"{table} tbody tr").first.text_content().strip().startswith("All")
        page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") is None
        assert column(page, table, 3) == as_written

        page.locator(table).get_by_role("button", name="Language", exact=True).click()
        named = column(page, table, 1)
        assert [name[:-2] for name in named] == sorted(language_name(lang) for lang in LANGUAGES)

    browser.look(pages["report"], look)


def test_times_and_sizes_are_sorted_by_what_they_are(browser: Browser, pages: dict[str, Path]) -> None:
    def look(page: Page) -> None:
        table = page.get_by_role("group", name="Tables in the store")
        table.get_by_role("button", name="Size").click()
        sizes = table.locator("tbody td:nth-child(5)").evaluate_all("of => of.map((cell) => Number(cell.dataset.sort))")
        assert sizes == sorted(sizes, reverse=True)
        table.get_by_role("button", name="Rows").click()
        rows = [text.replace(",", "") for text in table.locator("tbody td:nth-child(3)").all_text_contents()]
        known = [int(text) for text in rows if text != "–"]
        assert known == sorted(known, reverse=True)
        # What has no rows comes last, whichever way.
        assert rows[len(known) :] == ["–"] * (len(rows) - len(known))
        assert len(known) < len(rows)

    browser.look(pages["report"], look)


@pytest.mark.parametrize("name", ["report", "random"])
def test_texts_of_others_run_nothing(name: str, browser: Browser, pages: dict[str, Path]) -> None:
    def look(page: Page) -> None:
        page.on("dialog", lambda dialog: pytest.fail(f"a script said {dialog.message}"))
        page.evaluate(UNFOLD)
        for summary in page.locator("summary").all():
            summary.hover(force=True)
        assert HOSTILE in page.locator("body").inner_text()
        assert page.locator("img, iframe, object, embed, form, link, base").count() == 0
        assert page.locator("script").count() == 1

    browser.look(pages[name], look)


def test_hidden_characters_are_shown(browser: Browser, pages: dict[str, Path]) -> None:
    def look(page: Page) -> None:
        page.evaluate(UNFOLD)
        shown = page.locator("body").inner_text()
        assert CONTROLS_SHOWN in shown
        assert not {"\u202e", "\x00", "\x1b", "\U000e0041", "\ufffd"} & set(shown)

    browser.look(pages["report"], look)


def test_right_to_left_texts_begin_at_the_right(browser: Browser, pages: dict[str, Path]) -> None:
    def look(page: Page) -> None:
        page.evaluate(UNFOLD)
        for lang, direction in (("ar", "rtl"), ("he", "rtl"), ("hi", "ltr")):
            response = page.locator(f'.text[lang="{lang}"]', has_text=TEXTS[lang][1]).first
            assert response.evaluate("(text) => getComputedStyle(text).direction") == direction

    browser.look(pages["report"], look)


def test_what_got_into_the_page_would_not_run(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    """The page's content security policy, should the escaping ever fail."""
    attack = (
        "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><a href='javascript:window.ran = 1'>a</a>"
    )
    attacked = tmp_path / "attacked.html"
    attacked.write_text(pages["report"].read_text().replace("<main>", f"<main>{attack}", 1))

    def look(page: Page) -> None:
        page.locator("main > a").click()
        assert page.evaluate("() => window.ran ?? null") is None
        # The page's own script runs beside it.
        assert page.locator("th button").count() > 0

    with pytest.raises(AssertionError, match="violates the following Content Security Policy"):
        browser.look(attacked, look)


def test_a_difference_within_noise_is_drawn_as_such(browser: Browser, pages: dict[str, Path]) -> None:
    def look(page: Page) -> None:
        strip, at = page.locator("#headline .strip"), "(at) => getComputedStyle(at).backgroundColor"
        assert strip.get_attribute("class") == "strip better"
        clear = strip.locator(".at").evaluate(at)
        strip.evaluate("(strip) => { strip.className = 'strip unclear'; }")
        # Hollow: the colour of the paper.
        assert strip.locator(".at").evaluate(at) == page.locator("body").evaluate(at) != clear

    browser.look(pages["report"], look)


@pytest.mark.slow
def test_pages_of_many_languages_and_of_nothing(browser: Browser, tmp_path: Path) -> None:
    space = {"parameters": {"preselect.rho": {"grid": [0.5]}}, "objective": {"of": "heldout_loss"}}
    made = {
        "many": made_page(make_run(Store(str(tmp_path / "store")), MANY.split(), rows=200)),
        "nothing": made_page({}),
        "untried": sweep_page(made_sweep(space, [])).encode(),
    }
    for name, page in made.items():
        file = tmp_path / f"{name}.html"
        file.write_bytes(page)
        check_page(browser, file)
