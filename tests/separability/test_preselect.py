"""The pool: the published arithmetic, and what must hold for every corpus."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.separability import preselect
from raysel.separability.preselect import PoolError, pool_sizes, refuse_small_pool


@pytest.mark.parametrize(("percent", "chosen"), [(20, 19_539), (10, 9_770), (1, 977)])
def test_published_sizes(percent: int, chosen: int) -> None:
    rows = {f"l{i:02d}": 97_696 // 31 + (i < 97_696 % 31) * 1 for i in range(31)}
    assert sum(rows.values()) == 97_696
    assert sum(pool_sizes(rows, percent / 100).values()) == chosen


@given(
    st.dictionaries(st.integers(0, 60).map(lambda i: f"l{i:02d}"), st.integers(1, 40), min_size=1, max_size=50),
    st.floats(0.001, 1),
)
def test_no_language_gives_more_than_it_has_or_less_than_nothing(rows: dict[str, int], rho: float) -> None:
    sizes = pool_sizes(rows, rho)
    assert sum(sizes.values()) == round(sum(rows.values()) * rho)
    assert all(0 <= sizes[lang] <= rows[lang] for lang in rows)


samples = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-1, 1, allow_nan=False)), min_size=1, max_size=60)


@given(samples, st.floats(0.01, 1), st.integers(0, 5))
def test_every_band_takes_the_same_number_of_each_language(rows: list, rho: float, seed: int) -> None:
    ids = [f"r{i}" for i in range(len(rows))]
    langs, scores = [row[0] for row in rows], [row[1] for row in rows]
    taken = {}
    for band in ("high", "low", "random"):
        chosen = preselect(ids, langs, scores, rho=rho, band=band, seed=seed)
        assert len(set(chosen)) == len(chosen)
        taken[band] = sorted(langs[ids.index(i)] for i in chosen)
    assert taken["high"] == taken["low"] == taken["random"]
    assert len(taken["high"]) == round(len(rows) * rho)


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list, random: object) -> None:
    ids = [f"r{i}" for i in range(len(rows))]
    table = [(identity, lang, score) for identity, (lang, score) in zip(ids, rows, strict=True)]
    shuffled = table.copy()
    random.shuffle(shuffled)
    for band in ("high", "low", "random"):
        first, second = (preselect(*map(list, zip(*t, strict=True)), rho=0.4, band=band) for t in (table, shuffled))
        assert first == second


def test_high_takes_the_highest_and_no_quota_takes_nothing() -> None:
    ids, langs = list("abcdefg"), ["x"] * 6 + ["y"]
    scores = [0.1, 0.5, 0.3, -0.2, 0.9, 0.0, 0.99]
    assert preselect(ids, langs, scores, rho=0.34) == ["e", "b"]
    assert preselect(ids, langs, scores, rho=0.34, band="low") == ["d", "f"]


@pytest.mark.parametrize("rho", [0, 1.5, -1])
def test_rho_outside_its_bounds_is_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho"):
        preselect(["a"], ["x"], [0.0], rho=rho)


def test_a_pool_below_its_quota_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(PoolError, match=r"sw: round\(100 rows x rho 0.2\) = 20 in the pool, quota 21"):
        refuse_small_pool({"sw": 21, "en": 5}, {"sw": 20, "en": 20}, {"sw": 100, "en": 100}, 0.2)
    refuse_small_pool({"sw": 20}, {"sw": 20}, {"sw": 100}, 0.2)
