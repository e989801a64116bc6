"""What would help a stage that ran out of memory, and that the run ends with it."""

from pathlib import Path
from typing import Any

import pytest

from raysel.corpus.settings import CorpusSettings
from raysel.embedding.settings import EmbeddingSettings
from raysel.evaluation.settings import EvaluationSettings
from raysel.execution import execute
from raysel.memory_advice import advice
from raysel.memory_errors import MemoryShortError, Shortage
from raysel.models.settings import BaseModelSettings
from raysel.models.shape import shape_of
from raysel.planning.memory import training_memory
from raysel.selection.settings import LessSettings
from raysel.separability.settings import SeparabilitySettings
from raysel.steps import Leaf, Step
from raysel.store import Store
from raysel.training.settings import TrainingSettings, WarmupSettings

NO_GPU = Shortage(4 * 10**9, 10**9, 16 * 10**9, "n1")
ON_GPU = Shortage(4 * 10**9, 10**9, 80 * 10**9, "n1", gpu=0)
LLAMA = {"model": Leaf("meta-llama/Llama-3.1-8B", {})}
FULL = {"method": "full", "dtype": "bfloat16", "zero": 3, "micro_batch_tokens": 4096, "data": {"max_tokens": 2048}}


def step(stage: str, leaves: Any = None, **settings: Any) -> Step:
    return Step(stage, stage, settings, leaves=leaves or {})


def short(shortage: Shortage, **more: Any) -> Shortage:
    return Shortage(**{**vars(shortage), **more})


@pytest.mark.parametrize(
    ("asked", "shortage", "said"),
    [
        (step("vectors", embedding=EmbeddingSettings()), short(NO_GPU, workers=2), "set embedding.workers=1"),
        (step("vectors", embedding=EmbeddingSettings()), NO_GPU, "set embedding.max_tokens=512"),
        (step("vectors", embedding=EmbeddingSettings()), ON_GPU, "set embedding.gpus_per_worker=2"),
        (step("sums", separability=SeparabilitySettings(block_rows=1000)), NO_GPU, "separability.block_rows=500"),
        (step("sums", separability=SeparabilitySettings(cores=2)), NO_GPU, "set separability.cores=4"),
        (step("corpus", corpus=CorpusSettings(path="x", shard_rows=100)), NO_GPU, "set corpus.shard_rows=50"),
        (step("results", evaluation=EvaluationSettings()), short(NO_GPU, batch=16), "set evaluation.batch_size=8"),
        (step("results", evaluation=EvaluationSettings()), short(ON_GPU, batch=1), "evaluation.gpus_per_worker=2"),
        (step("results", evaluation=EvaluationSettings()), short(NO_GPU, workers=4), "set evaluation.workers=2"),
        (step("gradients", less=LessSettings()), ON_GPU, "set selection.less.warmup.dtype=bfloat16"),
        (step("gradients", less=LessSettings()), short(NO_GPU, workers=2), "set selection.less.workers=1"),
        (step("base_model", base=BaseModelSettings()), NO_GPU, "set model.base.context=256"),
        (step("order"), NO_GPU, "cluster.num_cpus"),
    ],
)
def test_the_setting_that_decides_what_is_held_is_named(asked: Step, shortage: Shortage, said: str) -> None:
    assert said in advice(asked, shortage)


@pytest.mark.parametrize(
    ("settings", "shortage", "change"),
    [
        (FULL, short(ON_GPU, workers=8), {"micro_batch_tokens": 2048}),
        (FULL | {"micro_batch_tokens": 2048}, short(ON_GPU, workers=8), {"activation_checkpointing": True}),
        # What was found where it was left open is what the message starts from.
        (FULL | {"micro_batch_tokens": "auto"}, short(ON_GPU, workers=8, batch=4096), {"micro_batch_tokens": 2048}),
    ],
)
def test_of_training_it_is_what_spares_as_much_as_was_missing(
    settings: dict[str, Any], shortage: Shortage, change: dict[str, Any]
) -> None:
    """The planner thought that it fits: what was missing comes on top of that."""
    [(key, value)] = change.items()
    said = advice(step("model", LLAMA, training=TrainingSettings(**settings)), shortage)
    assert said == f"by the planner's estimate training.{key}={str(value).lower()} is enough"
    told = settings | ({"micro_batch_tokens": shortage.batch} if shortage.batch else {})
    before, after = TrainingSettings(**told), TrainingSettings(**told | change)
    shape = shape_of("meta-llama/Llama-3.1-8B")
    spared = [training_memory(shape, one, workers=8).device_bytes for one in (before, after)]
    assert spared[0] - spared[1] >= shortage.asked - shortage.free


def test_more_than_settings_can_spare_says_how_much_memory_there_must_be() -> None:
    said = advice(step("model", LLAMA, training=TrainingSettings()), short(NO_GPU, workers=2))
    assert "give each worker at least 25 GB of memory, with training.micro_batch_tokens=512" in said
    assert "offload" not in said


def test_the_warm_up_of_less_is_told_its_own_settings() -> None:
    asked = step("warmup", LLAMA, warmup=WarmupSettings(), training=TrainingSettings(micro_batch_tokens=4096))
    assert "training.micro_batch_tokens=" in advice(asked, ON_GPU) or "selection.less.warmup" in advice(asked, ON_GPU)


def test_without_a_known_shape_the_rows_at_once_come_first() -> None:
    nothing = {"model": Leaf("/nowhere", {})}
    for settings, said in (
        ({"micro_batch_tokens": 2048}, "set training.micro_batch_tokens=1024"),
        ({"micro_batch_tokens": "auto"}, "set training.activation_checkpointing=true"),
        ({"micro_batch_tokens": 512, "activation_checkpointing": True}, "set training.data.max_tokens=256"),
    ):
        assert advice(step("model", nothing, training=TrainingSettings(**settings)), ON_GPU).startswith(said)
    two = advice(step("model", nothing, training=TrainingSettings()), short(NO_GPU, workers=2))
    assert two == "set training.workers=1: each holds a model"


class Driver:
    """What a stage that needs no cluster asks of one."""

    def lease(self, key: str, on_wait: Any) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def cpus(self) -> int:
        return 1

    gpus = cpus


def test_a_stage_that_runs_out_of_memory_says_where_and_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: Any
) -> None:
    def asks_for_a_petabyte(run: Any) -> None:
        bytearray(1 << 50)

    monkeypatch.setattr("raysel.execution.stage_function", lambda stage: asks_for_a_petabyte)
    asked = step("corpus", corpus=CorpusSettings(path="x", shard_rows=100))
    with pytest.raises(MemoryShortError) as raised:
        execute(asked, Store(str(tmp_path)), "new", artifacts={}, cluster=Driver(), progress=progress)
    assert str(raised.value).startswith("corpus: out of memory: an allocation failed on node ")
    assert str(raised.value).endswith("; set corpus.shard_rows=50")
