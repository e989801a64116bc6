"""docs/reference.md, and what it says of values, defaults and fingerprints."""

import ast
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, create_model

from raysel.experiment import Experiment, load_experiment
from raysel.pipeline import expand
from raysel.settings import Section, execution
from raysel.settings_reference import explained, reference
from raysel.store import Store
from raysel.sweep.settings import Space
from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "reference.md"


def rows_of(page: str) -> dict[str, list[str]]:
    """The cells of every key's row, by its dotted path."""
    found: dict[str, list[str]] = {}
    for block in re.split(r"^##+ ", page, flags=re.MULTILINE)[1:]:
        heading = block.split("\n", 1)[0]
        path = "" if heading.startswith("The ") else f"{heading}."
        for line in block.splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if cells and cells[0].startswith("`"):
                found.setdefault(path + cells[0].strip("`"), cells)
    return found


ROWS = rows_of(reference())


def test_the_page_is_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "make docs writes docs/reference.md anew"


def keys_of(section: type[Section], path: str = "") -> set[str]:
    """Every key of a section and of those in it, whose section is described once."""
    found = set()
    for name, field in section.model_fields.items():
        found.add(key := f"{path}{field.alias or name}")
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= keys_of(field.annotation, f"{key}.")
    return found


def test_every_key_is_there() -> None:
    described_elsewhere = {key for key in keys_of(Experiment) if key.startswith("selection.less.warmup.lora.")}
    assert keys_of(Experiment) - described_elsewhere <= set(ROWS)
    assert keys_of(Space) <= set(ROWS)
    assert {"model.base.vocabulary", "parameters.int", "objective.metric", "parameters.when"} <= set(ROWS)


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        ("preselect.rho", ["number, above 0 and at most 1, or null", "`0.2`", "yes"]),
        ("corpus.path", ["path, or a name on the Hugging Face hub", "`null`", "content"]),
        ("training.workers", ["whole number, at least 1", "`null`", "no"]),
        ("cluster.num_cpus", ["whole number, at least 1", "`null`", "no"]),
        ("storage", ["path", "`out`", "no"]),
        ("name", ["text", "the file's name", "yes"]),
        ("languages.vectors", ["path", "`null`", "content"]),
        ("model.template.name", ["text", "`auto`", "content"]),
        ("training.zero", ["`0`, `1`, `2` or `3`", "`2`", "yes"]),
        ("parameters.uniform", ["[number, number]", "`null`"]),
    ],
)
def test_what_is_said_of_a_key(key: str, facts: list[str]) -> None:
    assert ROWS[key][1 : 1 + len(facts)] == facts


# Another value of each key that only says how to execute.
OTHERWISE = {
    "cluster.gpu": "h100",
    "storage": "elsewhere",
    "corpus.shard_rows": 7,
    "training.skipped_steps": 3,
    "training.offload": "optimizer",
    "training.micro_batch_tokens": 99,
    "training.activation_checkpointing": True,
    "training.checkpoint_steps": 3,
    "training.checkpoint_minutes": 2.0,
    "training.checkpoints_kept": 5,
    "training.trackers": ["tensorboard"],
    "training.max_failures": 7,
    "training.timeout_minutes": 3.0,
    "separability.cores": 2,
    "evaluation.models": ["tuned", "base"],
    "evaluation.cell_timeout_minutes": 2.0,
    "cluster.address": "auto",
    "cluster.gpus_per_node": 8,
    "cluster.gpu_memory_gb": 80.0,
}


def test_what_does_not_count_changes_no_fingerprint(tmp_path: Path) -> None:
    """Of the experiment that makes every step there is, all at once."""
    path, store = REPOSITORY / "experiments" / "selectors.yaml", Store(str(tmp_path))
    keys = {key for key, cells in ROWS.items() if len(cells) == 5 and cells[3] == "no"}
    assert set(OTHERWISE) <= keys
    assert {key for key in keys - set(OTHERWISE) if not ROWS[key][1].startswith("whole number")} == set()
    changed = [f"{key}={OTHERWISE.get(key, 3)}" for key in sorted(keys)]
    before, after = (load_experiment(path, overrides) for overrides in ([], changed))
    assert before != after
    prints = [{step.name: step.fingerprint for step in expand(one, store)} for one in (before, after)]
    assert prints[0] == prints[1]


class Made(Section):
    """What is made up. In two
    lines.

    size: how large,
    and more of it.
    kind: which
    one.

    no_key: is about all of it.
    """

    size: int = Field(1, ge=1)
    kind: Literal["a", "b"] = "a"
    silent: int = execution(2)


def test_a_key_is_explained_by_its_own_lines() -> None:
    prose, keys = explained(Made)
    assert prose == "What is made up. In two lines. no_key: is about all of it."
    assert keys == {"size": "how large, and more of it.", "kind": "which one."}


def test_a_key_that_no_line_explains_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"made": (Made, Made())}
    monkeypatch.setattr("raysel.settings_reference.Experiment", create_model("Whole", __base__=Section, **fields))
    with pytest.raises(LookupError, match="section made does not say what silent is for"):
        reference()


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "raysel").rglob("settings.py")), ids=lambda path: path.parent.name
)
def test_no_line_explains_a_key_that_is_gone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and [getattr(base, "id", "") for base in node.bases] == ["Section"]:
            said = re.findall(r"^([a-z_]+): ", ast.get_docstring(node) or "", flags=re.MULTILINE)
            fields = [item.target.id for item in node.body if isinstance(item, ast.AnnAssign)]
            assert set(said) - {"int"} <= set(fields), node.name
