"""Quotas: shares add up, and what the corpus lacks is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.mixture.quota import QuotaError, proportional


@given(st.dictionaries(st.sampled_from(["ar", "en", "sw", "th", "zh"]), st.integers(1, 500), min_size=1), st.data())
def test_shares_add_up_and_follow_what_there_is(available: dict[str, int], data: st.DataObject) -> None:
    rows = sum(available.values())
    total = data.draw(st.integers(1, rows))
    counts = proportional(available, total)
    assert sum(counts.values()) == total
    for lang, count in counts.items():
        assert count <= available[lang]
        assert abs(count - total * available[lang] / rows) < 1


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(QuotaError, match="11 is more than the 10 rows"):
        proportional({"en": 4, "sw": 6}, 11)
