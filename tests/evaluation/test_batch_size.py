from hypothesis import given
from hypothesis import strategies as st

from raysel.evaluation.batch_size import LARGEST, largest_that_fits


@given(st.integers(1, 500))
def test_the_largest_power_of_two_that_fits(room: int) -> None:
    batch = largest_that_fits(lambda batch: batch <= room)
    assert batch <= room
    assert batch == LARGEST or 2 * batch > room


def test_one_where_nothing_fits() -> None:
    assert largest_that_fits(lambda batch: False) == 1
