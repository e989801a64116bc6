"""What the small base model is made from."""

import json
from pathlib import Path

from raysel.models.loading import load_tokenizer
from raysel.models.settings import BaseModelSettings
from raysel.store import ShardRecord, Store
from raysel.training.base_model_stage import prepare
from raysel.training.settings import TokenSettings
from tests.training.runs import write_corpus

TOLD = [
    {"role": "system", "content": "Zwiebelkuchen"},
    {"role": "user", "content": "Pfannkuchen"},
    {"role": "assistant", "content": "Krautwickel"},
]


def test_the_tokenizer_and_the_token_rows_have_whole_conversations(store: Store, tmp_path: Path) -> None:
    corpus = write_corpus(store, 12, history=json.dumps(TOLD))
    base = BaseModelSettings(vocabulary=2000, width=16, layers=1, heads=2, context=128, steps=3, batch_samples=4)
    attempt = store.attempt("base_model", "b")
    data = TokenSettings(max_tokens=base.context, batch_samples=base.batch_samples)
    prepared = prepare(attempt, corpus, base, data, 0)
    made = attempt.unpublished([ShardRecord(**record) for record in prepared.summary["records"]])
    tokenizer = load_tokenizer(made.local_folder("start", tmp_path))
    for message in TOLD:
        assert len(tokenizer.tokenize(message["content"])) == 1
    rows = "".join(tokenizer.decode(row["input_ids"]) for row in made.read("tokens").to_pylist())
    told = "Zwiebelkuchen\n\n<|user|>Pfannkuchen<|assistant|>Krautwickel<|end|><|user|>"
    assert rows.count(told) == rows.count("Zwiebelkuchen") == 6
