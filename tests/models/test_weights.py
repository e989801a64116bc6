"""Weights read piece by piece, against the safetensors library and transformers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from raysel.models.loading import ModelError, load_causal_lm, make_causal_lm, read_config
from raysel.models.weights import INDEX, ONLY_FILE, SafetensorsFile, SavedWeights, are_saved_as_they_are
from tests.embedding.families import FAMILIES
from tests.small_models import save_tiny_of_family

SHAPES = st.lists(st.integers(0, 5), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])


@given(st.data())
def test_any_range_of_any_tensor_is_what_the_library_reads(data: st.DataObject) -> None:
    shapes = data.draw(st.lists(SHAPES, min_size=1, max_size=4))
    tensors = {f"t{i}": torch.randint(0, 2, shape).to(data.draw(DTYPES)) for i, shape in enumerate(shapes)}
    file = SafetensorsFile(io.BytesIO(save(tensors, metadata={"format": "pt"})))
    assert set(file.header) == set(tensors)
    for key, tensor in tensors.items():
        start = data.draw(st.integers(0, tensor.numel()))
        stop = data.draw(st.integers(start, tensor.numel()))
        assert file.shape(key) == tuple(tensor.shape)
        assert torch.equal(file.read(key), tensor.flatten())
        assert torch.equal(file.read(key, start, stop), tensor.flatten()[start:stop])


def test_a_file_that_ends_too_early_is_an_error() -> None:
    file = SafetensorsFile(io.BytesIO(save({"weight": torch.ones(10)})[:-4]))
    assert torch.equal(file.read("weight", 0, 9), torch.ones(9))
    with pytest.raises(OSError, match="ends within tensor weight"):
        file.read("weight")


def outline(folder: Path) -> Any:
    return make_causal_lm(folder, read_config(folder, dtype="float32"), device="meta")


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {"mixtral"}))
def test_every_family_finds_its_weights_by_name(name: str, tmp_path: Path) -> None:
    folder = save_tiny_of_family(tmp_path, FAMILIES[name])
    assert are_saved_as_they_are(outline(folder))
    whole = load_causal_lm(folder, dtype="float32")
    with SavedWeights(folder, outline(folder)) as weights:
        for own, parameter in whole.named_parameters():
            assert torch.equal(weights.read(own).view_as(parameter), parameter), own


def test_experts_are_several_tensors_of_the_files_in_one_weight(tmp_path: Path) -> None:
    assert not are_saved_as_they_are(outline(save_tiny_of_family(tmp_path, FAMILIES["mixtral"])))


def test_files_without_the_base_models_prefix_and_several_files_are_read(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    tensors = {name.removeprefix("model."): value for name, value in load_file(tiny_llama / ONLY_FILE).items()}
    names = sorted(tensors)
    parts = {"a.safetensors": names[:7], "b.safetensors": names[7:]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    whole = load_causal_lm(tiny_llama)
    with SavedWeights(tmp_path, outline(tmp_path)) as weights:
        for own, parameter in whole.named_parameters():
            assert torch.equal(weights.read(own).view_as(parameter), parameter), own


def test_what_is_missing_or_of_another_shape_is_named(tiny_llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    tensors = load_file(tiny_llama / ONLY_FILE)
    save_file({name: value for name, value in tensors.items() if "norm" not in name}, tmp_path / ONLY_FILE)
    model = outline(tmp_path)
    with (
        SavedWeights(tmp_path, model) as weights,
        pytest.raises(ModelError, match=r"no weights for model\.layers\.0\.input_layernorm.* and 2 more"),
    ):
        weights.refuse_missing({name for name, _ in model.named_parameters()})
    save_file({name: value[:3].clone() for name, value in tensors.items()}, tmp_path / ONLY_FILE)
    with pytest.raises(ModelError, match=r"in model\.safetensors is \(3,"):
        SavedWeights(tmp_path, model)
