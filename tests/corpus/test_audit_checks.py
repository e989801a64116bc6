"""Each check of the audit by itself, on plain texts and arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.corpus.cleaning import dropped_rows
from raysel.corpus.degenerate import degenerate
from raysel.corpus.duplicates import (
    PLACES,
    alike,
    band_keys,
    candidates,
    equal_groups,
    near_groups,
    rows_per_band,
    signatures,
)  # fmt: skip
from raysel.corpus.label_scripts import script_mismatch, scripts_of_label
from raysel.corpus.plain_text import normalised, shingles, tokens_of, whole_text
from raysel.languages.identification import identify, known_languages
from tests.corpus.samples import demo_rows


@pytest.mark.parametrize(
    ("one", "other"),
    [("Ｈｅｌｌｏ  World", "hello\nworld"), ("STRASSE", "straße"), (" ｶﾞ ", "ガ"), ("a\u00a0b", "A b")],
)
def test_texts_that_are_the_same_when_normalised(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
    assert whole_text(one, "r", None) == whole_text(other, "R", None)


def test_messages_stay_apart_and_earlier_ones_count() -> None:
    assert whole_text("a", "b c", None) != whole_text("a b", "c", None)
    assert whole_text("a", "b", '[{"role": "system", "content": "s"}]') != whole_text("a", "b", None)


def test_tokens_in_scripts_with_and_without_spaces() -> None:
    assert tokens_of("Don't, «you» 3.5!") == ["don", "t", "you", "3", "5"]
    assert tokens_of("नमस्ते, दुनिया।") == ["नमस्ते", "दुनिया"]
    assert tokens_of("我爱 Python吗？") == ["我", "爱", "python", "吗"]


@given(st.lists(st.sampled_from("abcdef "), min_size=5, max_size=60).map("".join), st.randoms(use_true_random=False))
def test_the_estimate_is_near_the_jaccard_similarity(text: str, random: object) -> None:
    letters = list(text)
    letters[random.randrange(len(letters))] = "z"
    other = "".join(letters)
    a, b = (set(shingles(t, 5).tolist()) for t in (text, other))
    sketch = signatures([text, other], 1024)
    estimate = (sketch[0] == sketch[1]).mean()
    assert abs(estimate - len(a & b) / len(a | b)) < 0.09


@pytest.mark.parametrize(("threshold", "rows"), [(0.5, 2), (0.8, 8), (0.9, 8), (0.95, 16)])
def test_bands_meet_two_texts_at_the_threshold(threshold: float, rows: int) -> None:
    assert rows_per_band(threshold) == rows
    assert 1 - (1 - threshold**rows) ** (PLACES // rows) >= 0.9


def test_pairs_share_a_band_and_equal_rows_are_left_out() -> None:
    keys = np.array([5, 7, 5, 5, 7, 9], np.uint64)
    rank = np.array([3, 1, -1, 0, 2, 4])
    assert sorted(map(tuple, candidates(keys, rank).tolist())) == [(1, 4), (3, 0)]
    sketch = signatures(["one text that is", "one text that is", "nothing alike at all"], PLACES)
    by_band = band_keys(sketch, 8)
    assert by_band.shape == (16, 3)
    assert (by_band[:, 0] == by_band[:, 1]).all()
    assert not (by_band[:, 0] == by_band[:, 2]).any()


def test_near_texts_with_another_answer_are_two_samples() -> None:
    texts, answers = ["a b c d e f g"] * 3, ["in the year 1805", "in the year 1805", "nobody knows it"]
    both = np.hstack([signatures(texts, PLACES), signatures(answers, 32)])
    agree, kept = alike(both[[0, 0]], both[[1, 2]], 0.8)
    assert (agree.tolist(), kept.tolist()) == ([PLACES, PLACES], [True, False])


def test_the_lowest_rank_of_a_group_stays() -> None:
    digests = np.array([[1, 1], [2, 2], [1, 1], [1, 3], [2, 2], [1, 1]], np.uint64)
    rank = np.array([5, 4, 0, 1, 2, 3])
    assert sorted(map(tuple, equal_groups(digests, rank).tolist())) == [(0, 2), (1, 4), (5, 2)]
    # A chain 0 - 3 - 4 is one group; 3 is most like 4.
    pairs = np.array([[3, 0, 110], [4, 3, 120], [3, 0, 110], [1, 2, 128]])
    found = near_groups(pairs, np.array([0, 5, 3, 9, 4]))
    assert sorted(map(tuple, found.tolist())) == [(1, 2, 2, 128), (3, 0, 4, 120), (4, 0, 3, 120)]
    assert len(near_groups(np.empty((0, 3), np.int64), rank)) == 0


LONG_EN = "The council decided last night that the old bridge over the river will be closed to all cars in the spring."
LONG_SW = "Baraza liliamua jana usiku kwamba daraja la zamani juu ya mto litafungwa kwa magari yote wakati wa masika."


@pytest.mark.parametrize(
    ("prompt", "response", "label", "found"),
    [
        (LONG_EN, "It will be closed in the spring.", "sw", "en"),
        (LONG_EN, "It will be closed in the spring.", "en", None),
        (LONG_SW, "Litafungwa kwa magari yote wakati wa masika.", "en", "sw"),
        # Translations, either way, and a question in English about a text in the language.
        (f"Translate into Swahili: {LONG_EN}", LONG_SW, "sw", None),
        (f"Translate into English: {LONG_SW}", LONG_EN, "sw", None),
        (f"What is this text about?\n\n{LONG_SW}", "politics", "sw", None),
        # Too little text, a language that the model does not know, and one that it does not tell from its neighbour.
        ("Habari gani?", "Nzuri.", "en", None),
        (LONG_EN, "In spring.", "ha", None),
        ("Jučer je gradsko vijeće odlučilo da će stari most biti zatvoren za sav promet.", "Da.", "sr", None),
    ],
)  # fmt: skip
def test_a_language_is_a_mismatch_only_where_all_of_the_row_says_so(
    prompt: str, response: str, label: str, found: str | None
) -> None:
    identified = identify(prompt, response, label)
    assert (identified.found if identified.instead is not None else None) == found
    assert (identified.label_probability is None) == (label == "ha")


def test_the_demo_corpus_is_in_the_languages_it_says() -> None:
    rows = demo_rows()
    identified = [identify(row["prompt"], row["response"], row["lang"]) for row in rows]
    assert not [row["id"] for row, one in zip(rows, identified, strict=True) if one.instead is not None]
    assert np.mean([one.label_probability > 0.5 for one in identified]) > 0.95


def test_the_model_is_the_one_in_the_package_and_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    from raysel.languages.identification import _detector

    _detector.cache_clear()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert identify(LONG_SW, LONG_SW, "sw").found == "sw"
    assert {"en", "sw", "yo", "zh", "yue", "nb", "bs"} <= known_languages()
    assert "ha" not in known_languages()


@pytest.mark.parametrize(
    ("label", "scripts"),
    [
        ("sw", {"Latn"}), ("zh", {"Hani", "Bopo"}), ("zh-Hant", {"Hani", "Bopo"}), ("ja", {"Hani", "Hira", "Kana"}),
        ("ko", {"Hang", "Hani"}), ("Korean", {"Hang", "Hani"}), ("sr", {"Cyrl", "Latn"}), ("sr-Latn", {"Latn"}),
        ("swh_Latn", {"Latn"}), ("Egyptian Arabic", {"Arab"}), ("Simplified Chinese", {"Hani", "Bopo"}),
        ("ur", {"Arab"}), ("kk", {"Cyrl", "Latn", "Arab"}), ("hy", {"Armn"}),
    ],
)  # fmt: skip
def test_scripts_of_a_label(label: str, scripts: set[str]) -> None:
    assert scripts_of_label(label) == scripts


@pytest.mark.parametrize(
    ("text", "label", "mismatch"),
    [
        ("Barev dzez, inchpes eq aysor? Lav em, shnorhakalutyun.", "hy", True),
        ("Բարեւ ձեզ, ինչպե՞ս եք այսօր։ Լավ եմ, շնորհակալություն։", "hy", False),
        ("Moja kuća je velika i lijepa, a vrt je mali.", "sr", False),
        ("Моја кућа је велика и лепа, а башта је мала.", "sr-Latn", True),
        (f"Translate into Chinese: {LONG_EN}\n行。", "zh", False),
        ("Hello", "th", False),
    ],
)
def test_a_text_in_another_script(text: str, label: str, mismatch: bool) -> None:
    assert (script_mismatch(text, label) is not None) == mismatch


@pytest.mark.parametrize(
    ("prompt", "response", "problem"),
    [
        ("???", "...", "no letter or digit"),
        ("What is this?", "cut \ufffd here", "1 replacement characters"),
        ("What is this?", "a\x00b", "U+0000"),
        ("Repeat after me, please", "  repeat after ME, please ", "the response repeats the prompt"),
        ("Say it", "the cat sat " * 20, "of the response's runs of 4 words are repeats"),
        ("Say it", "哈" * 60, "are repeats"),
        ("Say it", "a" * 200, "are repeats"),
        ("What is 6 x 7?", "42", None),
        ("yes", "yes", None),
        ("Tabs\tand\r\nlines", LONG_SW, None),
        (LONG_EN, LONG_SW, None),
    ],
)
def test_degenerate_texts(prompt: str, response: str, problem: str | None) -> None:
    found = degenerate(prompt, response)
    assert found is None if problem is None else found is not None and problem in found[0]


def test_no_text_of_the_demo_corpus_is_degenerate_or_in_a_wrong_script() -> None:
    for row in demo_rows():
        assert degenerate(row["prompt"], row["response"]) is None, row["id"]
        assert script_mismatch(f"{row['prompt']}\n{row['response']}", row["lang"]) is None, row["id"]


def test_one_of_the_rows_that_repeat_each_other_stays() -> None:
    exact, near = "exact_duplicate", "near_duplicate"
    findings = [
        ("b", exact, "a"),
        ("c", exact, "a"),
        ("d", near, "c2"),
        ("a", "degenerate", None),
        ("x", "other", None),
    ]
    assert dropped_rows(findings, [exact]) == {"b": exact, "c": exact}
    assert dropped_rows(findings, [near]) == {"d": near}
    # What b and c repeat goes for something else: b stays in its place.
    assert dropped_rows(findings, [exact, "degenerate"]) == {"a": "degenerate", "c": exact}
    assert dropped_rows([], [exact]) == {}
