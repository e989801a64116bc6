"""Several samples in one row of tokens, kept apart by positions that start again at 0."""

from collections.abc import Sequence

# Their attention masks are built from the positions when no mask is given, so that no sample sees another one of its
# row; the tests compare packed with separate samples for each. Recurrent layers and learned absolute positions do not.
PACKABLE_MODEL_TYPES = frozenset(
    [
        "cohere",
        "cohere2",
        "gemma",
        "gemma2",
        "gemma3_text",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "qwen3_moe",
        "smollm3",
    ]
)


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `capacity` in sum: the longest first, each into the first bin it fits.

    At most 11/9 of the fewest bins possible, plus 6/9 (Dosa 2007). Every length must be at most `capacity`.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"length {length} does not fit a row of {capacity}")
        for number, left in enumerate(room):
            if length <= left:
                bins[number].append(index)
                room[number] -= length
                break
        else:
            bins.append([index])
            room.append(capacity - length)
    return bins
