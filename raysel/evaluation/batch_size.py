"""The largest batch that fits."""

from collections.abc import Callable

LARGEST = 64


def largest_that_fits(fits: Callable[[int], bool]) -> int:
    """The largest power of two up to 64 for which `fits` holds; 1 where none does: long prompts are rare."""
    batch = LARGEST
    while batch > 1 and not fits(batch):
        batch //= 2
    return batch
