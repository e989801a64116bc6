import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from raysel.experiment import ExperimentError, load_experiment
from raysel.settings import counted
from raysel.training.deepspeed_config import deepspeed_config
from raysel.training.settings import TrainingSettings


def test_bfloat16_without_zero_is_refused_with_both_names() -> None:
    with pytest.raises(ValidationError, match=r"dtype bfloat16 needs zero 1, 2 or 3"):
        TrainingSettings(dtype="bfloat16", zero=0)


def test_lora_has_no_effect_in_a_full_fine_tune() -> None:
    assert TrainingSettings(method="full", lora={"rank": 4}).without_effect() == [
        "lora: the method is full, which trains every weight"
    ]
    assert TrainingSettings(method="full").without_effect() == []


def test_how_it_runs_is_no_part_of_the_fingerprint() -> None:
    given = TrainingSettings(workers=4, checkpoint_steps=1, max_failures=0, timeout_minutes=1)
    assert counted(given) == counted(TrainingSettings())
    assert counted(given) != counted(TrainingSettings(zero=3))


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        (
            {"zero_optimization": {"stage": 3}},
            {"zero": 2},
            r"zero_optimization\.stage: 3, but training\.zero decides.*2",
        ),
        ({"gradient_clipping": 0.5}, {}, r"gradient_clipping: 0\.5, but training\.clip_norm decides that.*1\.0"),
        ({"bf16": {"enabled": True}}, {}, r"bf16\.enabled: True, but training\.dtype decides that"),
        ({"fp16": {"enabled": True}}, {}, r"fp16\.enabled: True, but training\.dtype decides that"),
        ({"optimizer": {"type": "Lamb"}}, {}, r"but training\.learning_rate and training\.weight_decay"),
        ({"train_batch_size": 64}, {}, r"train_batch_size: 64, but training\.data\.batch_samples decides that"),
        ({"zero_optimization": {"cpu_offload": True}}, {}, r"cpu_offload: True, but training\.offload decides that"),
        ({"bfloat16": {"enabled": True}}, {}, r"bfloat16: .*, but training\.dtype decides that"),
        ({"zero_optimization": {"compute_grad_norm": False}}, {}, r"compute_grad_norm: False, but raysel"),
        ({"zero_optimization": 2}, {}, r"zero_optimization is a section of keys and values \(found 2\)"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
            {},
            r"offload_optimizer\.device: 'nvme', but training\.offload decides that",
        ),
    ],
)
def test_a_deepspeed_key_that_says_something_else_is_refused_with_both_names(given, more, message) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainingSettings(deepspeed=given, **more)


@pytest.mark.parametrize(
    "given",
    [
        {"zero_optimization": {"stage": 0}},
        {"zero_force_ds_cpu_optimizer": False},
        {"data_types": {"grad_accum_dtype": "fp32"}},
        {"fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16}},
        {"optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "weight_decay": "auto"}}},
        {"scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": "auto"}}, "steps_per_print": 2000},
    ],
)
def test_what_says_the_same_or_leaves_it_open_is_taken(given) -> None:
    config = deepspeed_config(TrainingSettings(zero=0, deepspeed=given))
    assert config["zero_optimization"]["stage"] == 0
    assert "optimizer" not in config
    assert "scheduler" not in config


def test_other_keys_of_deepspeed_are_added() -> None:
    given = {
        "zero_optimization": {"stage": "auto", "overlap_comm": False, "offload_param": {"device": "none"}},
        "bf16": {"enabled": False},
        "train_batch_size": "auto",
        "communication_data_type": "fp32",
    }
    config = deepspeed_config(TrainingSettings(deepspeed=given, zero=3))
    assert config["zero_optimization"] == {"stage": 3, "overlap_comm": False, "offload_param": {"device": "none"}}
    assert config["communication_data_type"] == "fp32"
    assert "train_batch_size" not in config


def test_a_deepspeed_file_is_read_relative_to_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "deepspeed.json").write_text(json.dumps({"wall_clock_breakdown": True}))
    (tmp_path / "e.yaml").write_text(
        "model: {base: {}}\ncorpus: {path: c.jsonl}\ntraining: {deepspeed: deepspeed.json}\n"
    )
    assert load_experiment(tmp_path / "e.yaml").training.deepspeed == {"wall_clock_breakdown": True}
    (tmp_path / "deepspeed.json").write_text("{")
    with pytest.raises(
        ExperimentError, match=r"training\.deepspeed: this DeepSpeed configuration cannot be read as JSON"
    ):
        load_experiment(tmp_path / "e.yaml")


def test_offloading_needs_its_zero_stage() -> None:
    with pytest.raises(ValidationError, match="offload optimizer needs zero 1, 2 or 3"):
        TrainingSettings(offload="optimizer", zero=0)
    with pytest.raises(ValidationError, match="offload all needs zero 3"):
        TrainingSettings(offload="all", zero=2)
