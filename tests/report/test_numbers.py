"""The page's numbers against direct computations."""

import itertools
import json
from collections import Counter
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysel.evaluation.intervals import Interval
from raysel.report import formats
from raysel.report.comparison import compare
from raysel.report.course_figures import stacked
from raysel.report.curriculum import cut
from raysel.report.diversity import Diversity, DiversityLine, Measured, pareto_front
from raysel.report.diversity_figure import diversity_rows
from raysel.report.examples import choose_items
from raysel.report.formats import both_ends
from raysel.report.heldout_loss import read_heldout
from raysel.report.metric_text import metric_writer
from raysel.report.overlap import Choice, side_by_side
from raysel.report.projection import choose_rows, place_labels, project, share_out, spread_labels
from raysel.report.result_lines import Compared, ItemValues, family
from raysel.report.score_summary import BINS, ScoreSummary, bin_centres
from raysel.report.training_log import read_log, smooth

COUNTS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 5000), min_size=1, max_size=20)


def test_score_summary_agrees_with_numpy():
    generator = np.random.default_rng(0)
    scores = np.clip(generator.normal(0.2, 0.3, 5000), -1, 1)
    langs = generator.choice(["en", "sw", "ar"], 5000)
    nearest = np.where(langs == "en", "sw", "en")
    summary = ScoreSummary(["ar", "en", "sw", "zh"])
    for part in np.array_split(np.arange(5000), 7):
        summary.add(langs[part].tolist(), scores[part], nearest[part].tolist())
    assert summary.mean == pytest.approx(scores.mean(), abs=1e-12)
    assert summary.by_mean() == sorted({"en", "sw", "ar"}, key=lambda lang: -scores[langs == lang].mean())
    assert summary.mean_of("zh") is None
    for lang in ("en", "sw", "ar"):
        own = scores[langs == lang]
        assert summary.count_of(lang) == len(own)
        assert summary.mean_of(lang) == pytest.approx(own.mean(), abs=1e-12)
        assert summary.negative_share(lang) == pytest.approx((own < 0).mean())
        assert summary.quantile(lang, 0.5) == pytest.approx(np.median(own), abs=2 * 2 / BINS)
        [near] = summary.nearest_to(lang, 3)
        assert (near.lang, near.share) == ("sw" if lang == "en" else "en", 1.0)


def test_density_keeps_area_and_centre():
    summary = ScoreSummary(["en"])
    scores = np.random.default_rng(1).normal(0.1, 0.1, 3000)
    summary.add(["en"] * 3000, scores)
    density = summary.density("en", summary.kernel_width("en"))
    assert density.shape == (BINS,)
    assert density.sum() * 2 / BINS == pytest.approx(3000, rel=1e-6)
    assert (density * bin_centres()).sum() / density.sum() == pytest.approx(scores.mean(), abs=1e-3)


def test_one_sample_and_extreme_scores_have_a_density():
    summary = ScoreSummary(["en", "sw"])
    summary.add(["en", "sw", "sw"], np.array([1.0, -1.0, 1.0]))
    for lang in ("en", "sw"):
        assert np.isfinite(summary.density(lang, summary.kernel_width(lang))).all()


@given(COUNTS, st.integers(1, 3000))
def test_map_takes_of_every_language(counts, total):
    shared = share_out(counts, total)
    assert set(shared) == set(counts)
    assert all(1 <= shared[lang] <= counts[lang] for lang in counts)
    assert sum(shared.values()) <= total + len(counts)
    chosen = choose_rows(counts, total, seed=3)
    for lang, rows in chosen.items():
        assert len(set(rows.tolist())) == shared[lang]
        assert 0 <= rows.min() <= rows.max() < counts[lang]


def test_map_is_the_principal_plane():
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(200, 2)) * [5, 2]
    vectors = (plane @ np.linalg.qr(generator.normal(size=(6, 2)))[0].T).astype(np.float32)
    drawn = project(vectors, ["en"] * 200, samples=200)
    assert sum(drawn.explained) == pytest.approx(1, abs=1e-5)
    assert ((drawn.points >= 0) & (drawn.points <= 1)).all()
    # Along the first axis the order is that of the first principal component, up to its sign.
    assert abs(np.corrcoef(drawn.points[:, 0], plane[:, 0])[0, 1]) > 0.95


def test_labels_end_apart():
    centres = np.random.default_rng(0).uniform(0.4, 0.6, (30, 2))
    places = spread_labels(centres, 0.05, 0.03)
    apart = np.abs(places[:, None] - places[None])
    overlapping = (apart[..., 0] < 0.049) & (apart[..., 1] < 0.029)
    assert overlapping.sum() == len(centres)


@given(st.integers(1, 40), st.integers(0, 99))
def test_labels_beside_their_dots_cover_neither_each_other_nor_dots(count, seed):
    rng = np.random.default_rng(seed)
    cells = rng.permutation(100)[:count]
    dots = np.column_stack([cells % 10, cells // 10]) * 60.0 + rng.uniform(20, 40, (count, 2))
    placed = place_labels(dots, dots, [16.0] * count, 12.0, (600, 600), range(count))
    labels = np.array([placed[row] for row in range(count)])
    assert ((labels >= [8, 6]) & (labels <= [592, 594])).all()
    assert np.linalg.norm(labels - dots, axis=1).max() < 30
    for points, room in ((labels, [16, 12]), (dots, [8, 6])):
        covered = (np.abs(labels[:, None] - points[None]) < room).all(axis=2)
        assert covered.sum() == (count if points is labels else 0)


def result(task, lang, metric, value, low, high):
    return {"task": task, "lang": lang, "metric": metric, "value": value, "ci_low": low, "ci_high": high, "n": 100,
            "split": "test", "seed": 0, "shots": 2, "harness": "lm-eval 0"}  # fmt: skip


def of_items(values, groups=None):
    values = np.asarray(values, dtype=float)
    return ItemValues(np.arange(len(values)), values, groups or [None] * len(values))


def test_clear_and_unclear_differences():
    items = np.arange(100)
    wrong, right = np.zeros(100), np.ones(100)
    half = (items % 2).astype(float)
    results = {
        "base": [result("t_en", "en", "acc", 0.0, 0, 0.04), result("t_sw", "sw", "acc", 0.5, 0.4, 0.6),
                 result("t_en", "en", "word_perplexity", 20.0, 19, 21), result("g_en", "en", "bleu", 10.0, 8, 12)],
        "tuned": [result("t_en", "en", "acc", 1.0, 0.96, 1), result("t_sw", "sw", "acc", 0.5, 0.4, 0.6),
                  result("t_en", "en", "word_perplexity", 10.0, 9, 11), result("g_en", "en", "bleu", 11.0, 9, 13)],
    }  # fmt: skip
    scored = {
        "base": {("en", "t_en", "acc"): of_items(wrong), ("sw", "t_sw", "acc"): of_items(half)},
        "tuned": {("en", "t_en", "acc"): of_items(right), ("sw", "t_sw", "acc"): of_items(half)},
    }
    found = compare(results, scored, seed=0)
    line = {(cell.lang, cell.metric): cell for cell in found.cells}
    assert (line["en", "acc"].verdict, line["en", "acc"].better) == ("higher", True)
    assert (line["sw", "acc"].verdict, line["sw", "acc"].p) == ("no item changed", 1)
    assert (
        line["sw", "acc"].difference.low <= line["sw", "acc"].difference.value == 0 <= line["sw", "acc"].difference.high
    )
    assert (line["en", "word_perplexity"].verdict, line["en", "word_perplexity"].better) == ("lower", True)
    assert line["en", "bleu"].verdict == "no clear difference"
    assert found.shown_metric == "acc"
    assert found.shares == {"acc"}
    assert found.headline.base.value == 0.25
    assert found.headline.tuned.value == 0.75
    assert found.conditions["shots"] == ["2"]
    assert {entry.label for entry in found.by_family} == {"t", "g"}


def test_small_gain_is_no_clear_difference():
    half = (np.arange(100) % 2).astype(float)
    changed = half.copy()
    changed[:6] = [1, 0, 1, 1, 1, 1]
    rows = {model: [result("t_en", "en", "acc", v, v - 0.1, v + 0.1)] for model, v in (("base", 0.5), ("tuned", 0.52))}
    scored = {model: {("en", "t_en", "acc"): of_items(v)} for model, v in (("base", half), ("tuned", changed))}
    found = compare(rows, scored, seed=0)
    assert (found.headline.verdict, found.headline.better) == ("no clear difference", None)


def rows_of(values):
    """(task, accuracies of its items) -> rows and items, as a results artifact has them."""
    rows = [result(task, task[-2:], "acc", np.mean(v), 0.2, 0.8) | {"n": len(v)} for task, v in values.items()]
    return rows, {(task[-2:], task, "acc"): of_items(v, [str(i) for i in range(len(v))]) for task, v in values.items()}


def made_comparison(base, tuned, **given):
    (base_rows, base_items), (tuned_rows, tuned_items) = rows_of(base), rows_of(tuned)
    rows, items = {"base": base_rows, "tuned": tuned_rows}, {"base": base_items, "tuned": tuned_items}
    return compare(rows, items, seed=0, **given)


@given(st.integers(2, 7), st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_model_does_not_differ_from_itself(langs, seed):
    generator = np.random.default_rng(seed)
    values = {f"t_{lang}": generator.random(12) for lang in ["en", "sw", "th", "vi", "ta", "qu", "et"][:langs]}
    found = made_comparison(values, values)
    for line in [*found.cells, *found.overall, *found.by_family, *found.by_language]:
        assert (line.difference.value, line.p, line.verdict) == (0, 1, "no item changed")


def test_one_language_of_many_that_looks_clear_is_not():
    """6 of 6 changed items for the better have p = 1/32: clear alone, not as one of four languages."""
    wrong = np.zeros(60)
    better = np.r_[np.ones(6), np.zeros(54)]
    alone = made_comparison({"t_en": wrong}, {"t_en": better})
    assert (alone.by_language[0].p, alone.by_language[0].verdict) == (pytest.approx(2**-5), "higher")
    others = ["t_sw", "t_th", "t_vi"]
    four = made_comparison(dict.fromkeys(["t_en", *others], wrong), {"t_en": better, **dict.fromkeys(others, wrong)})
    line = next(line for line in four.by_language if line.lang == "en")
    assert (line.p, line.verdict) == (pytest.approx(4 * 2**-5), "no clear difference")
    # The average over languages asks once.
    assert four.headline.p == pytest.approx(2**-5)
    assert four.headline.detectable == pytest.approx(2.8016 * four.headline.difference.error, rel=1e-3)
    tested = sum(other.detectable is not None for other in four.by_language)
    normal = NormalDist()
    errors = normal.inv_cdf(1 - 0.025 / tested) + normal.inv_cdf(0.8)
    assert line.detectable == pytest.approx(errors * line.difference.error)
    assert tested == 4


def test_averages_over_languages_and_over_items():
    base = {"t_en": np.zeros(90), "t_sw": np.zeros(10)}
    tuned = {"t_en": np.ones(90), "t_sw": np.zeros(10)}
    found = made_comparison(base, tuned)
    assert [(line.by_items, line.tuned.value) for line in found.overall] == [(False, 0.5), (True, pytest.approx(0.9))]
    assert [(line.by_items, line.label) for line in found.by_family] == [(False, "t"), (True, "t")]
    same = made_comparison({"t_en": np.zeros(9), "t_sw": np.zeros(9)}, {"t_en": np.ones(9), "t_sw": np.zeros(9)})
    assert [line.by_items for line in same.overall] == [False]


def test_both_directions_of_a_translation_are_the_same_sentences():
    """Sentences that are hard in one direction are hard in the other: the average knows less than of twice as many."""
    right = np.random.default_rng(0).integers(0, 2, 400)
    same = {"flores_to_en_sw": right, "flores_from_en_sw": right}
    [average] = made_comparison(same, same).by_language
    [apart] = made_comparison(*[{"flores_to_en_sw": right, "other_sw": right}] * 2).by_language
    assert average.base.error == pytest.approx(np.sqrt(0.25 / 400), rel=0.1)
    assert apart.base.error == pytest.approx(np.sqrt(0.25 / 800), rel=0.1)


def test_languages_trained_on_stand_beside_those_that_were_not():
    half = (np.arange(80) % 2).astype(float)
    base, tuned = (
        dict.fromkeys(["t_en", "t_sw", "t_th"], half),
        {"t_en": np.ones(80), "t_sw": np.ones(80), "t_th": half},
    )
    seen, unseen = made_comparison(base, tuned, trained={"en", "sw", "xx"}).by_training
    assert (seen.label, seen.tuned.value, seen.verdict) == ("Trained on (2)", 1, "higher")
    assert (unseen.label, unseen.tuned.value, unseen.verdict) == ("Not trained on (1)", 0.5, "no item changed")
    for trained in (None, {"en", "sw", "th"}, {"xx"}):
        assert made_comparison(base, tuned, trained=trained).by_training == []


def test_relative_to_english_as_the_transfer_study_has_it():
    """Its table 4, instruction following, no rows of other languages: 85.0% of English."""
    scores = {"ar": 3.31, "en": 4.19, "es": 3.9, "fr": 3.99, "ja": 3.48, "ko": 3.44, "pt": 3.71, "zh": 3.1}
    rows = [result(f"if_{lang}", lang, "acc", value, 0, 5) for lang, value in scores.items()]
    # A task without English says nothing of it.
    rows.append(result("xcopa_qu", "qu", "acc", 0.1, 0, 1))
    [english] = compare({"tuned": rows}, {}, seed=0).ratios
    assert (english.base, round(english.tuned.value, 3)) == (None, 0.85)
    better = [{**row, "value": 1.1 * row["value"]} for row in rows]
    english, gain = compare({"base": rows, "tuned": better}, {}, seed=0).ratios
    assert (gain.is_gain, gain.tuned.value) == (True, pytest.approx(0.1))
    with_items = made_comparison(
        {"t_en": [1, 1, 0, 1], "t_sw": [1, 0, 0, 1]}, {"t_en": [1, 1, 1, 1], "t_sw": [1, 0, 0, 1]}
    )
    [english, gain] = with_items.ratios
    assert (english.base.value, english.tuned.value, gain.tuned.value) == pytest.approx((2 / 3, 1 / 2, 1 / 5))
    assert english.tuned.low < 0.5 < english.tuned.high


def test_averages_compare_the_same_tasks():
    results = {
        "base": [result("a_en", "en", "acc", 0.2, 0.1, 0.3), result("b_en", "en", "acc", 0.8, 0.7, 0.9)],
        "tuned": [result("a_en", "en", "acc", 0.3, 0.2, 0.4)],
    }
    overall = compare(results, {}, seed=0).headline
    assert (overall.base.value, overall.tuned.value) == (0.2, 0.3)


def test_one_model_alone_has_no_verdict():
    found = compare({"tuned": [result("a_en", "en", "acc", 0.3, 0.2, 0.4)]}, {}, seed=0)
    assert found.models == ["tuned"]
    assert found.headline.verdict == ""
    assert Compared("t", "en", "acc", 1, Interval(0.1), Interval(0.9), Interval(0.8)).verdict == "no interval"


def scored(task, metric, values, value=None, ends=(0.0, 0.0), lang="en"):
    """(row, key, items) of a result; value: the row's, where it is no mean."""
    values = np.asarray(values, dtype=float)
    value = np.nanmean(values) if value is None else value
    row = result(task, lang, metric, value, *ends) | {"n": int(np.isfinite(values).sum())}
    return row, (lang, task, metric), of_items(values)


def compared(base, tuned):
    both = {"base": base, "tuned": tuned}
    rows = {model: [row for row, _, _ in of] for model, of in both.items()}
    return compare(rows, {model: {key: items for _, key, items in of} for model, of in both.items()}, seed=0)


def test_sentences_say_nothing_of_the_score_of_their_corpus():
    """chrF++ of a corpus is no mean of its sentences': an interval of theirs need not hold it."""
    sentences = np.linspace(18.0, 26.0, 40)
    base, tuned = (
        [scored(task, "chrf_pp", sentences + more, 27 + more, (25 + more, 29 + more), lang) for task, lang in CELLS]
        for more in (0, 1)
    )
    found = compared(base, tuned)
    for line in found.cells:
        assert (line.base, line.tuned) == (Interval(27, 25, 29), Interval(28, 26, 30))
        assert (line.difference, line.p, line.verdict) == (Interval(1), None, "no clear difference")
    assert (found.headline.base, found.headline.difference, found.headline.p) == (Interval(27), Interval(1), None)
    mean = compared(*([scored("t_en", "chrf_pp", sentences + more)] for more in (0, 1)))
    assert mean.headline.verdict == "higher"


CELLS = [("t_en", "en"), ("t_sw", "sw")]


def test_items_with_a_value_in_both_models_are_compared():
    base = np.r_[np.nan, 1, 0, 1, 0, np.nan, 0, 1]
    tuned = np.r_[1, 1, 1, np.nan, 1, np.nan, 1, 1]
    found = compared([scored("t_en", "acc", base)], [scored("t_en", "acc", tuned)])
    [line] = found.cells
    assert (line.n, line.base.value, line.tuned.value, line.difference.value) == (5, 0.4, 1, 0.6)
    # Three changes, all for the better.
    assert line.p == pytest.approx(2 * 2**-3)
    assert line.base.low <= 0.4 <= line.base.high
    assert found.partial == 1
    both = compared([scored("t_en", "acc", base)], [scored("t_en", "acc", base)])
    assert (both.cells[0].n, both.cells[0].verdict, both.partial) == (6, "no item changed", 0)
    none = compared([scored("t_en", "acc", [1, np.nan])], [scored("t_en", "acc", [np.nan, 1])])
    assert (none.cells[0].p, none.partial) == (None, 0)


def test_a_rating_of_1_is_no_right_answer():
    found = compared([scored("t_en", "rating", np.ones(30))], [scored("t_en", "rating,strict", np.ones(30))])
    assert found.shares == set()
    ratings = np.r_[np.ones(29), 0]
    line = compared([scored("t_en", "rating", np.ones(30))], [scored("t_en", "rating", ratings)]).cells[0]
    # Agresti and Min's interval of the same values, were they right and wrong answers, reaches above 0.
    assert line.difference.high <= 0


def test_a_line_without_change_is_one_of_those_corrected_over():
    ratings, better = np.arange(1, 6), np.array([2, 3, 3, 4, 5])
    base, tuned = ([scored(f"t_{lang}", "rating", of, lang=lang) for lang, of in (("en", ratings), ("sw", values))]
                   for values in (ratings, better))  # fmt: skip
    same, changed = compared(base, tuned).cells
    assert (same.p, same.detectable) == (1, None)
    errors = NormalDist().inv_cdf(1 - 0.025 / 2) + NormalDist().inv_cdf(0.8)
    assert changed.detectable == pytest.approx(errors * changed.difference.error)


def test_the_shown_metric_says_how_good_the_answers_are():
    def shown(*metrics):
        return compare({"tuned": [result(f"{m}_en", "en", m, 0.5, 0, 1) for m in metrics]}, {}, seed=0).shown_metric

    assert shown("answered", "right_language", "rouge_l") == "rouge_l"
    assert shown("right_language", "rating", "rouge_l", "answered") == "rating"
    assert shown("spbleu", "right_language", "chrf_pp") == "chrf_pp"
    more = [result(f"{i}_en", "en", "right_language", 0.5, 0, 1) for i in range(9)]
    found = compare({"tuned": [*more, result("t_en", "en", "custom", 0.5, 0, 1)]}, {}, seed=0)
    assert found.shown_metric == "custom"


def test_bits_per_byte_are_no_share_and_less_of_them_is_better():
    """Where tasks are scored too, these are shown first, in however few languages."""
    held = {
        model: [result(f"heldout_{lang}", lang, "bits_per_byte", value, value - 0.1, value + 0.1) for lang in "abc"]
        for model, value in (("base", 0.9), ("tuned", 0.6541))
    }
    found = compare(held, {}, seed=0)
    assert (found.shown_metric, found.shares, found.less_is_better) == ("bits_per_byte", set(), ["bits_per_byte"])
    assert {(line.verdict, line.better) for line in found.cells} == {("lower", True)}
    assert metric_writer(found)(0.6541, "bits_per_byte") == "0.654"
    assert metric_writer(found)(12.345, "bleu") == "12.35"
    assert found.ratios == []
    task = {model: [*rows, result("t_en", "en", "acc", 0.5, 0.4, 0.6)] for model, rows in held.items()}
    both = compare(task, {}, seed=0)
    assert (both.shown_metric, both.shares) == ("acc", {"acc"})
    answered = {"tuned": [*held["tuned"], result("x_en", "en", "answered", 1, 0, 1)]}
    assert compare(answered, {}, seed=0).shown_metric == "bits_per_byte"


def test_models_without_a_common_result_have_neither_averages_nor_ratios():
    base, tuned = [result("a_en", "en", "acc", 0.5, 0.4, 0.6)], [result("b_en", "en", "acc", 0.7, 0.6, 0.8)]
    found = compare({"base": base, "tuned": tuned}, {}, seed=0)
    assert (found.headline, found.by_language, found.by_family[0].label, found.ratios) == (None, [], "a", [])
    assert [line.label for line in found.cells] == ["a_en", "b_en"]
    common = [result("c_sw", "sw", "f1", 0.5, 0.4, 0.6)]
    assert compare({"base": base + common, "tuned": tuned + common}, {}, seed=0).shown_metric == "f1"


@pytest.mark.parametrize(
    ("task", "name"), [("xcopa_sw", "xcopa"), ("b_zh-Hans", "b"), ("mmmlu_pt_BR", "mmmlu"), ("x", "x")]
)
def test_family(task, name):
    assert family(task) == name


def test_log_counts_a_repeated_step_as_it_was_last():
    lines = [
        {"step": step, "loss": 10.0 - step, "learning_rate": 0.1, "loss_by_lang": {"en": 1.0}} for step in range(6)
    ]
    again = {"step": 3, "loss": 1.0, "learning_rate": 0.2}
    log = read_log("\n".join(json.dumps(line) for line in [*lines, again]))
    assert log.steps.tolist() == [0, 1, 2, 3, 4, 5]
    assert log.loss.tolist() == [10.0, 9.0, 8.0, 1.0, 6.0, 5.0]
    assert read_log("\n") is None


def test_skipped_steps_have_no_loss_to_show():
    lines = [{"step": step, "loss": 9.0 - step, "tokens": 10, "loss_by_lang": {"en": 9.0 - step}} for step in range(4)]
    lines[1] |= {"loss": None, "loss_by_lang": {"en": None}, "skipped": "the loss is nan"}
    log = read_log("\n".join(json.dumps(line) for line in lines))
    assert log.steps.tolist() == [0, 2, 3]
    assert log.smoothed.tolist() == [9.0, 7.0, 6.0]
    assert (log.skipped, log.tokens) == (1, 40)
    assert [(entry.first, entry.last) for entry in log.by_language] == [(9.0, 6.0)]


def test_held_out_loss_before_and_after():
    lines = [
        {"steps": 0, "loss": 4.0, "loss_by_lang": {"sw": 5.0, "en": 3.0, "ar": 2.0}},
        {"steps": 9, "loss": 2.5, "loss_by_lang": {"en": 2.0, "sw": 3.5, "ar": 2.5, "th": 1.0}},
        {"steps": 5, "loss": 3.0, "loss_by_lang": {"en": 9.0, "sw": 9.0}},
    ]
    heldout = read_heldout("".join(json.dumps(line) + "\n" for line in lines))
    assert heldout.steps.tolist() == [0, 5, 9]
    assert heldout.loss.tolist() == [4.0, 3.0, 2.5]
    assert heldout.by_lang["sw"].tolist() == [5.0, 9.0, 3.5]
    assert np.isnan(heldout.by_lang["ar"][1])
    assert [(entry.lang, entry.change) for entry in heldout.by_change()] == [("sw", -1.5), ("en", -1.0), ("ar", 0.5)]
    assert read_heldout(json.dumps(lines[0])) is None
    assert read_heldout("") is None


@given(st.lists(st.floats(0, 10), min_size=1, max_size=9))
def test_names_beside_lines_end_apart_and_in_order(values):
    places = stacked(sorted(values), 1.0, 0.0, 10.0)
    assert all(after - before >= 1 - 1e-9 for before, after in itertools.pairwise(places))
    assert places[0] >= -1e-9
    assert places[-1] <= 10 + 1e-9
    assert stacked([1.0, 3.0, 7.0], 1.0, 0.0, 10.0) == [1.0, 3.0, 7.0]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=200))
def test_smoothing_stays_within_and_keeps_lines(values):
    array = np.array(values)
    smoothed = smooth(array)
    assert smoothed.shape == array.shape
    assert (smoothed >= array.min() - 1e-9).all()
    assert (smoothed <= array.max() + 1e-9).all()
    line = np.arange(len(values), dtype=float)
    assert smooth(line) == pytest.approx(line)


def test_curriculum_is_cut_evenly():
    labels = {"language": ["en"] * 500 + ["sw"] * 500, "task": ["qa"] * 1000, "level": [0, 1] * 500}
    course = cut(np.linspace(-1, 1, 1000), labels)
    assert (np.diff(course.mean) > 0).all()
    assert course.of.keys() == {"language", "level"}
    assert course.of["language"].parts == ["en", "sw"]
    assert course.of["language"].shares[0].tolist() == [1, 0]
    assert course.of["language"].shares[-1].tolist() == [0, 1]
    assert course.of["level"].shares == pytest.approx(0.5, abs=0.05)
    assert all(part.shares.sum(axis=1) == pytest.approx(1) for part in course.of.values())
    assert cut(np.zeros(3), {"language": ["en"] * 3}) is None


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (formats.integer(1234567), "1,234,567"),
        (formats.decimal(-0.12345), "−0.123"),
        (formats.decimal(-0.0001), "0.000"),
        (formats.decimal(0.00001, sign=True), "0.000"),
        (formats.decimal(0.5, 1, sign=True), "+0.5"),
        (formats.decimal(None), "–"),
        (formats.decimal(float("nan")), "–"),
        (formats.percent(0.1234), "12.3%"),
        (formats.probability(0.0004), "< 0.001"),
        (formats.probability(0.04), "0.040"),
        (formats.probability(None), "–"),
        (formats.scientific(2e-4), "2e−4"),
        (formats.scientific(1.55e-5), "1.55e−5"),
        (formats.scientific(0), "0"),
        (formats.duration(0.0), "< 0.1 s"),
        (formats.duration(0.42), "0.4 s"),
        (formats.duration(59.7), "1 min 00 s"),
        (formats.duration(3725), "1 h 02 min"),
        (formats.size(999), "999 B"),
        (formats.size(1_250_000), "1.2 MB"),
        (formats.language_name("sw"), "Swahili"),
        (formats.language_name("not a code"), "not a code"),
        (formats.shorten("abcdef", 4), "abc…"),
        (formats.metric_name("exact_match,strict"), "exact match"),
    ],
)
def test_formats(shown, text):
    assert shown == text


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ("s3://key:secret@bucket/a?region=eu&endpoint_override=h:9", "s3://bucket/a?region=eu&endpoint_override=h:9"),
        ("abfs://c@account/x?account_key=k", "abfs://account/x"),
        ("/a/plain/path", "/a/plain/path"),
    ],
)
def test_addresses_lose_what_gives_access(given_text, kept):
    assert formats.without_secrets({"a": [given_text]}) == {"a": [kept]}


def test_overlap_of_selectors_by_hand() -> None:
    a = Choice(["1", "2", "3"], ["en", "en", "sw"], np.array([10, 20, 30]), np.array([0.1, 0.2, 0.6]))
    b = Choice(["3", "4"], ["sw", "th"], np.array([30, 50]), np.array([0.6, -0.2]))
    none = Choice([], [], np.zeros(0, dtype=np.int64), np.zeros(0))
    first, second, third = side_by_side({"A": a, "B": b, "none": none}, trained="B")
    assert (first.rows, first.mean_tokens, first.mean_separability) == (3, 20.0, pytest.approx(0.3))
    assert first.jaccard == [1.0, 1 / 4, 0.0]
    assert first.shares == {"en": 2 / 3, "sw": 1 / 3}
    assert [line.is_trained for line in (first, second, third)] == [False, True, False]
    assert (third.jaccard, third.shares, third.mean_tokens) == ([0.0, 0.0, 1.0], {}, None)


def test_examples_are_of_every_task_and_language() -> None:
    items = [(lang, f"{task}_{lang}", number) for lang in ("en", "sw") for task in ("a", "b") for number in range(9)]
    chosen = choose_items(items, 2, seed=3)
    assert Counter((lang, task) for lang, task, _ in chosen) == {(lang, task): 2 for lang, task, _ in items}
    assert {lang for lang, _, _ in chosen[:2]} == {"en", "sw"}, "one of each language first"
    assert choose_items(reversed(items), 2, seed=3) == chosen != choose_items(items, 2, seed=4)


def test_both_ends_of_a_long_text_are_shown() -> None:
    assert both_ends("short", 20) == "short"
    shown = both_ends("the shots " * 50 + "the question", 60)
    assert len(shown) <= 60
    assert shown.startswith("the shots")
    assert shown.endswith("the question")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_is_what_nobody_beats_in_both(points: list[tuple[float, float]]) -> None:
    front = pareto_front(points)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)
    assert [points[i][1] for i in front] == sorted((points[i][1] for i in front), reverse=True)
    for number, (x, y) in enumerate(points):
        better = [(u, v) for u, v in points if u >= x and v >= y and (u, v) != (x, y)]
        assert (number in front) is (not better)


def test_a_choice_without_pairs_has_no_place_on_the_front() -> None:
    def line(
        name: str, separability: float | None, similarity: float | None, candidates: str = "pool"
    ) -> DiversityLine:
        over_all = Measured(1, 5.0, separability, similarity, 1.0, 1.0, 0.0)
        return DiversityLine(name, candidates, False, False, over_all, {})

    lines = [line("all", 0.9, 0.1, "everything"), line("one", 0.5, None), line("a", 0.1, 0.2), line("b", 0.0, 0.3)]
    found = Diversity(lines, [], None)
    assert [chosen.name for chosen in found.front] == ["a"]
    assert [chosen.name for chosen in found.selectors] == ["one", "a", "b"]
    assert [row["name"] for row in diversity_rows(found) if row["on_front"]] == ["a"]
    assert diversity_rows(Diversity(lines[:3], [], None)) == []
