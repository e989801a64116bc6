import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from raysel.evaluation.averages import Cell, Panel, families_drawn_together, item_weights, macro_weights, relative_gain
from raysel.evaluation.intervals import Interval, wilson_interval
from raysel.evaluation.significance import sign_flip_p

LANGUAGES = ["sw", "th", "vi", "zh", "ta", "qu", "ht", "et"]


def cell(values: object, lang: str = "en", *, family: str = "t", groups: object = None) -> Cell:
    """values: (n,) of one model or (M, n)."""
    array = np.atleast_2d(np.asarray(values, dtype=float))
    names = list(groups) if groups is not None else [None] * array.shape[1]  # type: ignore[call-overload]
    return Cell(f"{family}_{lang}", lang, family, array, names)


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low <= interval.value <= interval.high
    return interval.high - interval.low


def simulated(
    generator: np.random.Generator,
    *,
    langs: int,
    n: int,
    models: int = 1,
    gain: float = 0.0,
    parallel: bool = True,
    missing: float = 0.0,
) -> tuple[list[Cell], float]:
    """Right-or-wrong items that are as hard in one language as in another, and the true mean of the last model."""
    shares, easy = generator.uniform(0.25, 0.75, langs), generator.normal(size=n)
    cells = []
    for lang, share in enumerate(shares):
        ease = np.sqrt(0.6) * (easy if parallel else generator.normal(size=n)) + np.sqrt(0.4) * generator.normal(size=n)
        luck = norm.cdf(0.8 * ease + 0.6 * generator.normal(size=(models, n)))
        right = luck < share + gain * np.arange(models)[:, None]
        kept = np.flatnonzero(generator.random(n) >= missing)
        cells.append(cell(right[:, kept], str(lang), groups=map(str, kept) if parallel else None))
    return cells, float(shares.mean() + gain * (models - 1))


def apart(cells: list[Cell]) -> list[Cell]:
    """The same cells as if no item had a counterpart."""
    return [Cell(of.task, of.lang, of.family, of.values, [None] * len(of.groups)) for of in cells]


def test_weights_by_hand() -> None:
    assert macro_weights(["sw", "sw", "th"]).tolist() == [0.25, 0.25, 0.5]
    # XWinograd's sizes: nearly half of its average is English.
    assert item_weights([2325, 959, 504, 315, 263, 83])[0] == pytest.approx(2325 / 4449)


def test_values_are_the_weighted_means() -> None:
    cells = [cell([1, 1, 0], "sw"), cell([0, 0, 1, 0], "th"), cell([1, 0], "th", family="u")]
    panel = Panel(cells, seed=0)
    means = [2 / 3, 1 / 4, 1 / 2]
    assert panel.means[0].tolist() == pytest.approx(means)
    macro = panel.estimate(macro_weights([of.lang for of in cells])[None])
    assert macro.value == pytest.approx((means[0] + (means[1] + means[2]) / 2) / 2)
    assert panel.estimate(item_weights(panel.sizes)[None]).value == pytest.approx(4 / 9)
    width(macro)


def test_languages_with_the_same_answers_are_worth_one() -> None:
    right = (np.arange(200) % 3 == 0).astype(float)
    parallel = [cell(right, lang, groups=map(str, range(200))) for lang in LANGUAGES]
    weights = macro_weights(LANGUAGES)[None]
    one = width(Panel([cell(right)], seed=0).estimate(np.ones((1, 1))))
    assert width(Panel(parallel, seed=0).estimate(weights)) == pytest.approx(one, rel=0.1)
    assert width(Panel(apart(parallel), seed=0).estimate(weights)) == pytest.approx(one / np.sqrt(8), rel=0.1)


def test_families_and_languages_without_counterparts_are_drawn_apart() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(2, 300))
    for groups in (None, map(str, range(300))):
        names = list(groups) if groups is not None else None
        of = [cell(values[i], "en", family=f"f{i}", groups=names) for i in range(2)]
        found = Panel(of, seed=0).estimate(np.array([[0.5, 0.5]]))
        expected = np.sqrt((values.var(axis=1, ddof=1) / 300).sum()) / 2
        assert found.error == pytest.approx(expected, rel=0.1)


def test_families_with_the_same_items_are_drawn_together() -> None:
    ids = {"1", "2"}
    of = {"flores_to_en": ids, "flores_from_en": ids, "flores_part": {"1"}, "xnli": ids}
    assert families_drawn_together(of) == {
        "flores_from_en": "flores_from_en",
        "flores_to_en": "flores_from_en",
        "flores_part": "flores_part",
        "xnli": "xnli",
    }


def test_an_item_that_a_language_lacks_is_drawn_in_the_others() -> None:
    values = np.random.default_rng(0).normal(size=400)
    cells = [cell(values, "sw", groups=map(str, range(400))), cell(values[:50], "th", groups=map(str, range(50)))]
    panel = Panel(cells, seed=0)
    found = panel.estimate(np.array([[0.5, 0.5]]))
    # What an item adds to the average, less its share of the mean of those that have it.
    adds = (values - values.mean()) / 400 / 2
    adds[:50] += (values[:50] - values[:50].mean()) / 50 / 2
    assert found.error == pytest.approx(np.sqrt((adds**2).sum()), rel=0.15)
    assert panel.changes(np.array([[0.5, 0.5]])).sum() == pytest.approx(found.value)


def test_items_in_another_order_and_seeds() -> None:
    values = np.random.default_rng(0).random((2, 60))
    names = [str(i) for i in range(60)]
    pair = [cell(values[0], "sw", groups=names), cell(values[1], "th", groups=names)]
    turned = [pair[0], cell(values[1][::-1], "th", groups=names[::-1])]
    weights = np.array([[0.5, 0.5]])
    same, again = (Panel(pair, seed=seed).estimate(weights) for seed in (3, 3))
    assert same == again
    other = Panel(turned, seed=3).estimate(weights)
    assert (other.low, other.high) == pytest.approx((same.low, same.high))
    assert Panel(pair, seed=4).estimate(weights).low != same.low


def test_one_cell_has_the_intervals_of_a_single_result() -> None:
    right = np.repeat([1.0, 0.0], [13, 27])
    found = Panel([cell(right)], seed=0).estimate(np.ones((1, 1)))
    assert (found.low, found.high) == pytest.approx(wilson_interval(13, 40))
    three = Panel([cell([1, 1, 1])], seed=0).estimate(np.ones((1, 1)))
    assert (three.low, three.high) == pytest.approx(wilson_interval(3, 3))


def test_equal_models_differ_by_nothing() -> None:
    difference = np.array([[-1.0], [1.0]])
    for n in (3, 40, 300):
        right = np.random.default_rng(n).integers(0, 2, n)
        panel = Panel([cell([right, right])], seed=0)
        found = panel.estimate(difference)
        assert found.value == 0
        assert width(found) > 0
        assert sign_flip_p(panel.changes(difference), seed=0) == 1


@given(st.integers(2, 7), st.integers(2, 30), st.integers(0, 10**6), st.booleans())
@settings(max_examples=40, deadline=None)
def test_equal_models_differ_by_nothing_whatever_the_values(langs: int, n: int, seed: int, parallel: bool) -> None:
    generator = np.random.default_rng(seed)
    names = [str(i) for i in range(n)] if parallel else None
    cells = [cell(np.tile(generator.random(n), (2, 1)), str(lang), groups=names) for lang in range(langs)]
    weights = generator.dirichlet(np.ones(langs))
    contrast = np.stack([-weights, weights])
    panel = Panel(cells, seed=seed)
    assert not panel.changes(contrast).any()
    assert panel.estimate(contrast) == Interval(0.0, 0.0, 0.0, 0.0)


def test_changes_that_cancel_are_none() -> None:
    names = list("abc")
    up, down = cell([[0.1, 0.7, 0.3], [0.4, 0.7, 0.3]], "sw", groups=names), [[0.4, 0.9, 0.2], [0.1, 0.9, 0.2]]
    panel = Panel([up, cell(down, "th", groups=names)], seed=0)
    assert sign_flip_p(panel.changes(np.array([[-0.5, -0.5], [0.5, 0.5]])), seed=0) == 1


def test_few_items_leave_a_difference_open() -> None:
    found = Panel([cell([[0, 0, 0], [1, 1, 1]])], seed=0).estimate(np.array([[-1.0], [1.0]]))
    # Agresti and Min: 3 / 5, and the variance ((3 + 1) / 5 - 0.36) / 5.
    assert found.low == pytest.approx(0.6 - 1.96 * np.sqrt(0.44 / 5), abs=1e-3)
    assert found.high == 1
    alone = Panel([cell([0.3]), cell([0.1, 0.4, 0.2], "sw")], seed=0).estimate(np.array([[0.5, 0.5]]))
    assert (alone.low, alone.high) == (None, None)


def test_paired_differences_have_the_error_of_the_changes() -> None:
    generator = np.random.default_rng(0)
    base = generator.normal(size=250)
    tuned = base + 0.2 + generator.normal(0, 0.1, size=250)
    found = Panel([cell([base, tuned])], seed=0).estimate(np.array([[-1.0], [1.0]]))
    assert found.error == pytest.approx((tuned - base).std(ddof=1) / np.sqrt(250), rel=0.1)
    assert found.low is not None
    assert found.low > 0


def test_ratios_are_drawn_together() -> None:
    values = np.random.default_rng(0).uniform(1, 2, size=200)
    names = [str(i) for i in range(200)]
    panel = Panel([cell(values, "en", groups=names), cell(0.8 * values, "sw", groups=names)], seed=0)
    english, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    found = panel.ratio(other, english)
    assert found is not None
    # The languages rise and fall together: nothing is uncertain about their ratio.
    assert (found.low, found.value, found.high) == pytest.approx((0.8, 0.8, 0.8))
    loose = Panel(apart(panel.cells), seed=0).ratio(other, english)
    assert loose is not None
    expected = 0.8 * np.sqrt(2 * values.var(ddof=1) / 200) / values.mean()
    assert loose.error == pytest.approx(expected, rel=0.1)
    none = Panel([cell(np.zeros(9)), cell(np.ones(9), "sw")], seed=0)
    assert none.ratio(other, english) is None


def test_relative_gain_by_hand() -> None:
    assert relative_gain(0.55, 0.5) == pytest.approx(0.1)
    assert relative_gain(-1, -2) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="relative to 0"):
        relative_gain(0.5, 0)


@pytest.mark.parametrize("values", [[], [0.5, np.nan]])
def test_cells_without_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="needs items"):
        Panel([cell(values)], seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("langs", "n", "models", "parallel", "missing"),
    [
        (8, 40, 1, True, 0.0),
        (8, 150, 1, True, 0.3),
        (8, 40, 2, True, 0.0),
        (8, 200, 2, True, 0.0),
        (8, 3, 1, False, 0.0),
        (8, 3, 2, False, 0.0),
        (1, 40, 2, False, 0.0),
        (1, 150, 2, False, 0.0),
    ],
)
def test_averages_are_held_as_often_as_said(langs: int, n: int, models: int, parallel: bool, missing: float) -> None:
    """As independent languages, parallel ones would have the truth in about 80% of the intervals of their average."""
    generator = np.random.default_rng(langs * n + models)
    held = held_apart = 0
    trials = 1000
    for trial in range(trials):
        gain = 0.08 if models == 2 else 0.0
        cells, truth = simulated(
            generator, langs=langs, n=n, models=models, gain=gain, parallel=parallel, missing=missing
        )
        weights = macro_weights([of.lang for of in cells])
        contrast = weights[None] if models == 1 else np.stack([-weights, weights])
        truth = gain if models == 2 else truth
        for panel in (cells, apart(cells)) if models == 1 and parallel else (cells,):
            found = Panel(panel, seed=trial).estimate(contrast)
            assert found.low is not None
            assert found.high is not None
            inside = found.low <= truth <= found.high
            held += inside and panel is cells
            held_apart += inside and panel is not cells
    assert 0.93 <= held / trials <= 0.975
    assert held_apart / trials < 0.88
