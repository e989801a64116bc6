"""Stage `tokens` on Ray."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raysel.models.loading import load_tokenizer
from raysel.models.templates import end_of_turn, prompt_text, sample_text
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, Store
from raysel.training import tokens_stage
from raysel.training.examples import IGNORED
from raysel.training.settings import TokenSettings
from raysel.training.tokenizer_source import TokenError
from tests.training.runs import write_corpus, write_order

HISTORY = json.dumps(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Bonjour ?"},
        {"role": "assistant", "content": "Oui."},
    ]
)


def run_stage(
    attempt: Attempt, corpus: Artifact, order: Artifact, model: Path, data: TokenSettings, cluster: Any, progress: Any
) -> StageOutput:
    settings = {"data": data, "template": "chatml", "trust_remote_code": False}
    inputs = {"corpus": corpus, "order": order}
    return tokens_stage.run(StageRun(settings, inputs, {"model": str(model)}, attempt, cluster, progress))


def test_every_ordered_sample_is_in_its_row(cluster, progress, store: Store, tiny_llama: Path) -> None:
    corpus = write_corpus(store, 30, history=HISTORY)
    ids = [f"s{i:03d}" for i in range(0, 30, 2)][::-1]
    order = write_order(store, ids)
    data = TokenSettings(max_tokens=256, batch_samples=4, epochs=3)
    attempt = store.attempt("tokens", "t")
    output = run_stage(attempt, corpus, order, tiny_llama, data, cluster, progress)
    tokens = attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)
    rows = tokens.read("tokens").to_pylist()
    placed = {
        p: (i, lang) for row in rows for p, i, lang in zip(row["positions"], row["ids"], row["langs"], strict=True)
    }
    texts = {row["id"]: row for row in corpus.read("corpus").to_pylist()}
    assert placed == {p: (ids[p % 15], texts[ids[p % 15]]["lang"]) for p in range(45)}
    tokenizer = load_tokenizer(tiny_llama, "chatml")
    for row in rows:
        start = 0
        for name, length in zip(row["ids"], row["segment_lengths"], strict=True):
            labels = row["labels"][start : start + length]
            sample = texts[name]
            closing = end_of_turn(tokenizer)
            assert tokenizer.decode([i for i in labels if i != IGNORED]) == sample["response"] + closing
            context = [i for i, label in zip(row["input_ids"][start:], labels, strict=False) if label == IGNORED]
            assert tokenizer.decode(context) == prompt_text(tokenizer, sample["prompt"], sample["history"])
            start += length
        assert start == len(row["input_ids"]) <= 256
    assert output.summary["steps"] == 12
    assert output.summary["samples"] == 45
    assert output.summary["tokens"] == sum(len(row["input_ids"]) for row in rows)
    assert output.summary["trained_tokens"] == sum(i != IGNORED for row in rows for i in row["labels"])
    samples, trained = Counter(), Counter()
    for name in ids * 3:
        samples[texts[name]["lang"]] += 1
        trained[texts[name]["lang"]] += len(tokenizer(texts[name]["response"] + closing)["input_ids"])
    assert output.summary["samples_by_lang"] == samples
    assert output.summary["trained_tokens_by_lang"] == trained
    assert output.summary["langs"] == sorted(samples)
    assert output.summary["packing"]
    assert output.summary["warnings"] == []


def test_shards_that_an_earlier_attempt_finished_are_kept(cluster, progress, store: Store, tiny_llama: Path) -> None:
    corpus = write_corpus(store, 12)
    order = write_order(store, [f"s{i:03d}" for i in range(12)])
    data = TokenSettings(max_tokens=256, batch_samples=2)
    first = store.attempt("tokens", "t")
    first.plan(lambda: {"steps_per_shard": 2})
    kept = run_stage(first, corpus, order, tiny_llama, data, cluster, progress)
    assert len(kept.records) == 3
    lost = kept.records[1]
    Path(store.full(f"{first.address}/{lost.path}")).unlink()
    again = run_stage(store.attempt("tokens", "t"), corpus, order, tiny_llama, data, cluster, progress)
    assert [record.path for record in again.records][::2] == [record.path for record in kept.records][::2]
    assert again.records[1].path != lost.path
    assert again.records[1].sha256 == lost.sha256
    assert again.summary == kept.summary


def test_cut_and_left_out_samples_are_counted_and_named(cluster, progress, store: Store, tiny_llama: Path) -> None:
    corpus = write_corpus(store, 9)
    order = write_order(store, [f"s{i:03d}" for i in range(9)])
    data = TokenSettings(max_tokens=86, batch_samples=4)
    output = run_stage(store.attempt("tokens", "t"), corpus, order, tiny_llama, data, cluster, progress)
    summary = output.summary
    assert 0 < summary["untrained"] < 9
    assert summary["samples"] == 9 - summary["untrained"]
    assert set(summary["truncated"]) <= {"en", "fr", "ru"}
    assert sum(summary["truncated"].values()) >= summary["untrained"]
    cut, left_out = summary["warnings"]
    assert "training.data.max_tokens 86" in cut
    assert summary["untrained_ids"][0] in left_out


def test_held_out_samples_are_chosen_by_their_ids_alone(cluster, progress, store: Store, tiny_llama: Path) -> None:
    corpus = write_corpus(store, 12, heldout=30, history=HISTORY)
    data = TokenSettings(max_tokens=512, heldout_samples=4)
    chosen = []
    for name, ids in (("a", ["s000"]), ("b", ["s001", "s002", "s003"])):
        attempt = store.attempt("tokens", name)
        output = run_stage(attempt, corpus, write_order(store, ids, name), tiny_llama, data, cluster, progress)
        tokens = attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)
        rows = tokens.read("heldout_tokens").to_pylist()
        chosen.append([pair for row in rows for pair in zip(row["langs"], row["ids"], strict=True)])
    assert chosen[0] == chosen[1]
    assert sorted(lang for lang, _ in chosen[0]) == ["en"] * 4 + ["fr"] * 4 + ["ru"] * 4
    assert {name for _, name in chosen[0]} <= {f"s{i:03d}" for i in range(12, 42)}
    tokenizer = load_tokenizer(tiny_llama, "chatml")
    texts = {row["id"]: row for row in corpus.read("heldout").to_pylist()}
    for row in rows:
        whole = [texts[name] for name in row["ids"]]
        said = (sample_text(tokenizer, sample["prompt"], sample["response"], sample["history"]) for sample in whole)
        assert tokenizer.decode(row["input_ids"]) == "".join(text + end_of_turn(tokenizer) for text in said)


def test_what_cannot_be_tokenised_is_refused(cluster, progress, store: Store, tiny_llama: Path) -> None:
    corpus, attempt = write_corpus(store, 4), store.attempt("tokens", "t")
    some, none = write_order(store, ["s000"]), write_order(store, [], "none")

    def refuses(order: Artifact, data: TokenSettings, why: str) -> None:
        with pytest.raises(TokenError, match=why):
            run_stage(attempt, corpus, order, tiny_llama, data, cluster, progress)

    refuses(none, TokenSettings(), "order of training is empty")
    refuses(some, TokenSettings(max_tokens=4096), r"max_tokens 4096 is more than the model's 2048 positions")
    refuses(some, TokenSettings(max_tokens=3), "the prompts alone fill it")


@pytest.mark.parametrize("epochs", [1, 3])
def test_steps_of_at_most_so_many_tokens(
    cluster, progress, store: Store, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """Each takes the next samples in the order as long as they fit; their tokens are counted in several ranges."""
    monkeypatch.setattr("raysel.training.tokens_stage.SHARD_SAMPLES", 8)
    monkeypatch.setattr("raysel.training.token_shards.SHARD_SAMPLES", 8)
    corpus = write_corpus(store, 30)
    order = write_order(store, [f"s{i:03d}" for i in range(30)])
    data = TokenSettings(max_tokens=128, batch_tokens=300, epochs=epochs)
    attempt = store.attempt("tokens", "t")
    output = run_stage(attempt, corpus, order, tiny_llama, data, cluster, progress)
    tokens = attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)
    assert len(tokens.shards("tokens")) > 1
    lengths: dict[int, int] = {}
    steps: dict[int, list[int]] = {}
    for row in tokens.read("tokens").to_pylist():
        lengths |= dict(zip(row["positions"], row["segment_lengths"], strict=True))
        steps.setdefault(row["step"], []).extend(row["positions"])
    assert sorted(lengths) == list(range(30 * epochs))
    assert list(steps) == list(range(output.summary["steps"]))
    assert [position for positions in steps.values() for position in sorted(positions)] == sorted(lengths)
    for positions in steps.values():
        own, following = sum(lengths[position] for position in positions), max(positions) + 1
        assert own <= 300
        assert following == 30 * epochs or own + lengths[following] > 300


def test_a_step_has_room_for_the_longest_sample() -> None:
    with pytest.raises(ValueError, match=r"batch_tokens 100 is less than max_tokens 512"):
        TokenSettings(batch_tokens=100)
