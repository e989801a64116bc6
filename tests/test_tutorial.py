"""docs/tutorial.md, followed: its files are written, its cheap commands run, the others are checked as far as that."""

import json
import shlex
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from typer.testing import CliRunner, Result

from raysel.cli import app
from raysel.errors import UserError
from raysel.experiment import load_experiment
from raysel.pipeline import expand
from raysel.store import Store
from raysel.sweep.settings import load_space
from tests.conftest import REPOSITORY
from tests.test_documents import REFUSED, parsed

PAGE = REPOSITORY / "docs" / "tutorial.md"
LANGUAGES = ("de", "en", "sw", "tr", "vi", "zh")
CHEAP = ("plan", "inspect")


def blocks() -> list[tuple[str, str]]:
    """(language, content) of the page's code blocks, in order."""
    tokens = MarkdownIt().parse(PAGE.read_text(encoding="utf-8"))
    return [(token.info, token.content) for token in tokens if token.type == "fence"]


def lines_of(block: str) -> list[str]:
    return block.replace("\\\n", " ").splitlines()


def write(block: str) -> None:
    """A file whose name is the block's first line. What it has already stays, but for the keys that the block has."""
    path = Path(block.split("\n", 1)[0].removeprefix("# ").split(",")[0])
    path.parent.mkdir(exist_ok=True)
    before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(yaml.safe_dump(before | yaml.safe_load(block), allow_unicode=True), encoding="utf-8")


@pytest.fixture
def desk(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a corpus, a model and items of an evaluation, as the page begins with."""
    demo = REPOSITORY / "raysel" / "demo" / "corpus"
    rows = [row for lang in LANGUAGES for row in (demo / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
    (tmp_path / "my_corpus.jsonl").write_text("\n".join(rows), encoding="utf-8")
    shutil.copytree(tiny_llama, tmp_path / "my_model")
    items: dict[str, dict[str, Any]] = {
        "topic": {"text": "A match was won.", "topic": "sports"},
        "xcopa": {"premise": "Rain fell.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect", "label": 0},
    }
    for name, item in items.items():
        (tmp_path / "my_eval" / name).mkdir(parents=True)
        for lang in LANGUAGES:
            lines = [json.dumps(item | {"id": number, "idx": number}) for number in range(8)]
            (tmp_path / "my_eval" / name / f"{lang}.test.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str]) -> Result:
    return CliRunner().invoke(app, words, catch_exceptions=False)


def refuse_what_cannot_run(words: list[str]) -> None:
    """A command that takes long, as far as its arguments and files go."""
    given = parsed(words)
    if "experiment" in given:
        experiment = load_experiment(given["experiment"], given["overrides"] or [])
        expand(experiment, Store(experiment.storage), given.get("until"))
        assert experiment.warnings() == []
    if given.get("space") is not None:
        load_space(Path(given["space"]))


def test_the_page_can_be_followed(desk: Path) -> None:
    ran = []
    page = blocks()
    for (language, block), (_, following) in pairwise([*page, ("", "")]):
        if language == "yaml":
            write(block)
        for line in lines_of(block) if language == "bash" else ():
            words = shlex.split(line, comments=True)
            if words[:1] != ["raysel"] or REFUSED in line:
                continue
            refuse_what_cannot_run(words[1:])
            if words[1] in CHEAP:
                done = run(words[1:])
                assert done.exit_code == 0, done.output
                if words[1] == "plan":
                    # The same steps, whatever became of them.
                    shown = {row.split()[0] for row in following.splitlines() if row.startswith(" ") and row.strip()}
                    assert shown - {"…"} <= {row.split()[0] for row in done.output.splitlines() if row.strip()}
                ran.append(words[1])
    assert ran.count("plan") >= 3
    assert "inspect" in ran


def test_the_mistake_that_the_page_makes_is_refused(desk: Path) -> None:
    page = blocks()
    write(next(block for language, block in page if language == "yaml"))
    refused = [(block, after) for (_, block), (_, after) in pairwise(page) if REFUSED in block]
    command, shown = refused[0]
    with pytest.raises(UserError) as error:
        run(shlex.split(command, comments=True)[1:])
    assert f"raysel: {error.value}" == shown.strip()
