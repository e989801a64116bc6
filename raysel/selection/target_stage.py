"""Stage `target`: the samples that DSIR and LESS are to find the like of."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from raysel.corpus.files import CorpusError, SourcePart, read_batches, split_into_parts
from raysel.corpus.presets import Layout
from raysel.corpus.rows import Problems, standardise
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import development_tasks
from raysel.seeding import draw
from raysel.selection.selector import SelectorError
from raysel.selection.settings import TargetSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord
from raysel.tables import TARGET

COLUMNS = ["id", "lang", "prompt", "response", "history", "task", "source"]
BATCH_ROWS = 2048


def run(run: StageRun) -> StageOutput:
    """Write table `target`, sorted by subtask and id. settings: `target`, `seed` and `unseen` (languages left
    out); for what is held out the input `corpus`, for development items `evaluation`, for the user's own `files` and
    `layout`."""
    record = run.cluster.run_task(write_target, dict(run.settings), run.inputs.get("corpus"), run.attempt)
    return StageOutput([record], record.summary)


def write_target(given: dict[str, Any], corpus: Artifact | None, attempt: Attempt) -> ShardRecord:
    """Ray task: read the target, and of each subtask keep as many samples as asked for."""
    target: TargetSettings = given["target"]
    if target.of == "heldout" and corpus is not None:
        samples = _heldout(corpus)
    elif target.of == "evaluation":
        samples = _development_items(given["evaluation"])
    else:
        samples = _from_files(given["files"], given["layout"])
    by_subtask: dict[str, list[dict[str, Any]]] = {}
    unseen = given.get("unseen", [])
    for sample in (sample for sample in samples if sample["lang"] not in unseen):
        subtask = sample[target.subtask]
        if subtask is None:
            raise SelectorError(
                f"selection.target: sample {sample['id']!r} has no {target.subtask}, which selection.target.subtask "
                "divides the target by"
            )
        by_subtask.setdefault(subtask, []).append(sample)
    if not by_subtask:
        why = {
            "heldout": "nothing is held out of the corpus (corpus.heldout) in languages that are trained on",
            "evaluation": "the tasks have no development item in languages that are trained on",
            "files": f"{target.path} has no row",
        }
        raise SelectorError(f"selection.target is empty: {why[target.of]}")
    kept = []
    for subtask, members in sorted(by_subtask.items()):
        drawn = sorted(members, key=lambda sample: draw(given["seed"], f"target {sample['id']}"))[: target.samples]
        kept += [sample | {"subtask": subtask} for sample in sorted(drawn, key=lambda sample: sample["id"])]
    table = pa.Table.from_pylist([{name: sample[name] for name in TARGET.names} for sample in kept], schema=TARGET)
    counts = {subtask: min(len(members), target.samples or len(members)) for subtask, members in by_subtask.items()}
    languages = sorted(set(table["lang"].to_pylist()))
    summary = {"subtasks": dict(sorted(counts.items())), "languages": languages}
    return attempt.write_table("target", 0, table, summary=summary)


def _heldout(corpus: Artifact) -> Iterator[dict[str, Any]]:
    for shard in corpus.shards("heldout"):
        yield from corpus.read_shard(shard, COLUMNS).to_pylist()


def _development_items(settings: EvaluationSettings) -> Iterator[dict[str, Any]]:
    from raysel.evaluation.development import development_items

    for task in development_tasks(settings):
        for number, (prompt, response) in enumerate(development_items(task)):
            said = {"prompt": prompt, "response": response, "history": None}
            yield {"id": f"{task.name}:{number}", "lang": task.lang, "task": task.name, "source": task.name, **said}


def _from_files(files: Iterable[str], layout: Layout) -> Iterator[dict[str, Any]]:
    problems = Problems()
    for part in split_into_parts(list(files)):
        yield from _rows_of(part, layout, problems)
    if problems.counts:
        raise SelectorError("selection.target.path cannot be used as it is:\n  " + "\n  ".join(problems.lines()))


def _rows_of(part: SourcePart, layout: Layout, problems: Problems) -> Iterator[dict[str, Any]]:
    try:
        for batch in read_batches(part, BATCH_ROWS):
            for unreadable in batch.unreadable:
                problems.add("unreadable line", unreadable)
            rows, wrong, _ = standardise(
                batch.rows,
                batch.numbers,
                layout=layout,
                location=part.location,
                name=part.name,
                source=part.name,
                drop_empty=False,
                section="selection.target",
            )
            problems.merge(wrong)
            yield from rows.select(COLUMNS).to_pylist()
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise CorpusError(f"target file {part.location} is damaged: {error}") from error
