"""Random draws that belong to a name: the same whatever else is in the corpus, and in whatever order it comes."""

import hashlib


def draw(seed: int, name: str) -> float:
    """A number in [0, 1), uniform over names, decided by `seed` and `name` alone."""
    drawn = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(drawn, "big") / 2**64
