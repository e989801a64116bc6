"""How many rows go through the model at once, and whether activations are kept: found where the settings say `auto`.

The batches that are tried are small at first and twice as large each time. What the next one will take follows from
those before it, and it is tried only where that fits: an allocation that fails in the middle of a backward pass would
leave DeepSpeed's buffers half filled, and under ZeRO-3 the other workers waiting for this one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Parts of a row that are tried before the whole one.
PARTS_OF_A_ROW = (64, 32, 16, 8, 4, 2)
# Beyond this no device works faster: a GPU is busy, and what a CPU works on falls out of its caches.
MOST_TOKENS = {"cuda": 131_072, "cpu": 2048}


@dataclass(frozen=True)
class MicroBatch:
    """rows: that go through the model at once; checkpointing: of activations."""

    rows: int
    checkpointing: bool


@dataclass
class Trials:
    """What batches of one row, or of several, took. peak: runs a batch of so many tokens and gives the bytes that it
    took more than was held before; room: bytes that it may take; agreed: whether all workers say yes.

    row: tokens of a whole row. Every worker must be asked the same questions.
    """

    peak: Callable[[int], int]
    room: int
    row: int
    agreed: Callable[[bool], bool]
    taken: dict[int, int] = field(default_factory=dict)

    def fits(self, tokens: int) -> bool:
        """Whether a batch of `tokens` tokens fits, by what smaller ones took, and by what it takes itself."""
        if not self.agreed(expected(self.taken, tokens, self.row) <= self.room):
            return False
        self.taken[tokens] = self.peak(tokens)
        return self.agreed(self.taken[tokens] <= self.room)

    def rows_fit(self, rows: int) -> bool:
        return self.fits(rows * self.row)

    def row_fits(self) -> bool:
        """Whether one row fits; parts of it are tried before."""
        lengths = [max(2, self.row // part) for part in PARTS_OF_A_ROW]
        return all(self.fits(length) for length in dict.fromkeys([*lengths, self.row]))


def expected(taken: Mapping[int, int], tokens: int, row: int) -> int:
    """Bytes that `tokens` tokens take at the most, by what fewer took; 0 where too little is known.

    Up to a row of `row` tokens memory is c + b t + a t² (attention's mask is a square): exact after three lengths, each
    twice as long as the one before. Beyond it rows come on top of each other, and memory is c + b t.
    """
    if tokens <= row:
        before = [taken[tokens // part] for part in (8, 4, 2) if tokens // part in taken]
        if len(before) < 3:
            return 0
        first, second = before[1] - before[0], before[2] - before[1]
        return before[2] + max(0, 2 * second, 6 * second - 8 * first)
    *others, last = sorted(length for length in taken if row <= length < tokens)
    if not others:
        return -(-taken[last] * tokens // last)
    slope = max(0.0, (taken[last] - taken[others[-1]]) / (last - others[-1]))
    return taken[last] + math.ceil(slope * (tokens - last))


def most_rows(fits: Callable[[int], bool], most: int) -> int:
    """The most rows for which `fits` holds: 1, which is not asked, twice as many each time, and `most` itself.

    `fits` is asked of ever more rows, and no more after a no.
    """
    rows = 1
    while rows < most and fits(following := min(2 * rows, most)):
        rows = following
    return rows


def choose(
    *,
    tokens: int | None,
    checkpointing: bool | None,
    row: int,
    most: int,
    trials: Callable[[bool], Trials],
) -> MicroBatch:
    """What the settings leave open (None), by trial; `most`: rows that are of any use.

    trials: begins anew, with activations checkpointed or not. They are checkpointed only where a row does not fit
    without. Where it does not fit at all, it is one row at a time: training will say how much is missing.
    """
    if tokens is not None:
        most = max(1, tokens // row)
    for checkpoints in [False, True] if checkpointing is None else [checkpointing]:
        begun = trials(checkpoints)
        rows = most_rows(begun.rows_fit, most) if begun.row_fits() else 0
        # A number that was given is taken, with activations kept if all of its rows fit so.
        if rows == most or (rows and tokens is None):
            break
    return MicroBatch(most if tokens is not None else max(1, rows), checkpoints)
