"""Stage `subset`: a selector fills the quota from the pool, one Ray task per language (and task)."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysel.apportionment import largest_remainder
from raysel.corpus.plain_text import said
from raysel.mixture.quota import cell_name
from raysel.seeding import draw
from raysel.selection import dsir, kmc, kmc_stage, random
from raysel.selection.budget import fitting
from raysel.selection.selector import Candidates, SelectorError, chosen_by, load_selector
from raysel.selection.settings import SelectionSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord, digest
from raysel.tables import CHOSEN

# What the selectors that judge each row on its own go by: the artifact and its table, and what gives a row no score.
SCORED_BY = {
    "dsir": ("importance", "selection.dsir.min_tokens"),
    "less": ("influence", "selection.less.warmup.max_tokens"),
}


@dataclass(frozen=True)
class Cell:
    """Rows that are chosen among themselves: of one language (and task), or of all (lang None). tokens: the most that
    they may have together; count: how many rows, where that is not the budget."""

    lang: str | None
    task: str | None
    count: int
    tokens: int | None = None

    @property
    def name(self) -> str:
        return "all languages" if self.lang is None else cell_name(self.lang, self.task)

    @property
    def filter(self) -> Any:
        """Of the pool's rows, for reading them; None for all."""
        if self.lang is None:
            return None
        in_lang: Any = pc.field("lang") == self.lang
        return in_lang if self.task is None else in_lang & (pc.field("task") == self.task)


def run(run: StageRun) -> StageOutput:
    """Write table `subset`; inputs `pool` and `quota`, and what the method reads: `vectors`, `importance`, `influence`;
    for a selector of the user's own `vectors`, `scores` and `corpus`.

    The summary has languages (rows) and, with DSIR, kl_reduction (nats).
    """
    settings: SelectionSettings = run.settings["selection"]
    wanted = _cells(run)
    finished = run.attempt.finished()
    todo = [index for index in range(len(wanted)) if ("subset", index) not in finished]
    given = (settings, run.settings["seed"], dict(run.inputs), run.attempt)
    items = [(i, wanted[i], *given, _clustered_on_all(run, wanted[i])) for i in todo]
    with run.progress.track(len(wanted), "languages", done=len(wanted) - len(items)) as tracker:
        for _ in run.cluster.map_tasks(write_subset, items):
            tracker.advance(1)
    finished = run.attempt.finished()
    records = [finished["subset", i] for i in range(len(wanted))]
    languages: Counter[str] = Counter()
    for record in records:
        languages.update(record.summary["languages"])
    if not languages and settings.tokens is not None:
        raise SelectorError(
            f"selection.tokens {settings.tokens:,}: no row fits its language's share of it; raise it, or take fewer "
            "languages"
        )
    summary: dict[str, Any] = {"languages": dict(sorted(languages.items()))}
    if empty := [cell.name for cell, record in zip(wanted, records, strict=True) if not record.rows]:
        summary["warnings"] = [f"no row fits the share of selection.tokens of {'; '.join(empty)}"]
    if settings.method == "dsir":
        measured = (settings, run.settings["seed"], dict(run.inputs), run.attempt)
        summary["kl_reduction"] = run.cluster.run_task(measure_kl_reduction, records, *measured)
    return StageOutput(records, summary)


def _cells(run: StageRun) -> list[Cell]:
    """What is chosen, cell by cell, from what the pool has. `SelectorError` where it cannot give that."""
    settings: SelectionSettings = run.settings["selection"]
    pool, quota = run.inputs["pool"].summary, run.inputs["quota"].summary
    in_pool = {(lang, task): count for lang, task, count in pool["cells"] if count}
    asked = {(lang, task): count for lang, task, count, _ in quota["cells"]}
    there = {cell: in_pool[cell] for cell in sorted(asked, key=str) if cell in in_pool}
    # What a count asks for beyond the pool is repeated or done without (mixture.shortfall), or was refused before.
    taken = {cell: min(asked[cell], rows) for cell, rows in there.items()} if quota["binding"] else there
    if settings.tokens is not None:
        tokens = dict(run.cluster.run_task(count_tokens, settings.method, dict(run.inputs), list(there)))
        if sum(tokens.values()) < settings.tokens:
            raise SelectorError(
                f"selection.tokens {settings.tokens:,} is more than the {sum(tokens.values()):,} tokens of the "
                f"{sum(there.values()):,} rows that may be chosen; raise preselect.rho, or lower selection.tokens"
            )
        if settings.stratify == "none":
            return [Cell(None, None, sum(there.values()), settings.tokens)]
        shares = largest_remainder({cell: n for cell, n in tokens.items() if n}, settings.tokens)
        return [Cell(lang, task, there[lang, task], share) for (lang, task), share in shares.items()]
    if settings.stratify == "none":
        total, rows = sum(asked.values()) if quota["binding"] else sum(there.values()), sum(there.values())
        if total > rows and quota["shortfall"] == "refuse":
            raise SelectorError(f"{total:,} rows are to be chosen, and the pool has {rows:,}: raise preselect.rho")
        return [Cell(None, None, min(total, rows))] if rows else []
    return [Cell(*cell, count) for cell, count in taken.items() if count]


def count_tokens(
    method: str, inputs: dict[str, Artifact], cells: list[tuple[str, str | None]]
) -> list[tuple[tuple[str, str | None], int]]:
    """Ray task: the tokens of each cell's rows that may be chosen: the pool's, with a score where one is needed."""
    pool = inputs["pool"].read("pool", ["id", "lang", "task"])
    if method in SCORED_BY:
        name, _ = SCORED_BY[method]
        pool = pool.filter(pc.is_in(pool["id"], value_set=inputs[name].read(name, ["id"])["id"].combine_chunks()))
    lengths = _column(inputs["vectors"], "vectors", "n_tokens", pool["id"])
    totals = dict.fromkeys(cells, 0)
    for lang, task, length in zip(pool["lang"].to_pylist(), pool["task"].to_pylist(), lengths.tolist(), strict=True):
        totals[lang, task] += length
    return list(totals.items())


def _clustered_on_all(run: StageRun, cell: Cell) -> tuple[list[str], NDArray[np.float64]] | None:
    """What KMC chooses from a cell that is too large for one task (ids, scores); None for any other."""
    settings, pool = run.settings["selection"], run.inputs["pool"]
    if settings.method != "kmc" or cell.tokens is not None:
        return None
    in_cell = sum(
        n for lang, task, n in pool.summary["cells"] if cell.lang is None or (lang, task) == (cell.lang, cell.task)
    )
    if in_cell <= kmc_stage.ROWS_OF_ONE_TASK:
        return None
    rows = kmc_stage.CellVectors(run.inputs["vectors"], pool, cell.filter, in_cell)
    name, seed = digest([cell.lang, cell.task]), _seed_of(cell, run.settings["seed"])
    ids, distances = kmc_stage.select(run, rows, cell.count, settings.kmc.clusters, name=name, seed=seed)
    return ids, -distances


def _seed_of(cell: Cell, seed: int) -> int:
    """One of its own for each language: with a shared one, parallel corpora would give the same items everywhere."""
    return int(draw(seed, cell.name if cell.task is None else f"{cell.lang}\0{cell.task}") * 2**32)


def write_subset(
    index: int,
    cell: Cell,
    settings: SelectionSettings,
    seed: int,
    inputs: dict[str, Artifact],
    attempt: Attempt,
    found: tuple[list[str], NDArray[np.float64]] | None = None,
) -> None:
    """Ray task: choose the rows of one cell, unless they are `found` (ids and scores); rank 0 is the selector's first
    choice within its language."""
    pool = inputs["pool"].read("pool", ["id", "lang"], filters=cell.filter).sort_by("id")
    lengths = _column(inputs["vectors"], "vectors", "n_tokens", pool["id"]) if cell.tokens is not None else None
    if found is not None:
        rows, scores = pc.index_in(pa.array(found[0]), value_set=pool["id"].combine_chunks()).to_numpy(), found[1]
    else:
        rows, scores = _choose(cell, settings, pool, lengths, _seed_of(cell, seed), inputs)
    if lengths is not None and cell.tokens is not None:
        places = fitting(lengths[rows], cell.tokens)
        rows, scores = rows[places], scores[places]
    chosen = pool.take(pa.array(rows))
    langs = chosen["lang"].to_pylist()
    seen: Counter[str] = Counter()
    ranks = []
    for lang in langs:
        ranks.append(seen[lang])
        seen[lang] += 1
    columns = [
        chosen["id"],
        chosen["lang"],
        pa.array(ranks, pa.int64()),
        pa.array(scores, pa.float64()),
        pa.array([settings.method] * len(rows), pa.string()),
    ]
    table = pa.table(columns, schema=CHOSEN)
    attempt.write_table("subset", index, table, summary={"languages": dict(sorted(seen.items()))})


def _choose(
    cell: Cell,
    settings: SelectionSettings,
    pool: pa.Table,
    lengths: NDArray[np.int64] | None,
    seed: int,
    inputs: dict[str, Artifact],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of `pool`, the first choice first, and their scores."""
    count = cell.count
    if lengths is not None and cell.tokens is not None and settings.method == "kmc":
        # k-means needs the number beforehand; whatever ranks its rows ranks them all.
        count = min(count, round(cell.tokens / lengths.mean()))
    match settings.method:
        case "random":
            return random.select(pool.num_rows, count, seed=seed), np.zeros(count)
        case "kmc":
            vectors = _vectors(inputs["vectors"], pool["id"])
            if settings.kmc.clusters is None:
                rows, distances = kmc.select_with_distances(vectors, count, seed=seed)
            else:
                rows, distances = kmc.select_by_quota(vectors, count, settings.kmc.clusters, seed=seed)
            return rows, -distances
        case "dsir" | "less":
            return _by_score(cell, settings, pool["id"].to_pylist(), count, seed, inputs)
    selector = load_selector(settings.method, settings.settings)
    candidates = Candidates(
        ids=pool["id"].to_pylist(),
        langs=pool["lang"].to_pylist(),
        read_texts=lambda: _texts(inputs["corpus"], pool["id"]),
        read_vectors=lambda: _vectors(inputs["vectors"], pool["id"]),
        read_separability=lambda: _column(inputs["scores"], "scores", "separability", pool["id"]),
    )
    return chosen_by(selector, settings.method, candidates, count, seed=seed)


def _by_score(
    cell: Cell, settings: SelectionSettings, ids: list[str], count: int, seed: int, inputs: dict[str, Artifact]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    name, left_out_by = SCORED_BY[settings.method]
    found = inputs[name].read(name, ["id", "score"], filters=pc.field("id").isin(ids))
    score_of = dict(zip(found["id"].to_pylist(), found["score"].to_pylist(), strict=True))
    scored = np.array([i for i, identity in enumerate(ids) if identity in score_of], dtype=np.int64)
    if settings.tokens is None and len(scored) < count:
        raise SelectorError(
            f"{cell.name}: {count:,} rows are to be chosen, and {len(scored):,} of the pool's {len(ids):,} have a "
            f"score: {left_out_by} leaves the others out"
        )
    scores = np.array([score_of[ids[i]] for i in scored])
    names = [ids[i] for i in scored]
    if settings.method == "dsir" and settings.dsir.sampling == "gumbel":
        best = dsir.gumbel_order(scores, names, seed=seed)[:count]
    else:
        best = np.lexsort((names, -scores))[:count]
    return scored[best], scores[best]


def measure_kl_reduction(
    records: list[ShardRecord], settings: SelectionSettings, seed: int, inputs: dict[str, Artifact], attempt: Attempt
) -> float | None:
    """Ray task: by how many nats the chosen rows' n-grams are nearer to the target's than those of a random choice of
    as many; None where what was chosen has none."""
    importance, how = inputs["importance"], settings.dsir
    [raw, target] = (importance.read_array(shard) for name in ("raw", "target") for shard in importance.shards(name))
    chosen = np.zeros(how.buckets, dtype=np.int64)
    for record in records:
        ids = attempt.read_table(record, ["id"])["id"]
        columns = ["prompt", "response", "history"]
        rows = inputs["corpus"].read("corpus", columns, filters=pc.field("id").isin(ids.combine_chunks()))
        texts = [said(**row) for row in rows.to_pylist()]
        chosen += dsir.count(dsir.hashed_ngrams(texts, tokenizer=how.tokenizer, buckets=how.buckets)[0], how.buckets)
    if not chosen.any():
        return None
    at_random = np.random.default_rng(seed).multinomial(chosen.sum(), raw / raw.sum())
    return dsir.kl_reduction(target, at_random, chosen)


def _column(artifact: Artifact, table: str, name: str, ids: pa.ChunkedArray) -> NDArray[Any]:
    """What a table of the artifact says about these rows."""
    found = artifact.read(table, ["id", name], filters=pc.field("id").isin(ids))
    return found[name].take(pc.index_in(ids, value_set=found["id"].combine_chunks())).to_numpy()


def _texts(corpus: Artifact, ids: pa.ChunkedArray) -> list[tuple[str, str]]:
    found = corpus.read("corpus", ["id", "prompt", "response"], filters=pc.field("id").isin(ids))
    found = found.take(pc.index_in(ids, value_set=found["id"].combine_chunks()))
    return list(zip(found["prompt"].to_pylist(), found["response"].to_pylist(), strict=True))


def _vectors(vectors: Artifact, ids: pa.ChunkedArray) -> np.ndarray:
    """(n, d) vectors of the rows, in their order, read shard by shard."""
    wanted = ids.combine_chunks()
    found: np.ndarray | None = None
    for shard in vectors.shards("vectors"):
        table = vectors.read_shard(shard, ["id", "vector"])
        places = pc.index_in(table["id"], value_set=wanted)
        table, places = table.filter(places.is_valid()), places.drop_null().to_numpy()
        column = table["vector"].combine_chunks()
        rows = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        if found is None:
            found = np.empty((len(wanted), rows.shape[1]), dtype=rows.dtype)
        found[places] = rows
    assert found is not None
    return found
