from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.evaluation.parts import rows_of, spread


@given(st.integers(2, 3000), st.floats(0.001, 0.999))
def test_development_and_test_items_are_all_items_and_none_is_both(n: int, share: float) -> None:
    dev, test = rows_of(n, share, "dev"), rows_of(n, share, "test")
    assert sorted(dev + test) == list(range(n))
    assert 1 <= len(dev) <= n - 1
    assert abs(len(dev) - n * share) <= 1
    assert dev == sorted(dev)
    assert test == sorted(test)


@given(st.integers(1, 3000), st.data())
def test_rows_are_evenly_spread(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    rows = spread(n, k)
    assert len(set(rows)) == k
    assert 0 <= rows[0] <= n // k
    assert n - 1 - n // k <= rows[-1] < n
    gaps = {b - a for a, b in pairwise(rows)}
    assert gaps <= {n // k, n // k + 1}


def test_by_hand() -> None:
    assert rows_of(10, 0.2, "dev") == [2, 7]
    assert rows_of(10, 0.2, "test") == [0, 1, 3, 4, 5, 6, 8, 9]
    assert rows_of(3, None, "whole") == [0, 1, 2]
    assert spread(5, 0) == []


@pytest.mark.parametrize(("n", "share"), [(10, None), (10, 0.0), (10, 1.0), (1, 0.5), (0, 0.5)])
def test_what_cannot_be_divided_is_refused(n: int, share: float | None) -> None:
    with pytest.raises(ValueError, match=r"share between 0 and 1|cannot be divided"):
        rows_of(n, share, "dev")
    with pytest.raises(ValueError, match="cannot be chosen"):
        spread(3, 4)
