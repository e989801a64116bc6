"""The section `languages`: what each strategy needs, and what is given in vain."""

from typing import Any

import pytest
from pydantic import ValidationError

from raysel.languages.settings import LanguagesSettings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategy": "geo"}, "strategy geo needs k"),
        ({"strategy": "chosen"}, "needs chosen, the list of languages"),
        ({"strategy": "sem", "k": 3}, "needs vectors, a file"),
        ({"strategy": "pretrain", "k": 3}, "needs pretrain, a CSV or JSON file"),
        ({"strategy": "mixed", "k": 3, "weights": {"semantic": 1}}, "the weight of semantic needs vectors"),
        ({"strategy": "mixed", "k": 3, "weights": {"geo": 0}}, "greater than 0"),
        ({"strategy": "mixed", "k": 3, "weights": {"geography": 1}}, "'syntax', 'phonology', 'inventory', 'geo'"),
        ({"strategy": "mixed", "k": 14, "published": True}, "published lists are those of typo"),
        ({"strategy": "geo", "k": 0}, "greater than or equal to 1"),
        ({"strategy": "pretrain", "k": 1, "pretrain": "x", "cover": "all"}, "'most', 'least' or 'spread'"),
    ],
)
def test_what_a_strategy_lacks_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LanguagesSettings(**given)


@pytest.mark.parametrize(
    ("given", "idle"),
    [
        ({}, []),
        ({"strategy": "sem", "k": 3, "vectors": "v.txt", "without_features": "leave_out"}, []),
        ({"strategy": "mixed", "k": 3, "vectors": "v.txt"}, []),
        ({"strategy": "pretrain", "k": 3, "pretrain": "p.csv", "cover": "most"}, []),
        ({"k": 3, "candidates": ["sw"]}, ["k: the strategy is all", "candidates: the strategy is all"]),
        ({"strategy": "geo", "k": 3, "cover": "most"}, ["cover: the strategy is geo"]),
        (
            {"strategy": "geo", "k": 3, "chosen": ["sw"], "vectors": "v"},
            ["chosen: the strategy", "vectors: the"],
        ),
        ({"strategy": "random", "k": 3, "without_features": "refuse"}, ["without_features: the strategy is random"]),
        ({"strategy": "mixed", "k": 3, "vectors": "v", "weights": {"geo": 1}}, ["vectors: weights has no semantic"]),
        ({"strategy": "sem", "k": 14, "published": True, "vectors": "v"}, ["vectors: the published list is taken"]),
    ],
)
def test_what_is_given_in_vain_is_reported(given: dict[str, Any], idle: list[str]) -> None:
    found = LanguagesSettings(**given).without_effect()
    assert len(found) == len(idle)
    assert all(reason.startswith(start) for reason, start in zip(found, idle, strict=True))
