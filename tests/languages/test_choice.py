"""Subsets of languages: the published ones, and what holds for every choice."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysel.languages import BACTRIAN_X, choose_languages
from raysel.languages.candidates import candidates_from
from raysel.languages.choice import ablate, choose
from raysel.languages.codes import iso639_3
from raysel.languages.published import PUBLISHED
from raysel.languages.subsets import SubsetError

# strategy, seed, ours in place of the published: both are members of one cluster of two, equally near its centroid.
TIES = {
    ("geo", 42): {"ar": "he"},
    ("learn", 66): {"de": "vi"},
    ("learn", 42): {"de": "vi"},
    ("learn", 10): {"de": "vi", "fi": "nl"},
}
BY_KMEANS = [(strategy, seed) for strategy in ("geo", "typo", "learn") for seed in (66, 42, 10)]
# Without features in Colex2Lang, says the paper: what semantic vectors are made for here.
WITHOUT_VECTORS = ["af", "ar", "az", "et", "fa", "km", "mk", "mn", "sw", "ur", "xh", "zh"]


@pytest.mark.parametrize(("strategy", "seed"), BY_KMEANS)
def test_published_subsets_come_out_but_for_named_ties(strategy: str, seed: int) -> None:
    choice = choose(strategy, 14, seed=seed)
    ties = TIES.get((strategy, seed), {})
    published = PUBLISHED[strategy][seed].split()
    assert sorted(ties.get(lang, lang) for lang in choice.languages) == published
    for ours, theirs in ties.items():
        assert choice.members(ours) == sorted([ours, theirs])


@pytest.mark.parametrize(("strategy", "seed"), [("random", 66), ("random", 42), ("fam", 66)])
def test_published_draws_come_out(strategy: str, seed: int) -> None:
    assert choose_languages(strategy, 14, seed=seed) == PUBLISHED[strategy][seed].split()


@pytest.mark.parametrize("seed", [66, 42, 10])
def test_the_smallest_subsets_of_the_count_sweep(seed: int) -> None:
    assert choose_languages("geo", 1, seed=seed) == ["az"]
    assert choose_languages("geo", 2, seed=seed) == ["bn", "mk"]
    assert choose_languages("geo", 52, seed=seed) == choose_languages("all", None, seed=seed) == list(BACTRIAN_X)


def test_published_lists_are_given_as_printed_and_no_others() -> None:
    for strategy, lists in PUBLISHED.items():
        for seed, languages in lists.items():
            assert choose_languages(strategy, 14, seed=seed, published=True) == languages.split()
            assert len(set(languages.split()) & set(BACTRIAN_X)) == 14
    for strategy, k, seed in (("geo", 14, 3), ("geo", 13, 66), ("resource", 14, 66), ("fam", 14, 42)):
        with pytest.raises(SubsetError, match=r"published are, .*geo with seed 66, 42, 10"):
            choose_languages(strategy, k, seed=seed, published=True)
    with pytest.raises(SubsetError, match="these candidates"):
        choose_languages("geo", 14, seed=66, published=True, candidates=[*BACTRIAN_X, "yo"])


@given(st.permutations(BACTRIAN_X), st.sampled_from(["geo", "typo", "fam"]))
@settings(max_examples=10)
def test_the_order_of_the_candidates_does_not_matter(candidates: list[str], strategy: str) -> None:
    assert choose_languages(strategy, 5, seed=1, candidates=candidates) == choose_languages(strategy, 5, seed=1)


@given(st.lists(st.sampled_from(BACTRIAN_X), min_size=1, unique=True), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=30)
def test_k_different_candidates_are_chosen(candidates: list[str], seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(candidates)))
    numbers = {lang: float(len(lang) * ord(lang[0])) for lang in candidates}
    for strategy in ("geo", "typo", "mixed", "random", "resource", "pretrain"):
        weights = {"syntax": 1.0, "geo": 0.5} if strategy == "mixed" else None
        found = choose_languages(
            strategy, k, seed=seed, candidates=candidates, weights=weights, rows=numbers, shares=numbers
        )
        assert len(found) == len(set(found)) == k
        assert set(found) <= set(candidates)
        if k == len(candidates):
            assert found == sorted(candidates)


def vectors_file(folder: Path) -> tuple[Path, dict[str, list[float]]]:
    """A vector for each language that the paper's file has one for, and one language nobody asks for."""
    rng = np.random.default_rng(0)
    langs = [lang for lang in BACTRIAN_X if lang not in WITHOUT_VECTORS]
    vectors = {lang: np.round(rng.normal(size=4), 3).tolist() for lang in langs}
    lines = [f"{iso639_3(lang)[0]} {' '.join(map(str, vector))}" for lang, vector in vectors.items()]
    path = folder / "vectors.txt"
    path.write_text("\n".join([f"{len(lines) + 1} 4", *lines, "aaa 1 2 3 4"]) + "\n")
    return path, vectors


def test_semantic_vectors_are_clustered_as_they_are(tmp_path: Path) -> None:
    from sklearn.cluster import KMeans

    path, vectors = vectors_file(tmp_path)
    choice = choose("sem", 6, seed=66, vectors=path, without_features="leave_out")
    assert choice.left_out == WITHOUT_VECTORS
    labels = KMeans(n_clusters=6, random_state=66, n_init=10).fit_predict(np.array(list(vectors.values())))
    clusters = {frozenset(np.array(list(vectors))[labels == label].tolist()) for label in range(6)}
    assert {frozenset(choice.members(lang)) for lang in choice.languages} == clusters


def test_candidates_without_features_are_all_named(tmp_path: Path) -> None:
    path, _ = vectors_file(tmp_path)
    with pytest.raises(SubsetError, match=f"no vector in .* for {', '.join(WITHOUT_VECTORS)}: take"):
        choose_languages("sem", 14, seed=66, vectors=path, without_features="refuse")
    with pytest.raises(SubsetError, match=r"no learned features in URIEL for ar, az, en, .*, te: take"):
        choose_languages("learn", 14, seed=66, without_features="refuse")
    with pytest.raises(SubsetError, match=r"no learned features in URIEL for en: take"):
        choose_languages("learn", 1, seed=66, candidates=["en", "fr", "de"])
    with pytest.raises(SubsetError, match="k 37 is more than the 36 candidates that have what it needs"):
        choose_languages("learn", 37, seed=66)
    with pytest.raises(SubsetError, match=r"no family in URIEL .* for eu:"):
        choose_languages("fam", 2, seed=66, candidates=["eu", "sw", "th"])
    with pytest.raises(SubsetError, match="no number in the table for th:"):
        choose_languages("resource", 2, seed=66, candidates=["eu", "sw", "th"], rows={"eus": 5, "Swahili": 2})


@pytest.mark.parametrize(
    ("strategy", "k", "given", "message"),
    [
        ("geo", None, {}, "needs k"),
        ("geo", 0, {}, "needs k"),
        ("geo", 53, {}, "k 53 is more than the 52 candidates"),
        ("random", 53, {}, "k 53 is more than the 52 candidates"),
        ("fam", 15, {}, "more than the 14 families"),
        ("sem", 3, {}, "need a file of vectors"),
        ("resource", 3, {}, "needs rows"),
        ("pretrain", 3, {}, "needs shares"),
        ("pretrain", 1, {"shares": {"sw": 1.0, "swh": 2.0}}, "a language has two numbers: sw, swh are sw"),
        (
            "pretrain",
            3,
            {"shares": dict.fromkeys(BACTRIAN_X, 1.0), "cover": "all"},
            "cover is one of most, least, spread",
        ),
        ("mixed", 3, {"weights": {"geography": 1.0}}, "weights are numbers above 0 of syntax"),
        ("mixed", 3, {"weights": {"geo": 0.0}}, "weights are numbers above 0"),
        ("nearest", 3, {}, "there is no strategy 'nearest'"),
    ],
)
def test_what_cannot_be_chosen_is_refused(strategy: str, k: int | None, given: dict, message: str) -> None:
    with pytest.raises(SubsetError, match=message):
        choose_languages(strategy, k, seed=0, **given)


def test_candidates_in_any_form_come_back_as_codes() -> None:
    forms = ["zho", "Swahili", "iw", "arb", "yor_Latn", "Haitian", "swh"]
    assert choose_languages("geo", 6, seed=0, candidates=forms) == ["ar", "he", "ht", "sw", "yo", "zh"]


def test_varieties_that_share_a_code_are_kept_apart_as_they_were_given() -> None:
    forms = ["zh-Hans", "zh-Hant", "Simplified Chinese", "Standard Arabic", "Egyptian Arabic", "quy", "quz"]
    found = {candidate.label: candidate for candidate in candidates_from(forms)}
    assert list(found) == ["Simplified Chinese", "zh-Hant", "ar", "arz", "quy", "quz"]
    assert found["zh-Hant"].script == "Hant"
    assert found["arz"].codes == ("arz", "ara")
    shuffled = random.Random(1).sample(forms, len(forms))
    assert set(candidates_from(shuffled)) == set(found.values())
    # Two scripts of one language have the same features; Egyptian and Standard Arabic have their own.
    with pytest.raises(SubsetError, match="k 3 is more than the 2 different feature vectors that the 4 candidates"):
        choose_languages("typo", 3, seed=0, candidates=["zh-Hans", "zh-Hant", "zh-Latn", "th"])
    choice = choose("geo", 2, seed=0, candidates=["Standard Arabic", "Egyptian Arabic", "Moroccan Arabic", "th"])
    assert sorted(map(len, map(choice.members, choice.languages))) == [1, 3]


def test_resources_and_pretraining_shares() -> None:
    numbers = {"en": 50, "de": 20, "sw": 1, "th": 4, "yor": 4}
    among = ["en", "de", "sw", "th", "yo"]
    assert choose_languages("resource", 3, seed=0, candidates=among, rows=numbers) == ["de", "en", "th"]
    for cover, expected in (("most", ["de", "en"]), ("least", ["sw", "th"]), ("spread", ["en", "sw"])):
        assert choose_languages("pretrain", 2, seed=0, candidates=among, shares=numbers, cover=cover) == expected
    assert choose_languages("pretrain", 3, seed=0, candidates=among, shares=numbers) == ["en", "sw", "th"]


def test_without_one_group_the_rest_choose_as_they_would_alone() -> None:
    variants = {variant.without: variant.choice.languages for variant in ablate("typo", 14, seed=66)}
    assert list(variants) == [None, "syntax", "phonology", "inventory"]
    assert variants[None] == PUBLISHED["typo"][66].split()
    weights = {"geo": 2.0, "syntax": 1.0}
    mixed = {variant.without: variant.choice.languages for variant in ablate("mixed", 9, seed=1, weights=weights)}
    assert mixed["syntax"] == choose_languages("mixed", 9, seed=1, weights={"geo": 1.0})
    assert mixed[None] == choose_languages("mixed", 9, seed=1, weights=weights) != mixed["syntax"]
    with pytest.raises(SubsetError, match="strategy geo has the feature group geo alone"):
        ablate("geo", 3, seed=0)
