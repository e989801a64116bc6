"""How many tokens go through a model at once: measured, since caches and GPUs differ by a factor of 100."""

import time
from collections.abc import Callable, Sequence

# Measured on two CPU cores (width 256, 4 layers): batches of 1,024 tokens run twice as fast as batches of 16,384, which
# fall out of the caches. A GPU needs far larger ones to be busy.
DEFAULT_TOKEN_BUDGET = {"cpu": 1024, "cuda": 32_768}
BUDGETS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16_384, 32_768, 65_536, 131_072)}
ENOUGH_SECONDS = 10.0
# What another budget must gain to be taken instead of the usual one: less is often the noise of a busy machine, and the
# same budget in every run means the same bits.
WORTH = 0.9


def fastest_budget(budgets: Sequence[int], usual: int, seconds_per_token: Callable[[int], float]) -> int:
    """The budget of `budgets` (ascending) with the least seconds per token; `usual` where none is 10% faster.

    A budget that does not fit in memory (infinite seconds) ends the search, as does one under which the measuring has
    taken 10 s: on slow models small batches keep the machine busy.
    """
    taken: dict[int, float] = {}
    start = time.perf_counter()
    for budget in budgets:
        taken[budget] = seconds_per_token(budget)
        if taken[budget] == float("inf") or time.perf_counter() - start > ENOUGH_SECONDS:
            break
    best = min(taken, key=lambda budget: taken[budget])
    return usual if usual in taken and taken[best] > WORTH * taken[usual] else best
