"""Which level the next samples come from: every row once, in proportion, and by the stated rule."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.mixture.loss_aware import RecentLosses, next_block


def recent(**losses: float) -> RecentLosses:
    known = RecentLosses(memory=0.5)
    known.add_block([{int(level[1:]): loss for level, loss in losses.items()}])
    return known


sizes = st.dictionaries(st.integers(0, 6), st.integers(0, 60), min_size=1)


@given(sizes, st.lists(st.floats(0.01, 20), min_size=7, max_size=7), st.floats(-3, 3), st.integers(1, 50))
def test_blocks_go_through_every_row_once(left: dict, losses: list[float], strength: float, size: int) -> None:
    known, taken, rest = recent(**{f"l{i}": loss for i, loss in enumerate(losses)}), Counter(), Counter(left)
    while rest.total():
        block = next_block(rest, known, size, strength=strength)
        assert len(block) == min(size, rest.total())
        taken.update(block)
        rest.subtract(block)
        assert min(rest.values()) >= 0
    assert taken == +Counter(left)


def test_without_strength_or_losses_levels_come_in_proportion() -> None:
    left = {0: 300, 1: 100, 2: 200}
    assert Counter(next_block(left, RecentLosses(0.5), 60, strength=2)) == {0: 30, 1: 10, 2: 20}
    assert Counter(next_block(left, recent(l0=9.0, l1=1.0, l2=2.0), 60, strength=0)) == {0: 30, 1: 10, 2: 20}


def test_shares_follow_the_losses_by_the_rule() -> None:
    known = recent(l0=3.0, l1=1.0)
    # (3 / 2) ** 1 to (1 / 2) ** 1 at equal remainders; squared it is 9 to 1.
    assert Counter(next_block({0: 100, 1: 100}, known, 40, strength=1)) == {0: 30, 1: 10}
    assert Counter(next_block({0: 100, 1: 100}, known, 40, strength=2)) == {0: 36, 1: 4}
    assert Counter(next_block({0: 100, 1: 100}, known, 40, strength=-1)) == {0: 10, 1: 30}


def test_a_loss_that_rounds_to_nothing_is_a_small_one() -> None:
    known = recent(l0=1.0, l1=0.001, l2=0.00001)
    block = Counter(next_block({0: 100, 1: 100, 2: 100}, known, 60, strength=1))
    assert block == {0: 60}


def test_a_level_gives_no_more_than_it_has() -> None:
    block = Counter(next_block({0: 5, 1: 100, 2: 100}, recent(l0=9.0, l1=1.0, l2=1.0), 45, strength=3))
    assert block == {0: 5, 1: 20, 2: 20}


def test_each_level_is_spread_over_its_block() -> None:
    block = next_block({0: 60, 1: 20}, RecentLosses(0.5), 40, strength=1)
    assert [Counter(block[start : start + 8])[1] for start in range(0, 40, 8)] == [2] * 5


def test_the_recent_loss_is_a_running_mean_of_blocks() -> None:
    known = RecentLosses(memory=0.75)
    known.add_block([{0: 4.0, 1: 2.0}, {0: 2.0}])
    assert known.of_level == {0: 3.0, 1: 2.0}
    known.add_block([{0: 1.0}])
    assert known.of_level == pytest.approx({0: 2.5, 1: 2.0})
