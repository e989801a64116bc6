"""Every figure of a page is what its CSV says, and a language has one colour."""

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.report.figure_data import DataFigure, write_csv
from raysel.report.figures import figures, page_colours
from raysel.report.findings import Findings
from raysel.report.formats import language_name
from raysel.report.gather_stage import gather
from raysel.report.page import make_page
from raysel.report.palette import CATEGORICAL, language_colours
from raysel.report.rows_figures import MISSING, dumbbells
from raysel.report.selection_rows import selection_rows
from raysel.report.settings import ReportSettings
from raysel.store import Store
from tests.report.made_figures import figures_of, named_colours
from tests.report.made_run import HOSTILE, make_run
from tests.report.test_stage import measured

LANGUAGES = ["en", "sw", "ar", "zh", "hi"]
NAMES = {
    *("subset", "ridgeline", "nearest", "similarity", "map", "diversity", "selection", "course", "language-shares"),
    *("task-shares", "level-shares", "loss", "losses", "heldout", "results"),
}
CODES = st.lists(st.text("abcdefgh", min_size=2, max_size=3), unique=True, max_size=30)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    store = Store(str(tmp_path_factory.mktemp("store")))
    published = make_run(store, LANGUAGES)
    choices = {"subset": ("dsir", "pool"), "subset_random_corpus": ("random", "corpus"), "subset_kmc": ("kmc", "pool")}
    published["diversity"] = measured(store, choices)
    return gather(published, ReportSettings(map_samples=200), seed=5)


@pytest.fixture(scope="module")
def page(findings: Findings) -> str:
    return make_page(findings, name="made", experiment={}, seed=5).html.decode()


@pytest.fixture(scope="module")
def drawn(findings: Findings) -> dict[str, DataFigure]:
    return figures(findings, selection_rows(findings))


def test_figures_made_again_from_their_csvs_are_those_of_the_page(page, drawn):
    shown = figures_of(page)
    assert shown.keys() == drawn.keys() == NAMES
    for name, (svg, csv) in shown.items():
        assert replace(drawn[name], csv=csv).svg == svg


def test_a_figure_shows_what_its_csv_is_changed_to(page, drawn):
    for name, (svg, _) in figures_of(page).items():
        first, *others = drawn[name].rows
        # By p a difference has its verdict, which is drawn.
        column = [key for key, value in first.items() if type(value) in (int, float) and key != "p"][-1]
        changed = [{**first, column: 0.6 * first[column] + 0.1}, *others]
        assert replace(drawn[name], csv=write_csv(changed)).svg != svg


def test_nothing_but_labels_and_colours_is_bound_to_a_drawing(drawn):
    labels = {"colours", "by", "pair", "label", "description", "percent", "digits", "explained"}
    for figure in drawn.values():
        bound = figure.draw.keywords if isinstance(figure.draw, partial) else {}
        assert set(bound) <= labels
        assert not (figure.draw.args if isinstance(figure.draw, partial) else ())


def test_tables_have_the_numbers_of_the_findings(findings, drawn):
    ends = {row["lang"]: row["loss"] for row in drawn["heldout"].rows}
    assert ends.pop(None) == findings.heldout_loss.loss[-1]
    assert ends == {lang: of[-1] for lang, of in findings.heldout_loss.by_lang.items()}
    assert [row["loss"] for row in drawn["loss"].rows] == findings.log.loss.tolist()
    assert {row["task"] for row in drawn["task-shares"].rows} == {"topic", "nli", HOSTILE}
    for row, line in zip(drawn["results"].rows, findings.comparison.by_language, strict=True):
        found = [row[f"{model}{end}"] for model in ("base", "tuned") for end in ("", "_low", "_high")]
        assert found == [value for of in (line.base, line.tuned) for value in (of.value, of.low, of.high)]
        assert (row["p"], row["verdict"]) == (line.p, line.verdict)
    means = {row["lang"]: row["separability"] for row in drawn["ridgeline"].rows if row["shown"] == "mean"}
    assert means == pytest.approx({lang: findings.scores.mean_of(lang) for lang in LANGUAGES}, abs=1e-12)


def test_one_language_has_one_colour(findings, drawn):
    colours = page_colours(findings)
    assert len(set(colours.values())) == len(colours) == len(LANGUAGES)
    written = {name: lang for lang in LANGUAGES for name in (lang, language_name(lang))}
    for name in ("subset", "map", "language-shares", "heldout"):
        found = named_colours(drawn[name].svg)
        assert {text: f"c{colours[written[text]]}" for text in found} == found
        assert len(found) >= 3
    # Another run of the same corpus, with fewer languages in what it came to.
    fewer = replace(findings, heldout_loss=None, subset=None, map=None, curriculum=None)
    assert page_colours(fewer) == colours


def test_what_may_be_noise_and_what_is_missing_are_drawn_as_such():
    def svg(**changed):
        row = {"lang": "sw", "base": 0.4, "base_low": 0.3, "base_high": 0.5, "tuned": 0.6, "tuned_low": 0.5}
        rows = [{**row, "tuned_high": 0.7, "verdict": "higher"} | changed, {**row, "tuned_high": 0.7, "verdict": ""}]
        return dumbbells("a", rows, pair=("base", "tuned"), label="", description="")

    assert svg().count("stroke-dasharray") == 1
    assert svg().count("font-weight: 700") == 1
    assert svg(verdict="no clear difference").count("stroke-dasharray") == 2
    assert MISSING in svg(tuned=None, tuned_low=None, tuned_high=None)
    assert MISSING not in svg()


@given(CODES, CODES)
def test_colours_go_by_the_corpus_alone(corpus, others):
    found = language_colours(corpus, others)
    assert set(found) == {*corpus, *others}
    alone = language_colours(reversed(corpus))
    assert {lang: found[lang] for lang in corpus} == alone
    taken = [list(alone.values()).count(number) for number in range(len(CATEGORICAL))]
    assert max(taken) - min(taken) <= 1
