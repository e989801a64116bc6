"""`raysel languages`: a subset of languages as a table and a figure, and what each feature group does to it."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raysel.languages.choice import Choice, Sources, Variant, ablate, choose
from raysel.languages.files import read_numbers
from raysel.languages.layout import Picture
from raysel.languages.picture import picture
from raysel.languages.published import BACTRIAN_X
from raysel.languages.subsets import SubsetError, jaccard

DOTS_PER_INCH = 200
# What an option gives: the option, and the strategies that have a use for it.
USES = {
    "vectors": ("--vectors", ("sem", "mixed")),
    "weights": ("--weights", ("mixed",)),
    "rows": ("--rows", ("resource",)),
    "shares": ("--pretrain", ("pretrain",)),
    "cover": ("--cover", ("pretrain",)),
}


def read_candidates(given: str | None) -> Sequence[str]:
    """Names with commas between them, or those of a file, one on a line; by default Bactrian-X's 52 languages."""
    if given is None:
        return BACTRIAN_X
    if Path(given).is_file():
        try:
            names = Path(given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SubsetError(f"--candidates {given} cannot be read: {error}") from error
    else:
        names = given.split(",")
    found = [name.strip() for name in names if name.strip()]
    if not found:
        raise SubsetError(f"--candidates {given!r} holds no languages: give sw,th,vi or a file with one on each line")
    return found


def read_weights(given: str | None) -> dict[str, float] | None:
    """`syntax=1,geo=0.5`."""
    if given is None:
        return None
    weights = {}
    for part in given.split(","):
        name, _, value = part.partition("=")
        try:
            weights[name.strip()] = float(value)
        except ValueError:
            raise SubsetError(f"--weights {given!r}: write it as syntax=1,geo=0.5") from None
    return weights


def read_shares(path: Path | None) -> dict[str, float] | None:
    return None if path is None else read_numbers(path)


def _print_idle(strategy: str, sources: Sources, console: Console) -> None:
    for key, (option, strategies) in USES.items():
        if sources.get(key) is not None and strategy not in strategies:
            console.print(f"option without effect: {option}: the strategy is {strategy}", highlight=False)


def print_choice(
    strategy: str,
    k: int | None,
    *,
    seed: int,
    candidates: Sequence[str],
    sources: Sources,
    figure: Path,
    console: Console,
) -> None:
    """Print the subset and draw it."""
    choice = choose(strategy, k, seed=seed, candidates=candidates, **sources)
    _print_idle(strategy, sources, console)
    how = f"as published for seed {seed}" if sources.get("published") else f"seed {seed}"
    among = f"{len(choice.languages)} of {len(choice.candidates)} languages"
    console.print(f"{strategy}, {how}: {among}", highlight=False)
    if choice.left_out:
        without = ", ".join(choice.left_out)
        console.print(f"left out, without features: {without}", markup=False, highlight=False)
    drawn = picture(choice, **sources)
    console.print(_table(choice, {line.lang: line.family or "–" for line in drawn.candidates}))
    console.print(",".join(choice.languages), markup=False, highlight=False)
    _save(drawn, figure)
    console.print(f"figure: {figure}", markup=False, highlight=False)


def _table(choice: Choice, family_of: dict[str, str]) -> Table:
    table = Table(box=None, pad_edge=False)
    clustered = bool(choice.cluster_of)
    for heading in ("code", "language", "family", "script", *(("cluster",) if clustered else ())):
        table.add_column(heading)
    for candidate in choice.candidates:
        if candidate.label in choice.languages:
            members = (" ".join(choice.members(candidate.label)),) if clustered else ()
            cells = (candidate.label, candidate.name, family_of[candidate.label], candidate.script, *members)
            table.add_row(*(escape(cell) for cell in cells))
    return table


def _save(drawn: Picture, path: Path) -> None:
    from raysel.report.palette import language_colours
    from raysel.report.subset_figure import HEIGHT, WIDTH, plot_subset, subset_rows
    from raysel.report.svg import drawing

    if not any(line.place for line in drawn.candidates):
        raise SubsetError("URIEL knows no coordinates of these languages: there is nothing to draw")
    with drawing(WIDTH, HEIGHT) as figure:
        colours = language_colours(line.lang for line in drawn.candidates)
        plot_subset(figure, subset_rows(drawn), explained=drawn.explained, colours=colours)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=DOTS_PER_INCH)
        except (OSError, ValueError) as error:
            raise SubsetError(f"--figure {path} cannot be written: {error}") from error


def print_ablation(
    strategy: str, k: int | None, *, seed: int, candidates: Sequence[str], sources: Sources, console: Console
) -> None:
    """Print what leaving out each feature group does to the subset."""
    variants = ablate(strategy, k, seed=seed, candidates=candidates, **sources)
    full = variants[0].choice
    _print_idle(strategy, sources, console)
    console.print(f"{strategy}, k {k}, seed {seed}: {' '.join(full.languages)}", markup=False, highlight=False)
    if full.left_out:
        console.print(f"left out, without features: {', '.join(full.left_out)}", markup=False, highlight=False)
    console.print(_changes(variants))
    console.print("Jaccard of the subsets, all against all", highlight=False)
    console.print(_agreement(variants))


def _changes(variants: Sequence[Variant]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("without", "subset", "came in", "went out"):
        table.add_column(heading)
    table.add_column("Jaccard", justify="right")
    full = set(variants[0].choice.languages)
    for variant in variants[1:]:
        subset = set(variant.choice.languages)
        groups = (subset, subset - full, full - subset)
        cells = (" ".join(sorted(group)) or "–" for group in groups)
        table.add_row(variant.without, *(escape(cell) for cell in cells), f"{jaccard(subset, full):.3f}")
    return table


def _agreement(variants: Sequence[Variant]) -> Table:
    table = Table(box=None, pad_edge=False)
    names = [variant.without or "nothing" for variant in variants]
    table.add_column("without")
    for name in names:
        table.add_column(name, justify="right")
    for name, one in zip(names, variants, strict=True):
        shares = (jaccard(one.choice.languages, other.choice.languages) for other in variants)
        table.add_row(name, *(f"{share:.3f}" for share in shares))
    return table
