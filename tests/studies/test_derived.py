"""Corpora derived for a study: planted confusion, translation pairs, parts of one."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.studies.confusion import confused
from raysel.studies.translation import translations


def row(lang: str, number: int, group: str | None, task: str = "qa") -> dict[str, Any]:
    return {
        "id": f"{lang}-{number}", "lang": lang, "lang_raw": lang, "prompt": f"{lang} asks {number}",
        "response": f"{lang} says {number}", "history": None, "task": task, "source": "s", "group": group,
    }  # fmt: skip


def corpus(langs: list[str], items: int) -> list[dict[str, Any]]:
    return [row(lang, number, f"g{number}") for lang in langs for number in range(items)]


@given(st.integers(2, 4), st.integers(1, 30), st.floats(0, 1), st.integers(0, 5))
def test_confused_samples_answer_in_another_language_and_the_others_are_as_they_were(
    langs: int, items: int, share: float, seed: int
) -> None:
    rows = corpus(["de", "en", "sw", "th"][:langs], items)
    found = confused(rows, share, seed=seed)
    assert [of["id"] for of in found] == [of["id"] for of in rows]
    for before, after in zip(rows, found, strict=True):
        assert {**after, "response": before["response"]} == before
        if after["response"] != before["response"]:
            said_by, _, number = after["response"].partition(" says ")
            assert before["lang"] != said_by == "de"  # of languages with as many rows the first by its code
            assert number == before["id"].rpartition("-")[2]  # the same item


def test_the_share_is_kept_and_the_order_of_the_rows_does_not_matter() -> None:
    rows = corpus(["de", "en", "sw"], 400)
    found = {of["id"]: of["response"] for of in confused(rows, 0.5, seed=0)}
    changed = sum(found[of["id"]] != of["response"] for of in rows)
    assert 0.45 < changed / (2 * 400) < 0.55  # of the two languages beside the first
    assert found == {of["id"]: of["response"] for of in confused(rows[::-1], 0.5, seed=0)}
    assert found != {of["id"]: of["response"] for of in confused(rows, 0.5, seed=1)}
    assert confused(rows, 0.0, seed=0) == rows


def test_without_the_same_item_the_task_and_then_anything_is_taken() -> None:
    rows = [row("de", 1, None, "qa"), row("en", 2, None, "qa"), row("en", 3, None, "sum"), row("sw", 4, "g", "other")]
    found = {of["id"]: of["response"] for of in confused(rows, 1.0, seed=0)}
    assert found["de-1"] == "en says 2"
    assert found["en-2"] == "en says 2"
    assert found["sw-4"] in ("en says 2", "en says 3")
    with pytest.raises(ValueError, match="two languages"):
        confused(corpus(["de"], 3), 0.5, seed=0)


def test_translation_pairs_go_both_ways_and_belong_to_the_language_that_is_written() -> None:
    rows = [*corpus(["en", "de", "th"], 2), row("sw", 7, "g7"), row("en", 8, None)]
    pairs = translations(rows)
    assert len(pairs) == 2 * 2 * 2
    assert len({of["id"] for of in pairs}) == len(pairs)
    into, out = ([of for of in pairs if (of["lang"] == "en") == english] for english in (True, False))
    assert len(into) == len(out)
    for of in into:
        assert of["response"].startswith("en asks")
        assert of["prompt"].startswith("Translate into English:\n")
        assert not of["prompt"].endswith(of["response"])
    german = next(of for of in out if of["lang"] == "de" and of["group"] == "g0")
    assert (german["prompt"], german["response"]) == ("Translate into German:\nen asks 0", "de asks 0")
    # The item stays what it was, and so what is held out.
    assert len({of["id"] for of in translations([*rows, {**row("de", 9, "g0"), "id": "twice"}])}) == len(pairs) + 2
    assert {(of["source"], of["task"], of["group"]) for of in pairs} == {("s", "qa", "g0"), ("s", "qa", "g1")}
