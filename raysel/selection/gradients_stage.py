"""Stage `gradients`: LESS's datastore, the projected gradient of every sample at every checkpoint of the warm-up.

One actor per GPU holds the model and the adapters and moments of all checkpoints. It reads a piece of the rows, goes
through it once for each checkpoint and writes a shard for each, so no memory grows with the corpus. On CPUs a batch
goes through the model in each thread, so that the number of threads changes no bit.
"""

import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from safetensors.torch import load

from raysel.cluster import ItemsFailedError
from raysel.errors import IncompleteError, UserError
from raysel.models.loading import decoder_start, load_causal_lm, load_tokenizer
from raysel.selection.settings import LessSettings
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, ShardRecord, overlapping
from raysel.tables import gradients_schema
from raysel.training.examples import instruction_example
from raysel.training.tokenizer_source import read_config

SHARD_ROWS = 512
KINDS = ("weight", "exp_avg", "exp_avg_sq")
TOKEN_BUDGETS = {"cpu": 4096, "cuda": 16384}


class GradientError(UserError):
    """Samples of which no gradient can be taken."""


def run(run: StageRun) -> StageOutput:
    """Write table `gradients`: shard i * checkpoints + c has piece i of the rows at checkpoint c.

    inputs: `warmup`; either `corpus` and `pool`, whose rows' gradients become Adam's directions, or `target`, whose
    ones stay as they are. The summary has checkpoints, pieces and untrained (rows left out: no token to learn).
    """
    less: LessSettings = run.settings["less"]
    pool = run.inputs.get("pool")
    name = "target" if pool is None else "corpus"
    rows = run.inputs[name]
    device = "cuda" if run.cluster.gpus() else "cpu"
    given = {"token_budget": less.token_budget}

    def choose() -> dict[str, Any]:
        bounds = run.cluster.run_task(piece_bounds, rows, name, pool, SHARD_ROWS)
        return {"token_budget": less.token_budget or TOKEN_BUDGETS[device], "bounds": bounds}

    plan = run.attempt.plan(choose, given=given)
    checkpoints = len(run.inputs["warmup"].summary["checkpoints"])
    pieces = [{"index": i, "start": at, "stop": stop} for i, (at, stop) in enumerate(pairwise(plan["bounds"]))]
    finished = run.attempt.finished(plan)
    last = [("gradients", piece["index"] * checkpoints + checkpoints - 1) for piece in pieces]
    todo = [piece for piece, key in zip(pieces, last, strict=True) if key not in finished]
    workers = max(1, min(less.workers or run.cluster.gpus() or min(2, run.cluster.cpus()), len(todo)))
    cpus = 1 if device == "cuda" else run.cluster.cpus_each(workers)
    arguments = {
        "model": run.inputs.get("model") or str(Path(run.leaves["model"]).absolute()),
        "template": run.settings["template"],
        "trust_remote_code": run.settings["trust_remote_code"],
        "less": less,
        "seed": run.settings["seed"],
        "warmup": run.inputs["warmup"],
        "rows": rows,
        "pool": pool,
        "attempt": run.attempt,
        "plan": plan,
        "device": device,
        "threads": cpus,
    }
    actors = {"workers": workers, "num_cpus": cpus, "num_gpus": 1 if device == "cuda" else 0}
    try:
        with run.progress.track(len(pieces), "shards", done=len(pieces) - len(todo)) as tracker:
            for _ in run.cluster.map_actors(Gradients, arguments, todo, **actors):
                tracker.advance(1)
    except ItemsFailedError as failed:
        reasons = "; ".join(reason.strip().splitlines()[-1] for reason in list(failed.reasons.values())[:3])
        raise IncompleteError(
            f"gradients: {len(failed.reasons)} of {len(pieces)} shards failed: {reasons}. The others are stored; "
            "the same command tries just those again"
        ) from failed
    finished = run.attempt.finished(plan)
    records = [finished["gradients", i] for i in range(len(pieces) * checkpoints)]
    firsts = records[::checkpoints]
    if not any(record.rows for record in firsts):
        raise GradientError(
            f"not one sample of the {name} has a token to learn within selection.less.warmup.max_tokens "
            f"{less.warmup.max_tokens}"
        )
    untrained = sum(record.summary["untrained"] for record in firsts)
    warnings = [f"{untrained:,} rows have no token to learn and no gradient"] if untrained else []
    if not all(record.summary["batched"] for record in firsts):
        warnings.append("gradients were taken of one sample at a time: this model's attention mixes those of a batch")
    summary = {"checkpoints": checkpoints, "pieces": len(pieces), "untrained": untrained, "warnings": warnings}
    return StageOutput(records, summary)


def piece_bounds(rows: Artifact, name: str, pool: Artifact | None, size: int) -> list[int]:
    """Ray task: where the pieces begin, and behind the last where it ends: each has `size` rows of the pool (without
    one, of all), whatever stretch of the rows holds them; the last may have fewer."""
    if pool is None:
        total = rows.rows(name)
        return [*range(0, total, size), total]
    wanted = _pool_ids(pool)
    bounds: list[int] = []
    first = found = end = 0
    for shard in rows.shards(name):
        chosen = pc.is_in(rows.read_shard(shard, ["id"])["id"], value_set=wanted)
        places = first + np.flatnonzero(chosen.to_numpy())
        bounds += places[-found % size :: size].tolist()
        first, found = first + shard.rows, found + len(places)
        end = int(places[-1]) + 1 if len(places) else end
    return [*bounds, end]


def _pool_ids(pool: Artifact) -> pa.Array:
    return pool.read("pool", ["id"])["id"].combine_chunks()


class Gradients:
    """Ray Data actor: the model with adapters, and the checkpoints that are put into them in turn."""

    def __init__(
        self,
        model: Artifact | str,
        template: str,
        trust_remote_code: bool,
        less: LessSettings,
        seed: int,
        warmup: Artifact,
        rows: Artifact,
        pool: Artifact | None,
        attempt: Attempt,
        plan: dict[str, Any],
        device: str,
        threads: int,
    ) -> None:
        from raysel.selection.less import GradientProjector
        from raysel.training.engine import add_adapters

        self.rows, self.attempt, self.plan = rows, attempt, plan
        self.name = "target" if pool is None else "corpus"
        self.wanted = None if pool is None else _pool_ids(pool)
        self.max_tokens, self.dimensions = less.warmup.max_tokens, less.dimensions
        self.decoder_start = decoder_start(read_config(model))
        with tempfile.TemporaryDirectory() as scratch:
            folder = model.local_folder("model", Path(scratch)) if isinstance(model, Artifact) else model
            self.tokenizer = load_tokenizer(folder, template, trust_remote_code=trust_remote_code)
            causal_lm = load_causal_lm(folder, dtype=less.warmup.dtype, trust_remote_code=trust_remote_code)
        adapted = add_adapters(causal_lm, less.warmup.lora, "selection.less.warmup").to(device)
        self.projector = GradientProjector(
            adapted, seed=seed, token_budget=plan["token_budget"], width=less.dimensions, threads=threads
        )
        self.with_moments = pool is not None
        self.checkpoints = [self._checkpoint(warmup, entry["table"]) for entry in warmup.summary["checkpoints"]]

    def _checkpoint(self, warmup: Artifact, table: str) -> dict[str, dict[str, Any]]:
        """Kind (weight, exp_avg, exp_avg_sq) -> parameter's name -> tensor."""
        found: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        for part in warmup.shards(table):
            for key, value in load(warmup.store.read_bytes(f"{warmup.address}/{part.path}")).items():
                kind, _, name = key.partition("/")
                if kind == "weight" or self.with_moments:
                    found[kind][name] = value
        return found

    def process(self, piece: dict[str, Any]) -> dict[str, Any]:
        columns = ["id", "lang", "prompt", "response", "history", *(["subtask"] if self.wanted is None else [])]
        rows = self._read(piece["start"], piece["stop"], columns)
        examples = [
            instruction_example(self.tokenizer, **row, max_tokens=self.max_tokens, decoder_start=self.decoder_start)
            for row in rows.select(["prompt", "response", "history"]).to_pylist()
        ]
        trained = [example.trained_tokens > 0 for example in examples]
        rows = rows.filter(pa.array(trained, pa.bool_()))
        learned = [example for example, is_trained in zip(examples, trained, strict=True) if is_trained]
        summary = {"untrained": len(examples) - len(learned), "batched": self.projector.gradients.batched}
        for number, checkpoint in enumerate(self.checkpoints):
            weights, *moments = (checkpoint[kind] for kind in KINDS)
            pairs = {name: (moments[0][name], moments[1][name]) for name in weights} if self.with_moments else None
            self.projector.load(weights, pairs)
            gradients = self._finite(self.projector.rows(learned), rows["id"])
            index = piece["index"] * len(self.checkpoints) + number
            self.attempt.write_table("gradients", index, self._table(rows, gradients), plan=self.plan, summary=summary)
        return {"rows": rows.num_rows}

    def _read(self, start: int, stop: int, columns: list[str]) -> pa.Table:
        """The rows of a piece; of a thin pool they lie far apart, and what lies between them is not kept."""
        parts = []
        for shard, first, count in overlapping(self.rows.shards(self.name), start, stop):
            part = self.rows.read_shard(shard, columns).slice(first, count)
            parts.append(part if self.wanted is None else part.filter(pc.is_in(part["id"], value_set=self.wanted)))
        return pa.concat_tables(parts)

    def _finite(self, gradients: NDArray[np.float16], ids: pa.ChunkedArray) -> NDArray[np.float16]:
        """`GradientError` for what is not finite."""
        broken = np.flatnonzero(~np.isfinite(gradients).all(axis=1))
        if len(broken):
            named = ", ".join(repr(ids[int(i)].as_py()) for i in broken[:5])
            raise GradientError(
                f"the gradients of {len(broken):,} samples of the {self.name} are NaN or infinite: {named}. Look at "
                "them, lower selection.less.warmup.learning_rate, or set selection.less.warmup.dtype to float32"
            )
        return gradients

    def _table(self, rows: pa.Table, gradients: NDArray[np.float16]) -> pa.Table:
        subtask = rows["subtask"] if self.wanted is None else pa.nulls(rows.num_rows, pa.string())
        flat = pa.FixedSizeListArray.from_arrays(pa.array(gradients.reshape(-1), pa.float16()), self.dimensions)
        return pa.table([rows["id"], rows["lang"], subtask, flat], schema=gradients_schema(self.dimensions))


def gradient_rows(
    artifact: Artifact, shard: ShardRecord, columns: Sequence[str] = ()
) -> tuple[pa.Table, NDArray[np.float16]]:
    """The named columns of one shard, and its gradients, float16 (n, D)."""
    table = artifact.read_shard(shard, [*columns, "gradient"])
    column = table["gradient"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return table.select(list(columns)), flat.reshape(-1, column.type.list_size)
