"""What a corpus consists of, counted shard by shard: languages, cells, clusters."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa


def counted_rows(table: pa.Table) -> dict[str, Any]:
    """Of a shard of the corpus: `cells` (lang, task, rows) and `clusters` (lang, lang_raw, script), as plain lists."""
    cells = Counter(zip(table["lang"].to_pylist(), table["task"].to_pylist(), strict=True))
    clusters = set(zip(*(table[name].to_pylist() for name in ("lang", "lang_raw", "script")), strict=True))
    return {
        "cells": [[lang, task, count] for (lang, task), count in cells.items()],
        "clusters": sorted(map(list, clusters)),
    }


def corpus_counts(shards: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`languages`, `cells` and the number of `clusters` of the whole corpus, from what `counted_rows` found."""
    languages: Counter[str] = Counter()
    cells: Counter[tuple[str, str | None]] = Counter()
    clusters: set[tuple[str, ...]] = set()
    for shard in shards:
        for lang, task, count in shard["cells"]:
            languages[lang] += count
            cells[lang, task] += count
        clusters.update(map(tuple, shard["clusters"]))
    return {
        "languages": dict(sorted(languages.items())),
        "cells": sorted(
            ([lang, task, n] for (lang, task), n in cells.items()), key=lambda cell: (cell[0], cell[1] or "")
        ),
        # The finest clusters that separability is summed for: language, what the source calls it, script.
        "clusters": len(clusters),
    }


def single_samples(languages: Mapping[str, int]) -> list[str]:
    """A warning about the languages with one sample, if there are any."""
    single = sorted(lang for lang, count in languages.items() if count == 1)
    return [f"languages with a single sample, which scores 0: {', '.join(single)}"] if single else []
