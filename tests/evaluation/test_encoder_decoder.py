"""Encoder-decoders are evaluated as lm-eval's own seq2seq path and plain torch do it."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from raysel.evaluation.bits_per_byte import evaluate_heldout
from raysel.evaluation.deadline import DeadlineError, deadline
from raysel.evaluation.harness import evaluate_task, harness_model
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import load_tasks
from raysel.models.loading import load_causal_lm, load_tokenizer
from tests.evaluation.task_folder import choice_config, write_choice_tasks, write_task

BATCH = 4
TEXTS = [("Where do fish live?", "In water, mostly."), ("你好", "7"), ("Count.", "Один, два, три. " * 9), ("", "a")]
ROWS = [
    {"id": str(n), "prompt": prompt, "response": response, "history": None, "task": None, "source": "s", "group": None}
    for n, (prompt, response) in enumerate(TEXTS)
]


@pytest.fixture(scope="module")
def talking(tiny_mt5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With embeddings so small that what is predicted is not the token that was given."""
    folder, model = tmp_path_factory.mktemp("talking"), load_causal_lm(tiny_mt5)
    with torch.no_grad():
        model.shared.weight.mul_(0.02)
    model.save_pretrained(folder)
    load_tokenizer(tiny_mt5).save_pretrained(folder)
    return folder


def test_a_head_of_its_own_stays_so_in_lm_eval(tiny_mt5: Path, tmp_path: Path) -> None:
    """The published mT5 have one; lm-eval ties the weights that the config says are tied."""
    model = load_causal_lm(tiny_mt5)
    torch.manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    model.save_pretrained(tmp_path)
    loaded, ids = load_causal_lm(tmp_path).eval(), torch.arange(3, 9)[None]
    with torch.no_grad():
        lm = harness_model(loaded, load_tokenizer(tiny_mt5, "plain"), batch_size=BATCH)
        expected = model.eval()(input_ids=ids, decoder_input_ids=ids).logits
        assert torch.equal(lm.model(input_ids=ids, decoder_input_ids=ids).logits, expected)
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(load_causal_lm(tmp_path / "again").lm_head.weight, model.lm_head.weight)


def test_tasks_are_scored_as_lm_eval_scores_them(tmp_path: Path, talking: Path) -> None:
    """By choices and by what is generated."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder = write_choice_tasks(tmp_path, ("en", "zh"))
    generating = {
        "task": "written_en",
        "output_type": "generate_until",
        "generation_kwargs": {"max_gen_toks": 6, "until": ["\n"]},
        "metric_list": [{"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}],
    }
    write_task(folder, choice_config("en", **generating))
    tasks = load_tasks(EvaluationSettings(tasks=str(folder)))
    expected = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(talking), "dtype": "float32", "backend": "seq2seq"},
        tasks=[copy.deepcopy(task.config) for task in tasks],
        task_manager=TaskManager(include_defaults=False),
        device="cpu",
        batch_size=BATCH,
        bootstrap_iters=0,
    )
    lm = harness_model(load_causal_lm(talking).eval(), load_tokenizer(talking, "plain"), batch_size=BATCH)
    for task in tasks:
        scores, items = evaluate_task(lm, task, limit=None, seed=0)
        of_lm_eval = expected["results"][task.name]
        assert {s.metric: s.value for s in scores if s.metric != "right_language"} == {
            name.partition(",")[0]: value
            for name, value in of_lm_eval.items()
            if name.endswith(",none") and "stderr" not in name
        }
        if task.name == "written_en":
            written = [sample["resps"][0][0] for sample in expected["samples"][task.name]]
            assert [item.generated for item in items if item.metric == "chrf"] == written
            assert any(written)


def by_hand(model: Any, tokenizer: Any, prompt: str, response: str) -> float:
    """-log2 p(response | prompt), in one pass without padding."""
    source = torch.tensor([tokenizer(prompt + "\n\n")["input_ids"]])
    target = torch.tensor([tokenizer(response, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        loss = model(input_ids=source, labels=target).loss
    return float(loss) * target.shape[1] / math.log(2)


def test_bits_per_byte_are_those_of_plain_torch(tiny_mt5: Path) -> None:
    model, tokenizer = load_causal_lm(tiny_mt5).eval(), load_tokenizer(tiny_mt5, "plain")
    (score,), items = evaluate_heldout(model, tokenizer, ROWS, max_tokens=256, batch_size=3, seed=0)
    bits = [by_hand(model, tokenizer, prompt, response) for prompt, response in TEXTS]
    sizes = [len(response.encode()) for _, response in TEXTS]
    assert score.value == pytest.approx(sum(bits) / sum(sizes), rel=1e-5)
    said = [float(item.answer.split()[2]) for item in items]
    assert said == pytest.approx([own / size for own, size in zip(bits, sizes, strict=True)], abs=1e-4)


def test_a_long_response_is_cut_whatever_its_prompt(tiny_mt5: Path) -> None:
    model, tokenizer = load_causal_lm(tiny_mt5).eval(), load_tokenizer(tiny_mt5, "plain")
    asked = [ROWS[2] | {"prompt": "Count. " * 50}]
    (score,), _ = evaluate_heldout(model, tokenizer, asked, max_tokens=20, batch_size=3, seed=0)
    assert math.isfinite(score.value)
    assert score.value != evaluate_heldout(model, tokenizer, asked, max_tokens=40, batch_size=3, seed=0)[0][0].value


def test_a_deadline_is_seen_in_every_forward(tiny_mt5: Path) -> None:
    model = load_causal_lm(tiny_mt5).eval()
    ids = torch.arange(3, 9)[None]
    with deadline(model, -1), pytest.raises(DeadlineError):
        model.generate(ids, max_new_tokens=3)
    model.generate(ids, max_new_tokens=3)
