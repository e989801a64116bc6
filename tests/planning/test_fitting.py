"""What is refused, and that what the message says is enough really is."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from raysel.models.shape import Shape, known_shape
from raysel.planning.fitting import FitError, Machines, fitted
from raysel.training.settings import TrainingSettings


def shape_named(name: str) -> Shape:
    shape = known_shape(name)
    assert shape is not None
    return shape


EIGHT_B = shape_named("meta-llama/Llama-3.1-8B")
FULL = {"method": "full", "dtype": "bfloat16", "zero": 3, "micro_batch_tokens": 2048, "data": {"max_tokens": 2048}}


@pytest.mark.parametrize(
    ("machines", "more", "change"),
    [
        (Machines(1, 8, 80), {"zero": 1}, "training.zero=2 is enough"),
        (Machines(1, 8, 48), {"zero": 1}, "training.zero=3 is enough"),
        (Machines(4, 8, 80), {"micro_batch_tokens": 16384}, "training.activation_checkpointing=true is enough"),
        (Machines(1, 2, 80), {}, "training.offload=optimizer (which takes 160.6 GB of memory on each node) is enough"),
        (Machines(1, 1, 48), {"activation_checkpointing": True, "offload": "all", "micro_batch_tokens": 131_072},
         "training.micro_batch_tokens=32768 is enough"),
        (Machines(1, 4, 24), {}, "training.method=lora is enough"),
    ],
)  # fmt: skip
def test_the_first_change_that_is_enough(machines: Machines, more: dict[str, Any], change: str) -> None:
    with pytest.raises(FitError) as refused:
        fitted(EIGHT_B, TrainingSettings(**FULL | more), machines)
    assert str(refused.value).rpartition("; ")[2] == change


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    memory=st.sampled_from([16, 24, 40, 80]),
    gpus=st.sampled_from([1, 2, 8]),
    nodes=st.integers(1, 3),
    zero=st.sampled_from([1, 2, 3]),
    checkpointing=st.booleans(),
    name=st.sampled_from(["Qwen/Qwen2.5-1.5B", "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B"]),
)
def test_what_is_said_to_be_enough_is(
    memory: int, gpus: int, nodes: int, zero: Any, checkpointing: bool, name: str
) -> None:
    shape, machines = shape_named(name), Machines(nodes, gpus, memory)
    settings = TrainingSettings(**FULL | {"zero": zero, "activation_checkpointing": checkpointing})
    try:
        held = fitted(shape, settings, machines)
    except FitError as error:
        message = str(error).rpartition("; ")[2]
        if found := re.search(r"cluster\.nodes=(\d+)", message):
            assert fitted(shape, settings, Machines(int(found[1]), gpus, memory))
        elif found := re.search(r"at least (\d+) GB", message):
            assert int(found[1]) > memory
        else:
            update = dict(re.findall(r"training\.(\w+)=(\w+)", message))
            values = {key: int(value) if value.isdigit() else value for key, value in update.items()}
            changed = TrainingSettings(**settings.model_dump() | values)
            assert fitted(shape, changed, machines).device_bytes <= machines.usable_bytes
    else:
        assert held.device_bytes <= machines.usable_bytes


def test_what_no_change_saves_needs_larger_gpus() -> None:
    settings = TrainingSettings(method="lora", dtype="bfloat16", zero=2, workers=1)
    with pytest.raises(FitError, match=r"no single change is enough, but .* together are|at least \d+ GB"):
        fitted(shape_named("meta-llama/Llama-3.1-70B"), settings, Machines(1, 1, 16))


def refusal(settings: TrainingSettings, machines: Machines, shape: Shape = EIGHT_B) -> str:
    with pytest.raises(FitError) as refused:
        fitted(shape, settings, machines)
    return str(refused.value).rpartition("; ")[2]


@pytest.mark.parametrize(
    ("told", "machines", "zero", "advice"),
    [
        ({}, Machines(1, 8, 80), 1, "training.zero=2 is enough"),
        ({"stage": 1}, Machines(1, 8, 80), 1, "training.method=lora is enough"),
        ({"offload_optimizer": {"device": "none"}}, Machines(1, 2, 80), 3, "training.method=lora is enough"),
    ],
)
def test_advice_does_not_contradict_what_deepspeed_is_told(
    told: dict[str, Any], machines: Machines, zero: int, advice: str
) -> None:
    settings = TrainingSettings(**FULL | {"zero": zero, "deepspeed": {"zero_optimization": told}})
    assert refusal(settings, machines) == advice


def test_there_are_no_more_workers_than_gpus() -> None:
    settings = TrainingSettings(workers=9)
    with pytest.raises(FitError, match=r"training\.workers 9: there are 8 GPUs .*nodes 2 x .*gpus_per_node 4"):
        fitted(EIGHT_B, settings, Machines(2, 4, 80))
    assert fitted(EIGHT_B, TrainingSettings(workers=8), Machines(2, 4, 80))


def test_changes_together_are_the_fewest() -> None:
    seventy_b = shape_named("meta-llama/Llama-3.1-70B")
    settings = TrainingSettings(**FULL | {"zero": 1})
    advice = refusal(settings, Machines(1, 8, 40), seventy_b)
    together = "training.zero=3, training.activation_checkpointing=true, training.offload=optimizer"
    host = "(which takes 1.4 TB of memory on each node)"
    assert advice == f"no single change is enough, but {together} {host} together are"
    # Adapters over sharded weights: of 70e9 in bfloat16 each of 8 GPUs holds 17.6 GB.
    kept = {"zero_optimization": {"offload_optimizer": {"device": "none"}}}
    settings = TrainingSettings(**FULL | {"zero": 2, "activation_checkpointing": True, "deepspeed": kept})
    advice = "training.zero=3, training.method=lora"
    assert refusal(settings, Machines(1, 8, 40), seventy_b) == f"no single change is enough, but {advice} together are"
