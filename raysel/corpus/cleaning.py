"""Which rows go, given the findings: of rows that repeat each other one stays, as long as one of them is sound."""

from collections.abc import Iterable, Sequence

REPEATS = ("exact_duplicate", "near_duplicate")


def dropped_rows(findings: Iterable[tuple[str, str, str | None]], drop: Sequence[str]) -> dict[str, str]:
    """id -> the finding that it is dropped for, sorted by id. findings: (id, finding, the other row's id).

    A row that others repeat may itself be dropped for something else; then the first sound one of the others by id
    stays in its place.
    """
    unsound: dict[str, set[str]] = {}
    repeats: dict[tuple[str, str], list[str]] = {}
    for identity, finding, other in findings:
        if finding in REPEATS:
            repeats.setdefault((finding, str(other)), []).append(identity)
        elif finding in drop:
            unsound.setdefault(identity, set()).add(finding)
    dropped = {identity: next(name for name in drop if name in found) for identity, found in unsound.items()}
    for (finding, kept), members in sorted(repeats.items()):
        if finding in drop:
            sound = sorted(identity for identity in members if identity not in unsound)
            # A row that repeats two others, exactly one and nearly another, goes with either.
            stays = sound[:1] if kept in unsound else []
            for identity in sound:
                if identity not in stays:
                    dropped.setdefault(identity, finding)
    return dict(sorted(dropped.items()))
