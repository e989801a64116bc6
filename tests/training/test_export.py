"""What comes out of training, with one worker in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file

from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.store import Store
from raysel.training.engine import AdapterError
from raysel.training.export import _save_model, merge, save
from raysel.training.settings import LoraSettings, TokenSettings, TrainingSettings
from tests.training.runs import write_tokens

DATA = TokenSettings(max_tokens=128, batch_samples=4)


@pytest.mark.parametrize("zero", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("more", [{"rslora": True}, {"dora": True, "dropout": 0.1}])
def test_kinds_of_adapters_learn_and_load(learn, store: Store, tiny_llama: Path, zero: int, more: dict) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    lora = LoraSettings(rank=4, **more)
    outcome, folder = learn(tiny_llama, tokens, TrainingSettings(data=DATA, zero=zero, lora=lora, learning_rate=5e-2))
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["use_dora"]) == (lora.rslora, lora.dora)
    tuned, base = load_causal_lm(tiny_llama, adapter=folder), load_causal_lm(tiny_llama)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert not torch.allclose(tuned(ids).logits, base(ids).logits, atol=1e-3)


@pytest.mark.parametrize("zero", [2, 3])
def test_an_adapter_loads_on_its_base_and_answers_the_same(learn, store: Store, tiny_llama: Path, zero: int) -> None:
    tokens = write_tokens(store, tiny_llama, 16, DATA)
    outcome, folder = learn(tiny_llama, tokens, TrainingSettings(data=DATA, zero=zero, learning_rate=5e-2))
    assert outcome.log[-1]["loss"] < outcome.log[0]["loss"]
    assert "adapter_model.safetensors" in {path.name for path in folder.iterdir()}
    assert not list(folder.glob("*.bin"))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    tuned, base = load_causal_lm(tiny_llama, adapter=folder), load_causal_lm(tiny_llama)
    tokenizer = load_tokenizer(folder)
    prompt = torch.tensor([tokenizer("Hello, how", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        assert not torch.allclose(tuned(prompt).logits, base(prompt).logits, atol=1e-3)
    assert tokenizer.chat_template == load_tokenizer(tiny_llama).chat_template


def test_a_whole_model_loads_and_has_learned(learn, store: Store, tiny_llama: Path) -> None:
    tokens = write_tokens(store, tiny_llama, 16, TokenSettings(max_tokens=128, batch_samples=16, epochs=8))
    settings = TrainingSettings(data=DATA, zero=3, method="full", learning_rate=5e-3, activation_checkpointing=True)
    outcome, folder = learn(tiny_llama, tokens, settings)
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    model = load_causal_lm(folder)
    row = tokens.read("tokens", filters=[("step", "==", 0)]).to_pylist()[0]
    length = row["segment_lengths"][0]
    ids, labels = (torch.tensor(row[key][:length])[None].long() for key in ("input_ids", "labels"))
    with torch.no_grad():
        after = float(model(input_ids=ids, labels=labels).loss)
        before = float(load_causal_lm(tiny_llama)(input_ids=ids, labels=labels).loss)
    assert after < before - 0.5
    assert np.all(np.diff([line["learning_rate"] for line in outcome.log][1:]) < 0)


@pytest.fixture
def tied_llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """As `tiny_llama`, with one matrix for the tokens that go in and those that come out."""
    config = load_causal_lm(tiny_llama).config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    type(load_causal_lm(tiny_llama))(config).save_pretrained(tmp_path / "tied")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


def continued(model: torch.nn.Module, prompts: list[torch.Tensor]) -> list[list[int]]:
    model.eval()
    return [model.generate(p, max_new_tokens=12, do_sample=False, use_cache=False)[0].tolist() for p in prompts]


@pytest.mark.parametrize(
    ("zero", "method", "merge"),
    [
        (3, "full", False),
        (2, "lora", True),
        pytest.param(0, "full", False, marks=pytest.mark.slow),
        pytest.param(2, "full", False, marks=pytest.mark.slow),
        pytest.param(0, "lora", False, marks=pytest.mark.slow),
        pytest.param(3, "lora", False, marks=pytest.mark.slow),
        pytest.param(3, "lora", True, marks=pytest.mark.slow),
    ],
)
def test_what_is_saved_generates_what_the_model_in_memory_does(
    learn, store: Store, tied_llama: Path, monkeypatch: pytest.MonkeyPatch, zero: int, method: str, merge: bool
) -> None:
    """Tied embeddings are saved once and loaded tied."""
    tokens = write_tokens(store, tied_llama, 24, DATA)
    tokenizer = load_tokenizer(tied_llama)
    texts = ("Hello, how", "Bonjour", "capital of France", "Привет")
    prompts = [torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in texts]
    in_memory: list[list[int]] = []

    def generate_and_save(model, *arguments, **more):
        in_memory.extend(continued(model, prompts))
        save(model, *arguments, **more)

    monkeypatch.setattr("raysel.training.loop.save", generate_and_save)
    settings = TrainingSettings(data=DATA, zero=zero, method=method, learning_rate=3e-2, lora=LoraSettings(merge=merge))
    _, folder = learn(tied_llama, tokens, settings)
    adapter = method == "lora" and not merge
    loaded = load_causal_lm(tied_llama, adapter=folder) if adapter else load_causal_lm(folder)
    assert in_memory == continued(loaded, prompts)
    assert in_memory != continued(load_causal_lm(tied_llama), prompts)
    if not adapter:
        assert not (folder / "adapter_config.json").exists()
        assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
        assert len([name for name in load_file(folder / "model.safetensors") if "embed" in name or "head" in name]) == 1


def test_a_merged_model_keeps_the_type_of_its_base(learn, store: Store, tiny_llama: Path, tmp_path: Path) -> None:
    load_causal_lm(tiny_llama, dtype="bfloat16").save_pretrained(tmp_path / "half")
    load_tokenizer(tiny_llama).save_pretrained(tmp_path / "half")
    tokens = write_tokens(store, tiny_llama, 12, DATA)
    lora = LoraSettings(merge=True)
    settings = TrainingSettings(data=DATA, zero=2, dtype="bfloat16", learning_rate=3e-2, lora=lora)
    _, folder = learn(tmp_path / "half", tokens, settings)
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    before, after = load_file(tmp_path / "half" / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)


@pytest.mark.parametrize("more", [{}, {"use_dora": True}, {"use_rslora": True}])
@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], ["embed_tokens", "lm_head"]])
def test_merging_one_weight_after_another_is_what_peft_does_to_all(
    tiny_llama: Path, tmp_path: Path, targets: list[str], more: dict
) -> None:
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights="use_dora" in more, **more
    )
    adapted = get_peft_model(load_causal_lm(tiny_llama), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    expected = load_causal_lm(tiny_llama, adapter=tmp_path).merge_and_unload().state_dict()
    merge(tiny_llama, tmp_path, load_tokenizer(tiny_llama), trust_remote_code=False)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    assert {file.name for file in tmp_path.iterdir()}.isdisjoint({"adapter_config.json", "adapter_model.safetensors"})


def test_where_a_file_cannot_be_written_the_other_workers_still_give_their_parts(
    tiny_llama: Path, tmp_path: Path
) -> None:
    model, given = load_causal_lm(tiny_llama), []

    (tmp_path / "model-00001.safetensors").mkdir()  # cannot be written
    weights = ((name, weight) for name, weight in model.state_dict().items() if given.append(name) is None)
    with pytest.raises(SafetensorError, match="Is a directory"):
        _save_model(model, weights, tmp_path, keep=True)
    assert given == [*model.state_dict()]


def test_adapters_on_tied_embeddings_cannot_be_merged(learn, store: Store, tied_llama: Path) -> None:
    tokens = write_tokens(store, tied_llama, 8, DATA)
    lora = LoraSettings(merge=True, targets=["lm_head", "q_proj"])
    with pytest.raises(AdapterError, match=r"merge cannot add adapters to embeddings that are tied.*lm_head"):
        learn(tied_llama, tokens, TrainingSettings(data=DATA, lora=lora))
