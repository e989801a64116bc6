"""Which languages are trained on: `choose_languages`, and `choose`, which also says how the choice came about."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from raysel.languages import subsets, uriel
from raysel.languages.candidates import Candidate, candidates_from
from raysel.languages.codes import normalise
from raysel.languages.files import read_vectors
from raysel.languages.published import BACTRIAN_X, FAMILY_TABLE, PUBLISHED, PUBLISHED_K
from raysel.languages.settings import Cover, Group, WithoutFeatures
from raysel.languages.subsets import SubsetError

T = TypeVar("T")
STRATEGIES = ("all", "random", "fam", "typo", "geo", "learn", "sem", "mixed", "resource", "pretrain")
SEMANTIC = "semantic"
GROUPS: tuple[str, ...] = get_args(Group)
GROUPS_OF = {
    "typo": ("syntax", "phonology", "inventory"),
    "geo": ("geo",),
    "learn": ("learned",),
    "sem": (SEMANTIC,),
}


class Sources(TypedDict, total=False):
    """What some strategies need, and what may be asked of all.

    vectors: a file of vectors in word2vec's text form (sem; semantic in mixed); weights: feature group -> weight
    (mixed; without them every group that is there weighs 1); rows: language -> rows (resource); shares: language ->
    share of the pre-training data, cover: which of them to take (pretrain); published: the paper's printed list;
    without_features: whether candidates that lack what is asked for are refused or left out. Left open, they are
    refused, but of all 52 of Bactrian-X they are left out, as arXiv 2410.07809 did.
    """

    vectors: str | Path | None
    weights: Mapping[str, float] | None
    rows: Mapping[str, float] | None
    shares: Mapping[str, float] | None
    cover: str
    without_features: WithoutFeatures | None
    published: bool


@dataclass(frozen=True)
class Choice:
    """languages: the chosen ones; candidates: what they were chosen from, by label; left_out: candidates without
    features; cluster_of: for strategies by k-means, each candidate's chosen language."""

    strategy: str
    languages: list[str]
    candidates: list[Candidate]
    left_out: list[str] = field(default_factory=list)
    cluster_of: dict[str, str] = field(default_factory=dict)

    def members(self, language: str) -> list[str]:
        return [label for label, chosen in self.cluster_of.items() if chosen == language]


def choose_languages(
    strategy: str, k: int | None, *, seed: int, candidates: Iterable[str] = BACTRIAN_X, **sources: Unpack[Sources]
) -> list[str]:
    """`k` of the candidates, sorted; each as its ISO 639-1 code, else its ISO 639-3 code.

    Candidates may be given in any form that `normalise` understands. Where two that differ have the same code (Standard
    and Egyptian Arabic), they come back as they were given. Raises `SubsetError` where there is no such choice.
    """
    return choose(strategy, k, seed=seed, candidates=candidates, **sources).languages


def choose(
    strategy: str, k: int | None, *, seed: int, candidates: Iterable[str] = BACTRIAN_X, **sources: Unpack[Sources]
) -> Choice:
    """The choice, with the clusters it came from."""
    if strategy not in STRATEGIES:
        raise SubsetError(f"there is no strategy {strategy!r}: the strategies are {', '.join(STRATEGIES)}")
    found = candidates_from(candidates)
    if strategy == "all":
        return _chosen(strategy, [candidate.label for candidate in found], found)
    k = _needed(strategy, k)
    if sources.get("published"):
        return _chosen(strategy, _published(strategy, k, seed, found), found)
    refuse = _refuses(found, sources)
    if strategy == "random":
        _refuse_too_many(k, found, [])
        return _chosen(strategy, [found[row].label for row in subsets.at_random(len(found), k, seed=seed)], found)
    if strategy == "fam":
        return _by_family(k, seed, found, refuse)
    if strategy in ("resource", "pretrain"):
        return _by_amount(strategy, k, found, refuse, sources)
    kept, groups, left_out = _features(strategy, found, sources, refuse)
    _refuse_too_many(k, kept, left_out)
    return _clustered(strategy, k, seed, kept, groups, _weights(strategy, groups, sources), left_out)


@dataclass(frozen=True)
class Variant:
    """What is chosen without one feature group (None: with all of them)."""

    without: str | None
    choice: Choice


def ablate(
    strategy: str, k: int | None, *, seed: int, candidates: Iterable[str] = BACTRIAN_X, **sources: Unpack[Sources]
) -> list[Variant]:
    """The choice with all feature groups, then without each in turn, always among the same candidates."""
    k = _needed(strategy, k)
    found = candidates_from(candidates)
    kept, groups, left_out = _features(strategy, found, sources, _refuses(found, sources))
    if len(groups) < 2:
        raise SubsetError(
            f"strategy {strategy} has the feature group {', '.join(groups)} alone: leaving one out needs typo, or "
            "mixed with several weights"
        )
    _refuse_too_many(k, kept, left_out)
    variants = []
    for without in (None, *groups):
        rest = {name: features for name, features in groups.items() if name != without}
        weights = _weights(strategy, rest, sources)
        variants.append(Variant(without, _clustered(strategy, k, seed, kept, rest, weights, left_out)))
    return variants


def features_of(choice: Choice, **sources: Unpack[Sources]) -> NDArray[np.float64]:
    """(n, d) what the candidates of a choice by k-means were clustered by, in their order."""
    _, groups, _ = _features(choice.strategy, choice.candidates, sources, refuse=True)
    weights = _weights(choice.strategy, groups, sources)
    return subsets.joined(groups, weights) if weights else np.hstack(list(groups.values()))


def _clustered(
    strategy: str,
    k: int,
    seed: int,
    kept: Sequence[Candidate],
    groups: Mapping[str, NDArray[np.float64]],
    weights: Mapping[str, float],
    left_out: list[str],
) -> Choice:
    features = subsets.joined(groups, weights) if weights else np.hstack(list(groups.values()))
    clusters = subsets.nearest_to_centroids(features, k, seed=seed)
    labels = [candidate.label for candidate in kept]
    cluster_of = {label: labels[row] for label, row in zip(labels, clusters.of, strict=True)}
    chosen = _chosen(strategy, [labels[row] for row in clusters.chosen], kept, left_out)
    return replace(chosen, cluster_of=cluster_of)


def _features(
    strategy: str, found: Sequence[Candidate], sources: Sources, refuse: bool
) -> tuple[list[Candidate], dict[str, NDArray[np.float64]], list[str]]:
    """The candidates that have features, by label, then group -> (n, d) features, then the labels left out."""
    if strategy == "mixed":
        names = _mixed_groups(sources)
    elif strategy in GROUPS_OF:
        names = list(GROUPS_OF[strategy])
    else:
        raise SubsetError(f"strategy {strategy} clusters no features: only {', '.join((*GROUPS_OF, 'mixed'))} do")
    codes = {code for candidate in found for code in candidate.codes}
    tables = dict[str, dict[str, NDArray[np.float64]]]()
    kept, left_out = sorted(found, key=lambda candidate: candidate.label), list[str]()
    for name in names:
        if name == SEMANTIC:
            path = sources.get("vectors")
            if path is None:
                raise SubsetError("semantic features need a file of vectors in word2vec's text form: vectors")
            tables[name], where = read_vectors(path, codes), f"vector in {path}"
        else:
            tables[name], where = uriel.features(name, codes), f"{name} features in URIEL"
        kept, without = _with_data(kept, tables[name], where, refuse)
        left_out += without
    if not kept:
        raise SubsetError(f"no candidate has the features of strategy {strategy}")
    groups = {name: np.array([_first(candidate, table) for candidate in kept]) for name, table in tables.items()}
    return kept, groups, sorted(left_out)


def _mixed_groups(sources: Sources) -> list[str]:
    weights = sources.get("weights")
    if not weights:
        return [name for name in GROUPS if name != SEMANTIC or sources.get("vectors") is not None]
    unknown = sorted(set(weights) - set(GROUPS))
    if unknown or not all(weight > 0 for weight in weights.values()):
        raise SubsetError(f"weights are numbers above 0 of {', '.join(GROUPS)}; found {dict(weights)}")
    return [name for name in GROUPS if name in weights]


def _weights(strategy: str, groups: Iterable[str], sources: Sources) -> dict[str, float]:
    """Only mixed features are weighted: the published strategies cluster them as they are."""
    given = sources.get("weights") or {}
    return {name: given.get(name, 1.0) for name in groups} if strategy == "mixed" else {}


def _by_family(k: int, seed: int, found: Sequence[Candidate], refuse: bool) -> Choice:
    family_of = uriel.families({code for candidate in found for code in candidate.codes})
    kept, left_out = _with_data(found, family_of, "family in URIEL (isolates have none)", refuse)
    _refuse_too_many(k, kept, left_out)
    place = {label: row for row, label in enumerate(FAMILY_TABLE)}
    kept.sort(key=lambda candidate: (place.get(candidate.label, len(place)), candidate.label))
    rows = subsets.one_of_each_family([_first(candidate, family_of) for candidate in kept], k, seed=seed)
    return _chosen("fam", [kept[row].label for row in rows], kept, left_out)


def _by_amount(strategy: str, k: int, found: Sequence[Candidate], refuse: bool, sources: Sources) -> Choice:
    if strategy == "pretrain" and sources.get("cover", "spread") not in get_args(Cover):
        raise SubsetError(f"cover is one of {', '.join(get_args(Cover))}; found {sources.get('cover')!r}")
    given = sources.get("rows") if strategy == "resource" else sources.get("shares")
    if given is None:
        needed = "rows: language -> rows" if strategy == "resource" else "shares: language -> share of pre-training"
        raise SubsetError(f"strategy {strategy} needs {needed}")
    by_code = {normalise(label): amount for label, amount in given.items()}
    if len(by_code) < len(given):
        raise SubsetError(f"a language has two numbers: {', '.join(given)} are {', '.join(by_code)}")
    without = sorted(c.label for c in found if normalise(c.label) not in by_code)
    if without and refuse:
        raise SubsetError(_missing(without, "number in the table"))
    kept = [candidate for candidate in found if candidate.label not in without]
    _refuse_too_many(k, kept, without)
    amounts = {candidate.label: by_code[normalise(candidate.label)] for candidate in kept}
    cover = sources.get("cover", "spread") if strategy == "pretrain" else "most"
    ranking = subsets.ranked(amounts, falling=cover != "least")
    places = subsets.evenly_spread(len(ranking), k) if cover == "spread" else range(k)
    return _chosen(strategy, [ranking[place] for place in places], kept, without)


def _published(strategy: str, k: int, seed: int, found: Sequence[Candidate]) -> list[str]:
    lists = PUBLISHED.get(strategy, {})
    same = {candidate.label for candidate in found} == set(BACTRIAN_X)
    if k != PUBLISHED_K or seed not in lists or not same:
        there = "; ".join(f"{name} with seed {', '.join(map(str, seeds))}" for name, seeds in PUBLISHED.items())
        raise SubsetError(
            f"no list was published for strategy {strategy}, k {k}, seed {seed}{'' if same else ', these candidates'}: "
            f"published are, for Bactrian-X's 52 languages and k {PUBLISHED_K}, {there}"
        )
    return lists[seed].split()


def _chosen(
    strategy: str, languages: Iterable[str], candidates: Sequence[Candidate], left_out: Iterable[str] = ()
) -> Choice:
    ordered = sorted(candidates, key=lambda candidate: candidate.label)
    return Choice(strategy, sorted(languages), ordered, sorted(left_out))


def _first(candidate: Candidate, table: Mapping[str, T]) -> T:
    return next(table[code] for code in candidate.codes if code in table)


def _with_data(
    found: Sequence[Candidate], table: Mapping[str, object], what: str, refuse: bool
) -> tuple[list[Candidate], list[str]]:
    """Those that the table has under one of their codes, and the labels of the others."""
    kept = [candidate for candidate in found if any(code in table for code in candidate.codes)]
    without = sorted(candidate.label for candidate in found if candidate not in kept)
    if without and refuse:
        raise SubsetError(_missing(without, what))
    return kept, without


def _refuses(found: Sequence[Candidate], sources: Sources) -> bool:
    """Whether candidates without features are an error."""
    of_the_paper = {candidate.label for candidate in found} == set(BACTRIAN_X)
    return (sources.get("without_features") or ("leave_out" if of_the_paper else "refuse")) == "refuse"


def _missing(labels: Sequence[str], what: str) -> str:
    return (
        f"no {what} for {', '.join(labels)}: take them out of the candidates, or leave out whatever has none "
        "(without_features: leave_out; on the command line --leave-out)"
    )


def _needed(strategy: str, k: int | None) -> int:
    if k is None or k < 1:
        raise SubsetError(f"strategy {strategy} needs k, the number of languages, at least 1")
    return k


def _refuse_too_many(k: int, kept: Sequence[Candidate], left_out: Sequence[str]) -> None:
    if k > len(kept):
        more = f" that have what it needs ({', '.join(left_out)} have not)" if left_out else ""
        raise SubsetError(f"k {k} is more than the {len(kept)} candidates{more}")
