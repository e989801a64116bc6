"""The papers' experiment files: what their heads promise is so, and each runs, scaled down, to its report."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft.utils
import pytest
import torch
import transformers
from rich.console import Console

from raysel.corpus.presets import PRESETS
from raysel.disk import DiskError
from raysel.errors import UserError
from raysel.evaluation.suites.expand import suites
from raysel.evaluation.tasks import check
from raysel.experiment import Experiment, load_experiment, read_experiment
from raysel.models.loading import ModelError, find_model, load_tokenizer
from raysel.models.templates import end_of_turn, sample_text, template_source
from raysel.pipeline import expand
from raysel.runner import print_plan, run_experiment
from raysel.store import Artifact, Store
from raysel.sweep.settings import load_space
from raysel.training.engine import AdapterError, add_adapters
from raysel.training.tokenizer_source import TokenError, read_config, refuse_beyond_positions
from tests.conftest import REPOSITORY
from tests.embedding.families import FAMILIES, family
from tests.small_models import byte_bpe_tokenizer, save_tiny_mt5, save_tiny_of_family
from tests.sweep.test_tune_spaces import trials

FOLDER = REPOSITORY / "experiments"
DEMO = REPOSITORY / "raysel" / "demo" / "corpus"
# The files, and the family of each one's model.
FAMILY = {
    "langgps-llama31-8b": "llama",
    "langgps-qwen25-7b": "qwen2",
    "ling-informed-bloom-7b1": "bloom",
    "ling-informed-mgpt": "gpt2",
    "ling-informed-mt5-xl": "mt5",
    "transfer-llama31-8b": "llama",
    "transfer-aya-35b": "cohere",
    "transfer-aya-35b-lora": "cohere",
}
EVERY_FILE = pytest.mark.parametrize("name", FAMILY)
# All that is overridden for size and for what is not there; everything else is as in the file.
HERE = [
    f"corpus.path={DEMO}",
    "evaluation.tasks=demo",
    "evaluation.data=null",
    "evaluation.include=[choice_en, choice_sw]",
]
SMALL = {
    "langgps": [],
    "ling-informed": ["languages.published=false", "languages.k=3", "mixture.total=24"],
    "transfer": [
        "mixture.tasks=[instruction]",
        "mixture.pivot_rows=12",
        "mixture.rows_per_language=3",
        "mixture.unseen=[ar, ko]",  # the demo corpus has no Portuguese
    ],
}
FEW = ["evaluation.limit=2", "training.data.epochs=1", "training.workers=1"]


def small(name: str) -> list[str]:
    return HERE + next(overrides for paper, overrides in SMALL.items() if name.startswith(paper))


def loaded(name: str, *overrides: str) -> Experiment:
    return load_experiment(FOLDER / f"{name}.yaml", overrides)


def test_every_file_of_a_paper_is_looked_at() -> None:
    papers = {
        file.stem for file in FOLDER.glob("*.yaml") if re.search(r"\(arXiv \d", file.read_text().split("name:")[0])
    }
    assert papers == set(FAMILY)


@EVERY_FILE
def test_every_setting_counts_and_the_graph_is_whole(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    experiment = loaded(name, *small(name), f"model.path={tiny_llama}", f"storage={tmp_path}")
    assert experiment.warnings() == []
    steps = {step.name for step in expand(experiment, Store(experiment.storage))}
    assert {"scores", "subset", "model", "results_base", "results_tuned", "report"} <= steps


LANGGPS_X = ["mixture.quota=proportional", "mixture.total=0.05"]
SCRIPTS = "mixture.unseen=[ar,ko,pt,ja,zh]"


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("langgps-llama31-8b", ["preselect.rho=1.0"]),
        ("langgps-qwen25-7b", [*LANGGPS_X, "selection.method=kmc"]),
        ("langgps-llama31-8b", [*LANGGPS_X, "selection.method=less", "corpus.heldout=0.05"]),
        ("ling-informed-bloom-7b1", ["model.path=bigscience/bloom-1b7", "seed=42", "languages.strategy=typo"]),
        ("transfer-llama31-8b", ["mixture.rows_per_language=0"]),
        ("transfer-llama31-8b", ["mixture.tasks=[math]", 'evaluation.include=["mgsm_*"]']),
        (
            "transfer-llama31-8b",
            ["mixture.tasks=[instruction]", 'evaluation.include=["dolly_*"]', "evaluation.judge.path=A_JUDGE"],
        ),
        ("transfer-aya-35b", ["mixture.tasks=[summarization,instruction,math]", "mixture.pivot_rows=5000"]),
        ("transfer-aya-35b-lora", [SCRIPTS]),
    ],
)
def test_the_variants_in_the_heads_are_experiments_too(name: str, overrides: list[str]) -> None:
    assert loaded(name, *overrides).warnings() == []
    heads = "".join(file.read_text() for file in FOLDER.glob("*.yaml"))
    assert [text for text in overrides if text.partition("=")[0] not in heads] == []


@EVERY_FILE
def test_a_plan_says_what_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other: the evaluation's data, the corpus. The model is not needed, and nothing is fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    nowhere = [f"storage={tmp_path}", "corpus.path=./no_corpus", "evaluation.data=./no_data"]
    for overrides, message in (
        ([], r"evaluation\.data .*no_data.*no such folder; put the data there"),
        (["evaluation.data=null"], r"corpus\.path .*no_corpus.*no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            print_plan(loaded(name, *nowhere, *overrides), Console(quiet=True))
    experiment = loaded(name, *nowhere, *small(name))
    console = Console(soft_wrap=True)
    with console.capture() as shown, contextlib.suppress(DiskError):
        print_plan(experiment, console)
    cluster = experiment.cluster
    gpus = cluster.nodes * cluster.gpus_per_node
    assert re.search(rf"model: .*, {gpus} GPUs, of each .* of {cluster.gpu_memory_gb:g} GB", shown.get())


@EVERY_FILE
def test_what_is_evaluated_is_there_and_needs_no_judge(name: str) -> None:
    experiment = loaded(name, "evaluation.data=null")
    assert experiment.evaluation.tasks in suites()
    check(experiment.evaluation)


@EVERY_FILE
def test_the_corpus_that_its_head_describes_is_recognised(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    aya = {"inputs": "a", "targets": "b", "language": "Najdi Arabic", "language_code": "ars"}
    preset, file, row = {
        "langgps": ("aya", "aya-31.jsonl", aya),
        "ling": ("bactrian_x", "bactrian-x/data/af.json", {"instruction": "a", "input": "", "output": "b", "id": "1"}),
        "transfer": (None, "transfer/math.jsonl", {"lang": "en", "task": "math", "prompt": "a", "response": "b"}),
    }[name.partition("-")[0]]
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(json.dumps(row))
    given = read_experiment(FOLDER / f"{name}.yaml")["corpus"]["path"]
    path = tmp_path / Path(given).name
    assert path.exists()
    overrides = [*small(name), f"corpus.path={path}", f"model.path={tiny_llama}", f"storage={tmp_path / 'out'}"]
    corpus = expand(loaded(name, *overrides), Store(str(tmp_path / "out")), "corpus")[-1]
    assert corpus.execution["layout"].preset == preset
    assert preset is None or corpus.execution["layout"].columns == dict(PRESETS[preset].columns)


PROMPT, ANSWER = "Wie alt?", "Zwölf."
TEXTS = {
    "langgps-llama31-8b": (
        "<s><|start_header_id|>user<|end_header_id|>\n\nWie alt?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nZwölf.",
        "<|eot_id|>",
    ),
    "langgps-qwen25-7b": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWie alt?<|im_end|>\n"
        "<|im_start|>assistant\nZwölf.",
        "<|im_end|>",
    ),
    "ling-informed-bloom-7b1": ("### Input:\nWie alt?\n\n### Output:\nZwölf.", "</s>"),
    "ling-informed-mgpt": ("### Input:\nWie alt?\n\n### Output:\nZwölf.", "</s>"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_sample_is_worded_as_published(name: str, tmp_path: Path) -> None:
    byte_bpe_tokenizer().save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path, template_source(loaded(name).model.template.name))
    text, end = TEXTS[name]
    assert sample_text(tokenizer, PROMPT, ANSWER) == text
    assert end_of_turn(tokenizer) == end
    answer = {"role": "assistant", "content": ANSWER}
    told = [{"role": "system", "content": "Kurz."}, {"role": "user", "content": PROMPT}, answer]
    assert "Kurz." in tokenizer.apply_chat_template(told, tokenize=False)


def _bloom(width: int, blocks: int) -> Any:
    config = transformers.BloomConfig(hidden_size=width, n_layer=blocks, n_head=16, vocab_size=250_880)
    return transformers.BloomForCausalLM(config)


def _mgpt() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=2048, n_layer=24, n_head=16, n_positions=2048, vocab_size=100_000)
    )


def _mt5_xl() -> Any:
    return transformers.MT5ForConditionalGeneration(
        transformers.MT5Config(d_model=2048, d_kv=64, d_ff=5120, num_layers=24, num_heads=32, vocab_size=250_112)
    )


@pytest.mark.parametrize(
    ("name", "make", "count"),
    [
        ("ling-informed-bloom-7b1", lambda: _bloom(4096, 30), 31_457_280),
        ("ling-informed-bloom-7b1", lambda: _bloom(2560, 30), 19_660_800),
        ("ling-informed-bloom-7b1", lambda: _bloom(2048, 24), 12_582_912),
        ("ling-informed-mgpt", _mgpt, 12_582_912),
        ("ling-informed-mt5-xl", _mt5_xl, 37_748_736),
    ],
)
def test_as_many_numbers_are_trained_as_in_the_published_logs(name: str, make: Callable[[], Any], count: int) -> None:
    lora = loaded(name).training.lora
    with torch.device("meta"):
        model = make()
        kind = model.config.model_type
        adapted = add_adapters(model, lora, "training")
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == count
    assert lora.targets == peft.utils.constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[kind]


def test_what_an_adapter_could_be_put_on_is_named_in_gpt2_too() -> None:
    lora = loaded("ling-informed-bloom-7b1").training.lora
    with pytest.raises(AdapterError, match=r"query_key_value.*linear modules here are c_attn, c_fc, c_proj, lm_head"):
        add_adapters(family("gpt2"), lora, "training")


def test_the_sweep_over_strategies_fits_the_file(tmp_path: Path) -> None:
    file = FOLDER / "ling-informed-bloom-7b1.yaml"
    command = next(line for line in file.read_text().split("\n#\n") if "raysel sweep" in line)
    overrides = re.findall(r"--set (\S+=\S+)", command.partition("raysel sweep")[2].partition("# The other")[0])
    assert overrides[0] == "evaluation.dev_share=0.1"
    space = load_space(REPOSITORY / "tune_spaces" / "language_strategy.yaml")
    found = trials(space, read_experiment(file, overrides))
    assert len(found) == 21
    assert {warning for experiment in found for warning in experiment.warnings()} == set()


def test_other_encoder_decoders_are_refused_where_the_model_is_first_looked_at(tmp_path: Path) -> None:
    folder = save_tiny_mt5(tmp_path / "model")
    assert find_model(str(folder)) == folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bart"}))
    with pytest.raises(ModelError, match="bart is an encoder-decoder model, of which only t5, mt5, umt5 can be used"):
        find_model(str(folder))
    name = "ling-informed-mt5-xl"
    experiment = loaded(name, *small(name), f"model.path={folder}", f"storage={tmp_path / 'out'}")
    with pytest.raises(ModelError, match="encoder-decoder"):
        print_plan(experiment, Console(quiet=True))


def test_positions_that_end_are_known_by_either_name(tmp_path: Path) -> None:
    for name in ("llama", "gpt2"):
        FAMILIES[name].save_pretrained(tmp_path / name)
        saved = read_config(str(tmp_path / name))
        refuse_beyond_positions(saved, 512, "x")
        with pytest.raises(TokenError, match="x 513 is more than the model's 512 positions"):
            refuse_beyond_positions(saved, 513, "x")


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_it_runs_scaled_down_to_its_report(name: str, ray_address: str, tmp_path: Path) -> None:
    family = FAMILY[name]
    model = (
        save_tiny_mt5(tmp_path / "model")
        if family == "mt5"
        else save_tiny_of_family(tmp_path / "model", FAMILIES[family])
    )
    experiment = loaded(name, *small(name), *FEW, f"model.path={model}", f"storage={tmp_path / 'out'}")
    assert run_experiment(experiment) == 0
    store = Store(experiment.storage)
    steps = {step.name: step for step in expand(experiment, store)}

    def published(step: str) -> Artifact:
        found = store.artifact(steps[step].stage, steps[step].fingerprint)
        assert found is not None
        return found

    for results in ("results_base", "results_tuned"):
        rows = published(results).read("results").to_pylist()
        assert {row["lang"] for row in rows} == {"en", "sw"}
        assert all(row["n"] == 2 for row in rows)
    assert published("model").shards("adapter" if experiment.training.method == "lora" else "model")
    assert (tmp_path / "out" / "runs" / name / "report.html").stat().st_size > 10_000
