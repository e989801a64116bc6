"""What a fingerprint hashes of the settings: everything except how to execute."""

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raysel.settings import Section, counted, execution
from raysel.store import digest


class Metric(StrEnum):
    L2 = "euclidean"


class Inner(Section):
    layer: int = -1
    batch: int = execution(8, gt=0)


class Outer(Section):
    name: str = "x"
    metric: Metric = Metric.L2
    inner: Inner = Inner()
    several: tuple[Inner, ...] = (Inner(),)
    by_name: dict[str, Inner] = {"a": Inner()}
    workers: int = execution(1)


BATCHES = st.integers(1, 99)


@given(BATCHES, BATCHES, BATCHES, st.integers(), st.integers())
def test_how_to_execute_changes_no_fingerprint(one: int, two: int, three: int, workers: int, layer: int) -> None:
    settings = Outer(
        inner=Inner(batch=one, layer=layer),
        several=(Inner(batch=two),),
        by_name={"a": Inner(batch=three)},
        workers=workers,
    )
    assert digest(counted(settings)) == digest(counted(Outer(inner=Inner(layer=layer))))
    assert (digest(counted(settings)) == digest(counted(Outer()))) == (layer == -1)


def test_counted_is_plain_json() -> None:
    assert counted(Outer()) == {
        "name": "x",
        "metric": "euclidean",
        "inner": {"layer": -1},
        "several": [{"layer": -1}],
        "by_name": {"a": {"layer": -1}},
    }
    assert counted({"seed": 3, "section": Inner(), "none": None}) == {"seed": 3, "section": {"layer": -1}, "none": None}


@pytest.mark.parametrize("wrong", [{"lajer": 1}, {"batch": 0}, {"layer": "x"}])
def test_sections_are_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Inner(**wrong)


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Inner().layer = 3
