"""What a picture of a choice shows: where each candidate stands, its family, script and cluster."""

from collections.abc import Mapping
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from raysel.languages import uriel
from raysel.languages.choice import Choice, Sources, features_of
from raysel.languages.layout import Picture, Shown, coordinates, principal_components

# Tenths of a degree: URIEL's fixed points are whole degrees.
DIGITS = 1


def picture(choice: Choice, **sources: Unpack[Sources]) -> Picture:
    """A map, except for k-means on other features than geographical ones."""
    codes = {code for candidate in choice.candidates for code in candidate.codes}
    family_of = uriel.families(codes)
    explained = (0.0, 0.0)
    on_a_map = not choice.cluster_of or choice.strategy == "geo"
    if on_a_map:
        places = _on_a_map(choice, uriel.features("geo", codes))
    else:
        points, explained = principal_components(features_of(choice, **sources))
        places = _by_label([candidate.label for candidate in choice.candidates], points)
    shown = [
        Shown(
            lang=candidate.label,
            script=candidate.script,
            family=next((family_of[code] for code in candidate.codes if code in family_of), None),
            chosen=candidate.label in choice.languages,
            cluster=choice.cluster_of.get(candidate.label),
            place=places.get(candidate.label),
        )
        for candidate in choice.candidates
    ]
    return Picture("map" if on_a_map else "components", shown, explained)


def _on_a_map(choice: Choice, distances: Mapping[str, NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
    code_of = {c.label: next((code for code in c.codes if code in distances), None) for c in choice.candidates}
    known = {label: distances[code] for label, code in code_of.items() if code is not None}
    if not known:
        return {}
    places = coordinates(np.array(list(known.values())), uriel.fixed_points())
    return _by_label(list(known), np.round(places[:, ::-1], DIGITS))


def _by_label(labels: list[str], points: NDArray[np.float64]) -> dict[str, tuple[float, float]]:
    return {label: (float(x), float(y)) for label, (x, y) in zip(labels, points, strict=True)}
