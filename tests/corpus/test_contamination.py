"""N-grams of evaluation items, in words and in letters."""

from hypothesis import given
from hypothesis import strategies as st

from raysel.corpus.contamination import MOST_ITEMS, item_grams, overlaps

WORDS = [f"w{i}" for i in range(40)]
THAI = "พนักงานไปรษณีย์ส่งพัสดุกล่องใหญ่ให้คุณยายที่บ้านริมแม่น้ำก่อนฝนตกหนักเมื่อเย็นวานนี้"


def found(text: str, *items: list[str], n: int = 13) -> list[int]:
    return [one.item for one in overlaps([[text]], item_grams(items, n)) if one is not None]


@given(st.integers(0, 27), st.integers(1, 20), st.sampled_from([6, 9, 13]))
def test_a_run_of_n_tokens_is_found_and_a_shorter_one_is_not(start: int, length: int, n: int) -> None:
    run = " ".join(WORDS[start : start + length])
    shared = len(run.split())
    assert found(f"before {run} after", [" ".join(WORDS)], n=n) == ([0] if shared >= n else [])


def test_case_punctuation_and_spaces_do_not_hide_it_and_the_share_is_told() -> None:
    items = item_grams([[" ".join(WORDS)], ["another item altogether, which is short"]], 13)
    [one] = overlaps([["W0, w1; W2 w3\nw4 w5 w6 «w7» w8 w9 w10 w11 w12! w13"]], items)
    assert (one.item, one.share, one.quoted) == (0, 2 / 28, WORDS[:13])
    assert overlaps([["nothing of it"], [], [""]], items) == [None, None, None]


def test_a_run_across_two_texts_of_a_row_is_none() -> None:
    items = item_grams([[" ".join(WORDS)]], 13)
    assert overlaps([[" ".join(WORDS[:10]), " ".join(WORDS[10:22])]], items) == [None]


def test_short_items_are_compared_whole_unless_very_short() -> None:
    items = (["the frog jumped over nine lilies", "yes", "no"], ["where do fish live", "in water"])
    assert found("Well: the frog jumped over nine lilies again", *items) == [0]
    assert found("the frog jumped over nine logs; where do fish live in water", *items) == []
    # A choice of a long question is no item by itself.
    assert found("the frog jumped over nine lilies", [" ".join(WORDS), "the frog jumped over nine lilies"]) == []


def test_what_very_many_items_share_is_ignored() -> None:
    instruction = " ".join(WORDS[:20])
    few = [[f"{instruction} item{i}"] for i in range(MOST_ITEMS)]
    assert found(instruction, *few) == [0]
    assert found(instruction, *few, [f"{instruction} more"]) == []


def test_thai_letters_are_no_words() -> None:
    assert found(f"ข้อความ: {THAI} จบ", [THAI]) == [0]
    assert found(THAI[:30], [THAI]) == []
    chinese = "木匠在大雪封住山谷的小路之前从教堂后面取来了九块弯曲的木板"
    assert found(f"他说{chinese[3:18]}", [chinese]) == [0]


def test_no_items_and_no_rows() -> None:
    assert overlaps([["text"]], item_grams([], 13)) == [None]
    assert overlaps([], item_grams([[" ".join(WORDS)]], 13)) == []
