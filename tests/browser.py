"""A real browser, and what every page of raysel holds in it: `check_page` takes any HTML file."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

Found = TypeVar("Found")
NAMES = ("chromium", "chromium-browser", "google-chrome")
PHONE, DESK = 390, 1600
HEIGHT = 900
PATIENCE_MS = 300_000
# The lightest channel of what is printed, of 255.
DARK_INK = 64
SCHEMES = ("light", "dark")
# Of A4 in the 96 pixels an inch that a page is printed with: what is left of its 794 with margins of a centimetre.
PAPER, PAPER_MARGIN = 718, 38

# What reaches beyond the left or the right edge, less a margin, and is in no box that scrolls.
OUTSIDE = """(margin) => {
  const root = document.documentElement, width = root.clientWidth, found = [];
  if (root.scrollWidth > width) found.push(`the page: ${root.scrollWidth} of ${width}`);
  for (const element of document.body.querySelectorAll('*')) {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height || (box.right <= width + margin && box.left >= -margin)) continue;
    let box_around = element.closest('svg') ?? element;
    while (box_around && !/auto|scroll|hidden|clip/.test(getComputedStyle(box_around).overflowX))
      box_around = box_around.parentElement;
    if (!box_around) found.push(`${element.tagName}.${element.className}: ${box.left} to ${box.right}`);
  }
  return found.slice(0, 5);
}"""
UNFOLD = "() => document.querySelectorAll('details').forEach((folded) => { folded.open = true; })"
# The names of the stops are their places in the document.
STOPS = """() => [...document.querySelectorAll('a[href], button, summary, [tabindex="0"]')]
  .map((element, at) => { element.dataset.stop = at; return element; })
  .filter((element) => element.checkVisibility()).map((element) => element.dataset.stop)"""
FOCUSED = """() => {
  const at = document.activeElement, style = getComputedStyle(at);
  return [at.dataset.stop ?? '', style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0];
}"""
HIDDEN_IN_PRINT = """() => [...document.querySelectorAll('details > *')]
  .filter((element) => element.tagName !== 'SUMMARY' && !element.checkVisibility())
  .map((element) => element.outerHTML.slice(0, 80))"""
# The texts of the document as it was written: what the script moved about is the same texts.
TEXTS = """() => [...document.querySelectorAll('body > :not(script)')].map((element) => element.textContent).join('')
  .replace(/\\s+/g, '')"""


def find_chromium() -> str | None:
    """The path of the system's Chromium (or Chrome); None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """Chromium in a thread of its own: the event loop that drives it would be in the way of others in the tests'.

    A context manager; `look` runs a function of an open page in that thread.
    """

    def __init__(self, executable: str) -> None:
        self.executable = executable
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="browser")

    def __enter__(self) -> "Browser":
        self.thread.submit(self._start).result()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.submit(self._stop).result()
        self.thread.shutdown()

    def _start(self) -> None:
        self.driver = sync_playwright().start()
        # Without a sandbox: root, as whom containers run, has none. The pages are our own.
        self.chromium = self.driver.chromium.launch(executable_path=self.executable, args=["--no-sandbox"])

    def _stop(self) -> None:
        self.chromium.close()
        self.driver.stop()

    def look(
        self, file: Path, at: Callable[[Page], Found], *, width: int = DESK, scheme: Any = "light", scripts: bool = True
    ) -> Found:
        """What `at` finds on the page. Fails on console errors, uncaught exceptions and requests for anything else."""
        return self.thread.submit(self._look, file, at, width, scheme, scripts).result()

    def _look(self, file: Path, at: Callable[[Page], Found], width: int, scheme: Any, scripts: bool) -> Found:
        with self._open(file, width, scheme, scripts) as (page, complaints):
            found = at(page)
            assert not complaints, complaints
            return found

    @contextmanager
    def _open(self, file: Path, width: int, scheme: Any, scripts: bool) -> Iterator[tuple[Page, list[str]]]:
        complaints: list[str] = []
        address = file.resolve().as_uri()

        def asked(request: Any) -> None:
            if request.url != address and not request.url.startswith("data:"):
                complaints.append(f"asked for {request.url}")

        def said(message: Any) -> None:
            if message.type in ("error", "warning"):
                complaints.append(f"console: {message.text}")

        context = self.chromium.new_context(
            viewport={"width": width, "height": HEIGHT}, color_scheme=scheme, java_script_enabled=scripts
        )
        # A busy machine is no failure.
        context.set_default_timeout(PATIENCE_MS)
        try:
            page = context.new_page()
            page.on("request", asked)
            page.on("console", said)
            page.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
            page.goto(address)
            yield page, complaints
        finally:
            context.close()


def check_page(browser: Browser, file: Path) -> None:
    """All that every page holds: quiet and alone, no overflow, no violation of axe's rules, whole without scripts,
    usable with the keyboard, printable."""
    check_layout(browser, file)
    check_accessibility(browser, file)
    check_without_scripts(browser, file)
    check_keyboard(browser, file)
    check_print(browser, file)


def check_layout(browser: Browser, file: Path) -> None:
    """Nothing reaches beyond the edges of a phone or of a large screen, folded or unfolded, light or dark."""

    def look(page: Page) -> None:
        for width in (PHONE, DESK):
            page.set_viewport_size({"width": width, "height": HEIGHT})
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)
                assert page.evaluate(OUTSIDE, 1) == [], f"{width} pixels, {scheme}"
            page.evaluate(UNFOLD)
            assert page.evaluate(OUTSIDE, 1) == [], f"{width} pixels, unfolded"

    browser.look(file, look)


def check_accessibility(browser: Browser, file: Path) -> None:
    """axe-core finds no violation (names, roles, headings, landmarks, contrast, ...) on a phone in the dark and on a
    large screen in the light, unfolded."""

    def look(page: Page) -> None:
        page.evaluate(UNFOLD)
        result = Axe().run(page)
        assert not result.violations_count, result.generate_report()[:4000]

    for width, scheme in ((PHONE, "dark"), (DESK, "light")):
        browser.look(file, look, width=width, scheme=scheme)


def check_without_scripts(browser: Browser, file: Path) -> None:
    """With scripts off all the texts are there, and nothing that needs scripts."""
    with_scripts = browser.look(file, lambda page: page.evaluate(TEXTS))

    def look(page: Page) -> None:
        assert page.evaluate(TEXTS) == with_scripts
        assert page.locator("button").count() == 0
        assert page.evaluate(OUTSIDE, 1) == []

    browser.look(file, look, width=PHONE, scripts=False)


def check_keyboard(browser: Browser, file: Path) -> None:
    """The tab key stops at every link, button and fold, in their order, each time with an outline."""

    def look(page: Page) -> None:
        stops = page.evaluate(STOPS)
        seen = []
        for _ in stops:
            page.keyboard.press("Tab")
            stop, outlined = page.evaluate(FOCUSED)
            assert outlined, stop
            seen.append(stop)
        assert seen == stops
        for folded in page.locator("summary").all()[:2]:
            folded.focus()
            page.keyboard.press("Enter")
            assert folded.locator("..").get_attribute("open") is not None

    browser.look(file, look)


def check_print(browser: Browser, file: Path) -> None:
    """What is folded is printed, what is printed is on the paper, and it is dark even where the screen is."""

    def look(page: Page) -> None:
        page.emulate_media(media="print")
        assert page.evaluate(HIDDEN_IN_PRINT) == []
        assert page.evaluate(OUTSIDE, PAPER_MARGIN) == []
        ink = page.evaluate("() => getComputedStyle(document.body).color.match(/\\d+/g).map(Number)")
        assert max(ink) < DARK_INK, ink
        assert page.pdf(format="A4").startswith(b"%PDF-")

    browser.look(file, look, width=PAPER, scheme="dark")
