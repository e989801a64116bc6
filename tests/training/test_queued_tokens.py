"""A loss-aware curriculum in training: what it trains on, killed and resumed, and replayed."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raysel.models.loading import load_tokenizer
from raysel.progress import Progress
from raysel.store import Artifact, Store
from raysel.tables import ORDER, QUEUES
from raysel.training.queued_tokens import steps_by_loss, trained_order, write_queued_shard
from raysel.training.settings import TokenSettings, TrainingSettings
from raysel.training.token_shards import even_steps, shard_starts, summarize, write_token_shard
from tests.training.runs import (
    KilledError,
    assert_same_weights,
    killed_after,
    log_of,
    losses,
    train,
    worker_killed_at_a_checkpoint,
    write_corpus,
)

DATA = TokenSettings(max_tokens=128, batch_samples=4, epochs=2)
RULE = {"strength": 3.0, "block_steps": 2, "memory": 0.5}
LEVELS = 3


def queued(store: Store, model: Path, rows: int, data: TokenSettings = DATA, rule: Any = RULE) -> tuple[Any, Artifact]:
    """A corpus and the published tokens of its rows in queues, in shards of 7: levels and shards overlap."""
    corpus = write_corpus(store, rows)
    ids = [corpus.read("corpus", ["id"])["id"].to_pylist()[i] for i in np.random.default_rng(1).permutation(rows)]
    level = sorted(i % 5 % LEVELS for i in range(rows))
    queue = [
        {"id": i, "place": place, "lang": "en", "task": None, "level": level[place]} for place, i in enumerate(ids)
    ]
    attempt = store.attempt("order", "queues")
    record = attempt.write_table("queues", 0, pa.Table.from_pylist(queue, schema=QUEUES))
    order = attempt.publish([record], settings={}, inputs={}, version=1, summary={})
    attempt, tokenizer = store.attempt("tokens", "queued"), load_tokenizer(model)
    records = [
        write_queued_shard(attempt, n, (start, start + 7), order, corpus, tokenizer, data)
        for n, start in enumerate(range(0, rows, 7))
    ]
    by_level = sum((Counter(record.summary["samples_by_level"]) for record in records), Counter())
    steps = -(-rows * data.epochs // data.batch_samples)
    summary = summarize(records, steps, data) | {
        "template": "auto",
        "loss_aware": rule,
        "samples_by_level": dict(by_level),
        "batch_samples": data.batch_samples,
        "epochs": data.epochs,
        "max_tokens": data.max_tokens,
        "packing": True,
    }
    return corpus, attempt.publish(records, settings={}, inputs={}, version=1, summary=summary)


def settings(**more: Any) -> TrainingSettings:
    return TrainingSettings(data=DATA, zero=0, method="full", learning_rate=1e-2, checkpoint_steps=3, **more)


def test_every_row_once_an_epoch_and_no_row_of_two_levels(store: Store, tiny_llama: Path) -> None:
    corpus, tokens = queued(store, tiny_llama, 26)
    log: list[dict] = []
    ids: list[str] = []
    for step in steps_by_loss(tokens, log):
        assert all(len(set(row["levels"])) == 1 for row in step.rows)
        assert all(len(row["input_ids"]) <= 128 for row in step.rows)
        assert step.positions == list(range(len(ids), len(ids) + len(step.positions)))
        ids += [sample["id"] for sample in step.samples]
        # The higher the level the higher its loss, so that the shares differ.
        log.append({"loss_by_level": {str(s["level"]): 1.0 + s["level"] for s in step.samples}})
    everything = set(corpus.read("corpus", ["id"])["id"].to_pylist())
    assert len(log) == tokens.summary["steps"] == 13
    assert set(ids[:26]) == set(ids[26:]) == everything


def test_a_hard_level_comes_up_earlier(store: Store, tiny_llama: Path) -> None:
    _, tokens = queued(store, tiny_llama, 60, TokenSettings(max_tokens=128, batch_samples=4))

    def levels_of(hard: int) -> list[int]:
        log: list[dict] = []
        found: list[int] = []
        for step in steps_by_loss(tokens, log):
            found += [sample["level"] for sample in step.samples]
            log.append({"loss_by_level": {str(level): 3.0 if level == hard else 1.0 for level in range(LEVELS)}})
        return found

    assert sorted(levels_of(0)) == sorted(levels_of(2))
    middle = {hard: np.mean(np.flatnonzero(np.array(levels_of(hard)) == hard)) for hard in (0, 2)}
    other = {hard: np.mean(np.flatnonzero(np.array(levels_of(2 - hard)) == hard)) for hard in (0, 2)}
    assert middle[0] < other[0] - 3
    assert middle[2] < other[2] - 3


def test_carried_on_from_any_step_the_order_is_the_same(store: Store, tiny_llama: Path) -> None:
    _, tokens = queued(store, tiny_llama, 26)

    def followed(log: list[dict]) -> list[list[str]]:
        found = []
        for step in steps_by_loss(tokens, log):
            found.append([sample["id"] for sample in step.samples])
            # Losses that tell the levels far apart, differently in every step.
            levels = {str(s["level"]): float(1 + (s["level"] * 7 + step.step * 5) % 11) for s in step.samples}
            log.append({"loss_by_level": levels})
        return found

    whole: list[dict] = []
    order = followed(whole)
    for done in range(len(order) + 1):
        assert followed(whole[:done]) == order[done:]


def test_killed_and_resumed_it_trains_the_same_order(learn, store: Store, tiny_llama: Path) -> None:
    _, tokens = queued(store, tiny_llama, 26)
    undisturbed, folder = learn(tiny_llama, tokens, settings(), "undisturbed")
    for step in (4, 9):
        with pytest.raises(KilledError):
            learn(tiny_llama, tokens, settings(), "killed", killed_after(step))
    resumed, again = learn(tiny_llama, tokens, settings(), "killed")
    assert resumed.resumed_from == 9
    assert [line["ids"] for line in resumed.log] == [line["ids"] for line in undisturbed.log]
    assert losses(resumed.log) == pytest.approx(losses(undisturbed.log), abs=1e-6)
    assert_same_weights(folder, again)


def test_another_loss_another_order(learn, store: Store, tiny_llama: Path) -> None:
    """The order does follow what is trained: with another learning rate it is another one."""
    _, tokens = queued(store, tiny_llama, 60, rule=RULE | {"strength": 20.0})
    orders = []
    for rate in (0.0, 3e-2):
        outcome, _ = learn(tiny_llama, tokens, settings().model_copy(update={"learning_rate": rate}), f"rate-{rate}")
        orders.append([name for line in outcome.log for name in line["ids"]])
    assert orders[0] != orders[1]
    assert Counter(orders[0]) == Counter(orders[1])


def test_replaying_the_order_gives_the_same_model(learn, store: Store, tiny_llama: Path) -> None:
    corpus, tokens = queued(store, tiny_llama, 26)
    found, folder = learn(tiny_llama, tokens, settings(), "found")
    order_table = trained_order(tokens, found.log)
    assert order_table["position"].to_pylist() == list(range(52))
    attempt = store.attempt("order", "replay")
    record = attempt.write_table("order", 0, order_table.select(ORDER.names))
    order = attempt.publish([record], settings={}, inputs={}, version=1, summary={})
    once = DATA.model_copy(update={"epochs": 1})
    starts, plan = even_steps(52, once), {"steps_per_shard": 5}
    attempt = store.attempt("tokens", "replay")
    records = [
        write_token_shard(
            attempt,
            plan,
            index,
            shard_starts(starts, plan, index),
            order,
            corpus,
            load_tokenizer(tiny_llama),
            once,
            packing=True,
            levels_apart=True,
        )
        for index in range(3)
    ]
    planned = attempt.publish(
        records, settings={}, inputs={}, version=1, summary=summarize(records, 13, once) | {"template": "auto"}
    )
    replayed, again = learn(tiny_llama, planned, settings(), "replayed")
    assert losses(replayed.log) == losses(found.log)
    assert_same_weights(folder, again, atol=0, rtol=0)


@pytest.mark.slow
def test_two_workers_one_of_them_killed_choose_as_one_does(
    cluster: Any, progress: Progress, store: Store, tiny_llama: Path, learn
) -> None:
    _, tokens = queued(store, tiny_llama, 26, DATA.model_copy(update={"epochs": 12}))
    given = settings(workers=2).model_copy(update={"zero": 2, "checkpoint_steps": 5, "learning_rate": 1e-3})
    alone, _ = learn(tiny_llama, tokens, given, "alone")
    with worker_killed_at_a_checkpoint(store, "killed") as killed:
        output, model = train(cluster, progress, store, tiny_llama, tokens, given, "killed")
    assert killed
    assert output.summary["resumed_from"] >= 5
    assert losses(log_of(model)) == pytest.approx(losses(alone.log), abs=1e-5)
    found = model.read("trained_order").to_pylist()
    assert [row["step"] for row in found] == [position // 4 for position in range(26 * 12)]
    assert found == trained_order(tokens, alone.log).to_pylist()
