"""Which level each next sample comes from, by the training loss of the levels so far (an open question of LangGPS).

The order is made block by block. A block takes from each level in proportion to

    (what is left of the level) * (its recent loss / the mean of the levels' recent losses) ** strength

by largest remainder, and spreads each level evenly over the block. The recent loss of a level is a running mean of its
means over the blocks: recent <- memory * recent + (1 - memory) * block. With strength 0, and before anything is known,
every block holds the levels in proportion; a strength above 0 turns to what is still hard, one below 0 to what is
learned well already.
"""

from collections.abc import Iterable, Mapping

# Losses of the same samples on another number of workers differ in the seventh digit: the shares shall not.
LOSS_DIGITS = 4
WEIGHT_BITS = 40


class RecentLosses:
    """The running mean of the loss of each level."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.of_level: dict[int, float] = {}

    def add_block(self, steps: Iterable[Mapping[int, float]]) -> None:
        """steps: for each step of the block the mean loss of each level that it held."""
        seen: dict[int, list[float]] = {}
        for losses in steps:
            for level, loss in losses.items():
                seen.setdefault(level, []).append(loss)
        for level, losses_of_level in seen.items():
            mean = sum(losses_of_level) / len(losses_of_level)
            before = self.of_level.get(level, mean)
            self.of_level[level] = round(self.memory * before + (1 - self.memory) * mean, LOSS_DIGITS)


def next_block(left: Mapping[int, int], recent: RecentLosses, size: int, *, strength: float) -> list[int]:
    """The levels of the next `size` samples (of as many as there are `left`), in their order."""
    size = min(size, sum(left.values()))
    weights = {level: rows * _pull(level, recent, strength) for level, rows in left.items() if rows}
    counts = _shared_out(weights, left, size)
    places = [((i + 0.5) / count, level) for level, count in counts.items() for i in range(count)]
    return [level for _, level in sorted(places)]


def _pull(level: int, recent: RecentLosses, strength: float) -> float:
    if level not in recent.of_level:
        return 1.0
    # What rounds to nothing has still a loss.
    known = {of: max(loss, 10.0**-LOSS_DIGITS) for of, loss in recent.of_level.items()}
    return (known[level] * len(known) / sum(known.values())) ** strength


def _shared_out(weights: Mapping[int, float], left: Mapping[int, int], size: int) -> dict[int, int]:
    """`size` in proportion to the weights, no level more than is left of it: what it cannot give, the others do."""
    counts: dict[int, int] = {}
    open_levels = dict(weights)
    while open_levels:
        rest = size - sum(counts.values())
        everything = sum(open_levels.values())
        full = [level for level, weight in open_levels.items() if rest * weight >= left[level] * everything]
        if not full:
            return counts | _by_largest_remainder(open_levels, rest)
        for level in full:
            counts[level] = left[level]
            del open_levels[level]
    return counts


def _by_largest_remainder(weights: Mapping[int, float], total: int) -> dict[int, int]:
    most = max(weights.values())
    whole = {level: round(weight / most * 2**WEIGHT_BITS) for level, weight in weights.items()}
    everything = sum(whole.values())
    counts = {level: total * weight // everything for level, weight in whole.items()}
    by_remainder = sorted(counts, key=lambda level: (-(total * whole[level] % everything), level))
    for level in by_remainder[: total - sum(counts.values())]:
        counts[level] += 1
    return counts
