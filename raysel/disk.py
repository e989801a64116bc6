"""How much room the artifacts of a run will take: checked before anything is computed, not found out at the end."""

from collections.abc import Mapping

from raysel.errors import UserError

# Never start with less than this left over: logs, Ray's own files, and the filesystem's reserve.
RESERVE_BYTES = 64 * 2**20
# Corpus rows measured on 57,261 public instruction pairs: 290 bytes of text a row, a third of that as zstd Parquet.
BYTES_PER_ROW = 290


class DiskError(UserError):
    """Too little room for what would be written."""


def artifact_bytes(
    *,
    corpus_bytes: int,
    rows: int | None,
    width: int,
    sums: int,
    block_rows: int,
    model_bytes: int,
    full: bool,
    merged: bool,
    checkpoints: int,
    gradients: int,
) -> dict[str, int]:
    """Bytes each stage's artifact takes at its largest, by stage.

    corpus_bytes: size of the user's files; rows: of the corpus, None while unknown; width: hidden units of the
    embedding model; sums: distance sums of a row; block_rows: of their blocks; model_bytes: weights of the tuned model;
    full: a full fine-tune, whose checkpoints hold float32 weights and two Adam moments; merged: adapters that end in a
    whole model; checkpoints: how many there are at a time; gradients: numbers of all checkpoints that LESS keeps of a
    row.
    """
    count = rows if rows is not None else corpus_bytes // BYTES_PER_ROW
    return {
        "corpus": corpus_bytes,
        # 128 + 32 places of a signature, the hashes of its bands, and the findings.
        "audit": count * 1024,
        "clean": corpus_bytes,
        "vectors": count * (width * 4 + 64),
        # The sums themselves and the partial sums of the pairs of blocks, of which there are few.
        "sums": count * sums * 8 * (2 + min(64, count // block_rows)),
        "scores": count * 96,
        # Every n-gram as four bytes, a row's text giving about two for each of its words.
        "importance": 2 * corpus_bytes,
        # Who has which row; the vectors that are to be covered and the n-grams, of at most 10,000 rows of a language.
        "diversity": count * 64 + min(count, 500_000) * width * 4 + 2 * min(corpus_bytes, 1 << 30),
        "warmup": model_bytes // 4,
        "gradients": count * gradients * 2,
        "tokens": corpus_bytes,
        "model": model_bytes * (1 + checkpoints * 6) if full else model_bytes // 4 + model_bytes * merged,
    }


def refuse_too_little(needed: Mapping[str, int], free: int | None, storage: str) -> None:
    """`DiskError` with the arithmetic where `needed` bytes do not fit into `free` (None: unlimited)."""
    total = sum(needed.values()) + RESERVE_BYTES
    if free is None or total <= free:
        return
    parts = ", ".join(f"{stage} {readable(size)}" for stage, size in needed.items() if size)
    raise DiskError(
        f"storage {storage} has {readable(free)} free, this run needs about {readable(total)} "
        f"({parts}, reserve {readable(RESERVE_BYTES)}); free some room or set storage elsewhere"
    )


def readable(size: float) -> str:
    """`size` bytes for a person: 512 B, 3.4 MB, 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
