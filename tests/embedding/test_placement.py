"""How a model lies on GPUs: the arithmetic, and what `raysel plan` says of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.numpy import save_file

from raysel.embedding.placement import PlacementError, cpu_replicas, gpus_per_replica, placement
from raysel.experiment import load_experiment
from raysel.models.size import ModelSize, model_size
from raysel.runner import print_plan

# The shapes of Command-R 35B and Llama-3.1-8B, less their heads.
AYA_35B = ModelSize(parameters=34_980_000_000, width=8192, inner=22_528, blocks=40)
LLAMA_8B = ModelSize(parameters=7_504_924_672, width=4096, inner=14_336, blocks=32)


@pytest.mark.parametrize(
    ("size", "memory", "gpus"),
    [(LLAMA_8B, 80, 1), (LLAMA_8B, 24, 1), (LLAMA_8B, 16, 2), (AYA_35B, 141, 1), (AYA_35B, 80, 1), (AYA_35B, 40, 3)],
)
def test_models_on_common_cards(size: ModelSize, memory: int, gpus: int) -> None:
    assert gpus_per_replica(size, gpu_bytes=memory * 10**9, max_tokens=1024) == gpus


@given(st.integers(1, 200), st.integers(1, 100), st.integers(1, 64))
def test_a_split_holds_the_model(gpu_gb: int, billions: int, blocks: int) -> None:
    size = ModelSize(parameters=billions * 10**9, width=4096, inner=16_384, blocks=blocks)
    try:
        gpus = gpus_per_replica(size, gpu_bytes=gpu_gb * 10**9, max_tokens=1024)
    except PlacementError:
        assert size.weight_bytes("bfloat16") / (blocks + 1) > 0.92 * gpu_gb * 1e9 - 3e9
        return
    assert gpus * gpu_gb * 10**9 > size.weight_bytes("bfloat16")
    assert gpus <= blocks + 1


def test_cpu_workers_share_the_memory() -> None:
    assert cpu_replicas(ModelSize(10**6, 128, 512, 4), [(16, 24 * 10**9)]) == 16
    assert cpu_replicas(LLAMA_8B, [(16, 100 * 10**9), (2, 10**12)]) == 2 + 2
    assert cpu_replicas(LLAMA_8B, [(16, 10**9)]) == 1
    assert cpu_replicas(LLAMA_8B, [(16, 100 * 10**9)], dtype="bfloat16") == 5


def test_a_run_begun_in_float32_is_placed_as_such() -> None:
    """Begun on CPUs and continued on GPUs."""
    assert gpus_per_replica(LLAMA_8B, gpu_bytes=24 * 10**9, max_tokens=1024, dtype="float32") == 2


def test_what_cannot_be_held_is_refused_with_the_smallest_change() -> None:
    with pytest.raises(PlacementError, match="needs 4 GPUs of 24 GB for a replica; a node has 2: take nodes of 4"):
        placement(AYA_35B, nodes=4, gpus_per_node=2, gpu_memory_gb=24, max_tokens=1024)
    held = placement(AYA_35B, nodes=2, gpus_per_node=8, gpu_memory_gb=80, max_tokens=1024)
    assert held == "35.0B parameters, 70.0 GB in bfloat16: 1 GPU of 80 GB for a replica, 16 replicas at once"


def test_weights_in_several_files_count_once_and_heads_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8, "num_hidden_layers": 2}))
    save_file({"model.embed.weight": np.zeros((5, 8), np.float32)}, tmp_path / "model-00001-of-00002.safetensors")
    second = {"model.norm.weight": np.zeros(8, np.float32), "lm_head.weight": np.zeros((5, 8), np.float32)}
    save_file(second, tmp_path / "model-00002-of-00002.safetensors")
    # Another form of the same weights, as some repositories hold it.
    save_file({"embed": np.zeros((5, 8), np.float32)}, tmp_path / "consolidated.safetensors")
    files = {"model.embed.weight": "model-00001-of-00002.safetensors"}
    files |= dict.fromkeys(second, "model-00002-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert model_size(tmp_path) == ModelSize(parameters=48, width=8, inner=32, blocks=2)


def test_the_plan_reads_the_models_files(tiny_llama: Path, tmp_path: Path) -> None:
    size = model_size(tiny_llama)
    assert (size.width, size.inner, size.blocks) == (32, 64, 2)
    embeddings, block = 400 * 32, 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64 + 2 * 32
    assert size.parameters == pytest.approx(embeddings + 2 * block + 32, rel=0.05)

    large = tmp_path / "large"
    large.mkdir()
    save_file({"model.embed_tokens.weight": np.zeros((2, 2), np.float32)}, large / "model.safetensors")
    for file in tiny_llama.iterdir():
        if file.suffix != ".safetensors":
            (large / file.name).write_bytes(file.read_bytes())
    config = json.loads((large / "config.json").read_text())
    (large / "config.json").write_text(json.dumps(config | {"hidden_size": 8192, "intermediate_size": 10**7}))
    rows = "".join(json.dumps({"lang": lang, "prompt": "a", "response": "b"}) + "\n" for lang in ("en", "fr") * 4)
    (tmp_path / "corpus.jsonl").write_text(rows)
    experiment = {
        "storage": "store",
        "corpus": {"path": "corpus.jsonl"},
        "model": {"path": str(tiny_llama)},
        "cluster": {"nodes": 2, "gpus_per_node": 4, "gpu_memory_gb": 80},
    }
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(experiment))
    console = Console(record=True, width=200, quiet=False)
    print_plan(load_experiment(tmp_path / "e.yaml"), console)
    assert "1 GPU of 80 GB for a replica, 8 replicas at once" in console.export_text()
    with pytest.raises(PlacementError, match="do not fit in a GPU of 80 GB"):
        print_plan(load_experiment(tmp_path / "e.yaml", [f"model.path={large}"]), Console(quiet=True))
