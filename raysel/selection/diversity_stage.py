"""Stage `diversity`: how separable and how diverse each selector's choice is, by language and over all.

One task says which rows each choice has, and which of them are looked at where there are too many. Tasks over groups of
shards of the vectors then add up unit vectors and write the rows that are to be covered; a second round measures from
these to what the group has of each choice. Tasks over the shards of the corpus hash n-grams; one task for each language
counts them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raysel.corpus.plain_text import said
from raysel.seeding import draw
from raysel.selection import diversity, dsir
from raysel.separability.similarity import PairwiseSimilarity
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import DIVERSITY

# The choice that the others are compared with: every row, in the languages that somebody chose from.
EVERYTHING = ("everything", "corpus")
# Of a language with more rows so many, drawn by id, are covered and have their n-grams counted.
SAMPLED_ROWS = 10_000
# Vectors of one task; in the second round it also holds the rows that are covered in one language.
ROWS_OF_A_GROUP = 1 << 16
# Rows that are read together of what one task leaves for another. With the vectors of 52 languages in one row group,
# the second round over 57,261 of them took 24 s, of which 22 were reading.
ROW_GROUP = 1_024
# N-grams are told apart by so many buckets: of a million different ones 0.01% fall together.
BUCKETS = 1 << 32
# What the tasks over vectors find out about a choice in a language.
FACTS = ("n", "separability", "similarity", "mean_tokens", "coverage")


@dataclass(frozen=True)
class Given:
    """What every task is told. choices: (input, method, candidates); groups: shards of the vectors, those of one task
    each; most: of a language with more rows so many are looked at."""

    choices: list[tuple[str, str, str]]
    inputs: Mapping[str, Artifact]
    attempt: Attempt
    seed: int
    groups: list[list[ShardRecord]]
    most: int

    @property
    def width(self) -> int:
        return int(self.inputs["vectors"].summary["width"])


def run(run: StageRun) -> StageOutput:
    """Write table `diversity`: a line for each choice and language, and one over all languages (lang null).

    settings: `choices`, input name -> (method, candidates), and `seed`; inputs: `corpus`, `vectors`, `scores` and
    those subsets. The summary has languages and sampled, those of which not every row was looked at.
    """
    choices = [(name, method, candidates) for name, (method, candidates) in run.settings["choices"].items()]
    grouped = _groups(run.inputs["vectors"].shards("vectors"))
    given = Given(choices, dict(run.inputs), run.attempt, run.settings["seed"], grouped, SAMPLED_ROWS)
    groups, shards = range(len(grouped)), range(len(run.inputs["corpus"].shards("corpus")))
    with run.progress.track(2 * len(groups) + len(shards) + 2, "tasks") as tracker:

        def each(table: str, task: Any, indices: range, *arguments: Any) -> list[ShardRecord]:
            finished = run.attempt.finished()
            todo = [(index, *arguments, given) for index in indices if (table, index) not in finished]
            tracker.advance(len(indices) - len(todo))
            for _ in run.cluster.map_tasks(task, todo):
                tracker.advance(1)
            finished = run.attempt.finished()
            return [finished[table, index] for index in indices]

        [members] = each("members", find_members, range(1))
        sums = each("sums", add_up_group, groups, members)
        finished = run.attempt.finished()
        points = [finished["points", index] for index in groups]
        nearest = each("nearest", measure_group, groups, members, points)
        [facts] = each("facts", reduce_groups, range(1), members, sums, nearest)
        hashed = each("hashed", hash_shard, shards, members)
        languages = members.summary["languages"]
        lines = each("diversity", describe_language, range(len(languages)), members, facts, hashed)
    records = [*lines, run.cluster.run_task(describe_all, lines, given)]
    sampled = [lang for lang, rows in languages.items() if rows > SAMPLED_ROWS]
    return StageOutput(records, {"languages": languages, "sampled": sampled})


def find_members(_: int, given: Given) -> None:
    """Ray task: which choices have each row of the languages that were chosen from, and which look at it, as bits; and
    of each choice and language n and the mean separability, float64 (choices, languages, 2)."""
    subsets = [given.inputs[name].read("subset", ["id", "lang"]) for name, _, _ in given.choices]
    chosen_langs = pc.unique(pa.chunked_array([chunk for table in subsets for chunk in table["lang"].chunks]))
    rows = given.inputs["scores"].read("scores", ["id", "lang", "separability"])
    rows = rows.filter(pc.is_in(rows["lang"], value_set=chosen_langs))
    rows = rows.sort_by([("lang", "ascending"), ("id", "ascending")]).combine_chunks()
    of = [pc.is_in(rows["id"], value_set=table["id"].combine_chunks()).to_numpy() for table in subsets]
    chosen = np.stack([np.ones(len(rows), dtype=bool), *of])
    sampled, ids, separability = chosen.copy(), rows["id"].to_pylist(), rows["separability"].to_numpy()
    languages, starts, counts = np.unique(np.array(rows["lang"].to_pylist()), return_index=True, return_counts=True)
    facts = np.full((len(chosen), len(languages), 2), np.nan)
    for lang, (start, count) in enumerate(zip(starts.tolist(), counts.tolist(), strict=True)):
        own = slice(start, start + count)
        draws = [draw(given.seed, f"diversity\0{identity}") for identity in ids[own]] if count > given.most else []
        for choice in range(len(chosen)):
            picked = start + np.flatnonzero(chosen[choice, own])
            facts[choice, lang, 0] = len(picked)
            if len(picked):
                facts[choice, lang, 1] = separability[picked].mean()
            if len(picked) > given.most:
                in_turn = np.argsort([draws[row - start] for row in picked], kind="stable")
                sampled[choice, picked[in_turn[given.most :]]] = False
    bit = 1 << np.arange(len(chosen), dtype=np.int64)
    columns = {"id": rows["id"], "lang": rows["lang"], "chosen": bit @ chosen, "sampled": bit @ sampled}
    given.attempt.write_array("scored", 0, facts)
    by_language = {str(lang): int(count) for lang, count in zip(languages, counts, strict=True)}
    _write(given.attempt, "members", 0, pa.table(columns), {"languages": by_language})


def add_up_group(index: int, members: ShardRecord, given: Given) -> None:
    """Ray task: of each choice and language the sum of the group's unit vectors, their number and that of tokens,
    float64 (choices x languages, d + 2); and the vectors of the rows that are to be covered (`points`)."""
    known = given.attempt.read_table(members, ["id", "lang", "chosen", "sampled"])
    languages, kinds = list(members.summary["languages"]), len(given.choices) + 1
    cells = [(choice, lang) for choice in range(kinds) for lang in languages]
    similarity, tokens = PairwiseSimilarity(cells, given.width), np.zeros(len(cells))
    points = []
    for table, langs, facts in _vectors(given, index, known, ["id", "lang", "vector", "n_tokens"]):
        vectors, lengths = _matrix(table), table["n_tokens"].to_numpy()
        for choice in range(kinds):
            has = facts["chosen"] >> choice & 1 == 1
            own = [(choice, lang) for lang in langs[has]]
            similarity.add(own, vectors[has])
            rows = np.fromiter((similarity.row[cell] for cell in own), np.int64, len(own))
            tokens += np.bincount(rows, weights=lengths[has], minlength=len(cells))
        points.append(table.select(["id", "lang", "vector"]).filter(pa.array(facts["sampled"] & 1 == 1)))
    # In the order of language, so that of a file only a language's row groups are read.
    _write(given.attempt, "points", index, pa.concat_tables(points).sort_by("lang"))
    given.attempt.write_array("sums", index, np.column_stack([similarity.sums, similarity.counts, tokens]))


def measure_group(index: int, members: ShardRecord, points: list[ShardRecord], given: Given) -> None:
    """Ray task: how far each row that is to be covered is from what the group has of each choice in its language,
    float64 (choices, rows); infinitely far where it has none. The rows are in the order of language and id."""
    known = given.attempt.read_table(members, ["id", "lang", "chosen", "sampled"])
    covered = np.array(known["lang"].to_pylist())[known["sampled"].to_numpy() & 1 == 1]
    distances = np.full((len(given.choices), len(covered)), np.inf)
    parts = list(_vectors(given, index, known, ["id", "lang", "vector"]))
    found = np.concatenate([langs for _, langs, _ in parts])
    chosen = np.concatenate([facts["chosen"] >> 1 for _, _, facts in parts])
    written = given.attempt.unpublished(points)
    for lang in sorted(set(found[chosen > 0])):
        rows = written.read("points", ["id", "vector"], filters=pc.field("lang") == lang).sort_by("id")
        # Once, not for every choice.
        targets = _matrix(rows).astype(np.float32)
        own = np.concatenate([_matrix(table)[langs == lang] for table, langs, _ in parts]).astype(np.float32)
        for choice in range(len(given.choices)):
            has = chosen[found == lang] >> choice & 1 == 1
            if has.any():
                distances[choice, covered == lang] = diversity.distances_to_nearest(targets, own[has])
    given.attempt.write_array("nearest", index, distances)


def reduce_groups(
    _: int, members: ShardRecord, sums: list[ShardRecord], nearest: list[ShardRecord], given: Given
) -> None:
    """Ray task: what all groups make of each choice and language: `FACTS`, float64 (choices, languages, 5)."""
    attempt, languages, kinds = given.attempt, list(members.summary["languages"]), len(given.choices) + 1
    similarity = PairwiseSimilarity([(choice, lang) for choice in range(kinds) for lang in languages], given.width)
    tokens = np.zeros(kinds * len(languages))
    for record in sums:
        part = attempt.read_array(record)
        similarity.sums += part[:, :-2]
        similarity.counts += part[:, -2].astype(np.int64)
        tokens += part[:, -1]
    distances = attempt.read_array(nearest[0])
    for record in nearest[1:]:
        distances = np.minimum(distances, attempt.read_array(record))
    known = attempt.read_table(members, ["lang", "sampled"])
    covered = np.array(known["lang"].to_pylist())[known["sampled"].to_numpy() & 1 == 1]
    facts = np.full((kinds, len(languages), len(FACTS)), np.nan)
    facts[:, :, :2] = attempt.read_array(attempt.finished()["scored", 0])
    for choice in range(kinds):
        for number, lang in enumerate(languages):
            n = facts[choice, number, 0]
            if not n:
                continue
            mean = similarity.mean((choice, lang))
            facts[choice, number, 2] = np.nan if mean is None else mean
            facts[choice, number, 3] = tokens[similarity.row[choice, lang]] / n
            facts[choice, number, 4] = distances[choice - 1, covered == lang].mean() if choice else 0.0
    attempt.write_array("facts", 0, facts)


def hash_shard(index: int, members: ShardRecord, given: Given) -> None:
    """Ray task: the n-grams of one shard's rows that are looked at."""
    corpus = given.inputs["corpus"]
    rows = corpus.read_shard(corpus.shards("corpus")[index], ["id", "prompt", "response", "history"])
    known = given.attempt.read_table(members, ["id", "lang", "sampled"])
    known = known.filter(pc.greater(known["sampled"], 0))
    places = pc.index_in(rows["id"], value_set=known["id"].combine_chunks())
    rows, known = rows.filter(places.is_valid()), known.take(places.drop_null())
    texts = [said(**row) for row in rows.select(["prompt", "response", "history"]).to_pylist()]
    hashed, offsets = dsir.hashed_ngrams(texts, buckets=BUCKETS)
    ngrams = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(hashed, pa.uint32()))
    columns = {"lang": known["lang"], "sampled": known["sampled"], "ngrams": ngrams}
    _write(given.attempt, "hashed", index, pa.table(columns))


def describe_language(
    index: int, members: ShardRecord, facts: ShardRecord, hashed: list[ShardRecord], given: Given
) -> None:
    """Ray task: the lines of one language."""
    lang, corpus_rows = list(members.summary["languages"].items())[index]
    rows = given.attempt.unpublished(hashed).read("hashed", ["sampled", "ngrams"], filters=pc.field("lang") == lang)
    sampled = rows["sampled"].to_numpy()
    of_choice = []
    for choice in range(len(given.choices) + 1):
        own = rows["ngrams"].filter(pa.array(sampled >> choice & 1 == 1)).combine_chunks()
        offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(own).to_numpy())]).astype(np.int64)
        of_choice.append(diversity.ngrams_by_order(own.flatten().to_numpy(), offsets))
    # The most n-grams that every choice with any has.
    sizes = [min((len(both[order]) for both in of_choice if len(both[order])), default=0) for order in (0, 1)]
    known = given.attempt.read_array(facts)[:, index]
    lines = []
    for (method, candidates), both, found in zip(_named(given), of_choice, known, strict=True):
        line: dict[str, Any] = {"method": method, "candidates": candidates, "lang": lang, "corpus_rows": corpus_rows}
        line |= {name: None if np.isnan(value) else float(value) for name, value in zip(FACTS, found, strict=True)}
        line |= {"n": int(found[0]), "sampled": corpus_rows > given.most}
        for order, ngrams in enumerate(both, start=1):
            size = sizes[order - 1]
            line |= {f"ngrams_{order}": size or None}
            line |= {f"distinct_{order}": diversity.distinct_share(ngrams, size) if len(ngrams) else None}
        lines.append(line)
    given.attempt.write_table("diversity", index, pa.Table.from_pylist(lines, schema=DIVERSITY))


def describe_all(by_language: list[ShardRecord], given: Given) -> ShardRecord:
    """Ray task: the lines over all languages. A sample's language counts as often as it was chosen, for coverage as
    often as the corpus has it; one without any choice has no part."""
    parts = [given.attempt.read_table(record).to_pylist() for record in by_language]
    lines = []
    for of_choice in zip(*parts, strict=True):
        rows = [line["n"] for line in of_choice]
        there = [line["corpus_rows"] if line["n"] else 0 for line in of_choice]
        line = {name: of_choice[0][name] for name in ("method", "candidates")}
        for name in ("separability", "similarity", "distinct_1", "distinct_2", "mean_tokens"):
            line[name] = diversity.mean_over([part[name] for part in of_choice], rows)
        line["coverage"] = diversity.mean_over([part["coverage"] for part in of_choice], there)
        line |= {"n": sum(rows), "corpus_rows": sum(there), "sampled": any(part["sampled"] for part in of_choice)}
        lines.append(line)
    table = pa.Table.from_pylist(lines, schema=DIVERSITY)
    return given.attempt.write_table("diversity", len(by_language), table)


def _groups(shards: list[ShardRecord]) -> list[list[ShardRecord]]:
    """However many workers there are, the groups are the same, and so are rounded sums."""
    groups: list[list[ShardRecord]] = [[]]
    for shard in shards:
        if groups[-1] and sum(record.rows for record in groups[-1]) + shard.rows > ROWS_OF_A_GROUP:
            groups.append([])
        groups[-1].append(shard)
    return groups


def _named(given: Given) -> list[tuple[str, str]]:
    return [EVERYTHING, *((method, candidates) for _, method, candidates in given.choices)]


def _vectors(
    given: Given, group: int, known: pa.Table, columns: list[str]
) -> Iterator[tuple[pa.Table, NDArray[Any], dict[str, NDArray[np.int64]]]]:
    """Of each shard of the group the rows that are `known`, their languages, and their bits."""
    ids = known["id"].combine_chunks()
    for shard in given.groups[group]:
        table = given.inputs["vectors"].read_shard(shard, columns)
        places = pc.index_in(table["id"], value_set=ids)
        table, places = table.filter(places.is_valid()), places.drop_null()
        facts = {name: known[name].take(places).to_numpy() for name in ("chosen", "sampled")}
        yield table, np.array(table["lang"].to_pylist(), dtype=object), facts


def _matrix(table: pa.Table) -> NDArray[np.floating]:
    """The vectors, (n, d)."""
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def _write(
    attempt: Attempt, table: str, index: int, rows: pa.Table, summary: dict[str, Any] | None = None
) -> ShardRecord:
    """What a later task of this stage reads, as Parquet."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", row_group_size=ROW_GROUP)
    return attempt.write_file(table, index, f"{index:05d}.parquet", sink.getvalue(), summary=summary)
