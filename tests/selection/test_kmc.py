"""KMC and random selection: distinct members, the nearest to the centroids, seeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysel.selection import kmc, random


def test_takes_one_member_of_each_clear_cluster() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0], [50.0, 50.0]])
    vectors = np.repeat(centres, 25, axis=0) + rng.normal(size=(100, 2))
    chosen = kmc.select(vectors, 4, seed=0)
    assert sorted(index // 25 for index in chosen) == [0, 1, 2, 3]
    for index in chosen:
        members = vectors[index // 25 * 25 : index // 25 * 25 + 25]
        gaps = np.linalg.norm(members - members.mean(0), axis=1)
        assert gaps[index % 25] == gaps.min()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.data(), st.integers(0, 3))
def test_chosen_members_are_distinct_even_among_duplicates(n: int, data: st.DataObject, seed: int) -> None:
    k = data.draw(st.integers(0, n))
    vectors = np.random.default_rng(seed).integers(0, 2, size=(n, 2)).astype(float)
    chosen = kmc.select(vectors, k, seed=seed)
    assert len(set(chosen.tolist())) == k
    assert np.array_equal(chosen, kmc.select(vectors, k, seed=seed))


@pytest.mark.parametrize(
    "select", [lambda: kmc.select(np.zeros((3, 2)), 4, seed=0), lambda: random.select(3, 4, seed=0)]
)
def test_more_than_there_is_is_refused(select: object) -> None:
    with pytest.raises(ValueError, match="4 rows cannot be chosen from 3"):
        select()


def test_random_is_seeded_and_distinct() -> None:
    chosen = random.select(100, 30, seed=7)
    assert len(set(chosen.tolist())) == 30
    assert np.array_equal(chosen, random.select(100, 30, seed=7))
    assert not np.array_equal(chosen, random.select(100, 30, seed=8))
