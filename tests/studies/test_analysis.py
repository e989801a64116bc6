"""From values to findings, a verdict and a page."""

import re
from dataclasses import replace

import pytest

from raysel.evaluation.intervals import t_interval
from raysel.report.figure_data import read_csv
from raysel.studies.analysis import Findings, analyse, label
from raysel.studies.contrasts import contrast
from raysel.studies.figures import conditions_figure, front_figure
from raysel.studies.levelling import of_lines, of_published, plateau_words
from raysel.studies.page import study_page
from raysel.studies.plan import Plan, read_plan
from raysel.studies.published_figures import published_figure
from raysel.studies.results import Condition
from raysel.studies.settings import Compared, Control, load_study
from raysel.studies.verdict import answer, control_words, verdict_word
from tests.studies.invented import invented

LANGS = ("de", "en", "sw")
NOISE = (0.0, 0.01, -0.01)


def condition(
    number: int, parameters: dict, level: float, *, control: str | None = None, noise: float = 1.0, name: str = ""
) -> Condition:
    """Seeds differ by noise of their own, languages by whole numbers."""
    values = {
        seed: {lang: level + place + noise * NOISE[(seed + number) % 3] for place, lang in enumerate(LANGS)}
        for seed in range(3)
    }
    return Condition(number, name, parameters, control, values, {seed: f"results/{number}{seed}" for seed in range(3)})


COMPARED = Compared(reference={"band": "random"}, named={"band": ""})
CONTROLS = {
    "planted": Control(what="a planted fault", expected="detected", first={}, second={}),
    "permuted": Control(what="shuffled scores", expected="not detected", first={}, second={}),
}


def conditions(effect: float = -0.5, *, planted: float = -1.0, permuted: float = 0.0) -> list[Condition]:
    return [
        condition(0, {"band": "high"}, 3 + effect),
        condition(1, {"band": "low"}, 3.0),
        condition(2, {"band": "random"}, 3.0),
        condition(3, {"band": "high", "corpus": "c"}, 3 + planted, control="planted"),
        condition(4, {"band": "random", "corpus": "c"}, 3.0, control="planted"),
        condition(5, {"band": "permuted"}, 3 + permuted, control="permuted"),
        condition(6, {"band": "random"}, 3.0, control="permuted"),
    ]


def found(**effects: float) -> Findings:
    return analyse(conditions(**effects), COMPARED, CONTROLS)


def test_means_and_differences_are_those_of_the_values() -> None:
    high, low, reference = found().lines
    assert (high.label, low.label, reference.label) == ("high", "low", "random")
    assert reference.is_reference
    assert reference.against is None
    values = [3.5 + NOISE[seed % 3] for seed in range(3)]
    assert high.mean.value == pytest.approx(sum(values) / 3)
    assert (high.mean.low, high.mean.high) == pytest.approx(t_interval(values))
    assert high.by_language["sw"].value == pytest.approx(4.5)
    assert high.against is not None
    assert high.against.overall.interval.value == pytest.approx(-0.5)
    assert high.against.overall.verdict == "lower"
    assert low.against is not None
    assert low.against.overall.verdict == "no clear difference"
    assert set(high.against.languages) == set(LANGS)


def test_controls_hold_or_do_not() -> None:
    assert [outcome.holds for outcome in found().outcomes] == [True, True]
    assert [outcome.holds for outcome in found(planted=0.0).outcomes] == [False, True]
    # The planted effect must be for the better: one for the worse is not it.
    assert [outcome.holds for outcome in found(planted=1.0, permuted=-1.0).outcomes] == [False, False]


@pytest.mark.parametrize(
    ("effects", "words"),
    [
        (
            {},
            [
                "✓ A known effect is seen: a planted fault (−1.000 bits per byte [",
                "✓ No effect is seen where there is none",
            ],
        ),
        (
            {"planted": 0.0},
            ["✗ A known effect is not seen: a planted fault", "✓ No effect is seen where there is none"],
        ),
        ({"permuted": -1.0}, ["✓ A known effect is seen", "✗ An effect is seen where there is none: shuffled scores"]),
    ],
)
def test_a_control_is_told_in_a_line(effects: dict, words: list[str]) -> None:
    told = [control_words(outcome, "bits per byte") for outcome in found(**effects).outcomes]
    assert all(line.startswith(start) for line, start in zip(told, words, strict=True)), told


def test_the_verdict_says_what_is_clear_and_nothing_else() -> None:
    said = answer(found())
    assert said.sentence.startswith("Better than random: high by 0.500 bits per byte [0.4")
    assert said.sentence.endswith("No clear difference: low.")
    nothing = answer(found(effect=0.0))
    assert nothing.sentence == "No clear difference from random, corrected for 2 comparisons."
    [noise] = nothing.lines
    reach = max(line.against.overall.detectable or 0 for line in found(effect=0.0).lines if line.against is not None)
    assert noise.text == f"a difference of {reach:.3f} bits per byte would be seen in four of five such runs"
    assert "Worse than random: high" in answer(found(effect=0.5)).sentence


def test_what_all_others_are_worse_than_is_the_best() -> None:
    some = [condition(k, {"band": band}, 3 + k / 10) for k, band in enumerate(["random", "high", "low"])]
    said = answer(analyse(some, COMPARED, {})).sentence
    assert said.startswith("Best: random. Worse: low by 0.200 bits per byte [")
    assert said.endswith(", high by 0.100.")


def test_where_a_known_effect_is_not_seen_nothing_is_concluded() -> None:
    said = answer(found(planted=0.0))
    assert said.sentence.startswith("This run cannot tell")
    assert "a planted fault" in said.sentence
    assert "Better" not in str(said)


def test_where_an_effect_is_seen_that_cannot_be_the_answer_says_so() -> None:
    assert "where there can be none" in str(answer(found(permuted=-1.0)))
    assert "where there can be none" not in str(answer(found()))


def test_a_condition_without_a_seed_is_missing_and_said_to_be() -> None:
    some = conditions()
    lost = some[1]
    some[1] = Condition(
        1, "", lost.parameters, None, {0: lost.values[0]}, {0: "results/10"}, {1: "no room", 2: "no room"}
    )
    some[3] = Condition(3, "", some[3].parameters, "planted", {}, {}, {0: "lost"})
    findings = analyse(some, COMPARED, CONTROLS)
    assert [line.label for line in findings.lines] == ["high", "random"]
    assert [of.number for of in findings.missing] == [1, 3]
    assert findings.outcomes[0].holds is None
    assert answer(findings).sentence.startswith("This run cannot tell")  # the control that would show it is missing
    assert "missing" in control_words(findings.outcomes[0], "bits per byte")
    with pytest.raises(ValueError, match="no condition"):
        analyse([some[3]], COMPARED, CONTROLS)


def test_a_reference_that_is_missing_is_said_to_be() -> None:
    some = conditions()
    some[2] = Condition(2, "", some[2].parameters, None, {}, {}, dict.fromkeys(range(3), "no room"))
    findings = analyse(some, COMPARED, CONTROLS)
    assert answer(findings).sentence == "random is missing, and there is nothing to compare the conditions with."
    assert str(answer(findings)).endswith("Missing: 1 condition did not finish")


def test_several_comparisons_are_corrected_together() -> None:
    few = [condition(0, {"band": "high"}, 2.985), condition(2, {"band": "random"}, 3.0)]
    many = [*few, *(condition(k, {"band": f"b{k}"}, 3.0 + k / 1e5) for k in range(3, 9))]
    same = next(line for line in analyse(many, COMPARED, {}).lines if line.label == "high").against
    assert same is not None
    alone = contrast(few[0].values, few[1].values, [of.values for of in many]).overall
    assert alone.p is not None
    assert same.overall.p == pytest.approx(min(1.0, 7 * alone.p))
    assert (same.overall.detectable or 0) > (alone.detectable or 0)


def test_a_run_that_two_conditions_share_counts_once() -> None:
    """A control's arm may be a condition of the study: it says nothing new of how runs scatter."""
    some = conditions()
    again = [*some, replace(some[2], number=9, control="permuted"), replace(some[0], number=10, control="planted")]
    assert analyse(again, COMPARED, {}).lines[0].against == analyse(some, COMPARED, {}).lines[0].against


def test_of_an_accuracy_more_is_better() -> None:
    findings = analyse(conditions(0.5, planted=1.0), COMPARED, CONTROLS, "acc")
    assert answer(findings).sentence.startswith("Better than random: high by 0.500 in accuracy")
    assert verdict_word(findings.lines[0], findings) == "better"
    assert {outcome.name: outcome.holds for outcome in findings.outcomes} == {"planted": True, "permuted": True}
    assert findings.axis == "accuracy (more is better)"
    wrong = analyse(conditions(0.5, planted=-1.0), COMPARED, CONTROLS, "acc")
    assert {outcome.name: outcome.holds for outcome in wrong.outcomes} == {"planted": False, "permuted": True}
    assert answer(wrong).sentence.startswith("This run cannot tell")


def test_the_same_choice_is_the_same_and_not_unknown() -> None:
    same = analyse([condition(0, {"band": "high"}, 3.0), condition(3, {"band": "random"}, 3.0)], COMPARED, {})
    assert verdict_word(same.lines[0], same) == "the same"


def test_better_here_and_worse_there_are_both_said_with_the_trend() -> None:
    compared = Compared(across="size", lines=["band"], reference={"band": "random"}, named={"band": ""})
    some = [
        # Numbers that give the two conditions of a pair other noise.
        condition(
            k + 10 * (band == "random"),
            {"band": band, "size": size},
            3 - 0.5 * (band == "high") * (1 if size == 10 else -1) - size / 50,
        )
        for k, (band, size) in enumerate([(b, n) for b in ("high", "random") for n in (10, 20, 30)])
    ]
    said = answer(analyse(some, compared, {})).sentence
    assert said.startswith("High is better than random: size 10 by 0.500 bits per byte")
    assert (
        "High is worse than random: size 20 by 0.500" in said or "High is worse than random: size 30 by 0.500" in said
    )


GROUPS = Compared(
    across="size",
    reference={"size": 0},
    groups={"English": ["en"], "others": ["de", "sw"]},
    named={"size": "{} sample(s)"},
    saturation=True,
)


def sizes(*gains: float) -> list[Condition]:
    """Conditions with 0, 1, 2, ... samples; what they gain is gained in all languages but English."""
    found = []
    for k, gain in enumerate(gains):
        of = condition(k, {"size": k}, 3.0)
        values = {seed: {lang: x - gain * (lang != "en") for lang, x in by.items()} for seed, by in of.values.items()}
        found.append(replace(of, values=values))
    return found


def test_each_group_of_languages_has_a_line_beneath_one_sentence() -> None:
    findings = analyse(sizes(0, 0.0, 0.5, 0.7), GROUPS, {})
    said = answer(findings)
    assert said.sentence == (
        "Better than 0 samples: 3 samples for others (by up to 0.700 bits per byte). No clear difference: English."
    )
    english, others = said.lines
    assert (english.head, english.tone, others.head, others.tone) == ("English", "", "others", "better")
    assert english.text.startswith("no clear difference (one of 0.")
    assert re.fullmatch(r"better from 2 samples on: by 0\.700 \[0\.\d+, 0\.\d+\] at 3", others.text)


def test_a_trend_is_told_where_no_difference_is_clear() -> None:
    findings = analyse(sizes(0, 0.1, 0.2, 0.3), GROUPS, {})
    assert findings.trends["others"].verdict == "falls"
    unclear = []
    for line in findings.lines:
        if line.against is not None:
            overall = replace(line.against.overall, verdict="no clear difference")
            line = replace(line, against=replace(line.against, overall=overall))
        unclear.append(line)
    english, others = answer(replace(findings, lines=unclear)).lines
    assert others.text.endswith("would mostly be seen); but a trend: better from 0 to 3 samples")
    assert "trend" not in english.text
    assert "better" not in "".join(line.text for line in answer(replace(findings, lines=unclear, trends={})).lines)


def test_of_many_groups_few_have_lines() -> None:
    compared = Compared(lines=["kind"], reference={"band": "random"}, named={"kind": "", "band": ""})
    some = [
        condition(2 * k + (band == "random"), {"kind": f"kind {k}", "band": band}, 3 - (band == "high") * k / 10)
        for k in range(6)
        for band in ("high", "random")
    ]
    said = answer(analyse(some, compared, {}))
    assert [line.head for line in said.lines] == ["kind 5", "kind 4", "kind 3", "Others"]
    assert said.lines[-1].text == "3 more are in the table below"
    assert said.sentence.startswith("Better than random: kind 5 (by 0.500 bits per byte), kind 4 (by 0.400), kind 3")
    assert said.sentence.endswith("No clear difference: kind 0.")


def test_labels_are_read_as_they_are_written() -> None:
    compared = Compared(
        across="k", named={"k": "{} language(s)", "rho": "ρ = {}", "of": "", "a, b": "two", "x": "each"}
    )
    some = {"k": 1, "rho": 0.5, "of": ["a", "b"], "section.x": 3}
    assert label(some, compared) == "1 language, ρ = 0.5, two, x 3"
    assert label({"k": 0}, compared) == "0 languages"
    assert (compared.axis, Compared(across="rho", named=compared.named).axis) == ("languages", "ρ")


def test_languages_that_have_no_place_are_named() -> None:
    compared = Compared(reference={"band": "random"}, groups={"seen": ["de"]}, named={"band": ""})
    some = conditions()[:3]
    less = {seed: {lang: of[lang] for lang in ("de", "en")} for seed, of in some[0].values.items()}
    findings = analyse([Condition(0, "", some[0].parameters, None, less, some[0].addresses), *some[1:]], compared, {})
    assert (findings.dropped, findings.ungrouped) == (["sw"], ["en"])


def test_each_is_compared_with_the_one_that_is_equal_in_all_other_keys() -> None:
    compared = Compared(across="size", lines=["band"], reference={"band": "random"})
    some = [condition(k, {"band": band, "size": size}, 3 - size / 100 - (band == "high"))
            for k, (band, size) in enumerate([("high", 10), ("high", 20), ("random", 10), ("random", 20)])]  # fmt: skip
    lines = analyse(some, compared, {}).lines
    assert [(line.group, line.across) for line in lines] == [("high", 10), ("high", 20), ("random", 10), ("random", 20)]
    for line in lines[:2]:
        assert line.against is not None
        assert line.against.overall.interval.value == pytest.approx(-1.0)


def test_groups_of_languages_are_lines_of_their_own() -> None:
    compared = Compared(
        reference={"band": "random"}, groups={"seen": ["de", "en"], "unseen": ["sw"]}, named={"band": ""}
    )
    lines = analyse(conditions()[:3], compared, {}).lines
    assert {line.label for line in lines} == {
        f"{band}, {of}" for band in ("high", "low", "random") for of in ("seen", "unseen")
    }
    mean = {line.label: line.mean.value for line in lines}
    assert mean["low, seen"] == pytest.approx(3.5)
    assert mean["low, unseen"] == pytest.approx(5.0)


@pytest.fixture
def plan() -> Plan:
    return read_plan("separability-band")


def test_the_page_answers_on_top_and_traces_every_value(plan: Plan) -> None:
    values = invented(plan)
    findings = analyse(values, plan.compared, plan.controls)
    page = study_page(plan, findings, values)
    top = page[: page.index("</header>")]
    told = [answer(findings).sentence, *(control_words(of, findings.unit) for of in findings.outcomes)]
    for text in (plan.study.question, plan.study.claim, '<svg class="figure"', *told):
        assert text in top
    for text in (plan.study.small.shows, plan.study.small.cannot_show):
        assert text in page
    for of in values:
        for address in of.addresses.values():
            assert address in page
    assert page.count("<script") == 1  # the one that sorts tables
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert page == study_page(plan, findings, values)


def test_what_is_in_a_studys_text_is_text(plan: Plan) -> None:
    values = invented(plan)
    hostile = plan.study.model_copy(update={"title": "<script>alert(1)</script>", "claim": "<img src=x onerror=y>"})
    page = study_page(replace(plan, study=hostile), analyse(values, hostile.compared, plan.controls), values)
    assert page.count("<script") == 1
    assert "<img" not in page


@pytest.mark.parametrize("name", ["separability-band", "curriculum", "transfer"])
def test_a_figure_is_drawn_from_its_csv(name: str) -> None:
    plan = read_plan(name)
    figure = conditions_figure("f", analyse(invented(plan), plan.compared, plan.controls), "axis")
    assert figure.draw("f", read_csv(figure.csv)) == figure.svg
    other = [{**row, "mean": row["mean"] + 0.3} for row in figure.rows]
    assert figure.draw("f", other) != figure.svg


def test_two_aims_are_drawn_against_each_other_and_from_their_csv() -> None:
    plan = read_plan("pareto")
    findings = analyse(invented(plan), plan.compared, plan.controls, plan.form.measure)
    figure = front_figure("f", findings)
    assert figure is not None
    assert figure.draw("f", read_csv(figure.csv)) == figure.svg
    assert "by 0.080 in distance to the nearest chosen sample" in answer(findings).sentence
    assert front_figure("f", found()) is None


@pytest.mark.parametrize("name", ["selectors", "language-strategy", "language-count", "monolingual", "transfer"])
def test_published_figures_stand_beside_and_are_drawn_from_their_csv(name: str) -> None:
    study = load_study(name)
    assert study.published is not None
    shown = published_figure(study.published)
    assert shown.figure.draw("published", read_csv(shown.figure.csv)) == shown.figure.svg
    assert "arXiv" in shown.caption


def test_where_the_guides_curves_level_off_agrees_with_its_tables() -> None:
    found = {of.name: of for of in of_published()}
    assert len(found) == 9
    # Mathematics of the 7B model: .434 at none, .675 at 400, .686 at 5,000.
    mathematics = found["MR, 7B (Table 18)"]
    assert mathematics.of.claim == "consistent"
    assert plateau_words(mathematics).startswith("levels off at ")
    assert plateau_words(found["SM, 35B (Table 10)"]) == "no curve: flat within noise"


def test_a_studys_own_curve_is_fitted_over_its_seeds() -> None:
    compared = Compared(across="rows", reference={"rows": 0})
    some = [condition(k, {"rows": x}, 2 + 2.0 ** (-x / 3), noise=0.1) for k, x in enumerate([0, 3, 6, 12, 24])]
    (own,) = of_lines(analyse(some, compared, {}).lines)
    assert own.of.verdict == "reached"
    assert own.of.plateau == pytest.approx(3 * 4.32, rel=0.3)
    assert of_lines(analyse(some[:4], compared, {}).lines) == []


def test_only_the_languages_that_are_asked_for_are_averaged() -> None:
    compared = Compared(reference={"band": "random"}, languages=["sw"])
    findings = analyse(conditions()[:3], compared, {})
    assert findings.langs == ["sw"]
    assert findings.lines[1].mean.value == pytest.approx(5.0)
