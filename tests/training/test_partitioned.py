"""Under ZeRO-3 each worker reads and keeps its own part: what that gives, and what it takes."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.training.engine import start_engine, trainable_model
from raysel.training.settings import TrainingSettings
from tests.embedding.families import FAMILIES
from tests.small_models import save_tiny_of_family
from tests.training.test_groups import environments


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sharded_model_answers_as_one_loaded_whole(alone: None, name: str, dtype: str, tmp_path: Path) -> None:
    config = copy.deepcopy(FAMILIES[name])
    if name == "phi3_longrope":  # no number of bfloat16
        config.rope_parameters["short_factor"] = [1.05] * 4
    folder = save_tiny_of_family(tmp_path, config)
    settings = TrainingSettings(zero=3, method="full", dtype=dtype)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        whole = load_causal_lm(folder, dtype=dtype)
        expected = whole(input_ids=ids).logits
        with trainable_model(folder, settings, seed=0, trust_remote_code=False) as model:
            for (name_of, buffer), (_, other) in zip(model.named_buffers(), whole.named_buffers(), strict=True):
                assert torch.equal(buffer, other), name_of
            engine = start_engine(model, settings)
            engine.eval()
            torch.testing.assert_close(engine(input_ids=ids).logits, expected)
            engine.destroy()


# glibc gives freed memory back by itself from 32 MiB on; these weights are smaller.
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WORKER = """
import gc, json, sys
from pathlib import Path
import torch
from raysel.models.loading import load_tokenizer
from raysel.training import export
from raysel.training.engine import connect, trainable_model
from raysel.training.settings import TrainingSettings

def grown_by(run):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = run()
    return result, memory("VmHWM") - before

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(what))

given = json.loads(sys.argv[1])
torch.set_num_threads(1)
connect(5.0)
settings = TrainingSettings(zero=3, method="full", dtype="float32")
tokenizer = load_tokenizer(given["small"])
export.LARGEST_FILE = given["largest_file"]
rank = torch.distributed.get_rank()

def load(folder):
    with trainable_model(Path(folder), settings, seed=0, trust_remote_code=False) as model:
        return model

def save(model, folder):
    export.save(model, tokenizer, Path(folder), keep=rank == 0)

save(load(given["small"]), given["small_saved"])
model, loading = grown_by(lambda: load(given["model"]))
_, saving = grown_by(lambda: save(model, given["saved"]))
print(json.dumps([loading, saving]))
"""


@pytest.mark.slow
def test_no_worker_ever_holds_the_model_while_it_loads_or_saves(tiny_llama: Path, tmp_path: Path) -> None:
    """By the memory of the processes themselves, with what they map of files."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=400, hidden_size=512, intermediate_size=1536, num_hidden_layers=20, num_attention_heads=8
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model", max_shard_size="100MB")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "model")
    weights = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
    given = {name: str(tmp_path / name) for name in ("model", "saved", "small_saved")}
    for name in ("saved", "small_saved"):
        (tmp_path / name).mkdir()
    given |= {"small": str(tiny_llama), "largest_file": weights // 10}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(given)],
            env=env | GIVE_BACK,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for env in environments(2)
    ]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], b"\n".join(error[-1500:] for _, error in outputs)
    for output, _ in outputs:
        loading, saving = json.loads(output.decode().splitlines()[-1])
        assert weights / 2 < loading < 0.6 * weights
        assert saving < 0.2 * weights
    before, after = load_causal_lm(tmp_path / "model"), load_causal_lm(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 9
    for name, parameter in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], parameter), name
