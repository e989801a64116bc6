import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from raysel.evaluation.deadline import DeadlineError, deadline
from raysel.models.loading import load_causal_lm

INPUTS = torch.arange(4)[None]


def test_forward_passes_are_refused_once_it_is_late(tiny_llama: Path) -> None:
    model = load_causal_lm(tiny_llama)
    with deadline(model, 60):
        model(INPUTS)
    with pytest.raises(DeadlineError, match="longer than 0 s"), deadline(model, 0):
        model(INPUTS)
    model(INPUTS)


def test_generation_ends_between_two_tokens_with_an_adapter_too(tiny_llama: Path) -> None:
    model = load_causal_lm(tiny_llama)
    for generating in (model, get_peft_model(model, LoraConfig())):
        with pytest.raises(DeadlineError), deadline(generating, 0.05):
            generating.generate(input_ids=INPUTS, max_new_tokens=2000, min_new_tokens=2000, do_sample=False)


def test_what_never_returns_ends_the_process() -> None:
    script = (
        "import threading\n"
        "from torch.nn import Embedding\n"
        "from raysel.evaluation.deadline import deadline\n"
        "class Model:\n"
        "    def get_input_embeddings(self):\n"
        "        return Embedding(1, 1)\n"
        "with deadline(Model(), 0.05, grace=0.05):\n"
        "    threading.Event().wait()\n"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=120, check=False).returncode == 1
