"""The variance table against scikit-learn's least squares, and in cases known by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from raysel.separability.explained import VarianceTable


def test_shares_are_those_of_least_squares_on_indicators() -> None:
    rng = np.random.default_rng(0)
    lang, task = rng.integers(4, size=500), rng.integers(3, size=500)
    source = np.where(rng.random(500) < 0.8, lang % 2, 1 - lang % 2)  # a proxy for the language
    scores = 0.3 * lang + 0.1 * task + rng.normal(scale=0.2, size=500)
    table = VarianceTable({"language": range(4), "task": range(3), "source": range(3)})
    for part in (slice(0, 200), slice(200, 500)):
        table.add({"language": lang[part], "task": task[part], "source": source[part]}, scores[part])

    def r_squared(*factors: np.ndarray) -> float:
        X = np.concatenate([np.eye(4)[codes] for codes in factors], 1)
        return LinearRegression().fit(X, scores).score(X, scores)

    shares = table.shares()
    assert table.explained() == pytest.approx(r_squared(lang, task, source))
    assert shares["language"].alone == pytest.approx(r_squared(lang))
    assert shares["language"].unique == pytest.approx(r_squared(lang, task, source) - r_squared(task, source))
    assert shares["source"].alone == pytest.approx(r_squared(source))
    assert shares["source"].unique < 0.01 < shares["source"].alone
    assert shares["source"].levels == 2


def test_a_factor_that_decides_everything_and_scores_that_do_not_vary() -> None:
    table = VarianceTable({"language": "ab", "length": [0]})
    table.add({"language": "aabb", "length": [0] * 4}, np.array([0.1, 0.1, 0.7, 0.7]))
    assert table.shares()["language"].alone == pytest.approx(1)
    assert table.shares()["length"].alone == pytest.approx(0)
    constant = VarianceTable({"language": "ab"})
    constant.add({"language": "ab"}, np.array([0.3, 0.3]))
    assert constant.explained() == 0
