"""Bits per byte of held-out responses: against plain torch, as cells, and as an experiment has them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from raysel.cluster import Cluster
from raysel.corpus.heldout import drawn_first
from raysel.evaluation import stage
from raysel.evaluation.bits_per_byte import evaluate_heldout, of_items, scored_response
from raysel.evaluation.cell_stage import Cell, CellWorker, EvaluatedModel, heldout_rows
from raysel.evaluation.heldout import heldout_task, is_asked_by
from raysel.evaluation.scores import ItemScore, MetricScore
from raysel.evaluation.settings import EvaluationSettings
from raysel.evaluation.task_files import TaskError
from raysel.experiment import Experiment, ExperimentError, load_experiment
from raysel.models.loading import load_causal_lm, load_tokenizer
from raysel.models.templates import NAMED_TEMPLATES, end_of_turn, prompt_text
from raysel.pipeline import expand
from raysel.progress import Progress
from raysel.report.result_lines import ItemValues, MetricLines
from raysel.settings import counted
from raysel.stage import StageOutput, StageRun
from raysel.steps import Step
from raysel.store import Artifact, Store
from raysel.tables import CORPUS
from raysel.training.settings import TokenSettings
from raysel.training.token_shards import write_heldout_shard
from tests.evaluation.task_folder import write_choice_tasks
from tests.small_models import byte_bpe_tokenizer, save_tiny_llama

HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Bonjour ?"},
    {"role": "assistant", "content": "Oui."},
]
LANGUAGES = ("en", "sw", "zh")


def row(prompt: str, response: str, number: int = 0, **more: Any) -> dict[str, Any]:
    lang = more.get("lang", "en")
    own = {"id": f"{lang}{number:03d}", "lang": lang, "lang_raw": lang, "source": "here", "script": "Latn"}
    return {"history": None, "task": None, "group": None, **own, "prompt": prompt, "response": response, **more}


ROWS = [
    row("What is the capital of France?", "Paris."),
    row("Et en Italie ?", "Rome, bien sûr.", history=json.dumps(HISTORY)),
    row("Привет", "Хорошо, спасибо."),
    row("Count to three.", "[1, 2, 3]"),
    row("Say nothing but a list.", "['a']"),
    row("Indent.", "  两个空格\n\n"),
    row("你好", "7"),
    row("What is the capital of France?", "Paris."),
]


@pytest.fixture(scope="module", params=[True, False], ids=["adds a BOS", "adds none"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer puts a BOS before every text, unless told otherwise, or does not."""
    folder = save_tiny_llama(tmp_path_factory.mktemp("llama"))
    tokenizer = byte_bpe_tokenizer()
    if request.param:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
        assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    tokenizer.save_pretrained(folder)
    return folder


def evaluated(
    folder: Path, template: str, rows: Sequence[dict[str, Any]], *, max_tokens: int = 2048, batch_size: int = 3
) -> tuple[MetricScore, list[ItemScore]]:
    model, tokenizer = load_causal_lm(folder).eval(), load_tokenizer(folder, template)
    (score,), items = evaluate_heldout(model, tokenizer, rows, max_tokens=max_tokens, batch_size=batch_size, seed=0)
    return score, items


def bits_of(model: Any, context: Sequence[int], tokens: Sequence[int]) -> float:
    """-log2 p(tokens | context), in one pass without padding."""
    with torch.no_grad():
        chances = model(torch.tensor([[*context, *tokens]])).logits[0].log_softmax(-1)
    picked = chances[range(len(context) - 1, len(context) + len(tokens) - 1), list(tokens)]
    return -float(picked.double().sum()) / math.log(2)


def by_hand(model: Any, tokenizer: Any, rows: Sequence[dict[str, Any]]) -> float:
    """The definition. The texts are so chosen that no token straddles the border, and no template refuses a system."""
    bits, size = 0.0, 0
    for one in rows:
        messages = [*json.loads(one["history"] or "[]"), {"role": "user", "content": one["prompt"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        context, tokens = (tokenizer.encode(part, add_special_tokens=False) for part in (text, one["response"]))
        assert tokenizer.encode(text + one["response"], add_special_tokens=False) == context + tokens
        bits += bits_of(model, context, tokens)
        size += len(one["response"].encode("utf-8"))
    return bits / size


@pytest.mark.parametrize("template", ["auto", "chatml", "llama3"])
def test_the_value_is_that_of_plain_torch(folder: Path, template: str) -> None:
    """Of templates with and without a BOS of their own, the same with either tokenizer: never two, never one more."""
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder, template)
    rows = [one for one in ROWS if template == "auto" or not one["response"][0].isspace()]
    score, items = evaluated(folder, template, rows)
    assert score.value == pytest.approx(by_hand(model, tokenizer, rows), abs=1e-5)
    assert (score.metric, score.n) == ("bits_per_byte", len(rows))
    assert score.ci_low < score.value < score.ci_high
    assert [item.item for item in items] == list(range(len(rows)))
    assert [item.target for item in items] == [one["response"] for one in rows]
    starts = [scored_response(tokenizer, one, 2048).context for one in rows]
    assert {context.count(tokenizer.bos_token_id) for context in starts} == {0 if template == "chatml" else 1}


def test_the_batch_changes_nothing_that_can_be_seen(tiny_llama: Path) -> None:
    values = [evaluated(tiny_llama, "plain", ROWS, batch_size=batch)[0].value for batch in (1, 16)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=40)


@given(prompt=TEXTS, response=TEXTS, template=st.sampled_from([*NAMED_TEMPLATES, "auto"]))
@settings(max_examples=30)
def test_nothing_but_the_response_is_scored(tiny_llama: Path, prompt: str, response: str, template: str) -> None:
    """Neither the white space that ends the prompt nor what ends the turn; the conversation is all that is seen."""
    tokenizer = tokenizer_of(tiny_llama, template)
    found = scored_response(tokenizer, row(prompt, response), 4096)
    assert decode(tokenizer, found.tokens) == response
    assert decode(tokenizer, found.context) == found.opening == prompt_text(tokenizer, prompt)
    assert found.size == len(response.encode("utf-8"))
    assert end_of_turn(tokenizer) not in decode(tokenizer, found.tokens)


def tokenizer_of(folder: Path, template: str, loaded: dict[Any, Any] = {}) -> Any:  # noqa: B006 (a cache)
    if (folder, template) not in loaded:
        loaded[folder, template] = load_tokenizer(folder, template)
    return loaded[folder, template]


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@given(
    prompt=st.integers(1, 200),
    response=st.text("aé两 \n", min_size=1, max_size=200),
    most=st.integers(4, 80),
    turns=st.sampled_from([None, json.dumps(HISTORY)]),
)
def test_what_is_too_long_is_cut(tiny_llama: Path, prompt: int, response: str, most: int, turns: str | None) -> None:
    tokenizer = tokenizer_of(tiny_llama, "plain")
    asked = row("q" * prompt, response, history=turns)
    found, whole = (scored_response(tokenizer, asked, tokens) for tokens in (most, 10_000))
    # The last token is predicted and not taken in.
    assert 1 <= len(found.context) <= most + 1 - len(found.tokens)
    assert found.context == whole.context[-len(found.context) :]
    said = decode(tokenizer, found.tokens)
    assert said
    assert response.startswith(said)
    assert found.size == len(said.encode("utf-8"))
    if len(whole.tokens) <= most:
        assert found.tokens == whole.tokens
        assert len(found.context) == min(len(whole.context), most + 1 - len(whole.tokens))


def test_what_is_cut_is_scored_as_it_is_cut(tiny_llama: Path) -> None:
    model, tokenizer = load_causal_lm(tiny_llama), tokenizer_of(tiny_llama, "plain")
    rows = [row("long " * 60, "short"), row("short", "long " * 60), row("long " * 60, "long " * 60), row("a", "b")]
    score, items = evaluated(tiny_llama, "plain", rows, max_tokens=24)
    cut = [scored_response(tokenizer, one, 24) for one in rows]
    assert [len(of.tokens) for of in cut[1:3]] == [24, 24]
    bits = sum(bits_of(model, of.context, of.tokens) for of in cut)
    assert score.value == pytest.approx(bits / sum(of.size for of in cut), abs=1e-5)
    assert [item.target for item in items] == [one["response"] for one in rows]


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 5000)), min_size=2, max_size=40))
def test_the_items_average_to_the_ratio_and_vary_as_it_does(given_: list[tuple[float, int]]) -> None:
    bits, sizes = (np.array(of, dtype=float) for of in zip(*given_, strict=True))
    values, ratio = of_items(bits, sizes), bits.sum() / sizes.sum()
    assert values.mean() == pytest.approx(ratio, rel=1e-9, abs=1e-9)
    # Cochran's variance of a ratio, whatever the sizes are.
    expected = ((bits - ratio * sizes) ** 2).sum() / (len(bits) - 1) / sizes.mean() ** 2
    assert values.var(ddof=1) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert of_items(1.5 * sizes, sizes) == pytest.approx(np.full(len(sizes), 1.5))


def test_a_paired_test_sees_a_change_that_long_responses_would_hide() -> None:
    """Two models, one 3% better on every response, whose lengths differ a hundredfold."""
    draw = np.random.default_rng(0)
    sizes = draw.lognormal(5, 1.2, 60).astype(int) + 1
    bits = sizes * draw.normal(1.2, 0.05, 60)
    key = ("sw", "heldout_sw", "bits_per_byte")
    rows, items = {}, {}
    for model, factor in (("base", 1.0), ("tuned", 0.97)):
        values = of_items(factor * bits, sizes)
        value = factor * bits.sum() / sizes.sum()
        rows[model] = {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "n": 60}
        items[model] = {key: ItemValues(np.arange(60), values, [None] * 60)}
    (line,) = MetricLines("bits_per_byte", {key: rows}, items, seed=0).languages()
    assert line.difference is not None
    assert line.difference.value == pytest.approx(-0.03 * bits.sum() / sizes.sum())
    assert (line.verdict, line.better) == ("lower", True)
    assert line.difference.high is not None
    assert line.difference.high < 0


def test_other_samples_are_not_paired() -> None:
    """Two trials whose corpora differ hold out others, as many and with the same numbers."""
    key = ("sw", "heldout_sw", "bits_per_byte")
    values = np.linspace(1, 2, 8)
    rows = {model: {"value": 1.5, "ci_low": 1.3, "ci_high": 1.7, "n": 8} for model in ("base", "tuned")}
    same, other = (ItemValues(np.arange(8), values, [f"c:{i + shift}" for i in range(8)]) for shift in (0, 5))
    tested = [
        MetricLines("bits_per_byte", {key: rows}, {"base": {key: same}, "tuned": {key: of}}, seed=0).cells()[0].p
        for of in (same, other)
    ]
    assert tested == [1.0, None]


def test_an_item_is_the_same_in_all_languages_where_it_is_in_the_corpus(tiny_llama: Path) -> None:
    rows = [
        row("a", "b", lang="en", group="7", task="qa"),
        row("c", "d", lang="sw", group="7", task="qa"),
        row("e", "f", lang="sw", group="7", task="other"),
        row("e", "f", lang="sw", group="7", task="qa", source="elsewhere"),
        row("g", "h", lang="sw", number=5),
    ]
    groups = [item.group for item in evaluated(tiny_llama, "plain", rows, max_tokens=64)[1]]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 4
    assert groups[4] == "sw005"


def published(store: Store, name: str, rows: Sequence[dict[str, Any]], shards: int = 2) -> Artifact:
    """A corpus of which `rows` are held out, and nothing else."""
    attempt = store.attempt("corpus", name)
    table = pa.Table.from_pylist([{column: one[column] for column in CORPUS.names} for one in rows], schema=CORPUS)
    size = -(-len(rows) // shards) if rows else 0
    records = [attempt.write_table("corpus", 0, CORPUS.empty_table())]
    records += [attempt.write_table("heldout", i, table.slice(i * size, size)) for i in range(shards if rows else 0)]
    return attempt.publish(records, settings={}, inputs={}, version=1, summary={})


def many(each: int = 9, languages: Sequence[str] = LANGUAGES) -> list[dict[str, Any]]:
    return [row(f"question {i}", f"answer {i} " * (1 + i % 3), i, lang=lang) for i in range(each) for lang in languages]


def test_they_are_the_samples_that_training_follows(tmp_path: Path, tiny_llama: Path) -> None:
    store = Store(str(tmp_path / "store"))
    corpus = published(store, "c", many(), shards=4)
    data = TokenSettings(heldout_samples=4, max_tokens=256)
    attempt = store.attempt("tokens", "t")
    record = write_heldout_shard(attempt, corpus, tokenizer_of(tiny_llama, "plain"), data, packing=True)
    assert record is not None
    followed = [i for ids in attempt.unpublished([record]).read("heldout_tokens")["ids"].to_pylist() for i in ids]
    chosen = {lang: [one["id"] for one in heldout_rows(corpus, lang, 4)] for lang in LANGUAGES}
    assert sorted(followed) == sorted(i for ids in chosen.values() for i in ids)
    assert all(len(ids) == 4 and all(i.startswith(lang) for i in ids) for lang, ids in chosen.items())
    assert [one["id"] for one in heldout_rows(corpus, "sw", 100)][:4] == chosen["sw"]
    assert len(heldout_rows(corpus, "sw", 100)) == 9


@given(st.permutations([{"id": f"x{i}"} for i in range(12)]), st.integers(0, 14))
def test_which_are_drawn_depends_on_their_ids_alone(rows: list[dict[str, Any]], most: int) -> None:
    drawn = drawn_first(rows, most)
    assert drawn == drawn_first(sorted(rows, key=lambda one: one["id"]), 12)[:most]
    assert len(drawn) == min(most, 12)


def test_an_adapter_is_scored_on_and_off(tmp_path: Path, tiny_llama: Path) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    adapted = get_peft_model(load_causal_lm(tiny_llama), LoraConfig(init_lora_weights=False, lora_alpha=64)).eval()
    adapted.save_pretrained(tmp_path / "lora")
    store = Store(str(tmp_path / "store"))
    attempt = store.attempt("model", "lora")
    records = attempt.write_folder("adapter", tmp_path / "lora")
    tuned = attempt.publish(records, settings={}, inputs={}, version=1, summary={})
    corpus = published(store, "c", many(4))
    worker = cell_worker(store, EvaluatedModel(str(tiny_llama), tuned, "chatml", False), corpus)
    assert [worker.process({"cell": i})["failure"] for i in range(2)] == ["", ""]
    rows, tokenizer = heldout_rows(corpus, "sw", 3), tokenizer_of(tiny_llama, "chatml")
    plain = load_causal_lm(tiny_llama)
    expected = {"tuned": by_hand(adapted, tokenizer, rows), "base": by_hand(plain, tokenizer, rows)}
    found = {name: values_of(store, name) for name in expected}
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(found["tuned"] - found["base"]) > 0.01


def cell_worker(store: Store, model: EvaluatedModel, corpus: Artifact) -> CellWorker:
    """Of two cells with three Swahili samples: `tuned` with the adapter, where there is one, and `base` without."""
    task = heldout_task("sw", corpus.fingerprint, 3)
    return CellWorker(
        store=store,
        plan={"threads": 1, "gpus": 0, "batch_size": 2},
        cells=[Cell(task, name, name, adapter=name == "tuned", template=model.template) for name in ("tuned", "base")],
        model=model,
        corpus=corpus,
        judge=None,
        evaluation=EvaluationSettings(heldout_samples=3, split="test", limit=1),
        seed=7,
    )


def values_of(store: Store, cell: str) -> float:
    artifact = store.artifact("cells", cell)
    assert artifact is not None
    (result,), items = artifact.read("results").to_pylist(), artifact.read("items").to_pylist()
    assert (result["split"], result["n"], result["template"], result["shots"]) == ("dev", 3, "chatml", 0)
    assert {item["split"] for item in items} == {"dev"}
    assert result["value"] == pytest.approx(np.mean([item["value"] for item in items]), rel=1e-9)
    return float(result["value"])


def test_a_model_of_a_short_context_fails_on_nothing(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    store = Store(str(tmp_path / "store"))
    lengths = ((50, 1), (1, 50), (2, 90))
    corpus = published(store, "c", [row("long " * asked, "long " * said, asked, lang="sw") for asked, said in lengths])
    worker = cell_worker(store, EvaluatedModel(str(folder), None, "chatml", False), corpus)
    assert worker.process({"cell": 0})["failure"] == ""
    assert 0 < values_of(store, "tuned") < 20


def run_of(store: Store, name: str, corpus: Artifact, cluster: Any, progress: Progress, **evaluation: Any) -> StageRun:
    wished = {
        "evaluation": EvaluationSettings(**evaluation),
        "trust_remote_code": False,
        "seed": 7,
        "model_name": "base",
        "identity": "a model",
        "template": "chatml",
    }
    return StageRun(wished, {"corpus": corpus}, {}, store.attempt("results", name), cluster, progress)


def cells_of(store: Store) -> dict[str, str]:
    """address -> the attempt that published it."""
    addresses = {store.relative(info.path).split("/")[1] for info in store.list_files("cells")}
    found = {address: store.artifact("cells", address) for address in addresses}
    return {address: cell.manifest["attempt"] for address, cell in found.items() if cell is not None}


@pytest.mark.slow
def test_every_language_that_holds_something_out_is_scored_and_nothing_twice(
    tmp_path: Path, tiny_llama: Path, cluster: Cluster, progress: Progress
) -> None:
    """Tasks alone, then held-out samples beside them, then these alone: what is there is not scored again."""
    folder = write_choice_tasks(tmp_path / "tasks", ("en", "zh"))
    store = Store(str(tmp_path / "store"))
    corpus = published(store, "c", many())

    def evaluated(name: str, **evaluation: Any) -> Artifact:
        run = run_of(store, name, corpus, cluster, progress, **evaluation)
        run.leaves["model"] = str(tiny_llama)  # type: ignore[index]
        output: StageOutput = stage.run(run)
        return run.attempt.publish(output.records, settings={}, inputs={}, version=1, summary=output.summary)

    wish = {"tasks": str(folder), "limit": 3}
    tasks = evaluated("tasks", **wish)
    first = cells_of(store)
    assert (len(first), tasks.summary["split"]) == (2, "test")
    both = evaluated("both", heldout_samples=4, **wish)
    second = cells_of(store)
    assert second.items() > first.items()
    assert len(second) == 2 + len(LANGUAGES)
    assert both.summary["split"] == "dev and test"
    alone = evaluated("alone", heldout_samples=4)
    assert cells_of(store) == second

    results = alone.read("results").to_pylist()
    assert [(one["task"], one["split"], one["n"], one["metric"]) for one in results] == [
        (f"heldout_{lang}", "dev", 4, "bits_per_byte") for lang in LANGUAGES
    ]
    whole = both.read("results").to_pylist()
    assert [one for one in whole if one["task"].startswith("heldout_")] == results
    assert {one["split"] for one in whole if one["task"].startswith("choice_")} == {"test"}
    model, tokenizer = load_causal_lm(tiny_llama), tokenizer_of(tiny_llama, "chatml")
    for one in results:
        expected = by_hand(model, tokenizer, heldout_rows(corpus, one["lang"], 4))
        assert one["value"] == pytest.approx(expected, abs=1e-5)
    assert alone.summary["macro"] == {"bits_per_byte": pytest.approx(np.mean([one["value"] for one in results]))}
    assert both.read("items").num_rows == 2 * 3 * 2 + 4 * len(LANGUAGES)

    with pytest.raises(TaskError, match=r"evaluation\.heldout_samples: the corpus holds nothing out"):
        stage.run(run_of(store, "none", published(store, "empty", []), cluster, progress, heldout_samples=4))


def test_what_decides_a_held_out_cells_address(tmp_path: Path, progress: Progress) -> None:
    store = Store(str(tmp_path / "store"))
    plan = {"batch_size": 4, "threads": 1, "gpus": 0}

    def address(samples: int = 4, corpus: str = "c", lang: str = "sw", template: str = "chatml", **more: Any) -> str:
        run = run_of(store, "a", published(store, "c", []), None, progress, heldout_samples=samples, **more)
        run.settings["template"] = template  # type: ignore[index]
        return stage._address(run, plan, heldout_task(lang, corpus, samples), "a model")

    others = [address(5), address(corpus="d"), address(lang="en"), address(template="plain")]
    assert len({address(), *others}) == 5
    # What is said of tasks says nothing of held-out samples.
    assert address(limit=3, split="dev", chat_template=True, shots=2, workers=3) == address()


def experiment_file(folder: Path, model: Path, **sections: Any) -> Path:
    rows = [{"id": f"{i}", "lang": "en", "prompt": "p", "response": "r"} for i in range(9)]
    (folder / "c.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    content = {"storage": "store", "corpus": {"path": "c.jsonl"}, "model": {"path": str(model)}, **sections}
    (folder / "e.yaml").write_text(json.dumps(content))
    return folder / "e.yaml"


def test_only_results_change_with_the_number_of_samples(tmp_path: Path, tiny_llama: Path) -> None:
    file = experiment_file(tmp_path, tiny_llama)
    tasks = f"evaluation.tasks={write_choice_tasks(tmp_path / 'tasks', ('en',))}"

    def steps(*overrides: str) -> dict[str, Step]:
        experiment = load_experiment(file, list(overrides))
        return {step.name: step for step in expand(experiment, Store(experiment.storage))}

    alone, with_tasks = steps("evaluation.heldout_samples=4"), steps("evaluation.heldout_samples=4", tasks)
    assert "results_tuned" in alone
    assert "results_tuned" not in steps()
    assert alone["results_base"].inputs["corpus"] == alone["corpus"]
    assert "corpus" not in steps(tasks)["results_base"].inputs
    for before, after in ((alone, steps("evaluation.heldout_samples=5")), (steps(tasks), with_tasks)):
        assert before.keys() == after.keys()
        changed = {name for name in before if before[name].fingerprint != after[name].fingerprint}
        assert changed == {"results_base", "results_tuned", "report"}
    # The cells of the tasks have their addresses from these.
    assert with_tasks["results_tuned"].execution["identity"] == steps(tasks)["results_tuned"].execution["identity"]


def test_samples_of_nothing_are_refused_and_idle_settings_told(tmp_path: Path, tiny_llama: Path) -> None:
    file = experiment_file(tmp_path, tiny_llama)
    with pytest.raises(ExperimentError, match=r"evaluation\.heldout_samples scores .* corpus\.heldout is 0: raise it"):
        load_experiment(file, ["corpus.heldout=0", "evaluation.heldout_samples=4"])
    idle = EvaluationSettings(heldout_samples=4, limit=3, split="dev", workers=1).without_effect()
    assert idle == ["limit, split: do nothing without tasks"]
    assert EvaluationSettings(heldout_samples=4, models=["tuned"], cpus_per_worker=1).without_effect() == []
    assert EvaluationSettings(limit=3).without_effect()[0].startswith("tasks is not set")
    fields = Experiment.model_fields["evaluation"].default
    assert counted(fields) == counted(EvaluationSettings(cpus_per_worker=1)), "it only says how to execute"


def test_workers_that_find_no_cpus_are_refused_with_the_arithmetic(
    tmp_path: Path, tiny_llama: Path, cluster: Cluster, progress: Progress
) -> None:
    from raysel.errors import UserError

    store = Store(str(tmp_path / "store"))
    corpus = published(store, "c", many(2))
    run = run_of(store, "a", corpus, cluster, progress, heldout_samples=2, workers=2, cpus_per_worker=2)
    run.leaves["model"] = str(tiny_llama)  # type: ignore[index]
    with pytest.raises(UserError, match=r"evaluation\.workers asks for 2 workers x 1\.5 CPU = 3 CPU"):
        stage.run(run)


@pytest.mark.parametrize(
    ("glob", "asked"),
    [
        *((glob, True) for glob in ("*", "heldout_*", "heldout_sw", "held*", "*_sw", "[hx]*")),
        *((glob, False) for glob in ("xcopa_*", "heldout", "choice_sw", "heldin_*")),
    ],
)
def test_globs_that_may_mean_held_out_samples(glob: str, asked: bool) -> None:
    assert is_asked_by(glob) == asked
