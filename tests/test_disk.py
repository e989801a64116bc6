"""Room on disk is checked before anything is computed."""

import pytest

from raysel.disk import RESERVE_BYTES, DiskError, artifact_bytes, readable, refuse_too_little


def test_too_little_room_is_refused_with_the_arithmetic() -> None:
    needed = {"vectors": 10**9, "sums": 2 * 10**8}
    with pytest.raises(DiskError, match=r"has 1\.0 GB free, this run needs about 1\.3 GB \(vectors 1\.0 GB, sums 200"):
        refuse_too_little(needed, 10**9, "/data")
    refuse_too_little(needed, 12 * 10**8 + RESERVE_BYTES, "/data")
    refuse_too_little(needed, None, "s3://bucket")


def test_vectors_of_the_papers_corpus_take_what_arithmetic_says() -> None:
    sizes = artifact_bytes(
        corpus_bytes=10**8,
        rows=97_696,
        width=4096,
        sums=31,
        block_rows=8192,
        model_bytes=16 * 10**9,
        full=False,
        merged=False,
        checkpoints=4,
        gradients=4 * 8192,
    )
    assert sizes["gradients"] == 97_696 * 4 * 8192 * 2
    assert 97_696 * 4096 * 4 <= sizes["vectors"] <= 1.1 * 97_696 * 4096 * 4
    assert sizes["sums"] >= 97_696 * 31 * 8


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (38.2e9, "38.2 GB")])
def test_sizes_are_readable(size: float, text: str) -> None:
    assert readable(size) == text
