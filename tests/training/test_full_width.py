"""Aya 23 35B at its whole width and vocabulary, two of its forty blocks: 3.7 billion weights, 7.5 GB in bfloat16.

It takes 20 GiB of memory, 20 GB of disk and many minutes of two cores: `make test-full-width`, with nothing beside it.
"""

import gc
import json
from importlib.resources import files
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from transformers import CohereConfig

from raysel.evaluation.bits_per_byte import log_likelihoods, scored_response
from raysel.models.loading import load_causal_lm, load_tokenizer, make_causal_lm
from raysel.models.weights import INDEX
from raysel.store import Store
from raysel.training.settings import LoraSettings, TokenSettings, TrainingSettings
from tests.small_models import byte_bpe_tokenizer
from tests.training.runs import log_of_checkpoint, losses, write_tokens
from tests.training.test_groups import drop_last_checkpoint, job, train_in_processes

BLOCK = 1_000_003  # a prime: what is repeated falls into every row at another place


def save_two_blocks(folder: Path) -> Path:
    """The model with random weights, written one after another."""
    shape = json.loads(files("raysel.models").joinpath("shapes/command-r-35b.json").read_text())
    known = {key: value for key, value in shape.items() if key not in ("names", "model_type", "num_hidden_layers")}
    config = CohereConfig(**known, num_hidden_layers=2, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    config.dtype, config.architectures = "bfloat16", ["CohereForCausalLM"]
    folder.mkdir()
    config.save_pretrained(folder)
    byte_bpe_tokenizer().save_pretrained(folder)
    parameters = dict(make_causal_lm(folder, config, device="meta").named_parameters())
    torch.manual_seed(0)
    block = (torch.randn(BLOCK) * 0.02).bfloat16()
    weight_map = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        repeated = block.repeat(-(-parameter.numel() // BLOCK))[: parameter.numel()].view(parameter.shape)
        weight = torch.ones_like(repeated) if "norm" in name else repeated
        weight_map[name] = f"model-{number:05d}.safetensors"
        save_file({name: weight}, folder / weight_map[name], metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


@pytest.mark.slow
@pytest.mark.full_width
@pytest.mark.timeout(3600)
def test_two_blocks_load_sharded_step_resume_on_one_worker_merge_and_answer(store: Store, tmp_path: Path) -> None:
    if psutil.virtual_memory().available < 20 * 2**30:
        pytest.skip("20 GiB of memory are not free")
    folder = save_two_blocks(tmp_path / "model")
    data = TokenSettings(max_tokens=64, batch_samples=2)
    tokens = write_tokens(store, folder, 6, data)
    settings = TrainingSettings(
        data=data,
        zero=3,
        dtype="bfloat16",
        learning_rate=1e-3,
        schedule="constant",
        warmup_share=0,
        checkpoint_steps=1,
        timeout_minutes=30,
        lora=LoraSettings(rank=8, merge=True, targets=["q_proj", "v_proj"]),
    )
    train_in_processes(2, [job(store, folder, tokens, settings, "35b", tmp_path / "two")])
    begun = losses(log_of_checkpoint(store, "35b"))
    drop_last_checkpoint(store, "35b", 3)
    train_in_processes(1, [job(store, folder, tokens, settings, "35b", tmp_path / "one")])
    ended = losses(log_of_checkpoint(store, "35b"))
    assert ended[:2] == begun[:2]
    assert ended[2] == pytest.approx(begun[2], rel=1e-2)
    answers = []
    for where in (folder, tmp_path / "one"):
        tokenizer = load_tokenizer(where)
        scored = scored_response(tokenizer, {"prompt": "Hello, how are you?", "response": "I am fine."}, 64)
        answers.append(float(log_likelihoods(load_causal_lm(where), [scored], 1)[0]))
        gc.collect()
    before, after = answers
    assert before < 0
    assert after < 0
    assert after != before
