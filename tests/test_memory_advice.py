"""What would help a stage that ran out of memory, and that the run ends with it."""

import re
from pathlib import Path
from typing import Any

import pytest

from raysel.corpus.settings import CorpusSettings
from raysel.disk import readable
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
NOTHING = {"model": Leaf("/nowhere", {})}
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


@pytest.mark.parametrize("unknown", [{"asked": None}, {"asked": 10**9, "free": 2 * 10**9}])
def test_where_it_is_not_known_how_much_was_missing_a_tenth_is_to_be_spared(unknown: dict[str, Any]) -> None:
    """Else one byte less would do."""
    settings = FULL | {"micro_batch_tokens": 16384}
    said = advice(step("model", LLAMA, training=TrainingSettings(**settings)), short(ON_GPU, workers=8, **unknown))
    [(_, setting, value)] = re.findall(r"(training)\.(\w+)=(\w+) may be enough", said)
    assert "is enough" not in said
    before, after = (TrainingSettings.model_validate(settings | update) for update in ({}, {setting: value}))
    shape = shape_of("meta-llama/Llama-3.1-8B")
    held, then = (training_memory(shape, one, workers=8).device_bytes for one in (before, after))
    assert then <= 0.9 * held


def test_checkpointing_that_was_left_open_is_advised_where_there_was_none() -> None:
    open_ = TrainingSettings(**FULL | {"micro_batch_tokens": "auto", "activation_checkpointing": "auto"})
    found = short(ON_GPU, workers=8, batch=2048)
    without, with_ = (
        advice(step("model", LLAMA, training=open_), short(found, checkpointing=c)) for c in (False, True)
    )
    assert without == "by the planner's estimate training.activation_checkpointing=true is enough"
    assert "activation_checkpointing" not in with_


def test_beside_gpus_the_machines_own_memory_asks_for_less_offload() -> None:
    killed = short(NO_GPU, asked=None, killed=True, workers=8, devices="gpu", batch=4096)
    offloaded = TrainingSettings(**FULL | {"offload": "all"})
    said = advice(step("model", LLAMA, training=offloaded), killed)
    host = training_memory(shape_of("meta-llama/Llama-3.1-8B"), offloaded, workers=8).host
    assert said.startswith(f"by the planner's estimate each worker takes {readable(host)} beside its GPU: set ")
    assert "set training.offload=none (" in said
    assert f"give each worker at least {readable(host + host // 10)} of its machine's memory" in said
    assert "micro_batch" not in said
    assert "anew" not in said

    two = TrainingSettings(**FULL | {"zero": 2})
    said = advice(step("model", LLAMA, training=two), killed)
    assert "set training.zero=3 (" in said
    assert "offload" not in said
    assert said.endswith("(a change of training.zero begins the training anew)")

    assert advice(step("model", NOTHING, training=offloaded), killed).startswith("set training.offload=optimizer, or ")


def test_the_warm_up_of_less_is_told_its_own_settings() -> None:
    asked = step("warmup", LLAMA, warmup=WarmupSettings(), training=TrainingSettings(micro_batch_tokens=4096))
    assert "selection.less.warmup.dtype=bfloat16" in advice(asked, ON_GPU)
    assert "training.activation_checkpointing" not in advice(asked, ON_GPU)


@pytest.mark.parametrize("leaf", ["/nowhere", "google/mt5-xl"])
@pytest.mark.parametrize(
    ("dtype", "said"),
    [("float32", "set selection.less.warmup.dtype=bfloat16"), ("bfloat16", "set selection.less.warmup.max_tokens=256")],
)
@pytest.mark.parametrize("shortage", [ON_GPU, NO_GPU])
def test_the_warm_up_of_other_models_is_told_only_what_it_heeds(
    leaf: str, dtype: str, said: str, shortage: Shortage
) -> None:
    asked = {"warmup": WarmupSettings(dtype=dtype), "training": TrainingSettings(zero=0)}
    told = advice(step("warmup", {"model": Leaf(leaf, {})}, **asked), shortage)
    assert told == f"{said} (a change of selection.less.warmup begins the training anew)"


@pytest.mark.parametrize(
    ("settings", "batch", "said"),
    [
        ({"micro_batch_tokens": 2048}, 2048, "set training.micro_batch_tokens=1024"),
        ({"micro_batch_tokens": 2048}, 512, "set training.activation_checkpointing=true"),  # it goes row by row
        ({"micro_batch_tokens": 2048}, None, "set training.activation_checkpointing=true"),
        ({"micro_batch_tokens": "auto"}, 1024, "set training.micro_batch_tokens=512"),
        ({"activation_checkpointing": True}, 512, "set training.data.max_tokens=256, or training.zero=3 on"),
    ],
)
def test_without_a_known_shape_rows_come_first_where_several_go_together(
    settings: dict[str, Any], batch: int | None, said: str
) -> None:
    told = advice(step("model", NOTHING, training=TrainingSettings(**settings)), short(ON_GPU, batch=batch))
    assert told.startswith(said)


def test_a_row_of_an_encoder_decoder_is_its_prompt_and_its_response(tmp_path: Path) -> None:
    """1,024 tokens are one row: fewer never go together. An unknown family's config says that it has an encoder."""
    (tmp_path / "config.json").write_text('{"model_type": "new", "is_encoder_decoder": true}')
    settings = {"data": {"max_tokens": 256, "max_source_tokens": 768}}
    for leaf in ("google/mt5-xl", str(tmp_path)):
        model = {"model": Leaf(leaf, {})}
        asked = step("model", model, training=TrainingSettings(**settings))
        assert advice(asked, short(ON_GPU, batch=2048)) == "set training.micro_batch_tokens=1024"
        assert advice(asked, short(ON_GPU, batch=1024)) == "set training.activation_checkpointing=true"
        asked = step("model", model, training=TrainingSettings(activation_checkpointing=True, **settings))
        said = advice(asked, short(ON_GPU, batch=1024))
        assert said.startswith("set training.data.max_tokens=128, training.data.max_source_tokens=384, or")


def test_fewer_workers_help_only_where_each_holds_a_whole_model() -> None:
    two = advice(step("model", NOTHING, training=TrainingSettings()), short(NO_GPU, workers=2))
    assert two == "set training.workers=1: each holds a model"
    shared = advice(step("model", NOTHING, training=TrainingSettings(zero=3)), short(NO_GPU, workers=2))
    assert "training.workers" not in shared


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
