"""The learning rate at each step."""

import math
from typing import Literal


def learning_rate(
    step: int, steps: int, *, peak: float, schedule: Literal["constant", "linear", "cosine"], warmup_share: float
) -> float:
    """The rate at `step` (from 0) of `steps`: a linear rise to `peak` over the warm-up, then the schedule."""
    warmup = math.ceil(warmup_share * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule]
