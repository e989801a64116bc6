"""The page of a sweep: its numbers are the records', its texts are escaped, and every empty case has one."""

import html
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import f_oneway

from raysel.evaluation.intervals import Interval
from raysel.report.figure_data import DataFigure, write_csv
from raysel.sweep.answer import answer, listed, searched
from raysel.sweep.dimensions import Dimension, dimensions, effect, interactions
from raysel.sweep.figures import sweep_figures
from raysel.sweep.marks import decades
from raysel.sweep.page import sweep_page
from raysel.sweep.point_figures import side_by_side
from raysel.sweep.records import Sweep, TrialRecord
from raysel.sweep.settings import Objective, Space
from raysel.sweep.values import UNCHANGED, labels, measures, metric_measure, parameters_text, short_names, value_text
from tests.report.made_figures import figures_of
from tests.sweep.made_sweep import (
    GRID,
    HOSTILE,
    LONG_MODEL,
    grid_sweep,
    made_sweep,
    made_trials,
    points_of,
    random_sweep,
)

LOSS = {"of": "heldout_loss"}
ONE_POINT = {"parameters": {"preselect.rho": {"grid": [0.5]}}, "objective": LOSS}
THREE_POINTS = {"parameters": {"preselect.rho": {"grid": [0.5, 0.25, 1.0]}}, "objective": LOSS}
TEXT = re.compile(r"<[^>]*>")


@pytest.fixture(scope="module")
def of_grid() -> tuple[Sweep, str]:
    sweep = grid_sweep()
    return sweep, sweep_page(sweep)


@pytest.fixture(scope="module")
def of_random() -> tuple[Sweep, str]:
    sweep = random_sweep()
    return sweep, sweep_page(sweep)


def without_intervals(data: dict) -> Sweep:
    space = Space.model_validate(data)
    return made_sweep(data, made_trials(space, points_of(space), interval=False), tests=[])


def section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">.*?</section>', page, re.DOTALL)
    return found[0] if found else ""


def rows(part: str) -> list[list[str]]:
    """The cells of the tables' bodies, as text."""
    bodies = "".join(re.findall(r"<tbody>(.*?)</tbody>", part, re.DOTALL))
    lines = re.findall(r"<tr[^>]*>(.*?)</tr>", bodies, re.DOTALL)
    return [[html.unescape(TEXT.sub("", cell)).strip() for cell in re.findall(r"<td.*?</td>", line)] for line in lines]


def titles(figure: str) -> list[str]:
    return [html.unescape(title) for title in re.findall(r"<title>(.*?)</title>", figure, re.DOTALL)]


def test_ranking_has_the_numbers_of_the_records(of_grid):
    sweep, page = of_grid
    found = rows(section(page, "ranking"))
    assert len(found) == len(sweep.ranking) == 12
    for ranked, cells in zip(sweep.ranking, found, strict=True):
        [shown] = ranked.objectives
        ends = f"[{100 * shown.low:.1f}, {100 * shown.high:.1f}]"
        assert cells[:2] == [str(ranked.rank), f"{100 * shown.value:.1f} {ends}"]
        assert cells[5:] == [*(value_text(value) for value in ranked.parameters.values()), "1, 2"]
        if ranked.against_next is not None:
            text = f"{100 * ranked.against_next.difference.value:+.1f}"
            # What rounds to nothing has no sign.
            assert cells[2].startswith("0.0 [" if text in ("+0.0", "-0.0") else text.replace("-", "−"))
            assert cells[3:5] == [f"{ranked.against_next.p:.3f}", "yes" if ranked.against_next.clear else "no"]
        else:
            assert cells[2:5] == ["", "", ""]


def test_every_point_is_a_mark_with_its_parameters(of_random):
    sweep, page = of_random
    parameters = section(page, "parameters")
    figures = re.findall(r"<svg.*?</svg>", parameters, re.DOTALL)
    # 7 parameters and one simplex of 3 names, for 2 objectives each; points without clusters are marks too.
    assert len(figures) == 16
    assert {len(titles(figure)) for figure in figures} == {33, 3 * 33}
    for number, ranked in enumerate(sweep.ranking):
        title = titles(section(page, "front"))[number]
        assert title.startswith(f"rank {ranked.rank}, trial {ranked.trials[0]}\n")
        assert f"rho {ranked.parameters['preselect.rho']:.3g}" in title
    of_rate = titles(figures[0])
    assert of_rate == titles(section(page, "front"))


def test_marks_and_their_titles_lie_where_the_values_are(of_random):
    sweep, page = of_random
    figure = re.search(r'<svg class="figure"[^>]*against rho".*?</svg>', page, re.DOTALL)[0]
    marks = re.findall(r'<use href="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*><title>', figure)
    at = np.array(marks, dtype=float)
    rho = [ranked.parameters["preselect.rho"] for ranked in sweep.ranking]
    reached = [ranked.objectives[0].value for ranked in sweep.ranking]
    assert np.corrcoef(at[:, 0], rho)[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.corrcoef(at[:, 1], reached)[0, 1] == pytest.approx(-1, abs=1e-6)


def test_two_objectives_have_a_front(of_random):
    sweep, page = of_random
    front = section(page, "front")
    named = re.findall(r'id="front-halo-\d+">\s*<text[^>]*>(\d+)</text>', front)
    assert sorted(map(int, named)) == [ranked.rank for ranked in sweep.ranking if ranked.on_front]
    column = [cells[3] for cells in rows(section(page, "ranking"))]
    assert column == ["yes" if ranked.on_front else "" for ranked in sweep.ranking]


def test_curves_of_all_trials_with_those_that_were_stopped(of_random):
    sweep, page = of_random
    shown = titles(section(page, "curves"))
    assert len(shown) == sum(bool(trial.curve) for trial in sweep.trials) == 40
    assert sum("stopped early" in title for title in shown) == 5
    assert "loss 2" in shown[0] or "loss 1" in shown[0]
    for said in ("the best point", "finished", "stopped early", "failed"):
        assert f"</i>{said}</li>" in section(page, "curves")


def test_what_did_not_finish_is_named_with_its_reason(of_random):
    sweep, page = of_random
    part = section(page, "unfinished")
    found = rows(part)
    assert [cells[0] for cells in found] == ["3", "5", "6", "17", "20", "30", "31"]
    assert [cells[1] for cells in found] == [
        *("failed", "stopped early", "stopped early", "failed", "stopped early", "stopped early", "stopped early")
    ]
    assert found[0][2] == sweep.trials[3].reason
    assert sweep.unstarted in TEXT.sub("", part)
    assert len(rows(section(page, "trials"))) == 40


def test_test_scores_are_of_the_winners_and_the_page_says_so(of_grid):
    _, page = of_grid
    part = section(page, "tests")
    assert "Only these points were scored on test items" in part
    [cells] = rows(part)
    assert cells[:5] == ["1", "accuracy, %", "50.0 [47.0, 53.0]", "61.0 [58.0, 64.0]", "7"]
    without_base = grid_sweep()
    without_base = replace(without_base, tests=[replace(without_base.tests[0], base=None)])
    assert "not evaluated" in section(sweep_page(without_base), "tests")


def test_settings_say_what_the_space_says(of_random):
    _, page = of_random
    part = html.unescape(TEXT.sub(" ", section(page, "settings")))
    for said in ("loguniform", "1e−6 to 0.001", "en, sw, zh, shares that sum to 1", "selection.method is kmc"):
        assert said.replace("0.001", "1e−3") in part
    for said in ("random, seed 0", "asha", "the experiment's own", "3.46, of all trials, on 2 CPU", "12 device-hours"):
        assert said in part
    assert LONG_MODEL in part


def test_hostile_texts_are_escaped_and_nothing_is_fetched(of_random):
    _, page = of_random
    assert HOSTILE in html.unescape(page)
    # The page's own.
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "onerror" not in re.sub(r'"[^"]*"', "", " ".join(re.findall(r"<[^>]*>", page)))
    assert not re.search(r"(src|href)=\"(?!#|data:text/csv;)", page)
    assert "http" not in re.sub(r"http-equiv|base64,[^\"]*", "", page)


def test_ids_are_unique_and_the_page_is_the_same_again(of_grid):
    sweep, page = of_grid
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert sweep_page(sweep) == page


def of_page(sweep: Sweep) -> dict[str, DataFigure]:
    space = Space.model_validate(sweep.space)
    found = measures(space, [trial.objectives for trial in sweep.trials if trial.objectives])
    return {figure.name: figure for figure in sweep_figures(sweep, space, found, list(space.parameters)).all}


@pytest.mark.parametrize("made", ["of_grid", "of_random"])
def test_figures_made_again_from_their_csvs_are_those_of_the_page(made, request):
    sweep, page = request.getfixturevalue(made)
    drawn, shown = of_page(sweep), figures_of(page)
    assert shown.keys() == drawn.keys()
    assert {"ranks-0", "p0-0", "pair-0", "curves", *(["front"] if made == "of_random" else [])} <= shown.keys()
    for name, (svg, csv) in shown.items():
        assert replace(drawn[name], csv=csv).svg == svg


def test_a_figure_shows_what_its_csv_is_changed_to(of_random):
    sweep, page = of_random
    shown = figures_of(page)
    drawn = of_page(sweep)
    labels = {"measures", "shown", "measure", "kind", "label", "limits", "down", "across"}
    assert all(set(getattr(figure.draw, "keywords", {})) <= labels for figure in drawn.values())
    of_a_kind = {getattr(f.draw, "func", f.draw).__name__ + getattr(f.draw, "keywords", {}).get("kind", ""): f
                 for f in drawn.values()}  # fmt: skip
    assert len(of_a_kind) == 8
    for figure in of_a_kind.values():
        rows = figure.rows
        # What is not drawn of a point is in its tooltip.
        at, column = next((k, c) for k, row in enumerate(rows) for c in reversed(row) if isinstance(row[c], float))
        changed = [*rows[:at], {**rows[at], column: 0.4}, *rows[at + 1 :]]
        assert replace(figure, csv=write_csv(changed)).svg != shown[figure.name][0]


def test_tables_have_the_values_of_the_ranking(of_random):
    sweep, _ = of_random
    drawn = of_page(sweep)
    [acc, loss] = [[c for c in drawn["front"].rows[0] if c.startswith(f"objective {k}: ")] for k in (1, 2)]
    for row, ranked in zip(drawn["front"].rows, sweep.ranking, strict=True):
        for columns, shown in ((acc, ranked.objectives[0]), (loss, ranked.objectives[1])):
            assert [row[column] for column in columns] == [shown.value, shown.low, shown.high]
        assert (row["rank"], row["on_front"]) == (ranked.rank, ranked.on_front)
    rates = [row["value"] for row in drawn["p0-0"].rows]
    assert rates == [ranked.parameters["training.learning_rate"] for ranked in sweep.ranking]
    assert any("<script>" in row["parameters"] for row in drawn["curves"].rows)


def test_secrets_in_values_stay_out():
    secret = "s3://me:hunter2@bucket/model?key=hunter2"
    data = {"parameters": {"model": {"grid": [{"path": secret}, {"path": "small"}]}}, "objective": LOSS}
    page = sweep_page(without_intervals(data))
    assert "hunter2" not in page
    tables = [csv for _, csv in figures_of(page).values()]
    assert any("s3://bucket/model" in csv for csv in tables)
    assert not any("hunter2" in csv for csv in tables)


def test_one_seed_without_interval_draws_no_bar():
    sweep = without_intervals(THREE_POINTS)
    page = sweep_page(sweep)
    said = html.unescape(TEXT.sub("", page))
    assert "Without an interval: held-out loss." in said
    assert "cannot be told" in said
    assert "LineCollection" not in page
    assert "[" not in "".join(cell for cells in rows(section(page, "ranking")) for cell in cells)


def test_bars_are_as_many_as_intervals_and_as_long(of_grid):
    sweep, page = of_grid
    figure = section(page, "ranking")
    bars = re.search(r'<g id="ranks-0-LineCollection_1">(.*?)</g>', figure, re.DOTALL)[1]
    ends = [list(map(float, pair)) for pair in re.findall(r'd="M ([\d.]+) [\d.]+ L ([\d.]+) ', bars)]
    shown = [ranked.objectives[0] for ranked in sweep.ranking]
    assert np.corrcoef(np.ravel(ends), np.ravel([[of.low, of.high] for of in shown]))[0, 1] == pytest.approx(
        1, abs=1e-6
    )


def test_one_point_is_compared_with_nothing():
    page = sweep_page(without_intervals(ONE_POINT))
    assert "Only one point can be ranked, so nothing is compared: rho 0.5" in page
    assert 'id="parameters"' not in page
    assert rows(section(page, "ranking"))[0][5] == "0.5"


@pytest.mark.parametrize("data", [GRID, ONE_POINT])
def test_no_trial_finished(data):
    sweep = made_sweep(data)
    trials = [
        replace(trial, status="failed", objectives=[], curve=[], reason="out of memory") for trial in sweep.trials
    ]
    page = sweep_page(made_sweep(data, trials))
    assert f"There is no answer: no trial finished ({len(trials)} failed)." in page
    assert "out of memory" in section(page, "unfinished")
    assert 'id="ranking"' not in page
    assert 'id="tests"' not in page


def test_nothing_was_started():
    page = sweep_page(made_sweep(GRID, [], unstarted="24 trials: Ctrl-C."))
    assert "Nothing was tried of rho, method and learning_rate" in page
    assert "24 trials: Ctrl-C." in section(page, "unfinished")


def test_finished_trials_of_an_unfinished_point_are_named():
    data = {**THREE_POINTS, "seeds": [1, 2]}
    trials = list(made_sweep(data).trials)
    trials[4] = replace(trials[4], status="failed", objectives=[], reason="node lost")
    page = sweep_page(made_sweep(data, trials))
    assert "1 trial finished and has no rank, as another seed of the same point did not: 5." in section(
        page, "unfinished"
    )
    assert len(rows(section(page, "ranking"))) == 2


def test_the_answer_says_by_how_much_and_whether_it_is_noise():
    sweep = grid_sweep()
    space = Space.model_validate(sweep.space)
    found = measures(space, [trial.objectives for trial in sweep.trials])
    assert searched(sweep, space, found) == (
        "12 points of rho, method and learning_rate, from the grid of the listed values, tried with 2 seeds each and "
        "judged by acc (more is better)."
    )
    first = sweep.ranking[0]
    for clear, said in ((True, "more than noise"), (False, "no more than noise may do"), (None, "cannot be told")):
        contrast = replace(first.against_next, difference=Interval(0.012, 0.001, 0.023), p=0.0004, clear=clear)
        changed = replace(sweep, ranking=[replace(first, against_next=contrast), *sweep.ranking[1:]])
        text = answer(changed, found, list(space.parameters))
        assert "1.2 percentage points more than the next (95% interval [+0.1, +2.3], p < 0.001)" in text
        assert said in text
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_effect_is_epsilon_squared_of_the_analysis_of_variance():
    generator = np.random.default_rng(3)
    group = generator.integers(0, 4, 60)
    objective = generator.normal(size=60) + 0.5 * group
    parts = [objective[group == k] for k in range(4)]
    F = f_oneway(*parts).statistic
    # From F: SSB / SSW = F (k - 1) / (n - k), and ε² = (SSB - (k - 1) MSW) / SST.
    assert effect(group, objective) == pytest.approx((F - 1) * 3 / (F * 3 + 56), rel=1e-9)
    assert effect(np.arange(5), np.arange(5.0)) == 0
    assert effect(np.zeros(5, dtype=int), np.ones(5)) == 0


def test_interactions_are_the_means_of_the_cells():
    sweep = grid_sweep()
    space = Space.model_validate(sweep.space)
    found = dimensions(space, sweep.ranking)
    objective = np.array([ranked.objectives[0].value for ranked in sweep.ranking])
    trials = np.array([len(ranked.trials) for ranked in sweep.ranking])
    pairs, count = interactions(found, objective, trials)
    assert count == len(pairs) == 3
    for pair in pairs:
        assert pair.trials.sum() == 24
        assert (pair.mean * pair.trials).sum() == pytest.approx((objective * trials).sum())
    [pair] = [pair for pair in pairs if {pair.rows, pair.columns} == {"rho", "method"}]
    own = [
        ranked.objectives[0].value
        for ranked in sweep.ranking
        if ranked.parameters["preselect.rho"] == 0.5 and ranked.parameters["selection.method"] == "kmc"
    ]
    cell = pair.row_labels.index("0.5"), pair.column_labels.index("kmc")
    assert pair.mean[cell] == pytest.approx(np.mean(own))
    assert pair.trials[cell] == 4


def test_of_many_pairs_those_with_the_most_effect(of_random):
    sweep, page = of_random
    found = dimensions(Space.model_validate(sweep.space), sweep.ranking)
    assert len(found) == 10
    objective = np.array([float(ranked.parameters["preselect.rho"]) for ranked in sweep.ranking])
    pairs, count = interactions(found, objective, np.ones(len(objective), dtype=np.int64))
    # All pairs of 10 but the 3 within the simplex.
    assert (len(pairs), count) == (6, 42)
    assert all("rho" in (pair.rows, pair.columns) for pair in pairs)
    assert all(pair.trials.sum() == 33 for pair in pairs)
    assert "Of 42 pairs these are the 6" in page


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=60), st.sampled_from(["number", "log"]))
def test_bins_hold_every_point_once_and_in_order(values, kind):
    of = Dimension("a.b", None, "b", kind, values, [value is not None for value in values], [], (0.0, 1.0))
    names, group = of.groups()
    assert len(group) == len(values)
    assert set(group.tolist()) == set(range(len(names)))
    there = [(value, k) for value, k in zip(values, group.tolist(), strict=True) if value is not None]
    assert all(k <= other for value, k in there for above, other in there if value < above)
    assert (names[-1] == UNCHANGED) == (None in values)
    assert all((names[k] == UNCHANGED) == (value is None) for value, k in zip(values, group.tolist(), strict=True))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.25, "0.25"),
        (2e-5, "2e−5"),
        (2.2123456e-5, "2.21e−5"),
        (0.123456789, "0.123"),
        (1234.5678, "1,235"),
        (1024, "1,024"),
        (-3, "−3"),
        (True, "true"),
        (None, "null"),
        (["en", "sw"], "en, sw"),
        ([], "[]"),
        ({"en": 0.25, "sw": 0.75}, "en 0.25, sw 0.75"),
        ({"path": "x", "langs": ["en"]}, "path x, langs [en]"),
        ("s3://key:secret@bucket/x", "s3://bucket/x"),
    ],
)
def test_values_as_they_are_written(value, said):
    assert value_text(value) == said


@given(st.lists(st.text("ab.", min_size=1, max_size=6), unique=True, max_size=8))
def test_short_names_tell_keys_apart(keys):
    names = short_names(keys)
    assert all(key.endswith(names[key]) for key in keys)
    assert len(set(names.values())) == len(keys)


def test_short_names_and_labels():
    assert short_names(["preselect.rho", "other.rho", "training.lr"]) == {
        "preselect.rho": "preselect.rho",
        "other.rho": "other.rho",
        "training.lr": "lr",
    }
    long = ["a" * 30 + "x" + "b" * 30, "a" * 30 + "y" + "b" * 30]
    assert len(set(labels(long, 20))) == 2
    assert all(len(label) <= 20 for label in labels(long, 20))
    assert parameters_text({"a.rho": 0.5}, ["a.rho", "a.method"]) == "rho 0.5"


def test_measures_write_shares_as_percentages_and_tokens_whole():
    acc = metric_measure("acc", [0.1, 0.9], label="acc", is_maximized=True)
    assert (acc.heading, acc.write(0.5), acc.write(0.012, True)) == ("acc, %", "50.0", "+1.2")
    assert acc.said(Interval(0.5, 0.4, 0.6)) == "acc 50.0% [40.0, 60.0]"
    assert metric_measure("bleu", [0.1, 0.9], label="bleu", is_maximized=True).scale == 1
    near = metric_measure("", [2.41230, 2.41249], label="loss", is_maximized=False)
    assert near.write(2.41230) != near.write(2.41249)
    space = Space(
        parameters={"a": {"grid": [1]}}, objective=[Objective(of="trained_tokens"), Objective(of="heldout_loss")]
    )
    tokens, loss = measures(space, [[Interval(12_345_678), Interval(2.0)], [Interval(1000), Interval(3.0)]])
    assert (tokens.write(12_345_678), tokens.write(-1500, True), tokens.write(1500, True)) == (
        *("12,345,678", "−1,500", "+1,500"),
    )
    assert (loss.write(2.5), loss.better) == ("2.500", "less is better")


@given(st.floats(1e-8, 1e3), st.floats(1.01, 1e9))
@settings(max_examples=200)
def test_ticks_of_a_logarithmic_axis_lie_on_it(low, factor):
    ticks = decades(low, low * factor)
    assert 2 <= len(ticks) <= 7
    assert ticks == sorted(ticks)
    assert all(low * 0.99 <= tick <= low * factor * 1.01 for tick in ticks)


def test_equal_values_lie_beside_each_other():
    assert side_by_side([1, 2, 1, 1], 0.2) == pytest.approx([0.9, 2, 1.0, 1.1])


def test_integers_of_few_points_and_a_simplex_with_a_total():
    data = {
        "parameters": {"training.epochs": {"int": [1, 3]}, "mixture.rows": {"simplex": ["en", "sw"], "total": 101}},
        "objective": {"of": "trained_tokens"},
        "limits": {"trials": 2},
    }
    space = Space.model_validate(data)
    points = points_of(space)
    trials = [
        TrialRecord(k, k, 0, point, "finished", [Interval(1_000_000.0 * (k + 1))]) for k, point in enumerate(points)
    ]
    page = sweep_page(made_sweep(data, trials))
    assert "2,000,000" in page
    assert "whole numbers that sum to 101" in page
    assert 'id="curves"' not in page


def test_the_page_needs_neither_torch_nor_the_store():
    code = (
        "import sys, raysel.sweep.page, raysel.sweep.table\n"
        "print({'torch', 'ray', 'transformers', 'raysel.store', 'raysel.storage'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
