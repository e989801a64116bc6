"""Encoder-decoders (T5, mT5): the prompt goes to the encoder, the response to the decoder; all promises hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.store import Store
from raysel.training.batches import Step, collate, groups, read_steps
from raysel.training.examples import IGNORED, instruction_example
from raysel.training.loss import model_inputs, token_losses
from raysel.training.settings import LoraSettings, TokenSettings, TrainingSettings
from tests.small_models import save_tiny_mt5
from tests.training.runs import write_tokens

CPU = torch.device("cpu")
DATA = TokenSettings(max_tokens=128, batch_samples=7)
# mT5, T5 with its scaled outputs, T5 1.1 without, and uMT5.
FAMILIES = {
    "mt5": ("MT5", {}),
    "t5": ("T5", {}),
    "t5_v1_1": ("T5", {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}),
    "umt5": ("UMT5", {}),
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, more = FAMILIES[request.param]
    return save_tiny_mt5(tmp_path_factory.mktemp(request.param), kind, **more)


@pytest.fixture(scope="module")
def untied(tiny_mt5: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a head of its own, as the published mT5 have."""
    folder, model = tmp_path_factory.mktemp("untied"), load_causal_lm(tiny_mt5)
    torch.manual_seed(0)
    model.lm_head.weight = torch.nn.Parameter(0.1 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    load_tokenizer(tiny_mt5).save_pretrained(folder)
    return folder


def first_step(store: Store, model: Path) -> Step:
    return next(read_steps(write_tokens(store, model, 9, DATA), 0))


def reference(model, step: Step) -> dict[str, torch.Tensor]:
    """Samples one by one, without padding, through transformers' own loss, weighted by their learned tokens."""
    model.zero_grad()
    for row in step.rows:
        source, target = (torch.tensor(row[name])[None].long() for name in ("source_ids", "input_ids"))
        loss = model(input_ids=source, labels=target[:, 1:]).loss
        (loss * (target.shape[1] - 1) / step.trained_tokens).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def gradient(model, step: Step, world: int, at_once: int, parts: int) -> dict[str, torch.Tensor]:
    """The mean over `world` simulated workers, as DeepSpeed averages it."""
    model.zero_grad()
    for rank in range(world):
        for rows in groups(step.share(rank, world), at_once):
            losses, _ = token_losses(model, collate(rows, step.positions, CPU), parts=parts)
            (losses.sum() / step.trained_tokens).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("world", "at_once", "parts"), [(1, 1, 1), (1, 7, 1), (2, 3, 3), (5, 2, 50)])
def test_the_gradient_of_a_step_is_that_of_its_samples_alone(
    store: Store, folder: Path, world: int, at_once: int, parts: int
) -> None:
    """Whatever the workers, the padding, and the parts of the logits; some have a row with nothing to learn."""
    model, step = load_causal_lm(folder).eval(), first_step(store, folder)
    expected = reference(model, step)
    found = gradient(model, step, world, at_once, parts)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=2e-6, rtol=1e-4)


def test_the_prompt_is_the_encoders_and_all_of_the_response_is_learned(tiny_mt5: Path) -> None:
    """Worded as the paper's code does: the instruction, and the end that T5's tokenizers put behind every text."""
    tokenizer = load_tokenizer(tiny_mt5, "plain")
    example = instruction_example(tokenizer, "Wie alt?", "Zwölf.", 50, decoder_start=2)
    assert example.source_ids.tolist() == tokenizer("Wie alt?\n\n")["input_ids"]
    target = tokenizer("Zwölf.")["input_ids"]
    assert example.input_ids.tolist() == [2, *target]
    assert example.labels.tolist() == [IGNORED, *target]
    assert target[-1] == tokenizer.eos_token_id
    assert not example.truncated
    assert example.tokens == len(example.source_ids) + len(example.input_ids)


def test_prompt_and_response_are_cut_each_at_its_own_length(tiny_mt5: Path) -> None:
    tokenizer = load_tokenizer(tiny_mt5, "plain")
    whole = instruction_example(tokenizer, "Wie alt?", "Zwölf Jahre.", 50, decoder_start=2)
    cut = instruction_example(tokenizer, "Wie alt?", "Zwölf Jahre.", 4, decoder_start=2, max_source_tokens=5)
    assert cut.truncated
    assert cut.source_ids.tolist() == [*whole.source_ids[:4], tokenizer.eos_token_id]
    assert cut.input_ids.tolist() == whole.input_ids[:4].tolist()
    for longer in ({"max_tokens": 4}, {"max_tokens": 50, "max_source_tokens": 5}):
        assert instruction_example(tokenizer, "Wie alt?", "Zwölf Jahre.", decoder_start=2, **longer).truncated
    assert not instruction_example(tokenizer, "Wie alt?", "Zwölf Jahre.", whole.tokens, decoder_start=2).truncated


def test_what_the_template_has_ended_is_not_ended_again(tiny_mt5: Path) -> None:
    tokenizer = load_tokenizer(tiny_mt5, "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}")
    example = instruction_example(tokenizer, "Wie alt?", "Zwölf.", 50, decoder_start=2)
    assert example.source_ids.tolist().count(tokenizer.eos_token_id) == 1
    assert example.input_ids.tolist().count(tokenizer.eos_token_id) == 1


def test_samples_of_a_micro_batch_do_not_see_each_other(store: Store, folder: Path) -> None:
    model, step = load_causal_lm(folder).eval(), first_step(store, folder)
    rows = sorted(step.rows, key=lambda row: len(row["source_ids"]))
    assert len(rows[0]["source_ids"]) < len(rows[-1]["source_ids"])

    def loss_of_the_shortest(beside: list) -> torch.Tensor:
        losses, (at, _) = token_losses(model, collate([rows[0], *beside], step.positions, CPU))
        return losses[at == 0]

    alone = loss_of_the_shortest([])
    for beside in (rows[-1:], rows[1:]):
        torch.testing.assert_close(loss_of_the_shortest(beside), alone, atol=1e-5, rtol=1e-5)


def test_the_encoder_runs_once_however_many_parts_the_logits_have(store: Store, folder: Path) -> None:
    model, step = load_causal_lm(folder).eval(), first_step(store, folder)
    runs = []
    model.get_encoder().register_forward_hook(lambda *_: runs.append(1))
    token_losses(model, collate(step.rows, step.positions, CPU), parts=9)[0].sum().backward()
    assert len(runs) == 1


def test_a_batch_is_what_transformers_takes(store: Store, folder: Path) -> None:
    model, step = load_causal_lm(folder).eval(), first_step(store, folder)
    batch = collate(step.rows, step.positions, CPU)
    labels = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
    given = model_inputs(batch)
    own = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"], labels=labels).loss
    losses, _ = token_losses(model, batch)
    torch.testing.assert_close(losses.mean(), own, rtol=1e-5, atol=0)


def test_steps_of_so_many_tokens_count_prompts_and_responses(store: Store, tiny_mt5: Path) -> None:
    tokens = write_tokens(store, tiny_mt5, 22, TokenSettings(max_tokens=60, batch_tokens=140, epochs=2))
    steps = list(read_steps(tokens, 0))
    assert [position for step in steps for position in step.positions] == list(range(44))
    sizes = [step.tokens for step in steps]
    assert max(sizes) <= 140
    rows = [len(row["input_ids"]) + len(row["source_ids"]) for step in steps for row in step.rows]
    assert sum(sizes) == sum(rows) == tokens.summary["tokens"]
    assert 0 < tokens.summary["row_fill"] == round(np.mean(rows) / 120, 4) < 1


def answer(model, tokenizer) -> list[int]:
    ids = tokenizer("Hello, how are you?", return_tensors="pt")["input_ids"]
    return model.generate(ids, max_new_tokens=8, do_sample=False)[0].tolist()


@pytest.mark.parametrize(
    ("method", "zero", "merge"),
    [
        ("full", 3, False),
        ("lora", 2, False),
        pytest.param("full", 0, False, marks=pytest.mark.slow),
        pytest.param("full", 2, False, marks=pytest.mark.slow),
        pytest.param("lora", 3, True, marks=pytest.mark.slow),
    ],
)
def test_what_was_trained_loads_and_answers_as_it_did(
    learn, store: Store, untied: Path, method: str, zero: int, merge: bool
) -> None:
    """In micro-batches of several rows; the losses logged are transformers' own."""
    data = TokenSettings(max_tokens=60, batch_samples=8, epochs=4)
    tokens = write_tokens(store, untied, 16, data, heldout=5)
    lora = LoraSettings(targets=["q", "v"], merge=merge)
    how = {"method": method, "zero": zero, "lora": lora, "learning_rate": 2e-2, "micro_batch_tokens": 500}
    outcome, folder = learn(untied, tokens, TrainingSettings(data=data, **how))
    first = next(read_steps(tokens, 0))
    base = load_causal_lm(untied).eval()
    assert outcome.log[0]["loss"] == pytest.approx(own_loss(base, first.rows), abs=1e-5)
    assert outcome.log[0]["tokens"] == first.tokens
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"] - 0.2
    whole = method == "full" or merge
    loaded = (load_causal_lm(folder) if whole else load_causal_lm(untied, adapter=folder)).eval()
    tokenizer = load_tokenizer(folder)
    heldout = next(read_steps(tokens, 0, of="heldout_tokens")).rows
    assert outcome.heldout[-1]["loss"] == pytest.approx(own_loss(loaded, heldout), abs=1e-5)
    if whole:
        plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
        assert answer(plain, tokenizer) == answer(loaded, tokenizer) != answer(base, tokenizer)


def own_loss(model, rows: list[dict]) -> float:
    """transformers' loss over the learned tokens of all rows, one at a time."""
    sums = []
    for row in rows:
        source, target = (torch.tensor(row[name])[None].long() for name in ("source_ids", "input_ids"))
        with torch.no_grad():
            sums.append((float(model(input_ids=source, labels=target[:, 1:]).loss), target.shape[1] - 1))
    return sum(loss * count for loss, count in sums) / sum(count for _, count in sums)
