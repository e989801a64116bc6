"""The stage on Ray: cells, failures, what is carried on."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from raysel.cluster import Cluster
from raysel.errors import UserError
from raysel.evaluation import stage
from raysel.evaluation.cell_stage import Cell, CellWorker, EvaluatedModel
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.tasks import load_tasks
from raysel.progress import Progress
from raysel.settings import counted
from raysel.stage import StageOutput, StageRun
from raysel.store import Artifact, Attempt, Store
from tests.evaluation.task_folder import METRICS, choice_config, write_choice_tasks, write_task


def new_run(
    attempt: Attempt, folder: Path, cluster: Any, progress: Progress, *, model: Path | None = None, **parts: Any
) -> StageRun:
    settings = {
        "evaluation": EvaluationSettings(tasks=str(folder), **parts.pop("evaluation", {})),
        "trust_remote_code": False,
        "seed": 7,
        "model_name": "base",
        "identity": parts.pop("identity", "a model"),
    }
    leaves = {} if model is None else {"model": str(model)}
    return StageRun(settings, parts.get("inputs", {}), leaves, attempt, cluster, progress)


def publish(attempt: Attempt, output: StageOutput) -> Artifact:
    return attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)


def test_cells_failures_and_carrying_on(tmp_path: Path, tiny_llama: Path, cluster: Cluster, progress: Progress) -> None:
    """One task fails: the others finish and are kept; once it is mended, it alone is scored."""
    folder = write_choice_tasks(tmp_path / "tasks")
    write_task(folder, choice_config("sw", doc_to_text="{{no_such_column}}"))
    store = Store(str(tmp_path / "store"))
    first = store.attempt("results", "a")
    with pytest.raises(stage.CellsFailedError, match=r"1 of 3 .* on model base") as caught:
        stage.run(new_run(first, folder, cluster, progress, model=tiny_llama))
    assert "choice_sw: UndefinedError: 'no_such_column' is undefined" in str(caught.value)
    assert store.artifact("results", "a") is None

    assert not isinstance(caught.value, UserError), "part of the work is done: exit code 1"
    kept = cells_of(store)
    assert len(kept) == 2

    # Mending the task makes it another artifact, of which two cells are there already.
    write_task(folder, choice_config("sw"))
    second = store.attempt("results", "b")
    output = stage.run(new_run(second, folder, cluster, progress, model=tiny_llama))
    artifact = publish(second, output)
    assert cells_of(store).items() >= kept.items()
    assert sorted(artifact.summary["cells"]) == sorted(cells_of(store))
    assert len(cells_of(store)) == 3

    results = artifact.read("results").to_pylist()
    assert [(row["task"], row["metric"]) for row in results] == [
        (f"choice_{lang}", metric) for lang in ("en", "sw", "zh") for metric in METRICS
    ]
    assert {(row["model"], row["split"], row["seed"], row["n"], row["shots"]) for row in results} == {
        ("base", "test", 7, 9, 0)
    }
    assert all(row["ci_low"] <= row["value"] <= row["ci_high"] for row in results)
    assert results[0]["harness"].startswith("lm-eval 0.")
    items = artifact.read("items").to_pylist()
    assert len(items) == 3 * 9 * len(METRICS)
    for row in results:
        values = [item["value"] for item in items if (item["task"], item["metric"]) == (row["task"], row["metric"])]
        assert row["value"] == sum(values) / 9
    summary = artifact.summary
    assert (summary["languages"], summary["items"], summary["split"]) == (["en", "sw", "zh"], 27, "test")
    for metric in METRICS:
        macro = sum(row["value"] for row in results if row["metric"] == metric) / 3
        assert summary["macro"][metric] == pytest.approx(macro)

    # Under another name and from another folder the cells are equal, and none is scored again.
    shutil.copytree(folder, tmp_path / "copy")
    other = new_run(store.attempt("results", "c"), tmp_path / "copy", cluster, progress, model=Path("nowhere"))
    other.settings["model_name"] = "tuned"  # type: ignore[index]
    renamed = publish(other.attempt, stage.run(other))
    assert set(renamed.read("items")["model"].to_pylist()) == {"tuned"}
    assert renamed.read("results").drop(["model"]).equals(artifact.read("results").drop(["model"]))
    assert len(cells_of(store)) == 3


def cells_of(store: Store) -> dict[str, str]:
    """address -> the attempt that published it."""
    addresses = {store.relative(info.path).split("/")[1] for info in store.list_files("cells")}
    found = {address: store.artifact("cells", address) for address in addresses}
    return {address: cell.manifest["attempt"] for address, cell in found.items() if cell is not None}


def address_of(run: StageRun, plan: dict[str, Any]) -> str:
    return stage._address(run, plan, load_tasks(run.settings["evaluation"])[0], run.settings["identity"])


def test_what_decides_a_cells_numbers_decides_its_address(tmp_path: Path, progress: Progress) -> None:
    folder = write_choice_tasks(tmp_path / "tasks", ("en",))
    attempt = Store(str(tmp_path / "store")).attempt("results", "a")
    plan = {"batch_size": 4, "threads": 1, "gpus": 0}

    def address(plan: dict[str, Any] = plan, **parts: Any) -> str:
        run = new_run(attempt, folder, None, progress, **parts)
        return address_of(run, plan)

    first = address()
    others = [
        address(identity="another model"),
        address(plan | {"batch_size": 8}),
        address(plan | {"threads": 2}),
        *(address(evaluation=changed) for changed in ({"split": "dev"}, {"limit": 3}, {"shots": 1})),
    ]
    file = folder / "items" / "en.test.jsonl"
    file.write_text(file.read_text().replace("water", "the sea"))
    others.append(address())
    assert len({first, *others}) == 1 + len(others)
    assert address(evaluation={"workers": 2, "cell_timeout_minutes": 1}) == others[-1]
    assert address(evaluation={"dev_share": 0.5}) == others[-1], "both splits are there: nothing is carved out"
    judged = new_run(attempt, folder, None, progress)
    judged.settings["judge_identity"] = ["a judge", "auto"]  # type: ignore[index]
    assert address_of(judged, plan) == others[-1]
    write_task(folder, choice_config("en", metadata={"judge": True}))
    asked = {address_of(run, plan) for run in (judged, new_run(attempt, folder, None, progress))}
    assert len(asked) == 2


def worker(run: StageRun, plan: dict[str, Any], *, judge: str | None = None) -> CellWorker:
    """Of two cells: `tuned` with the adapter, where there is one, and `base` without."""
    settings = run.settings["evaluation"]
    model = EvaluatedModel(
        run.inputs.get("model") or run.leaves.get("model"), run.inputs.get("tuned"), None, trust_remote_code=False
    )
    task = load_tasks(settings)[0]
    return CellWorker(
        store=run.attempt.store,
        plan={"threads": 1, "gpus": 0} | plan,
        cells=[Cell(task, name, "a model", adapter=name == "tuned", template=None) for name in ("tuned", "base")],
        model=model,
        corpus=None,
        judge=judge,
        evaluation=settings,
        seed=7,
    )


def test_models_and_adapters_come_from_artifacts(tmp_path: Path, tiny_llama: Path, progress: Progress) -> None:
    """A whole tuned model, and an adapter on a base model that is an artifact too, both weigh in."""
    import torch
    from peft import LoraConfig, get_peft_model

    from raysel.models.loading import load_causal_lm
    from tests.small_models import save_tiny_llama

    folder = write_choice_tasks(tmp_path / "tasks", ("en",))
    torch.manual_seed(1)
    get_peft_model(load_causal_lm(tiny_llama), LoraConfig(init_lora_weights=False)).save_pretrained(tmp_path / "lora")
    store = Store(str(tmp_path / "store"))

    def artifact(table: str, files: Path) -> Artifact:
        attempt = store.attempt("model", files.name)
        return publish(attempt, StageOutput(attempt.write_folder(table, files)))

    base, lora = artifact("model", tiny_llama), artifact("adapter", tmp_path / "lora")
    whole = artifact("model", save_tiny_llama(tmp_path / "whole", seed=5))
    plan = {"batch_size": 4}
    attempt = store.attempt("results", "a")
    probe = torch.arange(10)[None]
    logits = []
    for inputs in ({"model": base}, {"model": base, "tuned": lora}, {"model": base, "tuned": whole}, {"tuned": whole}):
        made = worker(new_run(attempt, folder, None, progress, inputs=inputs), plan)
        assert made.process({"cell": 0}) == {"cell": 0, "task": "choice_en", "failure": ""}
        with torch.no_grad():
            logits.append(made.lm.model(probe).logits)
    assert torch.equal(logits[0], load_causal_lm(tiny_llama)(probe).logits)
    assert not torch.allclose(logits[0], logits[1])
    assert not torch.allclose(logits[1], logits[2])
    assert torch.equal(logits[2], logits[3])


def test_an_adapters_base_is_scored_while_it_is_loaded(
    tmp_path: Path, tiny_llama: Path, cluster: Cluster, progress: Progress
) -> None:
    """The base's results are then only gathered, and are those of the base loaded alone, to the last bit."""
    import torch
    from peft import LoraConfig, get_peft_model

    from raysel.models.loading import load_causal_lm

    folder = write_choice_tasks(tmp_path / "tasks", ("en", "sw"))
    scored = {"output_type": "loglikelihood", "doc_to_target": "{{choices[0]}}", "doc_to_choice": None}
    for lang in ("en", "sw"):
        write_task(folder, choice_config(lang, **scored, metric_list=[{"metric": "perplexity"}]))
    torch.manual_seed(1)
    adapted = get_peft_model(load_causal_lm(tiny_llama), LoraConfig(init_lora_weights=False, lora_alpha=64))
    adapted.save_pretrained(tmp_path / "lora")

    def evaluated(store: Store, name: str, **identities: str) -> list[dict[str, Any]]:
        tuned = {}
        if name == "tuned":
            attempt = store.attempt("model", "lora")
            tuned["tuned"] = publish(attempt, StageOutput(attempt.write_folder("adapter", tmp_path / "lora")))
        attempt = store.attempt("results", name)
        run = new_run(attempt, folder, cluster, progress, model=tiny_llama, inputs=tuned)
        run.settings.update(identities)  # type: ignore[attr-defined]
        return publish(attempt, stage.run(run)).read("results").drop(["model"]).to_pylist()

    store = Store(str(tmp_path / "store"))
    tuned = evaluated(store, "tuned", identity="tuned", base_identity="base")
    together = cells_of(store)
    assert len(together) == 4
    base = evaluated(store, "base", identity="base")
    assert cells_of(store) == together
    alone = evaluated(Store(str(tmp_path / "alone")), "base", identity="base")
    assert base == alone
    assert all(abs(a["value"] / b["value"] - 1) > 0.01 for a, b in zip(tuned, base, strict=True))


def test_a_broken_data_file_is_named_with_its_row(tmp_path: Path, tiny_llama: Path, progress: Progress) -> None:
    folder = write_choice_tasks(tmp_path / "tasks", ("en",))
    file = folder / "items" / "en.test.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:3], '{"id": broken', *lines[4:]]))
    run = new_run(Store(str(tmp_path / "store")).attempt("results", "a"), folder, None, progress, model=tiny_llama)
    failure = worker(run, {"batch_size": 1}).process({"cell": 0})["failure"]
    assert "JSON parse error" in failure
    assert "row 3" in failure
    assert str(file) in failure


def test_a_cell_that_takes_too_long_fails_and_says_which_setting(
    tmp_path: Path, tiny_llama: Path, progress: Progress
) -> None:
    folder = write_choice_tasks(tmp_path / "tasks", ("en",))
    store = Store(str(tmp_path / "store"))
    run = new_run(
        store.attempt("results", "a"),
        folder,
        None,
        progress,
        model=tiny_llama,
        evaluation={"cell_timeout_minutes": 1e-4},
    )
    failure = worker(run, {"batch_size": 1}).process({"cell": 0})["failure"]
    assert failure == "took longer than 0.006 s (evaluation.cell_timeout_minutes)"
    assert cells_of(store) == {}


def test_open_answers_are_rated_by_a_judge_of_the_users(tmp_path: Path, tiny_llama: Path, progress: Progress) -> None:
    """A random model judges: what it writes holds no rating, which is said of every item and made up of none."""
    from raysel.models.settings import ModelSettings

    folder = write_choice_tasks(tmp_path / "tasks", ("en",))
    write_task(
        folder,
        choice_config(
            "en",
            output_type="generate_until",
            doc_to_choice=None,
            doc_to_target="{{choices[0]}}",
            metric_list=[{"metric": "exact_match"}],
            generation_kwargs={"until": ["\n"], "max_gen_toks": 4},
            metadata={"judge": True},
        ),
    )
    store = Store(str(tmp_path / "store"))
    wish = {"limit": 2, "judge": ModelSettings(path=str(tiny_llama))}
    run = new_run(store.attempt("results", "a"), folder, None, progress, model=tiny_llama, evaluation=wish)
    assert worker(run, {"batch_size": 2}).process({"cell": 0})["failure"].startswith("its answers are rated by a judge")
    judging = worker(run, {"batch_size": 2}, judge=str(tiny_llama))
    assert judging.process({"cell": 0})["failure"] == ""
    cell = store.artifact("cells", "tuned")
    assert cell is not None
    rated = [row for row in cell.read("items").to_pylist() if row["metric"] == "rating"]
    assert [row["item"] for row in rated] == [0, 1]
    assert all(row["judgement"] and math.isnan(row["value"]) for row in rated)
    assert "rating" not in cell.summary["values"]


def test_the_plan_keeps_the_batch_size(tmp_path: Path, tiny_llama: Path, cluster: Cluster, progress: Progress) -> None:
    folder = write_choice_tasks(tmp_path / "tasks", ("en",))
    attempt = Store(str(tmp_path / "store")).attempt("results", "a")
    attempt.plan(lambda: {"tasks": ["choice_en"], "batch_size": 3, "threads": 1, "gpus": 0})
    wish = {"workers": 1, "limit": 2}
    output = stage.run(new_run(attempt, folder, cluster, progress, model=tiny_llama, evaluation=wish))
    assert {record.rows for record in output.records} == {len(METRICS), 2 * len(METRICS)}
    assert attempt.plan(dict)["batch_size"] == 3


def test_what_only_says_how_to_execute_changes_no_fingerprint() -> None:
    plain = EvaluationSettings(tasks="somewhere")
    other = EvaluationSettings(tasks="somewhere", models=["base"], batch_size=3, workers=2, cell_timeout_minutes=1)
    assert counted(plain) == counted(other)
    assert counted(plain) != counted(EvaluationSettings(tasks="somewhere", limit=4))


def test_cells_with_and_without_a_judge_are_read_as_one_table(
    tmp_path: Path, tiny_llama: Path, cluster: Cluster, progress: Progress
) -> None:
    from raysel.models.settings import ModelSettings

    folder = write_choice_tasks(tmp_path / "tasks", ("en", "sw"))
    generated = {"doc_to_choice": None, "doc_to_target": "{{choices[0]}}", "metric_list": [{"metric": "exact_match"}]}
    short = {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}, "metadata": {"judge": True}}
    write_task(folder, choice_config("en", output_type="generate_until", **generated, **short))
    wish = {"limit": 2, "judge": ModelSettings(path=str(tiny_llama))}
    run = new_run(
        Store(str(tmp_path / "store")).attempt("results", "a"),
        folder,
        cluster,
        progress,
        model=tiny_llama,
        evaluation=wish,
    )
    run.leaves["judge"] = str(tiny_llama)  # type: ignore[index]
    rows = publish(run.attempt, stage.run(run)).read("items").to_pylist()
    assert {(row["task"], row["judgement"] is None, row["generated"] is None) for row in rows} == {
        ("choice_en", True, False),
        ("choice_en", False, False),
        ("choice_sw", True, True),
    }
