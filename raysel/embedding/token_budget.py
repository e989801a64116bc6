"""How many tokens go through a model at once: measured, since caches and GPUs differ by a factor of 100."""

import time
from collections.abc import Callable, Sequence

ENOUGH_SECONDS = 10.0
WORTH = 0.95


def fastest_budget(budgets: Sequence[int], seconds_per_token: Callable[[int], float]) -> int:
    """The budget of `budgets` (ascending) with the least seconds per token; of near-equals (5%) the smallest.

    A budget that runs out of memory ends the search, as does one under which the measuring has taken 10 s: on slow
    models the first is as good as any, since each of its batches keeps the machine busy.
    RuntimeError of the first budget, where not even that fits.
    """
    best, least = budgets[0], float("inf")
    start = time.perf_counter()
    for budget in budgets:
        try:
            taken = seconds_per_token(budget)
        except RuntimeError:
            if least == float("inf"):
                raise
            break
        if taken < WORTH * least:
            best, least = budget, taken
        if time.perf_counter() - start > ENOUGH_SECONDS:
            break
    return best
