"""The value of a metric as the report writes it."""

from typing import Protocol

from raysel.report.comparison import Comparison
from raysel.report.formats import decimal, metric_digits


class Writer(Protocol):
    """Writes a value of a metric; `sign` writes the plus too."""

    def __call__(self, value: float | None, metric: str, sign: bool = False) -> str: ...


def metric_writer(comparison: Comparison | None) -> Writer:
    """Shares as percentages, everything else as it is."""
    shares = comparison.shares if comparison else set()

    def write(value: float | None, metric: str, sign: bool = False) -> str:
        if metric in shares:
            return decimal(None if value is None else 100 * value, 1, sign=sign)
        return decimal(value, metric_digits(metric), sign=sign)

    return write
