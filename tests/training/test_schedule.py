import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysel.training.schedule import learning_rate


@given(st.integers(1, 200), st.sampled_from(["constant", "linear", "cosine"]), st.floats(0, 1), st.floats(1e-6, 1))
def test_it_rises_to_the_peak_and_falls(steps: int, schedule: str, warmup: float, peak: float) -> None:
    rates = [learning_rate(s, steps, peak=peak, schedule=schedule, warmup_share=warmup) for s in range(steps)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(peak)
    assert all(0 <= rate <= peak * (1 + 1e-9) for rate in rates)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_known_values() -> None:
    def at(step: int, schedule: str) -> float:
        return learning_rate(step, 12, peak=2.0, schedule=schedule, warmup_share=1 / 6)

    assert [at(0, "linear"), at(1, "linear"), at(2, "linear"), at(7, "linear")] == [1.0, 2.0, 2.0, 1.0]
    assert at(7, "cosine") == pytest.approx(1.0)
    assert at(11, "constant") == 2.0
